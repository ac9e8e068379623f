"""What a full pool drops, against rules written out on lists."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gnm.config import validate
from gnm.errors import ConfigError, MemoryFileError
from gnm.memory.pool import PoolSettings, append, check_fits, merge, repeated
from gnm.memory.state import MIXED, PREAMBLE, MemoryState
from gnm.memory.store import COLUMNS, LongTermStore
from gnm.memory.store_settings import StoreSettings

PREAMBLE_SLOTS = 2
CAPACITY = 7


def empty(seeds):
    batch = len(seeds)
    slots = torch.arange(float(PREAMBLE_SLOTS)).view(1, 1, -1, 1).expand(batch, 1, -1, 1)
    valid = torch.ones(batch, PREAMBLE_SLOTS, dtype=torch.bool)
    return MemoryState(slots, valid, torch.full((batch, PREAMBLE_SLOTS), PREAMBLE), torch.tensor(seeds))


def write(state, lengths, settings, padding=0):
    """One more document per row; its slots hold 100 * (document + 1) + place."""
    width = max(lengths) + padding
    valid = torch.arange(width) < torch.tensor(lengths)[:, None]
    numbers = 100.0 * (state.written + 1) + torch.arange(width)
    slots = torch.where(valid, numbers, -1.0)[:, None, :, None]
    return append(state, slots, valid, settings)


def fill(documents, settings, seeds, padding=0):
    state = empty(seeds)
    for lengths in documents:
        state, _ = write(state, lengths, settings, padding)
    return state


def held(state, row=0):
    return [int(n) for n, v in zip(state.slots[row, 0, :, 0], state.valid[row], strict=True) if v]


documents_of_two_rows = st.lists(
    st.tuples(st.integers(0, CAPACITY), st.integers(0, CAPACITY)).filter(any), min_size=1, max_size=6
)


@given(documents_of_two_rows, st.sampled_from(["random", "oldest"]))
def test_no_row_ever_passes_its_capacity_nor_drops_more_than_it_must(documents, eviction):
    pool, state = PoolSettings(capacity=CAPACITY, eviction=eviction), empty([0, 1])
    for lengths in documents:
        before, (state, _) = state, write(state, lengths, pool)
        filled = zip(before.used().tolist(), lengths, strict=True)
        assert state.used().tolist() == [min(CAPACITY, used + new) for used, new in filled]
        for row, length in enumerate(lengths):
            mine = held(state, row)
            assert mine[:PREAMBLE_SLOTS] == [0, 1]  # the preamble is never evicted
            assert mine[PREAMBLE_SLOTS:] == sorted(mine[PREAMBLE_SLOTS:])  # what stays keeps its order
            assert sum(n >= 100 * state.written for n in mine) == length  # the new document is whole
            assert set(mine) <= {*held(before, row), *range(100 * state.written, 100 * state.written + length)}


@given(documents_of_two_rows)
def test_oldest_keeps_the_last_slots(documents):
    state = fill(documents, PoolSettings(capacity=CAPACITY, eviction="oldest"), [0, 1])
    for row in range(2):
        all_slots = [100 * (d + 1) + i for d, lengths in enumerate(documents) for i in range(lengths[row])]
        assert held(state, row)[PREAMBLE_SLOTS:] == all_slots[-CAPACITY:]


def test_without_a_capacity_nothing_is_dropped():
    state, kept = write(fill([(50, 3)] * 3, PoolSettings(), [0, 1]), (50, 3), PoolSettings())
    assert kept is None and state.used().tolist() == [200, 12]
    assert state.documents(1) == dict.fromkeys(range(4), 3)


@given(documents_of_two_rows, st.integers(0, 4), st.sampled_from(["random", "oldest"]), st.integers(0, 2**40))
@settings(max_examples=30)
def test_a_row_drops_the_same_alone_in_a_batch_and_with_padding(documents, padding, eviction, seed):
    pool = PoolSettings(capacity=CAPACITY, eviction=eviction)
    together = fill(documents, pool, [seed, seed + 1], padding)
    for row in range(2):
        alone = fill([[lengths[row]] for lengths in documents], pool, [seed + row])
        assert held(together, row) == held(alone)


def test_random_drops_by_the_memorys_own_seed_and_not_by_the_global_one():
    pool, documents = PoolSettings(capacity=CAPACITY), [(7, 7), (3, 3), (3, 3)]
    first = fill(documents, pool, [1, 2])
    torch.manual_seed(99)
    before = torch.get_rng_state()
    again = fill(documents, pool, [1, 2])
    assert torch.equal(before, torch.get_rng_state())
    assert held(first, 0) == held(again, 0) and held(first, 1) == held(again, 1)
    assert len({tuple(held(fill(documents, pool, [seed, 0]), 0)) for seed in range(20)}) > 10


def test_random_drops_every_old_slot_equally_often():
    """400 memories of 7 slots are written 2 more: each old slot is dropped with probability 2/7."""
    count = 400
    state = fill([[7] * count, [2] * count], PoolSettings(capacity=CAPACITY), list(range(count)))
    left = torch.tensor([[100 + i in held(state, row) for i in range(7)] for row in range(count)]).float().mean(0)
    assert (left - 5 / 7).abs().max() < 0.1  # 4.4 standard errors


def test_random_draws_anew_at_every_write():
    """Were the draw the same, the same places would be dropped again and again."""
    pool, seeds = PoolSettings(capacity=CAPACITY), list(range(20))
    state = fill([[7] * 20], pool, seeds)
    state, first = write(state, [2] * 20, pool)
    _, second = write(state, [2] * 20, pool)
    assert (first != second)[:, 0].any(-1).sum() > 15


@pytest.mark.parametrize("seed", [-5, 2**62, -(2**63)])
def test_any_seed_that_fits_a_tensor_will_do(seed):
    assert len(held(fill([[7], [2]], PoolSettings(capacity=CAPACITY), [seed]))) == PREAMBLE_SLOTS + CAPACITY


def strong(state, strength, settings):
    """One more document for a single memory with gates, a slot for each of `strength`."""
    gated = {"strength": torch.tensor([strength]), "segment": torch.zeros(1, len(strength), dtype=torch.long)}
    numbers = 100.0 * (state.written + 1) + torch.arange(len(strength))
    valid = torch.ones(1, len(strength), dtype=torch.bool)
    return append(state, numbers[None, None, :, None], valid, settings, **gated)[0]


def gated_empty():
    ones = torch.ones(1, PREAMBLE_SLOTS)
    return replace(empty([0]), strength=ones * 0.01, segment=torch.full_like(ones, -1, dtype=torch.long))


def test_the_weakest_go_first_and_of_equals_the_oldest():
    pool = PoolSettings(capacity=6, eviction="weakest")
    full = strong(strong(gated_empty(), [0.9, 0.2, 0.5], pool), [0.2, 0.7, 0.2], pool)
    assert held(full) == [0, 1, 100, 101, 102, 200, 201, 202]
    assert held(strong(full, [0.1], pool)) == [0, 1, 100, 102, 200, 201, 202, 300]
    assert held(strong(full, [0.1] * 2, pool)) == [0, 1, 100, 102, 201, 202, 300, 301]
    assert held(strong(full, [0.1] * 4, pool)) == [0, 1, 100, 201, 300, 301, 302, 303]


def test_a_merged_pool_keeps_both_documents_in_their_order_and_drops_no_more_than_it_must():
    pool = PoolSettings(capacity=5, eviction="weakest")
    one, other = strong(gated_empty(), [0.9, 0.2, 0.5], pool), strong(gated_empty(), [0.3, 0.8, 0.4], pool)
    whole, small = merge(one, other, PoolSettings()), merge(one, other, pool)
    assert held(whole) == [0, 1, 100, 101, 102, 100, 101, 102]
    assert held(small) == [0, 1, 100, 102, 100, 101, 102]
    assert small.documents() == {0: 2, 1: 3} and small.written == whole.written == 2
    assert held(merge(small, other, pool)) == [0, 1, 100, 102, 101, 101, 102] and merge(small, other, pool).written == 3
    assert merge(one, other, PoolSettings(capacity=6)).used().tolist() == [6]


def with_store(state, *documents):
    """`state` with a segment of one slot of each of `documents` in its store."""
    count = len(documents)
    columns = {name: torch.zeros(count, dtype=dtype) for name, dtype in COLUMNS.items() if name != "words"}
    columns |= {"source": torch.tensor(documents, dtype=torch.long), "strength": torch.ones(count)}
    columns |= {name: torch.ones(count, 2) for name in ("keys", "meanings")}
    return replace(state, store=(LongTermStore.cut("a key", columns, torch.ones(count, 3), [1] * count),))


def test_a_merged_store_keeps_its_own_segments_and_takes_in_the_others_as_later_ones():
    pool = PoolSettings(capacity=3, eviction="oldest", store=StoreSettings())
    one, other = (strong(gated_empty(), strengths, pool) for strengths in ([0.9, 0.2], [0.3, 0.8]))
    first, second = with_store(one, 0), with_store(other, 0, 0)
    assert merge(first, second, pool).store[0].source.tolist() == [0, 1, 1]
    assert merge(first, second, pool).documents() == {0: 3, 1: 4}  # nothing is evicted before it has a place
    assert merge(first, other, pool).store[0].source.tolist() == [0]  # a memory without a store
    with pytest.raises(MemoryFileError, match="has a long-term store, and this one has none.*merge this one into the"):
        merge(one, second, PoolSettings())


@pytest.mark.parametrize("other", ["batch", "layers", "width", "gates"])
def test_memories_of_two_kinds_do_not_merge(other):
    one = empty([0])
    others = {
        "batch": empty([0, 1]),
        "layers": replace(one, slots=one.slots.expand(-1, 2, -1, -1)),
        "width": replace(one, slots=one.slots.expand(-1, -1, -1, 2)),
        "gates": gated_empty(),
    }
    for pair in ((one, others[other]), (others[other], one)):
        with pytest.raises(MemoryFileError, match="two kinds"):
            merge(*pair, PoolSettings())


def test_kept_indices_move_what_stands_beside_the_slots():
    pool = PoolSettings(capacity=CAPACITY, eviction="oldest")
    old = fill([(5, 2)], pool, [0, 1], padding=1)
    state, index = write(old, (4, 4), pool)
    valid = state.valid[:, : index.shape[2]]
    moved = old.slots[..., 0].gather(2, index)[:, 0]
    assert torch.equal(moved[valid], state.slots[:, 0, : index.shape[2], 0][valid])


def layered(lengths, pool, layers=40):
    """Memories of many layers, one slot value for each (document, place) whatever the layer."""
    state = empty([3, 4])
    state = replace(state, slots=state.slots.expand(-1, layers, -1, -1))
    for number, length in enumerate(lengths):
        numbers = (100.0 * (number + 1) + torch.arange(length)).view(1, 1, -1, 1).expand(2, layers, -1, 1)
        state, _ = append(state, numbers, torch.ones(2, length, dtype=torch.bool), pool)
    return state


def test_each_layer_may_draw_its_own_slots_to_drop():
    shared, apart = (layered([7, 2], PoolSettings(capacity=CAPACITY, per_layer=flag)) for flag in (False, True))
    assert (shared.slots == shared.slots[:, :1]).all() and not (apart.slots == apart.slots[:, :1]).all()
    assert torch.equal(apart.valid, shared.valid) and apart.used().tolist() == [7, 7]
    for layer in range(40):
        for row in range(2):
            slots = apart.slots[row, layer, :, 0].tolist()
            assert slots[:PREAMBLE_SLOTS] == [0, 1] and slots[-2:] == [200, 201]
            assert slots[PREAMBLE_SLOTS:] == sorted(slots[PREAMBLE_SLOTS:]) and len(set(slots)) == len(slots)


def test_documents_whose_slots_differ_from_layer_to_layer_are_mixed():
    state = layered([7, 2], PoolSettings(capacity=CAPACITY, per_layer=True))
    assert state.documents() == {1: 2} and state.source[0].tolist() == [PREAMBLE] * 2 + [MIXED] * 5 + [1] * 2
    with pytest.raises(KeyError, match="what is left of document 0 can't be told apart"):
        state.forget(0)
    with pytest.raises(KeyError, match="document -2 has no slots"):
        state.forget(MIXED)
    assert state.forget(1).used().tolist() == [5, 5]


def test_a_row_that_drops_nothing_keeps_its_documents_apart():
    """Another row of the batch may have to drop some."""
    pool, state = PoolSettings(capacity=CAPACITY, per_layer=True), empty([0, 1])
    for lengths in ((5, 2), (4, 2)):
        state, _ = write(state, lengths, pool)
    assert state.documents(0) == {1: 4} and state.documents(1) == {0: 2, 1: 2}


@given(st.integers(1, CAPACITY), st.integers(1, CAPACITY))
def test_a_first_document_fills_the_pool_with_repeats_and_then_its_end(long, short):
    pool = PoolSettings(capacity=CAPACITY, fill=True)
    valid = torch.arange(max(long, short)) < torch.tensor([long, short])[:, None]
    places, counts = repeated(empty([0, 1]), valid, pool)
    for row, length in enumerate((long, short)):
        text = list(range(length))
        expected = text * (CAPACITY // length) + text[length - CAPACITY % length :]
        assert counts[row].sum() == CAPACITY and places[row][counts[row]].tolist() == expected


def test_only_an_empty_pool_is_filled():
    pool = PoolSettings(capacity=CAPACITY, fill=True)
    state, _ = write(empty([0, 1]), (3, 0), PoolSettings())
    places, counts = repeated(state, torch.tensor([[True, True], [True, False]]), pool)
    assert places[0][counts[0]].tolist() == [0, 1] and places[1][counts[1]].tolist() == [0] * CAPACITY


def test_a_row_without_a_document_fills_nothing_and_a_pool_that_need_not_be_full_takes_it_once():
    valid = torch.tensor([[True, True], [False, False]])
    for pool, slots in ((PoolSettings(capacity=CAPACITY, fill=True), CAPACITY), (PoolSettings(capacity=CAPACITY), 2)):
        _, counts = repeated(empty([0, 1]), valid, pool)
        assert counts.sum(-1).tolist() == [slots, 0]


def test_gradients_pass_through_an_eviction():
    pool = PoolSettings(capacity=2, eviction="oldest")
    first, second = (torch.ones(1, 1, 2, 1, requires_grad=True) for _ in range(2))
    valid = torch.tensor([[True, True]])
    state, _ = append(empty([0]), first, valid, pool)
    state, _ = append(state, second[:, :, :1], valid[:, :1], pool)
    state.slots.sum().backward()
    assert first.grad.flatten().tolist() == [0, 1] and second.grad.flatten().tolist() == [1, 0]


def test_a_document_larger_than_the_pool_is_refused():
    pool = PoolSettings(capacity=CAPACITY)
    with pytest.raises(MemoryFileError, match="takes 8 slots, the pool holds 7.*memory.capacity"):
        write(empty([0, 1]), (1, 8), pool)
    check_fits(CAPACITY, pool)
    check_fits(10**9, PoolSettings())


@pytest.mark.parametrize(
    "wrong",
    [
        {"capacity": 0},
        {"capacity": -3},
        {"eviction": "newest"},
        {"fill": True},
        {"per_layer": True, "capacity": 9, "eviction": "oldest"},
    ],
)
def test_settings_that_make_no_sense_are_refused(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        validate(wrong, PoolSettings, "params.yaml")
