"""Heatmaps, lines and grouped bars show the numbers of their tables, in print without colour too."""

import pandas as pd
import pytest
from evaluations import made_up_records, save_evaluation
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

from gnm.analysis.cost_figures import cost_by_documents, cost_lines
from gnm.analysis.drawing import COLUMN, HEIGHT, PAGE, save_with_table
from gnm.analysis.figures import overview
from gnm.analysis.grouped import at_ages, grouped_bars, of_folders, of_measures
from gnm.analysis.heatmaps import heatmaps
from gnm.analysis.lines import finish, measure_lines
from gnm.analysis.measures import measure_frame
from gnm.analysis.report import ReportParams, read_experiment, report
from gnm.analysis.style import METHODS, method_hatch, save_figure
from gnm.errors import DataError


@pytest.fixture
def root(tmp_path):
    for seed, method in enumerate(("gnm", "retrieval", "no_memory")):
        save_evaluation(tmp_path / "e" / method, made_up_records(seed, 6), keep_records=method == "gnm")
    save_evaluation(tmp_path / "single" / "gnm", made_up_records(documents=1), keep_records=False)
    return tmp_path


@pytest.fixture
def evaluations(root):
    return read_experiment(root / "e")[0]


def panels(figure):
    return figure.subfigs[0].axes


def assert_nothing_is_cut(figure):
    """Figures are saved at their own size; what sticks out of it is lost."""
    FigureCanvasAgg(figure)
    figure.draw_without_rendering()
    panels = figure.findobj(Axes)
    ticks = {tick for axes in panels for axis in (axes.xaxis, axes.yaxis) for tick in axis.get_ticklabels(which="both")}
    texts = [text for text in figure.findobj(Text) if text.get_visible() and text.get_text() and text not in ticks]
    for place in (*(text.get_window_extent() for text in texts), *(axes.get_tightbbox() for axes in panels)):
        assert place.x0 >= 0 and place.y0 >= 0
        assert place.x1 <= figure.bbox.x1 and place.y1 <= figure.bbox.y1


def test_heatmaps_write_every_cell_and_hatch_the_empty_ones(evaluations):
    frame = measure_frame(evaluations, ["accuracy", "selectivity"], "cell")
    frame.loc[(frame["q"] == 0) & (frame["t"] == 0), "value"] = 0.0
    ((figure, rows),) = heatmaps(frame, "A title", ["accuracy", "selectivity"])
    axes = figure.axes
    pd.testing.assert_frame_equal(rows, frame)
    assert len(axes) == 6
    for panel in axes:
        assert len(panel.texts) == 9 and len(panel.patches) == 1 and panel.patches[0].get_hatch()
        assert panel.texts[0].get_text() == "0"
    drawn = frame[(frame["method"] == "gnm") & (frame["measure"] == "accuracy")]
    assert [text.get_text() for text in axes[0].texts] == [f"{100 * value:.0f}" for value in drawn["value"]]


def test_lines_follow_the_frame_and_the_reference_is_dashed_across(evaluations):
    frame = measure_frame(evaluations, ["accuracy", "refusal_f1"], "age")
    figure = measure_lines(frame, "A title", ["accuracy", "refusal_f1"], reference="no_memory")
    accuracy = panels(figure)[0]
    rows = frame[(frame["measure"] == "accuracy") & (frame["method"] == "gnm")]
    assert accuracy.lines[0].get_ydata().tolist() == pytest.approx((100 * rows["value"]).tolist())
    names = ["GNM", "Retrieval (untrained)", "No memory (mean)"]
    assert [line.get_label() for line in accuracy.lines] == names
    mean = frame[(frame["measure"] == "accuracy") & (frame["method"] == "no_memory")]["value"].mean()
    assert accuracy.lines[2].get_ydata() == pytest.approx([100 * mean] * 2)
    (legend,) = figure.subfigs[0].legends
    assert [text.get_text() for text in legend.get_texts()] == names


def test_bars_at_ages_have_lengths_whiskers_and_hatches(evaluations):
    frame = at_ages(measure_frame(evaluations, ["score", "accuracy"], "age"), [0, 3, 9])
    assert list(dict.fromkeys(frame["group"])) == ["Age 0", "Age 3"]
    figure = grouped_bars(frame, "A title", ["accuracy"], reference="no_memory")
    bars = panels(figure)[0].patches
    expected = [
        100 * value
        for method in ("gnm", "retrieval")
        for value in frame[(frame["method"] == method) & (frame["measure"] == "accuracy")]["value"]
    ]
    assert [bar.get_height() for bar in bars] == pytest.approx(expected)
    assert bars[0].get_hatch() != bars[2].get_hatch()
    assert len({method_hatch(method) for method in METHODS}) == len(METHODS)
    with pytest.raises(DataError, match="no method was asked at age 9"):
        at_ages(frame, [9])


