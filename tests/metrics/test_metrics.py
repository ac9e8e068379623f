"""The summary of records against golden files, and figures against the summary."""

import json

import numpy as np
import pandas as pd
import pytest

from gnm.errors import DataError
from gnm.metrics import (
    FACTS,
    harmonic_mean,
    join_epochs,
    metrics_of_records,
    metrics_of_summary,
    summarise,
    write_summary,
)
from metric_records import frame, synthetic, values_of


def from_events(events, refusals):
    rows = []
    for event in events:
        method, args = event["method"], event["args"]
        pair = args.get("pair", {})
        row = {
            "q": args.get("seq_idx_of_io_pairs", 0),
            "t": args.get("seq_idx_of_doc", 0),
            "type": pair.get("type", ""),
            "learn": pair.get("fact_id_targeted_for_fact_learning", False),
            "refuse": pair.get("fact_id_targeted_for_refusal_learning", False),
            "should_refuse": pair.get("should_refuse", False),
            "neighbor_of_should_refuse": pair.get("neighbor_of_should_refuse", False),
        }
        if method in ("update_fact_metrics", "update_unlearning_fact_metrics"):
            row |= {"fact_correct": bool(args["correct"]), "unlearning": "unlearning" in method}
        elif method == "update_refusal_metrics":
            row["refused"] = refusals.get(args["generated_text"], False)
        elif method == "update_format_metrics":
            # A format document's own queries are never format-free; the random events say so only by the target.
            own = args["metadata_blob"]["target_to_learn"] == "format"
            row |= {
                "format_correct": bool(args["format_correct"]),
                "format_age": args["time_since_format_instruction"],
                "format_expected": args["target_format"] or ("json_text" if own else None),
            }
        elif method == "update_loss":
            row |= {"nll": args["loss"], "num_answer_tokens": 1}
        elif method == "update_flops_metrics":
            row["flops_per_token"] = float(args["total_flops"])
        else:
            row["composition"] = {"count_compositions": True, "count_non_compositions": False}[method]
        rows.append(row)
    return frame(rows)


@pytest.fixture
def golden(golden_folder):
    verdicts = json.loads((golden_folder / "text/refusal_detection.json").read_text())
    refusals = {entry["text"]: entry["is_refusal"] for entry in verdicts} | {"sorry, no": True}

    def load(name):
        case = json.loads((golden_folder / f"metrics/{name}.json").read_text())
        groups = {
            "formats": "formats" in case["target_types"],
            "unlearning": case["unlearning"],
            "refusals": any("refusal" in target for target in case["target_types"]),
        }
        summaries = [
            summarise(from_events(events, refusals), case["sequence_length"], [g for g in groups if groups[g]])
            for events in case["epochs"]
        ]
        return join_epochs([None] * case["starting_epoch"] + summaries), case["epoch_results"]

    return load


def same(ours, theirs):
    """Equal within 1e-6, relative for large numbers; our null is the tracker's NaN."""
    if isinstance(theirs, list):
        return len(ours) == len(theirs) and all(map(same, ours, theirs))
    if theirs in ("NaN", None):
        return ours is None
    return ours == pytest.approx(theirs, rel=1e-6, abs=1e-6)


@pytest.mark.parametrize("name", ["facts_only", "facts_formats_refusals", "unlearning_facts"])
def test_summary_equals_the_golden_file(golden, name):
    summary, expected = golden(name)
    assert set(summary.values) == set(summary.counts) == set(expected)
    # The tracker never fills this matrix; ours has the samples whose diagonal gives format_selectivity.
    wrong = [
        key for key in expected if key != "format_selectivity_matrix" and not same(summary.values[key], expected[key])
    ]
    assert wrong == []


