"""What a memory with a long-term store holds while a stream of documents is written: the drawing of the monitor.

The numbers are those of `gnm inspect --stats` after each document, as `gnm.probing.monitor` records them.
"""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from gnm.analysis.drawing import PAGE, legend_below, sheet
from gnm.analysis.style import BLUE, GREEN, ORANGE, PURPLE, VERMILLION, style
from gnm.errors import DataError

COLUMNS = ["stream", "seen", "number", "age", "pool", "stored", "strength", "evicted", "retrieved", "merged"]
"""Stream, documents written by then, and of one of them the fields of `DocumentStatistics`."""
_SLOTS = {"pool": ("slots in the pool", BLUE), "stored": ("slots in the store", ORANGE)}
_EVENTS = {  # title, colour, line, marker
    "evicted": ("segments evicted, in the store", VERMILLION, "-", "o"),
    "merged": ("merges: told by another document too", GREEN, "--", "s"),
    "retrieved": ("Retrievals of what is held", PURPLE, "-", "^"),
}
_MARKS, _HIGH, _LETTERS = 7, 4.6, 7.5


def stream_figure(frame: pd.DataFrame, title: str) -> Figure:
    """Above, over the stream: slots of pool and store, segments evicted and merged, retrievals of all documents.
    Below, by age after its last document: slots, mean strength of a slot, retrievals.

    frame: COLUMNS, a row for each document that holds a slot. Drawn are means over streams. DataError if it is empty.
    """
    if frame.empty:
        raise DataError("no document of the stream has a slot; there is nothing to draw")
    streams, last = frame["stream"].nunique(), int(frame["seen"].max())
    counts = [*_SLOTS, *_EVENTS]
    over = frame.groupby("seen")[counts].sum().reindex(range(1, last + 1), fill_value=0) / streams
    end = frame[frame["seen"] == last]
    aged = end.groupby("age")[counts].sum().reindex(range(last), fill_value=0) / streams
    of = f"Means over {streams} streams" if streams > 1 else "Counts of one stream"
    note = f"{of} of {last} documents, without intervals. What was replaced or dropped is counted no more."
    figure, body = sheet(PAGE, _HIGH, title, note)
    with style():
        panels = body.subplots(2, 3)
        slots, events, asked, by_age, strengths, read = panels.flat
        slots.stackplot(over.index, *(over[name] for name in _SLOTS), colors=[color for _, color in _SLOTS.values()],
                        labels=[label for label, _ in _SLOTS.values()], linewidth=0)  # fmt: skip
        _finish(slots, "Slots", "documents written")
        for name in ("evicted", "merged"):
            _line(events, over, name)
        _finish(events, "Segments", "documents written")
        _line(asked, over, "retrieved")
        _finish(asked, _EVENTS["retrieved"][0], "documents written")
        below = np.zeros(last)
        for name, (_, color) in _SLOTS.items():
            by_age.bar(aged.index, aged[name], bottom=below, color=color, width=1.0)
            below = below + aged[name].to_numpy()
        _finish(by_age, "Slots of a document", "documents written since")
        known = end.dropna(subset="strength").groupby("age")["strength"].mean()
        strengths.plot(known.index, known, color=BLUE, linestyle="", marker=".")
        _finish(strengths, "Mean strength of its slots", "documents written since", top=1.05)
        read.bar(aged.index, aged["retrieved"], color=_EVENTS["retrieved"][1], width=0.9)
        _finish(read, "Retrievals of a document", "documents written since")
        legend_below(body, [slots, events], PAGE)
    return figure


def _line(axes: Axes, over: pd.DataFrame, name: str) -> None:
    label, color, dashes, marker = _EVENTS[name]
    every = max(1, len(over) // _MARKS)
    axes.plot(over.index, over[name], color=color, linestyle=dashes, marker=marker, markevery=every, label=label)


def _finish(axes: Axes, title: str, along: str, top: float | None = None) -> None:
    axes.set_title(title, fontsize=_LETTERS + 1)
    axes.set_xlabel(along, fontsize=_LETTERS)
    axes.tick_params(labelsize=_LETTERS)
    axes.set_ylim(0, top)
