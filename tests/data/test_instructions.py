import random

import pytest

from gnm.data.instructions import (
    build_phrasings,
    instruction_for,
    load_phrasings,
    revocation_example,
    revoking_instruction,
)
from gnm.data.targets import composition_targets
from gnm.data.taxonomy import load_taxonomy
from gnm.errors import DataError

KINDS = load_phrasings()
GROUPS = [*load_taxonomy().categories, *load_taxonomy().subcategories]
TARGETS = [
    *GROUPS, "all", "format", "all_format", *(f"{group}_refusal" for group in GROUPS),
    *(f"{group}_format" for group in GROUPS), *composition_targets(),
]  # fmt: skip


@pytest.mark.parametrize("target", TARGETS)
def test_every_target_names_its_groups_and_fills_all_slots(target):
    label = load_taxonomy().label
    named = [group for group in GROUPS if group in target.removesuffix("-fact_refusal_compositions").split("-")]
    named += [group for group in GROUPS if target in (f"{group}_refusal", f"{group}_format")]
    for split, rng in (("test", None), *(("train", random.Random(seed)) for seed in range(8))):
        text = instruction_for(target, split, rng)
        assert "{" not in text and "  " not in text and text[0].isupper() and text.endswith((".", '"'))
        assert all(label(group) in text for group in named), text
        assert ("Sorry" in text) == ("refusal" in target)


def test_there_are_enough_phrasings_of_every_kind():
    assert all(len(KINDS[kind].train) >= (8 if kind.startswith("facts") else 4) for kind in KINDS)


def test_the_evaluation_phrasing_is_never_drawn_in_training():
    for target in ("country", "all", "format", "country_refusal", "country_format"):
        drawn = {instruction_for(target, "train", random.Random(seed)) for seed in range(200)}
        assert instruction_for(target, "test") not in drawn
        assert instruction_for(target, "test", random.Random(0)) == instruction_for(target, "test")
        assert len(drawn) >= 4


def test_all_training_phrasings_are_drawn():
    drawn = {instruction_for("country", "train", random.Random(seed)) for seed in range(300)}
    assert drawn == {text.format(group="countries") for text in KINDS["facts"].train}


def test_phrasings_are_short():
    for kind, phrasings in KINDS.items():
        for text in (*phrasings.train, phrasings.evaluation):
            assert 6 <= len(text.split()) <= 32, (kind, text)


def test_no_phrasing_occurs_in_two_kinds():
    texts = [text for phrasings in KINDS.values() for text in (*phrasings.train, phrasings.evaluation)]
    assert len(set(texts)) == len(texts)


def test_an_example_takes_back_what_its_target_taught():
    label = load_taxonomy().label
    takes_all = set(KINDS["revocation_all"].train)
    takes = {text.format(group=label(group)) for group in GROUPS for text in KINDS["revocation"].train} | takes_all
    for target in TARGETS:
        said, taken = revocation_example(target, random.Random(0))
        assert said in takes
        learned = next((group for group in GROUPS if target.split("-")[0].removesuffix("_format") == group), None)
        assert taken == (("all",) if learned is None else (learned,))
        assert (said in takes_all) == (learned is None) and (learned is None or label(learned) in said)
    with pytest.raises(DataError, match="under target 'format' no fact is learned"):
        revoking_instruction("format", "test")


def test_an_unknown_target_is_an_error():
    with pytest.raises(DataError, match="planets"):
        instruction_for("planets", "test")


def table() -> dict:
    return {
        kind: {"train": list(phrasings.train), "evaluation": phrasings.evaluation} for kind, phrasings in KINDS.items()
    }


@pytest.mark.parametrize(
    ("kind", "change", "message"),
    [
        ("facts", {"train": []}, "facts"),
        ("facts", {"evaluation": "Learn all about {groups}."}, "slots"),
        ("facts", {"evaluation": "Learn it."}, "slots"),
        ("format", {"evaluation": KINDS["format"].train[0]}, "twice"),
        ("refusal", {"held_out": 1}, "refusal"),
    ],
)
def test_a_bad_table_is_an_error(kind, change, message):
    changed = table()
    build_phrasings(changed)
    changed[kind] |= change
    with pytest.raises(DataError, match=message):
        build_phrasings(changed)


def test_a_missing_kind_is_an_error():
    changed = table()
    del changed["refusal"]
    with pytest.raises(DataError, match="refusal"):
        build_phrasings(changed)
