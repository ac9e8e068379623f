"""Answers and losses of a reader against the stock model, in batches and alone."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gnm.inference.questions import Question
from gnm.memory.pool import PoolSettings
from gnm.models import attention, flops
from gnm.models.decoder import Decoder
from gnm.models.memory_lm import MemoryLM
from gnm.models.write_settings import WriteSettings
from gnm.weights.backbones import load_backbone
from read_prefixes import TEXTS, context_prefix
from stock import (
    DOCUMENTS,
    QUESTIONS,
    another,
    answer_ids,
    assert_same_answers,
    blocks,
    context_ids,
    first_scores,
    plain_sdpa,
    prompt_ids,
    reader_of,
    stock_greedy,
    stock_logits,
    stock_nll,
)

ASKED = [list(QUESTIONS), [QUESTIONS[2]], list(QUESTIONS[:2])]


def memory_prefix(reader, rows):
    """What questions read after `rows` of texts were written into memories that read everything."""
    lm = MemoryLM(reader.decoder, reader.chat.preamble, PoolSettings(), WriteSettings(reads="all"))
    memory = lm.initial(torch.arange(len(rows)))
    for turn in range(max(map(len, rows))):
        memory = lm.write(memory, reader.encode([row[turn] if turn < len(row) else "" for row in rows]))
    return lm.prefix(memory)


PREFIXES = [memory_prefix, context_prefix]


def check_answers(answers, stock, chat, texts, asked, max_new_tokens):
    """Every answer of one state against the stock model with `texts` in its context."""
    assert len(answers) == len(asked)
    for answer, question in zip(answers, asked, strict=True):
        prompt = prompt_ids(chat, texts, question)
        scores = stock_logits(stock, prompt)[-1]
        assert answer.text == " ".join(map(str, stock_greedy(stock, chat, prompt, max_new_tokens)))
        first = [chat.encode(text)[0] for text in (question.target, question.other)]
        assert [answer.target_score, answer.other_score] == pytest.approx(scores[first].tolist(), abs=1e-4)
        assert answer.nll == pytest.approx(float(stock_nll(stock, chat, texts, question)), abs=5e-4)
        assert answer.tokens == len(answer_ids(chat, question))


@torch.no_grad()
@pytest.mark.parametrize("prefix_of", PREFIXES)
def test_answers_are_the_stock_models_over_the_text_in_context(tiny_family, prefix_of):
    ours, stock = reader_of(tiny_family), another(tiny_family)
    answers = ours.answer(prefix_of(ours, TEXTS), ASKED, max_new_tokens=5)
    for row, texts, asked in zip(answers, TEXTS, ASKED, strict=True):
        check_answers(row, stock, ours.chat, texts, asked, max_new_tokens=5)


@torch.no_grad()
def test_answers_of_smollm2_are_the_stock_models(smollm2):
    ours = reader_of(smollm2)
    answers = ours.answer(memory_prefix(ours, TEXTS[:2]), [list(QUESTIONS[:1])] * 2, max_new_tokens=2)
    with plain_sdpa(smollm2.model) as stock:
        check_answers(answers[0], stock, ours.chat, TEXTS[0], QUESTIONS[:1], max_new_tokens=2)


@torch.no_grad()
def test_an_answer_ends_where_the_model_ends_its_turn(tiny_family):
    """Any of the ids that end a turn ends the answer in which it is said, and no other; it is no part of the answer."""
    stock, chat = another(tiny_family), reader_of(tiny_family).chat
    prompts = [prompt_ids(chat, TEXTS[1], question) for question in QUESTIONS]
    said = [stock_greedy(stock, chat, prompt, 5) for prompt in prompts]
    counts = {token: sum(token in tokens for tokens in said) for tokens in said for token in tokens}
    end = next(token for token, count in counts.items() if count < len(said))
    ours = reader_of(tiny_family, end_of_turn=[chat.end_of_turn[0], end])
    expected = [stock_greedy(stock, ours.chat, prompt, 5) for prompt in prompts]
    assert expected != said and len({len(tokens) for tokens in expected}) > 1
    answers = ours.answer(memory_prefix(ours, TEXTS[1:2]), [list(QUESTIONS)], max_new_tokens=5)[0]
    assert [a.text for a in answers] == [" ".join(map(str, tokens)) for tokens in expected]


@torch.no_grad()
@pytest.mark.parametrize("prefix_of", PREFIXES)
def test_batched_is_one_by_one(tiny_family, prefix_of):
    """A state beside others, a question beside others, or each alone: the same answers."""
    ours = reader_of(tiny_family)
    together = ours.answer(prefix_of(ours, TEXTS), ASKED, max_new_tokens=4)
    for row, texts, asked in zip(together, TEXTS, ASKED, strict=True):
        alone = prefix_of(ours, [texts])
        assert_same_answers(row, ours.answer(alone, [asked], 4)[0])
        assert_same_answers(row, [ours.answer(alone, [[question]], 4)[0][0] for question in asked])


@given(st.integers(0, 7), st.lists(st.integers(0, 260), min_size=3, max_size=3))
@settings(max_examples=8)
@torch.no_grad()
def test_padding_of_any_amount_changes_nothing(columns, tokens):
    """Neither in the context, nor between its parts, nor in a prefix."""
    ours = reader_of(load_backbone("tiny", dtype="float32"))
    plain = ours.answer(context_prefix(ours, TEXTS), ASKED, 3)
    text = ours.encode_segments(TEXTS)
    padding = torch.tensor(tokens)[:, None].expand(-1, columns)
    ids, mask = torch.cat((text.ids, padding), 1), torch.nn.functional.pad(text.mask, (0, columns), value=False)
    prefix = ours.decoder.extend(ours.preamble(3), ids, mask)
    loud = tuple(torch.full_like(key[:, :, :columns], 50.0) for key in prefix.keys)
    prefix = prefix.extend(loud, loud, torch.zeros(3, loud[0].shape[2], dtype=torch.bool))
    for ours_row, plain_row in zip(ours.answer(prefix, ASKED, 3), plain, strict=True):
        assert_same_answers(ours_row, plain_row)


@torch.no_grad()
def test_many_questions_are_answered_in_portions(tiny, monkeypatch):
    ours = reader_of(tiny)
    prefix, asked = context_prefix(ours, TEXTS), [list(QUESTIONS) * 2, [], list(QUESTIONS[:3])]
    whole = ours.answer(prefix, asked, 3)
    monkeypatch.setattr(attention, "SCORES", 1)
    portions = ours.answer(prefix, asked, 3)
    assert [len(row) for row in portions] == [8, 0, 3]
    for some, all_at_once in ((portions[row], whole[row]) for row in (0, 2)):
        assert_same_answers(some, all_at_once)


@torch.no_grad()
def test_what_is_said_without_scores_is_what_is_answered(tiny_family, monkeypatch):
    reader = reader_of(tiny_family)
    prefix = memory_prefix(reader, TEXTS)
    expected = [[answer.text for answer in row] for row in reader.answer(prefix, ASKED, 6)]
    phrases = [[asked.phrase for asked in row] for row in ASKED]
    assert reader.say(prefix, phrases, 6) == expected
    monkeypatch.setattr("gnm.models.attention.SCORES", 1)  # one at a time
    assert reader.say(prefix, phrases, 6) == expected
    assert reader.say(prefix, [[], [], []], 6) == [[], [], []]


def test_an_answer_of_two_tokens_takes_three_passes(tiny, monkeypatch):
    reader = reader_of(tiny)
    prefix, passes, run = reader.preamble(1), [], Decoder.run
    monkeypatch.setattr(Decoder, "run", lambda *args, **kwargs: passes.append(args) or run(*args, **kwargs))
    first = int(reader.passes.begin(prefix, [[reader._shared + reader.chat.encode_question("Who?")]]).scores.argmax())
    passes.clear()
    reader.say(prefix, [["Who?"]], 2)
    assert first not in reader.chat.end_of_turn and len(passes) == 2  # the second token ends it: nothing is read on
    passes.clear()
    reader.say(prefix, [["Who?"]], 3)
    assert len(passes) <= 3


def test_answers_without_any_new_token_are_empty_but_scored(tiny):
    ours = reader_of(tiny)
    prefix = context_prefix(ours, TEXTS[:1])
    silent, one = (ours.answer(prefix, [ASKED[0]], tokens)[0] for tokens in (0, 1))
    assert {a.text for a in silent} == {""} and all(a.text.isdigit() for a in one)
    assert [a.nll for a in silent] == [a.nll for a in one]


@torch.no_grad()
def test_a_state_without_questions_gets_no_answers(tiny):
    ours = reader_of(tiny)
    assert ours.answer(context_prefix(ours, TEXTS), [[], [], []], 3) == [[], [], []]
    loss = ours.loss(context_prefix(ours, TEXTS), [[], [], []])
    assert (float(loss.total), loss.tokens, loss.right) == (0.0, 0, [[], [], []])
    empty = ours.preamble(0)
    assert ours.answer(empty, [], 3) == [] and ours.loss(empty, []) == (torch.zeros(()), 0, [])


def test_the_loss_is_the_stock_models_cross_entropy_of_the_answers(tiny_family):
    ours, stock = reader_of(tiny_family), another(tiny_family)
    total, tokens, _ = ours.loss(context_prefix(ours, TEXTS), ASKED)
    pairs = [(texts, question) for texts, asked in zip(TEXTS, ASKED, strict=True) for question in asked]
    expected = sum(stock_nll(stock, ours.chat, texts, question) for texts, question in pairs)
    assert tokens == sum(len(answer_ids(ours.chat, question)) for _, question in pairs)
    assert float(total / tokens) == pytest.approx(float(expected / tokens), abs=1e-5)
    answers = ours.answer(context_prefix(ours, TEXTS), ASKED, 1)
    assert float(total) == pytest.approx(sum(a.nll for row in answers for a in row), abs=1e-3)


@torch.no_grad()
def test_the_loss_says_which_targets_win(tiny_family):
    """By the first token of each answer, as an evaluation scores them; equal ones don't win."""
    ours = reader_of(tiny_family)
    asked = [[*row, Question("So", "same", "same")] for row in ASKED]
    prefix = context_prefix(ours, TEXTS)
    right = ours.loss(prefix, asked).right
    answers = ours.answer(prefix, asked, 1)
    assert right == [[answer.target_score > answer.other_score for answer in row] for row in answers]
    assert {verdict for verdicts in right for verdict in verdicts} == {True, False}


