"""The schema is enforced on the way in and out, and files don't depend on the order of answering."""

from unittest.mock import Mock

import pandas as pd
import pytest
from pyarrow.lib import ArrowNotImplementedError

from gnm.errors import DataError
from gnm.metrics.records import (
    COLUMNS,
    read_records,
    read_segments,
    records_frame,
    validate_records,
    write_records,
    write_segments,
)

ROW = {
    "sequence": 0,
    "q": 0,
    "t": 1,
    "fact_id": 7,
    "type": "paraphrase",
    "subcategory": "religion",
    "learn": True,
    "refuse": False,
    "should_refuse": False,
    "neighbor_of_should_refuse": False,
    "composition": False,
    "unlearning": False,
    "input": "The faith of X is",
    "target_output": "Jainism",
    "non_target_output": "Islam",
    "generated": "Jainism",
    "fact_correct": True,
    "generated_correct": True,
    "nll": 0.25,
    "num_answer_tokens": 2,
}


def row(**changes):
    return ROW | changes


def test_rows_become_a_frame_with_the_schemas_dtypes():
    frame = records_frame([row(), row(format_expected="json_text", format_age=2, format_correct=False)])
    assert list(frame) == list(COLUMNS)
    assert {name: str(dtype) for name, dtype in frame.dtypes.items()} == {n: c.dtype for n, c in COLUMNS.items()}
    assert frame["refused"].isna().all() and frame["logit_target"].isna().all()
    assert frame["format_age"].tolist() == [pd.NA, 2]


def test_written_and_read_back_is_the_same(tmp_path):
    rows = [row(sequence=s, fact_id=f, fact_correct=s == f, extra=s / 2) for s in range(2) for f in range(3)]
    write_records(tmp_path / "new" / "records.parquet", records_frame(rows))
    back = read_records(tmp_path / "new" / "records.parquet")
    pd.testing.assert_frame_equal(back, records_frame(rows))
    assert back["extra"].tolist() == [0, 0, 0, 0.5, 0.5, 0.5]
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["records.parquet"]


def test_file_does_not_depend_on_the_order_of_answering(tmp_path):
    rows = [row(sequence=s, t=t, fact_id=f) for s in range(3) for t in range(2) for f in range(3)]
    write_records(tmp_path / "a", records_frame(rows))
    write_records(tmp_path / "b", records_frame(rows[::-1]))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_no_rows_are_a_valid_frame():
    assert records_frame([]).empty


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"type": "generation"}, "'type' must be one of"),
        ({"q": -1}, "'q' must not be negative"),
        ({"learn": None}, "'learn' is null in 1 rows, first in row 1"),
        ({"fact_id": "seven"}, "'fact_id' does not fit int64"),
        ({"generated": 3}, "'generated' does not fit str"),
        ({"learn": 2}, "'learn' does not fit bool"),
        ({"fact_correct": None}, "'fact_correct' may be null only where a refusal is expected"),
        ({"format_age": 1}, "'format_age' and 'format_expected' must be given together"),
    ],
)
def test_a_bad_value_is_named_with_its_place(changes, message):
    with pytest.raises(DataError, match=message):
        records_frame([row(), row(**changes)])


def test_verdict_may_be_missing_where_a_refusal_is_expected():
    assert records_frame([row(should_refuse=True, fact_correct=None)])["fact_correct"].isna().all()


def test_missing_columns_are_named():
    with pytest.raises(DataError, match="columns are missing: q, generated"):
        validate_records(records_frame([row()]).drop(columns=["q", "generated"]), where="here")


def test_absent_and_foreign_files_are_explained(tmp_path):
    with pytest.raises(DataError, match="no records at"):
        read_records(tmp_path / "records.parquet")
    (tmp_path / "records.parquet").write_text("not parquet")
    with pytest.raises(DataError, match="not a readable parquet"):
        read_records(tmp_path / "records.parquet")


def test_flipped_bits_are_explained(tmp_path, monkeypatch):
    path = tmp_path / "records.parquet"
    write_records(path, records_frame([row(generated="Volkswagen")]))
    path.write_bytes(path.read_bytes().replace(b"Volkswagen", b"Volk\xffwagen"))
    with pytest.raises(DataError, match="column 'generated' does not fit str|not a readable parquet"):
        read_records(path)
    for error in (
        TypeError("data type 'Jnt64' not understood"),  # as pandas says it
        KeyError("Jnt64"),
        ArrowNotImplementedError("type Jnt64"),
    ):
        monkeypatch.setattr("pandas.read_parquet", Mock(side_effect=error))
        with pytest.raises(DataError, match="not a readable parquet file .*Jnt64"):
            read_records(path)


def test_segments_come_back_in_order_and_no_more_of_one_is_stored_than_it_has(tmp_path):
    segment = {"text": "a b", "strength": 0.9, "tokens": 2, "of_document": True, "wanted": True}
    places = [(1, 0, 2), (0, 1, 0), (0, 0, 1)]
    rows = [segment | {"sequence": sequence, "t": t, "stored": stored} for sequence, t, stored in places]
    path = tmp_path / "segments.parquet"
    write_segments(path, rows)
    assert list(read_segments(path)[["sequence", "t", "stored"]].itertuples(index=False, name=None)) == places[::-1]
    write_segments(path, [*rows, segment | {"sequence": 0, "t": 1, "stored": 3}])
    with pytest.raises(DataError, match=f"^{path} is damaged: more tokens are stored than there are; .*row 2"):
        read_segments(path)
