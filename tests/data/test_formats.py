import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gnm.data.formats import (
    FAMILIES,
    FORMAT_GROUPS,
    FORMATS,
    KEYS,
    MALFORMED,
    apply_format,
    check_format,
    format_names,
    formats_of,
    recognise,
)
from gnm.data.types import Query
from gnm.errors import ConfigError


@pytest.fixture
def golden(golden_folder):
    return json.loads((golden_folder / "text/format_application.json").read_text())


def test_the_sixty_names_are_the_golden_ones(golden):
    assert list(FORMATS) == [name for names in golden["format_names"].values() for name in names]
    assert len(FORMATS) == len(FAMILIES) * len(KEYS) == 60


def test_wrapping_equals_every_golden_case(golden):
    assert len(golden["apply"]) == 122
    for case in golden["apply"]:
        assert apply_format(case["text"], case["format"]) == case["result"], case["format"]


def test_unknown_names_are_errors_as_in_the_golden_cases(golden):
    for case in golden["unknown_formats"]:
        with pytest.raises(ConfigError):
            apply_format("Paris", case["format"])


def test_an_unknown_name_gets_the_nearest_known_one():
    with pytest.raises(ConfigError, match="'jsn_text'.*'json_text'"):
        check_format("jsn_text")


def test_names_of_some_families_and_keys():
    assert format_names(["xml", "csv"], iter(["text", "data"])) == ("xml_text", "xml_data", "csv_text", "csv_data")


def test_a_query_wraps_both_of_its_outputs_as_in_the_golden_pairs(golden):
    for case in golden["update_pairs"]:
        for before, after in zip(case["input_pairs"], case["output_pairs"], strict=True):
            outputs = before["target_output"], before["non_target_output"]
            query = Query("", "", "", "", "", "", 0, *outputs, False, False, False, False, case["format"])
            assert query.formatted_target == after["target_output"]
            assert apply_format(query.non_target_output, query.format) == after["non_target_output"]
            assert query.target_output == after["target_output_no_format"]


def test_formats_are_recognised_as_in_every_golden_case(golden_folder):
    """The published offsets of JSON and malformed answers don't count leading white space; ours are the text's."""
    cases = json.loads((golden_folder / "text/format_detection.json").read_text())
    assert len(cases) == 169
    for case in cases:
        text, name, offset = case["text"], case["format"], case["string_offset"]
        if name is not None and name.startswith(("json", MALFORMED)):
            offset += len(text) - len(text.lstrip())
        assert recognise(text) == (name, offset), text


@given(st.text() | st.text(alphabet=" \n'\":,<>ab"), st.sampled_from(FORMATS))
def test_what_is_wrapped_is_recognised_and_its_content_found(text, name):
    """White space and quotes with which a content begins may be taken for the wrapping's own."""
    wrapped = apply_format(text, name)
    found = recognise(wrapped)
    content = wrapped[found.offset :]
    assert found.format == name
    assert content.startswith((text, re.sub(r"^[\s'\"]*", "", text)))
    if text and not text[0].isspace() and text[0] not in "'\"":
        assert content.startswith(text)


@given(st.text() | st.text(alphabet="{}[]<>'\":=, \n" + "".join(KEYS[:3]), max_size=400))
def test_no_text_makes_recognition_fail(text):
    found = recognise(text)
    assert 0 <= found.offset <= len(text) and (found.format is None) == (found.offset == 0)
    assert found.format is None or found.format in (*FORMATS, MALFORMED)


def test_groups_of_formats_share_out_all_of_them():
    """Training, held-out keys, the unseen family: what experiment 2 tells apart."""
    together = [name for group, names in FORMAT_GROUPS.items() if group != "people" for name in names]
    assert sorted(together) == sorted(FORMATS)
    assert {name.split("_")[0] for name in FORMAT_GROUPS["unseen_family"]} == {"xml"}
    assert {name.split("_")[1] for name in FORMAT_GROUPS["held_out_keys"]} == {"text", "content"}
    assert [len(FORMAT_GROUPS[name]) for name in ("train", "held_out_keys", "unseen_family")] == [40, 8, 12]
    assert formats_of("held_out_keys") == list(FORMAT_GROUPS["held_out_keys"])
    assert formats_of(["csv_body"]) == ["csv_body"]
    with pytest.raises(ConfigError, match="unknown group of formats 'trian'; use one of train, held_out_keys"):
        formats_of("trian")


def test_people_wrap_in_ways_beside_the_benchmarks_none_of_which_experiment_2_keeps_back():
    people = FORMAT_GROUPS["people"]
    assert set(FORMAT_GROUPS["train"]) < set(people)
    assert not {*FORMAT_GROUPS["held_out_keys"], *FORMAT_GROUPS["unseen_family"]} & set(people)
    assert {name.split("_")[1] for name in people}.isdisjoint({"text", "content"})
    wrapped = {name: apply_format("Paris", name) for name in people}
    assert len(set(wrapped.values())) == len(people) == 120
    assert all(text.count("Paris") == 1 and name.split("_")[1] in text for name, text in wrapped.items())
    assert not any(re.match(r"\s*<", text) for text in wrapped.values()), "the family that is kept back"


@pytest.mark.parametrize(
    "name, wrapped",
    [
        ("bbcode_reply", "[reply]Paris[/reply]"),
        ("call_reply", 'reply("Paris")'),
        ("field_reply", ":reply: Paris"),
        ("ini_reply", "reply = Paris"),
        ("latex_reply", "\\reply{Paris}"),
        ("lisp_reply", '(reply "Paris")'),
        ("markdown_reply", "**reply:** Paris"),
        ("wiki_reply", "{{reply|Paris}}"),
    ],
)
def test_how_people_wrap(name, wrapped):
    assert apply_format("Paris", name) == wrapped
