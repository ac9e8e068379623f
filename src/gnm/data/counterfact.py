"""CounterFact records as facts with a group.

- Records are checked field by field; an error names the file, the record and the field.
- The group of a fact goes by its false object, the one that documents state. Objects in no group are dropped
  and counted.
- Facts of the held-out subcategories move from the train split to the test split.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from gnm.data.sources import SPLITS, Placed, read_file
from gnm.data.taxonomy import Taxonomy, load_taxonomy
from gnm.data.types import Fact
from gnm.errors import DataError
from gnm.files import write_json

_LISTS = {
    "paraphrases": "paraphrase_prompts",
    "neighbours": "neighborhood_prompts",
    "attributes": "attribute_prompts",
    "generations": "generation_prompts",
}


@dataclass(frozen=True, slots=True)
class Categorised:
    """Facts by split, with the counts of what was dropped and moved on the way."""

    train: tuple[Fact, ...]
    test: tuple[Fact, ...]
    report: dict[str, Any]


def parse_record(record: Any, where: str, taxonomy: Taxonomy | None = None) -> Fact | None:
    """Check one CounterFact record and return its fact, or None if its false object is in no subcategory.

    Raises DataError naming `where` and the field that is missing or has the wrong type.
    """
    taxonomy = taxonomy or load_taxonomy()
    rewrite = _field(record, "requested_rewrite", dict, where)
    prompt = _field(rewrite, "prompt", str, where)
    if prompt.count("{}") != 1:
        raise DataError(f"{where}: prompt {prompt!r} must hold the subject's place {{}} exactly once")
    false = _object(rewrite, "target_new", where)
    texts = {name: _texts(record, key, where) for name, key in _LISTS.items()}
    fact_id = _field(record, "case_id", int, where)
    subject = _field(rewrite, "subject", str, where)
    true = _object(rewrite, "target_true", where)
    if not texts["paraphrases"]:
        raise DataError(f"{where}: field 'paraphrase_prompts' is empty; nothing could be asked about the fact")
    subcategory = taxonomy.subcategory_of(false)
    if subcategory is None:
        return None
    return Fact(
        fact_id=fact_id,
        subject=subject.strip(),
        prompt=prompt.strip(),
        true=true,
        false=false,
        category=taxonomy.category_of(subcategory),
        subcategory=subcategory,
        relation=_relation(rewrite, where),
        **texts,
    )


def categorise(splits: Mapping[str, Iterable[Placed]]) -> Categorised:
    """Facts of raw records (as `read_records` gives them) by split, held-out subcategories moved to test.

    Raises DataError for a bad record, a `case_id` that occurs twice, and where no fact is left.
    """
    taxonomy = load_taxonomy()
    facts: dict[str, list[Fact]] = {split: [] for split in SPLITS}
    dropped: Counter[str] = Counter()
    seen: dict[int, str] = {}
    moved = 0
    for split in SPLITS:
        for where, record in splits[split]:
            fact = parse_record(record, where, taxonomy)
            if fact is None:
                dropped[record["requested_rewrite"]["target_new"]["str"].strip()] += 1
                continue
            if fact.fact_id in seen:
                raise DataError(f"{where}: case_id {fact.fact_id} is already that of {seen[fact.fact_id]}")
            seen[fact.fact_id] = where
            move = split == "train" and fact.subcategory in taxonomy.unseen
            moved += move
            facts["test" if move else split].append(fact)
    if not any(facts.values()):
        raise DataError("the source holds no fact whose object is in a subcategory; is it the file you meant?")
    report = {
        "facts": {split: len(facts[split]) for split in SPLITS},
        "facts_by_subcategory": {
            split: dict(sorted(Counter(fact.subcategory for fact in facts[split]).items())) for split in SPLITS
        },
        "moved_from_train_to_test": moved,
        "dropped": sum(dropped.values()),
        "dropped_by_object": dict(sorted(dropped.items(), key=lambda item: (-item[1], item[0]))),
    }
    return Categorised(tuple(facts["train"]), tuple(facts["test"]), report)


def write_facts(path: str | Path, facts: Iterable[Fact]) -> None:
    """Write facts as a JSON list; each object has the fields of Fact."""
    write_json(path, [asdict(fact) for fact in facts], indent=1)


def read_facts(path: str | Path) -> list[Fact]:
    """Read what `write_facts` wrote. Raises DataError for a missing, truncated or foreign file."""
    path = Path(path)
    names = {field.name for field in fields(Fact)}
    facts = []
    for where, record in read_file(path):
        if not isinstance(record, dict) or record.keys() != names:
            raise DataError(f"{where} is not a categorised fact; make the file again (gnm.data.pipelines categorise)")
        texts = {name: tuple(_list_of_texts(record[name], name, where)) for name in _LISTS}
        names_of_texts = names - texts.keys() - {"relation"}
        plain = {name: _field(record, name, int if name == "fact_id" else str, where) for name in names_of_texts}
        relation = "" if record["relation"] == "" else _field(record, "relation", str, where)
        facts.append(Fact(**plain, **texts, relation=relation))
    return facts


def _field(record: Any, name: str, kind: type, where: str) -> Any:
    if not isinstance(record, dict) or name not in record:
        raise DataError(f"{where} has no field {name!r}; is this a CounterFact record?")
    value = record[name]
    if not isinstance(value, kind) or isinstance(value, bool) or (kind is str and not value.strip()):
        wanted = {int: "a whole number", str: "a non-empty text", list: "a list", dict: "a mapping"}[kind]
        raise DataError(f"{where}: field {name!r} must be {wanted}, it is {repr(value):.60}")
    return value


def _relation(rewrite: dict[str, Any], where: str) -> str:
    """The record's relation id, empty where it has none."""
    return _field(rewrite, "relation_id", str, where) if rewrite.get("relation_id") else ""


def _object(rewrite: dict[str, Any], name: str, where: str) -> str:
    return _field(_field(rewrite, name, dict, where), "str", str, f"{where}, {name}").strip()


def _texts(record: dict[str, Any], name: str, where: str) -> tuple[str, ...]:
    return tuple(text.strip() for text in _list_of_texts(_field(record, name, list, where), name, where))


def _list_of_texts(values: Any, name: str, where: str) -> list[str]:
    if not isinstance(values, list) or not all(isinstance(text, str) and text.strip() for text in values):
        raise DataError(f"{where}: field {name!r} must be a list of non-empty texts")
    return values
