"""Sentences on the memory analysis whose numbers are read from the data."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from gnm.analysis.memory import by_layer, lost_by_swap, peaks
from gnm.analysis.memory_saved import ABOVE, read_layers, read_swap
from gnm.analysis.sentences import listed, with_interval
from gnm.analysis.style import in_order, method_style
from gnm.errors import DataError

Band = tuple[float, float]
"""A part of a decoder's depth, such as (0.25, 0.5)."""


def where_it_acts(folder: Path) -> str:
    """Where the lines that an instruction is about change most above the others, by method.

    An interval of one layer, such as [18, 18], stands: layers are whole numbers, and 95 % of the resamples have it.
    """
    found = peaks(read_layers(folder)).set_index("method")
    clauses = []
    for method in in_order(found.index):
        row = found.loc[method]
        ends = "" if pd.isna(row["low"]) else f" [{row['low']:.0f}, {row['high']:.0f}]"
        clauses.append(
            f"{method_style(method).name} at layer {int(row['layer'])} of 0 to {int(row['layers']) - 1}{ends}, by "
            f"{100 * row['value']:.1f} % of a slot's length, half of it by layer {int(row['half'])}"
        )
    return f"The lines that the instruction is about change most, above the other lines: {'; '.join(clauses)}."


def against_band(folder: Path, band: Band, methods: Sequence[str]) -> str:
    """Whether the lines that the instruction is about begin to change more, and do so most, in `band` of the depth."""
    found = peaks(read_layers(folder)).set_index("method")
    clauses = []
    for method in in_order(set(methods) & set(found.index)):
        row = found.loc[method]
        half, highest = (row[key] / row["layers"] for key in ("half", "layer"))
        clauses.append(
            f"{method_style(method).name} has half of the difference at {100 * half:.0f} % of the depth "
            f"({_place(half, band)}) and all of it at {100 * highest:.0f} % ({_place(highest, band)})"
        )
    return f"Published: {100 * band[0]:.0f} to {100 * band[1]:.0f} % of the depth. Here {listed(clauses, ABOVE)}."


def levels(folder: Path, measure: str, words: str, scale: float = 1.0) -> str:
    """A measure's mean over all layers by method, with the interval over targets."""
    frame = read_layers(folder)
    mean = frame[frame["measure"] == measure].groupby(["method", "target"], as_index=False)["value"].mean()
    rows = by_layer(mean.assign(measure=measure, layer=0), [measure]).set_index("method")
    clauses = [
        f"{method_style(method).name} {with_interval(rows.loc[method], scale, 2)}" for method in in_order(rows.index)
    ]
    return f"{words}, mean over layers: {'; '.join(clauses)}."


def without_swap(folder: Path) -> str:
    """What the method answers rightly as it is, before any layer is swapped."""
    answers = read_swap(folder)
    plain = answers[answers["kind"] == "none"].assign(layer=0, method="plain", value=lambda rows: rows["right"] * 1.0)
    rows = by_layer(plain.groupby(["method", "measure", "layer", "target"], as_index=False)["value"].mean(),
                    ["accuracy", "selectivity"]).set_index("measure")  # fmt: skip
    clauses = [f"{measure} {with_interval(row, 100, 2)} %" for measure, row in rows.iterrows()]
    return f"With no layer swapped: {', '.join(clauses)}."


def most_lost(folder: Path, measure: str, words: str) -> str:
    """The swapped layers at which a measure loses most, for writing, reading and both."""
    rows = lost_by_swap(read_swap(folder))
    clauses = []
    for kind in ("writing", "reading", "both"):
        own = rows[(rows["measure"] == measure) & (rows["kind"] == kind)]
        if len(own):
            row = own.loc[own["value"].idxmax()]
            layers = f"layer {row['first']}" if row["first"] == row["last"] else f"layers {row['first']}–{row['last']}"
            clauses.append(f"for {kind} {with_interval(row, 1, 2)} ({layers})")
    return f"{words} lost most where adapters are swapped: {listed(clauses, measure)}."


def difference(folder: Path, methods: tuple[str, str], measure: str = ABOVE) -> str:
    """By how much the first method's largest mean of a measure is above the second's at the same layer.

    Raises DataError where not both have it there, of the same targets.
    """
    frame = read_layers(folder)
    first, second = methods
    highest = peaks(frame, measure).set_index("method")
    names = [method_style(method).name for method in methods]
    if absent := [name for method, name in zip(methods, names, strict=True) if method not in highest.index]:
        raise DataError(f"{folder} has no {measure} of {' and '.join(absent)} to compare")
    layer = highest.loc[first, "layer"]
    own = frame[(frame["measure"] == measure) & (frame["layer"] == layer)]
    wide = own.pivot(index="target", columns="method", values="value").reindex(columns=list(methods)).dropna()
    if wide.empty:
        raise DataError(f"{names[0]} and {names[1]} have no target in common at layer {layer} under {folder}")
    gap = pd.DataFrame({"method": "gap", "measure": measure, "layer": layer, "target": wide.index,
                        "value": (wide[first] - wide[second]).to_numpy()})  # fmt: skip
    row = by_layer(gap, [measure]).iloc[0]
    return f"At layer {layer} {names[0]} is above {names[1]} by {with_interval(row, 100, 2)} points."


def _place(share: float, band: Band) -> str:
    return "before it" if share < band[0] else "within" if share <= band[1] else "behind it"
