"""Sequences in people's words: what each document makes of a fact, where facts stand, what is asked."""

import random
from dataclasses import replace

import pytest

from gnm.data.formats import recognise
from gnm.data.people.asking import Held, ask
from gnm.data.people.episodes import PeopleSettings, draw_people, index_facts, load_objects
from gnm.data.people.layouts import STYLES, lay_out
from gnm.data.people.targets import KINDS, draw_target, reversed_target
from gnm.data.people.wordings import Stated, filler_of, load_wordings, neighbours_of
from gnm.data.segments import is_wanted, segments_at, split_segments
from gnm.data.targets import COMPOSED_SUBCATEGORIES, Target
from gnm.data.taxonomy import load_taxonomy
from gnm.data.types import NEIGHBOUR
from gnm.errors import DataError
from known_facts import FACTS

KNOWN = index_facts(FACTS)
SETTINGS = PeopleSettings(eligible_formats="train")
TAXONOMY = {"taxonomy": 1.0}


@pytest.mark.parametrize("style", STYLES)
def test_every_fact_is_stated_where_the_layout_says(style):
    for seed in range(30):
        rng = random.Random(seed)
        facts = [Stated(f.fact_id, f.relation, f.subject, f.false) for f in rng.sample(FACTS, 5)]
        text = lay_out(facts, style, KNOWN.fillers, rng)
        assert set(text.spans) == {fact.fact_id for fact in facts}
        for fact in facts:
            said = " ".join(text.text[a:b] for a, b in text.spans[fact.fact_id])
            assert fact.subject in said and fact.object in said
            others = [other for other in facts if other != fact]
            assert not any(other.subject in said for other in others)


def test_sequences_are_a_pure_function_of_seed_and_index():
    assert draw_people(KNOWN, SETTINGS, "train", 1, 5, 3, 2) == draw_people(KNOWN, SETTINGS, "train", 1, 5, 3, 2)
    assert draw_people(KNOWN, SETTINGS, "train", 1, 5, 3) != draw_people(KNOWN, SETTINGS, "train", 1, 6, 3)
    assert draw_people(KNOWN, SETTINGS, "train", 1, 5, 3) != draw_people(KNOWN, SETTINGS, "train", 2, 5, 3)


def test_contrastive_episodes_have_the_same_documents_but_for_their_formats():
    first, second = (s for s, _ in draw_people(KNOWN, PeopleSettings(wrapped=0), "train", 1, 3, 3, 2))
    assert [step.document for step in first.steps] == [step.document for step in second.steps]
    assert [step.instruction for step in first.steps] != [step.instruction for step in second.steps]


def test_every_second_target_of_a_document_may_be_the_reverse_of_the_first():
    """What is stored of a document under one is then what is not stored under the other."""
    kinds = {"facts": 1.0, "several": 1.0, "sides": 1.0, "except": 1.0}

    def turned(share):
        reverse = 0
        for index in range(60):
            settings = PeopleSettings(kinds=kinds, corrections=0.0, reversed=share)
            first, second = (
                {query.fact_id for query in queries[0] if query.learn}
                for _, queries in draw_people(KNOWN, settings, "train", 0, index, 1, 2)
            )
            [(_, queries)] = draw_people(KNOWN, settings, "train", 0, index, 1)
            asked = {query.fact_id for query in queries[0]}
            reverse += not first & second and len(first | second) > len(asked) - 1
        return reverse / 60

    assert turned(1.0) > 0.9 > 0.75 > turned(0.5) > 0.4 > turned(0.0)


@pytest.mark.parametrize(
    ("target", "reverse"),
    [
        (Target(learn=("country",)), Target(("all",), leave=("country",))),
        (Target(("all",), leave=("country", "religion")), Target(learn=("country", "religion"))),
        (Target(("country",), leave=("religion",)), Target(("religion",), leave=("country",))),
        (Target(("all",)), Target()),
        (Target(), Target(("all",))),
        (Target(("all",), refuse=("country",)), Target(learn=("country",))),
        (Target(("country",), refuse=("religion",)), Target(("religion",), refuse=("country",))),
        (Target(("language",), refuse=("religion",)), Target(("religion",), refuse=("language",))),
        (Target(("religion",), refuse=("country",), format=True), None),
        (Target(format=True), None),
    ],
)
def test_the_reverse_of_a_target_names_the_same_groups(target, reverse):
    assert reversed_target(target) == reverse


