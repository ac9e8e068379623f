"""Evaluations made up in a test: random verdicts of a few sequences, saved as an evaluation saves them."""

import numpy as np
import pandas as pd

from gnm.files import write_json
from gnm.metrics import summarise, write_summary
from gnm.metrics.records import records_frame, write_records


def made_up_records(seed=0, sequences=4, documents=4, mixed=True):
    """Three facts a document, asked after every later document; the second document is not asked about at its end."""
    draw = np.random.default_rng(seed)
    rows = []
    for s in range(sequences):
        for q in range(documents):
            for t in range(q, documents):
                if documents > 1 and (q, t) == (1, documents - 1):
                    continue
                rows += [_row(draw, s, q, t, fact, mixed) for fact in range(4)]
    return records_frame(rows)


def _row(draw, s, q, t, fact, mixed):
    refuse = mixed and fact == 3
    row = {
        "sequence": s,
        "q": q,
        "t": t,
        "fact_id": fact,
        "subcategory": "religion",
        "learn": fact in (0, 2),
        "type": "true_output_neighbor" if fact == 2 else "paraphrase",
        "refuse": refuse,
        "should_refuse": refuse,
        "neighbor_of_should_refuse": False,
        "composition": False,
        "unlearning": False,
        "input": "a",
        "target_output": "b",
        "non_target_output": "c",
        "generated": "b",
        "generated_correct": True,
        "nll": 1.0,
        "num_answer_tokens": 1,
        "fact_correct": None if refuse else bool(draw.random() < 0.7),
    }
    if fact == 1:
        row |= {"known_fact_correct": True, "known_generated": "b"}
    if mixed:
        row |= {"refused": bool(draw.random() < (0.8 if refuse else 0.1))}
        if q == 0:
            row |= {"format_expected": "json_text", "format_correct": bool(draw.random() < 0.6), "format_age": t}
    return row


def save_evaluation(folder, records, keep_records=True, keep_counts=True, cost=True):
    write_summary(folder, summarise(records))
    if keep_records:
        write_records(folder / "records.parquet", records)
    if not keep_counts:
        (folder / "counts.json").unlink()
    if cost:
        n = int(records["t"].max()) + 1
        line = [1e9 * (t + 1) for t in range(n)]
        write_json(
            folder / "cost.json",
            {
                "kept": line,
                "bytes": line,
                "query_flops": line,
                "query_seconds": [None] * (n - 1) + [0.5],
                "write_seconds": [0.1] * n,
            },
        )


def save_memory_analysis(folder, methods, targets=8, layers=6):
    """A memory analysis of made-up numbers: lines that an instruction is about change most at layer 3, by 0.3 more;
    for writing, layers 2 and 3 cost 3 logits of selectivity's margin."""
    measures = ("write_invariance", "compressibility", "selectivity_index", "selectivity_index_paired")
    above = (0.0, 0.02, 0.18, 0.3, 0.1, 0.05)
    for seed, method in enumerate(methods):
        draw, rows = np.random.default_rng(seed), []
        for target in range(targets):
            for layer in range(layers):
                rows += [(target, layer, measure, draw.random()) for measure in measures]
                base = draw.random() / 2
                about = base + (above[layer] if not seed else above[layer] / 2)
                rows += [
                    (target, layer, f"change_{name}", value)
                    for name, value in (("learned", about), ("left_out", about), ("others", base))
                ]
        _save_table(folder / method / "layers.parquet", rows, ["target", "layer", "measure", "value"])
    draw, rows = np.random.default_rng(9), []
    blocks = [(kind, first) for kind in ("reading", "both", "writing") for first in range(0, layers, 2)]
    for target in range(targets):
        for measure in ("accuracy", "selectivity"):
            margin = draw.normal()
            for kind, first in [("none", -1), *blocks]:
                lost = 3.0 * (kind == "writing" and first == 2 and measure == "selectivity")
                last = first + 1 if first >= 0 else -1
                rows.append((target, kind, first, last, measure, margin - lost > 0, margin - lost))
    names = ["target", "kind", "first", "last", "measure", "right", "margin"]
    _save_table(folder / "layer_swap" / "answers.parquet", rows, names)


def _save_table(path, rows, columns):
    path.parent.mkdir(parents=True)
    pd.DataFrame(rows, columns=columns).to_parquet(path, index=False)
