"""Reading saved evaluations: our own folders with records, and the published ones with summaries only."""

import json

import numpy as np
import pandas as pd
import pytest

from gnm.analysis.saved import find_evaluations, line_frame, metric_frame, split_method
from gnm.analysis.style import METHODS
from gnm.errors import DataError
from gnm.metrics import METRIC_COLUMNS, metrics_of_records, summarise, write_summary
from gnm.metrics.records import records_frame, write_records


def save(folder, sequences=3, keep_records=True):
    rows = [
        {
            "sequence": s,
            "q": 0,
            "t": 0,
            "fact_id": i,
            "subcategory": "religion",
            "type": "true_output_neighbor" if i == 2 else "paraphrase",
            "learn": i != 1,
            "refuse": False,
            "should_refuse": False,
            "neighbor_of_should_refuse": False,
            "composition": False,
            "unlearning": False,
            "input": "a",
            "target_output": "b",
            "non_target_output": "c",
            "generated": "b",
            "fact_correct": (s + i) % 3 > 0,
            "generated_correct": True,
            "nll": 1.0,
            "num_answer_tokens": 1,
        }
        for s in range(sequences)
        for i in range(3)
    ]
    records = records_frame(rows)
    write_summary(folder, summarise(records))
    if keep_records:
        write_records(folder / "records.parquet", records)
    return records


@pytest.mark.parametrize(
    ("folder", "expected"),
    [
        ("gnm", ("gnm", "")),
        ("gnm_ablation", ("gnm_ablation", "")),
        ("gnm_flops", ("gnm", "flops")),
        ("llama3", ("in_context", "")),
        ("llama3_ft_val_id", ("in_context_ft", "val_id")),
        ("in_context_ft_instruction_first", ("in_context_ft_instruction_first", "")),
        ("rag_untrained", ("retrieval", "")),
        ("rag_trained_flops", ("retrieval_ft", "flops")),
        ("naive_model", ("no_memory", "")),
        ("gnmish", ("gnmish", "")),
        ("my_method", ("my_method", "")),
    ],
)
def test_folder_names_give_method_and_variant(folder, expected):
    assert split_method(folder) == expected


def test_figures_come_from_records_where_there_are_any(tmp_path):
    records = save(tmp_path / "one" / "gnm")
    save(tmp_path / "one" / "no_memory", keep_records=False)
    (tmp_path / "one" / "gnm" / "run_config.json").write_text('{"seed": 3}')
    with_records, without = find_evaluations(tmp_path)
    assert (with_records.run_config, without.run_config) == ({"seed": 3}, {})
    assert without.records is None
    frame = metric_frame([with_records, without])
    assert list(frame) == ["experiment", "method", "variant", *METRIC_COLUMNS]
    of_gnm = frame[frame["method"] == "gnm"][METRIC_COLUMNS].reset_index(drop=True)
    pd.testing.assert_frame_equal(of_gnm, metrics_of_records(records))
    of_none = frame[frame["method"] == "no_memory"].set_index("metric")
    assert of_none["low"].drop("score").notna().all() and np.isnan(of_none["low"]["score"])  # by its counts
    (tmp_path / "one" / "no_memory" / "counts.json").unlink()
    assert without.metrics()["low"].isna().all()
    assert of_none["value"]["score"] == pytest.approx(of_gnm.set_index("metric")["value"]["score"])


def test_an_evaluation_that_a_kill_left_moved_aside_is_brought_back(tmp_path):
    save(tmp_path / "one" / "gnm")
    (tmp_path / "one" / "gnm").rename(tmp_path / "one" / ".gnm.abcd1234.old")
    save(tmp_path / "one" / ".gnm.efgh5678.part")
    (found,) = find_evaluations(tmp_path, ["one"])
    assert found.folder == tmp_path / "one" / "gnm" and len(found.records) == 9


def test_absent_and_damaged_evaluations_are_explained(tmp_path):
    with pytest.raises(DataError, match="no saved evaluation under"):
        find_evaluations(tmp_path)
    save(tmp_path / "one" / "gnm", keep_records=False)
    with pytest.raises(DataError, match="of two under .* there are: one"):
        find_evaluations(tmp_path, ["two"])
    for text in ("{", 100_000 * "["):
        (tmp_path / "one" / "gnm" / "summary.json").write_text(text)
        with pytest.raises(DataError, match="not valid JSON"):
            metric_frame(find_evaluations(tmp_path))
    (tmp_path / "one" / "gnm" / "summary.json").write_text(json.dumps({"loss": [1.0]}))
    with pytest.raises(DataError, match="gnm: the summary lacks fact_accuracy_matrix"):
        metric_frame(find_evaluations(tmp_path))


@pytest.mark.parametrize("number", [-1, 1e30, float("inf")])
def test_numbers_that_count_nothing_are_refused(tmp_path, number):
    save(tmp_path / "one" / "gnm", keep_records=False)
    path = tmp_path / "one" / "gnm" / "counts.json"
    path.write_text(json.dumps({"fact_accuracy": [number]}))
    with pytest.raises(DataError, match="counts.json is damaged: 'fact_accuracy' holds no counts"):
        metric_frame(find_evaluations(tmp_path))


@pytest.mark.parametrize(
    ("key", "entry", "told"),
    [
        ("fact_accuracy", 1.5, "a number that is no share from 0 to 1"),
        ("remaining_fact_accuracy", -0.5, "a number that is no share from 0 to 1"),
        ("fact_accuracy", [[0.5]], "an entry of 2 dimensions"),
        ("fact_accuracy_matrix", [[[0.5]]], "an entry of 3 dimensions"),
        ("flops_per_token", -1.0, "no costs"),
        ("fact_accuracy", "0.5", "no numbers .but text, verdicts or objects."),
        ("fact_accuracy", True, "no numbers .but text, verdicts or objects."),
    ],
)
def test_figures_of_another_shape_or_size_are_refused(tmp_path, key, entry, told):
    save(tmp_path / "one" / "gnm", keep_records=False)
    (tmp_path / "one" / "gnm" / "summary.json").write_text(json.dumps({key: [entry]}))
    with pytest.raises(DataError, match=f"summary.json is damaged: '{key}' holds {told}; evaluate again"):
        metric_frame(find_evaluations(tmp_path))


def test_every_published_evaluation_is_read(shared):
    evaluations = find_evaluations(shared / "reference/saved_evals")
    assert len(evaluations) == 48
    assert {evaluation.method for evaluation in evaluations} <= set(METHODS)
    frame = metric_frame(evaluations)
    scores = frame[frame["metric"] == "score"].set_index(["experiment", "method", "variant"])["value"]
    assert len(scores) == 48 and scores.between(0, 1).all()
    assert scores["warmup_seq_10", "gnm", ""] == pytest.approx(0.867, abs=5e-4)
    assert all(evaluation.run_config["seed"] == 42 for evaluation in evaluations)


def test_lines_of_summaries_are_tidy(shared):
    evaluations = find_evaluations(shared / "reference/saved_evals", ["mixed_documents_analysis", "warmup"])
    flops = line_frame(evaluations, "flops_per_token").set_index(["experiment", "method", "variant", "index"])["value"]
    read = flops["mixed_documents_analysis"].sort_index()
    assert read["gnm", "flops"].tolist() == [16901149294592.0] * 20
    assert read["in_context_ft", "flops"].is_monotonic_increasing
    with pytest.raises(DataError, match="no evaluation has a line 'nothing'"):
        line_frame(evaluations, "nothing")
