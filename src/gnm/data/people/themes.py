"""Themes: groups of facts by what is said of somebody or something, whatever the object is (`themes.yaml`).

Of everyday facts (`everyday.py`) a group is also the theme.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

import yaml

from gnm.data.people.everyday import load_everyday
from gnm.data.people.fine_groups import fine_group_of
from gnm.data.types import Fact
from gnm.errors import DataError


@dataclass(frozen=True, slots=True)
class Theme:
    """The ids of a theme's relations, and what people call it."""

    relations: tuple[str, ...]
    names: tuple[str, ...]


@cache
def load_themes() -> Mapping[str, Theme]:
    """The packaged themes by name. Raises DataError if two of them share a relation."""
    table = yaml.safe_load(files("gnm.data.people").joinpath("themes.yaml").read_text(encoding="utf-8"))
    themes = {name: Theme(tuple(entry["relations"]), tuple(entry["names"])) for name, entry in table.items()}
    themes |= {name: Theme(tuple(group.relations), group.names) for name, group in load_everyday().items()}
    relations = [relation for theme in themes.values() for relation in theme.relations]
    if twice := sorted({relation for relation in relations if relations.count(relation) > 1}):
        raise DataError(f"themes.yaml: {twice[0]} stands in two themes; leave it in one")
    return themes


@cache
def theme_of(relation: str) -> str:
    """The theme of a relation id. Raises DataError if there is none."""
    for name, theme in load_themes().items():
        if relation in theme.relations:
            return name
    raise DataError(f"themes.yaml has no theme for the relation {relation!r}; add it to one")


def groups_of(fact: Fact) -> tuple[str, ...]:
    """All groups that a fact with wordings belongs to: category, subcategory, theme, subject, and the fine group of the
    object that it is stated with (`fact.false`), if there is one."""
    fine = fine_group_of(fact)
    return fact.category, fact.subcategory, theme_of(fact.relation), fact.subject, *([fine] if fine else [])
