"""Figures of an evaluation in people's words, out of its records.

- `learned`, `ignored`, `neighbour`: share of such questions that are answered rightly, in the contest and as said;
  `refused`: share that is refused; `format`: share in the format asked for; `corrected`: learned, of probes in which a
  later document corrects an earlier one.
- `leakage`: of what is to be ignored, and `neighbour_leakage` of neighbours: of those that the same method answers
  truly with nothing written, the share that it answers as the document states. `taken_back_leakage`: after taking back.
- Intervals are from a bootstrap over probes.
"""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from gnm.metrics.bootstrap import bootstrap_mean

COLUMNS = ["by", "group", "figure", "value", "low", "high", "samples", "probes"]
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