@torch.no_grad()
def test_an_answer_of_one_token_is_scored_by_the_prompt_alone(tiny_family):
    """Without an end of turn a target may be a single token: nothing is read after the prompt."""
    ours, stock = reader_of(tiny_family, end_of_turn=[]), another(tiny_family)
    asked = [[Question("A letter:", "q", "z"), Question("Another", "b", "a")], [Question("And", "c", "d")]]
    prefix = context_prefix(ours, TEXTS[:2])
    answers = ours.answer(prefix, asked, 2)
    for row, texts, questions in zip(answers, TEXTS, asked, strict=False):
        check_answers(row, stock, ours.chat, texts, questions, max_new_tokens=2)
    total, tokens, _ = ours.loss(prefix, asked)
    assert tokens == 3
    assert float(total) == pytest.approx(sum(a.nll for row in answers for a in row), abs=1e-4)


@torch.no_grad()
def test_spaces_around_phrase_and_answers_change_nothing(tiny):
    ours = reader_of(tiny)
    prefix, question = context_prefix(ours, TEXTS[:1]), QUESTIONS[0]
    spaced = Question(f" {question.phrase}\n", f"  {question.target} ", f" {question.other}")
    assert ours.answer(prefix, [[question]], 3) == ours.answer(prefix, [[spaced]], 3)


