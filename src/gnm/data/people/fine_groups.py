"""Fine groups: groups of facts by the object that a document states, finer than the taxonomy's (`fine_groups.yaml`).

A fact is in one at most. With them a model meets many names of groups, and neighbours that a name does not mean:
"Italian cities" are told from French ones and from countries.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

import yaml

from gnm.data.people.everyday import load_everyday
from gnm.data.types import Fact
from gnm.errors import DataError


@dataclass(frozen=True, slots=True)
class FineGroup:
    """A group of facts by their objects.

    names: what people call it. members: the objects of its facts. unclear: objects of which people may argue whether
    they belong to it; beside such an object the group is not named.
    """

    names: tuple[str, ...]
    members: tuple[str, ...]
    unclear: tuple[str, ...]


@cache
def load_fine_groups() -> Mapping[str, FineGroup]:
    """The packaged groups by name; the same object on every call."""
    text = files("gnm.data.people").joinpath("fine_groups.yaml").read_text(encoding="utf-8")
    return build_fine_groups(yaml.safe_load(text))


def build_fine_groups(table: Mapping[str, Any]) -> Mapping[str, FineGroup]:
    """The groups of a table laid out as `fine_groups.yaml`. Raises DataError if an object stands in two of them."""
    groups = {
        name: FineGroup(tuple(entry["names"]), tuple(entry["members"]), tuple(entry.get("unclear", ())))
        for name, entry in table.items()
    }
    every = [each for group in groups.values() for each in group.members]
    if twice := sorted({each for each in every if every.count(each) > 1}):
        raise DataError(f"fine_groups.yaml: {twice[0]!r} stands in two groups; leave it in one")
    return groups


@cache
def _group_by_object() -> Mapping[str, str]:
    return {each: name for name, group in load_fine_groups().items() for each in group.members}


def fine_group_of(fact: Fact) -> str | None:
    """The fine group of the object that a fact is stated with (`fact.false`); None if there is none.

    Everyday facts have none: there a triangle is a shape.
    """
    return None if fact.subcategory in load_everyday() else _group_by_object().get(fact.false)


def clear_fine_groups(facts: Sequence[Fact]) -> list[str]:
    """The fine groups that an instruction about these facts may name, sorted: those of the facts, unless one of the
    facts is stated with an object that is unclear for the group."""
    groups = {group for fact in facts if (group := fine_group_of(fact))}
    stated = {fact.false for fact in facts}
    return sorted(group for group in groups if not stated & set(load_fine_groups()[group].unclear))
