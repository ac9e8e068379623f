"""OpenAI's own client against the service."""

import itertools
import time
from contextlib import suppress

import httpx2
import openai
import pytest
from services import USERS

from gnm.api import load
from gnm.serve.completions import Completion
from gnm.serve.memory import ServedMemory, Stream

REQUEST = [{"role": "user", "content": "Where is Bern?"}]


@pytest.fixture
def client(service, anna):
    anna.post("/v1/memories/places/documents", json={"document": "Bern is in Asia.", "instruction": "Learn it all."})
    with openai.OpenAI(base_url=f"{service.url}/v1", api_key=USERS["anna"], max_retries=0) as opened:
        yield opened


@pytest.fixture
def memory(client, service):
    """The same memory, loaded here."""
    memory = load(None, backbone="tiny", dtype="float32", device="cpu")
    memory.load_memory(service.folder / "anna" / "places.mem")
    return memory


def test_an_answer_is_the_one_of_generate(client, memory):
    answer = client.chat.completions.create(model="places", messages=REQUEST, max_tokens=6)
    [choice] = answer.choices
    assert choice.message.content == "".join(memory.generate("Where is Bern?", max_new_tokens=6))
    assert choice.finish_reason == "length" and answer.usage.completion_tokens == 6
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + 6


def test_a_streamed_answer_is_the_whole_one(client):
    given = {"model": "places", "messages": REQUEST, "max_completion_tokens": 12}
    whole = client.chat.completions.create(**given).choices[0].message.content
    chunks = list(client.chat.completions.create(**given, stream=True, stream_options={"include_usage": True}))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks[:-1]) == whole
    assert chunks[-2].choices[0].finish_reason == "length" and chunks[-1].usage.completion_tokens == 12


def test_the_header_names_the_memory_for_a_client_with_a_fixed_model(client):
    given = {"messages": REQUEST, "max_tokens": 6}
    named = client.chat.completions.create(model="places", **given)
    by_header = client.chat.completions.create(model="gpt-x", extra_headers={"X-GNM-Memory": "places"}, **given)
    without = client.chat.completions.create(model="no-memory", **given)
    texts = [answer.choices[0].message.content for answer in (named, by_header, without)]
    assert texts[0] == texts[1] != texts[2]


def test_drawn_answers_follow_the_seed_and_end_before_a_stop(client):
    given = {"model": "places", "messages": REQUEST, "max_tokens": 12, "temperature": 1.5}
    drawn = [client.chat.completions.create(**given, seed=s).choices[0].message.content for s in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]
    stop = drawn[0][3:5]
    ended = client.chat.completions.create(**given, seed=1, stop=[stop]).choices[0]
    assert ended.message.content == drawn[0][: drawn[0].index(stop)] and ended.finish_reason == "stop"


def test_a_chat_of_several_turns_is_read_as_the_template_writes_it(memory):
    served = ServedMemory.of(memory, undo_steps=1)
    reader, tokenizer = served._learner.reader, served._backbone.tokenizer
    texts = ["Hello.", "Yes?", "Where is Bern?"]
    messages = [{"role": r, "content": t} for r, t in zip(("user", "assistant", "user"), texts, strict=True)]
    rendered = tokenizer.apply_chat_template(messages, tokenize=True, add_generation_prompt=True)["input_ids"]
    assert served.stream(texts).prompt_tokens == len(rendered) - len(reader.chat.preamble)


def test_turns_are_made_of_messages():
    messages = [
        {"role": "system", "content": "Be brief."}, {"role": "user", "content": [{"type": "text", "text": "A"}]},
        {"role": "user", "content": "B"}, {"role": "assistant", "content": "C"}, {"role": "user", "content": "D"},
    ]  # fmt: skip
    assert Completion(model="x", messages=messages).turns() == ["Be brief.\n\nA\n\nB", "C", "D"]


def test_models_are_the_memories(client):
    listed = {model.id: model for model in client.models.list()}
    assert list(listed) == ["no-memory", "places"]
    assert {name: client.models.retrieve(name) for name in listed} == listed
    with pytest.raises(openai.NotFoundError, match="no memory 'absent'"):
        client.models.retrieve("absent")


def test_fields_without_a_value_are_those_left_out(client):
    given = {"model": "places", "messages": [*REQUEST, {"role": "assistant", "content": None}, *REQUEST]}
    blank = {"stream": None, "stream_options": {"include_usage": None}, "logit_bias": {}, "top_logprobs": 0,
             "functions": [], "function_call": "none", "modalities": ["text"]}  # fmt: skip
    answers = [
        client.chat.completions.create(**given, max_tokens=4, extra_body=extra).choices[0].message.content
        for extra in ({}, blank)
    ]
    assert answers[0] == answers[1]
    with pytest.raises(openai.BadRequestError, match="messages"):
        client.chat.completions.create(model="places", messages=[{"role": "user", "content": None}])


@pytest.mark.parametrize("stream", [False, True])
def test_a_chat_that_its_caller_leaves_is_ended(anna, service, monkeypatch, stream):
    def endless(self, *given, **settings):
        return Stream(1, itertools.repeat(7), self._backbone.tokenizer, most=0)

    monkeypatch.setattr(ServedMemory, "stream", endless)
    body = {"model": "no-memory", "messages": REQUEST, "stream": stream}
    worker, deadline = service.service.worker, time.monotonic() + 60
    with suppress(httpx2.ReadTimeout), anna.stream("POST", "/v1/chat/completions", json=body, timeout=2) as answer:
        assert next(answer.iter_lines()).startswith("data: ") and stream
    while worker._of_user.total() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert worker._of_user.total() == 0


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"n": 2}, "n:"), ({"tools": [{"type": "function"}]}, "tools"), ({"temperature": 3}, "temperature"),
        ({"response_format": {"type": "json_object"}}, "response_format"), ({"messages": []}, "messages"),
        ({"logit_bias": {"5": 100}}, "logit_bias"), ({"functions": [{"name": "f"}]}, "functions"),
        ({"modalities": ["audio"]}, "modalities"), ({"modalities": ["text", "audio"]}, "modalities"),
        ({"function_call": {"name": "f"}}, "function_call"), ({"top_logprobs": 2}, "top_logprobs"),
        ({"messages": [{"role": "assistant", "content": "x"}]}, "must be the user's"),
        ({"messages": [{"role": "user", "content": " "}]}, "empty"), ({"max_tokens": 0}, "max_tokens"),
        ({"messages": [{"role": "user", "content": "x" * 20_001}]}, "20001"),
    ],
)  # fmt: skip
def test_what_is_not_supported_is_refused(client, change, told):
    with pytest.raises(openai.APIStatusError, match=told) as refused:
        client.chat.completions.create(**{"model": "places", "messages": REQUEST, **change})
    assert refused.value.status_code in (400, 413)


def test_errors_are_the_clients_own(service, client):
    with pytest.raises(openai.NotFoundError, match="no memory 'absent'"):
        client.chat.completions.create(model="absent", messages=REQUEST)
    with pytest.raises(openai.AuthenticationError):
        client.with_options(api_key="another").models.list()
