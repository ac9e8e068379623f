"""Tables of metrics: one row for each method, in a fixed order; one column for each figure; cost beside quality.

- Input is the tidy frame of `saved.metric_frame`, restricted to one experiment; values are shown in percent.
- "86.7 [84.1, 89.0]" is the value and its 95 % interval over sequences. A value without interval comes from a summary:
  its records are not there.
- Text and Markdown are for reading; CSV keeps the plain numbers, one column each for value, low, high.
"""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from gnm.analysis.style import in_order, method_style, with_variant
from gnm.errors import DataError
from gnm.files import write_text

DEFAULT_FIGURES = ("score", "accuracy", "specificity", "selectivity")
_BESIDE = {  # what stands beside a contest, where the records have it: what is said, and what leaks
    "accuracy": ("accuracy_generated",),
    "specificity": ("neighbour_leakage",),
    "selectivity": ("selectivity_generated", "leakage"),
}
_USUAL = (
    *DEFAULT_FIGURES,
    "accuracy_age_0",
    "unlearning_accuracy",
    "unlearning_specificity",
    "unlearning_selectivity",
    "format_accuracy",
    "refusal_f1",
)
_ABSENT = "–"


def select(metrics: pd.DataFrame, experiment: str | None = None) -> pd.DataFrame:
    """The rows of one experiment. If they have several variants, a method's name gets its variant.

    Raises DataError if the frame holds several experiments and none is named, if the named one is absent, or if two
    evaluations have the same method's name.
    """
    experiments = metrics["experiment"].unique() if "experiment" in metrics else []
    if experiment is None and len(experiments) > 1:
        raise DataError(f"name one of the experiments: {', '.join(sorted(experiments))}")
    if experiment is not None:
        metrics = metrics[metrics["experiment"] == experiment]
        if metrics.empty:
            raise DataError(f"no figures of {experiment!r}; there are: {', '.join(sorted(experiments))}")
    metrics = metrics.copy()
    if "variant" in metrics and metrics["variant"].nunique() > 1:
        metrics["method"] = list(map(with_variant, metrics["method"], metrics["variant"]))
    if metrics.duplicated(["method", "metric", "age"]).any():
        raise DataError("two evaluations share one method name; give each its own results folder")
    return metrics


