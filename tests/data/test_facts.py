"""The embedded facts: size and soundness of the tables, and the records of CounterFact's layout made from them."""

import json
import os
import subprocess
import sys
from collections import Counter

import pytest

from gnm.data.facts import (
    KnownFact,
    build_facts,
    build_relations,
    embedded_records,
    load_facts,
    load_relations,
)
from gnm.data.taxonomy import load_taxonomy
from gnm.errors import DataError

SPORTS = {
    "sport": {
        "subcategories": ["sports_related_occupation"],
        "prompt": "{} plays",
        "paraphrases": ["The sport of {} is", "{} is good at"],
    }
}


@pytest.fixture(scope="module")
def records() -> list[dict]:
    return embedded_records()


@pytest.fixture(scope="module")
def truths() -> dict[tuple[str, str], set[str]]:
    """All objects known to hold of a (relation, subject)."""
    return {(fact.relation, fact.subject): {fact.object, *fact.also} for fact in load_facts()}


def _objects(record: dict) -> tuple[str, str]:
    rewrite = record["requested_rewrite"]
    return rewrite["target_true"]["str"], rewrite["target_new"]["str"]


def _subject(prompt: str, template: str) -> str:
    before, after = template.split("{}")
    assert prompt.startswith(before) and prompt.endswith(after)
    return prompt[len(before) : len(prompt) - len(after)]


def test_every_subcategory_has_many_facts_and_records(records):
    taxonomy = load_taxonomy()
    facts = Counter(taxonomy.subcategory_of(fact.object) for fact in load_facts())
    stated = Counter(taxonomy.subcategory_of(_objects(record)[1]) for record in records)
    assert set(facts) == set(stated) == set(taxonomy.subcategories)
    assert min(facts.values()) >= 150 and min(stated.values()) >= 100
    assert sum(facts.values()) >= 3000 and len(records) >= 2500


def test_relations_are_worded_and_used():
    relations = load_relations()
    assert {fact.relation for fact in load_facts()} == set(relations)
    for relation in relations.values():
        assert len(set(relation.paraphrases)) >= 3 and relation.prompt not in relation.paraphrases
        for template in (relation.prompt, *relation.paraphrases):
            assert template.count("{}") == 1 and template[-1].isalpha()
        objects = {fact.object for fact in load_facts() if fact.relation == relation.name}
        subcategories = {load_taxonomy().subcategory_of(item) for item in objects}
        assert subcategories == set(relation.subcategories)
        assert set().union(*relation.overlapping) <= objects


def test_no_subject_gives_its_object_away():
    taxonomy = load_taxonomy()
    for fact in load_facts():
        assert fact.object.casefold() not in fact.subject.casefold(), fact
        assert fact.object not in fact.also and all(taxonomy.subcategory_of(item) for item in fact.also), fact


@pytest.mark.parametrize(
    ("subject", "relation", "item"),
    [
        ("Anchorage", "state_of_city", "Alaska"),
        ("Space Needle", "us_landmark", "Seattle"),
        ("Colosseum", "city_landmark", "Rome"),
        ("Osaka", "country_of_city", "Japan"),
        ("Kilimanjaro", "continent_of_feature", "Africa"),
        ("Fiji", "continent_of_country", "Oceania"),
        ("Franz Kafka", "mother_tongue", "German"),
        ("Paavo Nurmi", "mother_tongue", "Finnish"),
        ("Joseph Stalin", "mother_tongue", "Georgian"),
        ("Don Quixote", "language_of_work", "Spanish"),
        ("Angola", "official_language", "Portuguese"),
        ("Walkman", "developer_of_product", "Sony"),
        ("Cheers", "original_network", "NBC"),
        ("Countach", "maker_of_car", "Lamborghini"),
        ("Yom Kippur", "religion_of_thing", "Judaism"),
        ("Guru Nanak", "religion_of_person", "Sikhism"),
        ("Jimi Hendrix", "instrument", "guitar"),
        ("Lev Yashin", "position_played", "goalkeeper"),
        ("Emmy Noether", "field_of_work", "mathematics"),
        ("Urban II", "position_held", "pope"),
    ],
)
def test_some_facts(truths, subject, relation, item):
    assert item in truths[relation, subject]


