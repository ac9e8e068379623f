import json
from dataclasses import replace

import pytest
from made_up_facts import make_record

from gnm.data.counterfact import categorise, parse_record, read_facts, write_facts
from gnm.data.sources import read_records
from gnm.data.taxonomy import load_taxonomy
from gnm.data.types import Fact
from gnm.errors import DataError


def with_false(false: str, case_id: int) -> dict:
    record = make_record(case_id=case_id)
    return record | {"requested_rewrite": record["requested_rewrite"] | {"target_new": {"str": false, "id": "Q"}}}


def placed(*records: dict) -> list[tuple[str, dict]]:
    return [(f"train.json, record {number}", record) for number, record in enumerate(records)]


def test_a_record_becomes_a_fact_with_the_group_of_its_false_object(record):
    assert parse_record(record, "here") == Fact(
        fact_id=7,
        subject="Harbour Song",
        prompt="{} was written in",
        true="French",
        false="Swedish",
        paraphrases=("Long ago. Harbour Song was composed in",),
        neighbours=("Hill Song was written in",),
        category="language",
        subcategory="northern_central_european_languages",
        attributes=(),
        generations=("Harbour Song is",),
        relation="P1",
    )


@pytest.mark.parametrize("absent", [None, "", 0])
def test_a_relation_id_may_be_absent(record, absent):
    record["requested_rewrite"]["relation_id"] = absent
    assert parse_record(record, "here").relation == ""
    del record["requested_rewrite"]["relation_id"]
    assert parse_record(record, "here").relation == ""


def test_the_subject_takes_the_place_in_the_prompt_whatever_it_holds(record):
    record["requested_rewrite"]["subject"] = "{Odd} {0}"
    assert parse_record(record, "here").phrase == "{Odd} {0} was written in"


def test_an_object_in_no_group_gives_no_fact():
    assert parse_record(with_false("Zzyzx Nowhere", 1), "here") is None


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("case_id",), None, "'case_id'"),
        (("case_id",), "7", "'case_id' must be a whole number"),
        (("requested_rewrite",), None, "'requested_rewrite'"),
        (("requested_rewrite", "prompt"), "was written in", "exactly once"),
        (("requested_rewrite", "subject"), " ", "'subject' must be a non-empty text"),
        (("requested_rewrite", "relation_id"), 36, "'relation_id' must be a non-empty text"),
        (("requested_rewrite", "target_new"), {"id": "Q1"}, "target_new has no field 'str'"),
        (("requested_rewrite", "target_true"), {"str": 5}, "target_true: field 'str'"),
        (("paraphrase_prompts",), [], "'paraphrase_prompts' is empty"),
        (("neighborhood_prompts",), "text", "'neighborhood_prompts' must be a list"),
        (("attribute_prompts",), [1], "'attribute_prompts'"),
        (("generation_prompts",), None, "no field 'generation_prompts'"),
    ],
)
def test_a_bad_field_is_an_error_that_names_record_and_field(record, path, value, message):
    *parents, last = path
    block = record
    for parent in parents:
        block = block[parent]
    if value is None:
        del block[last]
    else:
        block[last] = value
    with pytest.raises(DataError, match=f"train.json, record 0.*{message}"):
        categorise({"train": placed(record), "test": []})


def test_a_record_that_is_no_mapping_is_an_error():
    with pytest.raises(DataError, match="record 0"):
        categorise({"train": placed([1, 2]), "test": []})


def test_held_out_facts_move_to_test_and_strangers_are_dropped_and_counted():
    train = placed(
        with_false("Swedish", 1), with_false("French", 2), with_false("Nowhere", 3), with_false("Nowhere", 4)
    )
    test = placed(with_false("Japan", 5), with_false("Elsewhere", 6))
    result = categorise({"train": train, "test": test})
    assert [fact.fact_id for fact in result.train] == [2]
    assert sorted(fact.fact_id for fact in result.test) == [1, 5]
    assert result.report == {
        "facts": {"train": 1, "test": 2},
        "facts_by_subcategory": {
            "train": {"major_western_european_languages": 1},
            "test": {"country": 1, "northern_central_european_languages": 1},
        },
        "moved_from_train_to_test": 1,
        "dropped": 3,
        "dropped_by_object": {"Nowhere": 2, "Elsewhere": 1},
    }


def test_an_id_that_occurs_twice_is_an_error():
    with pytest.raises(DataError, match="case_id 5 .*record 0"):
        categorise({"train": placed(with_false("Japan", 5)), "test": placed(with_false("Chile", 5))})


def test_reading_facts_gives_back_what_was_written(facts, tmp_path):
    write_facts(tmp_path / "facts.json", facts)
    assert read_facts(tmp_path / "facts.json") == facts


def test_written_facts_keep_their_relation_or_none(facts, tmp_path):
    related = [replace(facts[0], relation="P37"), facts[1]]
    write_facts(tmp_path / "facts.json", related)
    assert [fact.relation for fact in read_facts(tmp_path / "facts.json")] == ["P37", ""]


@pytest.mark.parametrize(
    "change",
    [{"subject": ""}, {"fact_id": "1"}, {"paraphrases": [None]}, {"more": 1}, {"relation": None}, {"relation": 7}],
)
def test_a_foreign_fact_file_is_an_error(facts, tmp_path, change):
    path = tmp_path / "train.json"
    write_facts(path, facts[:2])
    records = json.loads(path.read_text())
    records[1] |= change
    path.write_text(json.dumps(records))
    with pytest.raises(DataError, match="train.json, record 1"):
        read_facts(path)


def test_facts_without_a_relation_are_an_earlier_version_s(facts, tmp_path):
    path = tmp_path / "train.json"
    write_facts(path, facts[:1])
    records = json.loads(path.read_text())
    del records[0]["relation"]
    path.write_text(json.dumps(records))
    with pytest.raises(DataError, match="train.json, record 0 .*make the file again"):
        read_facts(path)


def test_all_of_counterfact(project):
    result = categorise(read_records(str(project / "data/counterfact")))
    taxonomy = load_taxonomy()
    assert len(result.train) + len(result.test) + result.report["dropped"] == 21_919
    assert {fact.subcategory for fact in result.train} == set(taxonomy.seen)
    assert {fact.subcategory for fact in result.test} == set(taxonomy.subcategories)
    assert result.report["dropped"] < 300
    assert all(fact.false == fact.false.strip() and "\n" not in fact.phrase for fact in result.train)
