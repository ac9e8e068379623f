"""From per-query records to the benchmark's summary and to figures of merit with intervals.

- Pure functions of the records, the same whatever their order: sums of verdicts are exact, other sums are rounded once.
- q is the index of the document that a query belongs to, t of the last one written; age is t - q.
- A row whose verdict is null is no sample. Cells of a matrix or line without samples are 0, plain means without
  samples are null, and the counts tell an empty cell from a wrong one. (The published tracker repeats the last
  epoch's matrix there; ours never looks at another epoch.)
- Rows after the appended document of an unlearning sequence enter the `unlearning_*` means, rows after something was
  forgotten the `forgotten_*` means if they are about that, else the `remaining_*` means; and the loss and the
  composition counts, nothing else.
- Intervals resample whole sequences: the queries of a sequence share its documents and its memory, so they are
  not independent. One draw serves all figures of a run.
"""

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from gnm.errors import DataError
from gnm.files import write_json

FACTS = ("accuracy", "specificity", "selectivity")
GROUPS = ("formats", "refusals", "unlearning", "forgotten", "remaining")
MERIT_COLUMNS = ["metric", "age", "value", "low", "high", "samples", "sequences"]


class Summary(NamedTuple):
    """`values`: the protocol's keys (section 6), each a list with one entry per epoch. `counts`: the same keys and
    shapes, holding how many samples each mean has."""

    values: dict[str, list[Any]]
    counts: dict[str, list[Any]]


@dataclass(frozen=True, slots=True)
class _Samples:
    """Values with their places; all arrays [N]."""

    value: np.ndarray
    sequence: np.ndarray
    q: np.ndarray
    t: np.ndarray

    def where(self, keep: np.ndarray) -> "_Samples":
        return _Samples(self.value[keep], self.sequence[keep], self.q[keep], self.t[keep])

    @property
    def age(self) -> np.ndarray:
        return self.t - self.q

    def fresh(self) -> "_Samples":
        return self.where(self.q == self.t)


def summarise(records: pd.DataFrame, sequence_length: int | None = None,
              groups: Collection[str] | None = None) -> Summary:
    """Summary of one evaluation, one entry a key.

    `sequence_length` n sizes lines [n] and matrices [n][n], indexed [q][t]; by default it is what the records reach.
    `groups` names the key families to report besides facts (GROUPS); by default those
    the records have verdicts for. Raises DataError for rows beyond `sequence_length` or an unknown group.
    """
    samples = _collect(records)
    groups = _present(samples) if groups is None else groups
    if unknown := set(groups) - set(GROUPS):
        raise DataError(f"unknown metric groups {sorted(unknown)}; known: {', '.join(GROUPS)}")
    stream = records[~np.logical_or.reduce([_flag(records, name) for name in GROUPS[2:]])]
    reach = max(int(stream[["q", "t"]].max().max()) + 1, 1) if len(stream) else 1
    n = reach if sequence_length is None else sequence_length
    if reach > n:
        raise DataError(f"records reach document {reach - 1}, but the sequences are {n} documents long")

    entries: dict[str, tuple[Any, Any]] = {}
    for name in FACTS:
        entries[f"fact_{name}"] = _mean(samples[name].fresh())
        entries[f"fact_{name}_matrix"] = _matrix(samples[name], n)
    entries["fact_retention"] = _by_age(samples["accuracy"], n)
    fresh = samples["accuracy"].fresh()
    entries["fact_accuracy_over_time"] = _line(fresh, fresh.t, n)
    if "formats" in groups:
        by_age = _line(samples["format"], samples["format_age"].value.astype(int), n)
        entries["format_accuracy"] = _mean(samples["format"].where(samples["format_age"].value == 0))
        entries["format_retention"] = by_age
        entries["format_accuracy_matrix"] = _matrix(samples["format"], n)
        entries["format_selectivity"] = _mean(samples["no_format"].fresh())
        entries["format_selectivity_matrix"] = _matrix(samples["no_format"], n)
    if "refusals" in groups:
        for name in ("accuracy", "recall", "precision", "specificity"):
            entries[f"refusal_{name}"] = _mean(samples[f"refusal_{name}"].fresh())
        for name in ("recall", "precision"):
            entries[f"refusal_{name}_over_time"] = _by_age(samples[f"refusal_{name}"], n)
            entries[f"refusal_{name}_matrix"] = _matrix(samples[f"refusal_{name}"], n)
    for group in GROUPS[2:]:
        for name in FACTS if group in groups else ():
            entries[f"{group}_fact_{name}"] = _mean(samples[f"{group}_{name}"])
    entries["loss"] = _loss(records)
    entries["flops_per_token"] = _line(samples["flops"], samples["flops"].t, n)
    for name, wanted in (("compositions", True), ("non_compositions", False)):
        count = int((records["composition"].astype("boolean") == wanted).sum())
        entries[name] = (float(count), count)
    return Summary({key: [value] for key, (value, _) in entries.items()},
                   {key: [count] for key, (_, count) in entries.items()})