def test_folders_stand_beside_each_other(root):
    frames = {name: read_experiment(root / name)[1] for name in ("e", "single")}
    frame = of_folders(frames, ["score"])
    axes = panels(grouped_bars(frame, "A title", ["score"]))[0]
    assert [text.get_text() for text in axes.get_xticklabels()] == ["e", "single"]
    assert len(axes.patches) == 4
    dashes = [text.xy[0] for text in axes.texts if text.get_text() == "–"]
    assert len(dashes) == 2 and all(0.5 < place < 1.5 for place in dashes)  # of two methods that one folder lacks
    with pytest.raises(DataError, match="no folder has beauty"):
        of_folders(frames, ["beauty"])


def test_figures_are_of_a_papers_sizes_and_letters_can_be_read(evaluations):
    by_age = measure_frame(evaluations, ["score", "accuracy", "selectivity"], "age")
    cells = measure_frame(evaluations, ["accuracy", "specificity", "selectivity"], "cell")
    long = pd.concat([cells, cells.assign(q=cells["q"] + 16, t=cells["t"] + 16)])
    long = long[long["method"] == "gnm"]
    devices = {
        "gnm": "NVIDIA H100 80GB HBM3",
        "retrieval": "CPU, 1 threads, bfloat16 computed in float32",
        "no_memory": "M",
    }
    costs = cost_by_documents(evaluations)
    costs["device"] = costs["method"].map(devices)
    figures = [
        measure_lines(by_age, "A title", ["score", "accuracy", "selectivity"], reference="no_memory"),
        grouped_bars(at_ages(by_age, range(4)), "A title", ["score", "accuracy"], reference="no_memory"),
        cost_lines(costs, "A title"),
        heatmaps(cells, "A title", ["accuracy", "specificity", "selectivity"])[0][0],
        heatmaps(long, "A title", ["accuracy", "specificity", "selectivity"])[0][0],
    ]
    for figure in figures:
        assert figure.get_figwidth() <= PAGE + 0.01 and figure.get_figheight() <= HEIGHT
        assert min(text.get_fontsize() for text in figure.findobj(Text) if text.get_text()) >= 6
        assert_nothing_is_cut(figure)
    assert measure_lines(by_age, "A title", ["score"]).get_figwidth() == COLUMN


def test_small_cells_have_numbers_at_every_fourth_document(evaluations):
    cells = measure_frame({"gnm": evaluations["gnm"]}, ["accuracy"], "cell")
    long = pd.concat([cells, cells.assign(q=cells["q"] + 40, t=cells["t"] + 40)])
    panel, scale = heatmaps(long, "A title", ["accuracy"])[0][0].axes
    kept = long[(long["q"] % 4 == 0) & (long["t"] % 4 == 0)]
    assert sorted(text.get_text() for text in panel.texts) == sorted(f"{100 * value:.0f}" for value in kept["value"])
    assert scale.get_xlabel() == "Colours, %"
    assert {text.get_ha() for text in panel.texts if text.get_position()[0] < text.get_position()[1]} == {"left"}


@pytest.mark.parametrize("name", ["gnm (a_variant_of_many_words_that_say_what_is_different_about_it)", 80 * "x"])
def test_names_wider_than_a_column_are_not_cut(evaluations, name):
    frame = measure_frame({name: evaluations["gnm"]}, ["accuracy"], "age")
    for figure in (measure_lines(frame, "A title", ["accuracy"]),
                   grouped_bars(at_ages(frame, [0, 3]), "A title", ["accuracy"])):  # fmt: skip
        assert figure.get_figwidth() == COLUMN
        assert_nothing_is_cut(figure)


def test_saved_cells_have_the_colours_of_their_numbers(tmp_path):
    """Also where a picture has more than 256 colours."""
    n = 20
    cells = pd.DataFrame([("gnm", "accuracy", q, t, (q * n + t) / n**2, 1) for q in range(n) for t in range(q, n)],
                         columns=["method", "measure", "q", "t", "value", "samples"])  # fmt: skip
    ((figure, _),) = heatmaps(cells, "A title", ["accuracy"])
    path, *_ = save_figure(figure, tmp_path / "a", exact=True)
    with Image.open(path) as saved:
        found = {colour for _, colour in saved.convert("RGB").getcolors(saved.width * saved.height)}
    expected = {tuple(colormaps["Blues"](value, bytes=True)[:3]) for value in cells["value"]}
    assert len(expected) > 90 and expected <= found


