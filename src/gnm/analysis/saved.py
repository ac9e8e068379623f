"""Saved evaluations: `<root>/<experiment>/<method>/{summary.json, counts.json, run_config.json, records.parquet}`.

- Only `summary.json` is needed, so the published evaluations of the paper read like our own.
- The published folder names are turned into this project's method names; what follows such a name in a folder
  (`gnm_flops`, `llama3_ft_val_id`) is kept as the variant.
- Where per-query records lie beside the summary, the metrics come from them and carry intervals.
"""

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from gnm.analysis.style import METHODS
from gnm.errors import DataError
from gnm.files import recover_folders
from gnm.metrics import metrics_of_records, metrics_of_summary
from gnm.metrics.records import read_records

_MOST = 10**12  # answers behind a figure

PUBLISHED_NAMES = {
    "llama3_ft": "in_context_ft",
    "llama3": "in_context",
    "rag_trained": "retrieval_ft",
    "rag_untrained": "retrieval",
    "naive_model": "no_memory",
}


@dataclass(frozen=True, slots=True)
class SavedEvaluation:
    """One method's evaluation in one experiment; files are read when asked for."""

    experiment: str
    method: str
    variant: str
    folder: Path

    @property
    def summary(self) -> dict[str, list[Any]]:
        """The metrics, a list with one entry per logged epoch under each key. Raises DataError."""
        return _read_lists(self.folder / "summary.json", 2)

    @property
    def counts(self) -> dict[str, list[Any]] | None:
        """How many samples stand behind each entry of the summary, None when it was not saved. Raises DataError."""
        path = self.folder / "counts.json"
        if not path.is_file():
            return None
        counts = _read_lists(path, 2)
        for key, entries in counts.items():
            numbers = [number for entry in entries for number in np.array(entry, dtype=float).flat]
            if any(number < 0 or number > _MOST for number in numbers):
                raise DataError(f"{path} is damaged: {ascii(key)[:40]} holds no counts; evaluate again to replace it")
        return counts

    @property
    def run_config(self) -> dict[str, Any]:
        """The settings of the run; empty when they were not saved. Raises DataError."""
        path = self.folder / "run_config.json"
        return read_json(path) if path.is_file() else {}

    @property
    def cost(self) -> dict[str, list[float | None]] | None:
        """Cost by t (`gnm.evaluate`), None when it was not saved. Raises DataError."""
        path = self.folder / "cost.json"
        return _read_lists(path, 0) if path.is_file() else None

    @property
    def records(self) -> pd.DataFrame | None:
        """Per-query records, None when the evaluation kept none. Raises DataError, for a file without rows too."""
        path = self.folder / "records.parquet"
        if not path.is_file():
            return None
        found = read_records(path)
        if found.empty:
            raise DataError(f"{path} has no rows; evaluate again to replace it")
        return found

    def metrics(self) -> pd.DataFrame:
        """Metrics (`gnm.metrics.METRIC_COLUMNS`), with intervals where there are records, or counts alone."""
        records = self.records
        try:
            if records is None:
                return metrics_of_summary(self.summary, counts=self.counts)
            return metrics_of_records(records)
        except DataError as error:
            raise DataError(f"{self.folder}: {error}") from error


def split_method(folder_name: str) -> tuple[str, str]:
    """Method and variant of a results folder's name; a name that starts like no known method is a method itself."""
    known = {**{name: name for name in METHODS}, **PUBLISHED_NAMES}
    for name in sorted(known, key=len, reverse=True):
        if folder_name == name or folder_name.startswith(f"{name}_"):
            return known[name], folder_name[len(name) + 1 :]
    return folder_name, ""


def find_evaluations(root: str | Path, experiments: Collection[str] | None = None) -> list[SavedEvaluation]:
    """Every evaluation under `root`, or of the named experiments, sorted by experiment and folder.

    One that a kill left moved aside while it was replaced is brought back first.
    Raises DataError when the folder, or a named experiment, has none.
    """
    root = Path(root)
    for experiment in root.glob("*/"):
        recover_folders(experiment)
    found = [
        SavedEvaluation(path.parent.parent.name, *split_method(path.parent.name), folder=path.parent)
        for path in sorted(root.glob("[!.]*/[!.]*/summary.json"))
    ]
    have = {evaluation.experiment for evaluation in found}
    if not found:
        raise DataError(f"no saved evaluation under {root} (looked for <experiment>/<method>/summary.json)")
    if absent := sorted(set(experiments or ()) - have):
        known = ", ".join(sorted(have))
        raise DataError(f"no saved evaluation of {', '.join(absent)} under {root}; there are: {known}")
    return [evaluation for evaluation in found if experiments is None or evaluation.experiment in experiments]


def metric_frame(evaluations: Sequence[SavedEvaluation]) -> pd.DataFrame:
    """Tidy metrics: columns experiment, method, variant, then `gnm.metrics.METRIC_COLUMNS`.

    Evaluations without facts in their summary raise DataError with their folder's name.
    """
    parts = []
    for evaluation in evaluations:
        part = evaluation.metrics()
        part.insert(0, "variant", evaluation.variant)
        part.insert(0, "method", evaluation.method)
        part.insert(0, "experiment", evaluation.experiment)
        parts.append(part)
    if not parts:
        raise DataError("no evaluations were given")
    return pd.concat(parts, ignore_index=True)


def line_frame(evaluations: Sequence[SavedEvaluation], key: str) -> pd.DataFrame:
    """One of the summaries' lines, last epoch, tidy: columns experiment, method, variant, index, value.

    `key` is a line such as "flops_per_token" (index: the last document written) or "format_retention" (index: age).
    Evaluations that do not have it are left out; raises DataError when none has.
    """
    rows = []
    for evaluation in evaluations:
        line = evaluation.summary.get(key, [[]])[-1]
        values = [line] if isinstance(line, int | float) else line
        rows += [
            (evaluation.experiment, evaluation.method, evaluation.variant, index, value)
            for index, value in enumerate(values)
        ]
    if not rows:
        raise DataError(f"no evaluation has a line {key!r} in its summary")
    return pd.DataFrame(rows, columns=["experiment", "method", "variant", "index", "value"])


def _read_lists(path: Path, dimensions: int) -> dict[str, list[Any]]:
    """A mapping of lists that are not empty; each entry is a number, null, or a grid of them of so many dimensions."""
    value = read_json(path)
    for key, entries in value.items():
        try:
            if not isinstance(entries, list) or not entries:
                raise ValueError("it is no list, or an empty one")
            for entry in entries:
                if np.array(entry, dtype=float).ndim > dimensions:
                    raise ValueError(f"an entry has more than {dimensions} dimensions")
        except (ValueError, TypeError, OverflowError) as error:
            raise DataError(
                f"{path} is damaged: {ascii(key)[:40]} holds no numbers ({error}); evaluate again to replace it"
            ) from error
    return value


def read_json(path: Path) -> dict[str, Any]:
    """The object that a file of an evaluation holds. Raises DataError where it is not there or damaged."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}; evaluate this method first") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is not valid JSON ({error}); evaluate again to replace it") from error
    if not isinstance(value, dict):
        raise DataError(f"{path} must hold an object, it holds {type(value).__name__}")
    return value
