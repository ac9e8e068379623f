"""The summary against the golden tracker files, order independence, and the figures of merit with their intervals.

The golden files hold calls of a tracker; here each call becomes a record row that carries just that call's verdict.
"""

import json
import math

import numpy as np
import pandas as pd
import pytest

from gnm.errors import DataError
from gnm.metrics import (
    FACTS,
    bootstrap_mean,
    figures_of_merit,
    harmonic_mean,
    join_epochs,
    merit_of_summary,
    summarise,
    write_summary,
)
from gnm.metrics.records import COLUMNS

VERDICTS = {
    "fact_correct",
    "generated_correct",
    "known_fact_correct",
    "known_generated",
    "format_correct",
    "refused",
    "flops_per_token",
    "composition",
    "format_age",
    "num_answer_tokens",
    "logit_target",
    "logit_non_target",
    "nll",
}
DTYPES = {
    name: {"bool": "boolean", "int64": "Int64"}.get(column.dtype, column.dtype) if name in VERDICTS else column.dtype
    for name, column in COLUMNS.items()
}
BLANK = {
    name: None if name in VERDICTS | {"format_expected"} else {"str": "", "bool": False}.get(dtype, 0)
    for name, dtype in DTYPES.items()
}


def frame(rows):
    """Record rows from the columns that matter; verdicts left out are null, everything else is blank."""
    return pd.DataFrame([BLANK | row for row in rows], columns=list(COLUMNS)).astype(DTYPES)


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


def synthetic(seed, sequences=8, documents=3, difficulty=0.1):
    """A small evaluation with facts, formats, refusals and an unlearning step; sequences differ in difficulty."""
    rng = np.random.default_rng(seed)
    rows = []
    for sequence in range(sequences):
        p = np.clip(0.7 + difficulty * rng.normal(), 0, 1)
        for t in range(documents + 1):
            for q in range(t + 1):
                for kind in ("learn", "other", "refuse"):
                    for number in range(int(rng.integers(1, 4))):
                        refuse = kind == "refuse"
                        right = bool(rng.random() < p)
                        rows.append(
                            {
                                "sequence": sequence,
                                "q": q,
                                "t": t,
                                "learn": kind == "learn",
                                "refuse": refuse,
                                "type": "true_output_neighbor" if number == 2 else "paraphrase",
                                "should_refuse": refuse and number < 2,
                                "neighbor_of_should_refuse": refuse and number == 2,
                                "unlearning": t == documents,
                                "fact_correct": right,
                                "generated_correct": right and bool(rng.random() < 0.9),
                                "refused": bool(rng.random() < (0.8 if refuse and number < 2 else 0.1)),
                                "format_correct": right,
                                "format_expected": "xml_body" if t > 0 else None,
                                "format_age": t - 1 if t > 0 else None,
                                "nll": float(rng.exponential()),
                                "num_answer_tokens": int(rng.integers(1, 5)),
                                "flops_per_token": float(rng.random()),
                                "composition": False,
                            }
                        )
    return frame(rows)


def test_nothing_depends_on_the_order_of_records():
    records = synthetic(0)
    for seed in range(3):
        shuffled = records.sample(frac=1, random_state=seed)
        assert summarise(shuffled) == summarise(records)
        pd.testing.assert_frame_equal(figures_of_merit(shuffled), figures_of_merit(records), check_exact=True)


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
        figures_of_merit(frame([]))


def test_summary_files_are_plain_json(tmp_path):
    summary = summarise(frame([{"fact_correct": True, "learn": True, "type": "paraphrase"}]))
    write_summary(tmp_path, summary)
    assert json.loads((tmp_path / "summary.json").read_text()) == summary.values
    assert json.loads((tmp_path / "counts.json").read_text())["fact_accuracy"] == [1]


def values_of(merit):
    return {
        (metric, age if pd.notna(age) else None): value
        for metric, age, value in zip(merit["metric"], merit["age"], merit["value"], strict=True)
    }


