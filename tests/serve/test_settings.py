"""Settings that fit each other: bodies have room for what the other limits allow; hosts in any case."""

import json

import pytest
from pydantic import ValidationError
from services import running

from gnm.serve.keys import Keys
from gnm.serve.settings import Limits, ServeSettings


def test_the_longest_document_fits_into_a_body_however_it_is_written():
    limits = Limits()
    texts = {
        "document": "\U0001f600" * limits.document_characters,
        "instruction": "\u4e2d" * limits.question_characters,
    }
    assert len(json.dumps({**texts, "long": "refuse", "keep_notes": True, "store": False})) <= limits.body_bytes


def test_as_many_questions_as_are_allowed_fit_into_a_body():
    limits = Limits()
    texts = ["\U0001f600" * limits.question_characters] * limits.questions
    assert len(json.dumps({"questions": texts, "max_new_tokens": 16})) <= limits.body_bytes


@pytest.mark.parametrize(
    "limits", [{"body_bytes": 1_000_000}, {"document_characters": 500_000}, {"chat_characters": 900_000}]
)
def test_limits_that_could_not_be_used_are_refused(limits):
    with pytest.raises(ValidationError, match="raise it, or lower document_characters"):
        ServeSettings.model_validate({"limits": limits})


def test_smaller_limits_need_a_smaller_body():
    small = {"document_characters": 100, "question_characters": 100, "chat_characters": 100, "questions": 2}
    assert ServeSettings.model_validate({"limits": {**small, "body_bytes": 4_000}})


def test_hosts_are_named_in_any_case(tmp_path):
    with running(tmp_path, Keys(), hosts=("Memories.Example",)) as started, started.client(None) as client:
        for host in ("memories.example", "MEMORIES.example:80"):
            assert client.get("/health", headers={"Host": host}).status_code == 200
        assert client.get("/health", headers={"Host": "other.example"}).status_code == 403