@torch.no_grad()
def test_completion_of_free_requests_is_the_stock_models(tiny_family):
    ours, stock = reader_of(tiny_family), another(tiny_family)
    requests = ["Say a word.", "And a longer request, please"]
    said = ours.complete(ours.preamble(2), requests, 4)
    for text, request in zip(said, requests, strict=True):
        prompt = ours.chat.prompt(ours.chat.encode(request))
        assert text == " ".join(map(str, stock_greedy(stock, ours.chat, prompt, 4)))


@torch.no_grad()
def test_a_context_read_in_parts_is_the_context_read_at_once(tiny_family):
    ours = reader_of(tiny_family)
    rows = [blocks(2), [DOCUMENTS[1], ""]]
    parts = ours.preamble(2)
    for turn in range(2):
        text = ours.encode([row[turn] for row in rows])
        parts = ours.decoder.extend(parts, text.ids, text.mask)
    for ours_row, whole in zip(
        first_scores(ours, parts, ASKED[:2]), first_scores(ours, context_prefix(ours, rows), ASKED[:2]), strict=True
    ):
        torch.testing.assert_close(ours_row, whole, atol=1e-4, rtol=0)


@torch.no_grad()
def test_reading_changes_no_prefix(tiny):
    ours = reader_of(tiny)
    prefix = context_prefix(ours, TEXTS)
    copies = [t.clone() for t in (*prefix.keys, *prefix.values, prefix.valid)]
    first = ours.answer(prefix, ASKED, 4)
    ours.loss(prefix, ASKED)
    assert all(torch.equal(a, b) for a, b in zip(copies, (*prefix.keys, *prefix.values, prefix.valid), strict=True))
    assert ours.answer(prefix, ASKED, 4) == first