def test_a_long_sequence_has_lines_and_no_matrices():
    row = {"sequence": 0, "type": "paraphrase", "learn": True}
    values = [
        summarise(frame([row | {"q": q, "t": n - 1, "fact_correct": q > 50} for q in range(n)])).values
        for n in (100, 101)
    ]
    assert [np.shape(each["fact_retention"]) for each in values] == [(1, 100), (1, 101)]
    assert np.shape(values[0]["fact_accuracy_matrix"]) == (1, 100, 100)
    assert not [key for key in values[1] if key.endswith("_matrix")]


def test_format_selectivity_matrix_is_filled_where_the_tracker_leaves_zeros(golden):
    summary, expected = golden("facts_formats_refusals")
    assert not np.any(expected["format_selectivity_matrix"])
    cells, counts = (np.array(part["format_selectivity_matrix"][0]) for part in summary)
    assert np.trace(cells * counts) / np.trace(counts) == pytest.approx(summary.values["format_selectivity"][0])


def test_an_epoch_without_samples_is_empty_not_the_last_epoch_again(golden):
    summary, expected = golden("two_epochs_second_almost_empty")
    assert all(summary.values[key][:3] == [None, None, summary.values[key][2]] for key in expected)
    wrong = [
        key
        for key in expected
        if key != "format_selectivity_matrix" and not same(summary.values[key][:3], expected[key][:3])
    ]
    assert wrong == []
    differing = {key for key in expected if not same(summary.values[key][3], expected[key][3])}
    repeated = {
        "fact_accuracy_matrix",
        "fact_selectivity_matrix",
        "fact_specificity_matrix",
        "fact_retention",
        "fact_accuracy_over_time",
        "format_accuracy_matrix",
        "format_retention",
        "refusal_precision_matrix",
        "refusal_recall_matrix",
        "refusal_precision_over_time",
        "refusal_recall_over_time",
    }
    assert differing == repeated
    for key in repeated:
        assert same(expected[key][3], expected[key][2]), "the published tracker repeats"
        assert not np.any(summary.values[key][3]) and not np.any(summary.counts[key][3])
    assert summary.values["loss"][3] == 1.5 and summary.counts["loss"] == [None, None, 23, 1]


def test_nothing_depends_on_the_order_of_records():
    records = synthetic(0)
    for seed in range(3):
        shuffled = records.sample(frac=1, random_state=seed)
        assert summarise(shuffled) == summarise(records)
        pd.testing.assert_frame_equal(metrics_of_records(shuffled), metrics_of_records(records), check_exact=True)


def test_counts_say_how_many_samples_each_mean_has():
    records = synthetic(1)
    values, counts = summarise(records)
    accuracy = records[(records["type"] == "paraphrase") & records["learn"] & ~records["unlearning"]]
    assert np.sum(counts["fact_accuracy_matrix"][0]) == len(accuracy)
    assert counts["fact_accuracy"][0] == (accuracy["q"] == accuracy["t"]).sum()
    assert sum(counts["fact_retention"][0]) == len(accuracy)
    assert np.shape(values["fact_accuracy_matrix"][0]) == (3, 3)
    assert all(np.shape(values[key]) == np.shape(counts[key]) for key in values)
    assert counts["loss"][0] == records["num_answer_tokens"].sum()


def test_key_groups_follow_the_verdicts_and_the_length_is_checked():
    facts = synthetic(2).assign(format_correct=pd.NA, refused=pd.NA)
    facts = facts[~facts["unlearning"]]
    assert not any(key.startswith(("format", "refusal", "unlearning")) for key in summarise(facts).values)
    assert summarise(facts, groups=["refusals"]).values["refusal_recall"] == [None]
    assert np.shape(summarise(facts, sequence_length=5).values["fact_accuracy_matrix"]) == (1, 5, 5)
    with pytest.raises(DataError, match="reach document 2"):
        summarise(facts, sequence_length=2)
    with pytest.raises(DataError, match="unknown metric groups"):
        summarise(facts, groups=["refusal"])


def test_no_records_give_an_empty_summary_and_no_figures():
    values, counts = summarise(frame([]))
    assert values["fact_accuracy"] == [None] and values["fact_accuracy_matrix"] == [[[0.0]]]
    assert counts["fact_accuracy"] == [0]
    with pytest.raises(DataError, match="no records"):
        metrics_of_records(frame([]))


