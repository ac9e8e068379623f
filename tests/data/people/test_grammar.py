"""The grammar of instructions: sound, wide, its held-out families never drawn in training."""

import copy
import random
import re

import pytest
import yaml

from gnm.data.instructions import load_phrasings
from gnm.data.people import grammar
from gnm.data.people.grammar import SLOTS, Grammar, build_grammar, load_grammar, load_names, worded, worded_instruction
from gnm.data.targets import Target
from gnm.data.taxonomy import load_taxonomy
from gnm.errors import DataError

TABLE = yaml.safe_load(grammar._read("grammar.yaml"))


def drawn(kind, split, count=400, seed=0):
    rng = random.Random(seed)
    return {load_grammar().sentence(kind, split, rng) for _ in range(count)}


def test_there_are_hundreds_of_phrasings_of_every_kind_that_is_trained_often():
    counts = {kind: len(drawn(kind, "train")) for kind in SLOTS}
    assert sum(counts.values()) > 2000
    assert all(counts[kind] > 150 for kind in SLOTS if kind not in ("correction", "revocation_all"))


def test_every_family_is_drawn_about_as_often():
    """Families first, then their templates: a family with many templates does not crowd out the others."""
    families = {"few": ("few",), "many": tuple(f"many {number}" for number in range(9))}
    rng, odd = random.Random(0), Grammar({}, {"facts": families}, {})
    texts = [odd.sentence("facts", "train", rng) for _ in range(1000)]
    assert 400 < texts.count("Few") < 600


@pytest.mark.parametrize("kind", SLOTS)
def test_held_out_families_and_the_protocols_evaluation_phrasings_are_never_trained(kind):
    held_out = drawn(kind, "test")
    trained = drawn(kind, "train", 1000)
    assert not held_out & trained
    evaluation = {known.evaluation for known in load_phrasings().values()}
    words = {seven for text in evaluation for seven in sevens(text)}
    assert not {text for text in trained if words & set(sevens(text))}


def sevens(text):
    words = text.lower().replace(",", "").replace(".", "").split()
    return [tuple(words[start : start + 7]) for start in range(len(words) - 6)]


def test_instructions_begin_with_a_capital_and_have_no_open_part():
    rng = random.Random(1)
    for kind in SLOTS:
        for _ in range(200):
            text = worded(kind, ("country", "car_company"), ("religion",), "train", rng)
            assert text[0] == text[0].upper() and not re.search(r"<\w|[{}]|  ", text)


@pytest.mark.parametrize(
    ("target", "said", "unsaid"),
    [
        (Target(learn=("country",)), ["country"], ["car_company"]),
        (Target(learn=("all",), leave=("country", "car_company")), ["country", "car_company"], ["religion"]),
        (Target(learn=("country",), refuse=("religion",)), ["country", "religion"], ["car_company"]),
        (Target(learn=("country",), leave=("religion",)), ["country", "religion"], ["car_company"]),
        (Target(), [], ["country"]),
    ],
)
def test_an_instruction_names_the_groups_of_its_target_and_no_others(target, said, unsaid):
    called = {group: {load_taxonomy().label(group), *load_names()[group]} for group in (*said, *unsaid)}
    rng = random.Random(2)
    for _ in range(100):
        text = worded_instruction(target, "train", rng).lower()
        assert all(any(name.lower() in text for name in called[group]) for group in said)
        assert not any(name.lower() in text for group in unsaid for name in called[group])


def use_only(monkeypatch, kind, template):
    """Let `template` be all that training has of a kind."""
    held_out = "".join(f"{{{slot}}}" for slot in SLOTS[kind])
    table = TABLE | {"kinds": TABLE["kinds"] | {kind: {"terse": [template], "metaphor": [held_out]}}}
    monkeypatch.setattr(grammar, "load_grammar", lambda: build_grammar(table))


def called(group):
    return {load_taxonomy().label(group).lower(), *(name.lower() for name in load_names()[group])}


def test_what_is_left_out_is_told_from_what_is_learned(monkeypatch):
    """Of both sides, each fills its own slot, in either order."""
    use_only(monkeypatch, "sides", "not {left}: {group}")
    text = worded_instruction(Target(learn=("car_company",), leave=("country",)), "train", random.Random(0)).lower()
    left, learned = text.removeprefix("not ").split(": ", 1)
    assert left in called("country") and learned in called("car_company")


@pytest.mark.parametrize(
    ("groups", "name", "verb"),
    [
        (("car_company",), "car makers", "are"),
        (("car_company",), "the car industry", "is"),
        (("language",), "who speaks which language", "is"),
        (("country",), "whole countries rather than cities", "are"),
        (("language", "country"), "what people speak and geography", "are"),
    ],
)
def test_verbs_agree_with_what_groups_are_called(monkeypatch, groups, name, verb):
    use_only(monkeypatch, "facts", "{group} {group is|are} it")
    monkeypatch.setattr(grammar, "_called", lambda groups, rng: name if groups else "")
    assert worded("facts", groups, (), "train", random.Random(0)).lower() == f"{name} {verb} it"


def test_sentences_begin_with_a_capital_where_a_group_does(monkeypatch):
    monkeypatch.setattr(grammar, "_called", lambda groups, rng: "U.S. towns" if groups == ("us",) else "faiths")
    use_only(monkeypatch, "sides", "no {left}? {group}.")
    assert worded("sides", ("religion",), ("us",), "train", random.Random(0)) == "No U.S. towns? Faiths."


def damaged(change):
    table = copy.deepcopy(TABLE)
    change(table)
    return table


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t["kinds"].pop("nothing"), "exactly the kinds"),
        (lambda t: t["parts"].update(keep=["<skip>"], skip=["<keep>"]), "leads back to itself"),
        (lambda t: t["kinds"]["facts"]["terse"].append("<nowhere> {group}"), "unknown part 'nowhere'"),
        (lambda t: t["kinds"]["facts"]["terse"].append("just learn"), "needs the slots"),
        (lambda t: t["kinds"]["nothing"]["terse"].append("not {group}"), "needs the slots none"),
        (lambda t: t["kinds"]["nothing"]["terse"].append("{group is|are} nothing"), "a verb"),
        (lambda t: t.update(held_out=[]), "held-out ones"),
    ],
)
def test_an_unsound_grammar_is_refused(change, message):
    with pytest.raises(DataError, match=message):
        build_grammar(damaged(change))
