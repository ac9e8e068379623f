"""Refuse gates: the mark that stored segments get whose facts are to be refused."""

import pytest
import torch
from pydantic import ValidationError

from gated_memories import ASKED, LINES, gated, own, tokens_of, write, written
from gnm.data.labels import label_writes
from gnm.data.types import Step
from gnm.learners import LearnerSettings, build_learner
from gnm.models.gates.refuse import RefuseGate, with_refusal
from gnm.models.gates.write import GateSettings, decide

TEXTS = [LINES, "Instruction: Learn it.\nDocument:\n* Kiel is old\n\n"]


def marking(backbone, **gates):
    """A memory that stores everything, with random numbers as mark and refuse gate, which tell segments apart. Its
    gates read layer 1 of 3, so layer 2 is marked."""
    lm, reader = gated(backbone, refuse=True, threshold=0.0, layer=1, **gates)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        refuse = lm.gating.refuse_gate
        refuse.gate.weight.copy_(torch.randn(refuse.gate.weight.shape, generator=generator) * 5)
        refuse.gate.bias.fill_(6.5)
        refuse.mark.copy_(torch.randn(refuse.mark.shape, generator=generator))
    return lm, reader


@torch.no_grad()
def test_the_slots_of_the_document_are_marked_as_strongly_as_the_gate_says(tiny):
    lm, reader = marking(tiny)
    plain, _ = gated(tiny, threshold=0.0, layer=1)
    marked, bare = written(lm, reader, [LINES]), written(plain, reader, [LINES])
    decisions, text = marked.decisions, tokens_of(reader, [LINES])
    gates = decisions.refusal[0].sigmoid()
    assert gates.max() - gates.min() > 0.2
    layers, used = len(lm.decoder.layers), marked.state.source[0] == 0
    stored, numbers = text.is_document[0].nonzero()[:, 0], text.segment[0, text.is_document[0]]
    ours, theirs = marked.state.slots[0][:, used], bare.state.slots[0][:, bare.state.source[0] == 0][:, stored]
    assert ours.shape == theirs.shape and layers == 3, "the instruction's are not stored"
    for place, number in enumerate(numbers.tolist()):
        for layer in range(layers):
            size = theirs[layer, place].square().mean().sqrt() * (gates[number] if layer == 2 else 0)
            expected = theirs[layer, place] + size * lm.gating.refuse_gate.mark[layer]
            torch.testing.assert_close(ours[layer, place], expected, atol=1e-5, rtol=1e-5)


def test_an_instruction_is_stored_unless_marks_tell_it():
    """Segment 0 is the instruction, 1 and 2 are the document's; a row is one try."""
    segment = torch.tensor([[0, 0, 1, 2, -1]]).expand(4, -1)
    logits = torch.tensor([[4.0, 4.0, 4.0], [4.0, 4.0, 4.0], [4.0, 4.0, -4.0], [-4.0, 4.0, 4.0]])
    refusal = torch.tensor([[-9.0, -9.0, 0.1], [9.0, -0.1, -9.0], [-9.0, -9.0, 9.0], [-9.0, 9.0, -9.0]])
    decided = with_refusal(decide(logits, segment, GateSettings()), refusal, segment > 0)
    assert decided.stored.int().tolist() == [
        [0, 0, 1, 1, 0],  # a clause is marked
        [1, 1, 1, 1, 0],  # none is, though the gate fires on the instruction
        [1, 1, 1, 0, 0],  # the one that would be is not stored
        [0, 0, 1, 1, 0],  # no rule to begin with
    ]
    assert torch.equal(decided.refusal, refusal)


def test_the_layers_that_gates_and_search_keys_read_have_no_mark():
    refuse = RefuseGate(6, 4, 3, torch.device("cpu"))
    refuse.mark.data.fill_(1.0)
    slots = torch.full((1, 6, 2, 4), 3.0)
    marked = refuse(slots, torch.tensor([[1.0, 0.5]]))
    assert marked[0, :, 0, 0].tolist() == [3, 3, 6, 3, 6, 6] and marked[0, 4, 1].tolist() == [4.5] * 4


@torch.no_grad()
def test_a_gate_that_marks_nothing_leaves_slots_as_they_would_be_without_it_to_the_bit(tiny):
    lm, reader = marking(tiny)
    lm.gating.refuse_gate.gate.bias.fill_(-60.0)
    plain, _ = gated(tiny, threshold=0.0, layer=1)
    for ours, theirs in zip(
        own(written(lm, reader, TEXTS).state), own(written(plain, reader, TEXTS).state), strict=True
    ):
        assert torch.equal(ours, theirs)


