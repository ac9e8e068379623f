"""Write gates: what is stored, and how it is read."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from gated_memories import ASKED, LINES, LOGITS, SEGMENT, gated, own, tokens_of, write, written
from gnm.data.segments import split_segments
from gnm.memory.pool import PoolSettings
from gnm.models.gates.write import Decisions, GateSettings, GateTraining, decide, gate_loss, segment_ends
from gnm.models.memory_lm import MemoryLM
from gnm.models.tokens import TokenBatch
from gnm.models.write_settings import WriteSettings
from stock import blocks, first_scores


def test_every_limit_that_is_set_holds_and_the_strongest_come_first():
    def stored(**settings):
        return decide(LOGITS, SEGMENT, GateSettings(**settings)).stored.int().tolist()

    assert stored() == [[0, 0, 1, 1, 1, 1, 0], [1, 0, 0, 0, 0, 0, 0]]  # gates above one half
    assert stored(threshold=0.8) == [[0, 0, 1, 1, 1, 0, 0], [1, 0, 0, 0, 0, 0, 0]]
    assert stored(threshold=0.0) == [[1, 1, 1, 1, 1, 1, 0], [1] * 7]
    assert stored(threshold=0.0, share=0.5) == [[0, 0, 1, 1, 1, 0, 0], [1, 0, 0, 0, 1, 1, 1]]
    assert stored(threshold=0.0, slots=2) == [[0, 0, 0, 1, 1, 0, 0], [1, 0, 0, 0, 0, 0, 1]]
    assert stored(threshold=0.0, slots=9, share=0.01) == [[0, 0, 0, 0, 1, 0, 0], [1, 0, 0, 0, 0, 0, 0]]
    few = decide(LOGITS, SEGMENT, GateSettings(), capacity=1).stored
    assert few.sum(-1).tolist() == [1, 1]  # never more than the pool holds


@given(st.lists(st.floats(-5, 5), min_size=3, max_size=3), st.integers(1, 8), st.floats(0.01, 1.0), st.floats(0, 0.9))
def test_no_stored_token_is_weaker_than_one_left_out_for_room(logits, slots, share, threshold):
    decided = decide(torch.tensor([logits]), SEGMENT[:1], GateSettings(slots=slots, share=share, threshold=threshold))
    strength, kept = decided.strength[0], decided.stored[0]
    assert kept.sum() <= min(slots, -(-6 * share // 1))
    assert (strength[kept] >= threshold).all() and not kept[-1]
    could = strength[:-1][~kept[:-1] & (strength[:-1] >= threshold)]
    if kept.any() and len(could):
        assert could.max() <= strength[kept].min()


def test_a_gate_is_read_off_the_end_of_its_segment():
    assert segment_ends(SEGMENT, 3).tolist() == [[1, 4, 5], [0, 6, 0]]


@torch.no_grad()
def test_the_end_of_a_segment_decides_and_nothing_after_it(tiny):
    """Other words later in the text leave the gates before them as they are."""
    lm, reader = gated(tiny)
    first = written(lm, reader, ["Oslo is big\nIt is cold\nIt is red\n"]).decisions.logits[0]
    other = written(lm, reader, ["Oslo is big\nIt is cold\nA horse\n"]).decisions.logits[0]
    torch.testing.assert_close(first[:2], other[:2])
    assert abs(first[2] - other[2]) > 1e-3


@torch.no_grad()
def test_decisions_taken_alone_are_those_of_a_write_whatever_was_written_before(tiny):
    lm, reader = gated(tiny)
    texts = blocks(2)
    memory = write(lm, reader, lm.initial(torch.tensor([0])), texts[:1])
    of_write, alone = write(lm, reader, memory, texts[1:]).decisions, lm.decisions(tokens_of(reader, texts[1:]))
    torch.testing.assert_close(alone.logits, of_write.logits)
    assert torch.equal(alone.stored, of_write.stored) and torch.equal(alone.segment, of_write.segment)


def test_what_is_weak_is_not_in_the_memory(tiny):
    lm, reader = gated(tiny, threshold=0.0, share=0.5)
    memory = written(lm, reader, blocks(3))
    everything = MemoryLM(lm.decoder, lm.preamble, PoolSettings(), WriteSettings(reads="nothing"))
    whole = everything.write(everything.initial(torch.tensor([0])), reader.encode(blocks(3)[2:])).state
    kept = memory.decisions.stored[0]
    assert kept.sum() == kept.numel() // 2
    stored = memory.state.slots[0][:, (memory.state.source == 2)[0]]
    torch.testing.assert_close(stored, whole.slots[0][:, (whole.source == 0)[0]][:, kept])


@torch.no_grad()
@pytest.mark.parametrize("reads", ["nothing", "all"])
def test_what_is_reread_is_written_as_if_the_rest_had_never_been_there(tiny, reads):
    lm, reader = gated(tiny, reread=True, threshold=0.0, share=0.5)
    lm.write_settings = lm.write_settings.model_copy(update={"reads": reads})
    everything = MemoryLM(lm.decoder, lm.preamble, PoolSettings(), WriteSettings(reads=reads))
    text = tokens_of(reader, [LINES])
    memory = write(lm, reader, lm.initial(torch.tensor([0])), [LINES])
    kept, framing = memory.decisions.stored[0], text.segment[0] < 2
    assert kept.any() and (kept | framing).sum() < kept.numel()
    short = text.ids[:, kept | framing]
    text = TokenBatch.of(short, torch.ones_like(short, dtype=torch.bool))
    whole = everything.write(everything.initial(torch.tensor([0])), text)
    there = whole.state.slots[0][:, (whole.state.source == 0)[0]][:, kept[kept | framing]]
    torch.testing.assert_close(memory.state.slots[0][:, (memory.state.source == 0)[0]], there)


@torch.no_grad()
@pytest.mark.parametrize("reread", [False, True])
def test_other_words_in_what_is_left_out_change_nothing_of_what_is_reread_to_the_bit(tiny, reread):
    """Random gates don't look at words, so the same lines are stored of both documents."""
    lm, reader = gated(tiny, by="random", threshold=0.0, share=0.4, reread=reread)
    memory = write(lm, reader, lm.initial(torch.tensor([0])), [LINES])
    lines, stored = split_segments(LINES), memory.decisions.stored[0]
    gone = [number for number in range(2, len(lines)) if not stored[memory.decisions.segment[0] == number].any()]
    assert gone and gone[0] < int(memory.decisions.segment[0][stored].max())  # a stored line has read it
    other = "".join(line.swapcase() if number in gone else line for number, line in enumerate(lines))
    assert other != LINES and len(other) == len(LINES)
    changed = write(lm, reader, lm.initial(torch.tensor([0])), [other])
    assert torch.equal(changed.decisions.stored, memory.decisions.stored)
    assert torch.equal(changed.state.slots, memory.state.slots) == reread


