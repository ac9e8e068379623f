"""Sentences whose numbers are read from the data. Where no method has anything to tell, they raise DataError."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from gnm.analysis.cost_figures import cost_by_documents
from gnm.analysis.saved import SavedEvaluation
from gnm.analysis.style import in_order, method_style
from gnm.analysis.tables import heading
from gnm.errors import DataError


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
    return f"{heading(measure)} with age, in percent: {listed(told, measure)}."


def corners(frame: pd.DataFrame, measure: str) -> str:
    """A sentence: a measure on the first document, right after writing and after the last document."""
    told = []
    for method in in_order(frame["method"]):
        rows = frame[(frame["method"] == method) & (frame["measure"] == measure) & (frame["q"] == 0)].sort_values("t")
        if len(rows):
            told.append(f"{method_style(method).name} {_percent(rows.iloc[0])}, then {_percent(rows.iloc[-1])}")
    return f"{heading(measure)} on the first document, right after it and at the stream's end: {listed(told, measure)}."


def growth(evaluations: Mapping[str, SavedEvaluation]) -> str:
    """A sentence: how many times as much a question costs at the end of the stream as at its beginning."""
    frame = cost_by_documents(evaluations)
    told = []
    for method in in_order(frame["method"]):
        rows = frame[(frame["method"] == method) & frame["measure"].isin(["query_flops", "flops_per_token"])]
        if len(rows):
            first, last = rows.iloc[0], rows.iloc[-1]
            told.append(f"{method_style(method).name} {last['value'] / first['value']:.2f} times")
    return f"Operations of a question at the stream's end, against its first document: {listed(told, 'query_flops')}."


def listed(told: Sequence[str], measure: str) -> str:
    """What is told of each method, in a row. Raises DataError where no method has the measure."""
    if not told:
        raise DataError(f"no method has {measure}")
    return "; ".join(told)


def with_interval(row: pd.Series, scale: float, digits: int) -> str:
    """A value with its interval, where it has one; one without width would look certain, and is left out."""
    value, low, high = (scale * row[key] for key in ("value", "low", "high"))
    text = f"{value:.{digits}f}"
    return text if pd.isna(low) or np.isclose(low, high) else f"{text} [{low:.{digits}f}, {high:.{digits}f}]"


def _percent(row: pd.Series) -> str:
    return with_interval(row, 100, 1)
