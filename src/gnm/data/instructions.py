"""Instructions in plain English for every target.

- The phrasings are in `instructions.yaml`; slots are filled with the taxonomy's labels.
- In training one of several phrasings is drawn; evaluation always uses the one that training never sees.
"""

import random
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from string import Formatter
from types import MappingProxyType
from typing import Any, Literal

import yaml

from gnm.data.targets import ALL, Target, parse_target
from gnm.data.taxonomy import load_taxonomy
from gnm.errors import DataError

Split = Literal["train", "test"]
_WHERE = "instructions.yaml"
_SLOTS = {
    "facts": {"group"},
    "facts_all": set(),
    "format": set(),
    "refusal": {"refused"},
    "fact_format": {"group"},
    "fact_format_all": set(),
    "fact_refusal": {"group", "refused"},
    "revocation": {"group"},
    "revocation_all": set(),
}


@dataclass(frozen=True, slots=True)
class Phrasings:
    """Templates of one kind of target: those drawn in training, and the one kept for evaluation."""

    train: tuple[str, ...]
    evaluation: str


def instruction_for(target: str, split: Split, rng: random.Random | None = None, phrasings: int | None = None) -> str:
    """The instruction that says `target`.

    `split` "train" draws one of the first `phrasings` (all by default) with `rng`, or takes the first without;
    "test" takes the held-out one.
    Raises DataError for a target that names no group.
    """
    parsed = parse_target(target)
    return _said(kind_of(parsed), parsed.learn, parsed.refuse, split, rng, phrasings)


def revoking_instruction(target: str, split: Split, rng: random.Random | None = None) -> str:
    """The instruction that takes back what was learned under `target`; phrasings as in `instruction_for`.

    Raises DataError for a target under which no fact is learned.
    """
    parsed = parse_target(target)
    if not parsed.learn:
        raise DataError(f"under target {target!r} no fact is learned, so there is nothing to take back")
    return _said("revocation_all" if parsed.learns_all else "revocation", parsed.learn, (), split, rng)


def revocation_example(target: str, rng: random.Random) -> tuple[str, tuple[str, ...]]:
    """A training phrasing with the groups that it takes back: those learned under `target`, or everything (ALL) if that
    learns no group."""
    parsed = parse_target(target)
    groups = () if parsed.learns_all else parsed.learn
    return revoking_instruction(target if parsed.learn else ALL, "train", rng), groups or (ALL,)


def _said(
    kind: str, learn: tuple[str, ...], refuse: tuple[str, ...], split: Split, rng: random.Random | None,
    phrasings: int | None = None,
) -> str:  # fmt: skip
    """A phrasing of `kind` with its slots filled."""
    if kind not in (phrasings_of := load_phrasings()):
        raise DataError(f"the protocol has no phrasing of {kind!r}; only gnm.data.people words such targets")
    known = phrasings_of[kind]
    if split == "test":
        template = known.evaluation
    else:
        template = rng.choice(known.train[:phrasings]) if rng else known.train[0]
    label = load_taxonomy().label
    group, refused = (" and ".join(label(name) for name in names if name != ALL) for names in (learn, refuse))
    return template.format(group=group, refused=refused)


def kind_of(target: Target) -> str:
    """What a target asks for, in one word: the block of `instructions.yaml`, and of the grammar, with its phrasings."""
    if target.refuse:
        return "refusal" if target.learns_all else "fact_refusal"
    if target.leave:
        return "except" if target.learns_all else "sides"
    if not target.learn:
        return "format" if target.format else "nothing"
    return ("fact_format" if target.format else "facts") + ("_all" if target.learns_all else "")


@cache
def load_phrasings() -> MappingProxyType[str, Phrasings]:
    """The packaged phrasings by kind; the same object on every call. DataError if the table is not sound."""
    text = files("gnm.data").joinpath(_WHERE).read_text(encoding="utf-8")
    return build_phrasings(yaml.safe_load(text))


def build_phrasings(table: Any) -> MappingProxyType[str, Phrasings]:
    """Check a table laid out as `instructions.yaml`.

    Raises DataError for a missing or unknown kind, a phrasing whose slots are not those of its kind, and for
    an evaluation phrasing that occurs in training.
    """
    if not isinstance(table, dict) or table.keys() != _SLOTS.keys():
        raise DataError(f"{_WHERE} must have exactly the blocks {', '.join(_SLOTS)}")
    return MappingProxyType({kind: _phrasings(kind, block) for kind, block in table.items()})


def _phrasings(kind: str, block: Any) -> Phrasings:
    if not isinstance(block, dict) or block.keys() != {"train", "evaluation"} or not block["train"]:
        raise DataError(f"{_WHERE}: block {kind!r} needs a non-empty list `train` and one text `evaluation`")
    templates = [*block["train"], block["evaluation"]]
    if len(set(templates)) < len(templates):
        raise DataError(f"{_WHERE}: block {kind!r} has a phrasing twice; evaluation must differ from training")
    for template in templates:
        slots = {name for _, name, _, _ in Formatter().parse(template) if name is not None}
        if slots != _SLOTS[kind]:
            raise DataError(f"{_WHERE}: {template!r} of {kind!r} must have the slots {sorted(_SLOTS[kind]) or 'none'}")
    return Phrasings(tuple(block["train"]), block["evaluation"])
