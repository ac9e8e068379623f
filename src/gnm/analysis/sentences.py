"""Sentences for reports and notebooks, their numbers read from saved evaluations.

Those that compare methods raise DataError if no method has the measure.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from gnm.analysis.cost_figures import cost_by_documents
from gnm.analysis.saved import SavedEvaluation
from gnm.analysis.style import in_order, method_style
from gnm.analysis.tables import heading
from gnm.errors import DataError


def ranking(metrics: pd.DataFrame, metric: str = "score", order: str = "best") -> str:
    """A sentence that ranks the methods by one metric, the highest value first, each with its interval.

    order: what the highest value is, in a word: "best", or "most" where more is not better.
    """
    rows = metrics[(metrics["metric"] == metric) & metrics["age"].isna()].sort_values("value", ascending=False)
    if rows.empty:
        return f"{heading(metric)}: no method has it."
    clauses = [f"{method_style(row['method']).name} {_percent(row)}" for _, row in rows.iterrows()]
    return f"{heading(metric)} in percent, {order} first: {'; '.join(clauses)}."


def with_age(frame: pd.DataFrame, measure: str) -> str:
    """A sentence on how a measure of each method changes from the youngest to the oldest age."""
    clauses = []
    for method in in_order(frame["method"]):
        rows = frame[(frame["method"] == method) & (frame["measure"] == measure)].sort_values("age")
        if len(rows):
            first, last = rows.iloc[0], rows.iloc[-1]
            clauses.append(
                f"{method_style(method).name} from {_percent(first)} (age {first['age']}) to {_percent(last)} "
                f"(age {last['age']})"
            )
    return f"{heading(measure)} with age, in percent: {listed(clauses, measure)}."


def corners(frame: pd.DataFrame, measure: str) -> str:
    """A sentence with a measure on the first document: right after it was written, and after the last document."""
    clauses = []
    for method in in_order(frame["method"]):
        rows = frame[(frame["method"] == method) & (frame["measure"] == measure) & (frame["q"] == 0)].sort_values("t")
        if len(rows):
            clauses.append(f"{method_style(method).name} {_percent(rows.iloc[0])}, then {_percent(rows.iloc[-1])}")
    return (
        f"{heading(measure)} on the first document, right after it and at the stream's end: {listed(clauses, measure)}."
    )


def growth(evaluations: Mapping[str, SavedEvaluation]) -> str:
    """A sentence on how many times as many FLOPs a question costs at the end of the stream as at its beginning."""
    frame = cost_by_documents(evaluations)
    clauses = []
    for method in in_order(frame["method"]):
        rows = frame[(frame["method"] == method) & frame["measure"].isin(["query_flops", "flops_per_token"])]
        if len(rows):
            first, last = rows.iloc[0], rows.iloc[-1]
            clauses.append(f"{method_style(method).name} {last['value'] / first['value']:.2f} times")
    return (
        f"Operations of a question at the stream's end, against its first document: {listed(clauses, 'query_flops')}."
    )


def listed(clauses: Sequence[str], measure: str) -> str:
    """The clauses, one for each method, joined. Raises DataError if there are none: no method has the measure."""
    if not clauses:
        raise DataError(f"no method has {measure}")
    return "; ".join(clauses)


def with_interval(row: pd.Series, scale: float, digits: int) -> str:
    """A value times `scale`, with its interval in brackets.

    An interval of no width is left out: it would make the value look certain.
    """
    value, low, high = (scale * row[key] for key in ("value", "low", "high"))
    text = f"{value:.{digits}f}"
    return text if pd.isna(low) or np.isclose(low, high) else f"{text} [{low:.{digits}f}, {high:.{digits}f}]"


def _percent(row: pd.Series) -> str:
    return with_interval(row, 100, 1)
