"""What holds of learners with a latent memory alone."""

import pytest
import torch

from every_method import ASKED, METHODS, TURNS, expected_texts, learner_of, row_of, written
from gnm.data.labels import label_writes
from gnm.data.segments import split_segments
from gnm.data.types import Step
from gnm.errors import MemoryFileError
from gnm.inference.chat import ChatFormat
from gnm.inference.prompts import block
from gnm.learners import LearnerSettings, build_learner
from gnm.learners.memory import gated_parts, in_block
from gnm.memory.checks import check_alike
from gnm.weights.backbones import load_backbone
from stock import QUESTIONS, assert_same_answers, prompt_ids


@torch.no_grad()
def test_a_pool_of_a_third_holds_a_third_and_answers(tiny_family):
    turns = TURNS * 3
    sizes = written(learner_of("gnm", tiny_family), turns).state.used()
    capacity = max(int(sizes.max()) // 3, 110)
    for eviction in ("random", "oldest"):
        learner = learner_of("gnm", tiny_family, memory={"capacity": capacity, "eviction": eviction})
        state = written(learner, turns)
        assert state.state.used().tolist() == [capacity, capacity]
        preamble = len(ChatFormat.of(tiny_family.tokenizer).preamble)
        assert learner.cost(state, 1, QUESTIONS[0]).kept == capacity + preamble
        answers = learner.answer(state, ASKED, 3)
        for row in range(2):
            alone = written(learner, row_of(turns, row), seeds=[3 + row])
            assert_same_answers(answers[row], learner.answer(alone, ASKED[row : row + 1], 3)[0])


@pytest.mark.parametrize("method", METHODS)
def test_what_can_never_be_written_is_told_before_any_work(tiny, method):
    """Only a memory has a pool that a document may not fit into."""
    learner = learner_of(method, tiny, memory={"capacity": 60})
    short, long = ("ab", "all"), ("a document that is longer than the pool", "all of it")
    learner.check([short[0]], [short[1]])
    if method in ("gnm", "gnm_ablation", "memoryllm"):
        with pytest.raises(MemoryFileError, match="the pool holds 60"):
            learner.check([short[0], long[0]], [short[1], long[1]])
    else:
        learner.check([long[0]], [long[1]])


@torch.no_grad()
def test_a_document_longer_than_the_window_is_told_before_any_work(tiny):
    with pytest.raises(MemoryFileError, match="9011 tokens; 8062 of the 8192 .* split the document"):
        learner_of("gnm", tiny).check(["a" * 8982], ["all"])


def test_memory_costs_are_the_slots_and_the_question(tiny):
    learner = learner_of("memoryllm", tiny)
    cost = learner.cost(written(learner), 0, QUESTIONS[0])
    chat = ChatFormat.of(tiny.tokenizer)
    tokens = len(prompt_ids(chat, expected_texts("memoryllm", None)[0], QUESTIONS[0]))
    question = len(prompt_ids(chat, [], QUESTIONS[0])) - len(chat.preamble)
    assert cost.kept == tokens - question
    assert cost.bytes == cost.kept * 3 * 48 * 4  # layers, width, bytes of a float


def test_a_learner_in_bfloat16_answers(tiny):
    backbone = load_backbone("tiny", dtype="bfloat16")
    for method in METHODS:
        learner, reference = learner_of(method, backbone), learner_of(method, tiny)
        with torch.no_grad():
            low, high = (one.answer(written(one), ASKED, 1)[0][0] for one in (learner, reference))
        if method != "text_notes":  # notes may differ in a letter
            assert low.nll == pytest.approx(high.nll, rel=0.05)


@torch.no_grad()
@pytest.mark.parametrize("order", ["instruction_first", "document_first"])
def test_a_reread_document_is_the_document_without_the_lines_that_were_left_out(tiny, order):
    lines = [f"* {word} is {word[::-1]}" for word in ("red", "tin", "old", "wet", "new", "hot")]
    document, instruction = "\n".join(lines), "Learn some. Leave out the rest."
    room = 3 * len(lines[0] + "\n") + (order == "instruction_first")  # a byte is a token; an empty line ends the block
    gates = {"by": "random", "threshold": 0.0, "slots": room, "reread": True}
    learner = learner_of("gnm", tiny, order=order, write={"gates": gates})
    for seed in range(50):
        state = learner.write(learner.reset([seed]), [document], [instruction])
        segments = learner.segments(state, 0, document, instruction)
        own = [part for part in segments if part.of_document]
        if own[-1].stored and all(part.stored in (0, part.tokens) for part in segments):
            break
    else:
        pytest.fail("no seed stores whole lines and the last of them")
    kept = "\n".join(part.text.strip() for part in own if part.stored)
    assert kept != document
    plain = learner_of("gnm", tiny, order=order)
    whole = plain.write(plain.reset([0]), [kept], [instruction]).state
    stored = [part.stored > 0 for part in segments if part.stored or not part.of_document for _ in range(part.tokens)]
    expected = whole.slots[:, :, whole.source[0] == 0][:, :, torch.tensor(stored)]
    torch.testing.assert_close(state.state.slots[:, :, state.state.source[0] == 0], expected)


@pytest.mark.parametrize("order", ["instruction_first", "document_first"])
@pytest.mark.parametrize("document", ["Ann is from Oslo, and Ben is from Rome.\n\n* Cars are red", "One", ""])
def test_gates_decide_on_the_clauses_of_a_document_and_on_its_instruction_as_a_whole(document, order):
    told = "Learn all of it, please, and say sorry about cars. Or not"
    parts = gated_parts(document, told, order)
    assert "".join(text for text, _ in parts) == block(document, told, order)
    assert "".join(text for text, of_document in parts if of_document).strip() == document
    assert sum(told in text for text, of_document in parts if not of_document) == 1
    assert len([text for text, of_document in parts if of_document]) == (3 if "," in document else bool(document))
    assert in_block([True] * len(split_segments(document)), False, order) == [of_document for _, of_document in parts]


def test_the_gate_of_an_instruction_learns_to_keep_rules_alone(tiny):
    """The instruction's own gate is to be open for a rule, shut otherwise, whatever the words of the document."""
    settings = LearnerSettings(method="gnm", write={"gates": {"threshold": 0.0}})
    gates = {}
    for is_rule in (True, False):
        learner = build_learner(settings, tiny, training=True)
        step = Step("Oslo is big", "Oslo is big", "all", "facts", None, (), frozenset({"Oslo is big"}), is_rule=is_rule)
        optimizer = torch.optim.SGD([*learner.own_parameters().values()], lr=3.0)
        for _ in range(30):
            state = learner.write(learner.reset([0]), [step.document], [step.instruction])
            optimizer.zero_grad()
            learner.write_loss(state, label_writes([step])).backward()
            optimizer.step()
        gates[is_rule] = state.decisions.logits[0].sigmoid().tolist()
    assert gates[True][0] > 0.8 and gates[False][0] < 0.2 and min(gates[True][1], gates[False][1]) > 0.6


ALL_STORED = {"gates": {"threshold": 0.0, "by": "random"}}
STORE = {"capacity": 60, "store": {"k": 2, "layer": 1}}


@torch.no_grad()
@pytest.mark.parametrize(
    ("backbone", "settings"),
    [("tiny", {}), ("tiny", {"write": ALL_STORED}), ("tiny", {"write": ALL_STORED, "memory": STORE}), ("tiny-gnm", {})],
)
def test_a_blank_memory_is_a_new_one_with_zeros_for_slots(backbone, settings):
    learner = build_learner(LearnerSettings(method="gnm", **settings), load_backbone(backbone, dtype="float32"))
    new, blank = learner.reset([0]).state, learner.lm.blank()
    ours, theirs = blank.tensors(), new.tensors()
    assert ours.keys() == theirs.keys() and not ours.pop("slots").any()
    assert blank.slots.shape == new.slots.shape and blank.slots.dtype == new.slots.dtype
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items())
    assert [each.tensors().keys() for each in blank.store or ()] == [each.tensors().keys() for each in new.store or ()]
    check_alike(blank, new)
