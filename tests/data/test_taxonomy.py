"""The taxonomy: its shape, its look-ups, its agreement with the published mapping, and what a broken table says."""

import gzip
import json
from copy import deepcopy
from dataclasses import FrozenInstanceError
from importlib.resources import files

import pytest
import yaml

from gnm.data.taxonomy import build_taxonomy, load_taxonomy
from gnm.errors import DataError

SUBCATEGORIES = {
    "location": ("us_cities_or_states", "non_us_cities_or_states", "continents", "country"),
    "language": (
        "major_western_european_languages",
        "northern_central_european_languages",
        "eastern_european_mediterranean_languages",
        "asian_middle_eastern_languages_and_pacific",
    ),
    "organization": (
        "tech_industrial_or_gaming_company",
        "TV_entertainment_or_news_organization",
        "car_company",
        "religion",
    ),
    "occupation": (
        "music_or_art_related_occupation",
        "sports_related_occupation",
        "science_academia_law_medicine_related_occupation",
        "politics_entertainment_religion_related_occupation",
    ),
}
UNSEEN = {
    "religion",
    "science_academia_law_medicine_related_occupation",
    "continents",
    "northern_central_european_languages",
}


@pytest.fixture
def table() -> dict:
    """The packaged table as plain data, to be broken by a test."""
    return deepcopy(yaml.safe_load(files("gnm.data").joinpath("taxonomy.yaml").read_text(encoding="utf-8")))


@pytest.fixture(scope="module")
def published(shared) -> dict[str, str | None]:
    """The published subcategory of each false object of CounterFact; None for those it drops."""
    mapping = json.loads((shared / "reference/counterfact_target_subcategories.json").read_text())
    objects = set()
    for part in ("train", "test"):
        with gzip.open(shared / f"data/counterfact/{part}.jsonl.gz", "rt", encoding="utf-8") as lines:
            objects |= {json.loads(line)["requested_rewrite"]["target_new"]["str"] for line in lines}
    return {item: mapping.get(item) for item in objects}


def test_categories_and_subcategories_are_those_of_the_protocol():
    taxonomy = load_taxonomy()
    assert dict(taxonomy.categories) == SUBCATEGORIES
    assert set(taxonomy.unseen) == UNSEEN
    assert len(taxonomy.seen) == 12 and not set(taxonomy.seen) & UNSEEN
    for category, subcategories in SUBCATEGORIES.items():
        assert {taxonomy.category_of(name) for name in subcategories} == {category}


def test_every_group_has_its_own_label_and_members():
    taxonomy = load_taxonomy()
    groups = [*taxonomy.categories, *taxonomy.subcategories]
    labels = [taxonomy.label(group) for group in groups]
    assert len(set(labels)) == len(groups) == 20
    assert all("_" not in label and label == label.strip() for label in labels)
    members = [(item, name) for name in taxonomy.subcategories for item in taxonomy.members(name)]
    assert len(dict(members)) == len(members)
    assert all(taxonomy.subcategory_of(item) == name for item, name in members)


@pytest.mark.parametrize(
    ("item", "subcategory"),
    [
        ("France", "country"),
        (" france\n", "country"),
        ("south  america", "continents"),
        ("history", "science_academia_law_medicine_related_occupation"),
        ("History", "TV_entertainment_or_news_organization"),
        ("HISTORY", None),
        ("NATO", None),
        ("", None),
    ],
)
def test_lookup_forgives_case_and_spaces_but_guesses_nothing(item, subcategory):
    assert load_taxonomy().subcategory_of(item) == subcategory


def test_unknown_groups_are_data_errors_that_list_the_known():
    taxonomy = load_taxonomy()
    for look_up in (taxonomy.label, taxonomy.members, taxonomy.category_of):
        with pytest.raises(DataError, match="'countries' is no .*country"):
            look_up("countries")


def test_taxonomy_is_loaded_once_and_cannot_be_changed():
    taxonomy = load_taxonomy()
    assert load_taxonomy() is taxonomy
    with pytest.raises(FrozenInstanceError):
        taxonomy.seen = ()
    with pytest.raises(TypeError):
        taxonomy.categories["location"] = ()


def test_agrees_with_the_published_mapping_but_for_the_listed_differences(published):
    taxonomy = load_taxonomy()
    assert len(published) == 749
    found = {
        item: (theirs, ours) for item, theirs in published.items() if (ours := taxonomy.subcategory_of(item)) != theirs
    }
    assert found == {entry.object: (entry.published, entry.ours) for entry in taxonomy.differences}
    assert 1 - len(found) / len(published) >= 0.97
    assert all(entry.reason for entry in taxonomy.differences)


def _country(table: dict) -> dict:
    return table["categories"]["location"]["subcategories"]["country"]


@pytest.mark.parametrize(
    ("breaking", "message"),
    [
        (lambda table: _country(table)["members"].append("Paris"), "'Paris' is listed in .* and again in 'country'"),
        (lambda table: _country(table)["members"].append("France"), "'France' is listed in 'country' and again"),
        (lambda table: _country(table)["members"].append(False), "member False of 'country' must be plain text"),
        (lambda table: _country(table)["members"].append(" Malawi"), "' Malawi' of 'country' must be plain text"),
        (lambda table: _country(table)["members"].clear(), "'country' has no members"),
        (lambda table: _country(table).update(label="religions"), "'religions' occurs twice"),
        (lambda table: _country(table).pop("label"), "lacks a key .*label"),
        (lambda table: table["unseen"].append("planets"), "unseen names .*planets"),
        (lambda table: table["differences"][0].update(ours="country"), "differences place 'Gujarat' in 'country'"),
    ],
)
def test_a_broken_table_is_a_data_error(table, breaking, message):
    breaking(table)
    with pytest.raises(DataError, match=message):
        build_taxonomy(table)
