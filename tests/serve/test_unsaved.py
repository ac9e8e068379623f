"""What cannot be saved is told as such, and no answer says where files lie."""

import errno
import resource
from contextlib import contextmanager

import pytest
from test_keeping import BERN, written

from gnm.memory import files


@contextmanager
def small_files(most):
    """No file of this process grows beyond `most` bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def refused(answer, status, service):
    assert answer.status_code == status
    message = answer.json()["error"]["message"]
    assert str(service.folder) not in message and "/" not in message
    return message


def test_merging_an_equal_memory_names_the_memory(anna, service):
    written(anna, "one")
    assert anna.put("/v1/memories/two/file", content=anna.get("/v1/memories/one/file").content).status_code == 201
    told = refused(anna.post("/v1/memories/one/merge", json={"other": "two"}), 409, service)
    assert told.startswith("the file of memory 'two' holds this memory itself")


@pytest.mark.parametrize("number", [errno.EFBIG, errno.ENOSPC, errno.EACCES])
def test_a_save_that_fails_is_the_service_s_own_fault(anna, service, monkeypatch, number):
    name = f"saved{number}"
    written(anna, name)
    content = anna.get(f"/v1/memories/{name}/file").content

    @contextmanager
    def full(target, private=False):
        raise OSError(number, "no", str(target))
        yield

    monkeypatch.setattr(files, "atomic_path", full)
    for answer in (
        anna.post(f"/v1/memories/{name}/documents", json=BERN),
        anna.post("/v1/memories/new/documents", json=BERN),
        anna.delete(f"/v1/memories/{name}/documents/0"),
        anna.put("/v1/memories/taken/file", content=content),
    ):
        assert "could not save" in refused(answer, 507, service)
        assert answer.json()["error"]["code"] == "insufficient_storage"
    monkeypatch.undo()
    assert len(anna.get(f"/v1/memories/{name}").json()["documents"]) == 1
    assert not {"new", "taken"} & set(anna.get("/v1/memories").json()["memories"])


def test_an_import_that_the_disk_does_not_take_is_told_so(anna, service):
    with small_files(3_000_000):
        answer = anna.put("/v1/memories/large/file", content=bytes(4_000_000))
    assert "could not save" in refused(answer, 507, service)
    assert not list((service.folder / "anna").glob(".import*"))
