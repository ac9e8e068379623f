"""What is told of a wrong request is short and soon told, however much is wrong with it."""

import gc
import json
import time

import pytest

from gnm.config import StrictModel, validate
from gnm.errors import ConfigError

ASK, CHAT = "/v1/memories/m/ask", "/v1/chat/completions"
USER = {"role": "user", "content": "Where?"}
MANY = 200_000


class Two(StrictModel):
    one: int = 0
    two: int = 0


@pytest.mark.parametrize(
    ("path", "body", "told"),
    [
        (ASK, {"questions": ["x"] * 200_000}, "questions: List should have at most 1000 items"),
        (ASK, {"questions": [1] * MANY}, "questions.0: Input should be a valid string"),
        (ASK, {f"key{n}": 1 for n in range(20_000)}, "20000 keys; at most 100"),
        (ASK, {"q" * 900_000: 1}, "unknown key 'qqq"),
        (CHAT, {"model": "m", "messages": [USER] * 1_001}, "messages: List should have at most 1000 items"),
        (CHAT, {"model": "m", "messages": [1] * MANY}, "messages.0"),
        (CHAT, {"model": "m", "messages": [{**USER, "content": [1] * 500}] * 400}, "messages.0"),
        (CHAT, {"model": "m", "messages": [USER], "stop": ["x"] * 17}, "stop"),
        (CHAT, {"model": "m", "messages": [USER], "stop": [1] * MANY}, "stop"),
        (CHAT, {"model": "m", "messages": [USER], "tools": [1] * MANY}, "tools"),
    ],
)
def test_a_body_in_which_all_is_wrong_gets_a_short_answer_soon(anna, path, body, told):
    begun = time.monotonic()
    answer = anna.post(path, json=body)
    assert time.monotonic() - begun < 5
    assert answer.status_code == 400 and told in answer.json()["error"]["message"], answer.text[:500]
    assert len(answer.content) < 2_000


TINY = {"numbers": (b"0,", 1), "lists": (b"[],", 2), "objects": (b"{},", 2), "in texts": (b"[", 1)}


@pytest.mark.parametrize(("value", "marks"), TINY.values(), ids=TINY)
def test_a_body_with_crowds_of_tiny_values_is_refused_before_it_is_read(anna, service, monkeypatch, value, marks):
    most, read = service.service.limits.characters + 20_000, []
    monkeypatch.setattr("gnm.serve.bodies._parsed", lambda text: read.append(len(text)) or {})
    start, end = (b'{"a": "', b'"}') if value == b"[" else (b'{"a": [', b"0]}")
    begun = start.count(b"{") + start.count(b"[")
    body = start + value * ((most - begun) // marks) + b" " * ((most - begun) % marks) + end
    for more, status in ((b"", 400), (value, 413)):
        body = body.removesuffix(end) + more + end
        answer = anna.post(ASK, content=body, headers={"Content-Type": "application/json"})
        assert answer.status_code == status, answer.text
    assert f"commas and opening brackets; at most {most} are taken" in answer.text and len(read) == 1


@pytest.mark.parametrize("body", [b"{}", b"{"])
def test_garbage_is_not_collected_while_a_body_is_read(anna, monkeypatch, body):
    loads, collected = json.loads, []
    monkeypatch.setattr(
        "json.loads", lambda *given, **named: collected.append(gc.isenabled()) or loads(*given, **named)
    )
    anna.post(ASK, content=body, headers={"Content-Type": "application/json"})
    assert collected[0] is False and gc.isenabled()


def test_as_many_stops_as_are_taken(anna):
    body = {"model": "no-memory", "messages": [USER], "stop": ["never said"] * 16, "max_tokens": 1}
    assert anna.post(CHAT, json=body).status_code == 200


def test_a_value_of_no_right_kind_is_named_by_its_place_alone(anna):
    for change, told in (({"stop": 5}, "stop: Input"), ({"stop": ["x", 5]}, "stop.1: Input")):
        answer = anna.post(CHAT, json={"model": "m", "messages": [USER], **change})
        message = answer.json()["error"]["message"]
        assert told in message and "function" not in message, message
    with pytest.raises(ConfigError, match=r"unknown key 'list\[x\]' "):
        validate({"list[x]": 1}, Two, "here")


def test_the_first_problems_are_described_and_the_others_counted():
    wrong = {f"key{n}": 1 for n in range(12)}
    with pytest.raises(ConfigError) as refused:
        validate(wrong, Two, "here")
    told = str(refused.value)
    assert told.startswith("here: unknown key 'key0' (") and told.endswith("; and 2 more")
    assert told.count("unknown key") == 10
    with pytest.raises(ConfigError, match="unknown key 'x' "):
        validate({"x": 1}, Two, "here")
    with pytest.raises(ConfigError, match="unknown key 'tow' .*'two'"):
        validate({"tow": 1}, Two, "here")
