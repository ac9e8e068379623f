"""Measures by cell of the matrix, by age and by t, tidy: what heatmaps, lines and grouped bars are drawn from.

- From records, intervals are from a bootstrap over sequences; from a summary with counts, Wilson's; from a summary
  alone there are none, and the frame's column `interval` says which.
- A group's value is the mean of its samples. A summary alone does not say how many samples a cell has: there it is
  the mean of the cells with t >= q, as in the published numbers.
- The score is the harmonic mean of its three parts. A summary with counts gives it without an interval.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from gnm.analysis.saved import SavedEvaluation
from gnm.errors import DataError
from gnm.metrics import harmonic_mean
from gnm.metrics.bootstrap import interval, sequence_weights
from gnm.metrics.samples import Samples, collect
from gnm.metrics.wilson import wilson

COLUMNS = ["method", "measure", "q", "t", "age", "value", "low", "high", "samples", "sequences", "interval"]
PARTS = ("accuracy", "specificity", "selectivity")
COMBINED = {"score": PARTS, "refusal_f1": ("refusal_precision", "refusal_recall")}
_RESAMPLES, _LEVEL = 2000, 0.95


class Place(NamedTuple):
    """Where a measure is found: its samples' name, its matrix and its line by age in a summary."""

    samples: str
    matrix: str
    by_age: str


MEASURES = {
    "accuracy": Place("accuracy", "fact_accuracy_matrix", "fact_retention"),
    "specificity": Place("specificity", "fact_specificity_matrix", ""),
    "selectivity": Place("selectivity", "fact_selectivity_matrix", ""),
    "leakage": Place("leakage", "fact_leakage_matrix", "fact_leakage_by_age"),
    "neighbour_leakage": Place("neighbour_leakage", "neighbour_leakage_matrix", "neighbour_leakage_by_age"),
    "format_accuracy": Place("format", "format_accuracy_matrix", "format_retention"),
    "refusal_precision": Place("refusal_precision", "refusal_precision_matrix", "refusal_precision_over_time"),
    "refusal_recall": Place("refusal_recall", "refusal_recall_matrix", "refusal_recall_over_time"),
}


class Found(NamedTuple):
    """One measure of one evaluation by group: [R, groups] values (row 0 the measured, others resamples), and counts."""

    values: np.ndarray
    samples: np.ndarray
    sequences: np.ndarray
    interval: str


def measure_frame(evaluations: Mapping[str, SavedEvaluation], measures: Sequence[str], by: str) -> pd.DataFrame:
    """Measures of every method, columns COLUMNS; `by` is "cell", "age" or "t" (all documents written up to then).

    Groups without samples and measures that a method lacks are left out. Raises DataError for an unknown measure or
    grouping, and when no method has any of the measures.
    """
    if unknown := [name for name in measures if name not in {**MEASURES, **COMBINED}]:
        raise DataError(f"unknown measures {', '.join(unknown)}; known: {', '.join([*MEASURES, *COMBINED])}")
    if by not in ("cell", "age", "t"):
        raise DataError(f"measures go by cell, age or t, not by {by!r}")
    rows = []
    single = {part: MEASURES[part] for name in measures for part in COMBINED.get(name, (name,))}
    for method, evaluation in evaluations.items():
        records = evaluation.records
        found = _of_summary(evaluation, single, by) if records is None else _of_records(records, single, by)
        size = next((math.isqrt(each.values.shape[1]) for each in found.values()), 0)
        for name in measures:
            each = _combined(found, name)
            for group in [] if each is None else np.flatnonzero(~np.isnan(each.values[0])):
                q, t = divmod(int(group), size) if by == "cell" else (None, int(group) if by == "t" else None)
                rows.append(
                    (
                        method,
                        name,
                        q,
                        t,
                        int(group) if by == "age" else t - q if by == "cell" else None,
                        *_one(each, group),
                    )
                )
    if not rows:
        raise DataError(f"no evaluation has {', '.join(measures)} by {by}")
    whole = dict.fromkeys(("q", "t", "age", "samples", "sequences"), "Int64")
    return pd.DataFrame(rows, columns=COLUMNS).astype(whole)


def _of_records(records: pd.DataFrame, places: Mapping[str, Place], by: str) -> dict[str, Found]:
    samples = collect(records)
    sequences = np.unique(records["sequence"])
    weights = sequence_weights(len(sequences), np.random.default_rng(0), _RESAMPLES)
    n = int(records[["q", "t"]].max().max()) + 1
    found = {}
    for name, place in places.items():
        part = samples[place.samples]
        age = samples["format_age"].value.astype(int) if name == "format_accuracy" else part.age
        group = {"cell": part.q * n + part.t, "age": age, "t": part.t}[by]
        keep = part.age >= 0
        if keep.any():
            total = n * n if by == "cell" else n
            found[name] = _grouped(part.where(keep), group[keep], total, sequences, weights)
    return found


