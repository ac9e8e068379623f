"""Each saved file is spoiled in many ways, and what notebooks call is called on it: a sentence that names the file, or
figures without it, never another error."""

import itertools
import json
import math
import warnings
from contextlib import contextmanager
from functools import partial

import pandas as pd
import pytest
from evaluations import made_up_records, save_evaluation, save_memory_analysis

from gnm.analysis.gates import against_kept, compression, segment_metrics
from gnm.analysis.grouped import grouped_bars, of_measures
from gnm.analysis.memory import draw_part
from gnm.analysis.memory_report import MemoryReportParams, sentences
from gnm.analysis.memory_saved import components, read_layers, read_swap
from gnm.analysis.page import Page
from gnm.analysis.people import PeopleReport, report
from gnm.analysis.saved import SavedEvaluation
from gnm.analysis.sentences import corners, growth, ranking, with_age
from gnm.analysis.shown import Sentence
from gnm.costs import measured, sizes_in_words, sizes_of
from gnm.errors import DataError
from gnm.files import write_json
from gnm.metrics.checked import AGAIN
from gnm.metrics.people import COLUMNS, read_people_figures
from gnm.metrics.records import read_segments, write_segments


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Evaluations, one with records and gates and one with a summary alone; a memory analysis; people's figures."""
    root = tmp_path_factory.mktemp("saved")
    for method in ("generalist", "in_context"):
        records = made_up_records(sequences=3, documents=3)
        save_evaluation(root / "e" / method, records, keep_records=method == "generalist")
        write_json(root / "e" / method / "run_config.json", {"made": {"device": "a CPU"}})
    segment = {"sequence": 0, "t": 0, "text": "a b", "tokens": 2, "stored": 1, "strength": 0.9, "wanted": True,
               "of_document": True}  # fmt: skip
    rows = [segment, segment | {"sequence": 1, "stored": 0, "strength": 0.1}]
    write_segments(root / "e" / "generalist" / "segments.parquet", rows)
    save_memory_analysis(root / "m", ("gnm", "gnm_ablation"), targets=3, layers=3)
    write_json(root / "m" / "gnm" / "run_config.json", {"components": 10})
    forms = [("all", "all"), ("kind", "select"), ("document", "prose"), ("question", "cloze")]
    rows = [(*form, figure, 0.5, 0.4, 0.6, 9, 4) for form in forms for figure in ("learned", "learned_said", "leakage")]
    (root / "p" / "generalist").mkdir(parents=True)
    pd.DataFrame(rows, columns=COLUMNS).to_csv(root / "p" / "generalist" / "figures.csv", index=False)
    return root


def figures(method, root, output):
    """What notebooks show of a method's answers, a function of theirs each on one measure."""
    page = Page(root, {}, output)
    folder = page.read("e").only(method)
    return [
        folder.missing(["gnm"], "make"),
        page.table(folder),
        page.bars("bars", folder, "T", ["score", "format_accuracy", "refusal_f1"], "in_context"),
        page.folders("folders", {"One": folder}, "T", ["accuracy_age_0"]),
        page.at_ages("ages", folder, "T", ["score"], [0, 2], "in_context"),
        page.lines("age", folder, "T", ["format_accuracy"]),
        page.lines("t", folder, "T", ["refusal_f1"], "t", "in_context"),
        page.heatmaps("cells", folder, "T", ["refusal_precision"]),
        page.say(lambda: ranking(folder.metrics())),
        page.say(lambda: with_age(folder.measures(["accuracy"], "age"), "accuracy")),
        page.say(lambda: corners(folder.measures(["accuracy"], "cell"), "accuracy")),
    ]


def costs(root, output):
    """What they show of costs."""
    page = Page(root, {}, output)
    folder = page.read("e")
    numbers = {"value": 0.5, "low": 0.4, "high": 0.6, "age": pd.NA, "sequences": 9}
    metrics = pd.DataFrame({"metric": "score", "method": ["generalist", "in_context"], **numbers})

    def kept():
        return compression(metrics, folder.cost(), "T"), against_kept(metrics, folder.cost())

    return [
        page.frame(folder.cost),
        page.cost("cost", folder, "T"),
        page.draw("kept", kept),
        page.say(lambda: growth(folder.evaluations)),
        page.say(lambda: sizes_in_words(sizes_of(folder.evaluations, "smollm2-135m", 4))),
        page.frame(lambda: measured(folder.evaluations)),
    ]


