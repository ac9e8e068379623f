"""What pages and reports say of two folders of one name, of files in the way, of a single target or probe."""

import json
import re

import pandas as pd
import pytest
from evaluations import made_up_records, save_evaluation, save_memory_analysis
from matplotlib.text import Text

from gnm.analysis.memory import draw_part
from gnm.analysis.memory_report import MemoryReportParams, sentences
from gnm.analysis.memory_sentences import against_band, difference, where_it_acts
from gnm.analysis.page import Page
from gnm.analysis.people import PeopleReport, by_form, report
from gnm.analysis.report import read_experiment
from gnm.analysis.saved import SavedEvaluation
from gnm.analysis.sentences import corners, ranking, with_age
from gnm.analysis.style import save_figure
from gnm.errors import DataError
from gnm.files import write_json
from gnm.metrics.people import COLUMNS


def save_people(root, rows):
    """Rows of (folder, by, group, figure, value, low, high)."""
    for folder in {row[0] for row in rows}:
        (root / folder).mkdir(parents=True)
        own = [(*row[1:], 9, 4) for row in rows if row[0] == folder]
        pd.DataFrame(own, columns=COLUMNS).to_csv(root / folder / "figures.csv", index=False)
    return PeopleReport(evaluations=root, shown=rows[0][0], title="T", output=root.parent / "out")


def test_two_folders_of_one_method_are_both_named(tmp_path):
    """The published name of a method beside this project's."""
    for folder in ("in_context_ft", "llama3_ft"):
        write_json(tmp_path / "e" / folder / "summary.json", {})
    told = (
        r"e/in_context_ft and .*e/llama3_ft are both called 'In-context FT \(document first\)' in figures; rename one"
    )
    page = Page(tmp_path, {}, tmp_path)
    folder = page.read("e")
    shown = [
        folder.missing(["gnm"], "make"),
        page.table(folder),
        page.bars("x", folder.only("in_context_ft"), "T", ["score"]),
        page.cost("x", folder, "T"),
        page.folders("x", {"One": folder}, "T", ["score"]),
    ]
    assert not folder and all(re.search(told, each.text) for each in shown)
    with pytest.raises(DataError, match=told):
        read_experiment(tmp_path / "e")
    rows = [(folder, "all", "all", "learned", 0.5, 0.4, 0.6) for folder in ("in_context_ft", "llama3_ft")]
    with pytest.raises(DataError, match="are both called"):
        report(save_people(tmp_path / "p", rows))


def test_people_s_figures_that_a_kill_left_moved_aside_are_brought_back(tmp_path):
    params = save_people(tmp_path / "p", [("gnm", "all", "all", "learned", 0.5, 0.4, 0.6)])
    (tmp_path / "p" / "gnm").rename(tmp_path / "p" / ".gnm.abcd1234.old")
    with pytest.raises(DataError, match="no evaluation of 'x'; it has: gnm$"):
        report(params.model_copy(update={"shown": "x"}))


def test_methods_that_a_folder_lacks_are_named_where_others_are_there(tmp_path):
    save_evaluation(tmp_path / "e" / "generalist", made_up_records(), keep_records=False)
    page = Page(tmp_path, {}, tmp_path)
    shown = page.bars("x", page.read("e").only("gnm", "memoryllm"), "T", ["score"])
    assert shown.text == "Not drawn: there are no evaluations of GNM, Memory, untrained in e."
    shown = page.bars("x", page.read("f").only("gnm"), "T", ["score"])
    assert shown.text == "Not drawn: there are no evaluations of f."


def test_what_a_published_folder_lacks_is_made_in_this_project_s(tmp_path):
    """A variant counts under its full name where no other is there."""
    write_json(tmp_path / "theirs" / "gnm_all" / "summary.json", {})
    folder = Page(tmp_path, {"theirs": "ours"}, tmp_path).read("theirs")
    told = folder.missing(["gnm (all)", "no_memory"], "make").text
    assert told == "Missing in `theirs`: No memory. `make` makes this project's, in `ours`."


def test_pictures_that_cannot_be_saved_are_a_sentence(tmp_path):
    save_memory_analysis(tmp_path / "m", ("gnm",), targets=2)
    (tmp_path / "plots").write_text("a file")
    shown = Page(tmp_path, {}, tmp_path / "plots").draw("x", lambda: draw_part(tmp_path / "m", "compressibility", "T"))
    assert shown.text.startswith(f"Not saved: cannot use {tmp_path / 'plots'}") and "choose another" in shown.text


def test_shares_beyond_1_are_not_drawn(tmp_path):
    save_evaluation(tmp_path / "e" / "gnm", made_up_records(documents=2), keep_records=False)
    path = tmp_path / "e" / "gnm" / "summary.json"
    summary = json.loads(path.read_text())
    summary["fact_retention"][-1][1] = 1.5
    write_json(path, summary)
    page = Page(tmp_path, {}, tmp_path / "plots")
    shown = page.lines("x", page.read("e"), "T", ["accuracy"])
    told = "is damaged: 'fact_retention' holds a number that is no share from 0 to 1; evaluate again to replace it."
    assert shown.text == f"Not drawn: {path} {told}"