def figures_in(metrics: pd.DataFrame) -> list[str]:
    """The usual figures that some method of the frame has, and retention at the middle and at the oldest age."""
    has, oldest = set(metrics["metric"]), metrics.loc[metrics["metric"] == "retention", "age"].max()
    ages = [] if pd.isna(oldest) or not oldest else sorted({int(oldest) // 2, int(oldest)})
    usual = [figure for figure in _USUAL if figure in has] + [f"retention@{age}" for age in ages]
    return with_said(metrics, usual)


def with_said(metrics: pd.DataFrame, figures: Sequence[str]) -> list[str]:
    """`figures`, and beside each contest what is said and what leaks; of these, those that some method has."""
    optional, has = {name for names in _BESIDE.values() for name in names}, set(metrics["metric"])
    wanted = dict.fromkeys(name for figure in figures for name in (figure, *_BESIDE.get(figure, ())))
    return [name for name in wanted if name in has or name not in optional]


def wide(
    metrics: pd.DataFrame, figures: Sequence[str] = DEFAULT_FIGURES, cost: pd.DataFrame | None = None
) -> pd.DataFrame:
    """Formatted cells: index is the method's display name, a column a figure (heading in plain words).

    A figure "retention@4" is retention at age 4. `cost` is a frame indexed by method; its columns are appended as
    they are named, a method without cost gets a dash.
    """
    cells = _cells(metrics, figures)
    table = pd.DataFrame(
        [[_percent(cells.get((method, figure))) for figure in figures] for method in in_order(metrics["method"])],
        index=pd.Index([method_style(method).name for method in in_order(metrics["method"])], name="Method"),
        columns=[heading(figure) for figure in figures],
    )
    for name in [] if cost is None else cost.columns:
        table[str(name)] = [_amount(cost[name].get(method)) for method in in_order(metrics["method"])]
    return table


def text_table(
    metrics: pd.DataFrame, figures: Sequence[str] = DEFAULT_FIGURES, cost: pd.DataFrame | None = None
) -> str:
    """The table aligned for a terminal: names flush left, numbers flush right, a rule under the headings."""
    rows = _rows(wide(metrics, figures, cost))
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [
        "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]
    return "\n".join([lines[0], "  ".join("-" * width for width in widths), *lines[1:]]) + "\n"


def markdown_table(
    metrics: pd.DataFrame, figures: Sequence[str] = DEFAULT_FIGURES, cost: pd.DataFrame | None = None
) -> str:
    """The table as Markdown."""
    rows = _rows(wide(metrics, figures, cost))
    rule = ["---", *["---:"] * (len(rows[0]) - 1)]
    escaped = ([cell.replace("|", "\\|") for cell in row] for row in (rows[0], rule, *rows[1:]))
    return "".join(f"| {' | '.join(row)} |\n" for row in escaped)


def csv_table(metrics: pd.DataFrame, figures: Sequence[str] = DEFAULT_FIGURES, cost: pd.DataFrame | None = None) -> str:
    """Plain numbers: method, then `<figure>`, `<figure>_low`, `<figure>_high` as fractions, then counts and cost."""
    cells = _cells(metrics, figures)
    rows = []
    for method in in_order(metrics["method"]):
        row = {"method": method, "name": method_style(method).name}
        for figure in figures:
            cell = cells.get((method, figure))
            for suffix, key in (("", "value"), ("_low", "low"), ("_high", "high"), ("_samples", "samples")):
                row[figure + suffix] = None if cell is None else cell[key]
        sequences = metrics.loc[metrics["method"] == method, "sequences"].max()
        row["sequences"] = sequences
        for name in [] if cost is None else cost.columns:
            row[str(name)] = cost[name].get(method)
        rows.append(row)
    return pd.DataFrame(rows).to_csv(index=False)


def save_tables(
    metrics: pd.DataFrame, path: str | Path, figures: Sequence[str] = DEFAULT_FIGURES, cost: pd.DataFrame | None = None
) -> list[Path]:
    """Write `<path>.md` and `<path>.csv`; returns the two paths."""
    paths = [Path(f"{path}.md"), Path(f"{path}.csv")]
    write_text(paths[0], markdown_table(metrics, figures, cost))
    write_text(paths[1], csv_table(metrics, figures, cost))
    return paths


def heading(figure: str) -> str:
    """A figure's name in words: "retention@4" gives "Retention, age 4"; "refusal_f1" gives "Refusal F1"."""
    name, _, age = figure.partition("@")
    generated = name.endswith("_generated")
    name = name.removesuffix("_generated").removesuffix("_by_age")
    words = name.replace("_age_0", ", age 0").replace("_f1", " F1").replace("neighbour_", "neighbours' ")
    words = words.replace("_", " ")
    words = words[0].upper() + words[1:]
    words += f", age {age}" if age else ""
    return f"{words} (generated)" if generated else words


def _cells(metrics: pd.DataFrame, figures: Sequence[str]) -> dict[tuple[str, str], pd.Series]:
    keys = metrics["metric"].where(metrics["age"].isna(), metrics["metric"] + "@" + metrics["age"].astype("string"))
    if absent := [figure for figure in figures if figure not in set(keys)]:
        raise DataError(
            f"no method has a figure {', '.join(map(repr, absent))}; there are: {', '.join(sorted(set(keys)))}"
        )
    return {(row["method"], key): row for (_, row), key in zip(metrics.iterrows(), keys, strict=True)}


def _rows(table: pd.DataFrame) -> list[list[str]]:
    return [
        [table.index.name, *table.columns],
        *([name, *cells] for name, cells in zip(table.index, table.to_numpy().tolist(), strict=True)),
    ]


def _percent(cell: pd.Series | None) -> str:
    if cell is None:
        return _ABSENT
    value = f"{100 * cell['value']:.1f}"
    return value if pd.isna(cell["low"]) else f"{value} [{100 * cell['low']:.1f}, {100 * cell['high']:.1f}]"


def _amount(value: object) -> str:
    """Counts with thousands separators, large numbers as 1.7e13, others with three digits."""
    if value is None or pd.isna(value):
        return _ABSENT
    if isinstance(value, str):
        return value
    number = float(value)
    if abs(number) >= 1e7:
        mantissa, exponent = f"{number:.1e}".split("e")
        return f"{mantissa}e{int(exponent)}"
    return f"{number:,.0f}" if number.is_integer() or number >= 1000 else f"{number:.3g}"
