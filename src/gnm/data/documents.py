"""Documents: a few facts as bulleted statements, with the questions about them.

- A document states 3 to 8 facts, as false, in random order. One subcategory leads it; the following facts go
  round the others (in random order) and come back to the leading one, passing over those that are used up.
- A fact is used once per file. A file ends at the wanted count, or when the facts left would give documents
  of too few subcategories to choose between.
- The record on disk has the published data set's layout, with its leading blank in outputs; in memory
  objects are bare. Reading checks every field.
"""

import random
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Any

from gnm.data.sources import read_json
from gnm.data.types import ATTRIBUTE, GENERATION, NEIGHBOUR, PAIR_TYPES, PARAPHRASE, Document, Fact, Pair
from gnm.errors import DataError
from gnm.files import write_json

HEADER = "The following statements hold:"
BULLET = "* "
MIN_FACTS, MAX_FACTS = 3, 8

_OUTPUT_FIELDS = ("true_output", "false_output")
_PAIR_FIELDS = ("input", *_OUTPUT_FIELDS, "category", "subcategory", "type")


def make_document(facts: Sequence[Fact], groupings: Sequence[str] = ()) -> Document:
    """The document that states `facts` as false, one bullet each in this order, with all their questions."""
    lines = [HEADER, *(f"{BULLET}{fact.phrase} {fact.false}" for fact in facts)]
    return Document("\n".join(lines) + "\n", tuple(pair for fact in facts for pair in _pairs(fact)), tuple(groupings))


def make_documents(
    facts: Iterable[Fact],
    rng: random.Random,
    leading: Iterable[str],
    count: int | None = None,
    min_subcategories: int = 3,
) -> list[Document]:
    """Documents for one file: up to `count` (all that the facts give if None), each led by one of `leading`.

    Raises DataError if not even one document, or fewer than `count`, can be made.
    """
    left: dict[str, list[Fact]] = {}
    for fact in sorted(facts, key=lambda fact: fact.fact_id):
        left.setdefault(fact.subcategory, []).append(fact)
    for group in left.values():
        rng.shuffle(group)
    leading = sorted(set(leading))
    documents: list[Document] = []
    while count is None or len(documents) < count:
        leaders = [group for group in leading if left.get(group)]
        number = rng.randint(MIN_FACTS, MAX_FACTS)
        enough = sum(map(len, left.values())) >= number and sum(map(bool, left.values())) >= min_subcategories
        if not leaders or not enough:
            break
        groupings = _groupings(rng.choice(leaders), left, number, rng)
        drawn = [left[group].pop() for group in groupings]
        rng.shuffle(drawn)
        documents.append(make_document(drawn, groupings))
    if len(documents) < (count or 1):
        raise DataError(
            f"the facts give {len(documents)} documents, {count or 'some'} were asked for: lower the count "
            f"or give more facts of {', '.join(leading)}; {sum(map(len, left.values()))} facts are left over"
        )
    return documents


def write_documents(path: str | Path, documents: Iterable[Document]) -> None:
    """Write documents as a list of records (protocol, section 2)."""
    write_json(path, [to_record(document) for document in documents], indent=1)


def read_documents(path: str | Path) -> list[Document]:
    """Read a file of document records, or all `*.json` files of a folder in order of their names.

    Raises DataError naming file and record for anything missing, truncated, foreign or empty.
    """
    path = Path(path)
    if path.is_dir():
        files = sorted(path.glob("*.json"))
        if not files:
            raise DataError(f"{path} holds no .json file of documents; make them with `gnm.data.pipelines documents`")
        return [document for file in files for document in read_documents(file)]
    records = read_json(path)
    if not isinstance(records, list) or not records:
        raise DataError(f"{path} must hold a non-empty list of document records, it holds {type(records).__name__}")
    return [from_record(record, f"{path}, record {number}") for number, record in enumerate(records)]


def to_record(document: Document) -> dict[str, Any]:
    """The record of the file layout; outputs get the leading blank that CounterFact has."""
    return {
        "document": document.text,
        "input_output_pairs": [
            {
                "input": pair.input,
                "true_output": f" {pair.true_output}",
                "false_output": f" {pair.false_output}",
                "category": pair.category,
                "subcategory": pair.subcategory,
                "type": pair.type,
                "fact_id": pair.fact_id,
            }
            for pair in document.pairs
        ],
        "metadata": {
            "groupings_to_put_in_doc": list(document.groupings),
            "subcategories_in_doc": list(document.subcategories),
            "categories_in_doc": list(document.categories),
        },
    }


