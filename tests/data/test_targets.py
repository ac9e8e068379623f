import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_up_facts import make_facts

from gnm.data.documents import from_record, make_document
from gnm.data.sources import read_json
from gnm.data.targets import (
    TARGET_TYPES,
    composition_targets,
    expected_queries,
    parse_target,
    targets_in,
)
from gnm.data.taxonomy import load_taxonomy
from gnm.data.types import PARAPHRASE, Document
from gnm.errors import DataError

GROUPS = [*load_taxonomy().categories, *load_taxonomy().subcategories]


def document_of(facts, *subcategories: str) -> Document:
    """A document with one fact of each of the named subcategories."""
    return make_document([next(fact for fact in facts if fact.subcategory == name) for name in subcategories])


def answers(document: Document, target: str) -> dict[str, str]:
    """Expected answer to the first paraphrase of each subcategory."""
    queries = [query for query in expected_queries(document.pairs, target) if query.type == PARAPHRASE]
    return {query.subcategory: query.target_output for query in reversed(queries)}


def test_every_golden_case_of_expected_answers(golden_folder):
    documents = json.loads((golden_folder / "data/documents.json").read_text())
    cases = read_json(golden_folder / "data/target_outputs.json.gz")["cases"]
    assert len(cases) == 330
    for case in cases:
        record = documents[case["document_index"]]
        queries = expected_queries(from_record(record, "golden").pairs, case["target"])
        assert len(queries) == len(case["output_pairs"])
        for query, expected in zip(queries, case["output_pairs"], strict=True):
            source = record["input_output_pairs"][expected["pair_index"]]
            where = (case["document_index"], case["target"], expected["pair_index"])
            assert (query.input, query.type, query.fact_id) == (source["input"], source["type"], source["fact_id"]), (
                where
            )
            for name in ("target_output", "non_target_output", "true_output", "false_output"):
                assert getattr(query, name) == expected[name].strip(), where
            assert query.should_refuse == expected["should_refuse"], where
            assert query.neighbor_of_should_refuse == expected.get("neighbor_of_should_refuse", False), where
            assert query.learn == expected["fact_id_targeted_for_fact_learning"], where
            assert query.refuse == expected["fact_id_targeted_for_refusal_learning"], where


def test_under_a_refusal_everything_else_is_learned(facts):
    document = document_of(facts, "country", "religion")
    stated = {pair.subcategory: pair.false_output for pair in document.pairs}
    assert answers(document, "religion_refusal") == {"country": stated["country"], "religion": "Sorry"}


def test_a_format_target_teaches_no_fact(facts):
    document = document_of(facts, "country", "religion")
    true = {pair.subcategory: pair.true_output for pair in document.pairs}
    assert answers(document, "format") == true
    assert not any(query.learn or query.refuse for query in expected_queries(document.pairs, "format"))


@pytest.mark.parametrize(
    "target", ["contry", "all_refusal", "country-fact_refusal_compositions", "a-country-fact_refusal_compositions", ""]
)
def test_a_target_without_a_known_group_is_an_error(target):
    with pytest.raises(DataError):
        parse_target(target)


@given(st.sampled_from(GROUPS), st.sampled_from(GROUPS))
def test_refusing_wins_over_learning(learn, refuse):
    target = parse_target(f"{learn}-{refuse}-fact_refusal_compositions")
    for subcategory in load_taxonomy().subcategories:
        category = load_taxonomy().category_of(subcategory)
        refuses = refuse in (category, subcategory)
        assert target.refuses(category, subcategory) == refuses
        assert target.learns(category, subcategory) == (learn in (category, subcategory) and not refuses)


@pytest.mark.parametrize(
    ("target", "learned", "refused"),
    [
        ("nothing", set(), set()),
        ("country+car_company", {"country", "car_company"}, set()),
        ("all_but_country", {"religion", "car_company"}, set()),
        ("all_but_location+religion", {"car_company"}, set()),
        ("country+religion_refusal", {"car_company"}, {"country", "religion"}),
        ("car_company-country+religion-fact_refusal_compositions", {"car_company"}, {"country", "religion"}),
    ],
)
def test_targets_beyond_the_protocol(target, learned, refused):
    parsed, category = parse_target(target), load_taxonomy().category_of
    groups = ("country", "religion", "car_company")
    assert {group for group in groups if parsed.learns(category(group), group)} == learned
    assert {group for group in groups if parsed.refuses(category(group), group)} == refused


