"""Annotated matrices: what a method answers on each document (down) after each number of documents seen (across)."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from gnm.analysis.drawing import methods_of
from gnm.analysis.style import method_style, style
from gnm.analysis.tables import heading
from gnm.errors import DataError

_CELL = {False: 0.235, True: 0.2}  # inches, by whether there are many documents
_MANY = 12
_DARK = 55  # percent from which a number is written in white


def heatmaps(frame: pd.DataFrame, title: str, measures: Sequence[str]) -> Figure:
    """Methods down, measures across; `frame` is `measure_frame(..., by="cell")`.

    Cells without samples are hatched; cells below the diagonal, before the document was written, are white.
    Raises DataError when no method has one of `measures`, or the documents are single.
    """
    methods = methods_of(frame, measures)
    n = int(frame["t"].max()) + 1
    if n < 2:
        raise DataError("the evaluations are of single documents; a heatmap needs sequences")
    side = n * _CELL[n > _MANY]
    with style():
        size = (0.8 + (side + 0.5) * len(measures), 1.0 + (side + 0.65) * len(methods))
        figure = Figure(figsize=size, layout="constrained")
        figure.suptitle(title, fontsize=10.5)
        panels = figure.subplots(len(methods), len(measures), squeeze=False, sharex=True, sharey=True)
        for row, method in enumerate(methods):
            for column, measure in enumerate(measures):
                axes = panels[row, column]
                cells = frame[(frame["method"] == method) & (frame["measure"] == measure)]
                _matrix(axes, cells, n)
                name = method_style(method).name
                axes.set_title(f"{name}\n{heading(measure)}, %", fontsize=8, loc="left")
        panels[0, 0].set_xticks(*_ticks(n))
        panels[0, 0].set_yticks(*_ticks(n))
        figure.supxlabel("Documents seen", fontsize=9)
        figure.supylabel("Document of the question", fontsize=9)
    return figure


def _matrix(axes: Axes, cells: pd.DataFrame, n: int) -> None:
    shown = np.full((n, n), np.nan)
    shown[cells["q"].to_numpy(dtype=int), cells["t"].to_numpy(dtype=int)] = 100 * cells["value"].to_numpy(dtype=float)
    for q in range(n):
        for t in range(q, n):
            if np.isnan(shown[q, t]):
                axes.fill(
                    [t - 0.5, t + 0.5, t + 0.5, t - 0.5],
                    [q - 0.5, q - 0.5, q + 0.5, q + 0.5],
                    facecolor="white",
                    edgecolor="#BBBBBB",
                    hatch="////",
                    linewidth=0,
                )
            else:
                ink = "white" if shown[q, t] > _DARK else "#222222"
                axes.text(
                    t,
                    q,
                    f"{shown[q, t]:.0f}",
                    ha="center",
                    va="center",
                    color=ink,
                    fontsize=5.0 if n > _MANY else 6.5,
                    in_layout=False,
                )
    axes.imshow(shown, cmap="Blues", vmin=0, vmax=100, aspect="equal")
    axes.grid(visible=False)
    axes.tick_params(length=0, labelsize=7)


def _ticks(n: int) -> tuple[list[int], list[int]]:
    step = 1 if n <= _MANY else 3
    return list(range(0, n, step)), [place + 1 for place in range(0, n, step)]
