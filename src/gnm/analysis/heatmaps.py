"""Annotated matrices: what a method answers on each document (down) after each number of documents seen (across)."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.image import AxesImage

from gnm.analysis.drawing import COLUMN, HEIGHT, PAGE, methods_of, note_height, sheet
from gnm.analysis.style import method_style, style
from gnm.analysis.tables import heading
from gnm.errors import DataError

_CELL = 0.235  # inches at most
_NUMBERED = 0.15  # inches of a cell from which its number can be read in print
_STEP = 4  # of smaller cells, every fourth row and column has numbers
_TITLED = 0.5  # inches of a matrix's title and the space below it
_DARK = 67  # percent from which a number is written in white


def heatmaps(frame: pd.DataFrame, title: str, measures: Sequence[str]) -> list[tuple[Figure, pd.DataFrame]]:
    """Figures of methods down and measures across, each with its rows of `measure_frame(..., by="cell")`.

    A figure is at most as large as a page of a paper; what does not fit goes on in the next one. Cells without samples
    are hatched; cells below the diagonal, before the document was written, are white. Where cells are too small for all
    numbers, those of every fourth document stand, and a scale of colours.
    Raises DataError when no method has one of `measures`, or the documents are single.
    """
    methods, n = methods_of(frame, measures), int(frame["t"].max()) + 1
    if n < 2:
        raise DataError("the evaluations are of single documents; a heatmap needs sequences")
    side = min(n * _CELL, (PAGE - 0.5) / len(measures) - 0.3)
    step = 1 if side >= n * _NUMBERED else _STEP
    width = max(COLUMN, 0.5 + (side + 0.3) * len(measures))
    note = _note(frame[frame["measure"].isin(measures)], methods, measures, n)
    most = max(1, int((HEIGHT - _around(step) - note_height(note, width)) / (side + _TITLED)))
    pages = np.array_split(np.array(methods), -(-len(methods) // most))
    drawn = []
    for number, page in enumerate(pages):
        shown = frame[frame["method"].isin(page) & frame["measure"].isin(measures)]
        name = title if len(pages) == 1 else f"{title} ({number + 1} of {len(pages)})"
        figure, body = sheet(width, _around(step) + (side + _TITLED) * len(page), name, note)
        _fill(body, shown, page.tolist(), measures, n, step)
        drawn.append((figure, shown))
    return drawn


def _note(frame: pd.DataFrame, methods: Sequence[str], measures: Sequence[str], n: int) -> str:
    """What a reader of the matrices should know: what is not there, and what the numbers do not say."""
    parts = ["Cells without intervals."]
    if len(frame) < len(methods) * len(measures) * n * (n + 1) / 2:
        parts.append("Hatched: no question there, or the method has no such measure.")
    bare = frame.loc[frame["samples"].isna(), "measure"]
    if "refusal_precision" in set(bare):
        parts.append("Where only a summary is at hand, a precision of nothing refused (0 of 0) stands as 0.")
    if "format_accuracy" in measures:
        parts.append("Rows are documents of questions; the format that an answer is to have may come from another one.")
    return " ".join(parts)


def _fill(body: SubFigure, frame: pd.DataFrame, methods: list[str], measures: Sequence[str], n: int, step: int) -> None:
    """step: of how many of the n rows and columns one has numbers."""
    with style():
        panels = body.subplots(len(methods), len(measures), squeeze=False, sharex=True, sharey=True)
        for row, method in enumerate(methods):
            for column, measure in enumerate(measures):
                axes = panels[row, column]
                cells = frame[(frame["method"] == method) & (frame["measure"] == measure)]
                colours = _matrix(axes, cells, n, step)
                axes.set_title(f"{method_style(method).name}\n{heading(measure)}, %", fontsize=7, loc="left")
        places = list(range(0, n, step))
        panels[0, 0].set_xticks(places, [place + 1 for place in places])
        panels[0, 0].set_yticks(places, [place + 1 for place in places])
        body.supxlabel("Documents seen", fontsize=9)
        body.supylabel("Document of the question", fontsize=9)
        if step > 1:
            height = body.bbox.height / body.figure.dpi
            bar = body.colorbar(colours, ax=panels, location="top", fraction=0.2 / height, pad=0.1 / height)
            bar.ax.tick_params(labelsize=7)
            bar.set_label("Colours, %", fontsize=7)


def _around(step: int) -> float:
    """Inches of the figure's title, its labels and its scale of colours."""
    return 0.8 + 0.5 * (step > 1)


def _matrix(axes: Axes, cells: pd.DataFrame, n: int, step: int) -> AxesImage:
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
            elif q % step == t % step == 0:
                ink = "white" if shown[q, t] > _DARK else "#222222"
                text = f"{shown[q, t]:.0f}"
                # a number wider than its cell would end in the white below the diagonal
                place, side = (t, "center") if step == 1 or t > q else (t - 0.45, "left")
                axes.text(place, q, text, ha=side, va="center", color=ink, fontsize=6.0, in_layout=False)
    image = axes.imshow(shown, cmap="Blues", vmin=0, vmax=100, aspect="equal")
    axes.grid(visible=False)
    axes.tick_params(length=0, labelsize=7)
    return image
