"""What write gates keep, and what it costs to keep less: `python -m gnm.analysis.gates [--block B] [key=value ...]`.

Reads what `gnm.evaluate` saved of methods with gates and without: a table of decisions, quality and cost side by side,
and quality against what is kept. Variants of a method, such as its budgets, are one line.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from pydantic import Field

from gnm.config import StrictModel
from gnm.errors import DataError
from gnm.extras import program_imports

with program_imports(__name__):
    import pandas as pd
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    from gnm.analysis.report import read_experiment
    from gnm.analysis.saved import SavedEvaluation
    from gnm.analysis.style import in_order, method_style, save_figure, style
    from gnm.analysis.tables import save_tables, text_table, with_said
    from gnm.metrics import METRIC_COLUMNS, bootstrap_mean
    from gnm.metrics.records import read_segments
    from gnm.program import run_program

_AXES = {"Kept": "Slots (or tokens of context)", "MB": "MB"}
_LEAST = {"Kept": 1.0, "MB": 0.01}  # shown for nothing at all: the axis is logarithmic
_OPEN = 0.5  # a gate's decision, whatever budget is set beside it


class GatesParams(StrictModel):
    """Which evaluations to compare."""

    evaluations: Path
    title: str
    output: Path = Field(description="figure and tables, without their suffixes")
    figures_of_merit: list[str] = Field(min_length=1, description="those of the table; segments and stored among them")
    shown: str = Field("score", description="the metric that is drawn")
    against: Literal["Kept", "MB"] = Field("Kept", description="slots, or tokens of context; or the bytes of them")


def gates(params: GatesParams) -> str:
    """Save figure and tables; returns the text that the program prints."""
    evaluations, metrics, cost = read_experiment(params.evaluations)
    metrics = pd.concat([metrics, segment_metrics(evaluations)], ignore_index=True).astype(metrics.dtypes)
    save_figure(compression(metrics, cost, params.title, params.shown, params.against), params.output)
    figures = with_said(metrics, params.figures_of_merit)
    save_tables(metrics, params.output, figures, cost)
    return f"{params.title}\n{text_table(metrics, figures, cost)}"


def segment_metrics(evaluations: Mapping[str, SavedEvaluation]) -> pd.DataFrame:
    """What gates decided, by method, as a frame of metrics with intervals from a bootstrap over sequences.

    `segments`: share of the documents' segments for which a gate of one half or more and what the instruction is about
    agree (segments without a letter don't count). `stored`: share of all tokens, instructions included, that became
    slots. Raises DataError if no method has gates.
    """
    rows = []
    for method, evaluation in evaluations.items():
        path = evaluation.folder / "segments.parquet"
        if not path.is_file():
            continue
        found = read_segments(path)
        judged = found[found["of_document"] & found["text"].str.contains(r"[^\W\d_]")]
        right = (judged["strength"] >= _OPEN) == judged["wanted"]
        tokens = found.loc[found.index.repeat(found["tokens"])]
        stored = tokens["stored"] / tokens["tokens"]
        for metric, values, part in (("segments", right, judged), ("stored", stored, tokens)):
            interval = bootstrap_mean(values.to_numpy(dtype=float), part["sequence"].to_numpy())
            rows.append((metric, None, *interval, len(part), part["sequence"].nunique(), method))
    if not rows:
        raise DataError("no evaluation has segments.parquet; evaluate a method with write.gates")
    return pd.DataFrame(rows, columns=[*METRIC_COLUMNS, "method"])


def compression(
    metrics: pd.DataFrame, cost: pd.DataFrame, title: str, shown: str = "score", against: str = "Kept"
) -> Figure:
    """A metric against what is kept after the last document: slots, or tokens of context; or their MB.

    Raises DataError if no method has the figure.
    """
    cells = metrics[metrics["metric"] == shown].set_index("method")
    if cells.empty:
        raise DataError(f"no method has a figure {shown!r}")
    families: dict[str, list[str]] = {}
    for method in in_order(cells.index):
        families.setdefault(method.partition(" (")[0], []).append(method)
    with style():
        figure = Figure(figsize=(7.2, 4.2), layout="constrained")
        axes = figure.subplots()
        for family, methods in families.items():
            look = method_style(family)
            ordered = sorted((m for m in methods if m in cost.index), key=lambda method: cost[against][method])
            kept = [max(float(cost[against][method]), _LEAST[against]) for method in ordered]
            value, low, high = (100 * cells.loc[ordered, key].to_numpy(dtype=float) for key in ("value", "low", "high"))
            axes.plot(kept, value, color=look.color, marker=look.marker, markerfacecolor=look.face, label=look.name)
            axes.vlines(kept, low, high, color=look.color, linewidth=0.9, alpha=0.7)
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_xlabel(f"{_AXES[against]} kept after the last document")
        axes.set_ylabel(f"{shown.replace('_', ' ').capitalize()}, %")
        axes.set_title(title)
        axes.set_ylim(0, 103)
        axes.legend(loc="lower right")
    return figure


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the settings, report."""
    run_program("gnm.analysis.gates", __doc__, GatesParams, lambda params, _: print(gates(params)), arguments)


if __name__ == "__main__":
    main()
