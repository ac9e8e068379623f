import json
import time

from hypothesis import given
from hypothesis import strategies as st

from gnm.data.refusals import is_refusal

DIFFERENT = {"I must refuse", "i must refuse", "I MUST REFUSE", "I must refuse to answer", "I can\u2019t help"}
"""What the published patterns miss: one has a capital and never matches, typographic apostrophes are unknown."""


def test_refusals_are_the_golden_ones_but_for_what_the_published_patterns_miss(golden_folder):
    cases = json.loads((golden_folder / "text/refusal_detection.json").read_text())
    assert len(cases) == 93
    differing = {case["text"] for case in cases if is_refusal(case["text"]) != case["is_refusal"]}
    assert differing == DIFFERENT and all(is_refusal(text) for text in DIFFERENT)


@given(st.text())
def test_any_text_has_a_verdict(text):
    assert is_refusal(text) in (True, False)


@given(st.text())
def test_sorry_is_a_refusal_whatever_stands_around_it(text):
    assert is_refusal(f"{text} Sorry. {text}")


def test_long_texts_are_judged_at_once():
    started = time.perf_counter()
    assert not is_refusal("i cannot" * 200_000)
    assert time.perf_counter() - started < 2
