"""Instructions composed of parts: a grammar (`grammar.yaml`) and what people call the groups (`names.yaml`).

- A kind of target (`instructions.kind_of`) has families of templates; a template's <parts> are expanded at random.
- Whole families are held out: training ("train") never draws them, evaluation ("test") draws nothing else.
- A group goes by its label in the taxonomy, or by one of its names, a theme by its names (`themes.yaml`), a fine group
  likewise (`fine_groups.yaml`), a subject as it is; {group is|are} is the verb that agrees with it.
"""

import random
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

import yaml

from gnm.data.instructions import Split, kind_of
from gnm.data.people.fine_groups import load_fine_groups
from gnm.data.people.themes import load_themes
from gnm.data.targets import ALL, Target
from gnm.data.taxonomy import load_taxonomy
from gnm.errors import DataError

REVOCATION, REVOCATION_ALL, CORRECTION = "revocation", "revocation_all", "correction"
SLOTS = {
    "facts": {"group"},
    "facts_all": set(),
    "nothing": set(),
    "except": {"group"},
    "sides": {"group", "left"},
    "refusal": {"refused"},
    "fact_refusal": {"group", "refused"},
    "format": set(),
    "fact_format": {"group"},
    "fact_format_all": set(),
    REVOCATION: {"group"},
    REVOCATION_ALL: set(),
    CORRECTION: set(),
}
_PART, _SLOT = re.compile(r"<([\w-]+)>"), re.compile(r"\{(\w*)\}")
_VERB = re.compile(r"\{(\w+) ([^|{}]+)\|([^|{}]+)\}")
_START = re.compile(r"(?:^|(?<![A-Z])[.!?]\s)[a-z]")  # of a sentence; "U.S." ends none
_LABEL_SHARE = 0.2  # of the groups that go by their label


@dataclass(frozen=True)
class Grammar:
    """`parts` by name; `families` of templates by kind, those that training draws and those that are held out."""

    parts: Mapping[str, tuple[str, ...]]
    train: Mapping[str, Mapping[str, tuple[str, ...]]]
    test: Mapping[str, Mapping[str, tuple[str, ...]]]

    def sentence(self, kind: str, split: Split, rng: random.Random) -> str:
        """One instruction of `kind` with its slots open; families and then their templates are equally likely."""
        families = (self.train if split == "train" else self.test)[kind]
        return self._expanded(rng.choice(families[rng.choice(sorted(families))]), rng)

    def _expanded(self, template: str, rng: random.Random) -> str:
        while found := _PART.search(template):
            part = rng.choice(self.parts[found[1]])
            template = template[: found.start()] + part + template[found.end() :]
        text = re.sub(r"\s+([.,;:!?])", r"\1", " ".join(template.split()))
        return re.sub(r"(?:^|[.!?]\s)[a-z]", lambda found: found[0].upper(), text)


def worded(kind: str, groups: tuple[str, ...], others: tuple[str, ...], split: Split, rng: random.Random) -> str:
    """An instruction of a kind (SLOTS) about groups and about others, to be refused or left out, as it has slots."""
    text = load_grammar().sentence(kind, split, rng)
    named, beside = _called(groups, rng), _called(others, rng)
    called = {"group": (groups, named), "refused": (others, beside), "left": (others, beside)}
    text = _VERB.sub(lambda found: found[3 if _is_plural(*called[found[1]]) else 2], text)
    text = _SLOT.sub(lambda found: called[found[1]][1], text)
    return _START.sub(lambda found: found[0].upper(), text)


def worded_instruction(target: Target, split: Split, rng: random.Random) -> str:
    """An instruction that says `target` in a person's words."""
    kind = kind_of(target)
    groups = target.leave if kind == "except" else target.learn
    return worded(kind, groups, target.leave if kind == "sides" else target.refuse, split, rng)


def worded_revocation(target: Target, split: Split, rng: random.Random) -> tuple[str, tuple[str, ...]]:
    """An instruction with the groups that it takes back: those that `target` speaks of, or everything (ALL)."""
    groups = target.leave + target.refuse if target.learns_all else target.learn + target.refuse
    taken = groups if rng.random() < 0.8 else ()
    return worded(REVOCATION if taken else REVOCATION_ALL, taken, (), split, rng), taken or (ALL,)


