"""Keep gates: which stored segments a new document replaces."""

import math
from dataclasses import replace

import pytest
import torch
from pydantic import ValidationError

from gnm.data.labels import label_writes
from gnm.data.segments import split_segments
from gnm.data.types import Step
from gnm.learners import LearnerSettings, build_learner
from gnm.learners.memory import gated_parts
from gnm.memory import load_memory, save_memory
from gnm.memory.pool import PoolSettings
from gnm.models.gates.keep import KeepGate, Kept, keep_loss, segment_means
from gnm.models.gates.write import GateSettings
from gnm.models.memory_lm import MemoryLM
from gnm.models.write_settings import WriteSettings
from stock import QUESTIONS, first_scores, reader_of

FIRST = "Oslo is a big town\nThe horse is red\nA pipe of clay\n"
SECOND = "Seven green birds fly\n"


def reviser(backbone, pool=None, threshold=0.0, sharpness=60.0, border=0.95):
    """A memory that stores everything and drops what a new document repeats: the border is a cosine of 0.95."""
    reader = reader_of(backbone)
    settings = WriteSettings(gates=GateSettings(threshold=threshold, revise=True))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        lm = MemoryLM(reader.decoder, reader.chat.preamble, pool or PoolSettings(), settings)
    with torch.no_grad():
        lm.gating.keep_gate.sharpness.fill_(sharpness)
        lm.gating.keep_gate.bias.fill_(sharpness * border)
    return lm, reader


def write(lm, reader, memory, *texts):
    return lm.write(memory, reader.encode_segments([split_segments(text) for text in texts]))


def written(lm, reader, *texts):
    memory = lm.initial(torch.tensor([0]))
    for text in texts:
        memory = write(lm, reader, memory, text)
    return memory


# --- what goes


@torch.no_grad()
def test_a_segment_that_comes_again_replaces_the_one_that_is_stored(tiny):
    lm, reader = reviser(tiny)
    before = written(lm, reader, FIRST, SECOND)
    after = write(lm, reader, before, FIRST.split("\n")[0] + "\n")
    held = after.state.segments
    assert held(0).keys() == {1, 2} and held(1).keys() == {0} and held(2).keys() == {0}
    assert before.state.segments(0).keys() == {0, 1, 2}  # a memory is a value
    for side in ("keys", "values"):
        for ours, fresh in zip(getattr(after, side), getattr(lm.attach(after.state), side), strict=True):
            torch.testing.assert_close(ours, fresh)


@torch.no_grad()
def test_what_stays_is_read_with_its_strength_times_the_keep_gate(tiny):
    lm, reader = reviser(tiny, sharpness=2.0)
    before = written(lm, reader, FIRST)
    after = write(lm, reader, before, SECOND)
    kept = after.kept.logits.sigmoid()
    own = before.state.source[0] == 0
    assert ((kept[0][own] > 0.5) & (kept[0][own] < 1)).all() and (kept[0][~own] == 1).all()
    torch.testing.assert_close(after.state.strength[:, : kept.shape[1]], before.state.strength * kept)
    unchanged = torch.cat((before.state.strength, after.state.strength[:, kept.shape[1] :]), dim=1)
    states = after.state, replace(after.state, strength=unchanged)
    scores = [first_scores(reader, lm.prefix(lm.attach(state)), [list(QUESTIONS)])[0] for state in states]
    assert (scores[0] - scores[1]).abs().max() > 1e-4


@torch.no_grad()
def test_a_slot_stays_where_its_gate_is_one_half_or_more(tiny):
    """A text that replaces a segment and an instruction that takes it back have the same border: a logit of 0."""
    lm, reader = reviser(tiny)
    before = written(lm, reader, FIRST)
    state, near = before.state, torch.tensor([-0.001, 0.0, 0.001])
    taken = torch.where(state.source >= 0, near[state.segment.clamp(min=0)], -torch.inf)
    for after in (lm._without(before, taken), before.revised(Kept(-taken, state.source, state.segment))):
        assert after.state.segments(0).keys() == {0, 1} and (after.state.source < 0).sum() == (state.source < 0).sum()


@torch.no_grad()
def test_what_a_document_does_not_store_replaces_nothing(tiny):
    lm, reader = reviser(tiny, threshold=0.5)
    before = written(lm, reader, FIRST)
    lm.gating.gate.bias.fill_(-9.0)
    after = write(lm, reader, before, FIRST)
    assert after.state.segments(0) == before.state.segments(0) and not after.state.segments(1)
    torch.testing.assert_close(after.state.strength, before.state.strength)


@torch.no_grad()
def test_rows_are_revised_as_alone_whatever_stands_beside_them(tiny):
    lm, reader = reviser(tiny)
    rows = [(FIRST, "Oslo is a big town\n"), (SECOND, SECOND + "Two moons\n")]
    together = lm.initial(torch.tensor([0, 0]))
    for texts in zip(*rows, strict=True):
        together = write(lm, reader, together, *texts)
    for row, texts in enumerate(rows):
        alone = written(lm, reader, *texts).state
        valid = together.state.valid[row]
        for name in ("source", "segment", "strength"):
            ours, theirs = getattr(together.state, name)[row][valid], getattr(alone, name)[0][alone.valid[0]]
            torch.testing.assert_close(ours, theirs)
    assert together.state.segments(0, 0).keys() == {1, 2} and not together.state.segments(0, 1)


