"""Metrics drawn: bars by method, retention by age, and the two together.

- Input is the tidy frame of `tables.select`; every function returns a Figure, saved with `style.save_figure`.
- Figures are made without pyplot, so drawing needs no display and leaves no global state.
- Whiskers are the frame's 95 % intervals, and the footnote says how they were made and which are left out; where there
  are none (summaries without records), none is drawn.
"""

import textwrap
from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from gnm.analysis.drawing import plot_lines
from gnm.analysis.intervals import drawn_intervals, footnote, with_interval_kinds
from gnm.analysis.style import in_order, method_style, style
from gnm.analysis.tables import DEFAULT_FIGURES, heading
from gnm.errors import DataError

_ROW = 0.26
_LINES = 7.2  # inches that a panel of lines and its legend take
_TITLE = 21  # letters of a panel's title that fit on a line
_LETTERS = 18  # of the footnote, on an inch
_MOST_AGES = 40  # that a line shows one by one


def metric_bars(metrics: pd.DataFrame, title: str, figures: Sequence[str] = DEFAULT_FIGURES) -> Figure:
    """One panel a metric, one horizontal bar a method, in percent.

    Raises DataError when no method has one of `figures`.
    """
    methods = _methods(metrics, figures)
    with style():
        figure = Figure(figsize=(2.2 + 1.75 * len(figures), 1.0 + _ROW * len(methods)), layout="constrained")
        figure.suptitle(title, fontsize=10.5)
        _bars(figure.subplots(1, len(figures), sharey=True, squeeze=False)[0], metrics, methods, figures)
        _note(figure, metrics[metrics["metric"].isin(figures)])
    return figure


def retention_lines(metrics: pd.DataFrame, title: str, figure_name: str = "retention") -> Figure:
    """Accuracy against the number of documents written since, one line a method.

    Methods stand a little beside each other at every age, so that their whiskers can be told apart;
    variants of one method differ in the dashes. `figure_name` may be "retention_generated".
    Raises DataError when no method has it.
    """
    methods = _methods(metrics, [figure_name])
    with style():
        figure = Figure(figsize=(_LINES, max(3.0, 1.0 + 0.24 * len(methods))), layout="constrained")
        figure.suptitle(title, fontsize=10.5)
        _lines(figure.subplots(), metrics, methods, figure_name)
        _note(figure, metrics[metrics["metric"] == figure_name])
    return figure


def overview(
    metrics: pd.DataFrame, title: str, figures: Sequence[str] = DEFAULT_FIGURES, figure_name: str = "retention"
) -> Figure:
    """`metric_bars` above `retention_lines`: the whole comparison on one page.

    Where there are no ages to compare (single documents, formats alone) the bars stand alone.
    """
    if not (metrics.loc[metrics["metric"] == figure_name, "age"] > 0).any():
        return metric_bars(metrics, title, figures)
    methods = _methods(metrics, [*figures, figure_name])
    with style():
        upper, lower = 0.7 + _ROW * len(methods), max(2.6, 0.7 + 0.23 * len(methods))
        # lines need their width, however few bars there are
        width = max(_LINES, 2.2 + 1.75 * len(figures))
        figure = Figure(figsize=(width, 0.7 + upper + lower), layout="constrained")
        figure.suptitle(title, fontsize=10.5)
        top, bottom = figure.subfigures(2, 1, height_ratios=[upper, lower], hspace=0.04)
        _bars(top.subplots(1, len(figures), sharey=True, squeeze=False)[0], metrics, methods, figures)
        axes = bottom.subplots()
        _lines(axes, metrics, methods, figure_name)
        axes.set_title(f"{heading(figure_name)}: accuracy by age of the fact")
        _note(figure, metrics[metrics["metric"].isin([*figures, figure_name])])
    return figure


