"""Who changes a memory's file holds its lock meanwhile, and looks at it only then; who waits for it waits for a time.

A lock is held here as another process holds it: by a file of its own that was opened.
"""

import fcntl
import time
from contextlib import contextmanager

import pytest
from services import keys, running

from gnm.api import load
from gnm.serve import store as module
from gnm.serve.errors import Refused
from gnm.serve.memory import ServedMemory
from gnm.serve.metrics import Metrics
from gnm.serve.settings import ServeSettings
from gnm.serve.store import Busy, Store

BERN, OSLO = ("Bern is in Asia.", "Learn it all."), ("Oslo is in Peru.", "Learn the places.")


@pytest.fixture(scope="module")
def model():
    return load(None, backbone="tiny", dtype="float32", device="cpu")


@pytest.fixture
def store(model, tmp_path):
    return Store(tmp_path, ServedMemory.of(model, undo_steps=2), ServeSettings(), Metrics())


@contextmanager
def held(path):
    """The lock of the memory file `path`, as another process holds it."""
    path.parent.mkdir(exist_ok=True)
    with path.with_name(f".{path.name}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@pytest.fixture
def just_before(monkeypatch):
    """Has a function run just before the store gets a lock, as what another process does then."""

    def arrange(function):
        locked = module.locked

        @contextmanager
        def late(path, timeout):
            monkeypatch.setattr(module, "locked", locked)
            function()
            with locked(path, timeout):
                yield

        monkeypatch.setattr(module, "locked", late)

    return arrange


def elsewhere(model, path, *text):
    """Write to the memory file `path` as `gnm write` does."""
    other = ServedMemory.of(model, undo_steps=0)
    if path.exists():
        other.load_memory(path)
    other.write(*text)
    other.save_memory(path)


def instructions(memory):
    return [document.instruction for document in memory.documents]


@pytest.mark.parametrize("make", [False, True])
def test_a_change_is_made_on_what_the_file_holds_under_the_lock(store, model, just_before, make):
    path = store.path("anna", "m")
    store.change("anna", "m", lambda memory: memory.write(*BERN), make=True)
    just_before(lambda: elsewhere(model, path, "Rome is in Chile.", "From elsewhere."))
    store.change("anna", "m", lambda memory: memory.write(*OSLO), make=make)
    assert instructions(store.open("anna", "m")) == ["Learn it all.", "From elsewhere.", "Learn the places."]


def test_a_memory_that_is_begun_elsewhere_meanwhile_is_gone_on_with(store, model, just_before):
    path = store.path("anna", "m")
    just_before(lambda: elsewhere(model, path, *BERN))
    store.change("anna", "m", lambda memory: memory.write(*OSLO), make=True)
    assert instructions(store.open("anna", "m")) == ["Learn it all.", "Learn the places."]


def test_a_memory_that_is_deleted_meanwhile_is_not_begun_anew(store, just_before):
    path = store.path("anna", "m")
    store.change("anna", "m", lambda memory: memory.write(*BERN), make=True)
    just_before(path.unlink)
    with pytest.raises(Refused, match="no memory 'm' any more"):
        store.change("anna", "m", lambda memory: memory.forget(0))
    assert store.names("anna") == []


def test_an_import_does_not_write_over_a_memory_that_was_begun_meanwhile(store, model, just_before, tmp_path):
    path, file = store.path("anna", "m"), tmp_path / "given.mem"
    elsewhere(model, file, *BERN)
    just_before(lambda: elsewhere(model, path, *OSLO))
    with pytest.raises(Refused, match="there is a memory 'm'"):
        store.take_in("anna", "m", file)
    assert instructions(store.open("anna", "m")) == ["Learn the places."]


def test_nothing_is_changed_while_another_process_holds_the_lock(store, model, tmp_path):
    path, file = store.path("anna", "m"), tmp_path / "given.mem"
    elsewhere(model, file, *BERN)
    store.change("anna", "m", lambda memory: memory.write(*BERN), make=True)
    before = path.read_bytes()
    with held(path), held(store.path("anna", "new")):
        for change in (
            lambda: store.delete("anna", "m"),
            lambda: store.change("anna", "m", lambda memory: memory.write(*OSLO)),
            lambda: store.change("anna", "new", lambda memory: memory.write(*OSLO), make=True),
            lambda: store.take_in("anna", "new", file),
        ):
            with pytest.raises(Busy):
                change()
        assert path.read_bytes() == before and store.names("anna") == ["m"]
    store.delete("anna", "m")
    assert store.names("anna") == []


def test_a_request_waits_for_a_lock_for_a_time_and_is_refused_then(tmp_path, model):
    with running(tmp_path, keys(), model, limits={"wait_seconds": 2}) as started, started.client() as anna:
        body = dict(zip(("document", "instruction"), BERN, strict=True))
        assert anna.post("/v1/memories/m/documents", json=body).status_code == 201
        for method, rest, given in [("DELETE", "", None), ("POST", "/documents", body)]:
            with held(tmp_path / "anna" / "m.mem"):
                begun = time.monotonic()
                answer = anna.request(method, f"/v1/memories/m{rest}", json=given)
            assert time.monotonic() > begun + 1.9
            assert answer.status_code == 409 and answer.headers["Retry-After"] == "1"
            assert "another process has this memory open" in answer.json()["error"]["message"]
