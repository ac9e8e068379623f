"""Drawings of the memory analysis: measures by layer, and what is lost where layers are swapped."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure, SubFigure

from gnm.analysis.drawing import COLUMN, PAGE, first_marker, legend_below, methods_of, sheet
from gnm.analysis.style import BLACK, GREEN, GREY, VERMILLION, method_style, style
from gnm.errors import DataError

_NAMES = {  # of a panel; the scale that values are shown in
    "write_invariance": ("Likeness of a fact's slots\nacross documents, cosine", 1.0),
    "compressibility": ("Variance in the first\n{components}singular values, %", 100.0),
    "selectivity_index": ("Slots towards the object\nto learn (published index)", 1.0),
    "selectivity_index_paired": ("Shift of the slots by the\ninstruction (paired index)", 1.0),
    "change_learned": ("Change of the line\nto learn, % of a slot", 100.0),
    "change_left_out": ("Change of the line that the\nother names, % of a slot", 100.0),
    "change_others": ("Change of the other lines,\n% of a slot", 100.0),
    "change_above_others": ("Named lines minus\nother lines, points", 100.0),
    "accuracy": ("Accuracy lost, points", 100.0),
    "selectivity": ("Selectivity lost, points", 100.0),
    "accuracy_margin": ("Accuracy's margin lost, logits", 1.0),
    "selectivity_margin": ("Selectivity's margin lost, logits", 1.0),
}
_CHANGES = ("change_learned", "change_left_out", "change_others")  # one scale, to compare
# colours of no method that is analysed
_KINDS = {"writing": (VERMILLION, "o", "-"), "reading": (GREEN, "s", "--"), "both": (GREY, "^", ":")}
_MARKS = 7  # markers on a line
_LEAST = 5.0  # points that a panel of losses reaches at least


def layer_lines(frame: pd.DataFrame, title: str, measures: Sequence[str], components: int | None = None) -> Figure:
    """One panel for each of `measures`, by layer. Each method is a line in it, with its interval as a band.

    frame: from `memory.by_layer`. components: the singular values that compressibility counts; None: not known.
    Raises DataError if no method has one of `measures`.
    """
    methods = methods_of(frame, measures)
    figure, body, panels = _panels(title, len(measures), len(methods), _note(frame, "Bands"))
    compared = frame[frame["measure"].isin(_CHANGES)]
    with style():
        for axes, measure in zip(panels, measures, strict=True):
            name, scale = _NAMES[measure]
            for method in methods:
                line = frame[(frame["measure"] == measure) & (frame["method"] == method)].sort_values("layer")
                _line(axes, line, methods, method, scale)
            axes.set_title(name.format(components=f"{components} " if components else ""))
            axes.set_xlabel("Layer", fontsize=8)
            if measure in _CHANGES:
                axes.set_ylim(0, 1.05 * scale * compared[["value", "high"]].max().max())
        legend_below(body, panels, figure.get_figwidth())
    return figure


def swap_lines(frame: pd.DataFrame, title: str, measures: Sequence[str]) -> Figure:
    """One panel for each of `measures`, by the layers that are swapped. Writing, reading and both are a line each.

    frame: from `memory.lost_by_swap`. Raises DataError if it has none of `measures`.
    """
    measures = [measure for measure in measures if measure in set(frame["measure"])]
    if not measures:
        raise DataError("the layer swap has no answers")
    figure, body, panels = _panels(title, len(measures), len(_KINDS), _note(frame, "Whiskers"))
    blocks = frame[["first", "last"]].drop_duplicates().sort_values("first")
    names = [str(first) if first == last else f"{first}–{last}" for first, last in blocks.to_numpy()]
    step = max(1, len(names) // 8)
    with style():
        for axes, measure in zip(panels, measures, strict=True):
            name, scale = _NAMES[measure]
            for shift, (kind, (color, marker, dashes)) in zip((-0.12, 0, 0.12), _KINDS.items(), strict=True):
                rows = frame[(frame["measure"] == measure) & (frame["kind"] == kind)].sort_values("first")
                value, low, high = (scale * rows[key].to_numpy(dtype=float) for key in ("value", "low", "high"))
                place = np.arange(len(rows)) + shift
                axes.plot(place, value, color=color, marker=marker, linestyle=dashes, label=f"Swapped for {kind}")
                axes.vlines(place, low, high, color=color, linewidth=0.9, alpha=0.7)
            axes.axhline(0, color=BLACK, linewidth=0.8)
            if scale > 1:  # points; where nothing is lost at all there is a scale too
                low, high = axes.get_ylim()
                axes.set_ylim(min(low, -_LEAST), max(high, _LEAST))
            axes.set_title(name)
            axes.set_xticks(range(0, len(names), step), names[::step])
            axes.set_xlabel("Layers whose adapters are swapped", fontsize=8)
        legend_below(body, panels, figure.get_figwidth())
    return figure


def _line(axes: Axes, line: pd.DataFrame, methods: Sequence[str], method: str, scale: float) -> None:
    """A band has an outline in its line's dashes, so that bands on each other can be told apart."""
    shown = method_style(method)
    place = line["layer"].to_numpy()
    every, dashes = max(1, len(place) // _MARKS), "--" if shown.hollow else "-"
    value, low, high = (scale * line[key].to_numpy(dtype=float) for key in ("value", "low", "high"))
    axes.plot(
        place,
        value,
        color=shown.color,
        marker=shown.marker,
        markerfacecolor=shown.face,
        label=shown.name,
        linestyle=dashes,
        markevery=(first_marker(methods, method, every), every),
    )
    face = to_rgba(shown.color, 0.15)
    axes.fill_between(place, low, high, facecolor=face, edgecolor=shown.color, linewidth=0.5, linestyle=dashes)


def _note(frame: pd.DataFrame, marks: str) -> str:
    """How many targets the intervals are over, and whether some lines have none: those of a single target."""
    several = frame.loc[frame["low"].notna(), "targets"]
    if several.empty:
        return "No intervals: a single target."
    least, most = several.min(), several.max()
    size = f"{most}" if least == most else f"{least} to {most}"
    alone = " A line of a single target has none." if frame["low"].isna().any() else ""
    return f"{marks}: 95 % intervals, bootstrap over {size} target facts.{alone}"


def _panels(title: str, count: int, lines: int, note: str) -> tuple[Figure, SubFigure, list[Axes]]:
    """At most two panels in a row."""
    across = min(count, 2)
    down = -(-count // across)
    figure, body = sheet(PAGE if across > 1 else COLUMN, 0.7 + 2.3 * down + 0.2 * -(-lines // across), title, note)
    with style():
        panels = list(body.subplots(down, across, squeeze=False).flatten())
    return figure, body, panels[:count]