def join_epochs(epochs: Sequence[Summary | None]) -> Summary:
    """One summary whose lists have an entry an epoch; an epoch that was not logged, or lacks a key, is null there."""
    keys = dict.fromkeys(key for epoch in epochs if epoch for key in epoch.values)
    return Summary(*({key: [part(epoch).get(key, [None])[-1] if epoch else None for epoch in epochs] for key in keys}
                     for part in (lambda epoch: epoch.values, lambda epoch: epoch.counts)))


def write_summary(folder: str | Path, summary: Summary) -> None:
    """Write `summary.json` and its companion `counts.json` into `folder`."""
    write_json(Path(folder) / "summary.json", summary.values)
    write_json(Path(folder) / "counts.json", summary.counts)


def figures_of_merit(records: pd.DataFrame, generator: np.random.Generator | None = None, resamples: int = 2000,
                     level: float = 0.95) -> pd.DataFrame:
    """Figures of merit with percentile intervals from a bootstrap over sequences.

    Returns a frame with columns MERIT_COLUMNS, a row a figure; figures without samples are left out:
    - `accuracy`, `specificity`, `selectivity`: mean of the matrix cells with t >= q that have samples; `score`: their
      harmonic mean (protocol, section 6). `*_age_0`: plain means right after writing, q = t.
    - `retention` at each `age`: accuracy of queries asked `age` documents after their own.
    - the same with `_generated`: judged by the generated text instead of the logits.
    - `unlearning_*` · `forgotten_*` · `remaining_*` · `refusal_precision`, `_recall`, `_f1`, `_specificity` ·
      `format_accuracy`, `_selectivity`.
    `samples` counts queries, `sequences` the sequences they come from. Fewer than two sequences give no interval;
    an interval of width 0 (all right, all wrong) says only that the sequences did not differ.
    `generator` defaults to `numpy.random.default_rng(0)`, so the same records give the same intervals.
    Raises DataError when there are no records.
    """
    if records.empty:
        raise DataError("there are no records to compute figures of merit from")
    generator = np.random.default_rng(0) if generator is None else generator
    sequences = np.unique(records["sequence"])
    weights = _weights(len(sequences), generator, resamples)
    rows = []

    def add(metric: str, values: np.ndarray, parts: Sequence[_Samples], age: int | None = None) -> None:
        seen = len(np.unique(np.concatenate([part.sequence for part in parts])))
        low, high = _interval(values, seen, level)
        size = sum(len(part.value) for part in parts)
        rows.append((metric, age, float(values[0]), float(low), float(high), size, seen))

    def ratio(samples: _Samples, cell: np.ndarray | None = None) -> np.ndarray:
        return _resampled(samples, sequences, weights, cell)

    samples = _collect(records)
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
    for name, part in (("accuracy", samples["format"].where(samples["format_age"].value == 0)),
                       ("selectivity", samples["no_format"].fresh())):
        if len(part.value):
            add(f"format_{name}", ratio(part), [part])
    frame = pd.DataFrame(rows, columns=MERIT_COLUMNS)
    return frame.astype({"age": "Int64", "samples": "Int64", "sequences": "Int64"})


def bootstrap_mean(value: np.ndarray, sequence: np.ndarray, generator: np.random.Generator | None = None,
                   resamples: int = 2000, level: float = 0.95) -> tuple[float, float, float]:
    """Mean of samples [N], and the ends of its interval from a bootstrap over their sequences [N] (any whole numbers).

    Defaults, and what fewer than two sequences give, as in `figures_of_merit`. Raises DataError without samples.
    """
    if not len(value):
        raise DataError("there are no samples to take a mean of")
    generator = np.random.default_rng(0) if generator is None else generator
    sequences, nowhere = np.unique(sequence), np.zeros(len(value), dtype=np.int64)
    samples = _Samples(np.asarray(value, dtype=float), np.asarray(sequence), nowhere, nowhere)
    values = _resampled(samples, sequences, _weights(len(sequences), generator, resamples))
    return float(values[0]), *_interval(values, len(sequences), level)


