"""Everyday facts: what made-up persons drink, own, fear and so on (`everyday.yaml`).

- CounterFact has few groups that training may see, and a model that selects by heart knows them soon. These are many
  more, so that it has to read what an instruction names.
- The persons are made up. Nothing is true of them but what a document says, so `Fact.true` is empty.
- Some facts of a document are about the same person, others in the same group: either can be what is asked for.
"""

import random
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

import yaml

from gnm.data.types import Fact
from gnm.errors import DataError


@dataclass(frozen=True, slots=True)
class EverydayGroup:
    """What people call a group, the objects that its facts state, and its relations by id, as in `wordings.yaml`."""

    names: tuple[str, ...]
    objects: tuple[str, ...]
    relations: Mapping[str, Mapping[str, list[str]]]


@cache
def load_everyday() -> Mapping[str, EverydayGroup]:
    """The packaged groups by name. Raises DataError if a relation or an object stands in two of them."""
    groups = {
        name: EverydayGroup(tuple(entry["names"]), tuple(entry["objects"]), entry["relations"])
        for name, entry in _table()["groups"].items()
    }
    for kind in ("relations", "objects"):
        every = [each for group in groups.values() for each in getattr(group, kind)]
        if twice := sorted({each for each in every if every.count(each) > 1}):
            raise DataError(f"everyday.yaml: {twice[0]!r} stands twice among the {kind} of all groups; leave it in one")
    return groups


def draw_everyday(number: int, rng: random.Random) -> list[Fact]:
    """`number` facts about two or three persons and of two groups or more; none states the same of the same person."""
    persons = [_person(rng) for _ in range(min(number, rng.randint(2, 3)))]
    groups = rng.sample(sorted(load_everyday()), rng.randint(2, max(2, number - 1)))
    drawn: dict[int, Fact] = {}
    while len(drawn) < number:
        group = groups[len(drawn) % len(groups)]
        fact = _fact(rng.choice(persons), group, rng.choice(sorted(load_everyday()[group].relations)), rng)
        drawn.setdefault(fact.fact_id, fact)
    return rng.sample(list(drawn.values()), number)


def _fact(person: str, group: str, relation: str, rng: random.Random) -> Fact:
    """A fact whose number goes by person and relation; below zero, as CounterFact's are not."""
    number = -1 - zlib.crc32(f"{person}/{relation}".encode())
    said = rng.choice(load_everyday()[group].objects)
    return Fact(number, person, "", "", said, (), (), category=group, subcategory=group, relation=relation)


def _person(rng: random.Random) -> str:
    """A first and a last name, or now and then "my aunt" and the like."""
    known = _table()["persons"]
    if rng.random() < 0.15:
        return rng.choice(known["others"])
    return f"{rng.choice(known['first_names'])} {rng.choice(known['last_names'])}"


@cache
def _table() -> Mapping[str, Any]:
    return yaml.safe_load(files("gnm.data.people").joinpath("everyday.yaml").read_text(encoding="utf-8"))