def from_record(record: Any, where: str) -> Document:
    """Check a record and return its document. Raises DataError naming `where` and the fault."""
    if not isinstance(record, dict) or not record.keys() >= {"document", "input_output_pairs", "metadata"}:
        raise DataError(f"{where} is no document record: it needs document, input_output_pairs and metadata")
    text, pairs, metadata = record["document"], record["input_output_pairs"], record["metadata"]
    if not isinstance(text, str) or not text.strip():
        raise DataError(f"{where}: the document is empty; remove the record or make the file again")
    if not isinstance(pairs, list) or not pairs:
        raise DataError(
            f"{where}: input_output_pairs must be a non-empty list; nothing could be asked about the document"
        )
    if not isinstance(metadata, dict) or not isinstance(metadata.get("groupings_to_put_in_doc", []), list):
        raise DataError(f"{where}: metadata must be a mapping with a list groupings_to_put_in_doc")
    parsed = tuple(_pair(pair, f"{where}, pair {number}") for number, pair in enumerate(pairs))
    return Document(text, parsed, tuple(metadata.get("groupings_to_put_in_doc", ())))


def turn_round(document: Document, fact_ids: Collection[int]) -> str:
    """The document's text with true objects for false ones, in the own lines of these facts only.

    Raises DataError if a fact's line cannot be told.
    """
    lines = document.text.split("\n")
    outputs = {pair.fact_id: (pair.false_output, pair.true_output) for pair in document.pairs}
    for fact_id, number in lines_of_facts(document, lines).items():
        if fact_id in fact_ids:
            false, true = outputs[fact_id]
            lines[number] = lines[number].removesuffix(false) + true
    return "\n".join(lines)


def lines_of_facts(document: Document, lines: Sequence[str]) -> dict[int, int]:
    """Line number of each fact: bullets in the order of the facts, else by likeness to the questions.

    Raises DataError if a fact's line cannot be told.
    """
    outputs = {pair.fact_id: pair.false_output for pair in document.pairs}
    bullets = [number for number, line in enumerate(lines) if line.startswith(BULLET)]
    in_order = dict(zip(document.fact_ids, bullets, strict=False))
    if len(bullets) == len(in_order) == len(outputs) and all(
        lines[number].endswith(f" {outputs[fact_id]}") for fact_id, number in in_order.items()
    ):
        return in_order
    return {fact_id: _closest_line(document, fact_id, lines) for fact_id in document.fact_ids}


def _closest_line(document: Document, fact_id: int, lines: Sequence[str]) -> int:
    questions = [pair for pair in document.pairs if pair.fact_id == fact_id]
    words = {word for pair in questions if pair.type == PARAPHRASE for word in pair.input.split()}
    shared = {
        number: len(words.intersection(line.split()))
        for number, line in enumerate(lines)
        if line.endswith(f" {questions[0].false_output}")
    }
    best = [number for number, count in shared.items() if count == max(shared.values())]
    if len(best) != 1:
        raise DataError(
            f"{len(best)} lines of the document {document.text[:60]!r} may state fact {fact_id} "
            f"({questions[0].false_output!r}); unlearning needs exactly one line a fact"
        )
    return best[0]


def _pair(pair: Any, where: str) -> Pair:
    if not isinstance(pair, dict):
        raise DataError(f"{where} is not a mapping")
    for name in _PAIR_FIELDS:
        if not isinstance(pair.get(name), str) or not pair[name].strip():
            raise DataError(f"{where}: field {name!r} must be a non-empty text, it is {pair.get(name)!r}")
    fact_id = pair.get("fact_id")
    if not isinstance(fact_id, int) or isinstance(fact_id, bool):
        raise DataError(f"{where}: field 'fact_id' must be a whole number, it is {fact_id!r}")
    if pair["type"] not in PAIR_TYPES:
        raise DataError(f"{where}: unknown type {pair['type']!r}; known: {', '.join(PAIR_TYPES)}")
    return Pair(**{name: pair[name].strip() for name in _PAIR_FIELDS}, fact_id=fact_id)


def _groupings(leader: str, left: dict[str, list[Fact]], number: int, rng: random.Random) -> list[str]:
    """Subcategories of `number` facts: the leader, the others in random order, then round again."""
    others = sorted(group for group in left if group != leader and left[group])
    rng.shuffle(others)
    remaining = {group: len(left[group]) for group in (leader, *others)}
    groupings: list[str] = []
    while len(groupings) < number:
        for group in (leader, *others):
            if remaining[group] and len(groupings) < number:
                remaining[group] -= 1
                groupings.append(group)
    return groupings


def _pairs(fact: Fact) -> Iterable[Pair]:
    questions = (
        (NEIGHBOUR, fact.neighbours),
        (PARAPHRASE, fact.paraphrases),
        (ATTRIBUTE, fact.attributes),
        (GENERATION, fact.generations),
    )
    for kind, inputs in questions:
        for text in inputs:
            yield Pair(text, fact.true, fact.false, fact.category, fact.subcategory, kind, fact.fact_id)
