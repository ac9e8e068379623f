"""What a memory holds in numbers."""

from dataclasses import replace

import torch

from gnm.memory.consolidation import Duplicates
from gnm.memory.state import PREAMBLE, MemoryState
from gnm.memory.statistics import DocumentStatistics, as_text, statistics
from gnm.memory.store import LongTermStore


def some_state(store=True):
    source = torch.tensor([[PREAMBLE, 1, 1, 2]])
    state = MemoryState(
        torch.zeros(1, 2, 4, 3), torch.tensor([[True, True, True, False]]), source, torch.tensor([0]), written=4,
        strength=torch.tensor([[1.0, 0.5, 0.5, 0.0]]), segment=torch.tensor([[-1, 0, 0, 0]]),
    )  # fmt: skip
    columns = {
        "source": torch.tensor([0, 1]), "segment": torch.tensor([0, 1]), "stored_at": torch.tensor([2, 3]),
        "retrieved": torch.tensor([7, 0]), "strength": torch.tensor([0.5, 1.0]),
        "keys": torch.ones(2, 3), "meanings": torch.ones(2, 3),
    }  # fmt: skip
    held = LongTermStore.cut("a key", columns, torch.zeros(5, 6), [3, 2])
    duplicates = Duplicates(torch.tensor([1, 1]), torch.tensor([2, 3]))
    return replace(state, store=(replace(held, duplicates=duplicates),)) if store else state


def test_slots_of_pool_and_store_are_told_apart():
    assert statistics(some_state()) == [
        DocumentStatistics(0, 3, 0, 3, 0.5, 1, 7, 0),
        DocumentStatistics(1, 2, 2, 2, 0.75, 1, 0, 2),
    ]
    assert statistics(some_state(store=False)) == [DocumentStatistics(1, 2, 2, 0, 0.5, 0, 0, 0)]
    ungated = replace(some_state(store=False), strength=None, segment=None)
    assert statistics(ungated)[0].strength is None


def test_the_table_has_a_line_a_document_and_one_of_all():
    state = some_state()
    lines = as_text(statistics(state), state).splitlines()
    columns = ["document", "age", "pool", "stored", "strength", "evicted", "retrieved", "merged"]
    assert lines[0].split() == columns and {len(line) for line in lines[:4]} == {len(lines[0])}
    assert [line.split() for line in lines[1:4]] == [
        ["0", "3", "0", "3", "0.50", "1", "7", "0"],
        ["1", "2", "2", "2", "0.75", "1", "0", "2"],
        ["all", "2", "5", "2", "7", "2"],
    ]
    assert lines[4].startswith("long-term store: 0.0 MB")
