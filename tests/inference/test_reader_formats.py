"""Answers in a format, answers of objects that begin alike, and continuations without a chat."""

import pytest
import torch

from gnm.data.formats import Recognised
from gnm.inference import reader
from gnm.inference.chat import PlainText
from gnm.inference.questions import Question
from gnm.inference.reader import Reader
from gnm.models.decoder import Decoder
from read_prefixes import TEXTS, context_prefix
from stock import (
    another,
    prompt_ids,
    reader_of,
    stock_greedy,
    stock_logits,
)


class Letters:
    """Each token is one letter, so that places in the text are places among the tokens."""

    def decode(self, ids, **_):
        return "x" * len(ids)


FORMATTED = Question("Oslo is a city of", "Norway", "Peru", said="{'text':'Norway'}")


@torch.no_grad()
def test_an_answer_in_a_format_is_scored_where_its_content_begins(tiny, monkeypatch):
    """Greedy decoding goes its way; the scores are those of the step that wrote the first letter of the content."""
    ours, stock = reader_of(tiny), another(tiny)
    ours.tokenizer = Letters()
    prompt = prompt_ids(ours.chat, [], FORMATTED)
    said = stock_greedy(stock, ours.chat, prompt, 5)
    assert len(said) == 5
    for offset, step in ((0, 0), (1, 1), (3, 3), (5, 4), (9, 4)):
        monkeypatch.setattr(reader, "recognise", lambda text, o=offset: Recognised("json_text", min(o, len(text))))
        answer = ours.answer(ours.preamble(1), [[FORMATTED]], 5)[0][0]
        scores = stock_logits(stock, prompt + said[:step])[-1]
        first = [ours.chat.encode(text)[0] for text in ("Norway", "Peru")]
        assert [answer.target_score, answer.other_score] == pytest.approx(scores[first].tolist(), abs=1e-4)


def test_training_asks_for_the_whole_wrapping_and_judges_its_content(tiny):
    ours, stock = reader_of(tiny), another(tiny)
    ours.tokenizer = tiny.tokenizer
    loss = ours.loss(ours.preamble(1), [[FORMATTED]])
    prompt, said = prompt_ids(ours.chat, [], FORMATTED), ours.chat.encode(FORMATTED.said)
    logits = stock_logits(stock, prompt + said)[len(prompt) - 1 :]
    answer = torch.tensor(said + ours.chat.end_of_turn[:1])
    expected = torch.nn.functional.cross_entropy(logits, answer, reduction="sum")
    torch.testing.assert_close(loss.total, expected, atol=1e-3, rtol=0)
    assert loss.tokens == len(said) + 1
    at_content = logits[len("{'text':'")]
    right, wrong = (at_content[ours.chat.encode(text)[0]] for text in ("Norway", "Peru"))
    assert loss.right == [[bool(right > wrong)]]


def test_nothing_to_say_is_the_end_of_the_turn(tiny):
    """The other answer to a question that is to be refused is empty."""
    refused = Question("Oslo is a city of", "Sorry", "")
    ours = reader_of(tiny)
    answer = ours.answer(ours.preamble(1), [[refused]], 1)[0][0]
    scores = stock_logits(another(tiny), prompt_ids(ours.chat, [], refused))[-1]
    assert answer.other_score == pytest.approx(float(scores[ours.chat.end_of_turn[0]]), abs=1e-4)


ALIKE = [
    Question("She treats patients, she is a", "physician", "physicist"),
    Question("The city is", "Iraq", "Iraqi towns"),  # one object goes on where the other ends
    Question("A doctor is no", "physicist", "physician"),
    Question("Oslo is a city of", "Norway", "Peru"),
]