@torch.no_grad()
def test_a_revised_memory_is_saved_and_what_was_revised_stays_gone_when_its_document_is_forgotten(tiny, tmp_path):
    lm, reader = reviser(tiny)
    state = written(lm, reader, FIRST, FIRST.split("\n")[0] + "\n").state
    save_memory(tmp_path / "a.mem", state, "tiny")
    loaded, _ = load_memory(tmp_path / "a.mem", "tiny")
    assert all(torch.equal(tensor, loaded.tensors()[name]) for name, tensor in state.tensors().items())
    assert loaded.forget(1).segments(0).keys() == {1, 2}


# --- how it is decided and learned


def test_means_are_over_the_tokens_of_a_segment_and_over_nothing_else():
    hidden = torch.tensor([[[1.0], [3.0], [5.0], [100.0]]])
    means, there = segment_means(hidden, torch.tensor([[2, 2, 0, -1]]), 4)
    assert means[0, :, 0].tolist() == [5, 0, 2, 0] and there.tolist() == [[True, False, True, False]]


def test_the_nearest_new_segment_decides():
    gate = KeepGate(3, torch.device("cpu"))
    with torch.no_grad():
        gate.weight.copy_(torch.eye(3).repeat(22, 1)[:64])
    old = torch.tensor([[[1.0, 2.0, 3.0], [3.0, 2.0, 1.0]]])
    new = torch.tensor([[[2.0, 4.0, 6.0], [1.0, 5.0, 1.0], [3.0, 2.0, 1.0]]])
    logits = gate(old, new, torch.tensor([[True, True, False]]))[0]
    assert logits[0].item() == pytest.approx(55 - 60, abs=0.05)  # the same but for its scale
    assert logits[1] > 0  # its like is not there
    assert gate(old, new, torch.zeros(1, 3, dtype=torch.bool))[0].tolist() == [115, 115]


def test_the_loss_counts_what_is_revoked_and_what_still_holds_the_same():
    logits = torch.tensor([[torch.inf, 1.0, 2.0, -1.0], [torch.inf, torch.inf, 3.0, 1.0], [torch.inf] * 4])
    revoked = torch.tensor([[False, False, False, True], [False] * 4, [False] * 4])
    nowhere = torch.zeros(3, 4, dtype=torch.long)
    kept = Kept(logits, nowhere, nowhere)
    error = lambda logit: math.log1p(math.exp(-logit))  # noqa: E731 - of a slot that holds
    expected = ((error(1.0) + error(2.0)) / 2 + error(1.0)) / 2 + (error(3.0) + error(1.0)) / 2
    assert float(keep_loss(kept, revoked)) == pytest.approx(expected)


def test_answers_and_revocations_teach_the_keep_gate(tiny):
    lm, reader = reviser(tiny, sharpness=2.0)
    memory = written(lm, reader, FIRST, SECOND)
    for loss in (reader.loss(lm.prefix(memory), [list(QUESTIONS)]).total,
                 keep_loss(memory.kept, memory.kept.segment == 1)):  # fmt: skip
        lm.zero_grad()
        loss.backward(retain_graph=True)
        for parameter in lm.gating.keep_gate.parameters():
            assert parameter.grad.isfinite().all() and parameter.grad.abs().sum() > 0


def test_only_gates_that_learn_can_revise():
    with pytest.raises(ValidationError, match=r"gates\.revise goes with gates\.by: gate"):
        GateSettings(by="random", threshold=0.0, share=0.5, revise=True)


def test_a_learner_says_which_stored_segments_a_turned_document_revokes(tiny):
    settings = LearnerSettings(method="gnm", write={"gates": {"threshold": 0.0, "revise": True}})
    learner = build_learner(settings, tiny, training=True)
    torch.nn.init.constant_(learner.lm.gating.keep_gate.bias, 120.0)  # all stays

    def step(document, wanted, revokes=()):
        return Step(document, "Learn all of it", "all", "fact_all", None, (), frozenset(wanted), frozenset(revokes))

    steps = [
        step("Oslo is big\nA horse is red", ["Oslo is big"]),
        step("Birds are blue\nMilk is white", ["Milk is white"]),
        step("Oslo is small\nA horse is red", ["Oslo is small"], ["Oslo is big"]),
    ]
    state = learner.reset([0])
    for t, each in enumerate(steps):
        state = learner.write(state, [each.document], [each.instruction])
        loss = learner.write_loss(state, label_writes(steps)[t : t + 1])
    parts = gated_parts(steps[0].document, steps[0].instruction, "instruction_first")
    place = next(number for number, (text, _) in enumerate(parts) if "Oslo is big" in text)
    revoked = (state.kept.source == 0) & (state.kept.segment == place)
    assert revoked.sum() == len("Oslo is big\n")  # a token is a byte
    labels = label_writes(steps)[-1:]
    torch.testing.assert_close(loss, learner.selection_loss(labels) + keep_loss(state.kept, revoked))
