"""Leakage: what was to be left out and is answered as the document states."""

import pytest

from gnm.metrics import (
    metrics_of_records,
    metrics_of_summary,
    summarise,
)
from metric_records import frame, values_of


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
    metrics = metrics_of_records(records).set_index("metric")
    assert metrics.loc["leakage", "value"] == 0.75 and metrics.loc["leakage", "samples"] == 4
    values, counts = summarise(records)
    assert values["fact_leakage"] == [0.75] and counts["fact_leakage"] == [4]
    assert values["fact_leakage_matrix"] == [[[0.75]]] and values["fact_leakage_by_age"] == [[0.75]]
    assert "neighbour_leakage" not in values and "neighbour_leakage" not in metrics.index


def test_leakage_of_what_is_said_goes_by_the_texts_alone():
    """The contest's verdicts point the other way; a text holds an object in capitals too."""
    rows = [
        ignored(True, False, generated="In ROME.", known_generated="oslo"),
        ignored(True, False, generated="Bern", known_generated="Oslo, I think"),
        ignored(True, False, generated="Oslo", known_generated="Oslo"),
        *[ignored(False, True, known_generated=None)] * 2,
        *[ignored(False, True, known_generated="Rome")] * 2,
    ]
    metrics = metrics_of_records(frame(rows)).set_index("metric")
    assert metrics.loc["leakage_generated", "value"] == pytest.approx(1 / 3)
    assert metrics.loc["leakage_generated", "samples"] == 3 and metrics.loc["leakage", "samples"] == 4


def test_leakage_of_neighbours_and_by_age():
    kind = {"type": "true_output_neighbor", "learn": True}
    rows = [ignored(True, True, **kind), ignored(False, True, t=2, **kind), ignored(True, True, t=2, **kind)]
    rows += [ignored(False, False, **kind)] * 5
    records = frame(rows)
    found = values_of(metrics_of_records(records))
    assert found["neighbour_leakage", None] == pytest.approx(1 / 3) and found["neighbour_leakage_age_0", None] == 0.0
    assert {age: found["neighbour_leakage_by_age", age] for age in (0, 2)} == {0: 0.0, 2: 0.5}
    values, counts = summarise(records)
    assert values["neighbour_leakage_by_age"] == [[0.0, 0.0, 0.5]] and counts["neighbour_leakage_by_age"] == [[1, 0, 2]]
    assert not any(key.startswith("fact_leakage") for key in values)
    assert values_of(metrics_of_summary(values))["neighbour_leakage_age_0", None] == 0.0


def test_leakage_has_an_interval_over_sequences():
    rows = [ignored(leaked, True, sequence=sequence) for sequence, leaked in enumerate([True, False] * 8)]
    found = metrics_of_records(frame(rows)).set_index("metric").loc["leakage"]
    assert 0 < found["low"] < 0.5 < found["high"] < 1 and found["sequences"] == 16


def test_records_made_before_leakage_was_measured_have_none_of_it():
    records = frame([ignored(False, None, known_generated=None)])
    assert not any("leakage" in metric for metric in metrics_of_records(records)["metric"])
    assert not any("leakage" in key for key in summarise(records).values)
