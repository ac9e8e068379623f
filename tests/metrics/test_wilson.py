"""Metrics from a summary and its counts: the records' values, and intervals that are not too sure."""

import pandas as pd
import pytest

from gnm.errors import DataError
from gnm.metrics import metrics_of_records, metrics_of_summary, summarise
from gnm.metrics.records import records_frame
from gnm.metrics.wilson import wilson


def row(sequence, q, t, fact, correct, learn=True):
    """A paraphrase of a fact to learn, or to leave out, asked about document q after document t."""
    return {"sequence": sequence, "q": q, "t": t, "fact_id": fact, "type": "paraphrase", "subcategory": "religion",
            "learn": learn, "refuse": False, "should_refuse": False, "neighbor_of_should_refuse": False,
            "composition": False, "unlearning": False, "forgotten": False, "remaining": False, "input": "a",
            "target_output": "b", "non_target_output": "c", "generated": "b", "fact_correct": correct, "nll": 1.0,
            "num_answer_tokens": 1}  # fmt: skip


def test_a_question_that_is_asked_again_is_one_sample_and_empty_cells_count_for_nothing():
    rows = [row(s, 0, t, fact, t < 2 if fact else s > 0) for s in range(3) for t in range(3) for fact in (0, 1)]
    rows += [row(s, 2, 2, 5, s == 0, learn=False) for s in range(3)]
    records = records_frame(rows)
    summary = summarise(records)
    full = metrics_of_records(records)
    short = metrics_of_summary(summary.values, counts=summary.counts)
    expected = full[~full["metric"].str.contains("generated")].set_index(["metric", "age"])["value"]
    pd.testing.assert_series_equal(short.set_index(["metric", "age"])["value"].sort_index(), expected.sort_index())
    own = short.set_index(["metric", "age"]).loc[("accuracy", pd.NA)]
    assert full.set_index("metric").loc["accuracy", "samples"] == 18 and own["samples"] == 6
    assert (own["low"], own["high"]) == pytest.approx(wilson(own["value"], 6))
    assert short["sequences"].isna().all()


def test_combined_figures_and_a_summary_alone_have_no_intervals():
    summary = summarise(records_frame([row(s, 0, 0, 0, s > 0) for s in range(3)]))
    assert metrics_of_summary(summary.values)["low"].isna().all()
    some = {**summary.counts, "fact_retention": [[0]]}
    assert "retention" not in set(metrics_of_summary(summary.values, counts=some)["metric"])


def test_wilson_is_the_formula_and_stays_a_share():
    assert wilson(0.8, 10) == pytest.approx((0.4902, 0.9433), abs=5e-4)
    assert wilson(0.0, 4)[0] == 0 and wilson(1.0, 4)[1] == pytest.approx(1)
    low, high = wilson(0.5, 0)
    assert low != low and high != high  # NaN: nothing is known


@pytest.mark.parametrize("share", [-0.01, 1.01, 1000.0, float("inf")])
def test_what_is_no_share_has_no_interval(share):
    with pytest.raises(DataError, match="is not from 0 to 1"):
        wilson(share, 10)
    assert wilson(1 + 1e-12, 10) == pytest.approx(wilson(1.0, 10))  # rounding
