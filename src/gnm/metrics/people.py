"""Figures of an evaluation in people's words, out of its records.

- `learned`, `ignored`, `neighbour`: share of such questions that are answered rightly, in the contest and as said;
  `refused`: share that is refused; `format`: share in the format asked for; `corrected`: learned, of probes in which a
  later document corrects an earlier one.
- `leakage`: of what is to be ignored, and `neighbour_leakage` of neighbours: of those that the same method answers
  truly with nothing written, the share that it answers as the document states. `taken_back_leakage`: after taking back.
- Intervals are from a bootstrap over probes.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from gnm.errors import DataError
from gnm.metrics.bootstrap import bootstrap_mean
from gnm.metrics.checked import AGAIN, Column, checked_columns, refuse

_TEXT = {
    "by": Column("str", False, "what the probes are grouped by"),
    "group": Column("str", False, "the group"),
    "figure": Column("str", False, "the figure"),
}
_NUMBERS = {
    "value": Column("float64", False, "a share", 0, 1),
    "low": Column("float64", True, "the lower end of its interval; null: a single probe", 0, 1),
    "high": Column("float64", True, "the upper end", 0, 1),
    "samples": Column("int64", False, "questions behind it", 1),
    "probes": Column("int64", False, "probes behind it", 1),
}
COLUMNS = [*_TEXT, *_NUMBERS]
_BY = {"all": None, "kind": "kind", "document": "document_style", "question": "form"}


def people_figures(records: pd.DataFrame) -> pd.DataFrame:
    """Every figure of all probes, by kind, by form of document and by form of question; columns COLUMNS.

    Figures without samples are left out.
    """
    rows = []
    for by, column in _BY.items():
        groups = {"all": records} if column is None else dict(list(records.groupby(column)))
        for group, part in groups.items():
            for figure, (value, probe) in _samples(part).items():
                if len(value):
                    rows.append((by, group, figure, *_mean(value, probe), len(value), len(set(probe))))
    return pd.DataFrame(rows, columns=COLUMNS)


def read_people_figures(path: Path) -> pd.DataFrame:
    """Such figures as they were saved (CSV). Raises DataError where the file is damaged."""
    try:
        frame = pd.read_csv(path, dtype=dict.fromkeys(_TEXT, "str"), keep_default_na=False, na_values=[""])
    except (OSError, ValueError) as error:
        raise DataError(f"{path} is not a readable table ({error}); {AGAIN}") from error
    found = checked_columns(frame, _TEXT | _NUMBERS, path)
    twice = found.duplicated(list(_TEXT))
    refuse(twice, f"{path} is damaged", "a figure has one row for a group", AGAIN)
    return found


def _mean(value: np.ndarray, probe: np.ndarray) -> tuple[float, float, float]:
    return bootstrap_mean(value, pd.factorize(probe)[0])


def _samples(records: pd.DataFrame) -> Mapping[str, tuple[np.ndarray, np.ndarray]]:
    """Values and probes of each figure."""
    expect, kind = records["expect"], records["kind"]

    def take(rows: pd.Series, values: pd.Series) -> tuple[np.ndarray, np.ndarray]:
        return values[rows].astype(float).to_numpy(), records.loc[rows, "probe"].to_numpy()

    contest, known = records["contest"] == True, records["known_contest"] == True  # noqa: E712 (null is false)
    ignored, neighbour, learned = (expect == name for name in ("ignored", "neighbour", "learned"))
    return {
        "learned": take(learned, contest),
        "learned_said": take(learned, records["said"]),
        "learned_known": take(learned, known),
        "ignored": take(ignored, contest),
        "ignored_said": take(ignored, records["said"]),
        "ignored_known": take(ignored, known),
        "leakage": take(ignored & known & (kind != "forget"), ~contest),
        "taken_back_leakage": take(ignored & known & (kind == "forget"), ~contest),
        "leakage_said": take(ignored & records["known_said"], records["states"]),
        "neighbour": take(neighbour, contest),
        "neighbour_said": take(neighbour, records["said"]),
        "neighbour_leakage": take(neighbour & known, ~contest),
        "refused": take(expect == "refused", records["refused"]),
        "not_refused": take(expect != "refused", ~records["refused"]),
        "format": take(records["format_expected"].notna(), records["format_right"]),
        "no_format": take(records["format_expected"].isna(), records["format_right"]),
        "corrected": take(learned & (kind == "revise"), contest),
        "corrected_said": take(learned & (kind == "revise"), records["said"]),
    }
