"""The long-term store as a value: what each of its methods leaves, on a few segments."""

from dataclasses import replace

import pytest
import torch

from gnm.memory.consolidation import Duplicates
from gnm.memory.pool import PoolSettings, evicted_segments
from gnm.memory.state import PREAMBLE, MemoryState
from gnm.memory.store import LongTermStore, unit


def store_of(*lengths):
    """A segment for each of `lengths`, of one document each; the next one was not written yet."""
    count = len(lengths)
    numbers = {name: torch.arange(count) for name in ("source", "stored_at")}
    columns = {
        **numbers, "segment": torch.zeros(count, dtype=torch.long), "retrieved": torch.zeros(count, dtype=torch.long),
        "strength": torch.full((count,), 0.8), "keys": unit(torch.randn(count, 4)), "meanings": torch.randn(count, 4),
    }  # fmt: skip
    return LongTermStore.cut("a key", columns, torch.randn(sum(lengths), 6), lengths)


def test_a_segment_stays_where_its_gate_is_one_half_or_more():
    left = store_of(1, 2, 3).scaled(torch.tensor([0.499, 0.5, 1.0]))
    assert left.source.tolist() == [1, 2] and left.lengths.tolist() == [2, 3]
    torch.testing.assert_close(left.strength, torch.tensor([0.4, 0.8]))


@pytest.mark.parametrize(("eviction", "first"), [("weakest", [1, 2, 0]), ("oldest", [0, 1, 2])])
def test_whole_segments_leave_the_pool_weakest_or_oldest_first_and_no_more_than_must(eviction, first):
    """Three documents of one segment each, of 2, 3 and 1 slots, behind a slot of the preamble."""
    source = torch.tensor([[PREAMBLE, 0, 0, 1, 1, 1, 2]])
    strength = torch.tensor([[0.1, 0.9, 0.9, 0.2, 0.2, 0.2, 0.5]])
    slots, segment = torch.zeros(1, 1, 7, 1), source.clamp(max=0)
    state = MemoryState(slots, source > -9, source, torch.tensor([0]), 3, strength, segment)
    sizes = [2, 3, 1]
    for surplus, count in ((1, 1), (sizes[first[0]], 1), (sizes[first[0]] + 1, 2), (6, 3)):
        gone = evicted_segments(state, torch.tensor([surplus]), PoolSettings(capacity=6, eviction=eviction))
        assert source[gone].tolist() == [number for number in sorted(first[:count]) for _ in range(sizes[number])]


def test_as_many_of_the_first_segments_as_fit_are_read():
    assert store_of(3, 1, 2).fitting([2, 1, 0], 3) == [2, 1]
    assert store_of(3, 1, 2).fitting([2, 1, 0], 6) == [2, 1, 0]
    assert store_of(3, 1, 2).fitting([2, 1, 0], 1) == []


def test_an_empty_store_too_has_the_dtype_that_it_is_wanted_in():
    store = store_of(2)
    assert store.to(torch.float32) is store
    for each in (store, store.select(torch.tensor([False]))):
        slots = each.to(torch.bfloat16).slots(range(len(each)))
        assert slots["entries"].dtype == torch.bfloat16 and slots["entries"].shape == (2 * len(each), 6)


def test_search_keys_are_of_length_one_and_blind_to_size_and_shift():
    hidden = torch.randn(2, 3, 8, dtype=torch.bfloat16)
    keys = unit(hidden)
    assert keys.dtype == torch.float32
    torch.testing.assert_close(keys.norm(dim=-1), torch.ones(2, 3))
    torch.testing.assert_close(unit(4 * hidden.float() + 3), keys, atol=1e-4, rtol=0)


def test_what_follows_another_memory_is_numbered_on():
    duplicates = Duplicates(torch.tensor([0, 1]), torch.tensor([1, 0]))
    store = replace(store_of(1, 2), duplicates=duplicates).numbered_on(5)
    assert store.duplicates.place.tolist() == [0, 1] and store.duplicates.source.tolist() == [6, 5]
    assert store.source.tolist() == [5, 6] and store.stored_at.tolist() == [5, 6] and store.segment.tolist() == [0, 0]