def test_figures_agree_with_the_summary_they_come_from():
    records = synthetic(3)
    full, short = figures_of_merit(records), merit_of_summary(summarise(records).values)
    found = values_of(full)
    assert {key: found[key] for key in values_of(short)} == pytest.approx(values_of(short))
    extra = {metric for metric, _ in set(found) - set(values_of(short))}
    assert extra == {name for name, _ in found if name.endswith("_generated")}
    assert found["retention", 0] == found["accuracy_age_0", None]
    assert found["score", None] == pytest.approx(harmonic_mean([found[name, None] for name in FACTS]))


def test_the_appended_document_enters_the_unlearning_means_only():
    records = synthetic(7)
    stream = records[~records["unlearning"]]
    merit = figures_of_merit(records)
    kept = merit[~merit["metric"].str.startswith("unlearning")].reset_index(drop=True)
    assert len(kept) < len(merit)
    pd.testing.assert_frame_equal(kept, figures_of_merit(stream))
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
    merit, plain = figures_of_merit(records), figures_of_merit(stream)
    others = merit[~merit["metric"].str.startswith(group)].reset_index(drop=True)
    assert len(others) == len(merit) - 6
    pd.testing.assert_frame_equal(others, plain)
    accuracy = after[(after["type"] == "paraphrase") & after["learn"]]["fact_correct"].astype(float).mean()
    assert values_of(merit)[f"{group}_accuracy", None] == pytest.approx(accuracy)
    whole, part = summarise(records).values, summarise(stream).values
    assert {key for key in whole if whole[key] != part.get(key)} == {
        *(f"{group}_fact_{name}" for name in FACTS),
        "loss",
        "non_compositions",
    }


def test_queries_about_later_documents_show_in_the_matrix_and_nowhere_else():
    row = {"q": 0, "t": 0, "type": "paraphrase", "learn": True, "fact_correct": True}
    ahead = frame([row, row | {"q": 1, "t": 1}, row | {"q": 1, "fact_correct": False}])
    assert values_of(figures_of_merit(ahead)) == values_of(figures_of_merit(ahead[:2]))
    assert summarise(ahead).counts["fact_accuracy_matrix"] == [[[1, 0], [1, 1]]]
    assert summarise(ahead).counts["fact_retention"] == [[2, 0]]


def test_cells_without_samples_are_left_out_of_the_means():
    rows = [
        {"q": q, "t": t, "type": "paraphrase", "learn": True, "fact_correct": right}
        for q, t, right in ((0, 0, True), (0, 0, False), (1, 1, True))
    ]
    assert values_of(figures_of_merit(frame(rows)))["accuracy", None] == 0.75


def test_interval_is_the_bootstrap_over_whole_sequences():
    """Every resample's figures equal the figures of the records copied as often as their sequence was drawn."""
    records = synthetic(4, sequences=5)
    draws = np.random.default_rng(9).multinomial(5, np.full(5, 0.2), size=12)
    copied = []
    for draw in draws:
        parts = [
            records[records["sequence"] == s].assign(sequence=10 * s + copy)
            for s in range(5)
            for copy in range(draw[s])
        ]
        copied.append(values_of(figures_of_merit(pd.concat(parts), resamples=1)))
    merit = figures_of_merit(records, np.random.default_rng(9), resamples=12)
    for line in merit.itertuples():
        key = (line.metric, line.age if pd.notna(line.age) else None)
        low, high = np.percentile([figures[key] for figures in copied if key in figures], [2.5, 97.5])
        assert (line.low, line.high) == pytest.approx((low, high)), key


def test_interval_knows_that_queries_of_one_sequence_go_together():
    alike = figures_of_merit(synthetic(5, sequences=30, difficulty=0.0))
    varied = figures_of_merit(synthetic(5, sequences=30, difficulty=0.3))
    width = [
        (frame.set_index("metric")["high"] - frame.set_index("metric")["low"])["accuracy"] for frame in (alike, varied)
    ]
    assert width[1] > 1.5 * width[0]
    accuracy = varied.set_index("metric").loc["accuracy"]
    assert accuracy["low"] < accuracy["value"] < accuracy["high"]
    assert accuracy["sequences"] == 30


