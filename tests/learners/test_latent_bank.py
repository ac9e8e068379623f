"""The learner of a gated latent bank: answers and gradients."""

import pytest
import torch

from gnm.learners import LearnerSettings, build_learner
from gnm.learners.base import Learner
from gnm.weights.backbones import load_backbone
from latent_banks import ASKED, BANK, METHOD, TURNS, written
from stock import (
    DOCUMENTS,
    INSTRUCTIONS,
    QUESTIONS,
    another,
    answer_ids,
    assert_same_answers,
    blocks,
    context_ids,
    prompt_ids,
)


def learner_of(backbone, amount: float = 0.0, **bank) -> Learner:
    """A learner with new weights; with an `amount` its slots are read, and make a difference."""
    learner = build_learner(LearnerSettings(**METHOD | {"bank": BANK | bank}), backbone, training=True)
    torch.nn.init.constant_(learner.bank.amount, amount)
    return learner


def row_of(turns, row):
    return [([documents[row]], [instructions[row]]) for documents, instructions in turns]


# --- answers


@torch.no_grad()
def test_an_untrained_bank_answers_as_an_empty_context_does_to_the_bit(tiny_family):
    learner = learner_of(tiny_family)
    plain = build_learner(LearnerSettings(method="in_context"), tiny_family)
    expected = plain.answer(plain.reset([3, 4]), ASKED, 4)
    assert learner.answer(learner.reset([3, 4]), ASKED, 4) == expected
    assert learner.answer(written(learner), ASKED, 4) == expected


@torch.no_grad()
def test_documents_instructions_and_their_order_make_a_difference(tiny):
    learner = learner_of(tiny, amount=5.0)
    first, other = row_of(TURNS, 0)
    unlike = [first], [other], [first, other], [other, first], [(first[0], ["Take nothing"])]
    answers = [learner.answer(written(learner, turns), ASKED[:1], 1)[0][0].nll for turns in unlike]
    answers.append(learner.answer(learner.reset([3]), ASKED[:1], 1)[0][0].nll)
    assert len({round(nll, 4) for nll in answers}) == len(answers)


@torch.no_grad()
def test_every_sequence_is_written_and_answered_as_if_alone(tiny_family):
    learner = learner_of(tiny_family, amount=5.0)
    state = written(learner)
    together = learner.answer(state, ASKED, 4)
    for row in range(2):
        alone = written(learner, row_of(TURNS, row))
        torch.testing.assert_close(alone.slots[0], state.slots[row], atol=1e-5, rtol=1e-5)
        assert_same_answers(together[row], learner.answer(alone, ASKED[row : row + 1], 4)[0])
        for answer, question in zip(together[row], ASKED[row], strict=True):
            assert_same_answers([answer], learner.answer(alone, [[question]], 4)[0])


