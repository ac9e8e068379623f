"""Tables and figure of evaluations in people's words: `python -m gnm.analysis.people [--block B] [key=value ...]`.

Reads what `gnm.evaluate_people` saved. One table has a row a method; a second one has a row a kind of probe, for one
method; the figure shows that method's answers by form of document and of question.
"""

from collections.abc import Sequence
from pathlib import Path

from pydantic import Field

from gnm.config import StrictModel
from gnm.errors import DataError
from gnm.extras import program_imports
from gnm.files import recover_folders, write_text

with program_imports(__name__):
    import pandas as pd
    from matplotlib.figure import Figure

    from gnm.analysis.drawing import sheet
    from gnm.analysis.saved import split_method, tell_apart
    from gnm.analysis.style import in_order, method_style, save_figure, style, with_variant
    from gnm.metrics.people import read_people_figures
    from gnm.program import run_program

HEADINGS = {
    "learned": "Learned",
    "learned_said": "said",
    "corrected_said": "Corrected, said",
    "refused": "Refused",
    "format": "Format",
    "leakage": "Leakage",
    "taken_back_leakage": "Taken back, leakage",
    "neighbour_leakage": "Neighbours' leakage",
    "ignored_said": "Ignored, said",
}
_DRAWN = ("learned", "learned_said", "leakage")
_NOTE = (
    "Percent, with 95 % intervals over probes and the number of questions. Learned, Leakage: the contest of two "
    "objects; said: the answer contains the object. Leakage: of what is answered truly with nothing written."
)
_FORMS_NOTE = (
    "Lines: 95 % intervals, bootstrap over probes; none of a single probe, nor of 0 and 100 %, where every resample is "
    "alike. Hatched: by form of question."
)


class PeopleReport(StrictModel):
    """Which evaluations to show; `shown` is the method that the second table and the figure are about."""

    evaluations: Path
    shown: str
    title: str
    output: Path = Field(description="figure and tables, without their suffixes")


def report(params: PeopleReport) -> str:
    """Save tables and figure; returns the text that the program prints."""
    recover_folders(params.evaluations)
    paths = sorted(params.evaluations.glob("[!.]*/figures.csv"))
    figures = {path.parent.name: read_people_figures(path) for path in paths}
    if params.shown not in figures:
        has = ", ".join(figures) or "none"
        raise DataError(f"{params.evaluations} has no evaluation of {params.shown!r}; it has: {has}")
    named = {name: with_variant(*split_method(name)) for name in figures}
    tell_apart((named[path.parent.name], path.parent) for path in paths)
    order = in_order(named.values())
    methods = {
        method_style(named[name]).name: _group(part, "all", "all")
        for name, part in sorted(figures.items(), key=lambda item: order.index(named[item[0]]))
    }
    shown = figures[params.shown]
    kinds = {kind: _group(shown, "kind", kind) for kind in shown.loc[shown["by"] == "kind", "group"].unique()}
    text = f"{_table('Method', methods)}\n{_table('Kind of probe', kinds)}\n{_NOTE}\n"
    write_text(params.output.with_name(f"{params.output.name}.md"), text)
    frame = pd.concat([part.assign(method=name) for name, part in figures.items()], ignore_index=True)
    write_text(params.output.with_name(f"{params.output.name}.csv"), frame.to_csv(index=False))
    save_figure(by_form(shown, f"{params.title}: {method_style(params.shown).name}", params.shown), params.output)
    return f"{params.title}\n{text}"


def by_form(figures: pd.DataFrame, title: str, method: str) -> Figure:
    """Learned, said and leakage of `method` by form of document and, hatched, by form of question, with intervals."""
    forms, color = figures[figures["by"].isin(["document", "question"])], method_style(method).color
    if forms.empty:
        raise DataError(f"the figures of {method} have no form of document or question; evaluate again")
    figure, body = sheet(7.2, 3.2, title, _FORMS_NOTE)
    groups = forms[["by", "group"]].drop_duplicates()
    places = range(len(groups))
    with style():
        for axes, name in zip(body.subplots(1, len(_DRAWN), sharey=True), _DRAWN, strict=True):
            part = groups.merge(forms[forms["figure"] == name], how="left")
            bars = axes.barh(places, 100 * part["value"], color=color, hatchcolor="white")
            for bar, by in zip(bars, part["by"], strict=True):
                bar.set_hatch("////" if by == "question" else "")
            axes.hlines(places, 100 * part["low"], 100 * part["high"], color="black", linewidth=1)
            if axes.get_subplotspec().is_first_col():  # the others share it
                axes.set_yticks(places, part["by"].str.capitalize() + ": " + part["group"])
            axes.set_xlim(0, 112)  # the next panel starts with 0
            axes.set_title(HEADINGS[name] if name != "learned_said" else "Learned, said")
            axes.set_xlabel("%")
    return figure


def _group(figures: pd.DataFrame, by: str, group: str) -> dict[str, str]:
    """A table's cells by figure."""
    part = figures[(figures["by"] == by) & (figures["group"] == group)]
    cells = {}
    for row in part.itertuples():
        ends = "" if pd.isna(row.low) else f" [{100 * row.low:.1f}, {100 * row.high:.1f}]"
        cells[row.figure] = f"{100 * row.value:.1f}{ends} n {row.samples}"
    return cells


def _table(first: str, rows: dict[str, dict[str, str]]) -> str:
    """A Markdown table."""
    lines = [[first, *HEADINGS.values()], ["---"] * (len(HEADINGS) + 1)]
    lines += [[name, *(cells.get(figure, "–") for figure in HEADINGS)] for name, cells in rows.items()]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the settings, report."""
    run_program("gnm.analysis.people", __doc__, PeopleReport, lambda params, _: print(report(params)), arguments)


if __name__ == "__main__":
    main()
