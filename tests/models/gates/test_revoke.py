"""Revoking: an instruction that stands alone takes back what earlier ones had stored."""

import pytest
import torch

from gnm.data.instructions import load_phrasings, revoking_instruction
from gnm.data.labels import label_writes
from gnm.data.segments import split_segments
from gnm.data.taxonomy import load_taxonomy
from gnm.data.types import Episode, Step
from gnm.inference.prompts import block, opening
from gnm.learners import LearnerSettings, build_learner
from gnm.learners.memory import gated_parts
from gnm.models import attention
from gnm.training.batches import with_revocations

FIRST, SECOND = "Oslo is big\nA horse is red\n", "Birds are blue\nMilk is white, and so is the snow\n"
TOLD = "Forget what you learned about horses."
CITIES = frozenset({"Oslo is big"})


@pytest.fixture
def learner(tiny):
    """Stores everything, and keeps what comes again."""
    settings = LearnerSettings(method="gnm", write={"gates": {"threshold": 0.0, "revise": True}})
    learner = build_learner(settings, tiny, training=True)
    lm = learner.lm
    with torch.no_grad():
        for gate in (lm.gating.gate, lm.gating.about_gate):  # so that a document's own gates are at hand to compare
            gate.weight.normal_(std=4.0, generator=torch.Generator().manual_seed(0))
            gate.bias.zero_()
        lm.gating.keep_gate.bias.fill_(120.0)
    return learner


def written(learner, *documents, seeds=(0,)):
    state = learner.reset(seeds)
    for row in documents:
        texts = row if isinstance(row, tuple) else (row,)
        state = learner.write(state, texts, ["Learn all of it"] * len(texts))
    return state


def logits_of(learner, state, told=TOLD):
    """The logits of the slots of `state` after one instruction for each row."""
    lm = learner.lm
    told = learner._encode_instructions([told] * state.state.batch)
    with lm._selecting(state.state.batch) as (_, preamble):
        return lm.gating.about(lm.decoder, preamble, state.state, told)


@torch.no_grad()
def test_a_stored_segment_is_read_as_if_it_stood_behind_the_instruction(learner):
    """The slots hold enough of the text: the gate is that of writing the segment alone under this instruction."""
    state = written(learner, FIRST, SECOND)
    logits = logits_of(learner, state)[0]
    for document, text in enumerate((FIRST, SECOND)):
        parts = [part for part, _ in gated_parts(text, "Learn all of it", "instruction_first")]
        for number in state.state.segments(document):
            alone = learner.reader.encode_segments([[opening(TOLD), parts[number]]])
            decided = learner.lm.write(learner.reset([0]), alone).decisions.logits[0, 1]
            mine = logits[(state.state.source[0] == document) & (state.state.segment[0] == number)]
            torch.testing.assert_close(mine, decided.expand_as(mine), atol=1e-4, rtol=1e-4)
    assert logits[state.state.source[0] < 0].eq(-torch.inf).all()


