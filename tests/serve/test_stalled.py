"""Callers that do not read their answers are cut off; those that read slowly are not."""

import socket
import time
from contextlib import ExitStack

import pytest
from services import USERS, keys, running

SECONDS = 2.0
PAGE = b"GET /page.js HTTP/1.1\r\nHost: x\r\n\r\n"
MEMORY = {"document": "Bern is in Asia. " * 60, "instruction": "Learn it all."}


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    """A service whose kernel holds a few bytes of each answer."""
    create = socket.create_server

    def small(*given):
        made = create(*given)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        return made

    settings = {"limits": {"connections": 4, "body_seconds": SECONDS, "unread_seconds": SECONDS}}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket, "create_server", small)
        with running(tmp_path_factory.mktemp("memories"), keys(), **settings) as started:
            yield started


@pytest.fixture
def connect(service):
    """Makes a connection that has room for a few bytes of answers."""
    address = service.url.removeprefix("http://").split(":")
    with ExitStack() as stack:

        def connected():
            made = stack.enter_context(socket.socket())
            made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            made.settimeout(60)
            made.connect((address[0], int(address[1])))
            return made

        yield connected


def closed(connection, seconds=60):
    """Whether the other side ends the connection; nothing is read of it meanwhile."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) or _state(connection) != 1:
            return True
        time.sleep(0.05)
    return False


def _state(connection):
    """The state of a TCP connection; 1 is an open one."""
    return connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0]


def test_connections_that_ask_and_never_read_are_cut_off(service, connect):
    opened = [connect() for _ in range(4)]
    for each in opened:
        each.sendall(PAGE * 1_000)
    with service.client(None) as client:
        assert client.get("/health").status_code == 503  # there is no room
        assert all(closed(each) for each in opened)
        assert client.get("/health").status_code == 200


def test_a_slow_reader_gets_all(service, connect):
    with service.client() as anna:
        assert anna.post("/v1/memories/m/documents", json=MEMORY).status_code == 201
    size = (service.folder / "anna" / "m.mem").stat().st_size
    slow, got, begun = connect(), 0, time.monotonic()
    asked = f"GET /v1/memories/m/file HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {USERS['anna']}\r\n"
    slow.sendall(f"{asked}Connection: close\r\n\r\n".encode())
    while piece := slow.recv(max(size // 40, 1)):
        got += len(piece)
        time.sleep(SECONDS / 20)
    assert got > size and time.monotonic() - begun > 2 * SECONDS
