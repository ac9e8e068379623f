"""Intervals of figures, and the published summaries."""

import json
import math

import numpy as np
import pandas as pd
import pytest

from gnm.errors import DataError
from gnm.metrics import (
    FACTS,
    bootstrap_mean,
    metrics_of_records,
    metrics_of_summary,
)
from metric_records import frame, synthetic, values_of


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
        copied.append(values_of(metrics_of_records(pd.concat(parts), resamples=1)))
    metrics = metrics_of_records(records, np.random.default_rng(9), resamples=12)
    for line in metrics.itertuples():
        key = (line.metric, line.age if pd.notna(line.age) else None)
        low, high = np.percentile([figures[key] for figures in copied if key in figures], [2.5, 97.5])
        assert (line.low, line.high) == pytest.approx((low, high)), key


def test_interval_knows_that_queries_of_one_sequence_go_together():
    alike = metrics_of_records(synthetic(5, sequences=30, difficulty=0.0))
    varied = metrics_of_records(synthetic(5, sequences=30, difficulty=0.3))
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
    metrics = metrics_of_records(records).set_index("metric").loc["accuracy_age_0"]
    found = bootstrap_mean(some["fact_correct"].to_numpy(dtype=float), some["sequence"].to_numpy())
    assert found == pytest.approx((metrics["value"], metrics["low"], metrics["high"]))
    assert math.isnan(bootstrap_mean(np.ones(3), np.zeros(3, dtype=int))[1])
    with pytest.raises(DataError, match="no samples"):
        bootstrap_mean(np.ones(0), np.zeros(0, dtype=int))


def test_one_sequence_has_no_interval():
    metrics = metrics_of_records(synthetic(6, sequences=1))
    assert metrics["low"].isna().all() and metrics["high"].isna().all() and (metrics["sequences"] == 1).all()


def test_never_refusing_has_an_f1_of_zero():
    rows = [{"sequence": s, "type": "paraphrase", "should_refuse": s == 0, "refused": False} for s in range(2)]
    found = values_of(metrics_of_records(frame(rows)))
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
    found = values_of(metrics_of_summary(summary))
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
    found = values_of(metrics_of_summary(summary))
    assert found["score", None] == pytest.approx(0.6) and found["retention", 0] == 1.0
    assert found["refusal_f1", None] == 0.0
    with pytest.raises(DataError, match="fact_specificity_matrix"):
        metrics_of_summary({"fact_accuracy_matrix": [1.0], "fact_selectivity_matrix": [1.0]})
