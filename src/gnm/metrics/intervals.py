"""Metrics with intervals, out of per-query records or of a summary.

Intervals resample whole sequences: the queries of a sequence share its documents and its memory, so they are not
independent. One draw serves all figures of a run.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import zip_longest
from typing import Any

import numpy as np
import pandas as pd

from gnm.errors import DataError
from gnm.metrics.bootstrap import interval, resampled, sequence_weights
from gnm.metrics.samples import FACTS, GROUPS, LEAKAGE, Samples, collect
from gnm.metrics.summary import LONGEST_MATRIX
from gnm.metrics.wilson import wilson

METRIC_COLUMNS = ["metric", "age", "value", "low", "high", "samples", "sequences"]


def metrics_of_records(
    records: pd.DataFrame, generator: np.random.Generator | None = None, resamples: int = 2000, level: float = 0.95
) -> pd.DataFrame:
    """Metrics with percentile intervals from a bootstrap over sequences.

    Returns a frame with columns METRIC_COLUMNS and one row for each metric and age. The metrics are shares in [0, 1]; a
    metric without samples is left out (q: the query's document, t: the last document written, age: t - q):
    - `accuracy`, `specificity`, `selectivity`: mean of the matrix cells with t >= q that have samples; `score`: their
      harmonic mean (`docs/protocol.md`, section 6). `*_age_0`: plain means right after writing, q = t.
    - `retention`: accuracy at each `age`.
    - `leakage`: takes the queries about facts to ignore that the method answers truly with nothing written. It is the
      share of these that it answers as the document states, over all ages. Less is better. `neighbour_leakage`: the
      same for neighbours. `*_age_0`: right after writing. `*_by_age`: at each `age`.
    - all these with `_generated`: judged by the generated text instead of the logits. An answer is then true if its
      text contains the true object, and leaks if its text contains the document's.
    - `unlearning_*`: the appended document. `forgotten_*`, `remaining_*`: after forgetting (`loop.forget`).
      `refusal_precision`, `_recall`, `_f1`, `_specificity`, `format_accuracy`, `_selectivity`.
    `samples` counts queries, `sequences` the sequences they come from. Fewer than two sequences give no interval. An
    interval of width 0 (all right, all wrong) says only that the sequences did not differ.
    `generator` defaults to `numpy.random.default_rng(0)`, so the same records give the same intervals.
    Raises DataError when there are no records.
    """
    if records.empty:
        raise DataError("there are no records to compute metrics from")
    generator = np.random.default_rng(0) if generator is None else generator
    sequences = np.unique(records["sequence"])
    weights = sequence_weights(len(sequences), generator, resamples)
    rows = []

    def add(metric: str, values: np.ndarray, parts: Sequence[Samples], age: int | None = None) -> None:
        seen = len(np.unique(np.concatenate([part.sequence for part in parts])))
        low, high = interval(values, seen, level)
        size = sum(len(part.value) for part in parts)
        rows.append((metric, age, float(values[0]), float(low), float(high), size, seen))

    def ratio(samples: Samples, cell: np.ndarray | None = None) -> np.ndarray:
        return resampled(samples, sequences, weights, cell)

    samples = collect(records)
    for suffix in ("", "_generated"):
        facts = [samples[name + suffix].where(samples[name + suffix].age >= 0) for name in FACTS]
        means = [ratio(part, part.q * (part.t.max() + 1) + part.t) if len(part.value) else None for part in facts]
        if all(mean is not None for mean in means):
            add(f"score{suffix}", harmonic_mean(means), facts)
        for name, part, mean in zip(FACTS, facts, means, strict=True):
            if mean is not None:
                add(f"{name}{suffix}", mean, [part])
        for name, part in zip(FACTS, facts, strict=True):
            fresh = part.fresh()
            if len(fresh.value):
                add(f"{name}_age_0{suffix}", ratio(fresh), [fresh])
        accuracy = facts[0]
        for age in np.unique(accuracy.age):
            part = accuracy.where(accuracy.age == age)
            add(f"retention{suffix}", ratio(part), [part], int(age))
        for name in LEAKAGE:
            part = samples[name + suffix].where(samples[name + suffix].age >= 0)
            if len(part.value):
                add(f"{name}{suffix}", ratio(part), [part])
            if len((fresh := part.fresh()).value):
                add(f"{name}_age_0{suffix}", ratio(fresh), [fresh])
            for age in np.unique(part.age):
                old = part.where(part.age == age)
                add(f"{name}_by_age{suffix}", ratio(old), [old], int(age))
        for name in (f"{group}_{name}{suffix}" for group in GROUPS[2:] for name in FACTS):
            if len(samples[name].value):
                add(name, ratio(samples[name]), [samples[name]])

    refusal = {name: samples[f"refusal_{name}"].fresh() for name in ("precision", "recall", "specificity")}
    found = {name: ratio(part) for name, part in refusal.items() if len(part.value)}
    if "recall" in found:
        precision = found.get("precision", np.zeros(len(weights)))
        add("refusal_f1", _f1(precision, found["recall"]), [refusal["precision"], refusal["recall"]])
    for name, values in found.items():
        add(f"refusal_{name}", values, [refusal[name]])
    for name, part in (
        ("accuracy", samples["format"].where(samples["format_age"].value == 0)),
        ("selectivity", samples["no_format"].fresh()),
    ):
        if len(part.value):
            add(f"format_{name}", ratio(part), [part])
    frame = pd.DataFrame(rows, columns=METRIC_COLUMNS)
    return frame.astype({"age": "Int64", "samples": "Int64", "sequences": "Int64"})


def metrics_of_summary(
    summary: Mapping[str, Sequence[Any]], epoch: int = -1, counts: Mapping[str, Sequence[Any]] | None = None
) -> pd.DataFrame:
    """The metrics that a summary gives: frame as `metrics_of_records`, `sequences` unknown.

    With its companion `counts` figures that are shares have Wilson's intervals, and cells without samples count for
    nothing. A question that is asked again after later documents is one sample, so that figures over all ages are not
    made too sure; that questions share documents is not seen. Combined figures (score, F1) have none.
    Without counts there are none at all, and every cell with t >= q counts, as in the published numbers: a summary
    alone does not tell an empty cell from one that is all wrong. A matrix of a sequence of one document may be a bare
    number (the published files do so).
    Raises DataError when the fact matrices are missing, or a figure is of another shape.
    """
    if missing := [key for key in (f"fact_{name}_matrix" for name in FACTS) if key not in summary]:
        raise DataError(
            f"the summary lacks {', '.join(missing)}: it is not an evaluation of facts, or one of more than "
            f"{LONGEST_MATRIX} documents, which needs its records.parquet"
        )

    def last(key: str, of: Mapping[str, Sequence[Any]] | None = summary, dimensions: int = 0) -> np.ndarray:
        entry = np.array(of[key][epoch] if of and key in of else math.nan, dtype=float)
        if entry.ndim > dimensions or len(set(entry.shape)) > 1:
            raise DataError(f"the summary's {key} is of shape {entry.shape}; it is not an evaluation of facts")
        return entry

    found = []
    for name in FACTS:
        matrix, size = (np.atleast_2d(last(f"fact_{name}_matrix", of, 2)) for of in (summary, counts))
        counted = not np.isnan(size).all()
        if counted and size.shape != matrix.shape:
            raise DataError(f"the counts of fact_{name}_matrix are of shape {size.shape}, the summary's {matrix.shape}")
        there = np.triu(size if counted else np.ones_like(matrix))
        mean = matrix[there > 0].mean() if (there > 0).any() else math.nan
        found.append((name, None, mean, there.max(axis=1).sum() if counts else math.nan))
    combined = [("score", harmonic_mean([mean for _, _, mean, _ in found]))]
    found += [(f"{name}_age_0", None, last(f"fact_{name}"), last(f"fact_{name}", counts)) for name in FACTS]
    lines = (np.atleast_1d(last("fact_retention", of, 1)) for of in (summary, counts))
    found += [("retention", age, *pair) for age, pair in enumerate(zip_longest(*lines, fillvalue=math.nan))]
    named = {f"{name}_age_0": key for name, key in LEAKAGE.items()}
    named |= {f"{group}_{name}": f"{group}_fact_{name}" for group in GROUPS[2:] for name in FACTS}
    named |= {
        key: key
        for key in (
            "refusal_precision",
            "refusal_recall",
            "refusal_specificity",
            "format_accuracy",
            "format_selectivity",
        )
    }
    found += [(name, None, last(key), last(key, counts)) for name, key in named.items()]
    combined.append(("refusal_f1", _f1(last("refusal_precision"), last("refusal_recall"))))
    rows = [(metric, None, float(value), math.nan, math.nan, pd.NA, pd.NA) for metric, value in combined]
    for metric, age, value, size in found:
        if size != 0:  # 0: an empty cell of a line
            known = 0 if math.isnan(size) else int(size)
            rows.append((metric, age, float(value), *wilson(float(value), known), known or pd.NA, pd.NA))
    frame = pd.DataFrame([row for row in rows if not math.isnan(row[2])], columns=METRIC_COLUMNS)
    return frame.astype({"age": "Int64", "samples": "Int64", "sequences": "Int64"})


def harmonic_mean(parts: Iterable[Any]) -> np.ndarray:
    """Harmonic mean over `parts`, numbers or arrays of one shape; 0 where a part is 0, NaN where one is NaN."""
    stacked = np.stack([np.asarray(part, dtype=float) for part in parts])
    with np.errstate(divide="ignore"):
        return len(stacked) / (1 / stacked).sum(axis=0)


def _f1(precision: np.ndarray, recall: np.ndarray) -> np.ndarray:
    """Harmonic mean of the two; 0 where nothing was refused, which leaves precision undefined and recall 0."""
    return harmonic_mean([np.nan_to_num(precision), recall])
