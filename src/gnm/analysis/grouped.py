"""Bars beside each other: groups across (ages, folders of evaluations, measures), a bar a method."""

import textwrap
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from gnm.analysis.drawing import (
    COLUMN,
    PAGE,
    legend_below,
    methods_of,
    named,
    reference_band,
    reference_line,
    sheet,
    variant_number,
)
from gnm.analysis.intervals import drawn_intervals, footnote, with_interval_kinds
from gnm.analysis.style import method_hatch, method_style, style
from gnm.errors import DataError

_BAR = 0.19  # inches from which a number fits over a bar
_PALER = (0.0, 0.45, 0.7, 0.85, 1.0)  # the faces of a method's variants, of the way to white
_LETTERS = 24  # of a panel's measure, on its height
_MOST_GROUPS = 4  # whose names fit beside each other in a column
_NEAR = 7  # points of a reference above a bar that its number would stand on
_BEHIND = {"boxstyle": "square,pad=0.08", "facecolor": "white", "edgecolor": "none", "alpha": 0.85}


def at_ages(frame: pd.DataFrame, ages: Sequence[int]) -> pd.DataFrame:
    """The rows of `measure_frame(..., by="age")` at chosen ages, as groups; ages that no method has are left out.

    Raises DataError when none is left.
    """
    rows = frame[frame["age"].isin(ages)].sort_values("age", kind="stable")
    if rows.empty:
        raise DataError(f"no method was asked at age {', '.join(map(str, ages))}")
    return rows.assign(group=[f"Age {age}" for age in rows["age"]])


def of_folders(folders: Mapping[str, pd.DataFrame], measures: Sequence[str]) -> pd.DataFrame:
    """Metrics of several folders as groups, by the folders' names in words; raises DataError for none."""
    parts = [_metric_rows(metrics, measures).assign(group=group) for group, metrics in folders.items()]
    if not sum(map(len, parts)):
        raise DataError(f"no folder has {', '.join(measures)}")
    return pd.concat(parts, ignore_index=True)


def of_measures(metrics: pd.DataFrame, measures: Sequence[str], label: str = "figures_of_merit") -> pd.DataFrame:
    """Metrics as groups of one panel, in the order of `measures`; raises DataError when there is none.

    `label`: the measure that the panel is of.
    """
    rows = _metric_rows(metrics, measures)
    if rows.empty:
        raise DataError(f"no method has {', '.join(measures)}")
    rows = rows.sort_values("measure", key=lambda names: names.map(list(measures).index), kind="stable")
    return rows.assign(group=rows["measure"].map(named), measure=label)


def _metric_rows(metrics: pd.DataFrame, measures: Sequence[str]) -> pd.DataFrame:
    rows = metrics[metrics["metric"].isin(measures) & metrics["age"].isna()].rename(columns={"metric": "measure"})
    return with_interval_kinds(rows)


def grouped_bars(
    frame: pd.DataFrame, title: str, measures: Sequence[str], reference: str | None = None, note: str = ""
) -> Figure:
    """A panel a measure, in percent; groups are the values of the frame's column `group`, in its order.

    The method `reference` is a dashed line across each group instead of a bar, where the frame has it, with its
    interval as a band. A method without a group's number has a dash in its place. `note` ends the footnote.
    Raises DataError when no method has one of `measures`.
    """
    frame = drawn_intervals(frame[frame["measure"].isin(measures)])
    methods = [method for method in methods_of(frame, measures) if method != reference]
    groups = list(dict.fromkeys(frame["group"]))
    bars = len(groups) * (len(methods) + 1)
    width = COLUMN if 0.6 + _BAR * bars <= COLUMN and len(groups) <= _MOST_GROUPS else PAGE
    height = 0.6 + 1.7 * len(measures) + 0.8 * len(methods) / width
    banded = frame.loc[frame["method"] == reference, "low"].notna().any()
    intervals = footnote(frame, "Whiskers and the dashed line's band" if banded else "Whiskers")
    figure, body = sheet(width, height, title, f"{intervals} {note}".strip())
    upright = 0.6 + _BAR * bars > PAGE
    with style():
        panels = body.subplots(len(measures), 1, squeeze=False, sharex=True)[:, 0]
        for axes, measure in zip(panels, measures, strict=True):
            rows = frame[frame["measure"] == measure]
            lines = rows[rows["method"] == reference].set_index("group")
            for number, (group, row) in enumerate(lines.iterrows()):
                place, reach = groups.index(group), 0.5 - 0.45 / (len(methods) + 1)
                name = "" if number else method_style(reference).name
                reference_line(axes, row["value"], name, (place - reach, place + reach), upright)
                reference_band(axes, (place - reach, place + reach), [row["low"]] * 2, [row["high"]] * 2)
            _bars(axes, rows, methods, groups, 100 * lines["value"].reindex(groups).to_numpy(dtype=float), upright)
            axes.set_ylabel(textwrap.fill(named(measure, ", %"), _LETTERS))
        legend_below(body, panels, width)
    return figure


def _bars(
    axes: Axes,
    rows: pd.DataFrame,
    methods: Sequence[str],
    groups: Sequence[str],
    lines: np.ndarray,
    upright: bool,
) -> None:
    """`lines`: the reference of each group, above which a number goes that would stand on it; NaN: none.
    `upright`: numbers over the bars are turned, where these are narrow."""
    share = 1 / (len(methods) + 1)
    for place, method in enumerate(methods):
        shown, variant = method_style(method), variant_number(methods, method) % len(_PALER)
        pale = _PALER[variant]
        cells = rows[rows["method"] == method].set_index("group").reindex(groups)
        x = np.arange(len(groups)) + share * (place - (len(methods) - 1) / 2)
        value, low, high = (100 * cells[key].to_numpy(dtype=float) for key in ("value", "low", "high"))
        for each in x[np.isnan(value)]:
            axes.annotate("–", (each, 0), xytext=(0, 1.5), textcoords="offset points", ha="center", fontsize=6.5)
        there = ~np.isnan(value)
        if not there.any():
            continue
        x, value, low, high, near = (each[there] for each in (x, value, low, high, lines))
        axes.bar(
            x,
            value,
            0.9 * share,
            facecolor=[pale + (1 - pale) * part for part in to_rgb(shown.face)],
            edgecolor=shown.color,
            linewidth=1.0,
            label=shown.name,
            hatch=method_hatch(method) * (1 + variant * shown.hollow),
            hatchcolor=shown.color if shown.hollow or variant else "white",
        )
        reach, known = np.where(np.isnan(high), value, np.maximum(high, value)), ~np.isnan(low)
        if known.any():
            whiskers = np.array([np.maximum(value - low, 0), reach - value])[:, known]
            axes.errorbar(
                x[known], value[known], yerr=whiskers, fmt="none", color="#222222", linewidth=1.0, capsize=1.5
            )
        lifted = np.where((near >= reach - 1) & (near <= reach + _NEAR), near, reach)
        for each, top, number in zip(x, lifted, value, strict=True):
            axes.annotate(
                f"{number:.0f}",
                (each, top),
                xytext=(0, 1.5),
                textcoords="offset points",
                ha="center",
                va="bottom",
                rotation=90 if upright else 0,
                fontsize=6.5,
                color="#222222",
                bbox=_BEHIND,
            )
    axes.set_xticks(range(len(groups)), [textwrap.fill(group, 12) for group in groups])
    axes.set_xlim(-0.6, len(groups) - 0.4)
    axes.set_ylim(0, 112)
    axes.set_yticks(range(0, 101, 25))
    axes.grid(axis="x", visible=False)
    axes.tick_params(axis="x", length=0)
