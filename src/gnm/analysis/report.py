"""Table, figure and sample answers of an experiment: `python -m gnm.analysis.report [--block B] [key=value ...]`.

Reads what `gnm.evaluate` saved; computes nothing that is not in the records. `gnm results FOLDER` prints the table
alone, of any folder of `gnm.evaluate`.
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

from pydantic import Field

from gnm.config import StrictModel
from gnm.errors import DataError, exit_on_error
from gnm.extras import program_imports

with program_imports(__name__):
    import pandas as pd

    from gnm.analysis.figures import overview
    from gnm.analysis.saved import SavedEvaluation, by_method, find_evaluations, metric_frame
    from gnm.analysis.style import in_order, method_style, save_figure
    from gnm.analysis.tables import DEFAULT_FIGURES, figures_in, save_tables, select, text_table, with_said
    from gnm.program import run_program

_MOST_BARS = 6  # panels of a figure; the table has all
_NOTE = (
    "Percent, with 95 % intervals: over sequences where there are records of every answer, Wilson's where there are "
    "counts alone."
)
_COST = {  # title: (measure of cost.json, what of it is 1 in the table)
    "Kept": ("kept", 1), "MB": ("bytes", 1e6), "GFLOP/query": ("query_flops", 1e9), "ms/query": ("query_seconds", 1e-3),
}  # fmt: skip
_KINDS = {  # meaning: query type, to learn, to refuse
    "it was told to learn this": ("paraphrase", True, False),
    "it was told to leave this out": ("paraphrase", False, False),
    "it was told to refuse this": ("paraphrase", False, True),
    "a neighbour, never in any document": ("true_output_neighbor", True, False),
}


class ReportParams(StrictModel):
    """What to show of which evaluations."""

    evaluations: Path
    title: str
    output: Path = Field(description="figure and tables, without their suffixes")
    figures_of_merit: list[str] = Field(min_length=1)
    samples: int = Field(ge=0, description="sample questions to print")


def report(params: ReportParams) -> str:
    """Save figure and tables; returns the text that the program prints.

    In the tables what is said and what leaks stands beside each contest, where there are records of it.
    Raises DataError, before anything is saved, if samples are wanted and there are no records.
    """
    evaluations, metrics, cost = read_experiment(params.evaluations)
    samples = [sample_answers(evaluations, params.samples)] if params.samples else []
    figures = with_said(metrics, params.figures_of_merit)
    # retention has lines of its own
    bars = [figure for figure in params.figures_of_merit if figure in figures and "@" not in figure]
    save_figure(overview(metrics, params.title, bars[:_MOST_BARS] or DEFAULT_FIGURES), params.output)
    save_tables(metrics, params.output, figures, cost)
    parts = [
        params.title,
        text_table(metrics, figures, cost),
        f"{_NOTE} The table lies in {params.output}.md and .csv, the figure in {params.output}.png and .svg.",
    ]
    return "\n".join(parts + samples)


def results(folder: Path, figures: Sequence[str] | None = None, output: Path | None = None) -> str:
    """The table of all evaluations in `folder`; saved to `output`.md and .csv too if that is given.

    figures: those to show, such as "score" or "retention@4"; None: the usual ones that the evaluations have.
    Raises DataError if the folder has no evaluation, or none of them has one of `figures`.
    """
    _, metrics, cost = read_experiment(folder)
    figures = figures or figures_in(metrics)
    if output is not None:
        save_tables(metrics, output, figures, cost)
    return f"{text_table(metrics, figures, cost)}\n{_NOTE}"


def read_experiment(folder: Path) -> tuple[dict[str, SavedEvaluation], pd.DataFrame, pd.DataFrame]:
    """The evaluations of a folder by method, their metrics, and their cost."""
    folder = folder.resolve()
    found = find_evaluations(folder.parent, [folder.name])
    several = len({evaluation.variant for evaluation in found}) > 1
    evaluations = by_method(found, several)
    return evaluations, select(metric_frame(found), folder.name), cost_frame(evaluations)


def cost_frame(evaluations: Mapping[str, SavedEvaluation]) -> pd.DataFrame:
    """Cost after the last document, by method: tokens or slots kept, their MB, GFLOPs and milliseconds a query.

    Raises DataError if an evaluation's cost lacks one of them.
    """
    rows = {}
    for method, evaluation in evaluations.items():
        cost = evaluation.cost
        if cost is not None:
            if absent := sorted({name for name, _ in _COST.values()} - cost.keys()):
                raise DataError(f"{evaluation.folder}: cost.json has no {', '.join(absent)}; evaluate again")
            last = {title: (cost[name][-1], unit) for title, (name, unit) in _COST.items()}
            rows[method] = {title: None if value is None else value / unit for title, (value, unit) in last.items()}
    return pd.DataFrame.from_dict(rows, orient="index")


def sample_answers(evaluations: Mapping[str, SavedEvaluation], count: int) -> str:
    """`count` questions asked after the last document of the first sequences, with each method's answer.

    Methods without records are left out. Raises DataError if none has any.
    """
    found = {method: evaluation.records for method, evaluation in evaluations.items()}
    records = {method: frame for method, frame in found.items() if frame is not None}
    if not records:
        raise DataError(
            "samples: no evaluation has records of its answers (records.parquet), only summaries; "
            "set samples to 0 or evaluate again"
        )
    first = next(iter(records.values()))
    asked = first[first["t"] == first["t"].max()]
    kinds = {
        meaning: rows.sort_values(["sequence", "q", "fact_id"])
        for meaning, key in _KINDS.items()
        if len(rows := asked[(asked[["type", "learn", "refuse"]] == list(key)).all(axis=1)])
    }
    lines = ["", "Sample questions, asked after the last document:"]
    for number in range(count):
        meaning, rows = list(kinds.items())[number % len(kinds)]
        if (place := number // len(kinds)) >= len(rows):
            continue
        row = rows.iloc[place]
        key = ["sequence", "q", "t", "fact_id", "type", "input"]
        lines.append(f"\n  {row['input']} …   ({meaning}: expected {row['target_output']!r})")
        for method in in_order(records):
            same = records[method][(records[method][key] == row[key]).all(axis=1)]
            if len(same):
                right = same.iloc[0]["refused" if row["should_refuse"] else "generated_correct"]
                mark = "right" if right else "wrong"
                lines.append(f"    {method_style(method).name:36s} {same.iloc[0]['generated']!r} ({mark})")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the settings, report."""
    run_program("gnm.analysis.report", __doc__, ReportParams, lambda params, _: print(report(params)), arguments)


def results_main(arguments: Sequence[str] | None = None) -> None:
    """Print the table of a folder of evaluations."""
    parser = argparse.ArgumentParser(prog="gnm results", description="Table of an experiment's saved evaluations.")
    parser.add_argument("folder", type=Path, help="saved_evals/EXPERIMENT, with a folder for each method")
    parser.add_argument("figures", nargs="*", help="metrics, such as score or retention@4; default: the usual")
    parser.add_argument("--output", type=Path, help="also write the table to OUTPUT.md and OUTPUT.csv")
    options = parser.parse_intermixed_args(arguments)
    with exit_on_error():
        print(results(options.folder, options.figures, options.output))


if __name__ == "__main__":
    main()
