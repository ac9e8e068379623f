"""What drawings of measures share: sizes, lines of methods, the footnote on intervals, the table beside a figure.

A figure of one panel is as wide as a column of a paper, one of several as a page of two columns, and none is higher
than a page: letters keep their size in print.
"""

import textwrap
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure

from gnm.analysis.style import in_order, method_style, save_figure, style
from gnm.errors import DataError
from gnm.files import write_text

COLUMN, PAGE, HEIGHT = 3.3, 6.8, 9.0  # inches
_TRAINED = ("-", ":", "-.")  # one for each variant of a method
_UNTRAINED = ("--", (0, (1, 3)), (0, (5, 2, 1, 2, 1, 2)))
_MARKS = 12  # markers on a long line
_TITLE_LETTERS, _NOTE_LETTERS = 12, 15.5  # that fit on an inch, capitals among them
_INK, _FAINT = "#222222", "#555555"


def plot_lines(
    axes: Axes, rows: pd.DataFrame, methods: Sequence[str], along: str, scale: float = 100.0, markers: int = 1
) -> None:
    """A line a method of `value` against the column `along`, with whiskers where the rows have intervals.

    With whiskers, methods stand a little beside each other so that these can be told apart; variants of one method
    differ in the dashes. `markers`: of a long line every so many has one, in turn with those of other methods, so that
    lines that lie on each other are all seen.
    """
    spread = 0.045 if rows["low"].notna().any() else 0.0
    shifts = spread * (np.arange(len(methods)) - (len(methods) - 1) / 2)
    for method, shift in zip(methods, shifts, strict=True):
        line = rows[rows["method"] == method].sort_values(along)
        if line.empty:
            continue
        shown = method_style(method)
        variant = variant_number(methods, method)
        place = line[along].to_numpy(dtype=float) + shift
        every = max(markers if len(place) > markers else 1, len(place) // _MARKS)
        value, low, high = (scale * line[key].to_numpy(dtype=float) for key in ("value", "low", "high"))
        axes.plot(
            place,
            value,
            color=shown.color,
            marker=shown.marker,
            markerfacecolor=shown.face,
            linestyle=(_UNTRAINED if shown.hollow else _TRAINED)[variant % 3],
            label=shown.name,
            markevery=(methods.index(method) % every if markers > 1 else 0, every),
        )
        if not np.isnan(low).all():
            axes.vlines(place, low, high, color=shown.color, linewidth=0.9, alpha=0.7)


def variant_number(methods: Sequence[str], method: str) -> int:
    """How many of `methods` before this one are the same method under other settings; these share colour and marker."""
    marker = method_style(method).marker
    return sum(method_style(other).marker == marker for other in methods[: methods.index(method)])


def reference_line(axes: Axes, value: float, name: str, across: tuple[float, float] | None = None) -> None:
    """A dashed line in percent, across the panel or between two places; the legend names it if it has a name."""
    first, last = axes.get_xlim() if across is None else across
    axes.plot(
        [first, last],
        [100 * value] * 2,
        color=_INK,
        linewidth=1.1,
        linestyle=(0, (6, 3)),
        label=name,
        scalex=False,
        scaley=False,
    )


def methods_of(frame: pd.DataFrame, measures: Sequence[str]) -> list[str]:
    """The methods of the frame in the fixed order. Raises DataError for a measure that no method has."""
    if absent := [name for name in measures if name not in set(frame["measure"])]:
        known = ", ".join(sorted(set(frame["measure"])))
        raise DataError(f"nothing to draw for {', '.join(absent)}; the frame has: {known}")
    return in_order(frame.loc[frame["measure"].isin(measures), "method"])


def with_interval_kinds(metrics: pd.DataFrame) -> pd.DataFrame:
    """Metrics with a column `interval`: "bootstrap" from records, "wilson" from counts alone, or "none"."""
    made = np.where(metrics["sequences"].isna(), "wilson", "bootstrap")
    return metrics.assign(interval=np.where(metrics["low"].isna(), "none", made))


def footnote(frame: pd.DataFrame) -> str:
    """How the frame's intervals were made, and of which methods there are none."""
    kinds, parts = set(frame["interval"]), []
    if "bootstrap" in kinds:
        seen = frame["sequences"].dropna()
        size = f"{'up to ' if seen.min() < seen.max() else ''}{seen.max()}"
        parts.append(f"Whiskers: 95 % intervals, bootstrap over {size} sequences.")
    if "wilson" in kinds:
        parts.append("Whiskers from a summary's counts: Wilson's 95 % intervals.")
    with_some = set(frame.loc[frame["interval"] != "none", "method"])
    without = [method_style(method).name for method in in_order(set(frame["method"]) - with_some)]
    if without and parts:
        parts.append(f"No intervals (no records): {', '.join(without)}.")
    elif without:
        parts.append("No intervals: summaries without records or counts.")
    return " ".join(parts)


def sheet(width: float, height: float, title: str, note: str = "") -> tuple[Figure, SubFigure]:
    """A figure with its title, and its body above the footnote; sizes in inches, the body is `height` high."""
    lines = textwrap.wrap(note, int(_NOTE_LETTERS * width))
    with style():
        low = 0.05 + 0.14 * len(lines)
        figure = Figure(figsize=(width, height + low), layout="constrained")
        body, foot = figure.subfigures(2, 1, height_ratios=[height, low])
        body.suptitle(textwrap.fill(title, int(_TITLE_LETTERS * width)), fontsize=10.5)
        foot.text(0.99, 0.5, "\n".join(lines), fontsize=7.5, color=_FAINT, ha="right", va="center")
    return figure, body


def legend_below(body: SubFigure, panels: Sequence[Axes], width: float) -> None:
    """One legend for all panels, with every method that one of them has."""
    found = {name: handle for axes in panels for handle, name in zip(*axes.get_legend_handles_labels(), strict=True)}
    if found:
        columns = max(1, int(width / (0.5 + 0.063 * max(map(len, found)))))
        body.legend(found.values(), found.keys(), loc="outside lower center", ncols=columns)


def save_with_table(figure: Figure, frame: pd.DataFrame, path: Path) -> list[Path]:
    """Save PNG and SVG at the figure's size, and the numbers drawn as CSV beside them; returns the three paths."""
    saved = save_figure(figure, path, exact=True)
    table = saved[0].with_suffix(".csv")
    write_text(table, frame.dropna(axis="columns", how="all").to_csv(index=False))
    return [*saved, table]
