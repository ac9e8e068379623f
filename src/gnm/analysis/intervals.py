"""Intervals of measures in figures: how they were made, which are drawn, and the footnote that says so."""

import numpy as np
import pandas as pd

from gnm.analysis.style import in_order, method_style

_FEWEST = 5  # sequences from which a bootstrap's interval is drawn


def with_interval_kinds(metrics: pd.DataFrame) -> pd.DataFrame:
    """Metrics with a column `interval`: "bootstrap" from records, "wilson" from counts alone, or "none"."""
    made = np.where(metrics["sequences"].isna(), "wilson", "bootstrap")
    return metrics.assign(interval=np.where(metrics["low"].isna(), "none", made))


def drawn_intervals(frame: pd.DataFrame) -> pd.DataFrame:
    """The frame without the intervals that no figure draws (tables have them); `interval` says why: "few" or "alike".

    A bootstrap over fewer than five sequences says little. Of a share of 0 or 1 every resample is alike, so that the
    interval has no width, which would look certain.
    """
    few = (frame["sequences"] < _FEWEST).fillna(False).astype(bool)
    alike = (frame["interval"] == "bootstrap") & (np.isclose(frame["value"], 0) | np.isclose(frame["value"], 1))
    kinds = frame["interval"].mask(alike, "alike").mask(few, "few")
    return frame.assign(interval=kinds, **{end: frame[end].mask(few | alike) for end in ("low", "high")})


def footnote(frame: pd.DataFrame, marks: str = "Whiskers") -> str:
    """How the intervals of `drawn_intervals` were made, which are left out, and which methods have none.

    `marks`: what shows them.
    """
    kinds, parts = set(frame["interval"]), []
    if "bootstrap" in kinds:
        seen = frame.loc[frame["interval"] == "bootstrap", "sequences"].astype(int)
        size = f"{seen.min()} to {seen.max()}" if seen.min() < seen.max() else f"{seen.max()}"
        parts.append(f"{marks}: 95 % intervals, bootstrap over {size} sequences.")
    if "wilson" in kinds:
        parts.append(f"{marks} from a summary's counts: Wilson's 95 % intervals.")
    fewest = frame.loc[frame["interval"] == "few", "sequences"].min()
    left_out = {
        "few": f"over fewer than {_FEWEST} sequences (the fewest: {fewest})",
        "alike": "of 0 and 100 %, where every resample is alike",
    }
    if reasons := [words for kind, words in left_out.items() if kind in kinds]:
        parts.append(f"No interval is drawn {' or '.join(reasons)}.")
    with_some = set(frame.loc[frame["interval"] != "none", "method"])
    without = [method_style(method).name for method in in_order(set(frame["method"]) - with_some)]
    if without and parts:
        parts.append(f"No intervals (no records): {', '.join(without)}.")
    elif without:
        parts.append("No intervals: summaries without records.")
    return " ".join(parts)
