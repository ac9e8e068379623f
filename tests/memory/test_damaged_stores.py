"""Memory files whose long-term store holds values that no write makes, or that are of another model."""

import re
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file

from gnm.errors import MemoryFileError
from gnm.memory import MemoryState, load_memory, save_memory
from gnm.memory import files as memory_files
from gnm.memory.consolidation import Duplicates
from gnm.memory.store import LongTermStore, unit


def some_store(key=4, meaning=4, entry=6):
    """Segments of three slots and one, each told by the other's document too.

    key, meaning, entry: how many numbers each has.
    """
    columns = {
        "source": torch.tensor([0, 1]), "segment": torch.tensor([0, 2]), "stored_at": torch.tensor([2, 3]),
        "retrieved": torch.tensor([0, 5]), "strength": torch.tensor([0.5, 1.0]),
        "keys": unit(torch.randn(2, key)), "meanings": torch.randn(2, meaning),
    }  # fmt: skip
    store = LongTermStore.cut("a key", columns, torch.randn(4, entry), (3, 1))
    return replace(store, duplicates=Duplicates(torch.tensor([0, 1]), torch.tensor([1, 0])))


def some_memory(**sizes):
    """Three documents were written; a slot of the preamble and one of the last document are in the pool."""
    source, segment = torch.tensor([[-1, 2]]), torch.tensor([[-1, 0]])
    state = MemoryState(torch.randn(1, 3, 2, 5), torch.ones(1, 2, dtype=torch.bool), source, torch.tensor([7]), 3)
    gated = {"strength": torch.ones(1, 2), "segment": segment, "store": (some_store(**sizes),)}
    return MemoryState(**state.tensors(), written=3, **gated)


def written_with(path, changes):
    """A file with a right checksum and `changes` of its store, as only a program can make it; None: left out."""
    state = some_memory()
    tensors = {f"store.0.{name}": tensor for name, tensor in (state.store[0].tensors() | changes).items()}
    tensors = state.tensors() | {name: tensor for name, tensor in tensors.items() if tensor is not None}
    header = {"format": "gnm-memory-3", "model": "a", "written": "3", "notes": "{}", "search_key": "a key"}
    header["checksum"] = memory_files._checksum(header, tensors)
    save_file(tensors, path, metadata=header)


