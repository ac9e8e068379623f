"""With gates documents are written independently: their order, merging, forgetting to the bit."""

import pytest
import torch

from gated_memories import ASKED, gated, write, written
from gnm.memory import merge
from gnm.memory.pool import PoolSettings
from gnm.memory.state import PREAMBLE
from gnm.models.memory_lm import MemoryLM
from gnm.models.write_settings import WriteSettings
from stock import blocks, first_scores


@torch.no_grad()
@pytest.mark.parametrize("gates", [None, {}, {"reread": True}])
def test_forgetting_leaves_what_there_would_be_without_the_document_to_the_bit(tiny, gates):
    lm, reader = gated(tiny, **(gates or {}))
    if gates is None:
        lm = MemoryLM(lm.decoder, lm.preamble, PoolSettings(), WriteSettings(reads="nothing"))
    first, second = ([part] for part in blocks(2))

    def of(*texts):
        memory = lm.initial(torch.tensor([0]))
        for text in texts:
            if gates is None:
                memory = lm.write(memory, reader.encode(text))
            else:
                memory = write(lm, reader, memory, text)
        return memory.state

    left, alone = of(first, second).forget(0), of(second)
    for name in ("slots", "valid", "strength"):
        ours, theirs = getattr(left, name), getattr(alone, name)
        assert ours is theirs is None or torch.equal(ours, theirs)
    scores = [first_scores(reader, lm.prefix(lm.attach(state)), ASKED)[0] for state in (left, alone)]
    assert torch.equal(*scores)


@torch.no_grad()
def test_two_memories_merge_to_the_one_that_was_given_all(tiny):
    lm, reader = gated(tiny)
    texts = blocks(3)
    merged = merge(written(lm, reader, texts[:1]).state, written(lm, reader, texts[1:]).state, lm.pool)
    whole = written(lm, reader, texts).state
    assert merged.written == 3 and merged.documents() == whole.documents()
    for name in whole.tensors():
        assert torch.equal(getattr(merged, name), getattr(whole, name)), name


@torch.no_grad()
def test_a_merged_pool_that_is_too_full_evicts(tiny):
    lm, reader = gated(tiny, PoolSettings(capacity=40, eviction="oldest"), threshold=0.0)
    a, b = (written(lm, reader, [text]).state for text in blocks(2))
    merged = merge(a, b, lm.pool)
    assert merged.used().tolist() == [40]
    assert merged.source[0][merged.valid[0]].tolist()[-1] == 1 and (merged.source == PREAMBLE).any()


@torch.no_grad()
def test_shared_positions_leave_no_trace_of_the_order(tiny):
    lm, reader = gated(tiny)
    texts = blocks(3)
    for positions, alike in (("in_order", False), ("shared", True)):
        lm.pool = PoolSettings(positions=positions)
        scores = [
            first_scores(reader, lm.prefix(written(lm, reader, order)), ASKED)[0] for order in (texts, texts[::-1])
        ]
        assert torch.allclose(*scores, atol=1e-4) == alike


@torch.no_grad()
def test_weakest_first_keeps_the_strongest_documents_slots(tiny):
    lm, reader = gated(tiny, PoolSettings(capacity=30, eviction="weakest"), threshold=0.0, share=0.3)
    before, after = (written(lm, reader, blocks(count)).state for count in (1, 2))
    new = int((after.source == 1).sum())
    kept = after.strength[after.valid & (after.source == 0)]
    old = before.strength[before.source == 0]
    assert kept.numel() == 30 - new and torch.equal(kept.sort().values, old.sort().values[-kept.numel() :])
