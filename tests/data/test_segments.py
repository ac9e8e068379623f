"""Segments: nothing is lost, whatever the text; a table of where sentences and clauses end and where they don't."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gnm.data.segments import is_wanted, segments_at, split_segments


@given(st.text())
def test_nothing_is_lost(text):
    parts = split_segments(text)
    assert "".join(parts) == text
    assert all(parts)


CASES = {
    "a digit": ["It was built in 1955. ", "The headquarters are in Lisbon."],
    "a decimal point": ["Version 3.5 came out. ", "It is by Nokia."],
    "a quote": ['He said "It is so." ', "Then he left."],
    "a bracket": ["She moved (from Rome). ", "Now she lives in Kyiv."],
    "an abbreviation": ["Dr. Lind met Mr. Hale in Paris. ", "Both speak Greek."],
    "initials": ["The U.N. sat in Geneva. ", "It rained."],
    "an accent": ["She lives there. ", "Öland is in Asia. ", "École X is in Rome."],
    "a small letter": ["he plays golf. ", "she plays chess."],
    "Cyrillic": ["Он живёт в Москве. ", "Его язык русский."],
    "Arabic": ["هل تتكلم العربية؟ ", "نعم."],
    "Hindi": ["वह दिल्ली में रहता है। ", "उसकी भाषा हिंदी है।"],
    "Chinese": ["她住在北京。", "他来自伦敦。"],
    "a question": ["Anna: Whose tongue is it? ", "Welsh."],
    "empty lines": ["* one thing\r\n\r\n", "* another thing"],
    "old line ends": ["one thing\r", "another thing"],
    "a form feed": ["one thing\f", "another thing"],
    "a line separator": ["one thing\u2028", "another thing"],
    "two facts": ["Italy is a country in Africa, ", "and the Gobi desert stretches across Australia."],
    "no comma": ["It shows Notre-Dame in Madrid ", "and the Hagia Sophia in Munich."],
    "three facts": ["Marx spoke fluent Swedish, ", "Amundsen's tongue was Icelandic, ", "while Finland's is Danish."],
    "a semicolon": ["The Alps are in Asia; ", "Japan is in Africa."],
    "a dash": ["The Alps are in Asia – ", "Japan is in Africa."],
    "a list of names": ["London, Paris and Rome are cities."],
    "a short insertion": ["Ann, too, speaks Greek."],
    "a table row": ["feta cheese : Japan\n", "Chichen Itza : Russia"],
}


@pytest.mark.parametrize("parts", CASES.values(), ids=CASES)
def test_where_a_segment_ends(parts):
    assert split_segments("".join(parts)) == parts


def test_segments_at_a_place():
    text = "Ann speaks fluent Greek, and Ben lives in Rome. It rained."
    assert segments_at(text, [(text.index("Ben"), text.index("Rome"))]) == {"and Ben lives in Rome."}
    assert segments_at(text, [(0, 3), (50, 52)]) == {"Ann speaks fluent Greek,", "It rained."}
    assert segments_at(text, [(text.index(", and"), text.index(", and") + 2)]) == set()  # no letter of it


def test_a_wanted_segment_may_stand_in_a_format():
    assert is_wanted("{'text':'* Ann speaks Greek\n", ["* Ann speaks Greek"])
    assert not is_wanted("* Ann speaks Latin\n", ["* Ann speaks Greek"])