def _methods(metrics: pd.DataFrame, figures: Sequence[str]) -> list[str]:
    if absent := [name for name in figures if name not in set(metrics["metric"])]:
        raise DataError(
            f"nothing to draw for {', '.join(absent)}; the frame has: {', '.join(sorted(set(metrics['metric'])))}"
        )
    return in_order(metrics.loc[metrics["metric"].isin(figures), "method"])


def _bars(panels: Sequence[Axes], metrics: pd.DataFrame, methods: Sequence[str], figures: Sequence[str]) -> None:
    for axes, name in zip(panels, figures, strict=True):
        rows = drawn_intervals(with_interval_kinds(metrics[metrics["metric"] == name]))
        cells = rows.set_index("method").reindex(methods)
        for row, (method, cell) in enumerate(cells.iterrows()):
            if pd.isna(cell["value"]):
                continue
            shown = method_style(method)
            value, low, high = (100 * float(cell[key]) for key in ("value", "low", "high"))
            axes.barh(row, value, height=0.72, facecolor=shown.face, edgecolor=shown.color, linewidth=1.2)
            edge = value
            if not np.isnan(low):
                edge = max(high, value)
                whiskers = [[max(value - low, 0)], [max(high - value, 0)]]
                axes.errorbar(value, row, xerr=whiskers, color="#222222", linewidth=1.0, capsize=2)
            axes.annotate(
                f"{value:.0f}",
                (edge, row),
                xytext=(3, 0),
                textcoords="offset points",
                va="center",
                fontsize=8,
                color="#222222",
            )
        axes.set_title(textwrap.fill(f"{heading(name)},\N{NO-BREAK SPACE}%", _TITLE))
        axes.set_xlim(0, 118)
        axes.set_xticks(range(0, 101, 25))
        axes.grid(axis="y", visible=False)
        axes.tick_params(axis="y", length=0)
    panels[0].set_yticks(range(len(methods)), [method_style(method).name for method in methods])
    panels[0].set_ylim(len(methods) - 0.4, -0.6)


def _lines(axes: Axes, metrics: pd.DataFrame, methods: Sequence[str], name: str) -> None:
    rows = drawn_intervals(with_interval_kinds(metrics[metrics["metric"] == name]))
    oldest = int(rows["age"].max())
    width = 1 if oldest < _MOST_AGES else -(-(oldest + 1) // 10)  # ages of each of some ten points
    plot_lines(axes, rows if width == 1 else _spans(rows, width), methods, "age")
    axes.set_ylim(0, 103)
    axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0), borderaxespad=0)
    axes.set_xlim(-0.5, oldest + 0.5)
    axes.set_xticks(range(0, oldest + 1, max(1, round(oldest / 10))))
    means = "" if width == 1 else f" (pooled over {width} each, without intervals)"
    axes.set_xlabel(f"Documents written since the fact's own{means}")
    axes.set_ylabel(f"{'Accuracy (generated)' if name.endswith('_generated') else 'Accuracy'}, %")


def _spans(rows: pd.DataFrame, width: int) -> pd.DataFrame:
    """Each method's values pooled over `width` ages, by their samples; `age` is the mean of these. No intervals."""
    weight, age = rows["samples"].astype(float).fillna(1.0), rows["age"].astype(float)
    parts = rows[["method"]].assign(span=age // width, age=age, weight=weight, sum=weight * rows["value"])
    pooled = parts.groupby(["method", "span"], as_index=False).agg({"age": "mean", "weight": "sum", "sum": "sum"})
    return pooled.assign(value=pooled["sum"] / pooled["weight"], low=np.nan, high=np.nan)


def _note(figure: Figure, metrics: pd.DataFrame) -> None:
    ages = metrics["age"].notna()
    if ages.any() and metrics["age"].max() >= _MOST_AGES:  # drawn pooled, without intervals
        metrics = metrics[~ages]
    note = footnote(drawn_intervals(with_interval_kinds(metrics)))
    text = textwrap.fill(note, int(_LETTERS * figure.get_figwidth()))
    figure.supxlabel(text, fontsize=7.5, color="#555555", x=0.99, ha="right")
