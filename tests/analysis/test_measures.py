"""Measures by cell, age and t are what the records say, whichever file they are read from."""

import json

import numpy as np
import pandas as pd
import pytest
from evaluations import made_up_records, save_evaluation

from gnm.analysis.measures import COMBINED, MEASURES, measure_frame, wilson
from gnm.analysis.report import read_experiment
from gnm.analysis.saved import SavedEvaluation
from gnm.errors import DataError


@pytest.fixture
def three(tmp_path):
    """One evaluation with records, with counts alone, with a summary alone."""
    records = made_up_records()
    save_evaluation(tmp_path / "e" / "gnm", records)
    save_evaluation(tmp_path / "e" / "retrieval", records, keep_records=False)
    save_evaluation(tmp_path / "e" / "no_memory", records, keep_records=False, keep_counts=False)
    return records, read_experiment(tmp_path / "e")[0]


def values(frame, method, measure, column):
    rows = frame[(frame["method"] == method) & (frame["measure"] == measure)]
    return dict(zip(rows[column], rows["value"], strict=True))


@pytest.mark.parametrize("by", ["age", "t"])
def test_lines_are_the_means_of_the_records(three, by):
    records, evaluations = three
    frame = measure_frame(evaluations, ["accuracy", "refusal_f1"], by)
    group = records["t"] - records["q"] if by == "age" else records["t"]
    asked = records[(records["type"] == "paraphrase") & records["learn"]]
    expected = asked.groupby(group)["fact_correct"].mean().to_dict()
    assert values(frame, "gnm", "accuracy", by) == pytest.approx(expected)
    assert values(frame, "retrieval", "accuracy", by) == pytest.approx(expected)
    of = records[records["type"] == "paraphrase"]
    recall = of[of["should_refuse"]].groupby(group)["refused"].mean()
    precision = of[of["refused"]].groupby(group)["should_refuse"].mean()
    expected = (2 * precision * recall / (precision + recall)).to_dict()
    for method in ("gnm", "retrieval"):
        assert values(frame, method, "refusal_f1", by) == pytest.approx(expected)


def test_formats_go_by_the_age_of_the_format(three):
    records, evaluations = three
    dated = records[records["format_expected"].notna()]
    expected = dated.groupby("format_age")["format_correct"].mean().to_dict()
    frame = measure_frame(evaluations, ["format_accuracy"], "age")
    for method in ("gnm", "retrieval", "no_memory"):
        assert values(frame, method, "format_accuracy", "age") == pytest.approx(expected)


def test_intervals_say_where_they_come_from(three):
    _, evaluations = three
    frame = measure_frame(evaluations, ["accuracy", "score"], "age").set_index(["method", "measure", "age"])
    for method, measure, kind in [
        ("gnm", "accuracy", "bootstrap"),
        ("gnm", "score", "bootstrap"),
        ("retrieval", "accuracy", "wilson"),
        ("retrieval", "score", "none"),
        ("no_memory", "accuracy", "none"),
    ]:
        cell = frame.loc[(method, measure, 0)]
        assert cell["interval"] == kind
        assert cell["low"] <= cell["value"] <= cell["high"] or kind == "none" and np.isnan(cell["low"])
    assert wilson(0.8, 10) == pytest.approx((0.4902, 0.9433), abs=5e-4)
    assert wilson(1.0, 4)[1] == pytest.approx(1) and wilson(0.0, 4)[0] == pytest.approx(0)


def test_cells_are_empty_by_counts_and_not_by_zero(three):
    records, evaluations = three
    frame = measure_frame(evaluations, ["accuracy"], "cell")
    asked = records[(records["type"] == "paraphrase") & records["learn"]]
    expected = asked.groupby(["q", "t"])["fact_correct"].mean().to_dict()
    for method in ("gnm", "retrieval"):
        rows = frame[frame["method"] == method]
        assert dict(zip(zip(rows["q"], rows["t"], strict=True), rows["value"], strict=True)) == pytest.approx(expected)
        assert (1, 3) not in expected and len(rows) == 9
    assert len(frame[frame["method"] == "no_memory"]) == 10  # a summary alone cannot tell


def test_bad_requests_are_explained(three, tmp_path):
    _, evaluations = three
    with pytest.raises(DataError, match="unknown measures beauty; known: accuracy"):
        measure_frame(evaluations, ["beauty"], "age")
    with pytest.raises(DataError, match="not by 'year'"):
        measure_frame(evaluations, ["score"], "year")
    save_evaluation(tmp_path / "f" / "gnm", made_up_records(mixed=False), keep_records=False)
    with pytest.raises(DataError, match="no evaluation has format_accuracy by cell"):
        measure_frame(read_experiment(tmp_path / "f")[0], ["format_accuracy"], "cell")


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("summary", lambda rows: rows[:2], r"is of shape \(2, 4\); it is not an evaluation of facts"),
        ("summary", lambda rows: [row[:2] for row in rows[:2]], "differ in the shape of selectivity"),
        ("counts", lambda rows: [row[:2] for row in rows[:2]], "differ in the shape of selectivity"),
        ("both", lambda rows: [row[:2] for row in rows[:2]], "selectivity is of 2 documents, accuracy of 4"),
    ],
)
def test_matrices_that_do_not_fit_are_explained(tmp_path, file, change, message):
    folder = tmp_path / "f" / "gnm"
    save_evaluation(folder, made_up_records(mixed=False), keep_records=False)
    for name in ("summary", "counts"):
        if file in (name, "both"):
            found = json.loads((folder / f"{name}.json").read_text())
            found["fact_selectivity_matrix"] = [change(found["fact_selectivity_matrix"][-1])]
            (folder / f"{name}.json").write_text(json.dumps(found))
    evaluation = SavedEvaluation("f", "gnm", "", folder)
    with pytest.raises(DataError, match=message):
        measure_frame({"gnm": evaluation}, ["accuracy", "selectivity"], "cell")
    if file != "both":
        with pytest.raises(DataError, match="fact_selectivity_matrix"):
            evaluation.metrics()


def test_records_without_rows_are_explained(tmp_path):
    save_evaluation(tmp_path / "f" / "gnm", made_up_records())
    path = tmp_path / "f" / "gnm" / "records.parquet"
    pd.read_parquet(path)[:0].to_parquet(path)
    with pytest.raises(DataError, match="records.parquet has no rows"):
        measure_frame({"gnm": SavedEvaluation("f", "gnm", "", path.parent)}, ["score"], "age")


def test_published_aggregates_are_met(shared):
    root = shared / "reference/saved_evals"
    parts = COMBINED["score"]
    for folder, expected in [("warmup_seq_10", 86.7), ("mixed_documents", None), ("comp_gen_fact_refusals", 73.8)]:
        evaluations = read_experiment(root / folder)[0]
        cells = measure_frame(evaluations, parts, "cell")
        means = cells[cells["method"] == "gnm"].groupby("measure")["value"].mean()
        summary = json.loads((root / folder / "gnm" / "summary.json").read_text())
        for part in parts:
            matrix = np.atleast_2d(summary[MEASURES[part].matrix][-1])
            assert means[part] == pytest.approx(np.mean(matrix[np.triu_indices(len(matrix))]))
        if expected is not None:
            assert 100 * 3 / (1 / means).sum() == pytest.approx(expected, abs=0.05)
