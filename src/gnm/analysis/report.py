"""Table, figure and sample answers of an experiment: `python -m gnm.analysis.report [--block B] [key=value ...]`.

Reads what `gnm.evaluate` saved; computes nothing that is not in the records.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from pydantic import Field

from gnm.analysis.figures import overview
from gnm.analysis.saved import SavedEvaluation, find_evaluations, merit_frame
from gnm.analysis.style import in_order, method_style, save_figure
from gnm.analysis.tables import save_tables, select, text_table
from gnm.config import StrictModel, add_params_arguments, load_params
from gnm.errors import DataError, exit_on_error

_KINDS = {
    "it was told to learn this": ("paraphrase", True),
    "it was told to leave this out": ("paraphrase", False),
    "a neighbour, never in any document": ("true_output_neighbor", True),
}


class ReportParams(StrictModel):
    """What to show of which evaluations."""

    evaluations: Path
    title: str
    figure: Path
    table: Path
    figures_of_merit: list[str] = Field(min_length=1)
    samples: int = Field(ge=0, description="sample questions to print")


def report(params: ReportParams) -> str:
    """Save figure and tables; returns the text that the program prints."""
    root, experiment = params.evaluations.resolve().parent, params.evaluations.name
    evaluations = find_evaluations(root, [experiment])
    if not evaluations:
        raise DataError(f"{params.evaluations} holds no evaluation; run `gnm.evaluate` first")
    merit, cost = select(merit_frame(evaluations), experiment), cost_frame(evaluations)
    save_figure(overview(merit, params.title), params.figure)
    save_tables(merit, params.table, params.figures_of_merit, cost)
    parts = [
        params.title,
        text_table(merit, params.figures_of_merit, cost),
        "Percent, with 95 % intervals over sequences. The table lies in "
        f"{params.table}.md and .csv, the figure in {params.figure}.png and .svg.",
    ]
    if params.samples:
        parts.append(sample_answers(evaluations, params.samples))
    return "\n".join(parts)


def cost_frame(evaluations: Sequence[SavedEvaluation]) -> pd.DataFrame:
    """Cost after the last document, by method: tokens or slots kept, their MB, GFLOPs and milliseconds a query."""
    rows = {}
    for evaluation in evaluations:
        cost = evaluation.cost
        if cost is not None:
            rows[evaluation.method] = {
                "Kept": cost["kept"][-1],
                "MB": cost["bytes"][-1] / 1e6,
                "GFLOP/query": cost["query_flops"][-1] / 1e9,
                "ms/query": cost["query_seconds"][-1] * 1e3,
            }
    return pd.DataFrame.from_dict(rows, orient="index")


def sample_answers(evaluations: Sequence[SavedEvaluation], count: int) -> str:
    """`count` questions asked after the last document of the first sequences, with each method's answer."""
    records = {evaluation.method: evaluation.records for evaluation in evaluations}
    first = next(iter(records.values()))
    asked = first[first["t"] == first["t"].max()]
    lines = ["", "Sample questions, asked after the last document:"]
    for number in range(count):
        meaning, (kind, learn) = list(_KINDS.items())[number % len(_KINDS)]
        rows = asked[(asked["type"] == kind) & (asked["learn"] == learn)].sort_values(["sequence", "q", "fact_id"])
        if number >= len(rows):
            continue
        row = rows.iloc[number]
        key = ["sequence", "q", "t", "fact_id", "type", "input"]
        lines.append(f"\n  {row['input']} …   ({meaning}: expected {row['target_output']!r})")
        for method in in_order(records):
            same = records[method][(records[method][key] == row[key]).all(axis=1)]
            if len(same):
                mark = "right" if same.iloc[0]["generated_correct"] else "wrong"
                lines.append(f"    {method_style(method).name:36s} {same.iloc[0]['generated']!r} ({mark})")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the settings, report."""
    parser = argparse.ArgumentParser(prog="python -m gnm.analysis.report", description=__doc__.splitlines()[0])
    add_params_arguments(parser)
    options = parser.parse_intermixed_args(arguments)
    with exit_on_error():
        print(report(load_params(options.params, ReportParams, options.overrides, options.block)))


if __name__ == "__main__":
    main()