def test_summary_files_are_plain_json(tmp_path):
    summary = summarise(frame([{"fact_correct": True, "learn": True, "type": "paraphrase"}]))
    write_summary(tmp_path, summary)
    assert json.loads((tmp_path / "summary.json").read_text()) == summary.values
    assert json.loads((tmp_path / "counts.json").read_text())["fact_accuracy"] == [1]


def test_figures_agree_with_the_summary_they_come_from():
    records = synthetic(3)
    full, short = metrics_of_records(records), metrics_of_summary(summarise(records).values)
    found = values_of(full)
    assert {key: found[key] for key in values_of(short)} == pytest.approx(values_of(short))
    extra = {metric for metric, _ in set(found) - set(values_of(short))}
    assert extra == {name for name, _ in found if name.endswith("_generated")}
    assert found["retention", 0] == found["accuracy_age_0", None]
    assert found["score", None] == pytest.approx(harmonic_mean([found[name, None] for name in FACTS]))


def test_the_appended_document_enters_the_unlearning_means_only():
    records = synthetic(7)
    stream = records[~records["unlearning"]]
    metrics = metrics_of_records(records)
    kept = metrics[~metrics["metric"].str.startswith("unlearning")].reset_index(drop=True)
    assert len(kept) < len(metrics)
    pd.testing.assert_frame_equal(kept, metrics_of_records(stream))
    whole, part = summarise(records).values, summarise(stream).values
    assert {key for key in whole if whole[key] != part.get(key)} == {
        *(f"unlearning_fact_{name}" for name in FACTS),
        "loss",
        "non_compositions",
    }


@pytest.mark.parametrize("group", ["forgotten", "remaining"])
def test_rows_after_something_was_forgotten_enter_their_own_means_only(group):
    """Also where the sequence ends with a document that turned something round."""
    stream = synthetic(7)
    stream = stream[~stream["unlearning"]]
    last = stream[stream["t"] == 2]
    after = pd.concat([last, last.assign(unlearning=True)]).assign(**{group: True})
    turned = {name: ~after[name] for name in ("fact_correct", "generated_correct")}
    after = after.assign(**turned)
    records = pd.concat([stream, after])
    metrics, plain = metrics_of_records(records), metrics_of_records(stream)
    others = metrics[~metrics["metric"].str.startswith(group)].reset_index(drop=True)
    assert len(others) == len(metrics) - 6
    pd.testing.assert_frame_equal(others, plain)
    accuracy = after[(after["type"] == "paraphrase") & after["learn"]]["fact_correct"].astype(float).mean()
    assert values_of(metrics)[f"{group}_accuracy", None] == pytest.approx(accuracy)
    whole, part = summarise(records).values, summarise(stream).values
    assert {key for key in whole if whole[key] != part.get(key)} == {
        *(f"{group}_fact_{name}" for name in FACTS),
        "loss",
        "non_compositions",
    }


def test_queries_about_later_documents_show_in_the_matrix_and_nowhere_else():
    row = {"q": 0, "t": 0, "type": "paraphrase", "learn": True, "fact_correct": True}
    ahead = frame([row, row | {"q": 1, "t": 1}, row | {"q": 1, "fact_correct": False}])
    assert values_of(metrics_of_records(ahead)) == values_of(metrics_of_records(ahead[:2]))
    assert summarise(ahead).counts["fact_accuracy_matrix"] == [[[1, 0], [1, 1]]]
    assert summarise(ahead).counts["fact_retention"] == [[2, 0]]


def test_cells_without_samples_are_left_out_of_the_means():
    rows = [
        {"q": q, "t": t, "type": "paraphrase", "learn": True, "fact_correct": right}
        for q, t, right in ((0, 0, True), (0, 0, False), (1, 1, True))
    ]
    assert values_of(metrics_of_records(frame(rows)))["accuracy", None] == 0.75
