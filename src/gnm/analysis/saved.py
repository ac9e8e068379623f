"""Saved evaluations: `<root>/<experiment>/<method>/{summary.json, counts.json, run_config.json, records.parquet}`.

- Only `summary.json` is needed, so the published evaluations of the paper read like our own.
- The published folder names are turned into this project's method names; what follows such a name in a folder
  (`gnm_flops`, `llama3_ft_val_id`) is kept as the variant.
- Where per-query records lie beside the summary, the metrics come from them and carry intervals.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from gnm.analysis.saved_lists import costs, counts, read_json, read_lists, shares_or_costs
from gnm.analysis.style import METHODS, method_style, with_variant
from gnm.errors import DataError
from gnm.files import recover_folders
from gnm.metrics import metrics_of_records, metrics_of_summary
from gnm.metrics.checked import AGAIN, refuse
from gnm.metrics.records import read_records

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
        return read_lists(self.folder / "summary.json", shares_or_costs)

    @property
    def counts(self) -> dict[str, list[Any]] | None:
        """How many samples stand behind each entry of the summary, None when it was not saved. Raises DataError."""
        path = self.folder / "counts.json"
        return read_lists(path, counts) if path.is_file() else None

    @property
    def run_config(self) -> dict[str, Any]:
        """The settings of the run; empty when they were not saved. Raises DataError."""
        path = self.folder / "run_config.json"
        return read_json(path) if path.is_file() else {}

    @property
    def device(self) -> str | None:
        """What the run was made on; None where it was not saved. Raises DataError."""
        made = self.run_config.get("made", {})
        device = made.get("device") if isinstance(made, dict) else made
        if not isinstance(made, dict) or not isinstance(device, str | None):
            path = self.folder / "run_config.json"
            raise DataError(f"{path} is damaged: what 'made' says of the device is no text; {AGAIN}")
        return device

    @property
    def cost(self) -> dict[str, list[float | None]] | None:
        """Cost by t (`gnm.evaluate`), None when it was not saved. Raises DataError."""
        path = self.folder / "cost.json"
        return read_lists(path, costs) if path.is_file() else None

    @property
    def records(self) -> pd.DataFrame | None:
        """Per-query records, None when the evaluation kept none. Raises DataError, for a file without rows too."""
        path = self.folder / "records.parquet"
        if not path.is_file():
            return None
        found = read_records(path)
        if found.empty:
            raise DataError(f"{path} has no rows; {AGAIN}")
        older = found["format_age"] > found["t"]
        refuse(older, f"{path} is damaged", "a format must not be older than the stream", AGAIN)
        return found

    def metrics(self) -> pd.DataFrame:
        """Metrics (`gnm.metrics.METRIC_COLUMNS`), with intervals where there are records, or counts alone."""
        records = self.records
        summary, counts = (self.summary, self.counts) if records is None else ({}, None)
        try:
            return metrics_of_summary(summary, counts=counts) if records is None else metrics_of_records(records)
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
        raise DataError(
            f"no saved evaluation of {', '.join(absent)} under {root} (no <method>/summary.json); there are: {known}"
        )
    return [evaluation for evaluation in found if experiments is None or evaluation.experiment in experiments]


def by_method(found: Sequence[SavedEvaluation], named: bool) -> dict[str, SavedEvaluation]:
    """Evaluations by their method, with its variant if `named`. Raises DataError where two have one name in figures."""
    methods = [with_variant(each.method, each.variant if named else "") for each in found]
    tell_apart(zip(methods, [each.folder for each in found], strict=True))
    return dict(zip(methods, found, strict=True))


def tell_apart(methods: Iterable[tuple[str, Path]]) -> None:
    """Raise DataError where methods of two folders have the same name in figures."""
    folders: dict[str, Path] = {}
    for method, folder in methods:
        name = method_style(method).name
        if name in folders:
            raise DataError(f"{folders[name]} and {folder} are both called {name!r} in figures; rename one of them")
        folders[name] = folder


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