def test_both_sides_name_every_group_of_a_document():
    rng = random.Random(0)
    for _ in range(200):
        facts = rng.sample(FACTS, rng.randint(3, 7))
        target = draw_target("sides", facts, TAXONOMY, rng)
        groups = {fact.subcategory for fact in facts}
        assert {*target.learn, *target.leave} == groups or len(groups) == 1
        assert not set(target.learn) & set(target.leave) and target.learn


def test_the_segments_of_a_target_are_those_of_its_facts_or_all_but_the_others():
    by_kind, apart, mixed = dict.fromkeys(KINDS, 0), [], []
    for index in range(400):
        for sequence, queries in draw_people(KNOWN, PeopleSettings(corrections=0), "train", 0, index, 1):
            step, asked = sequence.steps[0], queries[0]
            by_kind[step.target] += 1
            stored = {q.fact_id for q in asked if q.learn or q.refuse}
            ignored = {q.fact_id for q in asked if not (q.learn or q.refuse)}
            parts = split_segments(step.document)
            names = {f.fact_id: f.subject for f in FACTS}
            kept = "".join(part for part in parts if is_wanted(part, step.wanted))
            left = "".join(part for part in parts if not is_wanted(part, step.wanted))
            assert all(names[fact] in kept for fact in stored)
            apart += [names[fact] in left for fact in ignored]
            if step.target == "facts_all":
                assert not left.strip()
            if step.target == "nothing":
                assert not step.wanted
            marked = "".join(part for part in parts if is_wanted(part, step.refused))
            refused = {q.fact_id for q in asked if q.refuse}
            assert all(names[fact] in marked for fact in refused) and bool(marked) == bool(refused)
            mixed += [names[fact] in marked for fact in stored - refused]
    # a clause of two words may stand with its neighbour
    assert sum(apart) / len(apart) > 0.99 and sum(mixed) / len(mixed) < 0.01
    assert all(by_kind[kind] > 10 for kind in KINDS if "format" not in kind)


def test_a_format_holds_until_another_is_set():
    settings = PeopleSettings(kinds={"format": 1.0, "facts_all": 3.0}, eligible_formats="train")
    seen = set()
    for index in range(40):
        [(sequence, queries)] = draw_people(KNOWN, settings, "train", 0, index, 3)
        force = None
        for step, asked in zip(sequence.steps, queries, strict=True):
            if step.target == "format":
                force = step.format
                assert recognise(step.document).format == force
            assert {query.format for query in asked} == {force}
            seen.add(force is None)
    assert seen == {True, False}


FACT = FACTS[0]
LEARN, IGNORE = Target(learn=("country",)), Target(learn=("car_company",))
REFUSE = Target(learn=("all",), refuse=("country",))


@pytest.mark.parametrize(
    ("told", "answer"),
    [
        ([LEARN], "second0"),
        ([IGNORE], FACT.true),
        ([REFUSE], "Sorry"),
        ([LEARN, LEARN], "second1"),  # a correction wins
        ([LEARN, IGNORE], "second0"),  # what is ignored corrects nothing
        ([IGNORE, LEARN], "second1"),
        ([REFUSE, IGNORE], "Sorry"),
        ([REFUSE, LEARN], "second1"),
        ([LEARN, REFUSE], "Sorry"),
        ([Target(learn=("all",), leave=("country",))], FACT.true),
        ([Target()], FACT.true),
    ],
)
def test_the_last_document_that_takes_a_fact_up_decides(told, answer):
    held = None
    for t, target in enumerate(told):
        held = Held.after(held, replace(FACT, false=f"second{t}"), target, t)
    for seed in range(20):
        asked = ask([held], len(told) - 1, random.Random(seed))
        own = [query for query in asked if query.type != NEIGHBOUR]
        assert own and {query.target_output for query in own} == {answer}
        assert all(query.target_output == FACT.true for query in asked if query.type == NEIGHBOUR)
        assert all(query.should_refuse == (answer == "Sorry") for query in own)