def test_markers_of_long_lines_do_not_hide_each_other():
    methods = list(METHODS)[:8]
    frame = pd.DataFrame([(method, "accuracy", age, 0.0, None, None, 9, "none") for method in methods for age in
                          range(20)], columns=["method", "measure", "age", "value", "low", "high", "sequences",
                                               "interval"])  # fmt: skip
    drawn = panels(measure_lines(frame.astype({"low": float, "high": float}), "A title", ["accuracy"]))[0].lines
    places = [place for line in drawn for place in range(line.get_markevery()[0], 20, line.get_markevery()[1])]
    assert len(drawn) == 8 and len(places) == len(set(places)) >= 16


@pytest.mark.parametrize("documents", [10, 20])
def test_heatmaps_of_many_methods_go_on_in_another_figure(evaluations, documents):
    """None is higher than a page; every method is in one of them, and a panel that a method lacks is hatched."""
    cells = measure_frame({"gnm": evaluations["gnm"]}, ["accuracy", "specificity", "selectivity"], "cell")
    last = cells["t"].max()
    cells = pd.concat([cells, cells.assign(q=documents - 1, t=documents - 1)[cells["t"] == last]])
    cells = cells.drop_duplicates(["measure", "q", "t"])
    methods = list(METHODS)[:7]
    frame = pd.concat([cells.assign(method=method) for method in methods])
    frame = frame[~((frame["method"] == methods[-1]) & (frame["measure"] == "specificity"))]
    drawn = heatmaps(frame, "A title", ["accuracy", "specificity", "selectivity"])
    assert [sorted(rows["method"].unique(), key=methods.index) for _, rows in drawn] == [
        methods[:3], methods[3:5], methods[5:]]  # fmt: skip
    assert [figure.subfigs[0].get_suptitle() for figure, _ in drawn] == [f"A title ({page} of 3)" for page in (1, 2, 3)]
    for figure, rows in drawn:
        assert figure.get_figheight() <= HEIGHT
        assert len(figure.axes) - (documents == 20) == 3 * rows["method"].nunique()
    pd.testing.assert_frame_equal(pd.concat([rows for _, rows in drawn]), frame)
    hatched = len(drawn[-1][0].axes[4].patches)
    assert hatched == documents * (documents + 1) / 2


def test_the_footnote_of_heatmaps_says_what_cells_do_not(evaluations, root):
    def note(frame, *measures):
        return heatmaps(frame, "A title", measures)[0][0].subfigs[1].texts[0].get_text().replace("\n", " ")

    cells = measure_frame({"gnm": evaluations["gnm"]}, ["accuracy", "refusal_precision", "format_accuracy"], "cell")
    hatched = "Hatched: no question there, or the method has no such measure."
    assert note(cells, "accuracy") == f"Cells without intervals. {hatched}"
    whole = pd.concat([cells, cells[cells["q"] == 1].assign(t=3)]).drop_duplicates(["measure", "q", "t"])
    assert note(whole, "accuracy") == "Cells without intervals."
    assert "an answer is to have may come from another one" in note(cells, "accuracy", "format_accuracy")
    assert "0 of 0" not in note(cells, "refusal_precision")  # records tell
    assert "0 of 0" in note(cells.assign(samples=pd.NA), "refusal_precision")
    assert "0 of 0" not in note(cells.assign(samples=pd.NA), "accuracy")


def test_bars_of_a_methods_variants_can_be_told_apart(evaluations):
    gnm = measure_frame({"gnm": evaluations["gnm"]}, ["accuracy"], "age")
    bare = gnm.assign(method="retrieval")
    frame = pd.concat([gnm, gnm.assign(method="gnm (half)"), bare, bare.assign(method="retrieval (half)")])
    bars = panels(grouped_bars(at_ages(frame, [0]), "A title", ["accuracy"]))[0].patches
    looks = {(bar.get_facecolor(), bar.get_hatch()) for bar in bars}
    assert len(bars) == len(looks) == 4
    assert bars[0].get_edgecolor() == bars[1].get_edgecolor()


