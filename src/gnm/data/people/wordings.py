"""How relations are stated and asked about by people: CounterFact's (`wordings.yaml`), everyday ones."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cache
from importlib.resources import files

import yaml

from gnm.data.people.everyday import load_everyday
from gnm.data.types import Fact
from gnm.errors import DataError


@dataclass(frozen=True, slots=True)
class Wording:
    """The wordings of a relation: templates with {s} for the subject, {o} for the object, {a} for "a" or "an".

    `cloze` and `questions` have no object: they ask for it. `field`: names of a column that holds the object.
    """

    field: tuple[str, ...]
    statements: tuple[str, ...]
    leading: tuple[str, ...]
    short: tuple[str, ...]
    reduced: tuple[str, ...]
    cloze: tuple[str, ...]
    questions: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Stated:
    """A fact as a document states it; `object` need not be the true one."""

    fact_id: int
    relation: str
    subject: str
    object: str


@cache
def load_wordings() -> Mapping[str, Wording]:
    """The packaged wordings by relation id. DataError if a list is missing or empty, or a slot stands elsewhere."""
    table = yaml.safe_load(files("gnm.data.people").joinpath("wordings.yaml").read_text(encoding="utf-8"))
    for group in load_everyday().values():
        table |= group.relations
    return {relation: _wording(relation, entry) for relation, entry in table.items()}


def wording(relation: str) -> Wording:
    """The wordings of one relation. Raises DataError if there are none."""
    try:
        return load_wordings()[relation]
    except KeyError:
        raise DataError(f"wordings.yaml words no relation {relation!r}; it has {', '.join(load_wordings())}") from None


def is_worded(fact: Fact) -> bool:
    """Whether the relation of a fact has wordings."""
    return fact.relation in load_wordings()


def filled(template: str, fact: Stated) -> str:
    """`template` about a fact."""
    article = "an" if fact.object[:1].lower() in "aeiou" else "a"
    return template.replace("{a}", article).replace("{s}", fact.subject).replace("{o}", fact.object)


def neighbours_of(fact: Fact) -> list[str]:
    """Other subjects of which the fact's true object holds, read off its neighbourhood prompts."""
    before, _, after = fact.prompt.partition("{}")
    return [
        text[len(before) : len(text) - len(after)]
        for text in fact.neighbours
        if text.startswith(before) and text.endswith(after) and len(text) > len(before) + len(after)
    ]


def filler_of(paraphrase: str) -> str | None:
    """The unrelated sentence in front of one of CounterFact's paraphrases, if one stands there."""
    filler, stop, _ = paraphrase.rpartition(". ")
    return f"{filler}." if stop and 20 < len(filler) < 120 else None


def _wording(relation: str, entry: Mapping[str, list[str]]) -> Wording:
    names = [each.name for each in fields(Wording)]
    if lacking := [name for name in names if not entry.get(name)]:
        raise DataError(f"wordings.yaml: {relation} lacks {', '.join(lacking)}")
    for name in names[1:]:
        objects = 0 if name in ("cloze", "questions") else 1
        for template in entry[name]:
            if template.count("{s}") != 1 or template.count("{o}") != objects:
                raise DataError(f"wordings.yaml: {template!r} of {relation} needs one {{s}} and {objects} {{o}}")
    return Wording(**{name: tuple(entry[name]) for name in names})