def test_compositions_are_the_48_ordered_pairs_across_categories():
    taxonomy = load_taxonomy()
    names = composition_targets()
    assert len(set(names)) == len(names) == 48
    for name in names:
        target = parse_target(name)
        [learn], [refuse] = target.learn, target.refuse
        assert taxonomy.category_of(learn) != taxonomy.category_of(refuse)
        assert {learn, refuse} <= set(taxonomy.seen)


def test_targets_of_each_type_in_a_document(facts):
    document = document_of(facts, "country", "car_company", "sports_related_occupation")
    found = targets_in(document, TARGET_TYPES, "all")
    assert set(found["fact_categories"]) == {"location", "organization", "occupation", "all"}
    assert set(found["fact_subcategories"]) == {"country", "car_company", "sports_related_occupation", "all"}
    assert found["formats"] == ("format",)
    assert "organization_refusal" in found["refusal_categories"]
    assert "car_company_refusal" in found["refusal_subcategories"]
    assert set(found["fact_format_compositions"]) == {
        "country_format", "car_company_format", "sports_related_occupation_format", "all_format",
    }  # fmt: skip
    assert set(found["fact_refusal_compositions"]) == {
        "country-sports_related_occupation-fact_refusal_compositions",
        "sports_related_occupation-country-fact_refusal_compositions",
    }


def test_held_out_groups_and_whatever_covers_them_are_no_targets_under_seen(facts):
    document = document_of(facts, "country", "continents", "car_company")
    found = targets_in(document, TARGET_TYPES, "seen")
    assert set(found["fact_subcategories"]) == {"country", "car_company"}
    assert set(found["fact_categories"]) == {"organization"}  # location holds continents here; so does "all"
    assert set(found["refusal_categories"]) == {"organization_refusal"}
    assert set(found["fact_format_compositions"]) == {"country_format", "car_company_format"}
    without = targets_in(document_of(facts, "country", "car_company"), TARGET_TYPES, "seen")
    assert set(without["fact_categories"]) == {"location", "organization", "all"}


def test_only_held_out_subcategories_are_targets_under_unseen(facts):
    document = document_of(facts, "religion", "continents", "car_company")
    assert targets_in(document, TARGET_TYPES, "unseen") == {
        "fact_subcategories": ("continents", "religion"),
        "formats": ("format",),
        "refusal_subcategories": ("continents_refusal", "religion_refusal"),
        "fact_format_compositions": ("continents_format", "religion_format"),
    }


def test_not_even_a_document_of_held_out_facts_only_is_learned_whole_under_unseen(facts):
    found = targets_in(
        document_of(facts, "religion", "continents"), ["fact_categories", "fact_subcategories"], "unseen"
    )
    assert found == {"fact_subcategories": ("continents", "religion")}


def test_an_unknown_target_type_is_an_error(facts):
    with pytest.raises(DataError, match="fact_groups"):
        targets_in(document_of(facts, "country"), ["fact_groups"], "all")


@given(
    st.lists(st.sampled_from(make_facts(2)), min_size=1, max_size=8, unique=True),
    st.sampled_from(["seen", "unseen", "all"]),
)
def test_a_fact_target_always_has_a_fact_to_learn(facts, groups):
    document = make_document(facts)
    found = targets_in(document, TARGET_TYPES, groups)
    for target_type in (
        "fact_categories",
        "fact_subcategories",
        "fact_format_compositions",
        "fact_refusal_compositions",
    ):
        for target in found.get(target_type, ()):
            learned = {query.subcategory for query in expected_queries(document.pairs, target) if query.learn}
            assert learned
            if groups != "all":
                assert learned <= set(getattr(load_taxonomy(), groups))
