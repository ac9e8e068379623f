"""Limits of numbers and lengths: what exceeds one is refused or cut, what just reaches it is not."""

import asyncio
import socket
import threading
import time

import pytest
from services import keys, running

from gnm.api import load

BERN = {"document": "Bern is in Asia.", "instruction": "Learn it all."}
QUESTION = "Where is Bern?"
CHAT = {"messages": [{"role": "user", "content": QUESTION}]}
LIMITS = {"memories": 2, "question_characters": 20, "answer_tokens": 5, "max_new_tokens": 7, "connections": 3}


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    with running(tmp_path_factory.mktemp("memories"), keys(), limits=LIMITS, undo_steps=1) as started:
        yield started


@pytest.fixture
def path(anna, service):
    """The path of a memory that Anna wrote, her only one."""
    for name in anna.get("/v1/memories").json()["memories"]:
        anna.delete(f"/v1/memories/{name}")
    written(anna, "one")
    return "/v1/memories/one"


def written(client, name):
    assert client.post(f"/v1/memories/{name}/documents", json=BERN).status_code == 201


def refused(answer, status, told):
    assert answer.status_code == status and told in answer.json()["error"]["message"], answer.text


def test_no_user_makes_more_memories_than_the_limit(anna, ben, service, path):
    written(anna, "two")
    refused(anna.post("/v1/memories/three/documents", json=BERN), 409, "there are 2 memories, which is the limit")
    assert anna.get("/v1/memories").json()["memories"] == ["one", "two"]
    written(anna, "two")  # it is there
    written(ben, "three")  # another's do not count
    assert anna.delete("/v1/memories/one").status_code == 204
    written(anna, "three")


def test_an_import_is_one_of_the_memories_that_are_limited(anna, path):
    file = anna.get(f"{path}/file").content
    assert anna.put("/v1/memories/two/file", content=file).status_code == 201
    refused(anna.put("/v1/memories/three/file", content=file), 409, "there are 2 memories, which is the limit")
    assert anna.get("/v1/memories").json()["memories"] == ["one", "two"]


@pytest.mark.parametrize(
    ("rest", "body"),
    [
        ("documents", lambda text: {"document": "Bern is in Asia.", "instruction": text}),
        ("revoke", lambda text: {"instruction": text}),
        ("ask", lambda text: {"questions": ["Who?", text]}),
        ("ask", lambda text: {"questions": [text], "stream": True}),
    ],
)
def test_a_longer_instruction_or_question_than_the_limit_is_refused(anna, path, rest, body):
    before = anna.get(path).json()
    refused(anna.post(f"{path}/{rest}", json=body("x" * 21)), 413, "has 21 characters; at most 20 are taken")
    assert anna.get(path).json() == before
    assert anna.post(f"{path}/{rest}", json=body("x" * 20)).status_code != 413


@pytest.fixture
def memory(service, path):
    """The same memory, loaded here."""
    memory = load(None, backbone="tiny", dtype="float32", device="cpu")
    memory.load_memory(service.folder / "anna" / "one.mem")
    return memory


def test_short_answers_end_at_the_limit(anna, path, memory):
    assert memory.ask(QUESTION, 5) != memory.ask(QUESTION, 6)
    body = {"questions": [QUESTION], "max_new_tokens": 6}
    assert anna.post(f"{path}/ask", json=body).json()["answers"] == [memory.ask(QUESTION, 5)]
    whole, short = (
        anna.post(f"{path}/ask", json={**body, "stream": True, "max_new_tokens": most}).text for most in (6, 4)
    )
    assert anna.post(f"{path}/ask", json={**body, "stream": True, "max_new_tokens": 5}).text == whole != short


@pytest.mark.parametrize("asked", [{}, {"max_tokens": 8}, {"max_completion_tokens": 100}])
def test_answers_of_a_chat_end_at_the_limit(anna, path, memory, asked):
    said = ["".join(memory.generate(QUESTION, max_new_tokens=most)) for most in (7, 8)]
    answer = anna.post("/v1/chat/completions", json={**CHAT, "model": "one", **asked}).json()
    assert answer["choices"][0]["message"]["content"] == said[0] != said[1]
    assert answer["usage"]["completion_tokens"] == 7 and answer["choices"][0]["finish_reason"] == "length"


def test_as_many_changes_can_be_undone_as_the_settings_say(anna, path):
    written(anna, "one")
    undone = anna.post(f"{path}/undo").json()
    assert not undone["can_undo"] and len(undone["documents"]) == 1
    refused(anna.post(f"{path}/undo"), 409, "nothing to undo")


def test_requests_that_are_answered_after_their_callers_left_count_as_connections(service):
    begun, go = threading.Event(), threading.Event()

    def held():
        begun.set()
        go.wait(60)

    holding = threading.Thread(target=lambda: asyncio.run(service.service.worker.run("anna", held)))
    holding.start()
    try:
        assert begun.wait(60)
        address = service.url.removeprefix("http://").split(":")
        head = b"GET /v1/memories/one HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer key-of-anna\r\n\r\n"
        for number in range(1, 4):
            with socket.create_connection(address, timeout=60) as leaving:
                leaving.sendall(head)
                wait_until(lambda number=number: len(service.service.worker._waiting) == number)
        with service.client(None) as client:
            assert client.get("/health").status_code == 503
    finally:
        go.set()
        holding.join()
    wait_until(lambda: not service.service.worker._of_user.total())
    with service.client(None) as client:
        assert client.get("/health").status_code == 200


def wait_until(true, seconds=60):
    """Wait until `true` says so."""
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)
