"""Every notebook runs on evaluations of our own, on the published ones, and where nothing is; pairs are in step."""

import re

import jupytext
import pandas as pd
import pytest
from evaluations import made_up_records, save_evaluation
from matplotlib.figure import Figure
from nbclient import NotebookClient
from notebooks import FOLDERS, NAMES, PROJECT, made_by, run, said

from gnm.analysis import page
from gnm.analysis.page import Page
from gnm.analysis.shown import Picture
from gnm.files import write_json


def test_the_notebooks_are_these():
    assert sorted(path.stem for path in (PROJECT / "notebooks").glob("*.py")) == sorted(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_pairs_are_in_step_and_hold_no_outputs(name):
    text, notebook = (jupytext.read(PROJECT / "notebooks" / f"{name}.{suffix}") for suffix in ("py", "ipynb"))
    assert [(c.cell_type, c.source) for c in text.cells] == [(c.cell_type, c.source) for c in notebook.cells]
    assert all(not cell.get("outputs") and not cell.get("execution_count") for cell in notebook.cells)


@pytest.mark.parametrize("name", NAMES)
def test_notebooks_draw_what_is_there(name, own, tmp_path):
    shown = run(name, own, tmp_path)
    pictures = sorted(tmp_path.glob("*.png"))
    assert pictures and all(path.with_suffix(".svg").is_file() for path in pictures)
    assert all(len(pd.read_csv(path.with_suffix(".csv"))) for path in pictures)
    assert "dvc repro` makes them" in said(shown) or name == "gates"
    assert "Nothing to say" not in said(shown)


@pytest.mark.parametrize("name", NAMES)
def test_notebooks_say_what_is_missing_where_nothing_is(name, tmp_path, monkeypatch):
    """The command that they name makes every method that they call missing."""
    asked, missing = [], page.missing
    monkeypatch.setattr(page, "missing", lambda *given: asked.append(given) or missing(*given))
    shown = run(name, tmp_path / "nothing", tmp_path / "plots")
    assert "dvc repro` makes them" in said(shown) and not (tmp_path / "plots").exists()
    for folder, _, methods, command, *_ in asked:
        (experiment,) = re.fullmatch(r"cd (\S+) && dvc repro", command).groups()
        wanted = {f"{folder}/{method.replace(' (', '_').removesuffix(')')}" for method in methods}
        assert wanted <= made_by(experiment), f"{name}: no stage makes {wanted - made_by(experiment)}"


@pytest.fixture(scope="module")
def broken(tmp_path_factory):
    """Roots by what is wrong with them; all have one method, no records, and a cost of other keys."""
    roots = {name: tmp_path_factory.mktemp("root") for name in ("summaries alone", "summaries of other keys")}
    for wrong, root in roots.items():
        for folder in FOLDERS:
            save_evaluation(root / folder / "gnm", made_up_records(), keep_records=False, keep_counts=False)
            write_json(root / folder / "gnm" / "cost.json", {"beauty": [1.0, None]})
            if wrong == "summaries of other keys":
                write_json(root / folder / "gnm" / "summary.json", {"beauty_matrix": [[[1.0]]]})
        path = root / "memory_analysis" / "gnm" / "layers.parquet"
        path.parent.mkdir(parents=True)
        measure = "write_invariance" if wrong == "summaries alone" else "beauty"
        pd.DataFrame({"target": [0], "layer": [0], "measure": [measure], "value": [0.5]}).to_parquet(path)
    return roots


@pytest.mark.parametrize("name", NAMES)
def test_one_method_without_records_gives_a_smaller_figure(name, broken, unrendered, tmp_path):
    shown = run(name, broken["summaries alone"], tmp_path)
    drawn = list(tmp_path.glob("*.csv"))
    if name in ("comp_gen", "flops"):  # experiment 3 is not there, and costs are of other keys
        assert not drawn and "Not drawn: " in said(shown)
    else:
        assert drawn and all(set(pd.read_csv(path)["method"]) == {"gnm"} for path in drawn)


@pytest.mark.parametrize("name", NAMES)
def test_summaries_of_other_keys_are_a_sentence(name, broken, tmp_path):
    shown = run(name, broken["summaries of other keys"], tmp_path)
    assert not list(tmp_path.iterdir()) and "Not drawn: " in said(shown)


def test_parameters_that_do_not_fit_are_a_sentence(own, unrendered, tmp_path):
    """A backbone of unknown sizes; fewer documents than the ten that are told of; two methods of one name."""
    told = said(run("flops", own, tmp_path, SHAPE="no shape", LARGE="none either", OWN=PROJECT / "saved_evals"))
    assert "Nothing to say: the sizes of the backbone 'no shape' are not known" in told
    told = said(run("flops", PROJECT / "saved_evals", tmp_path, DOCUMENTS=5))
    assert "After 5 documents, questions per document" in told and "After 10 documents" not in told
    for method in ("in_context", "llama3"):
        save_evaluation(tmp_path / "root" / "small_exp1" / method, made_up_records(), keep_records=False)
    for name in ("warmup_summary", "warmup_heatmaps", "flops"):
        told = said(run(name, tmp_path / "root", tmp_path / name))
        assert "are both called 'In-context (untrained)' in figures; rename one of them" in told
        assert not (tmp_path / name).exists()


def test_notebooks_read_the_published_evaluations(shared, unrendered, tmp_path):
    published = shared / "reference/saved_evals"
    two = tmp_path / "two"  # heatmaps of all methods take a minute
    for folder in ("warmup_seq_10", "mixed_documents_seq_10"):
        (two / folder).mkdir(parents=True)
        (two / folder / "gnm").symlink_to(published / folder / "gnm")
    texts = {}
    for name in set(NAMES) - {"gates", "memory_analysis"}:
        root = two if name.endswith("heatmaps") else published
        texts[name] = said(run(name, root, tmp_path / "plots", OWN=PROJECT / "saved_evals"))
        assert "Nothing to say" not in texts[name] or name.endswith("heatmaps") or name == "flops"
    assert "Score in percent, best first: GNM 86.7;" in texts["warmup_summary"]
    assert "GNM 78.0" in texts["mixed_docs"] and "GNM 73.8" in texts["comp_gen"]
    assert "Retrieval FT 52.2" in texts["format_generalization"]
    assert "In-context FT (document first) 5.05 times" in texts["flops"]
    assert len(list((tmp_path / "plots").glob("*.csv"))) >= 14
    counted = pd.read_csv(tmp_path / "plots" / "flops_counted_large.csv")  # beside the published curves
    assert {"gnm", "retrieval", "no_memory", "memoryllm (published pool)"} < set(counted["method"])


def test_a_real_kernel_shows_the_pictures(own, tmp_path):
    notebook = jupytext.read(PROJECT / "notebooks" / "comp_gen.ipynb")
    place = next(i for i, cell in enumerate(notebook.cells) if "parameters" in cell.metadata.get("tags", ()))
    notebook.cells[place].source += f"\nROOT, OUTPUT = {str(own)!r}, {str(tmp_path)!r}"
    done = NotebookClient(notebook, timeout=120, resources={"metadata": {"path": tmp_path}}).execute()
    outputs = [output["data"] for cell in done.cells for output in cell.get("outputs", ()) if "data" in output]
    assert any("image/png" in data for data in outputs) and any("text/markdown" in data for data in outputs)


def test_figures_that_belong_together_are_shown_below_each_other(tmp_path):
    """Each has its own files; a single one has the name as it is."""
    here = Page(tmp_path, {}, tmp_path / "plots")
    frame = pd.DataFrame({"value": [1.0]})
    shown = here.draw_several("x", lambda: [(Figure(), frame), (Figure(), frame.assign(value=2.0))])
    assert [path.name for path in sorted((tmp_path / "plots").glob("*.csv"))] == ["x_1.csv", "x_2.csv"]
    assert shown._repr_html_().count("data:image/png;base64,") == 2 and "x_1.png, x_2.png" in repr(shown)
    assert here.draw_several("y", lambda: [(Figure(), frame)]).pictures == (Picture(tmp_path / "plots" / "y.png"),)


def test_metrics_of_a_single_folder_stand_in_one_panel(tmp_path, monkeypatch):
    """The title says which folder it is; of several, each metric has a panel."""
    drawn = []
    monkeypatch.setattr(Page, "draw", lambda self, name, make: drawn.append(make()[0]))
    for folder in "ef":
        save_evaluation(tmp_path / folder / "gnm", made_up_records())
    page = Page(tmp_path, {}, tmp_path / "plots")
    folders = {"First": page.read("e"), "Second": page.read("f"), "Third": page.read("g")}
    page.folders("x", folders, "A title", ["accuracy", "score"])
    page.folders("x", {key: folders[key] for key in ("Second", "Third")}, "A title", ["accuracy", "score"])
    two, one = (figure.subfigs[0] for figure in drawn)
    assert len(two.axes) == 2 and len(one.axes) == 1 and one.get_suptitle() == "A title: second"
    assert [tick.get_text() for tick in one.axes[0].get_xticklabels()] == ["Accuracy", "Score"]


def test_a_damaged_evaluation_is_a_sentence(tmp_path):
    save_evaluation(tmp_path / "e" / "gnm", made_up_records(), keep_records=False)
    (tmp_path / "e" / "gnm" / "summary.json").write_text("{}")
    page = Page(tmp_path, {"published": "e"}, tmp_path / "plots")
    shown = page.bars("x", page.read("published"), "A title", ["score"])
    assert "Not drawn" in shown.text and "lacks fact_accuracy_matrix" in shown.text
    assert "No table" in page.table(page.read("published")).text
