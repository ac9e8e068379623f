"""Bodies of requests: their size, as it is declared and as it is counted, and the time that they may take."""

import select
import time

import pytest
from services import USERS, keys, running
from test_connections import answer, connections

SECONDS = 4.0
BODY, FILE = 4_000, 6_000
ASKED = {"POST /v1/memories/m/documents": BODY, "POST /v1/chat/completions": BODY, "PUT /v1/memories/m/file": FILE}
JSON, IMPORT = "POST /v1/memories/m/documents", "PUT /v1/memories/m/file"


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    small = {"document_characters": 100, "question_characters": 100, "chat_characters": 100, "questions": 2}
    limits = {"body_bytes": BODY, "import_bytes": FILE, "body_seconds": SECONDS, **small}
    with running(tmp_path_factory.mktemp("memories"), keys(), limits=limits) as started:
        yield started


def head(asked, length):
    """The head of a request of Anna's; length: None for a body in chunks."""
    told = "Transfer-Encoding: chunked" if length is None else f"Content-Length: {length}"
    lines = [f"{asked} HTTP/1.1", "Host: x", f"Authorization: Bearer {USERS['anna']}", "Content-Type: application/json"]
    return "\r\n".join([*lines, told, "", ""]).encode()


def chunk(data):
    return b"%x\r\n%s\r\n" % (len(data), data)


def left(service):
    """What is in Anna's folder."""
    return list((service.folder / "anna").glob("*"))


@pytest.mark.parametrize(("asked", "most"), ASKED.items())
def test_a_body_that_declares_too_many_bytes_is_refused_before_it_comes(service, asked, most):
    with connections(service, head(asked, most + 1)) as [opened]:
        told = answer(opened)  # later it would be refused for its time
    assert told.startswith("HTTP/1.1 413") and f"the body has {most + 1} bytes; at most {most} are taken" in told


@pytest.mark.parametrize(("asked", "most"), ASKED.items())
def test_a_body_that_declares_nothing_is_refused_at_the_first_byte_too_many(service, asked, most):
    with connections(service, head(asked, None) + chunk(b" " * most)) as [opened]:
        assert not select.select([opened], [], [], 0.3)[0]  # not yet too many
        opened.sendall(chunk(b" "))
        told = answer(opened)
    assert told.startswith("HTTP/1.1 413") and f"the body has more than {most} bytes, which is the limit" in told
    assert left(service) == []


@pytest.mark.parametrize(("asked", "most"), ASKED.items())
@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_of_just_the_limit_is_read(service, asked, most, chunked):
    body = b" " * most
    sent = head(asked, None) + chunk(body) + chunk(b"") if chunked else head(asked, most) + body
    with connections(service, sent) as [opened]:
        told = answer(opened)
    assert ("no JSON" if most == BODY else "the file is damaged") in told


def trickled(service, asked, pieces, seconds):
    """The answer to a body that comes in so many pieces, and how many of them it took."""
    with connections(service, head(asked, pieces)) as [opened]:
        for sent in range(1, pieces + 1):
            opened.sendall(b" ")
            if select.select([opened], [], [], seconds)[0]:
                return answer(opened), sent
        return answer(opened), pieces


def test_json_has_to_be_whole_in_time_however_often_a_piece_of_it_comes(service):
    told, sent = trickled(service, JSON, pieces=60, seconds=SECONDS / 20)
    assert told.startswith("HTTP/1.1 408") and "did not arrive within 4 seconds" in told and sent < 60


def test_an_import_may_take_longer_if_each_piece_comes_in_time(service):
    begun = time.monotonic()
    told, sent = trickled(service, IMPORT, pieces=30, seconds=SECONDS / 20)
    assert "the file is damaged" in told and sent == 30 and time.monotonic() > begun + SECONDS


def test_an_import_of_which_no_piece_comes_is_refused_and_leaves_nothing(service):
    with connections(service, head(IMPORT, 9) + b" ") as [opened]:
        told = answer(opened)
    assert told.startswith("HTTP/1.1 408") and "did not arrive within 4 seconds" in told
    assert left(service) == []
