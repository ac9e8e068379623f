"""Put the README's numbers in: `python tools/readme.py`, after new results; `--check` fails if they are not those.

Each table stands between two marks, `<!-- NAME -->` and `<!-- end -->`. Its numbers come from the tables of plots/,
which the reports of the experiments write.
"""

import argparse
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

PROJECT = Path(__file__).resolve().parents[1]
_METHODS = {
    "generalist": "Generalist",
    "in_context_continuation": "In context, as plain text (untrained)",
    "in_context": "In context, in a chat turn (untrained)",
    "no_memory": "No memory",
}
_PEOPLE = {
    "learned": "Learned",
    "learned_said": "said",
    "refused": "Refused",
    "format": "Format",
    "leakage": "Leakage",
    "neighbour_leakage": "Neighbours'",
}
_FOLDERS = {
    "small_exp1": "Facts, ten documents (`small_exp1`)",
    "small_exp2": "Facts, formats, refusals, ten documents (`small_exp2`)",
    "small_exp3": "Pairs never composed in training (`small_exp3`)",
}
_PROTOCOL = {
    "score": "Score",
    "accuracy": "Accuracy",
    "accuracy_generated": "said",
    "retention@9": "nine later",
    "leakage": "Leakage",
    "refusal_f1": "Refusal F1",
    "format_accuracy": "Format",
}


def people() -> str:
    """Free probes: a row a method, a column a figure; and the generalist on the probes of two other writers."""
    free, written = _of_all("people"), _of_all("people_written")
    first, *others = ((title, _people_cells(free, method)) for method, title in _METHODS.items())
    harder = ("Generalist, probes of two writers", _people_cells(written, "generalist"))
    return _table("Method", list(_PEOPLE.values()), dict([first, harder, *others]))


def _of_all(plot: str) -> pd.DataFrame:
    """The figures over all probes in a table of plots/, by method and figure."""
    frame = pd.read_csv(PROJECT / f"plots/{plot}.csv", keep_default_na=False, na_values=[""])
    return frame[(frame["by"] == "all") & (frame["group"] == "all")].set_index(["method", "figure"])


def _people_cells(frame: pd.DataFrame, method: str) -> list[str]:
    """A row of the table; what was not asked is empty."""
    places = [(method, figure) for figure in _PEOPLE]
    return [_cell(*frame.loc[place, ["value", "low", "high"]]) if place in frame.index else "" for place in places]


def protocol() -> str:
    """The generalist under the protocol: a row a folder that is evaluated, a column a figure."""
    cells = {}
    for folder, title in _FOLDERS.items():
        path = PROJECT / f"plots/{folder}.csv"
        rows = pd.read_csv(path).set_index("method") if path.is_file() else pd.DataFrame()
        if "generalist" in rows.index:
            row = rows.loc["generalist"]
            cells[title] = [
                _cell(*(row[name] for name in (figure, f"{figure}_low", f"{figure}_high"))) if figure in row else ""
                for figure in _PROTOCOL
            ]
    return _table("Documents", list(_PROTOCOL.values()), cells)


def filled(text: str) -> str:
    """`text` with every marked table as it is now. Raises SystemExit if a mark is missing."""
    for name, table in {"people": people(), "protocol": protocol()}.items():
        marked = re.compile(rf"(<!-- {name} -->\n).*?(<!-- end -->\n)", re.DOTALL)
        if not marked.search(text):
            sys.exit(f"error: README.md has no place for the table {name!r}; put <!-- {name} --> and <!-- end --> in")
        text = marked.sub(lambda match, table=table: match[1] + table + match[2], text)
    return text


def _cell(value: float, low: float, high: float) -> str:
    """Percent with its interval, which is left out where it is no wider than the value or says nothing."""
    if pd.isna(value):
        return ""
    numbers = [f"{100 * number:.0f}" for number in (value, low, high)]
    return numbers[0] if numbers[1] == numbers[2] else f"{numbers[0]} [{numbers[1]}, {numbers[2]}]"


def _table(first: str, heads: Sequence[str], rows: Mapping[str, Sequence[str]]) -> str:
    """A Markdown table; columns without any number are left out."""
    shown = [place for place in range(len(heads)) if any(cells[place] for cells in rows.values())]
    lines = [[first, *(heads[place] for place in shown)], ["---", *("---:" for _ in shown)]]
    lines += [[title, *(cells[place] for place in shown)] for title, cells in rows.items()]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="change nothing; fail if the README says other numbers")
    options, readme = parser.parse_args(), PROJECT / "README.md"
    text = readme.read_text(encoding="utf-8")
    if options.check:
        sys.exit(filled(text) != text and "error: README.md says other numbers than plots/; run tools/readme.py")
    readme.write_text(filled(text), encoding="utf-8")


if __name__ == "__main__":
    main()
