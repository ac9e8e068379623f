"""Sentences whose numbers are read from the data."""

from collections.abc import Mapping

import pandas as pd

from gnm.analysis.cost_figures import cost_by_documents
from gnm.analysis.saved import SavedEvaluation
from gnm.analysis.style import in_order, method_style
from gnm.analysis.tables import heading


def ranking(metrics: pd.DataFrame, figure: str = "score", order: str = "best") -> str:
    """A sentence: the methods by one metric, highest first (`order` says it in a word), with intervals."""
    rows = metrics[(metrics["metric"] == figure) & metrics["age"].isna()].sort_values("value", ascending=False)
    if rows.empty:
        return f"{heading(figure)}: no method has it."
    told = [f"{method_style(row['method']).name} {_percent(row)}" for _, row in rows.iterrows()]
    return f"{heading(figure)} in percent, {order} first: {'; '.join(told)}."


def with_age(frame: pd.DataFrame, measure: str) -> str:
    """A sentence: how a measure of each method changes from the youngest to the oldest age."""
    told = []
    for method in in_order(frame["method"]):
        rows = frame[(frame["method"] == method) & (frame["measure"] == measure)].sort_values("age")
        if len(rows):
            first, last = rows.iloc[0], rows.iloc[-1]
            told.append(
                f"{method_style(method).name} from {_percent(first)} (age {first['age']}) to {_percent(last)} "
                f"(age {last['age']})"
            )
    return f"{heading(measure)} with age, in percent: {'; '.join(told)}." if told else ""


def corners(frame: pd.DataFrame, measure: str) -> str:
    """A sentence: a measure on the first document, right after writing and after the last document."""
    told = []
    for method in in_order(frame["method"]):
        rows = frame[(frame["method"] == method) & (frame["measure"] == measure) & (frame["q"] == 0)].sort_values("t")
        if len(rows):
            told.append(f"{method_style(method).name} {_percent(rows.iloc[0])}, then {_percent(rows.iloc[-1])}")
    return f"{heading(measure)} on the first document, right after it and at the stream's end: {'; '.join(told)}."


def growth(evaluations: Mapping[str, SavedEvaluation]) -> str:
    """A sentence: how many times as much a question costs at the end of the stream as at its beginning."""
    frame = cost_by_documents(evaluations)
    told = []
    for method in in_order(frame["method"]):
        rows = frame[(frame["method"] == method) & frame["measure"].isin(["query_flops", "flops_per_token"])]
        if len(rows):
            first, last = rows.iloc[0], rows.iloc[-1]
            told.append(f"{method_style(method).name} {last['value'] / first['value']:.2f} times")
    return f"Operations of a question at the stream's end, against its first document: {'; '.join(told)}."


def _percent(row: pd.Series) -> str:
    text = f"{100 * row['value']:.1f}"
    return text if pd.isna(row["low"]) else f"{text} [{100 * row['low']:.1f}, {100 * row['high']:.1f}]"
