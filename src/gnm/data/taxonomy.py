"""The groups that facts belong to: 4 categories, 16 subcategories, each with a label and its objects.

- The table is `taxonomy.yaml` beside this file; it is checked once, on the first load.
- An object is looked up as written, then without regard to case and spacing; a spelling that fits two
  groups that way ("HISTORY": a channel, a field) belongs to neither.
- Four subcategories are `unseen`: no training data is made from them (protocol, "Facts").
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from types import MappingProxyType
from typing import Any

import yaml

from gnm.errors import DataError

_WHERE = "taxonomy.yaml"


@dataclass(frozen=True, slots=True)
class Difference:
    """An object that stands elsewhere here than in the paper's published mapping; None means in no group."""

    object: str
    published: str | None
    ours: str | None
    reason: str


@dataclass(frozen=True, slots=True)
class Taxonomy:
    """Categories, subcategories, labels and members. `seen` and `unseen` are subcategories, in table order."""

    categories: Mapping[str, tuple[str, ...]]
    seen: tuple[str, ...]
    unseen: tuple[str, ...]
    differences: tuple[Difference, ...]
    _labels: Mapping[str, str]
    _members: Mapping[str, tuple[str, ...]]
    _category: Mapping[str, str]
    _exact: Mapping[str, str]
    _folded: Mapping[str, str | None]

    @property
    def subcategories(self) -> tuple[str, ...]:
        """All subcategories, in table order."""
        return tuple(self._members)

    def subcategory_of(self, object: str) -> str | None:
        """The subcategory of an object such as "France" or " france"; None where no group holds it."""
        plain = " ".join(object.split())
        return self._exact.get(plain) or self._folded.get(plain.casefold())

    def category_of(self, subcategory: str) -> str:
        """The category that holds `subcategory`. DataError for a name that is no subcategory."""
        return self._find(self._category, subcategory, "subcategory")

    def label(self, group: str) -> str:
        """Plain-English plural for a category or subcategory, fit for an instruction. DataError if unknown."""
        return self._find(self._labels, group, "category or subcategory")

    def members(self, subcategory: str) -> tuple[str, ...]:
        """The objects of `subcategory`, sorted. DataError for a name that is no subcategory."""
        return self._find(self._members, subcategory, "subcategory")

    @staticmethod
    def _find(table: Mapping[str, Any], key: str, kind: str) -> Any:
        try:
            return table[key]
        except KeyError:
            raise DataError(f"{key!r} is no {kind} of the taxonomy; it has {', '.join(table)}") from None


@cache
def load_taxonomy() -> Taxonomy:
    """The packaged taxonomy. The same object on every call; DataError if the table is not sound."""
    text = files("gnm.data").joinpath(_WHERE).read_text(encoding="utf-8")
    return build_taxonomy(yaml.safe_load(text))


def build_taxonomy(table: Mapping[str, Any]) -> Taxonomy:
    """Check a table laid out as `taxonomy.yaml` and index it.

    Raises DataError for a missing key, a group named twice, an object that is no plain text or is listed twice,
    an unseen or difference entry that does not fit the groups.
    """
    try:
        return _build(table)
    except (KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{_WHERE} lacks a key or has the wrong layout: {error!r}") from error


def _build(table: Mapping[str, Any]) -> Taxonomy:
    categories: dict[str, tuple[str, ...]] = {}
    labels: dict[str, str] = {}
    members: dict[str, tuple[str, ...]] = {}
    category_of: dict[str, str] = {}
    for category, entry in table["categories"].items():
        groups = entry["subcategories"]
        categories[category] = tuple(groups)
        for name, label in [(category, entry["label"]), *((sub, group["label"]) for sub, group in groups.items())]:
            if name in labels or label in labels.values():
                raise DataError(f"{_WHERE}: group {name!r} or its label {label!r} occurs twice; rename one")
            labels[name] = label
        for subcategory, group in groups.items():
            category_of[subcategory] = category
            members[subcategory] = tuple(group["members"])
    exact = _index(members)
    unseen = set(table["unseen"])
    if strangers := unseen - members.keys():
        raise DataError(f"{_WHERE}: unseen names {sorted(strangers)}, which are no subcategories")
    return Taxonomy(
        categories=MappingProxyType(categories),
        seen=tuple(name for name in members if name not in unseen),
        unseen=tuple(name for name in members if name in unseen),
        differences=_differences(table["differences"], exact),
        _labels=MappingProxyType(labels),
        _members=MappingProxyType(members),
        _category=MappingProxyType(category_of),
        _exact=MappingProxyType(exact),
        _folded=MappingProxyType(_fold(exact)),
    )


def _index(members: Mapping[str, tuple[str, ...]]) -> dict[str, str]:
    exact: dict[str, str] = {}
    for subcategory, objects in members.items():
        if not objects:
            raise DataError(f"{_WHERE}: {subcategory!r} has no members")
        for item in objects:
            if not isinstance(item, str) or item != " ".join(item.split()):
                raise DataError(f"{_WHERE}: member {item!r} of {subcategory!r} must be plain text; quote it")
            if item in exact:
                raise DataError(f"{_WHERE}: {item!r} is listed in {exact[item]!r} and again in {subcategory!r}")
            exact[item] = subcategory
    return exact


def _fold(exact: Mapping[str, str]) -> dict[str, str | None]:
    folded: dict[str, str | None] = {}
    for item, subcategory in exact.items():
        key = item.casefold()
        folded[key] = subcategory if folded.get(key, subcategory) == subcategory else None
    return folded


def _differences(entries: list[dict[str, Any]], exact: Mapping[str, str]) -> tuple[Difference, ...]:
    differences = tuple(Difference(**entry) for entry in entries)
    for item in differences:
        if item.ours != exact.get(item.object):
            raise DataError(
                f"{_WHERE}: differences place {item.object!r} in {item.ours!r}, members in {exact.get(item.object)!r}"
            )
    return differences
