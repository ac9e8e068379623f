"""The state of a memory against plain Python lists."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gnm.memory.state import MIXED, PREAMBLE, MemoryState, pack
from gnm.memory.store import LongTermStore


def state_of(sources, written=3):
    """A state whose rows hold slots of the given sources (None: padding); each slot holds its own number."""
    valid = torch.tensor([[s is not None for s in row] for row in sources])
    source = torch.tensor([[PREAMBLE if s is None else s for s in row] for row in sources])
    batch, size = valid.shape
    slots = torch.arange(float(batch * size)).view(batch, 1, size, 1).expand(-1, 2, -1, 3).clone()
    return MemoryState(slots, valid, source, torch.arange(batch), written)


def contents(state):
    """Per row, (number, source) of the valid slots in their order."""
    rows = zip(state.slots[:, 0, :, 0], state.source, state.valid, strict=True)
    return [[(int(n), int(s)) for n, s, v in zip(*row, strict=True) if v] for row in rows]


SOURCES = [[PREAMBLE, 0, 0, None, 1, 2], [PREAMBLE, None, 0, 1, 1, None]]
masks = st.integers(0, 6).flatmap(
    lambda width: st.lists(st.lists(st.booleans(), min_size=width, max_size=width), min_size=1, max_size=4)
)


@given(masks)
def test_packing_moves_what_is_kept_to_the_left_in_its_order(rows):
    index, valid = pack(torch.tensor(rows, dtype=torch.bool))
    kept = [[column for column, keep in enumerate(row) if keep] for row in rows]
    assert [i[v].tolist() for i, v in zip(index, valid, strict=True)] == kept
    assert index.shape[1] == max(map(len, kept))
    assert all(v.tolist() == sorted(v.tolist(), reverse=True) for v in valid)
    assert not index[~valid].any()


def test_used_slots_and_documents_count_neither_head_nor_padding():
    state = state_of(SOURCES)
    assert state.used().tolist() == [4, 3]
    assert (state.documents(0), state.documents(1)) == ({0: 2, 1: 1, 2: 1}, {0: 1, 1: 2})


def test_slots_are_read_one_after_another_or_each_document_where_the_head_ends():
    state = state_of([[PREAMBLE, PREAMBLE, 0, 0, None, 1, 2, 2], [PREAMBLE, None, 1, 1, 1, 2, None, None]])

    def positions(shared):
        return [row[v].tolist() for row, v in zip(state.positions(shared), state.valid, strict=True)]

    assert positions(False) == [[0, 1, 2, 3, 4, 5, 6], [0, 1, 2, 3, 4]]
    assert positions(True) == [[0, 1, 2, 3, 2, 2, 3], [0, 1, 2, 3, 1]]
    assert (state.positions()[~state.valid] >= 0).all()  # padding has one too
    assert torch.equal(state.positions(), state.positions(False))


def gated(sources, segments, written=3):
    """A state with gates whose slots are of the given segments of their documents (None: none)."""
    numbers = torch.tensor([[-1 if each is None else each for each in row] for row in segments])
    state = state_of(sources, written)
    return replace(state, strength=torch.ones(state.valid.shape), segment=numbers)


def test_the_segments_of_a_document_are_those_it_still_has_slots_of():
    state = gated(
        [[PREAMBLE, 0, 0, 0, 1, None], [PREAMBLE, 0, 1, 1, None, None]], [[None, 0, 2, 2, 2, 0], [None, 2, 0, 1, 0, 0]]
    )
    assert state.segments(0) == {0: 1, 2: 2} and state.segments(1) == {2: 1} and state.segments(2) == {}
    assert state.segments(1, row=1) == {0: 1, 1: 1}


def test_each_stored_segment_has_a_number_of_its_own_and_what_is_no_segment_has_none():
    state = gated([[PREAMBLE, 0, 0, 1, None], [PREAMBLE, MIXED, 0, 1, 1]], [[None, 0, 2, 0, 2], [None, 1, 2, 0, 2]])
    assert state.segment_numbers().tolist() == [[-1, 0, 2, 3, -1], [-1, -1, 2, 3, 5]]
    empty = gated([[PREAMBLE, 0], [None, None]], [[None, 0], [None, None]]).select(torch.zeros(2, 2, dtype=torch.bool))[
        0
    ]
    assert empty.segment_numbers().shape == (2, 0)


def test_a_state_that_is_where_it_is_wanted_is_not_copied():
    state = state_of(SOURCES)
    assert state.to("cpu") is state
    moved = state.to("meta")
    assert {tensor.device.type for tensor in moved.tensors().values()} == {"meta"} and moved.written == state.written


def test_what_was_never_written_is_said_not_to_be_there_also_beside_mixed_slots():
    with pytest.raises(KeyError, match="document 3 has no slots in this memory; it holds .0, 1."):
        state_of([[PREAMBLE, MIXED, 0], [PREAMBLE, 1, 0]]).forget(3)
    with pytest.raises(KeyError, match="what is left of document 2 can't be told apart"):
        state_of([[PREAMBLE, MIXED, 0], [PREAMBLE, 1, 0]]).forget(2)


def test_selected_slots_stay_whole_and_padding_stays_out():
    state = state_of(SOURCES)
    keep = torch.tensor([[1, 0, 1, 1, 0, 1], [1, 1, 0, 0, 1, 1]], dtype=torch.bool)
    selected, index = state.select(keep)
    assert contents(selected) == [[(0, PREAMBLE), (2, 0), (5, 2)], [(6, PREAMBLE), (10, 1)]]
    own = torch.arange(12.0).view(2, 6).gather(1, index[:, 0])
    assert [row[v].tolist() for row, v in zip(own, selected.valid, strict=True)] == [[0, 2, 5], [6, 10]]
    assert (selected.slots[:, 0] == selected.slots[:, 1]).all()  # layers move together
    assert contents(state) == contents(state_of(SOURCES))


def test_no_slot_of_a_forgotten_document_is_left_and_no_other_is_missing():
    state = state_of(SOURCES)
    forgot = state.forget(0)
    assert contents(forgot) == [[(0, PREAMBLE), (4, 1), (5, 2)], [(6, PREAMBLE), (9, 1), (10, 1)]]
    assert forgot.written == state.written  # numbers are not given twice
    assert contents(state) == contents(state_of(SOURCES))
    assert contents(state.forget(2))[1] == contents(state)[1]  # a row without the document stays as it is


@pytest.mark.parametrize("document", [3, 7, PREAMBLE, -2])
def test_what_is_no_document_of_the_memory_cannot_be_forgotten(document):
    with pytest.raises(KeyError, match=rf"document {document} has no slots.*\[0, 1, 2\]"):
        state_of(SOURCES).forget(document)
    with pytest.raises(KeyError, match=r"document 0 .*\[1, 2\]"):
        state_of(SOURCES).forget(0).forget(0)


@pytest.mark.parametrize("index", [[1, 0, 1], torch.tensor([1, 0, 1])])
def test_rows_are_a_batch_of_their_own(index):
    state = state_of(SOURCES)
    rows = state.rows(index)
    assert contents(rows) == [contents(state)[i] for i in (1, 0, 1)]
    assert (rows.seeds.tolist(), rows.written) == ([1, 0, 1], 3)


def test_a_detached_memory_is_the_same_without_gradient():
    state = state_of(SOURCES)
    grown = MemoryState(state.slots.requires_grad_() * 1, state.valid, state.source, state.seeds, state.written)
    cut = grown.detach()
    assert contents(cut) == contents(grown) and not cut.slots.requires_grad and grown.slots.requires_grad


def test_slots_of_a_document_are_counted_in_pool_and_store_together():
    columns = {
        "source": torch.tensor([1, 0, 1]), "segment": torch.tensor([4, 0, 5]), "stored_at": torch.full((3,), 2),
        "retrieved": torch.zeros(3).long(), "strength": torch.ones(3), "keys": torch.ones(3, 2),
        "meanings": torch.ones(3, 2),
    }  # fmt: skip
    store = LongTermStore.cut("a key", columns, torch.zeros(6, 4), [1, 3, 2])
    state = MemoryState(
        torch.zeros(1, 1, 4, 2), torch.ones(1, 4).bool(), torch.tensor([[PREAMBLE, 2, 2, 1]]), torch.tensor([0]), 3,
        strength=torch.ones(1, 4), segment=torch.tensor([[-1, 1, 0, 4]]), store=(store,),
    )  # fmt: skip
    assert list(state.documents().items()) == [(0, 3), (1, 4), (2, 2)]  # oldest first
    assert [state.segments(document) for document in (0, 1, 2)] == [{0: 3}, {4: 2, 5: 2}, {0: 1, 1: 1}]
