"""Figures show what the frame says, in each method's own colour, and touch no global Matplotlib state."""

import subprocess
import sys
from io import BytesIO

import matplotlib
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex
from PIL import Image

from gnm.analysis.figures import metric_bars, overview, retention_lines
from gnm.analysis.style import METHODS, in_order, method_style, save_figure, style
from gnm.errors import DataError

FIGURES = ("score", "accuracy", "specificity", "selectivity")


def metrics(methods=("no_memory", "gnm"), interval=True):
    rows = [
        {
            "method": method,
            "metric": metric,
            "age": age,
            "value": 0.3 + 0.1 * place,
            "sequences": 12,
            "low": 0.2 if interval else float("nan"),
            "high": 0.9 if interval else float("nan"),
        }
        for place, method in enumerate(methods)
        for metric, age in [(name, None) for name in FIGURES] + [("retention", age) for age in range(4)]
    ]
    return pd.DataFrame(rows).astype({"age": "Int64"})


def test_bars_have_the_methods_lengths_colours_and_whiskers():
    panels = metric_bars(metrics(), "A title").axes
    assert [axes.get_title() for axes in panels] == [f"{name.capitalize()},\N{NO-BREAK SPACE}%" for name in FIGURES]
    for axes in panels:
        assert [bar.get_width() for bar in axes.patches] == pytest.approx([40, 30])
        assert [to_hex(bar.get_edgecolor()).upper() for bar in axes.patches] == [
            METHODS["gnm"].color,
            METHODS["no_memory"].color,
        ]
        ends = [
            path.vertices[:, 0].tolist()
            for bars in axes.containers
            if hasattr(bars, "has_xerr")
            for path in bars.lines[2][0].get_paths()
        ]
        assert ends == [pytest.approx([20, 90])] * 2
    labels = [text.get_text() for text in panels[0].get_yticklabels()]
    assert labels == ["GNM", "No memory"]


def test_lines_have_the_methods_markers_and_values():
    axes = retention_lines(metrics(), "A title").axes[0]
    assert [line.get_label() for line in axes.lines] == ["GNM", "No memory"]
    assert [line.get_marker() for line in axes.lines] == [METHODS["gnm"].marker, METHODS["no_memory"].marker]
    assert axes.lines[0].get_ydata().tolist() == pytest.approx([40] * 4)
    assert len(axes.collections) == 2
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["GNM", "No memory"]


def test_many_ages_are_pooled_by_their_samples():
    rows = [("gnm", "retention", age, float(age % 2), 5, 0.2, 0.9, 1 + 2 * (age % 2)) for age in range(50)]
    columns = ["method", "metric", "age", "value", "sequences", "low", "high", "samples"]
    axes = retention_lines(pd.DataFrame(rows, columns=columns), "A title").axes[0]
    assert axes.lines[0].get_xdata().tolist() == [2.0 + 5 * span for span in range(10)]
    assert axes.lines[0].get_ydata()[:2].tolist() == pytest.approx([100 * 6 / 9, 100 * 9 / 11])
    assert "pooled over 5 each" in axes.get_xlabel() and not axes.collections
    few = pd.DataFrame([row[:-1] + (None,) for row in rows[:41]], columns=columns)  # no samples are known: all alike
    line = retention_lines(few, "A title").axes[0].lines[0]
    assert line.get_xdata().tolist() == [2.0 + 5 * span for span in range(8)] + [40.0]
    assert line.get_ydata()[:2].tolist() == pytest.approx([40, 60])


def test_variants_of_one_method_differ_in_the_dashes():
    lines = retention_lines(metrics(["gnm (a)", "gnm (b)", "no_memory"]), "A title").axes[0].lines
    assert [line.get_label() for line in lines] == ["GNM, a", "GNM, b", "No memory"]
    assert lines[0].get_color() == lines[1].get_color()
    assert lines[0].get_linestyle() != lines[1].get_linestyle()


