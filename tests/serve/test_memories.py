"""The service's own endpoints, over HTTP."""

import asyncio
import json
import logging
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx2
import pytest
import torch
from services import keys, running

from gnm.api import load
from gnm.conversation import Conversation
from gnm.learners import LearnerSettings, build_learner
from gnm.serve.memory import ServedMemory
from gnm.serve.store import Store
from gnm.weights.backbones import load_backbone

BERN = {"document": "Bern is in Asia.", "instruction": "Learn it all."}
OSLO = {"document": "Oslo is in Peru.", "instruction": "Learn the places."}


@pytest.fixture
def name(request):
    """A memory of the test's own."""
    return request.node.name.replace("test_", "")[:60].rstrip("_")


def written(client, name, *documents):
    for body in documents:
        answer = client.post(f"/v1/memories/{name}/documents", json=body)
        assert answer.status_code == 201, answer.text
    return answer.json()


def instructions(client, name):
    return [document["instruction"] for document in client.get(f"/v1/memories/{name}").json()["documents"]]


def test_writing_asking_forgetting_and_undoing(anna, service, name):
    path = f"/v1/memories/{name}"
    first, second = written(anna, name, BERN), written(anna, name, OSLO)
    assert (first["number"], second["number"]) == (0, 1) and second["memory"]["slots"] > first["memory"]["slots"]
    questions = ["Where is Bern?", "Oslo is in"]
    answers = anna.post(f"{path}/ask", json={"questions": questions, "max_new_tokens": 5}).json()["answers"]
    memory = load(None, backbone="tiny", dtype="float32", device="cpu")
    memory.load_memory(service.folder / "anna" / f"{name}.mem")
    assert answers == memory.ask_all(questions, 5)
    forgotten = anna.delete(f"{path}/documents/0").json()
    assert forgotten["documents"][0]["instruction"] == "Learn the places." and forgotten["stored"] is None
    assert forgotten["dropped"] == second["memory"]["slots"] - forgotten["slots"] > 0
    assert instructions(anna, name) == ["Learn the places."]
    assert anna.post(f"{path}/undo").json()["can_undo"]
    assert instructions(anna, name) == ["Learn it all.", "Learn the places."]


def test_a_streamed_answer_is_the_whole_one(anna, name):
    written(anna, name, BERN)
    body = {"questions": ["Where is Bern?"], "max_new_tokens": 8}
    [whole] = anna.post(f"/v1/memories/{name}/ask", json=body).json()["answers"]
    with anna.stream("POST", f"/v1/memories/{name}/ask", json={**body, "stream": True}) as answer:
        events = [line.removeprefix("data: ") for line in answer.iter_lines() if line]
    assert events[-1] == "[DONE]" and "".join(json.loads(each)["text"] for each in events[:-1]).strip() == whole


def test_a_preview_changes_nothing(anna, name):
    preview = anna.post(f"/v1/memories/{name}/documents", json={**BERN, "store": False})
    assert preview.status_code == 200 and preview.json()["slots"] > 0
    assert anna.get(f"/v1/memories/{name}").status_code == 404
    written(anna, name, OSLO)
    before = anna.get(f"/v1/memories/{name}").json()
    anna.post(f"/v1/memories/{name}/documents", json={**BERN, "store": False})
    assert anna.get(f"/v1/memories/{name}").json() == before


def test_merging_exporting_importing_and_deleting(anna, name):
    written(anna, "one", BERN), written(anna, "two", OSLO)
    merged = anna.post("/v1/memories/one/merge", json={"other": "two"}).json()
    assert [document["instruction"] for document in merged["documents"]] == ["Learn it all.", "Learn the places."]
    file = anna.get("/v1/memories/one/file").content
    taken = anna.put("/v1/memories/three/file", content=file)
    assert taken.status_code == 201 and taken.json()["documents"] == merged["documents"]
    assert anna.put("/v1/memories/three/file", content=file).status_code == 409
    damaged = anna.put("/v1/memories/four/file", content=file[:-7])
    assert damaged.status_code == 409 and "the file is damaged" in damaged.json()["error"]["message"]
    assert anna.delete("/v1/memories/three").status_code == 204
    names = anna.get("/v1/memories").json()["memories"]
    assert {"one", "two"} <= set(names) and not {"three", "four"} & set(names)


