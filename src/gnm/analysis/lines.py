"""Measures against age, against documents seen, and cost against documents seen: a panel a measure, a line a method."""

import textwrap
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from gnm.analysis.drawing import COLUMN, PAGE, footnote, legend_below, methods_of, plot_lines, reference_line, sheet
from gnm.analysis.saved import SavedEvaluation
from gnm.analysis.style import in_order, method_style, style
from gnm.analysis.tables import heading
from gnm.errors import DataError

COST = {  # what a cost file holds, and what is counted, in which unit it is shown
    "write_flops": ("Writing one document, GFLOP", 1e-9),
    "query_flops": ("One question, GFLOP", 1e-9),
    "query_seconds": ("One question, seconds", 1.0),
    "write_seconds": ("Writing one document, seconds", 1.0),
    "kept": ("Kept: slots or tokens", 1.0),
    "bytes": ("Kept, MB", 1e-6),
    "flops_per_token": ("Published: a pass over two questions, GFLOP", 1e-9),
}
_WIDE, _DECADES = 4, 100  # largest over smallest cost from which a scale is logarithmic, and has only powers of ten
_OF_A_DEVICE = ("query_seconds", "write_seconds", "bytes")
_LONG = 12  # groups from which lines of measures have markers at every third
_AXIS = {"age": "Documents written since", "t": "Documents seen"}
_IN_TURN = 4  # methods whose markers take turns on lines of cost, which often lie on each other
_LETTERS = {1: 36, 2: 36, 3: 20}  # of a panel's title, by panels across


def measure_lines(
    frame: pd.DataFrame, title: str, measures: Sequence[str], along: str = "age", reference: str | None = None
) -> Figure:
    """Panels of `measures` in percent; `frame` is `measure_frame(..., by=along)`.

    The method `reference` is a dashed line at its mean over the panel's groups, where the frame has it.
    Raises DataError when no method has one of `measures`, or the documents are single.
    """
    methods = methods_of(frame, measures)
    if frame[along].max() < 1:
        raise DataError("the evaluations are of single documents; there is nothing to follow")
    lines = [method for method in methods if method != reference]
    panels_of = {measure: frame[frame["measure"] == measure] for measure in measures}
    note = footnote(frame[frame["measure"].isin(measures)])
    figure, body, panels = _panels(title, len(measures), len(methods), note)
    with style():
        for axes, (measure, rows) in zip(panels, panels_of.items(), strict=True):
            shown = rows.assign(**{along: rows[along] + (along == "t")})
            markers = 3 if shown[along].nunique() > _LONG else 1
            plot_lines(axes, shown[shown["method"] != reference], lines, along, markers=markers)
            axes.set_title(f"{heading(measure)}, %")
            axes.set_ylim(-4, 104)
            _finish(axes, int(shown[along].min()), int(shown[along].max()), along)
            flat = rows.loc[rows["method"] == reference, "value"]
            if len(flat):
                reference_line(axes, float(flat.mean()), method_style(reference).name)
        legend_below(body, panels, figure.get_figwidth())
    return figure


def cost_by_documents(evaluations: Mapping[str, SavedEvaluation]) -> pd.DataFrame:
    """Cost of every method that saved it: columns method, measure (a key of COST), t, value, device (None: not saved).

    A published summary without a cost file gives its `flops_per_token`. Raises DataError when no method has any.
    """
    rows = []
    for method, evaluation in evaluations.items():
        cost = evaluation.cost
        if cost is None:
            cost = {"flops_per_token": np.atleast_1d(evaluation.summary.get("flops_per_token", [[]])[-1]).tolist()}
        device = evaluation.run_config.get("made", {}).get("device")
        rows += [(method, key, t, value, device) for key in COST for t, value in enumerate(cost.get(key, [])) if value]
    if not rows:
        raise DataError("no evaluation has saved its cost")
    return pd.DataFrame(rows, columns=["method", "measure", "t", "value", "device"])


def cost_lines(frame: pd.DataFrame, title: str) -> Figure:
    """A panel a kind of cost that the frame (`cost_by_documents`) has; a logarithmic scale where it varies much, but
    from 0 where a method has none of it.

    The footnote names the devices, where the frame has them.
    """
    methods, has = in_order(frame["method"]), set(frame["measure"])
    measures = [key for key in COST if key in has]
    figure, body, panels = _panels(title, len(measures), len(methods), _devices(frame))
    with style():
        for axes, measure in zip(panels, measures, strict=True):
            rows = frame[frame["measure"] == measure].assign(low=np.nan, high=np.nan)
            name, scale = COST[measure]
            plot_lines(axes, rows.assign(t=rows["t"] + 1), methods, "t", scale, markers=min(len(methods), _IN_TURN))
            least, most = rows["value"].min(), rows["value"].max()
            if least > 0 and most > _WIDE * least:
                axes.set_yscale("log")
                axes.yaxis.set_major_locator(LogLocator(subs=(1.0,) if most > _DECADES * least else (1.0, 2.0, 5.0)))
                axes.yaxis.set_minor_formatter(NullFormatter())
            else:
                axes.set_ylim(-0.04 * scale * most, 1.15 * scale * most)  # markers at 0 are whole
            axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))
            axes.set_title(textwrap.fill(name, _LETTERS[_across(len(measures))]))
            _finish(axes, 1, int(frame["t"].max()) + 1, "t")
        legend_below(body, panels, figure.get_figwidth())
    return figure


def _devices(frame: pd.DataFrame) -> str:
    """On which device each method was measured."""
    if "device" not in frame or frame["device"].isna().all():
        return ""
    timed = frame[frame["measure"].isin(_OF_A_DEVICE)].dropna(subset="device")
    made = {
        device: ", ".join(method_style(method).name for method in in_order(rows["method"]))
        for device, rows in timed.groupby("device")
    }
    if len(made) == 1:
        return f"Measured on: {next(iter(made))}."
    return f"Seconds and MB compare within one device. {'; '.join(f'{one}: {names}' for one, names in made.items())}."


def _panels(title: str, count: int, methods: int, note: str) -> tuple[Figure, SubFigure, list[Axes]]:
    """At most three panels in a row; all of a column's width, or a page's for several."""
    across = _across(count)
    down = -(-count // across)
    figure, body = sheet(PAGE if across > 1 else COLUMN, 0.5 + 2.2 * down + 0.2 * -(-methods // across), title, note)
    with style():
        panels = list(body.subplots(down, across, squeeze=False).flatten())
    for axes in panels[count:]:
        axes.remove()
    return figure, body, panels[:count]


def _across(count: int) -> int:
    return 2 if count == 4 else min(count, 3)


def _finish(axes: Axes, first: int, last: int, along: str) -> None:
    step = max(1, round((last - first) / 5))
    axes.set_xticks([first, *(place for place in range(0, last + 1, step) if place > first + step / 2)])
    margin = max(0.5, 0.035 * (last - first))  # of whole markers
    axes.set_xlim(first - margin, last + margin)
    axes.set_xlabel(_AXIS[along], fontsize=8)