@torch.no_grad()
def test_rereading_nothing_stores_nothing(tiny):
    lm, reader = gated(tiny, reread=True, threshold=0.999)
    lm.gating.gate.weight.zero_()
    empty = lm.initial(torch.tensor([0, 1]))
    memory = write(lm, reader, empty, [LINES, "Short.\nVery.\nAnd low.\n"])
    assert torch.equal(memory.state.used(), empty.state.used()) and memory.state.written == 1


@torch.no_grad()
def test_open_gates_of_strength_one_are_no_gates(tiny):
    """`random` with room for all stores every slot and reads it in full."""
    lm, reader = gated(tiny, by="random", threshold=0.0)
    everything = MemoryLM(lm.decoder, lm.preamble, PoolSettings(), WriteSettings(reads="nothing"))
    texts = blocks(3)
    plain = everything.initial(torch.tensor([0]))
    for text in texts:
        plain = everything.write(plain, reader.encode([text]))
    ours = first_scores(reader, lm.prefix(written(lm, reader, texts)), ASKED)[0]
    torch.testing.assert_close(ours, first_scores(reader, everything.prefix(plain), ASKED)[0])


@torch.no_grad()
def test_strength_is_the_weight_of_a_slot_against_others(tiny):
    """Attention to a slot of strength g is g times what it would be beside the others: half and half is one whole."""
    lm, reader = gated(tiny, threshold=0.0)
    memory = written(lm, reader, blocks(1))
    state = memory.state
    twice = replace(
        state,
        slots=torch.cat((state.slots, state.slots), 2),
        valid=torch.cat((state.valid, state.valid), 1),
        source=torch.cat((state.source, state.source), 1),
        strength=torch.cat((state.strength, state.strength), 1) / 2,
    )
    prefix = lm.prefix(lm.attach(state))
    positions = state.positions().repeat(1, 2)
    keys, values = lm.decoder.project(twice.slots)
    halves = lm.decoder.rotated(keys, values, twice.valid, positions, twice.strength.log())
    torch.testing.assert_close(
        first_scores(reader, prefix, ASKED)[0], first_scores(reader, halves, ASKED)[0], atol=1e-4, rtol=0
    )


