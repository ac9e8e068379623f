"""Tables: order, names, intervals, costs, and plain numbers in CSV."""

import io

import pandas as pd
import pytest

from gnm.analysis.tables import (
    csv_table,
    figures_in,
    heading,
    markdown_table,
    save_tables,
    select,
    text_table,
    with_said,
)
from gnm.errors import DataError


def metrics(methods=("no_memory", "gnm"), experiment="one", variant="", low=0.8):
    rows = [
        {
            "experiment": experiment,
            "method": method,
            "variant": variant,
            "metric": metric,
            "age": age,
            "value": value,
            "low": low if method == "gnm" else float("nan"),
            "high": 0.9,
            "samples": 40,
            "sequences": 10,
        }
        for method in methods
        for metric, age, value in (("score", None, 0.8671), ("retention", 4, 0.5), ("refusal_f1", None, 0.25))
        if (method, metric) != ("no_memory", "refusal_f1")
    ]
    return pd.DataFrame(rows).astype({"age": "Int64"})


COST = pd.DataFrame(
    {"Slots kept": [12_800.3, 90], "Query FLOPs": [1.69e13, 2.1e9], "s / query": [0.01234, 2.0]},
    index=["gnm", "text_notes"],
)


def test_text_table_is_aligned_in_the_fixed_order():
    lines = text_table(metrics(), ["score", "retention@4", "refusal_f1"], COST).splitlines()
    assert len({len(line) for line in lines}) == 1
    assert lines[0].split("  ")[0] == "Method"
    assert lines[2].startswith("GNM ") and "86.7 [80.0, 90.0]" in lines[2]
    assert lines[2].endswith("12,800       1.7e13     0.0123")
    assert lines[3].startswith("No memory ") and lines[3].split()[2:] == ["86.7", "50.0", "–", "–", "–", "–"]


def test_markdown_has_one_rule_and_equal_cells():
    lines = markdown_table(metrics(), ["score", "retention@4"]).splitlines()
    assert lines[0] == "| Method | Score | Retention, age 4 |"
    assert lines[1] == "| --- | ---: | ---: |"
    assert lines[3] == "| No memory | 86.7 | 50.0 |"


def test_csv_keeps_plain_numbers():
    table = pd.read_csv(io.StringIO(csv_table(metrics(), ["score", "refusal_f1"], COST))).set_index("method")
    assert list(table.index) == ["gnm", "no_memory"]
    assert table.loc["gnm", ["score", "score_low", "score_high"]].tolist() == [0.8671, 0.8, 0.9]
    assert table.loc["gnm", "Query FLOPs"] == 1.69e13
    assert table.loc["no_memory", ["score_low", "refusal_f1", "Slots kept"]].isna().all()
    assert table.loc["gnm", ["score_samples", "sequences"]].tolist() == [40, 10]


def test_tables_are_saved_beside_each_other(tmp_path):
    paths = save_tables(metrics(), tmp_path / "one.v2", ["score"])
    assert [path.name for path in paths] == ["one.v2.md", "one.v2.csv"]
    assert paths[0].read_text() == markdown_table(metrics(), ["score"])


def test_one_experiment_is_selected_and_variants_stand_apart():
    frame = pd.concat([metrics(), metrics(experiment="two"), metrics(["gnm"], experiment="two", variant="val_id")])
    with pytest.raises(DataError, match="name one of the experiments: one, two"):
        select(frame)
    with pytest.raises(DataError, match="no figures of 'three'"):
        select(frame, "three")
    lines = text_table(select(frame, "two"), ["score"]).splitlines()
    assert [line.split("  ")[0] for line in lines[2:]] == ["GNM", "GNM, val id", "No memory"]
    with pytest.raises(DataError, match="two evaluations share one method name"):
        select(pd.concat([metrics(), metrics()]))


def test_what_is_said_and_what_leaks_stands_beside_the_contest():
    """Where some method has it; nothing else is added, and a wrong name stays for the error that names it."""
    old = pd.DataFrame({"metric": ["score", "accuracy", "specificity", "selectivity", "accuracy_age_0"], "age": pd.NA})
    new = ["accuracy_generated", "specificity_generated", "selectivity_generated", "leakage", "neighbour_leakage"]
    has = pd.concat([old, pd.DataFrame({"metric": new, "age": pd.NA})])
    beside = [
        "score",
        "accuracy",
        "accuracy_generated",
        "specificity",
        "neighbour_leakage",
        "selectivity",
        "selectivity_generated",
        "leakage",
        "accuracy_age_0",
    ]
    assert figures_in(old) == list(old["metric"]) and figures_in(has) == beside
    assert with_said(has, ["selectivity", "leakage"]) == ["selectivity", "selectivity_generated", "leakage"]
    assert with_said(old, ["selectivity", "leakage", "beauty"]) == ["selectivity", "beauty"]


def test_unknown_figures_are_named_with_the_known_ones():
    with pytest.raises(DataError, match="'retention@7'; there are: refusal_f1, retention@4, score"):
        text_table(metrics(), ["score", "retention@7"])


@pytest.mark.parametrize(
    ("figure", "words"),
    [
        ("score", "Score"),
        ("accuracy_age_0", "Accuracy, age 0"),
        ("accuracy_age_0_generated", "Accuracy, age 0 (generated)"),
        ("leakage_by_age@4", "Leakage, age 4"),
        ("neighbour_leakage_age_0", "Neighbours' leakage, age 0"),
        ("refusal_f1", "Refusal F1"),
        ("retention@9", "Retention, age 9"),
        ("unlearning_accuracy", "Unlearning accuracy"),
    ],
)
def test_headings_are_words(figure, words):
    assert heading(figure) == words