def _grouped(samples: Samples, group: np.ndarray, total: int, sequences: np.ndarray, weights: np.ndarray) -> Found:
    row = np.searchsorted(sequences, samples.sequence)
    sums, counts = np.zeros((2, len(sequences), total))
    np.add.at(sums, (row, group), samples.value)
    np.add.at(counts, (row, group), 1)
    with np.errstate(invalid="ignore"):
        values = (weights @ sums) / (weights @ counts)
    return Found(values, counts.sum(axis=0), (counts > 0).sum(axis=0), "bootstrap")


def _of_summary(evaluation: SavedEvaluation, places: Mapping[str, Place], by: str) -> dict[str, Found]:
    summary, counts, folder = evaluation.summary, evaluation.counts, evaluation.folder
    facts = _last(folder, summary, MEASURES["accuracy"].matrix, 2)
    reach = None if facts is None else len(facts)  # some published lines are longer than their matrix
    found = {}
    for name, place in places.items():
        from_line = by == "age" and place.by_age in summary
        value = _last(folder, summary, place.by_age if from_line else place.matrix, 1 if from_line else 2)
        if value is None:
            continue
        count = (
            None if counts is None else _last(folder, counts, place.by_age if from_line else place.matrix, value.ndim)
        )
        if count is not None and count.shape != value.shape:
            raise DataError(f"{folder}: summary.json and counts.json differ in the shape of {name}")
        if reach is not None and (len(value) < reach or len(value) > reach and not from_line):
            raise DataError(f"{folder}: {name} is of {len(value)} documents, accuracy of {reach}")
        value, count = value[:reach], None if count is None else count[:reach]
        size = np.ones_like(value) if count is None else count
        total, weighted = (_pooled(each, by, from_line) for each in (size, size * value))
        with np.errstate(invalid="ignore"):
            means = (weighted / total)[None]
        known = np.zeros_like(total) if count is None else total
        found[name] = Found(means, known, np.zeros_like(total), "none" if count is None else "wilson")
    return found


def _pooled(matrix: np.ndarray, by: str, from_line: bool) -> np.ndarray:
    """Sums of the cells of every group; cells below the diagonal (asked before they were written) belong to none."""
    if from_line:
        return matrix
    upper = np.triu(matrix)
    if by == "cell":
        return upper.flatten()
    return upper.sum(axis=0) if by == "t" else np.array([np.diagonal(upper, k).sum() for k in range(len(upper))])


def _last(folder: Path, summary: Mapping[str, Sequence[Any]], key: str, dimensions: int) -> np.ndarray | None:
    """The last epoch's entry; a bare number, as in published sequences of one document, is a line or matrix of one.

    Raises DataError for a matrix that is not square, or a line that is none.
    """
    entry = summary.get(key, [None])[-1]
    found = None if entry is None else np.array(entry, dtype=float, ndmin=dimensions)
    if found is not None and (found.ndim > dimensions or len(set(found.shape)) > 1):
        raise DataError(f"{folder}: the summary's {key} is of shape {found.shape}; it is not an evaluation of facts")
    return found


def _combined(found: Mapping[str, Found], name: str) -> Found | None:
    parts = [found.get(part) for part in COMBINED.get(name, (name,))]
    if name == "refusal_f1" and parts[0] is None and parts[1] is not None:  # nothing was refused
        parts[0] = parts[1]._replace(values=np.zeros_like(parts[1].values))
    if any(part is None for part in parts):
        return None
    if len(parts) == 1:
        return parts[0]
    values = [part.values for part in parts]
    if name == "refusal_f1":
        values[0] = np.where(np.isnan(values[0]) & ~np.isnan(values[1]), 0, values[0])
    kind = "bootstrap" if parts[0].interval == "bootstrap" else "none"
    return Found(
        harmonic_mean(values),
        sum(part.samples for part in parts),
        np.max([part.sequences for part in parts], axis=0),
        kind,
    )


def _one(found: Found, group: int) -> tuple[float, float, float, float | None, float | None, str]:
    value, samples, seen = float(found.values[0, group]), int(found.samples[group]), int(found.sequences[group])
    low, high = math.nan, math.nan
    if found.interval == "bootstrap":
        low, high = interval(found.values[:, group], seen, _LEVEL)
    elif found.interval == "wilson":
        low, high = wilson(value, samples)
    kind = "none" if math.isnan(low) else found.interval
    return value, low, high, samples or None, seen or None, kind
