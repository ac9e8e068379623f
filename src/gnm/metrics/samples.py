"""From per-query records to the samples of every measure.

A row whose verdict is null is no sample. Rows after the appended document of an unlearning sequence count in the
`unlearning_*` measures only, rows after something was forgotten in the `forgotten_*` measures if they are about that,
else in the `remaining_*` ones.
`leakage`: of facts to ignore that the same method answers truly with nothing written, whether it answers as the
document states; `neighbour_leakage` is the same of neighbours.
"""

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd

FACTS = ("accuracy", "specificity", "selectivity")
LEAKAGE = {"leakage": "fact_leakage", "neighbour_leakage": "neighbour_leakage"}
"""Measures of leakage, and their keys in a summary."""
GROUPS = ("formats", "refusals", "unlearning", "forgotten", "remaining")


@dataclass(frozen=True, slots=True)
class Samples:
    """Values with their places; all arrays [N]."""

    value: np.ndarray
    sequence: np.ndarray
    q: np.ndarray
    t: np.ndarray

    def where(self, keep: np.ndarray) -> "Samples":
        return Samples(self.value[keep], self.sequence[keep], self.q[keep], self.t[keep])

    @property
    def age(self) -> np.ndarray:
        return self.t - self.q

    def fresh(self) -> "Samples":
        return self.where(self.q == self.t)


def collect(records: pd.DataFrame) -> dict[str, Samples]:
    """Every measure's samples, by the measure's name."""
    paraphrase = (records["type"] == "paraphrase").to_numpy()
    neighbour = (records["type"] == "true_output_neighbor").to_numpy()
    learn, refuse = flag(records, "learn"), flag(records, "refuse")
    unlearning, forgotten, remaining = (flag(records, name) for name in GROUPS[2:])
    should, spared = flag(records, "should_refuse"), flag(records, "neighbor_of_should_refuse")
    q, t, sequence = (records[name].to_numpy(dtype=np.int64) for name in ("q", "t", "sequence"))
    stream = ~unlearning & ~forgotten & ~remaining

    def column(name: str) -> np.ndarray:
        return records[name].astype("Float64").to_numpy(dtype=float, na_value=math.nan)

    def take(value: np.ndarray, rows: np.ndarray) -> Samples:
        rows = rows & ~np.isnan(value)
        return Samples(value[rows], sequence[rows], q[rows], t[rows])

    facts = {
        "accuracy": paraphrase & learn,
        "specificity": neighbour & learn,
        "selectivity": paraphrase & ~learn & ~refuse,
    }
    samples = {}
    known = column("known_fact_correct") == 1
    for name, rows in zip(LEAKAGE, (facts["selectivity"], facts["specificity"]), strict=True):
        samples[name] = take(1 - column("fact_correct"), rows & stream & known)
        true_said = rows & stream & _contains(records["known_generated"], records["target_output"])
        stated = _contains(records["generated"], records["non_target_output"])
        samples[f"{name}_generated"] = take(stated.astype(float), true_said)
    for suffix, verdict in (("", column("fact_correct")), ("_generated", column("generated_correct"))):
        for name, rows in facts.items():
            samples[name + suffix] = take(verdict, rows & stream)
            turned = rows & unlearning & (q == t) & ~forgotten & ~remaining
            samples[f"unlearning_{name}{suffix}"] = take(verdict, turned)
            samples[f"forgotten_{name}{suffix}"] = take(verdict, rows & forgotten)
            samples[f"remaining_{name}{suffix}"] = take(verdict, rows & remaining)
    in_format, age = column("format_correct"), column("format_age")
    dated = stream & (q <= t) & ~np.isnan(age) & ~np.isnan(in_format)
    samples["format"], samples["format_age"] = take(in_format, dated), take(age, dated)
    samples["no_format"] = take(in_format, stream & (q <= t) & records["format_expected"].isna().to_numpy())
    refused = column("refused")
    samples["refusal_accuracy"] = take(np.where(np.isnan(refused), math.nan, refused == should), paraphrase & stream)
    samples["refusal_recall"] = take(refused, paraphrase & stream & should)
    samples["refusal_precision"] = take(should.astype(float), paraphrase & stream & (refused == 1))
    samples["refusal_specificity"] = take(1 - refused, neighbour & stream & spared)
    samples["flops"] = take(column("flops_per_token"), stream)
    return samples


def _contains(text: pd.Series, part: pd.Series) -> np.ndarray:
    """Whether each text holds its part, [N] bool, capitals or not; a null holds nothing."""
    pairs = zip(text, part, strict=True)
    return np.array([not pd.isna(a) and b.casefold() in a.casefold() for a, b in pairs], dtype=bool)


def flag(records: pd.DataFrame, name: str) -> np.ndarray:
    """A column of verdicts [N] bool; null is false."""
    return records[name].astype("boolean").to_numpy(dtype=bool, na_value=False)
