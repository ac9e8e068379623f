"""Connections that bring no request, or half of one, do not keep others from the service."""

import asyncio
import socket
import threading
import time
from contextlib import ExitStack, contextmanager

import pytest
from services import keys, running

from gnm.serve.answers import HEADERS

SECONDS = 3.0
HALVES = (b"", b"GET / HTTP/1.1\r\nHost: x\r\n")


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    settings = {"limits": {"connections": 3, "body_seconds": SECONDS}}
    with running(tmp_path_factory.mktemp("memories"), keys(), **settings) as started:
        yield started


@contextmanager
def connections(service, *sent):
    """A connection for each of `sent`, which is what it says first."""
    address = service.url.removeprefix("http://").split(":")
    with ExitStack() as stack:
        opened = [stack.enter_context(socket.create_connection(address, timeout=60)) for _ in sent]
        for each, data in zip(opened, sent, strict=True):
            each.sendall(data)
        yield opened


def answer(connection):
    """The next answer, head and body; "" of a connection that is closed."""
    told = b""
    while not told.endswith(b"}") and (piece := connection.recv(10_000)):
        told += piece
    return told.decode()


def test_connections_without_a_whole_head_are_closed(service):
    with connections(service, *HALVES) as opened:
        assert [answer(each) for each in opened] == ["", ""]
    asked = b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n"
    with connections(service, asked) as [kept]:
        assert answer(kept).startswith("HTTP/1.1 200")
        time.sleep(2 * SECONDS)  # an answer was given; the time for the next head has not begun
        kept.sendall(asked + asked[:9])
        assert answer(kept).startswith("HTTP/1.1 200")
        kept.sendall(asked[9:20])
        assert answer(kept) == ""  # it began with the rest of this one


def test_a_body_that_comes_after_its_answer_is_not_waited_for(service):
    head = b"POST /nothing HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n"
    with connections(service, head) as [slow]:
        assert answer(slow).startswith("HTTP/1.1 404")
        slow.sendall(b"x")
        assert answer(slow) == ""


def test_an_answer_may_take_longer_than_a_head(service):
    def slow():
        time.sleep(2 * SECONDS)

    working = threading.Thread(target=lambda: asyncio.run(service.service.worker.run("anna", slow)))
    working.start()
    with service.client() as client:
        body = {"document": "Bern is in Asia.", "instruction": "Learn it."}
        assert client.post("/v1/memories/m/documents", json=body).status_code == 201
    working.join()


def test_too_many_connections_are_refused_in_the_usual_form_until_the_half_open_are_closed(service):
    with service.client(None) as client, connections(service, *HALVES, HALVES[1]) as opened:
        refused = client.get("/health")
        assert refused.status_code == 503 and refused.headers["Retry-After"] == "1"
        assert refused.json()["error"]["code"] == "overloaded" and refused.headers["Connection"] == "close"
        assert HEADERS.items() <= {name.title(): value for name, value in refused.headers.items()}.items()
        for each in opened:
            assert answer(each) == ""
        assert client.get("/health").status_code == 200
    metrics = service.service.metrics.registry
    assert metrics.get_sample_value("gnm_refused_total", {"reason": "connections"}) == 1
