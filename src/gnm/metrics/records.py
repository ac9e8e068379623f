"""Per-query records: one row for every answered query, the one product that all metrics and figures are made from.

- The schema is one table (`COLUMNS`); reading, writing and construction all check against it.
- A null is "not a sample": a query to be refused has no fact verdict, a query outside the format experiments no
  format verdict. No measure counts a null.
- Files are parquet, written whole, rows in a canonical order, so a file does not depend on the order of answering.
- Further columns are kept as they are: a method may record more about itself.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from gnm.errors import DataError
from gnm.files import atomic_path
from gnm.metrics.checked import AGAIN, Column, cast, read_parquet, read_table, refuse

_MOST_TOKENS = 10**6  # of a segment
QUERY_TYPES = ("paraphrase", "true_output_neighbor", "future_paraphrase")


COLUMNS: dict[str, Column] = {
    "sequence": Column("int64", False, "index of the sequence in the evaluation"),
    "q": Column("int64", False, "index, within the sequence, of the document that the query belongs to"),
    "t": Column("int64", False, "index of the last document written when the query was answered"),
    "fact_id": Column("int64", False, "the fact that the query is about (CounterFact's case_id)"),
    "type": Column("str", False, "paraphrase, true_output_neighbor or future_paraphrase"),
    "subcategory": Column("str", False, "subcategory of the fact"),
    "learn": Column("bool", False, "the instruction targets this fact for learning"),
    "refuse": Column("bool", False, "the instruction targets this fact for refusal"),
    "should_refuse": Column("bool", False, "the right answer is a refusal"),
    "neighbor_of_should_refuse": Column("bool", False, "a neighbour of a fact that must be refused"),
    "composition": Column("bool", False, "the query's document carries a composed target"),
    "unlearning": Column("bool", False, "t is the appended document with the learned facts turned round"),
    "forgotten": Column("bool", False, "what the query is about was forgotten before it was asked"),
    "remaining": Column("bool", False, "something else was forgotten before the query was asked"),
    "input": Column("str", False, "the query"),
    "target_output": Column("str", False, "the expected answer"),
    "non_target_output": Column("str", False, "the object that the expected one is weighed against"),
    "generated": Column("str", False, "the answer that was generated"),
    "logit_target": Column("float64", True, "logit of the expected object's first token at the first content token"),
    "logit_non_target": Column("float64", True, "the same for the other object"),
    "fact_correct": Column("boolean", True, "logit_target > logit_non_target; null where a refusal is expected"),
    "generated_correct": Column("boolean", True, "the generated answer contains the expected object"),
    "known_fact_correct": Column("boolean", True, "with nothing written, the true object scores above the false one"),
    "known_generated": Column("str", True, "what the same method answers with nothing written"),
    "nll": Column("float64", False, "sum of -log p over the expected answer's tokens, nats"),
    "num_answer_tokens": Column("int64", False, "how many tokens that sum has"),
    "flops_per_token": Column("float64", True, "floating-point operations of answering this query"),
    "format_expected": Column("str", True, "format in force, such as json_text; null when there is none"),
    "format_correct": Column("boolean", True, "the recognised format is the expected one (none where none is)"),
    "format_age": Column("Int64", True, "documents written since the format document; null when none is in force"),
    "refused": Column("boolean", True, "the answer is a refusal; null where refusals are not looked at"),
}

# columns that older files do not have
_ADDED = {"forgotten": False, "remaining": False, "known_fact_correct": None, "known_generated": None}
_ORDER = ["sequence", "t", "q", "fact_id", "type", "input", "target_output", "generated"]


def records_frame(rows: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """Build a checked frame from one mapping a query.

    A nullable column that a row leaves out is null. Raises DataError as `validate_records` does.
    """
    rows = list(rows)
    frame = pd.DataFrame(rows, columns=None if rows else list(COLUMNS))
    for name, column in COLUMNS.items():
        if name not in frame and column.nullable:
            frame[name] = None
    return validate_records(frame, where="records")


def validate_records(records: pd.DataFrame, where: str) -> pd.DataFrame:
    """Return a copy of `records` with every column in its dtype; `where` names the source in messages.

    Raises DataError for missing columns, values that do not fit the dtype, nulls where none may be, unknown query
    types, negative indices, a fact verdict that is missing though no refusal is expected, and a format age that is
    not given exactly where a format is expected.
    """
    records = records.assign(**{name: default for name, default in _ADDED.items() if name not in records})
    if missing := [name for name in COLUMNS if name not in records]:
        raise DataError(f"{where}: columns are missing: {', '.join(missing)}")
    checked = {}
    for name, column in COLUMNS.items():
        try:
            checked[name] = cast(records[name], column, name)
        except DataError as error:
            raise DataError(f"{where}: {error}") from error
    others = records[[name for name in records if name not in COLUMNS]]
    frame = pd.concat([pd.DataFrame(checked), others], axis=1)
    refuse(~frame["type"].isin(QUERY_TYPES), where, f"'type' must be one of {', '.join(QUERY_TYPES)}")
    for name in ("sequence", "q", "t", "num_answer_tokens"):
        refuse(frame[name] < 0, where, f"{name!r} must not be negative")
    refuse(frame["format_age"] < 0, where, "'format_age' must not be negative")
    refuse(
        frame["fact_correct"].isna() & ~frame["should_refuse"],
        where,
        "'fact_correct' may be null only where a refusal is expected",
    )
    refuse(
        frame["format_age"].isna() != frame["format_expected"].isna(),
        where,
        "'format_age' and 'format_expected' must be given together",
    )
    return frame


def write_table(path: Path, table: pd.DataFrame) -> None:
    """Write a table as parquet in zstd at level 19, which takes a quarter less than pandas' default."""
    table.to_parquet(path, index=False, compression="zstd", compression_level=19)


