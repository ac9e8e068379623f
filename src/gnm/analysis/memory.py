"""The memory analysis by layer, out of what `gnm.probing.memory_analysis` and `layer_swap` saved: tables and figures.

Intervals are from a bootstrap over target facts: the documents of a target are not independent.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from gnm.analysis.memory_figures import layer_lines, swap_lines
from gnm.analysis.memory_saved import ABOVE, components, read_layers, read_swap
from gnm.errors import DataError
from gnm.metrics.bootstrap import interval, sequence_weights

PARTS = {
    "write_invariance": ("write_invariance",),
    "compressibility": ("compressibility",),
    "selectivity_index": ("selectivity_index", "selectivity_index_paired"),
    "instruction_change": ("change_learned", "change_left_out", "change_others", ABOVE),
    "layer_swap": ("accuracy", "selectivity", "accuracy_margin", "selectivity_margin"),
}
"""Parts of the analysis, and their measures."""
COLUMNS = ["method", "measure", "layer", "value", "low", "high", "targets"]
SWAP_COLUMNS = ["kind", "measure", "first", "last", "value", "low", "high", "targets"]
_RESAMPLES, _LEVEL = 2000, 0.95


def by_layer(frame: pd.DataFrame, measures: Sequence[str]) -> pd.DataFrame:
    """Measures by method and layer with intervals, COLUMNS. Raises DataError if there are none of them."""
    rows = []
    for (method, measure), own in frame[frame["measure"].isin(measures)].groupby(["method", "measure"], sort=False):
        table = own.pivot(index="target", columns="layer", values="value")
        values = _resampled(table.to_numpy(dtype=float))
        rows += [
            (method, measure, layer, *_cell(values[:, place], len(table))) for place, layer in enumerate(table.columns)
        ]
    if not rows:
        raise DataError(f"no method has {', '.join(measures)}")
    return pd.DataFrame(rows, columns=COLUMNS)


def lost_by_swap(answers: pd.DataFrame) -> pd.DataFrame:
    """What each swap loses against the method as it is, SWAP_COLUMNS: shares of questions, and margins in logits."""
    long = pd.concat([
        answers.assign(value=answers["right"].astype(float)),
        answers.assign(value=answers["margin"], measure=answers["measure"] + "_margin"),
    ])  # fmt: skip
    means = long.groupby(["measure", "kind", "first", "last", "target"])["value"].mean()
    rows = []
    for (measure, kind, first, last), own in means.groupby(level=[0, 1, 2, 3]):
        if kind == "none":
            continue
        plain = means[measure, "none"].droplevel([0, 1])
        lost = (plain - own.droplevel([0, 1, 2, 3])).to_numpy()
        rows.append((kind, measure, first, last, *_cell(_resampled(lost[:, None])[:, 0], len(lost))))
    return pd.DataFrame(rows, columns=SWAP_COLUMNS)


def peaks(frame: pd.DataFrame, measure: str = ABOVE) -> pd.DataFrame:
    """Where a measure is largest, by method: columns method, layer, low, high (of the layer), half, layers, value.

    half: the first layer at which it has half of its largest value, or the largest where that is below 0. layers: how
    many there are. Raises DataError if no method has the measure.
    """
    rows = []
    for method, own in frame[frame["measure"] == measure].groupby("method", sort=False):
        table = own.pivot(index="target", columns="layer", values="value")
        values = _resampled(table.to_numpy(dtype=float))
        highest = values.argmax(axis=1)
        low, high = interval(highest.astype(float), len(table), _LEVEL)
        mean, most = values[0], values[0].max()
        half = int(np.flatnonzero(mean >= min(most / 2, most))[0])
        rows.append((method, int(highest[0]), low, high, half, len(mean), float(most)))
    if not rows:
        raise DataError(f"no method has {measure}")
    return pd.DataFrame(rows, columns=["method", "layer", "low", "high", "half", "layers", "value"])


def draw_part(folder: Path, part: str, title: str, methods: Sequence[str] | None = None) -> tuple[Figure, pd.DataFrame]:
    """Figure and table of one of PARTS, of all methods or those of `methods`. Raises DataError if it is not there.

    The layer swap is of one method, whatever `methods` says.
    """
    if part == "layer_swap":
        frame = lost_by_swap(read_swap(folder))
        return swap_lines(frame, title, PARTS[part]), frame
    layers = read_layers(folder)
    chosen = layers if methods is None else layers[layers["method"].isin(methods)]
    frame = by_layer(chosen, PARTS[part])
    return layer_lines(frame, title, PARTS[part], components(folder)), frame


def _resampled(table: np.ndarray) -> np.ndarray:
    """Means over targets of [targets, groups]: row 0 of all, then a row a resample."""
    weights = sequence_weights(len(table), np.random.default_rng(0), _RESAMPLES)
    return weights @ table / len(table)


def _cell(values: np.ndarray, targets: int) -> tuple[float, float, float, int]:
    return float(values[0]), *interval(values, targets, _LEVEL), targets
