"""What methods cost against documents seen: a panel a kind of cost, a line a method.

What a panel leaves out is named in the footnote: what costs nothing, seconds and bytes of another device, a method
that costs so much more than all others that these could not be told apart, and numbers that stand at one place only.
"""

import textwrap
from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from gnm.analysis.drawing import legend_below, plot_lines
from gnm.analysis.lines import finish, line_panels, panels_across
from gnm.analysis.saved import SavedEvaluation
from gnm.analysis.style import in_order, method_style, style
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
_APART = 10  # times the next dearest method's cost, from which the dearest is not drawn
_OF_A_DEVICE = ("query_seconds", "write_seconds", "bytes")
_NO_INTERVALS = "No intervals: a cost is counted, or was saved as the mean over sequences."
_IN_TURN = 4  # methods whose markers take turns on lines of cost, which often lie on each other
_LETTERS = {1: 36, 2: 36, 3: 20}  # of a panel's title, by panels across


def cost_by_documents(evaluations: Mapping[str, SavedEvaluation]) -> pd.DataFrame:
    """Cost of every method that saved it: columns method, measure (a key of COST), t, value, device (None: not saved).

    A published summary without a cost file gives its `flops_per_token`. Raises DataError when no method has any.
    """
    rows = []
    for method, evaluation in evaluations.items():
        cost = evaluation.cost
        if cost is None:
            cost = {"flops_per_token": np.atleast_1d(evaluation.summary.get("flops_per_token", [[]])[-1]).tolist()}
        rows += [
            (method, key, t, value, evaluation.device)
            for key in COST
            for t, value in enumerate(cost.get(key, []))
            if value
        ]
    if not rows:
        raise DataError("no evaluation has saved its cost")
    return pd.DataFrame(rows, columns=["method", "measure", "t", "value", "device"])


def cost_lines(frame: pd.DataFrame, title: str) -> Figure:
    """A panel a kind of cost that the frame (`cost_by_documents`) has; a logarithmic scale where it varies much.

    The footnote names the device, where the frame has it, what is left out, and why there are no intervals. Raises
    DataError where no cost is known after more than one number of documents.
    """
    shown, notes = _of_one_device(frame)
    parts = {}
    for measure in (key for key in COST if key in set(shown["measure"])):
        rows = shown[shown["measure"] == measure]
        if rows["t"].nunique() == 1:
            notes.append(_at_one_place(rows, measure))
            continue
        parts[measure], left_out = _comparable(rows, measure)
        notes += left_out
    if not parts:
        raise DataError("the cost is that of single documents; there is nothing to follow")
    methods = in_order(pd.concat(parts.values())["method"])
    figure, body, panels = line_panels(title, len(parts), len(methods), " ".join([*notes, _NO_INTERVALS]))
    with style():
        for axes, (measure, rows) in zip(panels, parts.items(), strict=True):
            name, scale = COST[measure]
            along = rows.assign(low=np.nan, high=np.nan, t=rows["t"] + 1)
            plot_lines(axes, along, methods, "t", scale, markers=min(len(methods), _IN_TURN))
            _scale(axes, rows["value"].min(), rows["value"].max(), scale)
            axes.set_title(textwrap.fill(name, _LETTERS[panels_across(len(parts))]))
            finish(axes, 1, int(frame["t"].max()) + 1, "t")
        legend_below(body, panels, figure.get_figwidth())
    return figure


def _scale(axes: Axes, least: float, most: float, scale: float) -> None:
    if least > 0 and most > _WIDE * least:
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1.0,) if most > _DECADES * least else (1.0, 2.0, 5.0)))
        axes.yaxis.set_minor_formatter(NullFormatter())
    else:
        axes.set_ylim(-0.04 * scale * most, 1.15 * scale * most)  # markers at 0 are whole
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))


def _of_one_device(frame: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """The frame without the seconds and bytes of all devices but the one that most methods were measured on."""
    timed = frame["measure"].isin(_OF_A_DEVICE)
    if "device" not in frame or frame.loc[timed, "device"].isna().all():
        return frame, []
    devices = frame[timed].fillna({"device": "a device that was not saved"}).drop_duplicates("method")
    devices = devices.set_index("method")["device"].reindex(in_order(devices["method"]))
    usual = devices.value_counts(sort=False).idxmax()
    others = devices[devices != usual]
    if others.empty:
        return frame, [f"Measured on: {_in_words(usual)}."]
    named = "; ".join(f"{_names(part.index)} on {_in_words(device)}" for device, part in others.groupby(others))
    note = f"Seconds and MB are those on {_in_words(usual)}; they don't compare with those of {named}, not drawn."
    return frame[~(timed & frame["method"].isin(others.index))], [note]


def _at_one_place(rows: pd.DataFrame, measure: str) -> str:
    """A cost that is known after one number of documents only, in a sentence."""
    name, scale = COST[measure]
    values = rows.set_index("method")["value"]
    costs = ", ".join(f"{method_style(method).name} {scale * values[method]:.2g}" for method in in_order(values.index))
    return f"{name}, after {int(rows['t'].iloc[0]) + 1} documents: {costs}."


def _comparable(rows: pd.DataFrame, measure: str) -> tuple[pd.DataFrame, list[str]]:
    """The rows without methods that cost nothing, nor the dearest where the others could not be told apart beside it;
    and sentences on these."""
    (name, scale), notes = COST[measure], []
    most = rows.groupby("method")["value"].max().sort_values()
    nothing, most = most[most == 0].index, most[most > 0]
    if len(nothing) and len(most):
        notes.append(f"{name}: nothing for {_names(nothing)}.")
    if len(most) > 2 and most.iloc[-1] > _APART * most.iloc[-2]:
        dearest, most = most.iloc[-1:], most.iloc[:-1]
        notes.append(f"{name}, not drawn: {_names(dearest.index)}, up to {scale * dearest.iloc[0]:,.0f}.")
    return (rows[rows["method"].isin(most.index)] if len(most) else rows), notes


def _names(methods: pd.Index) -> str:
    return ", ".join(method_style(method).name for method in in_order(methods))


def _in_words(device: str) -> str:
    return device.replace(" 1 threads", " 1 thread")