def test_encoding_pads_on_the_right_and_joins_texts_token_by_token(tiny):
    ours = reader_of(tiny)
    text = ours.encode(["abc", "a", ""])
    assert text.mask.tolist() == text.is_document.tolist() == [[True] * 3, [True, False, False], [False] * 3]
    assert text.segment.tolist() == [[0] * 3, [0, -1, -1], [-1] * 3]
    joined = ours.encode_segments([("a", "bc"), ("a",), ()], [(False, True), (False,), ()])
    assert torch.equal(text.ids, joined.ids) and torch.equal(text.mask, joined.mask)
    assert joined.segment.tolist() == [[0, 1, 1], [0, -1, -1], [-1] * 3]
    assert joined.is_document.tolist() == [[False, True, True], [False] * 3, [False] * 3]
    assert len(empty := ours.encode([])) == 0 and empty.ids.shape == empty.mask.shape == (0, 0)


@torch.no_grad()
def test_a_tokenizer_without_a_preamble_starts_with_an_empty_prefix(tiny):
    ours = reader_of(tiny, preamble=[])
    assert ours.preamble(2).lengths.tolist() == [0, 0]
    answers = ours.answer(ours.preamble(1), [[QUESTIONS[0]]], 3)
    check_answers(answers[0], another(tiny), ours.chat, [], [QUESTIONS[0]], 3)


def test_cost_counts_the_words_that_every_question_begins_with(tiny):
    ours = reader_of(tiny)
    prompt = len(prompt_ids(ours.chat, [], QUESTIONS[0])) - len(context_ids(ours.chat, []))
    expected = flops.query_flops(tiny.model.config, prompt, 100, 1)
    assert ours.query_flops(QUESTIONS[0], 100) == expected
    assert ours.prefill_flops(30) == flops.prefill_flops(tiny.model.config, 30)


def test_gradients_reach_the_prefix(tiny):
    ours = reader_of(tiny)
    prefix = context_prefix(ours, TEXTS[:1])
    keys, values = (tuple(t.clone().requires_grad_() for t in side) for side in (prefix.keys, prefix.values))
    leaves = replace(prefix, keys=keys, values=values)
    ours.loss(leaves, ASKED[:1])[0].backward()
    assert all(t.grad.abs().max() > 0 for t in (*leaves.keys, *leaves.values))