@torch.no_grad()
@pytest.mark.parametrize("reread", [False, True])
@pytest.mark.parametrize("by", ["gate", "random"])
def test_rows_of_a_batch_are_written_as_alone(tiny, by, reread):
    lm, reader = gated(tiny, by=by, reread=reread, **({"threshold": 0.0, "share": 0.5} if by == "random" else {}))
    rows = [blocks(2), ["Short.\nVery.\n", blocks(3)[2] * 3]]
    together = lm.initial(torch.tensor([5, 6]))
    for texts in zip(*rows, strict=True):
        together = write(lm, reader, together, texts)
    for row, texts in enumerate(rows):
        alone = written(lm, reader, texts, seed=5 + row).state
        for ours, theirs in zip(own(together.state, row), own(alone), strict=True):
            torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


def test_gates_are_refused_where_they_make_no_sense():
    with pytest.raises(ValidationError, match="random goes by share or slots"):
        GateSettings(by="random")
    with pytest.raises(ValidationError, match="goes with write.tap: inputs"):
        WriteSettings(tap="outputs", tokens=4, gates=GateSettings())


# --- training


def test_the_loss_is_the_sum_of_its_terms_document_by_document():
    wanted = torch.tensor([[False, True, False], [True, False, True]])
    told = torch.tensor([[False, False, True], [True, False, False]])  # counts half
    decisions = Decisions(LOGITS, SEGMENT, SEGMENT >= 0)
    gates = LOGITS.double().sigmoid()
    rows = [(gates[0], [2, 3, 1], [0, 1, 0]), (gates[1, :2], [1, 6], [1, 0])]

    def per_document(term):
        return sum(term(g, torch.tensor(n).double(), torch.tensor(w).double()) for g, n, w in rows)

    of_documents = -(gates[0, 1].log() + (1 - gates[0, 0]).log()) / 2 - (1 - gates[1, 1]).log()
    errors = of_documents - 0.5 * ((1 - gates[0, 2]).log() + gates[1, 0].log())
    entropy = per_document(lambda g, n, w: -(g * g.log() + (1 - g) * (1 - g).log()).mean())
    above = per_document(lambda g, n, w: ((g * n).sum() / n.sum() - 0.1).clamp(min=0) ** 2)
    for weights, expected in (((1, 0, 0), errors), ((0, 1, 0), above), ((0, 0, 1), entropy)):
        settings = GateTraining(**dict(zip(("segments", "budget", "entropy"), weights, strict=True)), share=0.1)
        assert float(gate_loss(decisions, wanted, told, settings)) == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.parametrize("reread", [False, True])
def test_answers_teach_the_gates_of_what_is_stored(tiny, reread):
    lm, reader = gated(tiny, reread=reread)
    memory = written(lm, reader, blocks(1))
    reader.loss(lm.prefix(memory), ASKED).total.backward()
    assert lm.gating.gate.weight.grad.abs().sum() > 0 and lm.gating.gate.bias.grad.abs() > 0
