"""Temperatures near 0, where draws would divide scores beyond all numbers, choose what is likeliest."""

import pytest

BODY = {"model": "no-memory", "messages": [{"role": "user", "content": "Where is Bern?"}], "max_tokens": 5, "seed": 3}


def said(client, **settings):
    answer = client.post("/v1/chat/completions", json={**BODY, **settings})
    assert answer.status_code == 200, answer.text
    return answer.json()["choices"][0]["message"]["content"]


@pytest.mark.parametrize("temperature", [5e-324, 1e-40, 9.9e-5, 1e-4])
def test_a_temperature_near_0_answers_as_0(anna, temperature):
    assert said(anna, temperature=temperature) == said(anna, temperature=0)
