"""Evaluations made up in a test: random verdicts of a few sequences, saved as an evaluation saves them."""

import numpy as np

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
    row = {"sequence": s, "q": q, "t": t, "fact_id": fact, "subcategory": "religion", "learn": fact in (0, 2),
           "type": "true_output_neighbor" if fact == 2 else "paraphrase", "refuse": refuse, "should_refuse": refuse,
           "neighbor_of_should_refuse": False, "composition": False, "unlearning": False, "input": "a",
           "target_output": "b", "non_target_output": "c", "generated": "b", "generated_correct": True, "nll": 1.0,
           "num_answer_tokens": 1, "fact_correct": None if refuse else bool(draw.random() < 0.7)}
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
        write_json(folder / "cost.json", {"kept": line, "bytes": line, "query_flops": line,
                                          "query_seconds": [None] * (n - 1) + [0.5], "write_seconds": [0.1] * n})