@torch.no_grad()
def test_slots_are_made_of_the_stock_models_last_hidden_states(tiny_family):
    learner, stock = learner_of(tiny_family), another(tiny_family)
    chat, slots = learner.reader.chat, learner.bank.initial(1)
    for text in blocks(2):
        ids = torch.tensor([context_ids(chat, [text])])
        hidden = stock.model(ids).last_hidden_state[:, len(chat.preamble) :]
        slots = learner.bank.write(slots, hidden, torch.ones(hidden.shape[:2], dtype=torch.bool))
    turns = [([document], [instruction]) for document, instruction in zip(DOCUMENTS, INSTRUCTIONS, strict=True)]
    torch.testing.assert_close(written(learner, turns[:2]).slots, slots, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_answers_are_the_stock_models_with_what_is_recalled(tiny_family):
    """Every token's last hidden state recalls, those of the answer too: greedy, scores and loss."""
    learner, stock = learner_of(tiny_family, amount=5.0), another(tiny_family)
    state, chat = written(learner, row_of(TURNS, 1)), learner.reader.chat
    recall = learner.bank.recall(state.slots)

    def logits(ids):
        return stock.lm_head(recall(stock.model(torch.tensor([ids])).last_hidden_state[:, None]))[0, 0]

    for answer, question in zip(learner.answer(state, [list(QUESTIONS)], 4)[0], QUESTIONS, strict=True):
        prompt, expected = prompt_ids(chat, [], question), answer_ids(chat, question)
        scores = logits(prompt + expected)[len(prompt) - 1 : -1]
        assert answer.target_score == pytest.approx(float(scores[0, expected[0]]), abs=1e-4)
        nll = torch.nn.functional.cross_entropy(scores, torch.tensor(expected), reduction="sum")
        assert answer.nll == pytest.approx(float(nll), abs=5e-4)
        said = []
        while len(said) < 4 and (token := int(logits(prompt + said)[-1].argmax())) not in chat.end_of_turn:
            said.append(token)
        assert answer.text == learner.reader._text(said)


@torch.no_grad()
def test_the_loss_is_that_of_the_answers(tiny):
    learner = learner_of(tiny, amount=5.0)
    state = written(learner)
    loss, answers = learner.loss(state, ASKED), learner.answer(state, ASKED, 1)
    assert float(loss.total) == pytest.approx(sum(answer.nll for row in answers for answer in row), abs=1e-3)
    assert loss.right == [[answer.target_score > answer.other_score for answer in row] for row in answers]


@torch.no_grad()
def test_slots_are_float32_beside_a_backbone_in_bfloat16(tiny):
    low, high = (learner_of(one, amount=2.0) for one in (load_backbone("tiny", dtype="bfloat16"), tiny))
    assert written(low).slots.dtype == torch.float32
    answers = [learner.answer(written(learner), ASKED, 1)[0][0].nll for learner in (low, high)]
    assert answers[0] == pytest.approx(answers[1], rel=0.05)


@torch.no_grad()
def test_a_bank_costs_the_same_whatever_it_was_given(tiny):
    learner = learner_of(tiny)
    states = learner.reset([3, 4]), written(learner), written(learner, TURNS * 3)
    costs = [learner.cost(state, row, QUESTIONS[0]) for state in states for row in range(2)]
    assert len(set(costs)) == 1 and (costs[0].kept, costs[0].bytes) == (6, 6 * 16 * 4)
    plain = build_learner(LearnerSettings(method="no_memory"), tiny)
    read = plain.cost(plain.reset([3]), 0, QUESTIONS[0]).query_flops
    own = len(learner.reader._prompt(QUESTIONS[0]))
    assert costs[0].query_flops == read + learner.bank.recall_flops(own)


# --- gradients


def test_gradients_reach_the_whole_bank_and_nothing_else(tiny):
    learner = learner_of(tiny, amount=1.0)
    learner.loss(written(learner), ASKED).total.backward()
    own = {id(parameter) for parameter in learner.own_parameters().values()}
    # a bias of keys moves all scores of a query alike
    still = {"writing.key.bias", "reading.key.bias"}
    for name, parameter in learner.bank.named_parameters():
        assert parameter.grad is not None and (parameter.grad.abs().max() > 1e-7 or name in still), name
    assert all(parameter.grad is None for parameter in learner.parameters() if id(parameter) not in own)


def test_the_loss_of_a_write_is_that_of_its_slots_importance(tiny):
    learner = learner_of(tiny, sparsity=1.0, entropy=0.0)
    state = written(learner)
    loss = learner.write_loss(state, [])
    expected = learner.bank.score(state.slots).sigmoid().mean((1, 2)).sum()
    assert float(loss.detach()) == pytest.approx(float(expected.detach()), abs=1e-6)
    loss.backward()
    for parameter in (learner.bank.score.weight, learner.bank.update.weight, learner.bank.start):
        assert parameter.grad.abs().max() > 0


def test_a_cut_ends_gradients_at_earlier_documents_but_not_at_the_start(tiny):
    """With gradients_through: last the slots that a bank starts with learn from first documents."""
    learner = learner_of(tiny, amount=1.0)
    for turns, reached in (([], True), (TURNS[:1], False)):
        learner.zero_grad()
        state = learner.reset([3, 4])
        for documents, instructions in turns:
            state = learner.write(state, documents, instructions)
        state = learner.write(learner.detach(state), *TURNS[1])
        learner.loss(state, ASKED).total.backward()
        assert (learner.bank.start.grad is not None) == reached
