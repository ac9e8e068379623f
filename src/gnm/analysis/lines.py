"""Measures against age and against documents seen: a panel a measure, a line a method."""

from collections.abc import Sequence

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure

from gnm.analysis.drawing import (
    COLUMN,
    PAGE,
    legend_below,
    methods_of,
    named,
    plot_lines,
    reference_band,
    reference_line,
    sheet,
)
from gnm.analysis.intervals import drawn_intervals, footnote
from gnm.analysis.style import method_style, style
from gnm.errors import DataError

_LONG = 12  # groups from which lines of measures have markers at every few
_FEWEST, _MOST = 3, 8  # how many: as many as there are lines, so that none of these hides another
_AXIS = {"age": "Documents written since", "t": "Documents seen"}


def measure_lines(
    frame: pd.DataFrame, title: str, measures: Sequence[str], along: str = "age", reference: str | None = None
) -> Figure:
    """Panels of `measures` in percent; `frame` is `measure_frame(..., by=along)`.

    The method `reference` is a dashed line at its mean over the panel's groups, where the frame has it; its interval
    in every group is a band. Raises DataError when no method has one of `measures`, or the documents are single.
    """
    methods = methods_of(frame, measures)
    frame = drawn_intervals(frame[frame["measure"].isin(measures)])
    if frame[along].max() < 1:
        raise DataError("the evaluations are of single documents; there is nothing to follow")
    lines = [method for method in methods if method != reference]
    panels_of = {measure: frame[frame["measure"] == measure] for measure in measures}
    banded = frame.loc[frame["method"] == reference, "low"].notna().any()
    note = footnote(frame, f"Whiskers and the band of {method_style(reference).name}" if banded else "Whiskers")
    figure, body, panels = line_panels(title, len(measures), len(methods), note)
    with style():
        for axes, (measure, rows) in zip(panels, panels_of.items(), strict=True):
            shown = rows.assign(**{along: rows[along] + (along == "t")})
            markers = min(max(_FEWEST, len(lines)), _MOST) if shown[along].nunique() > _LONG else 1
            plot_lines(axes, shown[shown["method"] != reference], lines, along, markers=markers)
            axes.set_title(named(measure, ", %", "\n"))
            axes.set_ylim(-4, 104)
            finish(axes, int(shown[along].min()), int(shown[along].max()), along)
            flat = shown[shown["method"] == reference].sort_values(along)
            if len(flat):
                first, last = axes.get_xlim()
                name = f"{method_style(reference).name} (mean)"
                reference_line(axes, float(flat["value"].mean()), name, (first, last))
                reference_band(axes, flat[along].to_numpy(dtype=float), flat["low"], flat["high"])
        legend_below(body, panels, figure.get_figwidth())
    return figure


def line_panels(title: str, count: int, methods: int, note: str) -> tuple[Figure, SubFigure, list[Axes]]:
    """At most three panels in a row; all of a column's width, or a page's for several."""
    across = panels_across(count)
    down = -(-count // across)
    figure, body = sheet(PAGE if across > 1 else COLUMN, 0.5 + 2.2 * down + 0.2 * -(-methods // across), title, note)
    with style():
        panels = list(body.subplots(down, across, squeeze=False).flatten())
    for axes in panels[count:]:
        axes.remove()
    return figure, body, panels[:count]


def panels_across(count: int) -> int:
    """How many panels stand in a row."""
    return 2 if count == 4 else min(count, 3)


def finish(axes: Axes, first: int, last: int, along: str) -> None:
    """Ticks at the first place and at even steps after it, limits, and the name of what the axis counts."""
    step = max(1, round((last - first) / 5))
    axes.set_xticks([first, *(place for place in range(0, last + 1, step) if place >= first + step / 2)])
    margin = max(0.5, 0.035 * (last - first))  # of whole markers
    axes.set_xlim(first - margin, last + margin)
    axes.set_xlabel(_AXIS[along], fontsize=8)