def write_records(path: str | Path, records: pd.DataFrame) -> None:
    """Check `records`, sort them canonically and write parquet, whole or not at all. Raises DataError."""
    checked = validate_records(records, where=str(path))
    with atomic_path(path) as temporary:
        write_table(temporary, checked.sort_values(_ORDER, kind="stable", ignore_index=True))


def read_records(path: str | Path) -> pd.DataFrame:
    """Read and check a records file. Raises DataError when it is absent, not parquet, or not of this schema."""
    if not Path(path).is_file():
        raise DataError(f"no records at {path}; evaluate with this results folder first")
    frame = read_parquet(path)
    try:
        return validate_records(frame, where=str(path))
    except DataError as error:
        raise DataError(f"{error}; {AGAIN}") from error


SEGMENT_COLUMNS: dict[str, Column] = {
    "sequence": Column("int64", False, "index of the sequence in the evaluation", 0),
    "t": Column("int64", False, "index of the document that it was written with", 0),
    "text": Column("str", False, "the segment"),
    "strength": Column("float64", False, "its gate", 0, 1),
    "tokens": Column("int64", False, "how many it has", 0, _MOST_TOKENS),
    "stored": Column("int64", False, "how many of these were stored", 0, _MOST_TOKENS),
    "of_document": Column("bool", False, "it is of the document, else of the instruction"),
    "wanted": Column("bool", False, "the instruction is about it"),
}
"""A row for every segment of a written text."""


def write_segments(path: str | Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write rows of SEGMENT_COLUMNS as parquet in canonical order, whole or not at all."""
    frame = pd.DataFrame(list(rows), columns=list(SEGMENT_COLUMNS))
    with atomic_path(path) as temporary:
        write_table(temporary, frame.sort_values(["sequence", "t"], kind="stable", ignore_index=True))


def read_segments(path: str | Path) -> pd.DataFrame:
    """Read such a file. Raises DataError when it is absent, not parquet, of other columns, or nothing of gates."""
    frame = read_table(Path(path), SEGMENT_COLUMNS)
    refuse(frame["stored"] > frame["tokens"], f"{path} is damaged", "more tokens are stored than there are", AGAIN)
    return frame