def test_the_mean_of_plain_samples_has_the_interval_of_the_same_records():
    records = synthetic(3)
    fresh = records[(records["q"] == records["t"]) & ~records["unlearning"]]
    some = fresh[(fresh["type"] == "paraphrase") & fresh["learn"]]
    merit = figures_of_merit(records).set_index("metric").loc["accuracy_age_0"]
    found = bootstrap_mean(some["fact_correct"].to_numpy(dtype=float), some["sequence"].to_numpy())
    assert found == pytest.approx((merit["value"], merit["low"], merit["high"]))
    assert math.isnan(bootstrap_mean(np.ones(3), np.zeros(3, dtype=int))[1])
    with pytest.raises(DataError, match="no samples"):
        bootstrap_mean(np.ones(0), np.zeros(0, dtype=int))


def test_one_sequence_has_no_interval():
    merit = figures_of_merit(synthetic(6, sequences=1))
    assert merit["low"].isna().all() and merit["high"].isna().all() and (merit["sequences"] == 1).all()


def test_never_refusing_has_an_f1_of_zero():
    rows = [{"sequence": s, "type": "paraphrase", "should_refuse": s == 0, "refused": False} for s in range(2)]
    found = values_of(figures_of_merit(frame(rows)))
    assert found["refusal_f1", None] == 0 and ("refusal_precision", None) not in found


PUBLISHED = {  # reference/README.md: score, accuracy, specificity, selectivity | ages 0, 4, 9, 19 | format, refusal F1
    "warmup_seq_10/gnm": (86.7, 93.9, 81.2, 86.0, 97.8, 95.1, 66.0, None, None, None),
    "warmup_seq_10/llama3_ft": (69.3, 98.0, 75.5, 50.5, 98.4, 97.3, 97.0, None, None, None),
    "warmup_seq_10/rag_trained": (69.8, 87.7, 71.2, 57.0, 88.7, 87.5, 85.0, None, None, None),
    "warmup_seq_10/memoryllm": (49.5, 68.1, 82.1, 29.7, 80.0, 63.7, 59.0, None, None, None),
    "warmup_seq_10/naive_model": (36.1, 17.0, 86.4, 79.3, 16.9, 17.0, 16.0, None, None, None),
    "warmup/gnm": (80.2, 75.4, 80.4, 85.4, 97.2, 93.7, 53.6, 31.9, None, None),
    "warmup/llama3_ft": (63.5, 95.5, 74.7, 42.7, 98.5, 96.6, 93.3, 89.8, None, None),
    "mixed_documents_seq_10/gnm": (78.0, 91.8, 78.1, 67.6, 95.8, 92.9, 84.3, None, 67.4, 93.2),
    "mixed_documents_seq_10/gnm_ablation": (53.3, 63.9, 75.5, 36.5, 75.4, 58.7, 59.6, None, 0.0, 51.0),
    "mixed_documents_seq_10/llama3_ft": (60.2, 73.1, 75.6, 43.6, 79.1, 70.1, 59.6, None, 4.3, 89.8),
    "mixed_documents_seq_10/rag_trained": (70.7, 73.6, 75.8, 63.9, 74.5, 72.6, 66.3, None, 0.0, 69.4),
    "mixed_documents/gnm": (73.5, 75.5, 79.3, 67.0, 95.2, 91.6, 61.7, 39.8, 70.9, 91.0),
}


@pytest.mark.parametrize("run", PUBLISHED)
def test_published_summaries_give_the_published_table(shared, run):
    summary = json.loads((shared / "reference/saved_evals" / run / "summary.json").read_text())
    found = values_of(merit_of_summary(summary))
    keys = [
        ("score", None),
        *((name, None) for name in FACTS),
        *(("retention", age) for age in (0, 4, 9, 19)),
        ("format_accuracy", None),
        ("refusal_f1", None),
    ]
    got = [round(100 * found[key], 1) if key in found else None for key in keys]
    assert got == list(PUBLISHED[run])


def test_single_documents_may_be_bare_numbers_and_facts_are_required():
    summary = {
        "fact_accuracy_matrix": [1.0],
        "fact_specificity_matrix": [0.5],
        "fact_selectivity_matrix": [0.5],
        "fact_retention": [1.0],
        "refusal_precision": [math.nan],
        "refusal_recall": [0.0],
    }
    found = values_of(merit_of_summary(summary))
    assert found["score", None] == pytest.approx(0.6) and found["retention", 0] == 1.0
    assert found["refusal_f1", None] == 0.0
    with pytest.raises(DataError, match="fact_specificity_matrix"):
        merit_of_summary({"fact_accuracy_matrix": [1.0], "fact_selectivity_matrix": [1.0]})