def gates(root, output):
    """What they show of gates."""
    page = Page(root, {}, output)
    folder = page.read("e")

    def stored():
        frame = of_measures(segment_metrics(folder.evaluations), ["segments", "stored"], "share")
        return grouped_bars(frame, "T", ["share"]), frame

    return [page.draw("stored", stored)]


def layers(root, output):
    """What they show of the memory analysis."""
    page = Page(root, {}, output)
    drawn = page.draw("change", lambda: draw_part(root / "m", "instruction_change", "T"))
    parts = ("instruction_change", "write_invariance")
    return [drawn] + [page.say(lambda part=part: " ".join(sentences(params(root), part))) for part in parts]


def directions(root, output):
    """What they show of the number of singular values."""
    return [Page(root, {}, output).draw("directions", lambda: draw_part(root / "m", "compressibility", "T"))]


def swaps(root, output):
    """What they show of swapped layers."""
    page = Page(root, {}, output)
    drawn = page.draw("swap", lambda: draw_part(root / "m", "layer_swap", "T"))
    return [drawn, page.say(lambda: " ".join(sentences(params(root), "layer_swap")))]


def params(root):
    compared, band = ("gnm", "gnm_ablation"), (0.1, 0.4)
    return MemoryReportParams(evaluations=root / "m", title="T", output="m", compared=compared, published_band=band)


def people(root, output):
    """The report of the evaluation in people's words."""
    settings = PeopleReport(evaluations=root / "p", shown="generalist", title="T", output=output / "people")
    return [Page(root, {}, output).say(lambda: report(settings))]


def evaluation(root, method):
    return SavedEvaluation("e", method, "", root / "e" / method)


FILES = {  # a file: how it is read, and what is shown of it
    "e/in_context/summary.json": (lambda root: evaluation(root, "in_context").summary, partial(figures, "in_context")),
    "e/in_context/counts.json": (lambda root: evaluation(root, "in_context").counts, partial(figures, "in_context")),
    "e/generalist/cost.json": (lambda root: evaluation(root, "generalist").cost, costs),
    "e/in_context/cost.json": (lambda root: evaluation(root, "in_context").cost, costs),
    "e/generalist/run_config.json": (lambda root: evaluation(root, "generalist").device, costs),
    "m/gnm/run_config.json": (lambda root: components(root / "m"), directions),
    "e/generalist/records.parquet": (
        lambda root: evaluation(root, "generalist").records,
        partial(figures, "generalist"),
    ),
    "e/generalist/segments.parquet": (lambda root: read_segments(root / "e/generalist/segments.parquet"), gates),
    "m/gnm/layers.parquet": (lambda root: read_layers(root / "m"), layers),
    "m/layer_swap/answers.parquet": (lambda root: read_swap(root / "m"), swaps),
    "p/generalist/figures.csv": (lambda root: read_people_figures(root / "p/generalist/figures.csv"), people),
}
DRAWN = {"t", "type", "fact_correct", "format_age", "refused"}
"""Columns of records that are spoiled, one of each dtype."""
BAD = (None, math.inf, -3, "x", [1, 2])
BAD_IN_LISTS = (*BAD, 0, 1e300, True, [], [[1.0], [2.0, 3.0]], {"a": 1})
ABSENT = object()


@contextmanager
def kept(path):
    before = path.read_bytes()
    try:
        yield
    finally:
        path.write_bytes(before)


def save(path, content):
    """A table or an object; where pyarrow has no type for a column, this way of spoiling cannot be saved."""
    if isinstance(content, dict):
        path.write_text(json.dumps(content))
    elif path.suffix == ".csv":
        content.to_csv(path, index=False)
    else:
        content.to_parquet(path, index=False)


def load(path):
    if path.suffix == ".json":
        return json.loads(path.read_text())
    return pd.read_csv(path) if path.suffix == ".csv" else pd.read_parquet(path)


