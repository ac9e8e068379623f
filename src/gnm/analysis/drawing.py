"""What drawings of measures share: sizes, lines of methods, references, the table beside a figure.

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
from gnm.analysis.tables import heading
from gnm.errors import DataError
from gnm.files import write_text

COLUMN, PAGE, HEIGHT = 3.3, 6.8, 9.0  # inches
_TRAINED = ("-", ":", "-.")  # one for each variant of a method
_UNTRAINED = ("--", (0, (1, 3)), (0, (5, 2, 1, 2, 1, 2)))
_MARKS = 7  # markers on a long line
_BESIDE, _MOST_BESIDE = 0.012, 0.8  # of the axis, between neighbouring methods; of a step, between the outermost
_OFF_THE_AXIS = 4  # percent up to which a number beside a line stands on it, not across the axis
_LESS = ("leakage", "neighbour_leakage", "forgotten_accuracy")  # is better
_TITLE_LETTERS, _NOTE_LETTERS = 12, 15.5  # that fit on an inch, capitals among them
_HANDLE, _LETTER, _WIDE_LETTER = 0.5, 0.063, 0.072  # inches of a legend's line or bar with margins; letters beside it
_INK, _FAINT = "#222222", "#555555"


def plot_lines(
    axes: Axes, rows: pd.DataFrame, methods: Sequence[str], along: str, scale: float = 100.0, markers: int = 1
) -> None:
    """A line a method of `value` against the column `along`, with whiskers where the rows have intervals.

    With whiskers, methods stand a little beside each other so that these can be told apart; variants of one method
    differ in the dashes and have white markers. `markers`: of a long line every so many has one, in turn with those of
    other methods, so that lines that lie on each other are all seen.
    """
    span = rows[along].max() - rows[along].min() + 1
    spread = min(_BESIDE * span, _MOST_BESIDE / len(methods)) if rows["low"].notna().any() else 0.0
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
            markerfacecolor="white" if variant else shown.face,
            linestyle=(_UNTRAINED if shown.hollow else _TRAINED)[variant % 3],
            label=shown.name,
            markevery=(first_marker(methods, method, every) if markers > 1 else 0, every),
        )
        if not np.isnan(low).all():
            dashes = (0, (2, 1)) if variant else "-"
            axes.vlines(place, low, high, color=shown.color, linewidth=0.9, alpha=0.7, linestyle=dashes)


def first_marker(methods: Sequence[str], method: str, every: int) -> int:
    """Where a line's markers start, of which every so many is drawn: as far from those of other methods as can be."""
    return methods.index(method) * every // len(methods)


def variant_number(methods: Sequence[str], method: str) -> int:
    """How many of `methods` before this one are the same method under other settings; these share colour and marker."""
    marker = method_style(method).marker
    return sum(method_style(other).marker == marker for other in methods[: methods.index(method)])


def named(measure: str, unit: str = "", between: str = " ") -> str:
    """A measure's name in a figure, with its unit; after `between` it says so where less is better."""
    return f"{heading(measure)}{unit}{between}(less is better)" if measure in _LESS else f"{heading(measure)}{unit}"


def reference_line(axes: Axes, value: float, name: str, across: tuple[float, float], upright: bool = False) -> None:
    """A dashed line in percent between two places, and its number at the end; the legend names it if it has a name.

    A line at 0 lies above the axis, not under it. `upright`: the number is turned.
    """
    axes.plot(
        across,
        [100 * value] * 2,
        color=_INK,
        linewidth=1.1,
        linestyle=(0, (6, 3)),
        label=name,
        scalex=False,
        scaley=False,
        clip_on=False,
        zorder=3,
    )
    axes.annotate(
        f"{100 * value:.0f}",
        (across[1], 100 * value),
        xytext=(2, 0),
        textcoords="offset points",
        ha="left",
        va="center" if 100 * value > _OFF_THE_AXIS else "bottom",
        rotation=90 if upright else 0,
        fontsize=6.5,
        color=_INK,
        annotation_clip=False,
    )


def reference_band(axes: Axes, places: Sequence[float], low: Sequence[float], high: Sequence[float]) -> None:
    """The interval of a reference in percent, as a thin band; nothing where it has none."""
    ends = [100 * np.asarray(each, dtype=float) for each in (low, high)]
    if not np.isnan(ends[0]).all():
        axes.fill_between(places, *ends, color=_INK, alpha=0.12, linewidth=0, zorder=2.5)


def methods_of(frame: pd.DataFrame, measures: Sequence[str]) -> list[str]:
    """The methods of the frame in the fixed order. Raises DataError for a measure that no method has."""
    if absent := [name for name in measures if name not in set(frame["measure"])]:
        known = ", ".join(sorted(set(frame["measure"])))
        raise DataError(f"nothing to draw for {', '.join(absent)}; the frame has: {known}")
    return in_order(frame.loc[frame["measure"].isin(measures), "method"])


def sheet(width: float, height: float, title: str, note: str = "") -> tuple[Figure, SubFigure]:
    """A figure with its title, and its body above the footnote; sizes in inches, the body is `height` high."""
    lines, low = _note_lines(note, width), note_height(note, width)
    with style():
        figure = Figure(figsize=(width, height + low), layout="constrained")
        body, foot = figure.subfigures(2, 1, height_ratios=[height, low])
        body.suptitle(textwrap.fill(title, int(_TITLE_LETTERS * width)), fontsize=10.5)
        foot.text(0.99, 0.5, "\n".join(lines), fontsize=7.5, color=_FAINT, ha="right", va="center")
    return figure, body


def note_height(note: str, width: float) -> float:
    """Inches that a footnote takes in a figure of this width."""
    return 0.05 + 0.14 * len(_note_lines(note, width))


def _note_lines(note: str, width: float) -> list[str]:
    return textwrap.wrap(note, int(_NOTE_LETTERS * width), break_on_hyphens=False)


def legend_below(body: SubFigure, panels: Sequence[Axes], width: float) -> None:
    """One legend for all panels, with every method that one of them has; a name wider than the figure goes on below."""
    found = {name: handle for axes in panels for handle, name in zip(*axes.get_legend_handles_labels(), strict=True)}
    if found:
        columns = max(1, int(width / (_HANDLE + _LETTER * max(map(len, found)))))
        names = [textwrap.fill(name, int((width - _HANDLE) / _WIDE_LETTER)) for name in found]
        body.legend(found.values(), names, loc="outside lower center", ncols=columns)


def save_with_table(figure: Figure, frame: pd.DataFrame, path: Path) -> list[Path]:
    """Save PNG and SVG at the figure's size, and the numbers drawn as CSV beside them; returns the three paths."""
    saved = save_figure(figure, path, exact=True)
    table = saved[0].with_suffix(".csv")
    write_text(table, frame.dropna(axis="columns", how="all").to_csv(index=False))
    return [*saved, table]