def test_single_documents_are_shown_without_ages():
    frame = metrics()
    assert len(overview(frame, "A title").axes) == 5
    assert len(overview(frame[frame["age"].isna() | (frame["age"] == 0)], "A title").axes) == 4


def test_without_intervals_nothing_is_drawn_for_them():
    figure = overview(metrics(interval=False), "A title")
    assert all(not axes.collections for axes in figure.axes)
    assert figure.get_supxlabel() == "No intervals: summaries without records."
    assert "12 sequences" in overview(metrics(), "A title").get_supxlabel()


def test_the_footnote_is_of_what_is_drawn():
    """A metric that stands in the table alone may be of fewer sequences."""
    other = metrics().assign(sequences=1)
    frame = pd.concat([metrics(), other[other["metric"] == "score"].assign(metric="unlearning_accuracy")])
    assert overview(frame, "A title").get_supxlabel() == "Whiskers: 95 % intervals, bootstrap over 12 sequences."


def test_a_method_without_a_figure_leaves_its_row_empty():
    frame = metrics()
    frame = frame[(frame["method"] != "gnm") | (frame["metric"] != "score")]
    score, accuracy = metric_bars(frame, "A title").axes[:2]
    assert (len(score.patches), len(accuracy.patches)) == (1, 2)
    with pytest.raises(DataError, match="nothing to draw for refusal_f1"):
        metric_bars(frame, "A title", ["score", "refusal_f1"])


def test_saving_writes_both_files_whole_and_the_same_each_time(tmp_path):
    first = save_figure(overview(metrics(METHODS), "All methods"), tmp_path / "plots" / "a.png")
    second = save_figure(overview(metrics(METHODS), "All methods"), tmp_path / "plots" / "b")
    assert [path.name for path in first] == ["a.png", "a.svg"]
    assert sorted(path.name for path in (tmp_path / "plots").iterdir()) == ["a.png", "a.svg", "b.png", "b.svg"]
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]
    assert "In-context FT (instruction first)" in first[1].read_text()


def test_a_picture_of_few_colours_looks_as_drawn(tmp_path):
    figures, drawn = [overview(metrics(METHODS), "All methods") for _ in range(2)], BytesIO()
    path, _ = save_figure(figures[0], tmp_path / "a")
    with style():
        figures[1].savefig(drawn, format="png", bbox_inches="tight")
    with Image.open(path) as saved, Image.open(drawn) as whole:
        assert saved.mode == "P" and path.stat().st_size < len(drawn.getvalue()) / 2
        assert round(saved.info["dpi"][0]) == round(whole.info["dpi"][0]) == 200
        off = np.abs(np.asarray(saved.convert("RGB"), int) - np.asarray(whole.convert("RGB"), int))
    assert off.max() <= 16 and off.mean() < 1


def test_every_method_can_be_told_apart():
    assert len({(shown.color, shown.marker) for shown in METHODS.values()}) == len(METHODS)
    assert len({shown.marker for shown in METHODS.values()}) == len(METHODS)
    assert in_order(["zeta", "dummy", "gnm (val_id)", "gnm", "gnm"]) == ["gnm", "gnm (val_id)", "dummy", "zeta"]
    assert method_style("gnm (val_id)").color == METHODS["gnm"].color
    assert method_style("zeta").name == "zeta"


@pytest.mark.parametrize(
    ("variant", "words"),
    [("all", "every token stored"), ("05", "5 % stored"), ("val_id", "val id"), ("read anew", "read anew")],
)
def test_variants_are_named_in_words(variant, words):
    assert method_style(f"gnm ({variant})").name == f"GNM, {words}"


def test_drawing_changes_no_global_state(tmp_path):
    before = dict(matplotlib.rcParams)
    save_figure(overview(metrics(), "A title"), tmp_path / "a")
    assert dict(matplotlib.rcParams) == before
    program = "import sys, gnm.analysis.figures; sys.exit('matplotlib.pyplot' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