AS_LONG = "the segments of the store are not as long as its entries"
VALUES = {
    "a source that was never written": ({"source": torch.tensor([0, 3])}, "a source of the store is not from 0 to 2"),
    "a source below 0": ({"source": torch.tensor([-1, 1])}, "source of the store hold a number that none can be"),
    "a segment below 0": ({"segment": torch.tensor([-1, 2])}, "segment of the store hold a number that none can be"),
    "a segment without end": (
        {"segment": torch.tensor([0, 2**40])},
        "a segment of the store is not from 0 to 10000000",
    ),
    "stored after the last document": (
        {"stored_at": torch.tensor([2, 4])},
        "a stored_at of the store is not from 0 to 3",
    ),
    "stored before the first document": (
        {"stored_at": torch.tensor([-1, 3])},
        "stored_at of the store hold a number that none can be",
    ),
    "read less often than never": (
        {"retrieved": torch.tensor([0, -5])},
        "retrieved of the store hold a number that none can be",
    ),
    "a strength of 0": ({"strength": torch.tensor([0.0, 1.0])}, "a strength of the store is not in (0, 1]"),
    "a strength above 1": ({"strength": torch.tensor([0.5, 1.5])}, "a strength of the store is not in (0, 1]"),
    "a strength of NaN": (
        {"strength": torch.tensor([0.5, torch.nan])},
        "strength of the store hold a number that none can be",
    ),
    "keys of infinity": ({"keys": torch.full((2, 4), torch.inf)}, "keys of the store hold a number that none can be"),
    "keys of another type": (
        {"keys": torch.ones(2, 4).double()},
        "keys of the store are torch.float64 of shape (2, 4)",
    ),
    "keys of one number": ({"keys": torch.ones(2)}, "keys of the store are torch.float32 of shape (2,)"),
    "meanings of NaN": (
        {"meanings": torch.full((2, 4), torch.nan)},
        "meanings of the store hold a number that none can be",
    ),
    "sources of another type": (
        {"source": torch.tensor([0.0, 1.0])},
        "source of the store are torch.float32 of shape (2,)",
    ),
    "a source short": ({"source": torch.tensor([0])}, "source of the store are torch.int64 of shape (1,)"),
    "no keys": ({"keys": None}, "has no 'keys'"),
    "entries of NaN": ({"entries": torch.full((4, 6), torch.nan)}, "entries of the store are no numbers"),
    "entries of whole numbers": (
        {"entries": torch.ones(4, 6, dtype=torch.long)},
        "entries of the store are no numbers",
    ),
    "entries of one axis": ({"entries": torch.ones(4)}, AS_LONG),
    "lengths beyond the entries": ({"lengths": torch.tensor([3, 2])}, AS_LONG),
    "a segment of no slot": ({"lengths": torch.tensor([4, 0])}, AS_LONG),
    "lengths of two axes": ({"lengths": torch.tensor([[3, 1]])}, AS_LONG),
    "no lengths": ({"lengths": None}, "has no 'lengths'"),
    "told by a document that was never written": (
        {"told.source": torch.tensor([1, 3])},
        "a document of a duplicate is not from 0 to 2",
    ),
    "told by a document below 0": (
        {"told.source": torch.tensor([1, -1])},
        "its duplicates are no list of places and documents",
    ),
    "what was told is of no segment": (
        {"told.place": torch.tensor([0, 2])},
        "its duplicates are of no segment of the store",
    ),
    "told by one document less": ({"told.source": torch.tensor([1])}, "its duplicates are of no segment of the store"),
    "told in short numbers": (
        {"told.place": torch.tensor([0, 1], dtype=torch.int32)},
        "its duplicates are no list of places and documents",
    ),
}


@pytest.mark.parametrize("what", VALUES)
def test_values_of_a_store_that_no_write_makes_are_refused(tmp_path, what):
    written_with(tmp_path / "m", {})
    assert len(load_memory(tmp_path / "m", "a")[0].store[0]) == 2
    changes, told = VALUES[what]
    written_with(tmp_path / "m", changes)
    with pytest.raises(MemoryFileError, match=f"m is damaged .*{re.escape(told)}"):
        load_memory(tmp_path / "m", "a")


@pytest.mark.parametrize(
    ("sizes", "told"),
    [
        ({"entry": 7}, "numbers of a stored slot: 6, of this model: 7"),
        ({"key": 5}, "numbers of a search key: 4, of this model: 5"),
        ({"meaning": 5}, "numbers of a meaning: 4, of this model: 5"),
    ],
)
def test_a_store_of_another_model_is_refused(tmp_path, sizes, told):
    save_memory(tmp_path / "m", some_memory(), "a")
    load_memory(tmp_path / "m", "a", like=some_memory())
    with pytest.raises(MemoryFileError, match=told):
        load_memory(tmp_path / "m", "a", like=some_memory(**sizes))


def test_a_store_is_read_by_a_model_that_searches_it(tmp_path):
    save_memory(tmp_path / "m", some_memory(), "a")
    without = replace(some_memory(), store=None)
    told = f"{tmp_path / 'm'} has a long-term store, and this model was loaded without one; load it with a capacity "
    with pytest.raises(
        MemoryFileError, match=re.escape(f"{told}and a store (in the shell --capacity SLOTS --store SEGM")
    ):
        load_memory(tmp_path / "m", "a", like=without)
    other = replace(some_memory(), store=(replace(some_store(), search_key="another"),))
    told = f"the search keys in {tmp_path / 'm'} are 'a key', this model searches by another; load it with the same "
    told += "store.layer, store.by, store.retriever and store.lexical"
    with pytest.raises(MemoryFileError, match=re.escape(told)):
        load_memory(tmp_path / "m", "a", like=other)
    save_memory(tmp_path / "n", without, "a")
    assert load_memory(tmp_path / "n", "a", like=other)[0].store is None  # nothing is there to be searched
