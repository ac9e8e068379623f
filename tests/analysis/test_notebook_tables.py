"""Tables beside the notebooks' figures: numbers recomputed from records by other means."""

import json

import numpy as np
import pandas as pd
import pytest
from notebooks import run

from gnm.analysis.tables import heading
from gnm.metrics.records import read_records

FACTS = ("accuracy", "specificity", "selectivity")


@pytest.fixture(scope="module")
def outputs():
    return {}


@pytest.fixture
def drawn(own, unrendered, outputs, tmp_path_factory):
    """A table of a notebook, which is run once for all tests."""

    def table(notebook, name):
        if notebook not in outputs:
            outputs[notebook] = tmp_path_factory.mktemp(notebook)
            run(notebook, own, outputs[notebook])
        return pd.read_csv(outputs[notebook] / f"{name}.csv")

    return table


def asked(records, measure):
    """The records that are samples of a measure of facts."""
    paraphrase, learn, refuse = records["type"] == "paraphrase", records["learn"], records["refuse"]
    return records[
        {
            "accuracy": paraphrase & learn,
            "specificity": (records["type"] == "true_output_neighbor") & learn,
            "selectivity": paraphrase & ~learn & ~refuse,
        }[measure]
    ]


def share(records, measure, by):
    """The share that is right by group, as a dictionary of plain numbers."""
    rows = asked(records, measure).assign(age=lambda frame: frame["t"] - frame["q"])
    return rows.groupby(by)["fact_correct"].mean().astype(float).to_dict()


def scores(records, by):
    """The harmonic mean of the three shares by group, 0 where one of them is."""
    parts = [share(records, measure, by) for measure in FACTS]
    groups = set.intersection(*map(set, parts))
    return {g: 3 / sum(1 / part[g] for part in parts) if all(part[g] for part in parts) else 0.0 for g in groups}


def over_cells(records, measure):
    """The mean of the cells' means."""
    return np.mean(list(share(records, measure, ["q", "t"]).values()))


@pytest.mark.parametrize(
    ("notebook", "folder", "table", "by"),
    [
        ("warmup_summary", "small_exp1", "warmup_by_documents", "t"),
        ("warmup_summary", "small_exp1", "warmup_by_age", "age"),
        ("warmup_heatmaps", "small_exp1", "warmup_heatmaps_ten", ["q", "t"]),
        ("mixed_docs", "small_exp2", "mixed_ten_by_age", "age"),
        ("warmup_heatmaps", "eval_exp1_20", "warmup_heatmaps_twenty", ["q", "t"]),
        ("mixed_docs", "small_exp2", "mixed_ten_by_documents", "t"),
        ("mixed_docs", "eval_exp2_20", "mixed_twenty_by_age", "age"),
        ("mixed_docs_heatmaps", "small_exp2", "mixed_docs_heatmaps_ten", ["q", "t"]),
        ("gates", "small_gates", "gates_leakage", "age"),
        ("gates", "small_gates_20", "gates_retention_20", "age"),
    ],
)
def test_lines_and_matrices_are_what_the_records_say(own, drawn, notebook, folder, table, by):
    found = drawn(notebook, table)
    compared = 0
    for method in ("gnm", "generalist"):
        records = read_records(own / folder / method / "records.parquet")
        for measure in (*FACTS, "score"):
            rows = found[(found["method"] == method) & (found["measure"] == measure)].set_index(by)["value"]
            if rows.empty:
                continue
            expected = scores(records, by) if measure == "score" else share(records, measure, by)
            assert rows.to_dict() == pytest.approx(expected)
            compared += len(expected)
    assert compared >= 6


@pytest.mark.parametrize(
    ("notebook", "folder", "table"),
    [("comp_gen", "small_exp3", "comp_gen"), ("ablation", "small_exp1", "ablation"),
     ("warmup_summary", "small_exp1", "warmup_bars")],
)  # fmt: skip
def test_bars_are_the_means_of_the_cells(own, drawn, notebook, folder, table):
    bars = drawn(notebook, table).set_index(["method", "group"])["value"]
    path = own / folder / "gnm" / "records.parquet"
    summary = pd.read_json(own / folder / "gnm" / "summary.json", typ="series")
    compared = [measure for measure in FACTS if ("gnm", heading(measure)) in bars.index]
    for measure in compared:
        single = np.atleast_2d(summary[f"fact_{measure}_matrix"][-1])[0, 0]
        expected = over_cells(read_records(path), measure) if path.is_file() else single
        assert bars["gnm", heading(measure)] == pytest.approx(expected)
    assert compared


def test_bars_at_ages_are_those_of_the_records(own, drawn):
    bars = drawn("warmup_summary", "warmup_score_at_ages").set_index(["method", "age"])["value"]
    records = read_records(own / "small_exp1" / "gnm" / "records.parquet")
    assert bars["gnm", 0] == pytest.approx(scores(records, "age")[0])


def test_formats_of_folders_are_shares_of_the_records(own, drawn):
    bars = drawn("format_generalization", "format_generalization").set_index(["method", "group"])["value"]
    for group, folder in (("Trained formats", "eval_exp2_train"), ("Unseen family", "small_exp2_unseen_family")):
        records = read_records(own / folder / "gnm" / "records.parquet")
        fresh = records[records["format_age"] == 0]
        assert bars["gnm", group] == pytest.approx(fresh["format_correct"].astype(float).mean())


def test_what_gates_keep_is_what_was_saved(own, drawn):
    row = drawn("gates", "gates_kept").set_index("method").loc["generalist"]
    assert row["Kept"] == json.loads((own / "small_gates" / "generalist" / "cost.json").read_text())["kept"][-1]
    bars = drawn("gates", "gates_stored").set_index(["method", "group"])["value"]
    assert bars["generalist", "Stored"] == 0.25 and bars["generalist", "Segments"] == 0.5