def spoiled(content, key, value, whole):
    """The content with `value` under `key`: in all of a column or one row, instead of a list or as its last entry."""
    if isinstance(content, dict):
        content = {name: entry for name, entry in content.items() if name != key or value is not ABSENT}
        if value is not ABSENT:
            instead = isinstance(content[key], list) and not whole
            content[key] = [*content[key][:-1], value] if instead else value
        return content
    if value is ABSENT:
        return content.drop(columns=key)
    column = pd.Series([value] * len(content)) if whole else content[key].astype(object).reset_index(drop=True)
    if not whole:
        column.iat[len(column) // 2] = value
    return content.assign(**{key: column})


def refused(path, read, root):
    """Whether the file is refused, in a sentence that says what is wrong, where, and what to do."""
    try:
        read(root)
    except DataError as error:
        assert str(path) in str(error) and str(error).endswith((AGAIN, "make it again"))
        return True
    return False


@pytest.mark.parametrize("name", FILES)
def test_values_that_do_not_belong_there(name, root, unrendered, tmp_path):
    """Each alone is refused or accepted by the reader; all that are accepted go through the functions."""
    path, (read, show) = root / name, FILES[name]
    with kept(path):
        content = load(path)
        keys = [key for key in content if path.name != "records.parquet" or key in DRAWN]
        ways = itertools.product((*BAD_IN_LISTS, ABSENT), (True, False))
        if path.suffix != ".json":
            ways = [(None, False), *((value, True) for value in (*BAD, ABSENT))]
        for value, whole in ways:
            accepted = content
            for key in keys:
                with warnings.catch_warnings(action="ignore"):
                    try:
                        save(path, spoiled(content, key, value, whole))
                    except (ValueError, TypeError, OverflowError):
                        continue  # parquet has no columns of several types
                    if not refused(path, read, root):
                        accepted = spoiled(accepted, key, value, whole)
            told = value is ABSENT or value is None or path.name == "cost.json"
            if accepted is not content and whole and told:
                save(path, accepted)
                show(root, tmp_path)


@pytest.mark.parametrize("name", FILES)
def test_files_that_are_none(name, root, unrendered, tmp_path):
    """An empty object is one that lacks everything."""
    path, (read, show) = root / name, FILES[name]
    with kept(path):
        whole = path.read_bytes()
        for raw in (b"", b"\xff\x00" * 40, b"[]", b"{}", whole[: len(whole) // 2]):
            path.write_bytes(raw)
            assert refused(path, read, root) or raw == b"{}"
        shown = show(root, tmp_path)
        assert any(str(path) in each.text for each in shown if isinstance(each, Sentence))


@pytest.mark.parametrize("name", [name for name in FILES if not name.endswith("json")])
def test_tables_that_lack_rows_or_have_them_twice(name, root, unrendered, tmp_path):
    path, (read, show) = root / name, FILES[name]
    with kept(path):
        whole = load(path)
        for rows in (whole[:0], whole[1:], pd.concat([whole, whole]), whole[::2]):
            save(path, rows)
            if not refused(path, read, root) and len(rows) < len(whole) - 1:
                show(root, tmp_path)


def test_a_target_that_is_missing(root, unrendered, tmp_path):
    """Of all layers it is missing, and the footnote counts the others; of one layer or block it is an error."""
    layers, answers = root / "m/gnm/layers.parquet", root / "m/layer_swap/answers.parquet"
    with kept(layers), kept(answers):
        frame = pd.read_parquet(layers)
        save(layers, frame[frame["target"] != 1])
        figure, table = draw_part(root / "m", "instruction_change", "T")
        assert set(table.loc[table["method"] == "gnm", "targets"]) == {2} and table["low"].notna().all()
        note = " ".join(text.get_text() for text in figure.subfigs[1].texts)
        assert note == "Bands: 95 % intervals, bootstrap over 2 to 3 target facts."
        save(layers, frame[(frame["target"] != 1) | (frame["layer"] != 2)])
        with pytest.raises(DataError, match="target 1 is there for 2 of 3 layers; make it again"):
            read_layers(root / "m")
        frame = pd.read_parquet(answers)
        save(answers, frame[(frame["target"] != 1) | (frame["kind"] != "reading")])
        with pytest.raises(
            DataError, match="no answers on accuracy of target 1 for reading, layers . to .; make it again"
        ):
            read_swap(root / "m")
        save(answers, frame[frame["kind"] != "none"])
        with pytest.raises(DataError, match="it has no answers with no layer swapped; make it again"):
            read_swap(root / "m")
