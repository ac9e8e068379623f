"""What is kept: memories in the cache with their history, names of files, what a kill leaves of an import."""

import fcntl
import time
from dataclasses import replace

import pytest
from services import keys, running
from test_stores import TEXTS

from gnm.api import load
from gnm.serve.memory import ServedMemory, _beside
from gnm.serve.metrics import Metrics
from gnm.serve.store import Store

BERN = {"document": "Bern is in Asia.", "instruction": "Learn it all."}


@pytest.fixture
def memory():
    return ServedMemory.of(load(None, backbone="tiny", dtype="float32", device="cpu"), undo_steps=9)


def test_slots_of_the_history_count_once_and_beside_those_of_the_memory(memory):
    empty = memory.state.slots.shape[2]
    assert memory.size == 0
    memory.write(**BERN)
    one = memory.slots
    assert memory.size == one + empty  # before it was the empty memory
    memory.write(**BERN)
    assert memory.slots == 2 * one and memory.size == 3 * one + empty  # the empty one is a part of that before
    memory.forget(1)
    assert memory.size == memory.slots + 2 * one + empty
    memory.clear_history()
    assert memory.size == memory.slots == one


def test_entries_that_the_history_alone_holds_count(open_gates):
    small = {"capacity": 80, "eviction": "oldest", "store": {"k": 2}}
    memory = ServedMemory.of(load(open_gates, dtype="float32", device="cpu", **small), undo_steps=9)
    for text in TEXTS:
        memory.write(text, "Learn it.")
    stored = memory.stored
    assert _entries_beside(memory) == 0
    memory.forget(0)
    assert _entries_beside(memory) == stored - memory.stored > 0


def _entries_beside(memory):
    """How many slots of stores count to the history of `memory`."""
    before = [state for state, _ in memory._before._kept]
    pools = [replace(state, store=None) for state in before]
    return _beside(memory.state, before) - _beside(memory.state, pools)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder of memories in which a kill left something, and somebody a file with a name that no memory has."""
    own = tmp_path_factory.mktemp("memories") / "anna"
    own.mkdir()
    for name in (".import.abcd1234.part", ".import.held1234.part", "my notes.mem", "no-memory.mem", ".hidden.mem"):
        (own / name).write_bytes(b"x")
    with (own / ".import.held1234.part").open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        yield own.parent


@pytest.fixture(scope="module")
def service(folder):
    with running(folder, keys(), cached_slots=100) as started:
        yield started


def test_what_a_killed_import_left_is_removed_but_not_one_that_goes_on(service, folder):
    assert [path.name for path in folder.glob("*/.import*")] == [".import.held1234.part"]


def test_an_import_that_goes_on_is_no_leftover_to_another_service(anna, service, folder):
    written(anna, "one")
    content, seen = anna.get("/v1/memories/one/file").content, []

    def begun():
        yield content
        deadline = time.monotonic() + 30
        while len(found := list(folder.glob("*/.import.*"))) < 2 and time.monotonic() < deadline:
            time.sleep(0.01)
        Store(folder, service.service.store._model, service.service.settings, Metrics())  # another one starts
        seen.extend(path.exists() for path in found)
        yield b""

    assert anna.put("/v1/memories/two/file", content=begun()).status_code == 201
    assert seen == [True, True] and len(list(folder.glob("*/.import.*"))) == 1


def test_files_that_no_memory_could_be_are_not_listed(anna):
    written(anna, "one")
    assert not {"my notes", "no-memory", ".hidden"} & set(anna.get("/v1/memories").json()["memories"])


def test_undo_goes_with_a_memory_that_is_not_kept_loaded(anna, service):
    for name in ("one", "two", "one"):
        written(anna, name)
        assert anna.get(f"/v1/memories/{name}").json()["can_undo"]  # the one used last is kept, however large
    assert not anna.get("/v1/memories/two").json()["can_undo"]
    loaded = service.service.store._loaded.values()
    sizes = sum(each.memory.size for each in loaded)
    assert service.service.metrics.registry.get_sample_value("gnm_cached_slots") == sizes


def written(client, name):
    assert client.post(f"/v1/memories/{name}/documents", json=BERN).status_code == 201