@cache
def load_names() -> Mapping[str, tuple[str, ...]]:
    """What people call each group of the taxonomy, each theme and each fine group. DataError if one has no name,
    or a fine group goes by a theme's."""
    taxonomy, table = load_taxonomy(), yaml.safe_load(_read("names.yaml"))
    groups = [*taxonomy.categories, *taxonomy.subcategories]
    if lacking := [group for group in groups if not table.get(group)]:
        raise DataError(f"names.yaml has no names of {', '.join(lacking)}")
    if twice := load_themes().keys() & load_fine_groups().keys():
        raise DataError(f"fine_groups.yaml: {min(twice)} is a theme's name too; rename the group")
    named = {**load_themes(), **load_fine_groups()}
    return {group: tuple(table[group]) for group in groups} | {name: group.names for name, group in named.items()}


@cache
def load_grammar() -> Grammar:
    """The packaged grammar; the same object on every call."""
    return build_grammar(yaml.safe_load(_read("grammar.yaml")))


def build_grammar(table: Any) -> Grammar:
    """Check a table laid out as `grammar.yaml`.

    Raises DataError for a missing or unknown kind, a part that is not defined or leads back to itself, a template with
    the wrong slots, and a kind that has nothing to train on or nothing held out.
    """
    parts = {name: tuple(texts) for name, texts in table["parts"].items()}
    for name in parts:
        _check_parts(name, parts, ())
    if table["kinds"].keys() != SLOTS.keys():
        raise DataError(f"grammar.yaml must have exactly the kinds {', '.join(SLOTS)}")
    held_out = set(table["held_out"])
    train, test = {}, {}
    for kind, families in table["kinds"].items():
        for template in (template for family in families.values() for template in family):
            if unknown := set(_PART.findall(template)) - parts.keys():
                raise DataError(f"grammar.yaml: {template!r} of {kind} has the unknown part {sorted(unknown)[0]!r}")
            if set(_SLOT.findall(template)) != SLOTS[kind]:
                raise DataError(f"grammar.yaml: {template!r} of {kind} needs the slots {sorted(SLOTS[kind]) or 'none'}")
            if {verb[0] for verb in _VERB.findall(template)} - SLOTS[kind]:
                raise DataError(f"grammar.yaml: a verb in {template!r} of {kind} agrees with a slot that is not there")
        train[kind] = {name: tuple(family) for name, family in families.items() if name not in held_out}
        test[kind] = {name: tuple(family) for name, family in families.items() if name in held_out}
        if not train[kind] or not test[kind]:
            raise DataError(f"grammar.yaml: {kind} needs families to train on and held-out ones")
    return Grammar(parts, train, test)


def _check_parts(name: str, parts: Mapping[str, tuple[str, ...]], above: tuple[str, ...]) -> None:
    if name in above or name not in parts:
        raise DataError(f"grammar.yaml: part {name!r} " + ("leads back to itself" if name in above else "is missing"))
    for inner in (inner for text in parts[name] for inner in _PART.findall(text)):
        _check_parts(inner, parts, (*above, name))


def _called(groups: tuple[str, ...], rng: random.Random) -> str:
    """What `groups` are called, one after another; a subject goes by itself.

    Several go by names without commas, which would read as one list.
    """
    taxonomy, names = load_taxonomy(), load_names()
    labelled = {*taxonomy.categories, *taxonomy.subcategories}
    known = {group: names.get(group, (group,)) for group in groups if group != ALL}
    if len(known) > 1:
        known = {group: [name for name in own if not re.search("[,:]", name)] or own for group, own in known.items()}
    called = [
        taxonomy.label(group) if group in labelled and rng.random() < _LABEL_SHARE else rng.choice(own)
        for group, own in known.items()
    ]
    if len(called) < 2:
        return "".join(called)
    return f"{', '.join(called[:-1])}{rng.choice((' and ', ' or ', ', and ', ' as well as '))}{called[-1]}"


def _is_plural(groups: tuple[str, ...], called: str) -> bool:
    """Whether a verb after what `groups` are called is plural: after "cities in America" and "French, Dutch and so on",
    not after "who speaks what" or "the car industry"."""
    if len(groups) > 1:
        return True
    if re.match(r"(wh(?!ole)\w+|how|in|on|from|any\w*|with|the tech|the answer)\b", called):
        return False
    head = re.split(r"\b(?:of|to|for|in|from|that|such|with|one|you|people|I|behind|a)\b", called)[0]
    return bool(re.search(r",| and |[^s']s\b|clergy", head)) or called.startswith("people ")


def _read(name: str) -> str:
    return files("gnm.data.people").joinpath(name).read_text(encoding="utf-8")
