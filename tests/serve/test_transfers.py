"""How many memory files of a user are imported and exported at the same time, and what becomes of those left."""

import asyncio
import os
import threading
from contextlib import contextmanager

import httpx2
import pytest
from services import USERS, keys, running
from test_bodies import IMPORT, head
from test_connections import connections
from test_limits import wait_until

BERN = {"document": "Bern is in Asia.", "instruction": "Learn it all."}
EXPORT = f"GET /v1/memories/large/file HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {USERS['anna']}\r\n\r\n".encode()
LARGE = 1 << 26  # bytes, more than sockets hold


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    with running(tmp_path_factory.mktemp("memories"), keys(), limits={"files": 2}) as started:
        (started.folder / "anna").mkdir()
        with (started.folder / "anna" / "large.mem").open("wb") as file:
            os.truncate(file.fileno(), LARGE)
        yield started


def imported(client):
    """The answer to an import that is none."""
    return client.put("/v1/memories/m/file", content=b"x")


@pytest.mark.parametrize("goes_on", [[head(IMPORT, 9) + b"x"] * 2, [EXPORT] * 2, [head(IMPORT, None), EXPORT]])
def test_a_user_imports_and_exports_no_more_files_at_once_than_the_limit(anna, ben, service, goes_on):
    assert imported(anna).status_code == 409
    refusals = service.service.metrics.registry.get_sample_value
    before = refusals("gnm_refused_total", {"reason": "files"}) or 0
    with connections(service, *goes_on) as opened:
        wait_until(lambda: service.service._files_of["anna"] == 2)
        for refused in (imported(anna), anna.get("/v1/memories/large/file")):
            assert refused.status_code == 429 and refused.headers["Retry-After"] == "1"
            assert refused.json()["error"]["message"].startswith("2 memory files of this user are being")
        assert imported(ben).status_code == 409  # another's do not count
        assert anna.get("/v1/memories").status_code == 200
        opened[0].close()
        wait_until(lambda: service.service._files_of["anna"] == 1)
        assert imported(anna).status_code == 409
    wait_until(lambda: not service.service._files_of)
    assert refusals("gnm_refused_total", {"reason": "files"}) == before + 2
    assert not list(service.folder.glob("*/.import*"))


@pytest.mark.parametrize(("method", "name", "status"), [("GET", "absent", 404), ("HEAD", "large", 200)])
def test_a_request_without_a_file_takes_no_place_for_longer(anna, service, method, name, status):
    for _ in range(3):
        assert anna.request(method, f"/v1/memories/{name}/file").status_code == status
    wait_until(lambda: not service.service._files_of)


@contextmanager
def busy(worker):
    """The model's thread is taken meanwhile."""
    begun, go = threading.Event(), threading.Event()

    def held():
        begun.set()
        go.wait(60)

    holding = threading.Thread(target=lambda: asyncio.run(worker.run("ben", held)))
    holding.start()
    try:
        assert begun.wait(60)
        yield
    finally:
        go.set()
        holding.join()


def test_an_import_that_is_left_is_not_begun(anna, service):
    assert anna.post("/v1/memories/one/documents", json=BERN).status_code == 201
    content = anna.get("/v1/memories/one/file").content
    with busy(service.service.worker):
        with pytest.raises(httpx2.ReadTimeout):
            anna.put("/v1/memories/left/file", content=content, timeout=1)
        wait_until(lambda: not service.service._files_of, seconds=30)  # sooner than it would be refused for its wait
        assert not list(service.folder.glob("*/.import*"))
    assert "left" not in anna.get("/v1/memories").json()["memories"]