def merit_of_summary(summary: Mapping[str, Sequence[Any]], epoch: int = -1) -> pd.DataFrame:
    """The figures of merit that a summary alone gives: frame as `figures_of_merit`, without intervals and counts.

    A summary does not tell an empty cell from one that is all wrong, so every cell with t >= q counts, as in the
    published numbers. A matrix of a sequence of one document may be a bare number (the published files do so).
    Raises DataError when the fact matrices are missing.
    """
    if missing := [key for key in (f"fact_{name}_matrix" for name in FACTS) if key not in summary]:
        raise DataError(f"the summary lacks {', '.join(missing)}; it is not an evaluation of facts")

    def last(key: str) -> np.ndarray:
        return np.array(summary[key][epoch] if key in summary else math.nan, dtype=float)

    means = []
    for name in FACTS:
        matrix = np.atleast_2d(last(f"fact_{name}_matrix"))
        means.append(matrix[np.triu_indices(len(matrix))].mean())
    found = [("score", None, float(harmonic_mean(means))), *((n, None, m) for n, m in zip(FACTS, means, strict=True))]
    found += [(f"{name}_age_0", None, last(f"fact_{name}")) for name in FACTS]
    found += [("retention", age, value) for age, value in enumerate(np.atleast_1d(last("fact_retention")))]
    found += [(f"{group}_{name}", None, last(f"{group}_fact_{name}")) for group in GROUPS[2:] for name in FACTS]
    found.append(("refusal_f1", None, _f1(last("refusal_precision"), last("refusal_recall"))))
    found += [(key, None, last(key)) for key in ("refusal_precision", "refusal_recall", "refusal_specificity",
                                                 "format_accuracy", "format_selectivity")]
    rows = [(metric, age, float(value), math.nan, math.nan, pd.NA, pd.NA) for metric, age, value in found
            if not math.isnan(value)]
    frame = pd.DataFrame(rows, columns=MERIT_COLUMNS)
    return frame.astype({"age": "Int64", "samples": "Int64", "sequences": "Int64"})


def harmonic_mean(parts: Iterable[Any]) -> np.ndarray:
    """Harmonic mean over `parts`, numbers or arrays of one shape; 0 where a part is 0, NaN where one is NaN."""
    stacked = np.stack([np.asarray(part, dtype=float) for part in parts])
    with np.errstate(divide="ignore"):
        return len(stacked) / (1 / stacked).sum(axis=0)


def _f1(precision: np.ndarray, recall: np.ndarray) -> np.ndarray:
    """Harmonic mean of the two; 0 where nothing was refused, which leaves precision undefined and recall 0."""
    return harmonic_mean([np.nan_to_num(precision), recall])


def _collect(records: pd.DataFrame) -> dict[str, _Samples]:
    """Every measure's samples."""
    paraphrase = (records["type"] == "paraphrase").to_numpy()
    neighbour = (records["type"] == "true_output_neighbor").to_numpy()
    learn, refuse = _flag(records, "learn"), _flag(records, "refuse")
    unlearning, forgotten, remaining = (_flag(records, name) for name in GROUPS[2:])
    should, spared = _flag(records, "should_refuse"), _flag(records, "neighbor_of_should_refuse")
    q, t, sequence = (records[name].to_numpy(dtype=np.int64) for name in ("q", "t", "sequence"))
    stream = ~unlearning & ~forgotten & ~remaining

    def column(name: str) -> np.ndarray:
        return records[name].astype("Float64").to_numpy(dtype=float, na_value=math.nan)

    def take(value: np.ndarray, rows: np.ndarray) -> _Samples:
        rows = rows & ~np.isnan(value)
        return _Samples(value[rows], sequence[rows], q[rows], t[rows])

    facts = {"accuracy": paraphrase & learn, "specificity": neighbour & learn,
             "selectivity": paraphrase & ~learn & ~refuse}
    samples = {}
    for suffix, verdict in (("", column("fact_correct")), ("_generated", column("generated_correct"))):
        for name, rows in facts.items():
            samples[name + suffix] = take(verdict, rows & stream)
            turned = rows & unlearning & (q == t) & ~forgotten & ~remaining
            samples[f"unlearning_{name}{suffix}"] = take(verdict, turned)
            samples[f"forgotten_{name}{suffix}"] = take(verdict, rows & forgotten)
            samples[f"remaining_{name}{suffix}"] = take(verdict, rows & remaining)
    in_format, age = column("format_correct"), column("format_age")
    dated = stream & (q <= t) & ~np.isnan(age) & ~np.isnan(in_format)
    samples["format"], samples["format_age"] = take(in_format, dated), take(age, dated)
    samples["no_format"] = take(in_format, stream & (q <= t) & records["format_expected"].isna().to_numpy())
    refused = column("refused")
    samples["refusal_accuracy"] = take(np.where(np.isnan(refused), math.nan, refused == should), paraphrase & stream)
    samples["refusal_recall"] = take(refused, paraphrase & stream & should)
    samples["refusal_precision"] = take(should.astype(float), paraphrase & stream & (refused == 1))
    samples["refusal_specificity"] = take(1 - refused, neighbour & stream & spared)
    samples["flops"] = take(column("flops_per_token"), stream)
    return samples