def test_records_have_the_layout_of_counterfact(records):
    ids = [record["case_id"] for record in records]
    assert len(set(ids)) == len(ids) and ids == sorted(ids)
    for record in records:
        rewrite = record["requested_rewrite"]
        assert set(rewrite) == {"prompt", "relation_id", "subject", "target_true", "target_new"}
        assert rewrite["prompt"].count("{}") == 1
        assert len(set(record["paraphrase_prompts"])) == 2
        assert all(rewrite["subject"] in prompt for prompt in record["paraphrase_prompts"])
        assert rewrite["prompt"].format(rewrite["subject"]) not in record["paraphrase_prompts"]
        assert record["attribute_prompts"] and record["generation_prompts"] == []
        assert len(record["neighborhood_prompts"]) <= 10
    assert json.loads(json.dumps(records)) == records


def test_false_object_is_false_of_the_subject_and_of_its_kind(records, truths):
    taxonomy, relations = load_taxonomy(), load_relations()
    for record in records:
        true, false = _objects(record)
        rewrite = record["requested_rewrite"]
        assert taxonomy.subcategory_of(true) == taxonomy.subcategory_of(false)
        for item in truths[rewrite["relation_id"], rewrite["subject"]]:
            assert item[:3].casefold() != false[:3].casefold(), record
        assert not any({true, false} <= group for group in relations[rewrite["relation_id"]].overlapping), record


def test_neighbours_share_the_true_object_and_are_never_taught(records, truths):
    taught = {(r["requested_rewrite"]["relation_id"], r["requested_rewrite"]["subject"]) for r in records}
    for record in records:
        true, false = _objects(record)
        rewrite = record["requested_rewrite"]
        for prompt in record["neighborhood_prompts"]:
            neighbour = rewrite["relation_id"], _subject(prompt, rewrite["prompt"])
            assert true in truths[neighbour] and neighbour not in taught
        for prompt in record["attribute_prompts"]:
            assert false in truths[rewrite["relation_id"], _subject(prompt, rewrite["prompt"])]
    alone = sum(not record["neighborhood_prompts"] for record in records)
    assert alone / len(records) < 0.02


def test_the_seed_decides_and_nothing_else(records):
    assert embedded_records(0) == records
    other = embedded_records(1)
    assert other != records and len(other) == len(records)
    program = "import json; from gnm.data.facts import embedded_records; print(json.dumps(embedded_records()))"
    environment = {**os.environ, "PYTHONHASHSEED": "12345", "PYTHONPATH": os.pathsep.join(sys.path)}
    printed = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, check=True).stdout
    assert json.loads(printed) == records


def _row(subject="Ann Lee", relation="sport", object="golf", also="") -> dict[str, str]:
    return {"subject": subject, "relation": relation, "object": object, "also": also}


def test_rows_become_facts():
    relations = build_relations(SPORTS, load_taxonomy())
    facts = build_facts([_row(also="tennis|boxing")], relations, load_taxonomy())
    assert facts == (KnownFact("Ann Lee", "sport", "golf", ("tennis", "boxing")),)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([_row(), _row(object="tennis")], "'Ann Lee' occurs twice in 'sport'"),
        ([_row(object="France")], "'France' .* is in none of"),
        ([_row(also="curling")], "'curling' .* is in none of"),
        ([_row(relation="hobby")], "no subject or a relation"),
        ([_row(subject="")], "no subject or a relation"),
    ],
)
def test_unsound_rows_are_data_errors(rows, message):
    relations = build_relations(SPORTS, load_taxonomy())
    with pytest.raises(DataError, match=message):
        build_facts(rows, relations, load_taxonomy())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prompt": "{} plays "}, "needs one {} and no space at its ends"),
        ({"prompt": "A sport is"}, "needs one {}"),
        ({"paraphrases": ["{} is good at"]}, "2 different paraphrases"),
        ({"subcategories": ["sports"]}, "'sports' is no subcategory"),
    ],
)
def test_unsound_relations_are_data_errors(change, message):
    with pytest.raises(DataError, match=message):
        build_relations({"sport": {**SPORTS["sport"], **change}}, load_taxonomy())
    incomplete = {key: value for key, value in SPORTS["sport"].items() if key not in change}
    with pytest.raises(DataError, match="'sport' lacks"):
        build_relations({"sport": incomplete}, load_taxonomy())
