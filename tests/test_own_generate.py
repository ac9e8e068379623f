"""The memory's model in a program's own hands: `generate` of transformers, and scores of given answers."""

import pytest
import torch
from transformers import TextIteratorStreamer

from gnm.api import load
from gnm.errors import DataError
from stock import another, stock_logits

DOCUMENT, REQUEST = "* The capital of Elbonia is Orvane", "Which city is it?"


@pytest.fixture
def memory():
    made = load(None, backbone="tiny", dtype="float32", device="cpu")
    made.write(DOCUMENT, "Memorize all facts.")
    return made


def test_generate_of_transformers_says_what_the_memory_says(memory):
    """One request or several, streamed, and no other than before when it is asked again."""
    expected = "".join(memory.generate(REQUEST, max_new_tokens=8))
    inputs = memory.generate_inputs([REQUEST, "Where is it?"])
    said = memory.model.generate(**inputs, max_new_tokens=8)[:, inputs["input_ids"].shape[1] :]
    assert memory.tokenizer.batch_decode(said, skip_special_tokens=True)[0] == expected != ""
    streamer = TextIteratorStreamer(memory.tokenizer, skip_prompt=True, skip_special_tokens=True)
    memory.model.generate(**memory.generate_inputs(REQUEST), max_new_tokens=8, streamer=streamer)
    assert "".join(streamer) == expected == "".join(memory.generate(REQUEST, max_new_tokens=8))


@torch.no_grad()
def test_scores_are_those_of_the_stock_model_with_the_text_in_context(memory):
    """An untrained memory of one document is the text in the context."""
    chat, stock = memory._learner.reader.chat, another(memory._backbone)
    context = (
        chat.preamble + chat.encode("Instruction: Memorize all facts.\nDocument:\n") + chat.encode(f"{DOCUMENT}\n\n")
    )
    prompt = context + chat.encode(REQUEST) + chat.tail
    likeliest = int(stock_logits(stock, prompt)[-1].argmax())
    answers = ["Orvane", "Lisbon", memory.tokenizer.decode([likeliest])]
    for answer, found in zip(answers, memory.score(REQUEST, answers), strict=True):
        told = chat.encode(answer)
        logs = stock_logits(stock, prompt + told).log_softmax(-1)[len(prompt) - 1 : -1]
        assert found.log_probability == pytest.approx(float(logs.gather(1, torch.tensor([told]).T).sum()), abs=1e-3)
        assert (found.tokens, found.greedy) == (len(told), logs.argmax(-1).tolist() == told)
    assert memory.score(REQUEST, answers)[-1].greedy and memory.score(REQUEST, []) == []


def test_answers_are_scored_alike_however_many_go_together(memory, monkeypatch):
    answers = ["Orvane", "a", "the city of Lisbon"]
    together = memory.score("", answers)
    monkeypatch.setattr("gnm.models.attention.SCORES", 1)
    for one, other in zip(memory.score("", answers), together, strict=True):
        assert one.log_probability == pytest.approx(other.log_probability, abs=1e-4)


def test_nothing_to_say_is_said(memory):
    with pytest.raises(DataError, match="the request is empty"):
        memory.generate_inputs([REQUEST, " "])
    with pytest.raises(DataError, match="the answer is empty"):
        memory.score(REQUEST, ["Orvane", ""])
