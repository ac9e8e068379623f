"""Fine groups: by the object that a document states, finer than the taxonomy's."""

import random
from dataclasses import replace

import pytest

from gnm.data.people.episodes import load_objects
from gnm.data.people.everyday import draw_everyday
from gnm.data.people.fine_groups import build_fine_groups, clear_fine_groups, load_fine_groups
from gnm.data.people.targets import KINDS, draw_target
from gnm.data.people.themes import groups_of
from gnm.data.taxonomy import load_taxonomy
from gnm.errors import DataError
from known_facts import FACTS

FINE = {"taxonomy": 1e-9, "fine": 1.0}
STATED = ["Rome", "Milan", "Paris", "Italy", "Sweden", "Norway", "Egypt"]


def stating(*objects):
    """One known fact of a place for each object, stated with it."""
    places = [fact for fact in FACTS if fact.category == "location"][: len(objects)]
    assert len(places) == len(objects)
    return [replace(fact, false=object) for fact, object in zip(places, objects, strict=True)]


def test_every_object_may_be_stated_and_none_is_of_a_group_that_training_must_not_see():
    taxonomy = load_taxonomy()
    known = {each for group in taxonomy.seen for each in taxonomy.members(group)}
    known |= {each for groups in load_objects().values() for own in groups.values() for each in own}
    for name, group in load_fine_groups().items():
        assert {*group.members, *group.unclear} <= known, name
        assert len(group.members) > 1 and len(group.names) > 1 and not set(group.members) & set(group.unclear), name
        assert name not in {*taxonomy.categories, *taxonomy.subcategories}


def test_an_object_in_two_groups_is_refused():
    table = {name: {"names": [name], "members": ["Rome", name]} for name in ("towns", "capitals")}
    with pytest.raises(DataError, match="'Rome' stands in two groups"):
        build_fine_groups(table)


def test_a_group_goes_by_the_object_that_is_stated():
    [fact] = stating("Rome")
    assert "italian_places" in groups_of(fact) and "italian_places" not in groups_of(replace(fact, false="Paris"))


def test_a_group_is_not_named_beside_an_object_of_which_people_may_argue():
    assert clear_fine_groups(stating("Brazil", "Rome")) == ["italian_places", "latin_american_countries"]
    assert clear_fine_groups(stating("Brazil", "Rome", "Cuba")) == ["caribbean_islands", "italian_places"]


def test_an_everyday_fact_has_no_fine_group():
    """A triangle is a shape there, no instrument."""
    [instrument] = stating("triangle")
    shape = replace(draw_everyday(4, random.Random(0))[0], false="triangle")
    assert clear_fine_groups([instrument]) == ["percussion"] and clear_fine_groups([shape]) == []


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "fact_refusal"])
def test_what_a_target_of_fine_groups_means(kind):
    """Only facts of the named groups are left out or refused, or else learned."""
    rng, named = random.Random(0), set()
    for _ in range(200):
        facts = stating(*rng.sample(STATED, 5))
        target = draw_target(kind, facts, FINE, rng)
        for fact in facts:
            own = set(groups_of(fact))
            assert target.refuses(*own) == bool(own & set(target.refuse))
            if target.learns_all:
                assert target.learns(*own) == (not own & {*target.leave, *target.refuse})
            else:
                assert target.learns(*own) == bool(own & set(target.learn))
        named |= {*target.learn, *target.leave, *target.refuse} & load_fine_groups().keys()
    speaks = kind not in ("facts_all", "nothing", "format", "fact_format_all")
    assert (len(named) > 2) == speaks


def test_two_sides_leave_no_fact_on_neither():
    rng, kinds = random.Random(0), set()
    for objects in (["Rome", "Paris", "Italy", "Norway", "Milan"], ["Rome", "Paris", "Sweden", "Norway", "Milan"]):
        for _ in range(50):
            facts = stating(*objects)
            target = draw_target("sides", facts, FINE, rng)
            assert all(set(groups_of(fact)) & {*target.learn, *target.leave} for fact in facts)
            kinds.add(bool({*target.learn, *target.leave} & load_fine_groups().keys()))
    assert kinds == {True, False}