@torch.no_grad()
@pytest.mark.parametrize("reread", [False, True])
def test_rows_of_a_batch_are_marked_as_alone(tiny, reread):
    lm, reader = marking(tiny, reread=reread)
    together = write(lm, reader, lm.initial(torch.tensor([5, 6])), TEXTS).state
    for row, text in enumerate(TEXTS):
        alone = written(lm, reader, [text], seed=5 + row).state
        for ours, theirs in zip(own(together, row), own(alone), strict=True):
            torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_what_gates_decide_of_what_is_stored_does_not_depend_on_marks(tiny):
    lm, reader = marking(tiny, revise=True)
    lm.gating.keep_gate.sharpness.fill_(60.0)
    lm.gating.keep_gate.bias.fill_(57.0)
    told = reader.encode(["Forget the old."])
    found = []
    for scale in (1.0, 0.0):
        lm.gating.refuse_gate.mark.mul_(scale)
        memory = written(lm, reader, [LINES, LINES])
        back = lm.revoke(memory, told)
        found.append((memory.kept.logits, memory.decisions.logits, back.kept.logits, memory.state.slots))
    for ours, theirs in zip(*(each[:3] for each in found), strict=True):
        assert torch.equal(ours, theirs)
    assert not torch.equal(found[0][3], found[1][3]), "the slots differ"


def test_answers_teach_the_mark_and_the_gate(tiny):
    lm, reader = marking(tiny)
    reader.loss(lm.prefix(written(lm, reader, [LINES])), ASKED).total.backward()
    grad = lm.gating.refuse_gate.mark.grad.abs().sum(-1)
    assert (grad > 0).tolist() == [False, False, True]
    assert lm.gating.refuse_gate.gate.weight.grad.abs().sum() > 0


def test_the_loss_asks_which_stored_segments_are_refused(tiny):
    """What is not stored counts neither way, and both kinds weigh the same."""
    settings = LearnerSettings.model_validate(
        {
            "method": "gnm",
            "write": {"gates": {"threshold": 0.0, "refuse": True}},
            "gate_training": {"segments": 0.0, "refuse": 2.0},
        }
    )
    learner = build_learner(settings, tiny, training=True)
    refuse = learner.lm.gating.refuse_gate
    parts = ["Oslo is big.", "Rome is old.", "Bern is small.", "Kiel is far."]

    def loss(bias: float, refused: set[str], wanted: set[str]) -> float:
        refuse.gate.bias.data.fill_(bias)
        step = Step("\n".join(parts), "Learn.", "all", "all", None, (), frozenset(wanted), refused=frozenset(refused))
        return learner.selection_loss(label_writes([step])).item()

    yes, no = -torch.tensor(1.5).sigmoid().log().item(), -torch.tensor(-1.5).sigmoid().log().item()
    assert loss(1.5, {parts[0]}, {*parts[:3]}) == pytest.approx(2 * (yes + no) / 2, rel=1e-4)
    assert loss(1.5, {parts[0]}, {parts[0]}) == pytest.approx(2 * yes, rel=1e-4)
    assert loss(1.5, set(), {parts[2]}) == pytest.approx(2 * no, rel=1e-4)
    assert loss(1.5, {parts[3]}, set()) == 0


def test_a_learner_says_of_each_clause_how_surely_it_is_to_be_refused(tiny):
    settings = LearnerSettings.model_validate({"method": "gnm", "write": {"gates": {"threshold": 0.0, "refuse": True}}})
    learner = build_learner(settings, tiny, training=True)
    learner.lm.gating.refuse_gate.gate.bias.data.fill_(1.5)
    state = learner.write(learner.reset([0]), ["Oslo is big.\nRome is old."], ["Refuse all."])
    told, *clauses = learner.segments(state, 0, "Oslo is big.\nRome is old.", "Refuse all.")
    assert told.refusal == 0 and not told.of_document
    assert [each.refusal for each in clauses] == pytest.approx([torch.tensor(1.5).sigmoid().item()] * len(clauses))


def test_an_untrained_gate_refuses_nothing(tiny):
    lm, reader = gated(tiny, refuse=True, threshold=0.0)
    assert (written(lm, reader, [LINES]).decisions.refusal.sigmoid() < 0.1).all()


def test_only_gates_that_learn_can_refuse():
    with pytest.raises(ValidationError, match=r"gates\.refuse goes with gates\.by: gate"):
        GateSettings(by="random", threshold=0.0, share=0.5, refuse=True)
