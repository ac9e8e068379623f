"""Embedded real-world facts and the records of CounterFact's layout that are made from them.

- `*.csv` hold (subject, relation, true object, other objects that are also true); `relations.yaml` words the relations.
  SOURCES.md says where they come from. All subcategories of the taxonomy are covered.
- Some subjects of each (relation, object) group are kept out of the records and serve only as neighbours, so a
  neighbourhood prompt is never about a fact that some document states as false.
- A false object comes from the same relation and subcategory. It differs from every true one in its first letters too:
  the measure compares first tokens, and " Slovakia" and " Slovenia" may share theirs.
- Each draw has its own generator, named by seed and fact: adding a row leaves the draws of other groups as they were.
"""

import csv
import random
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

import yaml

from gnm.data.taxonomy import Taxonomy, load_taxonomy
from gnm.errors import DataError

TABLES = ("locations", "languages", "organizations", "occupations")
MAX_NEIGHBOURS = 3  # subjects that a group sets aside
PARAPHRASES = 2
_LETTERS = 3  # two objects that share this many first letters may share their first token


@dataclass(frozen=True, slots=True)
class Relation:
    """How a relation is worded. Templates hold one `{}` for the subject and stop right before the object."""

    name: str
    prompt: str
    paraphrases: tuple[str, ...]
    subcategories: tuple[str, ...]
    overlapping: tuple[frozenset[str], ...]


@dataclass(frozen=True, slots=True)
class KnownFact:
    """A true statement. `also`: other objects that hold of the subject, so that they are never drawn as false."""

    subject: str
    relation: str
    object: str
    also: tuple[str, ...]


@cache
def load_relations() -> Mapping[str, Relation]:
    """The packaged relations by name. DataError for a wording or a subcategory that is not sound."""
    text = files("gnm.data.facts").joinpath("relations.yaml").read_text(encoding="utf-8")
    return build_relations(yaml.safe_load(text), load_taxonomy())


@cache
def load_facts() -> tuple[KnownFact, ...]:
    """The packaged facts, in table order. DataError for a duplicate, an unknown relation or a misplaced object."""
    folder = files("gnm.data.facts")
    rows: list[dict[str, str]] = []
    for table in TABLES:
        rows += csv.DictReader(folder.joinpath(f"{table}.csv").read_text(encoding="utf-8").splitlines())
    return build_facts(rows, load_relations(), load_taxonomy())


def build_relations(table: Mapping[str, Any], taxonomy: Taxonomy) -> dict[str, Relation]:
    """Check and index a table laid out as `relations.yaml`."""
    relations = {}
    for name, entry in table.items():
        try:
            relation = Relation(
                name=name,
                prompt=entry["prompt"],
                paraphrases=tuple(entry["paraphrases"]),
                subcategories=tuple(entry["subcategories"]),
                overlapping=tuple(frozenset(group) for group in entry.get("overlapping", ())),
            )
        except KeyError as error:
            raise DataError(f"relations.yaml: {name!r} lacks {error}") from error
        for template in (relation.prompt, *relation.paraphrases):
            if template.count("{}") != 1 or template != template.strip():
                raise DataError(f"relations.yaml: {template!r} of {name!r} needs one {{}} and no space at its ends")
        if len({relation.prompt, *relation.paraphrases}) <= PARAPHRASES:
            raise DataError(f"relations.yaml: {name!r} needs a prompt and {PARAPHRASES} different paraphrases or more")
        for subcategory in relation.subcategories:
            taxonomy.category_of(subcategory)
        relations[name] = relation
    return relations


