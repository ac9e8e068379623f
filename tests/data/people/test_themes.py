"""Sorts of groups that a person's instruction is about: of the taxonomy, themes, subjects; and what may be stated."""

import random

import pytest

from gnm.data.people.episodes import load_objects
from gnm.data.people.targets import draw_target
from gnm.data.people.themes import groups_of, load_themes, theme_of
from gnm.data.people.wordings import load_wordings
from gnm.data.taxonomy import load_taxonomy
from gnm.errors import DataError
from known_facts import FACTS


@pytest.mark.parametrize(("sort", "place"), [("taxonomy", 1), ("theme", 2), ("subject", 3)])
def test_the_groups_of_a_target_are_of_one_sort(sort, place):
    """Every fact of such a group is meant, and no other."""
    rng, seen = random.Random(0), set()
    for _ in range(100):
        facts = rng.sample(FACTS, 5)
        target = draw_target("except", facts, {"taxonomy": 1e-9, sort: 1.0}, rng)
        groups = {fact.fact_id: groups_of(fact) for fact in facts}
        if len({own[place] for own in groups.values()}) > 1:
            wide = {load_taxonomy().category_of(own[1]) for own in groups.values()} if sort == "taxonomy" else set()
            assert set(target.leave) <= {own[place] for own in groups.values()} | wide
            left = {fact for fact, own in groups.items() if not target.learns(*own)}
            assert left == {fact for fact, own in groups.items() if set(own) & set(target.leave)}
            seen |= set(target.leave)
    assert len(seen) > 3


def test_a_pair_to_learn_and_to_refuse_is_of_the_taxonomy():
    """What themes cover cannot be told from the pairs of experiment 3."""
    rng, taxonomy = random.Random(0), load_taxonomy()
    for _ in range(100):
        target = draw_target("fact_refusal", rng.sample(FACTS, 5), {"taxonomy": 1e-9, "theme": 1.0}, rng)
        assert {*target.learn, *target.refuse} <= {*taxonomy.subcategories, *taxonomy.categories}


def test_every_worded_relation_has_one_theme():
    assert {theme_of(relation) for relation in load_wordings()} == set(load_themes())
    with pytest.raises(DataError, match="no theme for the relation 'P0'"):
        theme_of("P0")


def test_no_stated_object_is_of_a_group_that_training_must_not_see():
    taxonomy = load_taxonomy()
    for groups in load_objects().values():
        for subcategory, own in groups.items():
            assert subcategory in taxonomy.seen and len(own) == len(set(own))
            assert {taxonomy.subcategory_of(each) for each in own} <= {None, *taxonomy.seen}