@torch.no_grad()
def test_what_a_segment_gets_depends_on_no_other_and_on_no_other_row(learner):
    alone, both = written(learner, SECOND), written(learner, FIRST, SECOND)
    one, two = logits_of(learner, alone)[0], logits_of(learner, both)[0]
    torch.testing.assert_close(one[alone.state.source[0] == 0], two[both.state.source[0] == 1], atol=1e-5, rtol=1e-5)
    beside = written(learner, (SECOND, FIRST), seeds=(0, 0))
    mine = logits_of(learner, beside)[0][beside.state.valid[0] & (beside.state.source[0] == 0)]
    torch.testing.assert_close(mine, one[alone.state.source[0] == 0], atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_training_reads_a_text_as_it_is_read_when_it_is_stored(learner):
    state = written(learner, (FIRST, SECOND), seeds=(0, 0))
    stored = logits_of(learner, state)
    text = learner.reader.encode_segments([split_segments(each.strip()) for each in (FIRST, SECOND)])
    trained = learner.lm.about(text, learner._encode_instructions([TOLD, TOLD]))
    for row, count in enumerate((2, 3)):
        for number in range(count):
            slots = stored[row][(state.state.segment[row] == number + 1) & (state.state.source[row] == 0)]
            if number + 1 < count:  # the last one has the line's end behind it in the block
                torch.testing.assert_close(slots, trained[row, number].expand_as(slots), atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_portions_give_what_one_pass_gives(learner, monkeypatch):
    state = written(learner, FIRST, SECOND)
    whole = logits_of(learner, state)
    monkeypatch.setattr(attention, "SCORES", 1)
    torch.testing.assert_close(logits_of(learner, state), whole)


@torch.no_grad()
def test_instructions_of_different_lengths_are_understood_as_alone(learner):
    told = [TOLD, "Drop it.", "Whatever you were told about birds so far no longer counts. Discard it."]
    rows = tuple([FIRST] * 3)
    after = learner.revoke(written(learner, rows, rows, seeds=(0, 0, 0)), told)
    for row, each in enumerate(told):
        alone = learner.revoke(written(learner, FIRST, FIRST), [each])
        strength = after.state.strength[row][after.state.valid[row]]
        torch.testing.assert_close(strength, alone.state.strength[0], atol=1e-5, rtol=1e-5)


def test_an_instruction_is_tokenised_as_in_front_of_a_document(smollm2):
    learner = build_learner(LearnerSettings(method="gnm"), smollm2)
    instruction = revoking_instruction("country", "test")
    alone = learner._encode_instructions([instruction]).ids[0]
    whole = learner.reader.encode_segments([split_segments(block(FIRST, instruction, "instruction_first"))]).ids[0]
    assert instruction.count(".") > 1 and whole[: len(alone)].tolist() == alone.tolist()


@torch.no_grad()
def test_an_instruction_that_takes_back_drops_what_it_is_about_and_nothing_else(learner):
    before = written(learner, FIRST, SECOND)
    after = learner.revoke(before, [TOLD])
    stays = 1 - logits_of(learner, before)[0].sigmoid()
    assert 0 < (stays < 0.5).sum() < (before.state.source >= 0).sum()
    kept = stays >= 0.5
    assert after.state.source.tolist() == before.state.source[:, kept].tolist()
    torch.testing.assert_close(after.state.strength, (before.state.strength * stays)[:, kept])
    for side in ("keys", "values"):
        for ours, fresh in zip(getattr(after, side), getattr(learner.lm.attach(after.state), side), strict=True):
            torch.testing.assert_close(ours, fresh)
    assert after.state.written == before.state.written == 2


@torch.no_grad()
def test_an_instruction_that_comes_with_a_document_takes_nothing_else_back(learner):
    before = written(learner, FIRST)
    assert learner.revoke(before, [TOLD]).state.segments(0) != before.state.segments(0)
    after = learner.write(before, [SECOND], [TOLD]).state
    assert after.segments(0) == before.state.segments(0) and after.segments(1)


def test_a_memory_without_keep_gates_writes_the_instruction_like_any_other(tiny):
    plain = build_learner(LearnerSettings(method="gnm"), tiny)
    state = plain.write(plain.reset([0]), [FIRST], ["Learn all of it"])
    told = plain.revoke(state, [TOLD])
    assert told.state.documents()[1] == len(f"Instruction: {TOLD}\n\n")  # a token is a byte
    with pytest.raises(TypeError, match="without keep gates"):
        plain.lm.revoke(state, plain._encode_instructions([TOLD]))


def test_training_reads_each_document_after_an_instruction_that_takes_back_what_it_taught(learner):
    known = load_phrasings()
    steps = [
        Step(FIRST, "Learn the cities.", "non_us_cities_or_states", "fact_subcategories", None, (), CITIES),
        Step(SECOND, "Learn all of it.", "all", "fact_subcategories", None, ()),
    ]
    labels = label_writes(with_revocations(Episode(tuple(steps), False)).steps)
    [[(cities, _)], [(everything, _)]] = [own.revocations for own in labels]
    group = load_taxonomy().label("non_us_cities_or_states")
    assert cities in {text.format(group=group) for text in known["revocation"].train}
    assert everything in known["revocation_all"].train
    loss = learner._revoke_loss(labels)
    parts = [split_segments(text.strip()) for text in (FIRST, SECOND)]
    logits = learner.lm.about(learner.reader.encode_segments(parts), learner._encode_instructions([cities, everything]))
    first, second = logits[0, :2], logits[1, :3]
    balanced = torch.nn.functional.softplus(-first[0]) / 2 + torch.nn.functional.softplus(first[1]) / 2
    torch.testing.assert_close(loss, balanced + torch.nn.functional.softplus(-second).mean())
    loss.backward()
    assert learner.lm.gating.about_gate.weight.grad.abs().sum() > 0
    assert float(learner._revoke_loss([])) == 0
