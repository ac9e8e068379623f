"""Everyday facts of made-up persons: the packaged groups, how facts are drawn, and what is asked of them."""

import random
from collections import Counter
from dataclasses import replace

import pytest

from gnm.data.people import everyday
from gnm.data.people.episodes import PeopleSettings, draw_people, index_facts
from gnm.data.people.everyday import draw_everyday, load_everyday
from gnm.data.people.grammar import load_names
from gnm.data.people.themes import groups_of, theme_of
from gnm.data.people.wordings import load_wordings
from gnm.data.taxonomy import load_taxonomy
from gnm.data.types import REFUSAL_ANSWER
from gnm.errors import DataError
from known_facts import FACTS

KNOWN = index_facts(FACTS)
TRUE = {fact.fact_id for fact in FACTS}


def drawn(count, **settings):
    settings = PeopleSettings(corrections=0.0, **settings)
    return [draw_people(KNOWN, settings, "train", 3, index, 1)[0] for index in range(count)]


def test_the_groups_are_none_of_the_taxonomys_and_have_names_objects_and_worded_relations():
    groups, taxonomy = load_everyday(), load_taxonomy()
    assert len(groups) >= 40
    known = {*taxonomy.categories, *taxonomy.subcategories}
    for name, group in groups.items():
        assert name not in known
        assert len(group.names) == len(set(group.names)) >= 12
        assert len(group.objects) >= 12
        assert {taxonomy.subcategory_of(each) for each in group.objects} <= {None, *taxonomy.seen}, name
        assert len(group.relations) >= 2 and set(group.relations) <= set(load_wordings())
        assert load_names()[name] == group.names
        assert {theme_of(relation) for relation in group.relations} == {name}


def test_an_object_that_stands_in_two_groups_is_told(monkeypatch):
    entry = {"names": ["a"], "objects": ["tea"], "relations": {}}
    monkeypatch.setattr(everyday, "_table", lambda: {"groups": {"drinks": entry, "leaves": entry}})
    load_everyday.cache_clear()
    with pytest.raises(DataError, match="'tea' stands twice among the objects"):
        load_everyday()
    load_everyday.cache_clear()


def test_facts_are_about_few_persons_and_groups_and_none_says_the_same_twice():
    shared = Counter()
    for seed in range(200):
        rng = random.Random(seed)
        number = rng.randint(2, 7)
        facts = draw_everyday(number, rng)
        assert len({(fact.subject, fact.relation) for fact in facts}) == len(facts) == number
        assert len({fact.subject for fact in facts}) <= 3
        assert number < 3 or len({fact.category for fact in facts}) >= 2
        assert all(fact.fact_id < 0 and not fact.true for fact in facts)
        assert all(fact.false in load_everyday()[fact.category].objects for fact in facts)
        shared[len({fact.subject for fact in facts}) < number] += 1
    assert shared[True] > 120, "a person is a group only where several facts are about one"


def test_the_number_of_a_fact_goes_by_person_and_relation():
    """So that a later document that states it anew corrects it."""
    by_number = {}
    for seed in range(300):
        for fact in draw_everyday(5, random.Random(seed)):
            assert by_number.setdefault(fact.fact_id, (fact.subject, fact.relation)) == (fact.subject, fact.relation)


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_the_share_of_documents_that_state_them_and_half_of_these_nothing_else(share):
    kinds = Counter()
    for _, [queries] in drawn(200, everyday=share, kinds={"facts_all": 1.0}):
        asked = {query.fact_id for query in queries}
        kinds["none" if asked <= TRUE else "some" if asked & TRUE else "all"] += 1
    assert abs(kinds["none"] - 200 * (1 - share)) < 30
    assert abs(kinds["all"] - 100 * share) < 25 and abs(kinds["some"] - 100 * share) < 25


def test_what_has_no_true_answer_is_asked_only_where_it_is_learned_or_refused():
    ends = Counter()
    for sequence, [queries] in drawn(150, everyday=1.0, facts=(4, 6)):
        for query in queries:
            if query.fact_id in TRUE:
                continue
            assert query.fact_id_targeted_for_fact_learning or query.fact_id_targeted_for_refusal_learning
            if query.should_refuse:
                assert query.target_output == REFUSAL_ANSWER
            else:
                assert query.target_output in sequence.steps[0].document and query.target_output
                rival = query.non_target_output
                assert rival in load_everyday()[query.subcategory].objects and rival != query.target_output
            ends[query.should_refuse] += 1
    assert ends[True] > 20 and ends[False] > 100


def test_a_person_is_a_group_of_all_facts_about_them():
    [fact, *_] = draw_everyday(4, random.Random(1))
    assert groups_of(fact) == (fact.category, fact.category, fact.category, fact.subject)
    several = 0
    for sequence, [queries] in drawn(80, everyday=1.0, kinds={"facts": 1.0}, sorts={"taxonomy": 0.01, "subject": 1.0}):
        learned = {q.fact_id for q in queries if q.fact_id < 0 and q.fact_id_targeted_for_fact_learning}
        several += len(learned) > 1
        assert sequence.steps[0].wanted
    assert several > 20


def test_a_later_document_states_another_object_of_the_same_group():
    settings = PeopleSettings(everyday=1.0, corrections=1.0, kinds={"facts_all": 1.0})
    rivals = 0
    for index in range(40):
        [(_, (_, queries))] = draw_people(KNOWN, settings, "train", 0, index, 2)
        for query in queries:
            if query.fact_id < 0:
                assert query.non_target_output != query.target_output
                rivals += 1
    assert rivals > 40


def test_objects_that_may_be_stated_are_the_groups_own():
    own = index_facts(FACTS).objects
    for name, group in load_everyday().items():
        for relation in group.relations:
            assert own[relation, name] == tuple(sorted(group.objects))


def test_unsaid_facts_leave_no_question_without_an_answer():
    for _, [queries] in drawn(60, everyday=1.0, kinds={"nothing": 1.0}):
        assert all(replace(query).target_output for query in queries)