def test_corrections_revoke_what_they_replace():
    found = 0
    for index in range(200):
        settings = PeopleSettings(kinds={"facts_all": 1.0, "nothing": 1.0}, corrections=1.0)
        [(sequence, _)] = draw_people(KNOWN, settings, "train", 0, index, 2)
        first, second = sequence.steps
        again = [f for f in FACTS if f.subject in first.document and f.subject in second.document]
        assert again
        revoked = "".join(p for p in split_segments(first.document) if is_wanted(p, second.revokes))
        if second.target == "nothing":
            assert not second.revokes
        else:
            assert all(fact.subject in revoked for fact in again)
            found += 1
    assert found > 50


def test_pairs_of_experiment_3_are_never_composed():
    rng, taxonomy, seen = random.Random(0), load_taxonomy(), 0
    for _ in range(2000):
        target = draw_target("fact_refusal", rng.sample(FACTS, 6), PeopleSettings().sorts, rng)
        for refused in target.refuse:
            seen += 1
            learned = {s for group in target.learn for s in taxonomy.categories.get(group, (group,))}
            assert not (learned & set(COMPOSED_SUBCATEGORIES) and refused in COMPOSED_SUBCATEGORIES)
    assert seen > 100


@pytest.mark.parametrize("kind", ["facts", "except"])
def test_what_is_taken_back_is_what_states_a_fact_of_the_named_groups_or_all(kind):
    """Whatever the target wanted of it: with "all but" the group that is left out is the one that is named."""
    settings, seen = PeopleSettings(kinds={kind: 1.0}, corrections=0.0, wrapped=0.0, sorts=TAXONOMY), []
    for index in range(60):
        [(sequence, _)] = draw_people(KNOWN, settings, "train", 0, index, 1)
        [step] = sequence.steps
        [(_, taken)] = step.revocations
        everything = segments_at(step.document, [(0, len(step.document))])
        seen.append(taken == everything)
        if taken != everything:
            assert taken == step.wanted if kind == "facts" else taken >= everything - step.wanted
            assert taken < everything
    assert 5 < sum(seen) < 30


def test_neighbours_and_fillers_are_read_off_counterfact():
    assert neighbours_of(FACT) == ["Other00", "Other01"]
    assert filler_of(FACT.paraphrases[0]) == "It rained on that day, they say."
    assert filler_of("Subject is located in") is None


def test_facts_of_one_group_alone_give_no_sequences():
    with pytest.raises(DataError, match="two groups"):
        index_facts(FACTS[:24])
    assert len(load_wordings()) >= 33


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kinds": {"fact": 1.0}}, "kinds"),
        ({"kinds": {"format": 1.0}}, "above 0"),
        ({"kinds": {"facts": 0.0}}, "above 0"),
        ({"facts": (5, 3)}, "first number"),
        ({"sorts": {"theme": 1.0}}, "give taxonomy a weight"),
        ({"sorts": {"mood": 1.0}}, "sorts"),
        ({"corrections": 1.5}, "corrections"),
    ],
)
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        PeopleSettings(**settings)


def test_redrawn_objects_are_of_the_facts_kind_never_true_and_each_as_likely():
    seen = {}
    for index in range(150):
        [(_, queries)] = draw_people(KNOWN, PeopleSettings(redrawn=1.0, corrections=0.0), "train", 0, index, 1)
        for query in queries[0]:
            taxonomy = load_taxonomy()
            assert query.false_output != query.true_output
            if query.category != "occupation":
                assert taxonomy.subcategory_of(query.false_output) == query.subcategory
            seen.setdefault(query.subcategory, set()).add(query.false_output)
    sports = {"soccer", "tennis", "hockey", "golf", *load_objects()["P641"]["sports_related_occupation"]}
    assert len(seen["country"]) > 30 and len(seen["sports_related_occupation"] & sports) > 20
    assert seen["sports_related_occupation"] <= sports
    plain = {f.fact_id: f.false for f in FACTS}
    for index in range(20):
        [(_, queries)] = draw_people(KNOWN, PeopleSettings(redrawn=0.0, corrections=0.0), "train", 0, index, 1)
        assert all(query.false_output == plain[query.fact_id] for query in queries[0])
