"""Segments: nothing is lost, whatever the text; a table of where sentences and clauses end and where they don't."""

import time

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
    "initials at an end": ["Orvane joined the U.N. ", "Its capital is Lisbon."],
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
    "a name that leads": ["* In International Academy of Sciences, they speak Greek\n", "* Ann plays golf"],
    "a name that what follows describes": ["* Leonardo Sandri, who plays the harp, ", "lives in Rome."],
    "a name with a comma": ["Francis I, Holy Roman Emperor was employed in Paris."],
    "a name with small letters": ["* Piazza al Serchio and Abu al-Hassan, both in Italy, ", "are old and well known."],
    "a name amid clauses": ["It rains in Greece today, ", "but in Costa da Caparica, people lie in the sun."],
    "a name in Cyrillic": ["Ада Мэри Лавлейс, которая жила в Риме, ", "писала книги для детей."],
    "capitals only": ["ITALY IS IN AFRICA, ", "AND THE GOBI IS IN AUSTRALIA."],
    "no capitals": ["दिल्ली भारत की राजधानी है, ", "और मुंबई बड़ा शहर है।"],
    "a table row": ["feta cheese : Japan\n", "Chichen Itza : Russia"],
}
QUOTES = ['and said "It is so. It was so."', "where he (the son of U. Ek. Or not) sat.", "and it rained for 3.5 days!"]


@pytest.mark.parametrize("parts", CASES.values(), ids=CASES)
def test_where_a_segment_ends(parts):
    assert split_segments("".join(parts)) == parts


BLANK = ["\n", " ", "\t", "a\r\n", "\u3000"]
CLAUSES = ["a, ", "and ", ", , ,", "- - -", "、", "a b c and ", "w"]
SENTENCES = ["中。", "「中。」", "“", "``", "(a) b. "]


@pytest.mark.parametrize(
    ("unit", "length"), [*((u, 15_000) for u in BLANK), *((u, 120_000) for u in CLAUSES + SENTENCES)]
)
def test_time_grows_with_the_length_not_its_square(unit, length):
    text = "a" + (unit * length)[:length] + "b"
    start = time.process_time()
    assert "".join(split_segments(text)) == text
    assert time.process_time() - start < 2  # seconds; a tenth of it where nothing else runs


def test_a_long_line_is_cut_as_short_ones_are():
    sentences = [f"Dr. Lind met Mr. {name} in Rome, {quote} " for name in ("Hale", "Ek") for quote in QUOTES]
    parts = [part for sentence in sentences for part in split_segments(sentence)]
    assert len(parts) > len(sentences)
    assert split_segments("".join(sentences * 100)) == parts * 100


@pytest.mark.parametrize("text", ["w" * 50_000, "word " * 10_000, "a" + " " * 50_000 + "b", "中" * 50_000])
def test_a_long_line_without_an_end_is_one_segment(text):
    assert split_segments(text) == [text]


@pytest.mark.parametrize("blank", ["\xa0", " \u3000", "\u2009\u2009"])
def test_a_wide_blank_between_an_initial_and_its_full_stop(blank):
    text = f"She takes vitamin A{blank}. He takes none."
    assert "".join(split_segments(text)) == text


def test_segments_at_a_place():
    text = "Ann speaks fluent Greek, and Ben lives in Rome. It rained."
    assert segments_at(text, [(text.index("Ben"), text.index("Rome"))]) == {"and Ben lives in Rome."}
    assert segments_at(text, [(0, 3), (50, 52)]) == {"Ann speaks fluent Greek,", "It rained."}
    assert segments_at(text, [(text.index(", and"), text.index(", and") + 2)]) == set()  # no letter of it


def test_a_wanted_segment_may_stand_in_a_format():
    assert is_wanted("{'text':'* Ann speaks Greek\n", ["* Ann speaks Greek"])
    assert not is_wanted("* Ann speaks Latin\n", ["* Ann speaks Greek"])