def _present(samples: Mapping[str, _Samples]) -> list[str]:
    families = {"formats": ("format", "no_format"), "refusals": ("refusal_accuracy", "refusal_specificity"),
                **{group: [f"{group}_{name}" for name in FACTS] for group in GROUPS[2:]}}
    return [group for group, names in families.items() if any(len(samples[name].value) for name in names)]


def _flag(records: pd.DataFrame, name: str) -> np.ndarray:
    return records[name].astype("boolean").to_numpy(dtype=bool, na_value=False)


def _mean(samples: _Samples) -> tuple[float | None, int]:
    count = len(samples.value)
    return (math.fsum(samples.value) / count if count else None), count


def _line(samples: _Samples, index: np.ndarray, n: int) -> tuple[list[float], list[int]]:
    cells = [_mean(samples.where(index == i)) for i in range(n)]
    return [mean or 0.0 for mean, _ in cells], [count for _, count in cells]


def _by_age(samples: _Samples, n: int) -> tuple[list[float], list[int]]:
    return _line(samples, samples.age, n)


def _matrix(samples: _Samples, n: int) -> tuple[list[list[float]], list[list[int]]]:
    lines = [_line(row, row.t, n) for row in (samples.where(samples.q == q) for q in range(n))]
    return [means for means, _ in lines], [counts for _, counts in lines]


def _loss(records: pd.DataFrame) -> tuple[float | None, int]:
    """Mean over all answer tokens, so that it does not depend on how queries were batched."""
    tokens = records["num_answer_tokens"].astype("Int64").fillna(0)
    scored = (tokens > 0).to_numpy()
    count = int(tokens.sum())
    return (math.fsum(records["nll"].astype(float)[scored]) / count if count else None), count


def _weights(total: int, generator: np.random.Generator, resamples: int) -> np.ndarray:
    """Rows of weights of `total` sequences: all of them once, then one row a resample; [1 + resamples, total]."""
    draws = generator.multinomial(total, np.full(total, 1 / total), size=resamples)
    return np.vstack([np.ones((1, total)), draws])


def _interval(values: np.ndarray, seen: int, level: float) -> tuple[float, float]:
    """Percentile interval of what the resamples gave (all of `values` but the first); NaN for fewer than two seen."""
    known, tail = values[1:][~np.isnan(values[1:])], 100 * (1 - level) / 2
    if seen < 2 or not len(known):
        return math.nan, math.nan
    low, high = np.percentile(known, [tail, 100 - tail])
    return float(low), float(high)


def _resampled(samples: _Samples, sequences: np.ndarray, weights: np.ndarray,
               cell: np.ndarray | None = None) -> np.ndarray:
    """Mean over cells of each cell's mean, under every row of sequence weights; [R, S] weights give [R].

    Cells that a resample leaves empty are passed over; a resample without any sample gives NaN.
    """
    row = np.searchsorted(sequences, samples.sequence)
    names, column = np.unique(np.zeros_like(row) if cell is None else cell, return_inverse=True)
    sums, counts = (np.zeros((len(sequences), len(names))) for _ in range(2))
    np.add.at(sums, (row, column), samples.value)
    np.add.at(counts, (row, column), 1)
    weighted_sums, weighted_counts = weights @ sums, weights @ counts
    filled = weighted_counts > 0
    means = np.where(filled, weighted_sums / np.where(filled, weighted_counts, 1), 0)
    with np.errstate(invalid="ignore"):
        return means.sum(axis=1) / filled.sum(axis=1)
