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
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    from gnm.analysis.drawing import COLUMN, legend_below, sheet
    from gnm.analysis.intervals import drawn_intervals, footnote, with_interval_kinds
    from gnm.analysis.report import read_experiment
    from gnm.analysis.saved import SavedEvaluation
    from gnm.analysis.style import in_order, method_style, save_figure, style, variant_words
    from gnm.analysis.tables import heading, save_tables, text_table, with_said
    from gnm.metrics import METRIC_COLUMNS, bootstrap_mean
    from gnm.metrics.records import read_segments
    from gnm.program import run_program

_AXES = {"Kept": "Slots (or tokens) kept at the end", "MB": "MB kept at the end"}
_LEAST = {"Kept": 1.0, "MB": 0.01}  # shown for nothing at all: the axis is logarithmic
_SPAN = 4.0  # largest over smallest that the axis shows at least
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

    `segments`: share of the documents' segments whose gate, open from one half on, is as the instruction asks; segments
    without a letter are left out. `stored`: share of all tokens, instructions included, that became
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


def against_kept(metrics: pd.DataFrame, cost: pd.DataFrame, shown: str = "score") -> pd.DataFrame:
    """The rows of a figure of merit of the methods that saved their cost, with it: what `compression` draws.

    Raises DataError if no method has the figure, or none of these has its cost.
    """
    cells = metrics[(metrics["metric"] == shown) & metrics["age"].isna()]
    if cells.empty:
        raise DataError(f"no method has a figure {shown!r}")
    if not set(cells["method"]) & set(cost.index):
        raise DataError(f"no method with the figure {shown!r} has saved its cost (cost.json); evaluate again")
    return cells.merge(cost[list(_AXES)], left_on="method", right_index=True)


def compression(
    metrics: pd.DataFrame, cost: pd.DataFrame, title: str, shown: str = "score", against: str = "Kept"
) -> Figure:
    """A metric against what is kept after the last document: slots, or tokens of context; or their MB.

    Raises DataError as `against_kept`.
    """
    cells = drawn_intervals(with_interval_kinds(against_kept(metrics, cost, shown)))
    families: dict[str, list[str]] = {}
    for method in in_order(cells["method"]):
        families.setdefault(method.partition(" (")[0], []).append(method)
    figure, body = sheet(COLUMN, 2.4 + 0.2 * len(families), title, footnote(cells))
    with style():
        axes = body.subplots()
        for family, methods in families.items():
            look = method_style(family)
            rows = cells[cells["method"].isin(methods)].sort_values(against)
            kept = rows[against].clip(lower=_LEAST[against])
            value, low, high = (100 * rows[key].to_numpy(dtype=float) for key in ("value", "low", "high"))
            axes.plot(kept, value, color=look.color, marker=look.marker, markerfacecolor=look.face, label=look.name)
            axes.vlines(kept, low, high, color=look.color, linewidth=0.9, alpha=0.7)
        axes.set_xscale("log")
        first, last = axes.get_xlim()
        if last < _SPAN * first:
            axes.set_xlim(first / _SPAN**0.5, last * _SPAN**0.5)
        first, last = axes.get_xlim()
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 5, 7) if last < 10 * first else (1, 2, 5)))
        axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
        _name_variants(axes, cells, against)
        axes.set_xlabel(_AXES[against], fontsize=8)
        axes.set_ylabel(f"{heading(shown)}, %")
        axes.set_ylim(0, 103)
        legend_below(body, [axes], COLUMN)
    return figure


def _name_variants(axes: Axes, cells: pd.DataFrame, against: str) -> None:
    """Each variant's name beside its point, on the side with more room, a little lower, clear of whisker and line."""
    first, last = axes.get_xlim()
    for _, row in cells.iterrows():
        if variant := row["method"].removesuffix(")").partition(" (")[2]:
            kept = max(row[against], _LEAST[against])
            right = kept > (first * last) ** 0.5
            axes.annotate(
                variant_words(variant),
                (kept, 100 * row["value"]),
                xytext=(-5 if right else 5, -4),
                textcoords="offset points",
                ha="right" if right else "left",
                va="top",
                fontsize=6.5,
                color=method_style(row["method"]).color,
            )


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the settings, report."""
    run_program("gnm.analysis.gates", __doc__, GatesParams, lambda params, _: print(gates(params)), arguments)


if __name__ == "__main__":
    main()