def test_numbers_over_many_bars_are_turned(evaluations):
    gnm = measure_frame({"gnm": evaluations["gnm"]}, ["accuracy"], "age")
    frame = pd.concat([gnm.assign(method=method) for method in list(METHODS)[:10]])
    turned = [panels(grouped_bars(at_ages(part, range(4)), "A title", ["accuracy"]))[0].texts for part in (frame, gnm)]
    assert {text.get_rotation() for text in turned[0]} == {90} and {text.get_rotation() for text in turned[1]} == {0}


def test_variants_have_white_markers_and_dashed_whiskers(evaluations):
    gnm = measure_frame({"gnm": evaluations["gnm"]}, ["accuracy"], "age")
    frame = pd.concat([gnm.assign(value=0.5), gnm.assign(value=0.5, method="gnm (half)")])
    axes = panels(measure_lines(frame, "A title", ["accuracy"]))[0]
    faces = [line.get_markerfacecolor() for line in axes.lines]
    assert faces == [METHODS["gnm"].color, "white"]
    solid, dashed = (whiskers.get_linestyle()[0][1] for whiskers in axes.collections)
    assert solid is None and dashed is not None


@pytest.mark.parametrize(("methods", "documents", "apart"), [(2, 10, 0.12), (2, 4, 0.048), (16, 10, 0.05)])
def test_methods_stand_a_share_of_the_axis_apart(evaluations, methods, documents, apart):
    """More of them stand closer: none comes near the next document's."""
    rows = [(method, "accuracy", age, age, 0.5, 0.4, 0.6, 30, "bootstrap")
            for method in list(METHODS)[:methods] for age in range(documents)]  # fmt: skip
    columns = ["method", "measure", "age", "t", "value", "low", "high", "sequences", "interval"]
    frame = pd.DataFrame(rows, columns=columns)
    first, second = panels(measure_lines(frame, "A title", ["accuracy"]))[0].lines[:2]
    assert second.get_xdata()[0] - first.get_xdata()[0] == pytest.approx(apart)


@pytest.mark.parametrize(
    ("last", "ticks"), [(4, [1, 2, 3, 4]), (10, [1, 2, 4, 6, 8, 10]), (20, [1, 4, 8, 12, 16, 20]),
                        (100, [1, 20, 40, 60, 80, 100])]
)  # fmt: skip
def test_ticks_of_documents_are_even_after_the_first(last, ticks):
    axes = Figure().subplots()
    finish(axes, 1, last, "t")
    assert axes.get_xticks().tolist() == ticks


def test_a_panel_is_named_by_what_its_bars_are(root):
    metrics = read_experiment(root / "e")[1]
    frame = of_measures(metrics, ["accuracy", "leakage"], "share")
    assert list(dict.fromkeys(frame["group"])) == ["Accuracy", "Leakage (less is better)"]
    axes = panels(grouped_bars(frame, "A title", ["share"], note="A note."))[0]
    assert axes.get_ylabel() == "Share, %"
    assert grouped_bars(frame, "A title", ["share"], note="A note.").subfigs[1].texts[0].get_text().endswith("A note.")


def test_single_documents_have_no_ages_to_follow(root):
    evaluations = read_experiment(root / "single")[0]
    with pytest.raises(DataError, match="single documents; there is nothing to follow"):
        measure_lines(measure_frame(evaluations, ["score"], "age"), "A title", ["score"])
    with pytest.raises(DataError, match="single documents; a heatmap needs sequences"):
        heatmaps(measure_frame(evaluations, ["accuracy"], "cell"), "A title", ["accuracy"])


def test_the_numbers_lie_beside_the_figure(evaluations, tmp_path):
    frame = measure_frame(evaluations, ["score"], "age")
    paths = save_with_table(measure_lines(frame, "A title", ["score"]), frame, tmp_path / "plots" / "x")
    assert [path.name for path in paths] == ["x.png", "x.svg", "x.csv"]
    assert pd.read_csv(paths[2])["value"].tolist() == pytest.approx(frame["value"].tolist())


def test_one_measure_does_not_squeeze_the_lines_below_it(root):
    metrics = read_experiment(root / "e")[1]
    assert overview(metrics, "A title", ["score"]).get_figwidth() >= 7


def test_samples_of_a_summary_alone_are_explained(root):
    settings = {"title": "A", "output": root / "plots" / "a", "figures_of_merit": ["score"], "samples": 2}
    with pytest.raises(DataError, match="samples: no evaluation has records"):
        report(ReportParams(evaluations=root / "single", **settings))
    assert not (root / "plots").exists()
