"""Where an answer ends and why, and how it is drawn: what a request's fields come to."""

import pytest

from gnm.serve.completions import Completion
from gnm.serve.memory import Stream
from gnm.serve.settings import Limits


class Words:
    """A tokenizer whose tokens are words."""

    def __init__(self, *words):
        self.words = words

    def decode(self, tokens, skip_special_tokens):
        return "".join(self.words[token] for token in tokens)


@pytest.mark.parametrize(
    ("words", "stop", "said", "reason"),
    [
        (["one two three"], ["three", "two"], "one ", "stop"),  # the first in the text, also at the last token
        (["one ", "two ", "three"], ["o thr"], "one tw", "stop"),
        (["one ", "two"], ["two more"], "one two", "length"),
    ],
)
def test_an_answer_ends_before_the_first_of_the_stops(words, stop, said, reason):
    stream = Stream(0, iter(range(len(words))), Words(*words), most=len(words), stop=stop)
    text = "".join(stream)
    assert (text, stream.reason, stream.answer_tokens) == (said, reason, len(words))


def test_how_an_answer_is_drawn():
    user = [{"role": "user", "content": "Where?"}]
    limits = Limits()

    def settings(**given):
        return Completion(model="m", messages=user, **given).settings(limits)

    assert settings() == {"max_new_tokens": 512}
    assert settings(max_tokens=7, max_completion_tokens=5) == {"max_new_tokens": 5}
    assert settings(temperature=0, top_p=0.5) == {"max_new_tokens": 512}
    drawn = {"max_new_tokens": 512, "do_sample": True, "temperature": 0.7, "top_k": 0}
    assert settings(temperature=0.7) == drawn  # from all tokens, as OpenAI's API does, not from transformers' first 50
    assert settings(temperature=0.7, top_p=0.5) == {**drawn, "top_p": 0.5}


@pytest.mark.parametrize(
    ("options", "told"),
    [(None, False), ({}, False), ({"include_usage": False}, False), ({"include_usage": True}, True)],
)
def test_what_was_read_and_said_is_told_in_a_stream_if_asked(anna, options, told):
    body = {"model": "no-memory", "messages": [{"role": "user", "content": "Where?"}], "max_tokens": 2, "stream": True}
    answer = anna.post("/v1/chat/completions", json={**body, "stream_options": options})
    assert answer.status_code == 200 and ('"total_tokens"' in answer.text) is told
