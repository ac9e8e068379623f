"""From per-query records to the benchmark's summary (protocol, section 6).

- Pure functions of the records, the same whatever their order: sums of verdicts are exact, other sums are rounded once.
- q is the index of the document that a query belongs to, t of the last one written; age is t - q.
- Cells of a matrix or line without samples are 0, plain means without samples are null, and the counts tell an empty
  cell from a wrong one. (The published tracker repeats the last epoch's matrix there; ours never looks at another
  epoch.)
- The loss and the composition counts take all rows, also those after something was turned round or forgotten.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from gnm.errors import DataError
from gnm.files import write_json
from gnm.metrics.samples import FACTS, GROUPS, LEAKAGE, Samples, collect, flag

LONGEST_MATRIX = 100
"""Documents of a sequence up to which there are matrices. Of longer ones records.parquet tells each cell."""


class Summary(NamedTuple):
    """`values`: the protocol's keys (section 6), each a list with one entry per epoch. `counts`: the same keys and
    shapes, holding how many samples each mean has."""

    values: dict[str, list[Any]]
    counts: dict[str, list[Any]]


def summarise(
    records: pd.DataFrame, sequence_length: int | None = None, groups: Collection[str] | None = None
) -> Summary:
    """Summary of one evaluation, one entry a key.

    `sequence_length` n sizes lines [n] and matrices [n][n], indexed [q][t]; by default it is what the records reach.
    There are no matrices if n is above LONGEST_MATRIX.
    `groups` names the key families to report besides facts (GROUPS); by default those
    the records have verdicts for. Raises DataError for rows beyond `sequence_length` or an unknown group.
    """
    samples = collect(records)
    groups = _present(samples) if groups is None else groups
    if unknown := set(groups) - set(GROUPS):
        raise DataError(f"unknown metric groups {sorted(unknown)}; known: {', '.join(GROUPS)}")
    stream = records[~np.logical_or.reduce([flag(records, name) for name in GROUPS[2:]])]
    reach = max(int(stream[["q", "t"]].max().max()) + 1, 1) if len(stream) else 1
    n = reach if sequence_length is None else sequence_length
    if reach > n:
        raise DataError(f"records reach document {reach - 1}, but the sequences are {n} documents long")

    entries: dict[str, tuple[Any, Any]] = {}

    def add_matrix(key: str, cells: Samples) -> None:
        if n <= LONGEST_MATRIX:
            entries[key] = _matrix(cells, n)

    for name in FACTS:
        entries[f"fact_{name}"] = _mean(samples[name].fresh())
        add_matrix(f"fact_{name}_matrix", samples[name])
    entries["fact_retention"] = _by_age(samples["accuracy"], n)
    fresh = samples["accuracy"].fresh()
    entries["fact_accuracy_over_time"] = _line(fresh, fresh.t, n)
    for name, key in LEAKAGE.items():
        if len(samples[name].value):
            entries[key] = _mean(samples[name].fresh())
            add_matrix(f"{key}_matrix", samples[name])
            entries[f"{key}_by_age"] = _by_age(samples[name], n)
    if "formats" in groups:
        by_age = _line(samples["format"], samples["format_age"].value.astype(int), n)
        entries["format_accuracy"] = _mean(samples["format"].where(samples["format_age"].value == 0))
        entries["format_retention"] = by_age
        add_matrix("format_accuracy_matrix", samples["format"])
        entries["format_selectivity"] = _mean(samples["no_format"].fresh())
        add_matrix("format_selectivity_matrix", samples["no_format"])
    if "refusals" in groups:
        for name in ("accuracy", "recall", "precision", "specificity"):
            entries[f"refusal_{name}"] = _mean(samples[f"refusal_{name}"].fresh())
        for name in ("recall", "precision"):
            entries[f"refusal_{name}_over_time"] = _by_age(samples[f"refusal_{name}"], n)
            add_matrix(f"refusal_{name}_matrix", samples[f"refusal_{name}"])
    for group in GROUPS[2:]:
        for name in FACTS if group in groups else ():
            entries[f"{group}_fact_{name}"] = _mean(samples[f"{group}_{name}"])
    entries["loss"] = _loss(records)
    entries["flops_per_token"] = _line(samples["flops"], samples["flops"].t, n)
    for name, wanted in (("compositions", True), ("non_compositions", False)):
        count = int((records["composition"].astype("boolean") == wanted).sum())
        entries[name] = (float(count), count)
    return Summary(
        {key: [value] for key, (value, _) in entries.items()}, {key: [count] for key, (_, count) in entries.items()}
    )


def join_epochs(epochs: Sequence[Summary | None]) -> Summary:
    """One summary whose lists have an entry an epoch; an epoch that was not logged, or lacks a key, is null there."""
    keys = dict.fromkeys(key for epoch in epochs if epoch for key in epoch.values)
    return Summary(
        *(
            {key: [part(epoch).get(key, [None])[-1] if epoch else None for epoch in epochs] for key in keys}
            for part in (lambda epoch: epoch.values, lambda epoch: epoch.counts)
        )
    )


def write_summary(folder: str | Path, summary: Summary) -> None:
    """Write `summary.json` and its companion `counts.json` into `folder`."""
    write_json(Path(folder) / "summary.json", summary.values)
    write_json(Path(folder) / "counts.json", summary.counts)


def _present(samples: Mapping[str, Samples]) -> list[str]:
    families = {
        "formats": ("format", "no_format"),
        "refusals": ("refusal_accuracy", "refusal_specificity"),
        **{group: [f"{group}_{name}" for name in FACTS] for group in GROUPS[2:]},
    }
    return [group for group, names in families.items() if any(len(samples[name].value) for name in names)]


def _mean(samples: Samples) -> tuple[float | None, int]:
    count = len(samples.value)
    return (math.fsum(samples.value) / count if count else None), count


def _line(samples: Samples, index: np.ndarray, n: int) -> tuple[list[float], list[int]]:
    cells = [_mean(samples.where(index == i)) for i in range(n)]
    return [mean or 0.0 for mean, _ in cells], [count for _, count in cells]


def _by_age(samples: Samples, n: int) -> tuple[list[float], list[int]]:
    return _line(samples, samples.age, n)


def _matrix(samples: Samples, n: int) -> tuple[list[list[float]], list[list[int]]]:
    lines = [_line(row, row.t, n) for row in (samples.where(samples.q == q) for q in range(n))]
    return [means for means, _ in lines], [counts for _, counts in lines]


def _loss(records: pd.DataFrame) -> tuple[float | None, int]:
    """Mean over all answer tokens, so that it does not depend on how queries were batched."""
    tokens = records["num_answer_tokens"].astype("Int64").fillna(0)
    scored = (tokens > 0).to_numpy()
    count = int(tokens.sum())
    return (math.fsum(records["nll"].astype(float)[scored]) / count if count else None), count
