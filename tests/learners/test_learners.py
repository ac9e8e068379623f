"""The contract that every method keeps, and the registry of methods."""

import copy
import math

import pytest
import torch

from every_method import ASKED, FIXED_SIZE, METHODS, TURNS, learner_of, parts, row_of, written
from gnm.config import validate
from gnm.errors import ConfigError
from gnm.inference.chat import ChatFormat
from gnm.learners import LearnerSettings
from gnm.models.lora import LoraSettings, add_lora
from stock import QUESTIONS, another, assert_same_answers, stock_nll


def same(state, other):
    mine, theirs = parts(state), parts(other)
    return len(mine) == len(theirs) and all(
        torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b for a, b in zip(mine, theirs, strict=True)
    )


# --- the contract


@torch.no_grad()
@pytest.mark.parametrize("method", METHODS)
def test_a_write_gives_a_new_state_and_leaves_the_old(tiny, method):
    learner = learner_of(method, tiny)
    states = [learner.reset([3, 4])]
    for documents, instructions in TURNS:
        before = copy.deepcopy(states[-1])
        states.append(learner.write(states[-1], documents, instructions))
        learner.answer(states[-1], ASKED, 3)
        assert same(states[-2], before)
        assert same(states[-1], learner.write(states[-2], documents, instructions))
        assert same(states[-1], states[-2]) == (method == "no_memory")


@torch.no_grad()
@pytest.mark.parametrize("method", METHODS)
def test_every_sequence_is_answered_as_if_alone(tiny, method):
    learner = learner_of(method, tiny)
    together = learner.answer(written(learner), ASKED, 3)
    assert [len(row) for row in together] == [4, 1]
    for row in range(2):
        alone = written(learner, row_of(TURNS, row), seeds=[3 + row])
        assert_same_answers(together[row], learner.answer(alone, ASKED[row : row + 1], 3)[0])
        cost, lone = (learner.cost(s, r, QUESTIONS[0]) for s, r in ((written(learner), row), (alone, 0)))
        assert cost == lone


@torch.no_grad()
@pytest.mark.parametrize("method", METHODS)
def test_before_any_document_there_are_answers_too(tiny, method):
    learner = learner_of(method, tiny)
    state = learner.reset([0, 1])
    answers = learner.answer(state, ASKED, 3)
    assert [len(row) for row in answers] == [4, 1]
    if method != "dummy":
        chat, stock = ChatFormat.of(tiny.tokenizer), another(tiny)
        expected = [float(stock_nll(stock, chat, [], question)) for question in ASKED[0]]
        assert [a.nll for a in answers[0]] == pytest.approx(expected, abs=5e-4)
    assert learner.cost(state, 0, QUESTIONS[0]).kept >= 0


@pytest.mark.parametrize("method", METHODS)
def test_the_loss_is_the_answers_and_has_a_gradient(tiny, method):
    parameters = add_lora(tiny.model, LoraSettings(r=2, alpha=4), seed=0)
    with torch.no_grad():
        for parameter in parameters:
            parameter.copy_(torch.randn_like(parameter) * 0.1)
    learner = learner_of(method, tiny)
    parameters = parameters + list(learner.own_parameters().values()) if method != "dummy" else [learner.weight]
    assert {id(p) for p in learner.parameters() if p.requires_grad} == {id(p) for p in parameters}
    state = written(learner)
    total, tokens, right = learner.loss(state, ASKED)
    total.backward()
    assert any(p.grad is not None and p.grad.abs().max() > 0 for p in parameters)
    if method != "dummy":
        answers = [answer for row in learner.answer(state, ASKED, 1) for answer in row]
        assert tokens == sum(answer.tokens for answer in answers)
        assert total.item() == pytest.approx(sum(answer.nll for answer in answers), abs=1e-3)
    assert [len(row) for row in right] == [len(row) for row in ASKED]


@pytest.mark.parametrize("method", METHODS)
def test_a_cut_state_is_the_same_without_its_graph(tiny, method):
    add_lora(tiny.model, LoraSettings(r=2, alpha=4), seed=0)
    learner = learner_of(method, tiny)
    state = written(learner)
    cut = learner.detach(state)
    for ours, theirs in zip(learner.answer(cut, ASKED, 3), learner.answer(state, ASKED, 3), strict=True):
        assert_same_answers(ours, theirs)
    assert learner.cost(cut, 0, QUESTIONS[0]) == learner.cost(state, 0, QUESTIONS[0])
    slots = cut.state.slots if method in ("gnm", "gnm_ablation", "memoryllm") else None
    tensors = [slots] if slots is not None else [leaf for leaf in parts(cut) if isinstance(leaf, torch.Tensor)]
    assert not any(tensor.requires_grad for tensor in tensors)


@torch.no_grad()
@pytest.mark.parametrize("method", METHODS)
def test_no_questions_are_no_error(tiny, method):
    learner = learner_of(method, tiny)
    state = written(learner)
    assert learner.answer(state, [[], []], 3) == [[], []]
    loss = learner.loss(state, [[], []])
    assert (float(loss.total), loss.tokens, loss.right) == (0.0, 0, [[], []])


@torch.no_grad()
@pytest.mark.parametrize("method", METHODS)
def test_the_cost_grows_with_what_is_kept(tiny, method):
    """What has a fixed size keeps as much whatever it was given."""
    learner = learner_of(method, tiny, top_k=2)
    first = learner.reset([3, 4])
    states = [first, *(written(learner, (TURNS * 2)[:count]) for count in (1, 2, 4))]
    costs = [learner.cost(state, 0, QUESTIONS[0]) for state in states]
    assert all(math.isfinite(c.kept) and math.isfinite(c.bytes) and c.query_flops >= 0 for c in costs)
    grows = method not in ("no_memory", *FIXED_SIZE)
    assert (costs[0].kept < costs[1].kept < costs[2].kept < costs[3].kept) == grows
    assert (costs[0].bytes < costs[1].bytes < costs[2].bytes < costs[3].bytes) == grows
    if method != "dummy":
        assert (costs[1].query_flops < costs[2].query_flops) == grows
    if method.startswith("retrieval"):  # two pairs are read however many there are
        assert costs[3].query_flops < 1.5 * costs[2].query_flops


# --- the registry


@pytest.mark.parametrize(
    ("wrong", "hint"), [("gmn", "did you mean 'gnm'"), ("in_contxt", "did you mean 'in_context'"), ("%%", "known: gnm")]
)
def test_an_unknown_method_is_refused_with_the_nearest_name(tiny, wrong, hint):
    with pytest.raises(ConfigError, match=f"unknown method '{wrong}'.*{hint}"):
        learner_of(wrong, tiny)


@pytest.mark.parametrize(
    "wrong", [{"retriever": "bm52"}, {"top_k": 0}, {"order": "document_last"}, {"memory": {"capacty": 3}}]
)
def test_settings_that_make_no_sense_are_refused(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        validate({"method": "gnm"} | wrong, LearnerSettings, "params.yaml")


def test_the_ablation_alone_writes_without_gradient(tiny):
    through = {m: learner_of(m, tiny).lm.gradient_through_writing for m in ("gnm", "gnm_ablation", "memoryllm")}
    assert through == {"gnm": True, "gnm_ablation": False, "memoryllm": True}
