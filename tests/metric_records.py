"""Records and summaries that are made up."""

import numpy as np
import pandas as pd

from gnm.metrics.records import COLUMNS

VERDICTS = {
    "fact_correct",
    "generated_correct",
    "known_fact_correct",
    "known_generated",
    "format_correct",
    "refused",
    "flops_per_token",
    "composition",
    "format_age",
    "num_answer_tokens",
    "logit_target",
    "logit_non_target",
    "nll",
}


DTYPES = {
    name: {"bool": "boolean", "int64": "Int64"}.get(column.dtype, column.dtype) if name in VERDICTS else column.dtype
    for name, column in COLUMNS.items()
}


BLANK = {
    name: None if name in VERDICTS | {"format_expected"} else {"str": "", "bool": False}.get(dtype, 0)
    for name, dtype in DTYPES.items()
}


def frame(rows):
    """Record rows from the columns that matter; verdicts left out are null, everything else is blank."""
    return pd.DataFrame([BLANK | row for row in rows], columns=list(COLUMNS)).astype(DTYPES)


def synthetic(seed, sequences=8, documents=3, difficulty=0.1):
    """A small evaluation with facts, formats, refusals and an unlearning step; sequences differ in difficulty."""
    rng = np.random.default_rng(seed)
    rows = []
    for sequence in range(sequences):
        p = np.clip(0.7 + difficulty * rng.normal(), 0, 1)
        for t in range(documents + 1):
            for q in range(t + 1):
                for kind in ("learn", "other", "refuse"):
                    for number in range(int(rng.integers(1, 4))):
                        refuse = kind == "refuse"
                        right = bool(rng.random() < p)
                        rows.append(
                            {
                                "sequence": sequence,
                                "q": q,
                                "t": t,
                                "learn": kind == "learn",
                                "refuse": refuse,
                                "type": "true_output_neighbor" if number == 2 else "paraphrase",
                                "should_refuse": refuse and number < 2,
                                "neighbor_of_should_refuse": refuse and number == 2,
                                "unlearning": t == documents,
                                "fact_correct": right,
                                "generated_correct": right and bool(rng.random() < 0.9),
                                "refused": bool(rng.random() < (0.8 if refuse and number < 2 else 0.1)),
                                "format_correct": right,
                                "format_expected": "xml_body" if t > 0 else None,
                                "format_age": t - 1 if t > 0 else None,
                                "nll": float(rng.exponential()),
                                "num_answer_tokens": int(rng.integers(1, 5)),
                                "flops_per_token": float(rng.random()),
                                "composition": False,
                            }
                        )
    return frame(rows)


def values_of(metrics):
    return {
        (metric, age if pd.notna(age) else None): value
        for metric, age, value in zip(metrics["metric"], metrics["age"], metrics["value"], strict=True)
    }