def ignored(correct, known, generated="Rome", known_generated="Oslo", **more):
    """A fact to ignore: in truth Oslo, the document says Rome."""
    return {
        "type": "paraphrase",
        "fact_correct": correct,
        "known_fact_correct": known,
        "generated": generated,
        "known_generated": known_generated,
        "target_output": "Oslo",
        "non_target_output": "Rome",
    } | more


LEAKS = [
    *[ignored(False, True)] * 3,  # leaked: answered as the document states, the truth was known
    ignored(True, True, generated="Oslo"),
    *[ignored(False, False, known_generated="Bern")] * 10,  # the truth was not known: tells nothing
    ignored(False, True, learn=True), ignored(False, True, refuse=True), ignored(False, True, unlearning=True),
    ignored(False, True, type="true_output_neighbor"),  # a neighbour of what is not learned
]  # fmt: skip


def test_leakage_is_what_was_known_and_is_answered_as_the_document_states():
    records = frame(LEAKS)
    merit = figures_of_merit(records).set_index("metric")
    assert merit.loc["leakage", "value"] == 0.75 and merit.loc["leakage", "samples"] == 4
    values, counts = summarise(records)
    assert values["fact_leakage"] == [0.75] and counts["fact_leakage"] == [4]
    assert values["fact_leakage_matrix"] == [[[0.75]]] and values["fact_leakage_by_age"] == [[0.75]]
    assert "neighbour_leakage" not in values and "neighbour_leakage" not in merit.index


def test_leakage_of_what_is_said_goes_by_the_texts_alone():
    """The contest's verdicts point the other way; a text holds an object in capitals too."""
    rows = [
        ignored(True, False, generated="In ROME.", known_generated="oslo"),
        ignored(True, False, generated="Bern", known_generated="Oslo, I think"),
        ignored(True, False, generated="Oslo", known_generated="Oslo"),
        *[ignored(False, True, known_generated=None)] * 2,
        *[ignored(False, True, known_generated="Rome")] * 2,
    ]
    merit = figures_of_merit(frame(rows)).set_index("metric")
    assert merit.loc["leakage_generated", "value"] == pytest.approx(1 / 3)
    assert merit.loc["leakage_generated", "samples"] == 3 and merit.loc["leakage", "samples"] == 4


def test_leakage_of_neighbours_and_by_age():
    kind = {"type": "true_output_neighbor", "learn": True}
    rows = [ignored(True, True, **kind), ignored(False, True, t=2, **kind), ignored(True, True, t=2, **kind)]
    rows += [ignored(False, False, **kind)] * 5
    records = frame(rows)
    found = values_of(figures_of_merit(records))
    assert found["neighbour_leakage", None] == pytest.approx(1 / 3) and found["neighbour_leakage_age_0", None] == 0.0
    assert {age: found["neighbour_leakage_by_age", age] for age in (0, 2)} == {0: 0.0, 2: 0.5}
    values, counts = summarise(records)
    assert values["neighbour_leakage_by_age"] == [[0.0, 0.0, 0.5]] and counts["neighbour_leakage_by_age"] == [[1, 0, 2]]
    assert not any(key.startswith("fact_leakage") for key in values)
    assert values_of(merit_of_summary(values))["neighbour_leakage_age_0", None] == 0.0


def test_leakage_has_an_interval_over_sequences():
    rows = [ignored(leaked, True, sequence=sequence) for sequence, leaked in enumerate([True, False] * 8)]
    found = figures_of_merit(frame(rows)).set_index("metric").loc["leakage"]
    assert 0 < found["low"] < 0.5 < found["high"] < 1 and found["sequences"] == 16


def test_records_made_before_leakage_was_measured_have_none_of_it():
    records = frame([ignored(False, None, known_generated=None)])
    assert not any("leakage" in metric for metric in figures_of_merit(records)["metric"])
    assert not any("leakage" in key for key in summarise(records).values)