@torch.no_grad()
@pytest.mark.parametrize("offset", [0, 2])
def test_objects_that_begin_alike_are_told_apart_where_they_differ(tiny, monkeypatch, offset):
    """The common tokens are given, after what was said up to the content; batched as one by one."""
    ours, stock = reader_of(tiny), another(tiny)
    monkeypatch.setattr(reader, "recognise", lambda text: Recognised("json_text", min(offset, len(text))))
    ours.tokenizer = Letters()
    answers = ours.answer(context_prefix(ours, TEXTS[:2]), [ALIKE, ALIKE[:1]], 3)
    common = ["physici", "Iraq", "physici", ""]
    after = [("a", "s"), ("", "i"), ("s", "a"), ("N", "P")]
    for row, (texts, asked) in enumerate(zip(TEXTS, (ALIKE, ALIKE[:1]), strict=False)):
        for column, question in enumerate(asked):
            prompt = prompt_ids(ours.chat, texts, question)
            read = stock_greedy(stock, ours.chat, prompt, 3)[:offset] + ours.chat.encode(common[column])
            scores = stock_logits(stock, prompt + read)[-1]
            pair = [(ours.chat.encode(text) or ours.chat.end_of_turn)[0] for text in after[column]]
            found = answers[row][column]
            assert [found.target_score, found.other_score] == pytest.approx(scores[pair].tolist(), abs=1e-4)


@torch.no_grad()
def test_of_two_objects_that_begin_alike_one_wins(tiny):
    """At their first token both score the same, so neither could. Training and evaluation agree on the winner."""
    ours = reader_of(tiny)
    first, _, second, _ = ALIKE
    second = Question(first.phrase, second.target, second.other)
    answers = ours.answer(context_prefix(ours, TEXTS[:1]), [[first, second]], 1)[0]
    assert (answers[0].target_score > answers[0].other_score) != (answers[1].target_score > answers[1].other_score)
    ways = [*ALIKE, *(Question(q.phrase, q.other, q.target) for q in ALIKE)]
    answers = ours.answer(context_prefix(ours, TEXTS[:1]), [ways], 1)
    loss = ours.loss(context_prefix(ours, TEXTS[:1]), [ways])
    assert loss.right == [[answer.target_score > answer.other_score for answer in answers[0]]]
    assert sum(loss.right[0]) == len(ALIKE)


@torch.no_grad()
def test_a_continuation_is_the_stock_models_over_plain_text(tiny):
    """No turns and no words around: the texts, the phrase, a blank and the answer; also with nothing in front."""
    chat, stock = PlainText.of(tiny.tokenizer), another(tiny)
    assert chat.preamble == chat.tail == chat.encode_lead() == []
    ours = Reader(Decoder(tiny.model), chat, tiny.tokenizer)
    rows = [["Oslo is far. ", "Bern is near. "], [""]]
    asked = [[Question("The capital is", "Oslo", "Bern"), Question("Where is it?", "Oslo", "Oslo fjord")],
             [Question("The capital is", "Bern", "Oslo")]]  # fmt: skip
    prompts = {"The capital is": "The capital is", "Where is it?": "Question: Where is it? Answer:"}
    answers = ours.answer(context_prefix(ours, rows), asked, 4)
    loss, total = ours.loss(context_prefix(ours, rows), asked), 0.0
    for texts, questions, found in zip(rows, asked, answers, strict=True):
        for question, answer in zip(questions, found, strict=True):
            read = "".join(texts) + prompts[question.phrase]
            begin = question.target[0] + question.other[0]
            common, pair = (" Oslo", ". ") if question.other == "Oslo fjord" else (" ", begin)
            scores = stock_logits(stock, chat.encode(read + common))[-1][chat.encode(pair)]
            assert [answer.target_score, answer.other_score] == pytest.approx(scores.tolist(), abs=1e-4)
            ids = chat.encode(read + f" {question.target}.")
            said = torch.tensor(ids[len(chat.encode(read)) :])
            logits = stock_logits(stock, ids)[-len(said) - 1 : -1]
            nll = torch.nn.functional.cross_entropy(logits, said, reduction="sum")
            assert (answer.nll, answer.tokens) == (pytest.approx(float(nll), abs=5e-4), len(said))
            total += float(nll)
    assert float(loss.total) == pytest.approx(total, abs=1e-3)
    assert loss.right == [[answer.target_score > answer.other_score for answer in row] for row in answers]