def test_a_dollar_sign_in_a_folder_s_name_is_no_formula(tmp_path):
    """Two of them, with what would be no formula between."""
    name = "a$\\b$"
    save_memory_analysis(tmp_path / "m", (name,), targets=2)
    figure, _ = draw_part(tmp_path / "m", "compressibility", "5 $ and \\6 $")
    save_figure(figure, tmp_path / "x", exact=True)
    assert name in [text.get_text() for text in figure.findobj(Text)]
    assert name in (tmp_path / "x.svg").read_text()


def test_a_single_target_is_told_without_an_interval(tmp_path):
    save_memory_analysis(tmp_path, ("gnm",), targets=1)
    assert "GNM at layer 3 of 0 to 5, by 30.0 %" in where_it_acts(tmp_path)
    params = MemoryReportParams(
        evaluations=tmp_path, title="T", compared=("gnm", "x"), published_band=(0.1, 0.4), output="m"
    )
    told = sentences(params, "instruction_change")
    assert len(told) == 2 and not any("nan" in each or "[" in each for each in told)


def test_where_nothing_is_told_of_any_method_it_is_said(tmp_path):
    save_memory_analysis(tmp_path / "m", ("gnm",), targets=2)
    page, frame = (
        Page(tmp_path, {}, tmp_path),
        pd.DataFrame({"method": ["gnm"], "measure": "score", "q": 0, "t": 0, "age": 0}),
    )
    for make in (
        lambda: difference(tmp_path / "m", ("gnm", "x")),
        lambda: against_band(tmp_path / "m", (0.1, 0.4), ["x"]),
        lambda: with_age(frame, "accuracy"),
        lambda: corners(frame, "accuracy"),
        lambda: " ",
    ):
        assert page.say(make).text.startswith("Nothing to say: ")


def test_layers_that_another_method_lacks_are_not_compared(tmp_path):
    save_memory_analysis(tmp_path, ("gnm",))
    save_memory_analysis(tmp_path / "x", ("gnm_ablation",), layers=3)
    (tmp_path / "x" / "gnm_ablation").rename(tmp_path / "gnm_ablation")
    with pytest.raises(DataError, match="have no target in common at layer 3"):
        difference(tmp_path, ("gnm", "gnm_ablation"))


def test_changes_below_those_of_the_other_lines_have_a_peak(tmp_path):
    save_memory_analysis(tmp_path, ("gnm",))
    path = tmp_path / "gnm" / "layers.parquet"
    frame = pd.read_parquet(path)
    others = frame["measure"] == "change_others"
    frame.assign(value=frame["value"].mask(others, frame["value"] + 1)).to_parquet(path)
    assert "by -70.0 % of a slot's length, half of it by layer 3" in where_it_acts(tmp_path)


def test_an_interval_without_width_is_not_told():
    rows = {"metric": "score", "age": pd.NA, "value": [1.0, 0.5], "low": [1.0, 0.4], "high": [1.0, 0.6]}
    told = ranking(pd.DataFrame({"method": ["gnm", "no_memory"], **rows}))
    assert told == "Score in percent, best first: GNM 100.0; No memory 50.0 [40.0, 60.0]."


def test_a_device_that_is_no_text_is_named(tmp_path):
    for made in ("x", 3, {"device": ["a CPU"]}):
        write_json(tmp_path / "run_config.json", {"made": made})
        with pytest.raises(DataError, match=r"run_config\.json is damaged: what 'made' says of the device is no text"):
            assert SavedEvaluation("e", "gnm", "", tmp_path).device


def test_people_s_figures_stand_beside_their_form_and_have_no_interval_of_a_single_probe(tmp_path):
    """A form that lacks a figure leaves its place free."""
    rows = [("generalist", "all", "all", "leakage", 0.0, None, None)]
    rows += [("generalist", "document", group, "learned", 0.5, 0.4, 0.6) for group in ("email", "news")]
    rows += [("generalist", "document", "news", "leakage", 0.25, 0.1, 0.3)]
    params = save_people(tmp_path / "p", rows)
    said = report(params)
    assert "| 0.0 n 9 |" in said and "nan" not in said
    figure = by_form(pd.read_csv(tmp_path / "p/generalist/figures.csv"), "T", "generalist")
    learned, _, leakage = figure.subfigs[0].axes
    assert [tick.get_text() for tick in learned.get_yticklabels()] == ["Document: email", "Document: news"]
    (bar,) = [bar for bar in leakage.patches if bar.get_width() > 0]
    assert bar.get_width() == 25 and round(bar.get_y() + bar.get_height() / 2) == 1