def test_taking_back_in_words_needs_gates_and_says_so(anna, name):
    written(anna, name, BERN)
    answer = anna.post(f"/v1/memories/{name}/revoke", json={"instruction": "Forget Bern."})
    assert answer.status_code == 409 and "keep gates" in answer.json()["error"]["message"]
    assert instructions(anna, name) == ["Learn it all."]


def test_taking_back_in_words_tells_how_many_slots_that_were(anna, tmp_path):
    settings = LearnerSettings(method="gnm", write={"gates": {"threshold": 0.0, "revise": True}})
    backbone = load_backbone("tiny", dtype="float32")
    learner = build_learner(settings, backbone, training=True)
    with torch.no_grad():
        gating = learner.lm.gating
        gating.about_gate.weight.normal_(std=4.0, generator=torch.Generator().manual_seed(0))
        gating.about_gate.bias.zero_()
        gating.keep_gate.bias.fill_(120.0)  # all is kept until words take it back
    with (
        running(tmp_path, keys(), Conversation(learner.eval(), backbone, {}, "revising")) as started,
        started.client() as client,
    ):
        written(client, "m", {**BERN, "document": "Oslo is big\nA horse is red\nBirds are blue\nMilk is white"})
        before = client.get("/v1/memories/m").json()
        after = client.post("/v1/memories/m/revoke", json={"instruction": "Forget the horses."}).json()
        assert after["dropped"] == before["slots"] - after["slots"] > 0
        assert client.post("/v1/memories/m/undo").json()["documents"] == before["documents"]


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "told"),
    [
        ("GET", "absent", None, 404, "no memory 'absent'"),
        ("POST", "absent/undo", None, 404, "no memory"),
        ("DELETE", "here/documents/9", None, 404, "no document 9"),
        ("DELETE", "here/documents/" + "9" * 5_000, None, 404, "no document 9"),
        ("DELETE", "here/documents/0x0", None, 404, "no document 0x0"),
        ("DELETE", "here/documents/\u0660", None, 404, "no document"),  # a digit, but not of ours
        ("POST", "here/documents", {**BERN, "document": " "}, 400, "document is empty"),
        ("POST", "here/documents", {"document": "x"}, 400, "missing key 'instruction'"),
        ("POST", "here/documents", {**BERN, "instructions": "x"}, 400, "unknown key 'instructions'"),
        ("POST", "here/documents", {**BERN, "document": "x" * 300_000}, 413, "300000 characters"),
        ("POST", "here/documents", {**BERN, "document": "x " * 20_000}, 409, 'split the document'),
        ("POST", "here/documents", {**BERN, "document": "\ud800"}, 400, "half a character"),
        ("POST", "here/ask", {"questions": []}, 400, "questions"),
        ("POST", "here/ask", {"questions": [" "]}, 400, "empty"),
        ("POST", "here/ask", {"questions": ["a"] * 33}, 413, "33 questions"),
        ("POST", "here/merge", {"other": "../ben/secret"}, 400, "name"),
        ("POST", "here/merge", {"other": "here"}, 400, "itself"),
        ("POST", "no-memory/documents", BERN, 400, "no-memory"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told(anna, method, path, body, status, told):
    written(anna, "here", BERN)
    content = None if body is None else json.dumps(body)  # halves of characters, too
    answer = anna.request(method, f"/v1/memories/{path}", content=content, headers={"Content-Type": "application/json"})
    assert answer.status_code == status and told in answer.json()["error"]["message"], answer.text


def test_another_process_s_change_is_seen_and_its_lock_heeded(anna, service, name):
    path = service.folder / "anna" / f"{name}.mem"
    written(anna, name, BERN)
    other = load(None, backbone="tiny", dtype="float32", device="cpu")
    other.load_memory(path)
    other.write("Rome is in Chile.", "From elsewhere.")
    other.save_memory(path)
    assert instructions(anna, name) == ["Learn it all.", "From elsewhere."]
    code = "import sys; from filelock import FileLock\n"
    code += f"with FileLock({str(path.with_name(f'.{path.name}.lock'))!r}):\n    print('held', flush=True)"
    code += "; sys.stdin.read()"
    holder = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert holder.stdout.readline() == b"held\n"
    threading.Timer(0.3, holder.stdin.close).start()
    written(anna, name, OSLO)  # waits
    assert holder.wait(10) == 0
    assert instructions(anna, name) == ["Learn it all.", "From elsewhere.", "Learn the places."]


def test_a_change_that_cannot_be_saved_is_not_made(anna, service, name, monkeypatch):
    written(anna, name, BERN)

    def full(self, path):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(ServedMemory, "save_memory", full)
    assert anna.post(f"/v1/memories/{name}/documents", json=OSLO).status_code == 507
    assert instructions(anna, name) == ["Learn it all."]
    assert anna.post(f"/v1/memories/{name}/undo").status_code == 507
    monkeypatch.undo()
    assert instructions(anna, name) == ["Learn it all."]
    assert anna.post(f"/v1/memories/{name}/undo").json()["documents"] == []  # what could be undone still can


def test_a_change_that_an_error_ends_is_not_made(anna, name, monkeypatch):
    written(anna, name, BERN, OSLO)
    monkeypatch.setattr(ServedMemory, "settle", lambda self: 1 / 0)
    for method, rest in (("DELETE", "/documents/0"), ("DELETE", "/documents/1"), ("POST", "/undo")):
        assert anna.request(method, f"/v1/memories/{name}{rest}").status_code == 500
        assert instructions(anna, name) == ["Learn it all.", "Learn the places."]
    monkeypatch.undo()
    assert [anna.post(f"/v1/memories/{name}/undo").json()["can_undo"] for _ in range(2)] == [True, False]


def test_files_are_private_and_no_word_of_a_document_is_logged(anna, service, name, caplog):
    caplog.set_level(logging.DEBUG)
    secret = {"document": "Zanzibar follows Elvish.", "instruction": "Zanzibar alone."}
    written(anna, name, secret)
    anna.post(f"/v1/memories/{name}/ask", json={"questions": ["Zanzibar?"]})
    anna.post(f"/v1/memories/{name}/documents", content='{"document": "Zanzibar')
    folder = service.folder / "anna"
    assert (folder / f"{name}.mem").stat().st_mode & 0o777 == 0o600 and folder.stat().st_mode & 0o777 == 0o700
    own = [record.getMessage() for record in caplog.records if record.name.startswith(("gnm", "uvicorn"))]
    assert any("/v1/memories/{name}/documents 201" in line for line in own)
    assert not any("Zanzibar" in line or name in line or "key-of" in line for line in own)


def test_an_unexpected_error_is_told_without_its_text(anna, service, name, monkeypatch, caplog):
    def broken(self, user, name):
        raise KeyError("Zanzibar")

    monkeypatch.setattr(Store, "open", broken)
    answer = anna.get(f"/v1/memories/{name}")
    assert answer.status_code == 500 and "Zanzibar" not in answer.text + caplog.text
    assert "unexpected KeyError at" in caplog.text and Path(__file__).name in caplog.text


def test_health_metrics_and_page_need_no_key(service, anna, name):
    written(anna, name, BERN)
    with service.client(None) as nobody:
        assert nobody.get("/health").json()["status"] == "ok"
        metrics = nobody.get("/metrics").text
        page = nobody.get("/")
    assert 'gnm_requests_total{method="POST",route="/v1/memories/{name}/documents",status="201"}' in metrics
    assert "gnm_batch_questions_count" in metrics and name not in metrics and "anna" not in metrics
    assert "default-src 'self'" in page.headers["content-security-policy"]


CHANGES = [
    ("POST", "/documents", BERN),
    ("DELETE", "/documents/0", None),
    ("POST", "/undo", None),
    ("DELETE", "", None),
]


@pytest.mark.parametrize(("method", "rest", "body"), CHANGES)
def test_a_request_that_is_left_is_not_begun(anna, service, monkeypatch, method, rest, body):
    path, worker = "/v1/memories/left", service.service.worker
    assert anna.post(f"{path}/documents", json=BERN).status_code == 201
    before = anna.get(path).json()
    begun, go, jobs, admit = threading.Event(), threading.Event(), [], worker._admit

    def held():
        begun.set()
        go.wait(30)

    holding = threading.Thread(target=lambda: asyncio.run(worker.run("anna", held)))
    holding.start()
    begun.wait(10)
    monkeypatch.setattr(worker, "_admit", lambda job: (jobs.append(job), admit(job)))
    with pytest.raises(httpx2.ReadTimeout):
        anna.request(method, f"{path}{rest}", json=body, timeout=1)
    for _ in range(1_000):
        if jobs and jobs[0].result.cancelled():
            break
        time.sleep(0.01)
    go.set()
    holding.join()
    assert anna.get(path).json() == before
