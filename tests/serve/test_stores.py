"""Memories with a long-term store behind the service: what a question finds there, it is answered from."""

import functools
import json

import openai
import pytest
from services import USERS, keys, running

from gnm import api, cli
from gnm.api import load
from gnm.serve.memory import ServedMemory, ask_each
from gnm.serve.program import main

INSTRUCTION = "Learn it."
TEXTS = ("Oslo is a big town\nThe horse is red\n", "Seven green birds fly\nIce: two\n", "Zed lives in Peru\n")
QUESTIONS = ["Oslo is a", "Ice:", "Where does Zed live?", "Which horse?"]
PATH = "/v1/memories/long"


def small(folder, **settings):
    """A model with room for a part of TEXTS."""
    given = {"capacity": 80, "eviction": "oldest", "store": {"k": 2}, **settings}
    return load(folder, dtype="float32", device="cpu", **given)


@pytest.fixture(scope="module")
def service(open_gates, tmp_path_factory):
    with running(tmp_path_factory.mktemp("memories"), keys(), small(open_gates)) as started:
        yield started


@pytest.fixture
def memory(open_gates, service, anna):
    """The memory that Anna wrote over HTTP, loaded here."""
    for text in TEXTS if anna.get(PATH).status_code == 404 else ():
        body = {"document": text, "instruction": INSTRUCTION}
        assert anna.post(f"{PATH}/documents", json=body).status_code == 201
    memory = small(open_gates)
    memory.load_memory(service.folder / "anna" / "long.mem")
    return memory


def without_store(open_gates):
    lossy = small(open_gates, store=None)
    for text in TEXTS:
        lossy.write(text, INSTRUCTION)
    return lossy


def test_questions_are_answered_from_pool_and_store(memory, open_gates, anna):
    given = {"questions": QUESTIONS, "max_new_tokens": 8}
    answers = anna.post(f"{PATH}/ask", json=given).json()["answers"]
    assert answers == memory.ask_all(QUESTIONS, 8) != without_store(open_gates).ask_all(QUESTIONS, 8)


def test_streams_and_chats_read_the_store(memory, open_gates, service, anna):
    [question] = QUESTIONS[:1]
    body = {"questions": [question], "max_new_tokens": 8, "stream": True}
    told = anna.post(f"{PATH}/ask", json=body).text
    pieces = [line.removeprefix("data: ") for line in told.splitlines() if line][:-1]
    said = "".join(part["text"] for part in map(json.loads, pieces)).strip()
    assert said == memory.ask(question, 8) != without_store(open_gates).ask(question, 8)
    request = [{"role": "user", "content": question}]
    with openai.OpenAI(base_url=f"{service.url}/v1", api_key=USERS["anna"], max_retries=0) as client:
        answer = client.chat.completions.create(model="long", messages=request, max_tokens=8)
    lossy = "".join(without_store(open_gates).generate(question, max_new_tokens=8))
    assert answer.choices[0].message.content == "".join(memory.generate(question, max_new_tokens=8)) != lossy


def test_memories_of_one_batch_keep_their_own_stores(memory):
    served = ServedMemory.of(memory, undo_steps=1)
    other = served.another()
    served._memory = memory._memory
    other.write(TEXTS[1], INSTRUCTION)
    asked = [(other, QUESTIONS[:3]), (served, QUESTIONS), (served.another(), QUESTIONS[:1])]
    assert ask_each(asked, 6) == [each.ask_all(questions, 6) for each, questions in asked]


def test_slots_in_the_store_are_told_and_forgotten(memory, anna):
    shown = anna.get(PATH).json()
    assert shown["stored"] > 0 and shown["slots"] <= shown["capacity"] == 80
    assert shown["slots"] + shown["stored"] == sum(each["slots"] for each in shown["documents"])
    forgotten = anna.delete(f"{PATH}/documents/0").json()
    assert forgotten["dropped"] == shown["documents"][0]["slots"] > 0
    assert forgotten["slots"] + forgotten["stored"] == shown["slots"] + shown["stored"] - forgotten["dropped"]
    assert anna.post(f"{PATH}/undo").json()["documents"] == shown["documents"]


def test_a_file_of_the_shell_is_served(open_gates, service, anna, tmp_path, monkeypatch):
    monkeypatch.setattr(api, "load", functools.partial(load, dtype="float32", device="cpu", eviction="oldest"))
    path = tmp_path / "shell.mem"
    model = ["--adapter", str(open_gates), "--capacity", "80", "--store", "2"]
    cli.main(["write", str(path), *TEXTS, "--instruction", INSTRUCTION, *model])
    taken = anna.put("/v1/memories/shell/file", content=path.read_bytes())
    assert taken.status_code == 201 and taken.json()["stored"] > 0
    answers = anna.post("/v1/memories/shell/ask", json={"questions": QUESTIONS, "max_new_tokens": 6}).json()["answers"]
    again = small(open_gates)
    again.load_memory(path)
    assert answers == again.ask_all(QUESTIONS, 6)


def test_a_service_without_a_store_says_what_it_needs(open_gates, memory, service, tmp_path):
    (tmp_path / "anna").mkdir()
    file = (service.folder / "anna" / "long.mem").read_bytes()
    (tmp_path / "anna" / "long.mem").write_bytes(file)
    with running(tmp_path, keys(), small(open_gates, store=None)) as plain, plain.client() as anna:
        shown, taken = anna.get(PATH), anna.put("/v1/memories/other/file", content=file)
    for answer, said in ((shown, "the file of memory 'long'"), (taken, "the file")):
        told = answer.json()["error"]["message"]
        assert answer.status_code == 409 and "--capacity SLOTS --store SEGMENTS" in told
        assert told.startswith(f"{said} has a long-term store") and str(tmp_path) not in told


def test_a_store_needs_a_pool_with_a_limit(tmp_path):
    with pytest.raises(SystemExit, match="give the pool's size too: --capacity SLOTS"):
        main(["--memories", str(tmp_path), "--port", "0", "--store", "2"])