def build_facts(
    rows: Iterable[Mapping[str, str]], relations: Mapping[str, Relation], taxonomy: Taxonomy
) -> tuple[KnownFact, ...]:
    """Check rows with the columns subject, relation, object, also (objects separated by "|")."""
    facts: dict[tuple[str, str], KnownFact] = {}
    for row in rows:
        also = tuple(part for part in row["also"].split("|") if part)
        fact = KnownFact(row["subject"], row["relation"], row["object"], also)
        relation = relations.get(fact.relation)
        if relation is None or not fact.subject:
            raise DataError(f"facts: {dict(row)} has no subject or a relation that relations.yaml does not word")
        for item in (fact.object, *also):
            if taxonomy.subcategory_of(item) not in relation.subcategories:
                raise DataError(f"facts: {item!r} of {dict(row)} is in none of {relation.subcategories}")
        if (fact.subject, fact.relation) in facts:
            raise DataError(f"facts: {fact.subject!r} occurs twice in {fact.relation!r}; put other objects in `also`")
        facts[fact.subject, fact.relation] = fact
    return tuple(facts.values())


def embedded_records(seed: int = 0) -> list[dict[str, Any]]:
    """Make records of CounterFact's layout from the packaged facts; the same for a seed on every machine.

    `case_id` is the fact's row number over all tables, the same for every seed; ids of objects are None.
    `prompt` keeps its `{}`; paraphrases, neighbourhood and attribute prompts are filled in. Objects carry no space.
    A fact whose group holds no second subject has no neighbourhood prompts.
    """
    facts, relations, taxonomy = load_facts(), load_relations(), load_taxonomy()
    groups: dict[tuple[str, str], list[str]] = defaultdict(list)
    for fact in facts:
        groups[fact.relation, fact.object].append(fact.subject)
    neighbours = {group: _set_aside(subjects, group, seed) for group, subjects in groups.items()}
    objects: dict[tuple[str, str | None], list[str]] = defaultdict(list)
    for relation, item in groups:
        objects[relation, taxonomy.subcategory_of(item)].append(item)

    records = []
    for case_id, fact in enumerate(facts):
        relation = relations[fact.relation]
        kin = neighbours[fact.relation, fact.object]
        if fact.subject in kin:
            continue
        generator = random.Random(f"{seed}|{fact.relation}|{fact.subject}")
        pool = objects[fact.relation, taxonomy.subcategory_of(fact.object)]
        false = generator.choice(_candidates(fact, pool, relation.overlapping))
        paraphrases = generator.sample(relation.paraphrases, PARAPHRASES)
        known_for_false = neighbours[fact.relation, false] or groups[fact.relation, false]
        records.append(
            {
                "case_id": case_id,
                "requested_rewrite": {
                    "prompt": relation.prompt,
                    "relation_id": fact.relation,
                    "subject": fact.subject,
                    "target_true": {"str": fact.object, "id": None},
                    "target_new": {"str": false, "id": None},
                },
                "paraphrase_prompts": [_fill(template, fact.subject) for template in paraphrases],
                "neighborhood_prompts": [_fill(relation.prompt, subject) for subject in kin],
                "attribute_prompts": [_fill(relation.prompt, subject) for subject in known_for_false],
                "generation_prompts": [],
            }
        )
    return records


def _set_aside(subjects: Sequence[str], group: tuple[str, str], seed: int) -> list[str]:
    """One subject of a pair, two of six, three of twelve or more: they are neighbours and never in a record."""
    if len(subjects) < 2:
        return []
    return random.Random(f"{seed}|{'|'.join(group)}").sample(subjects, min(MAX_NEIGHBOURS, 1 + len(subjects) // 6))


def _candidates(fact: KnownFact, pool: Sequence[str], overlapping: Iterable[frozenset[str]]) -> list[str]:
    """Objects of the pool that are false of the fact's subject and start unlike its true objects."""
    true = {fact.object, *fact.also}
    excluded = true.union(*(group for group in overlapping if fact.object in group))
    starts = {item[:_LETTERS].casefold() for item in true}
    candidates = [item for item in pool if item not in excluded and item[:_LETTERS].casefold() not in starts]
    if not candidates:
        raise DataError(f"facts: no false object is left for {fact.subject!r} in {fact.relation!r}; add facts to it")
    return candidates


def _fill(template: str, subject: str) -> str:
    return template.replace("{}", subject)
