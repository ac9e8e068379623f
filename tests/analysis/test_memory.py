"""The memory analysis drawn: means and intervals over targets, peaks, what swaps lose, sentences, what is missing."""

import numpy as np
import pandas as pd
import pytest
import yaml
from evaluations import save_memory_analysis
from matplotlib.colors import to_hex

from gnm.analysis.memory import PARTS, by_layer, draw_part, lost_by_swap, peaks
from gnm.analysis.memory_figures import layer_lines
from gnm.analysis.memory_report import MemoryReportParams, main, sentences
from gnm.analysis.memory_saved import ABOVE, methods_in, read_layers, read_swap
from gnm.analysis.memory_sentences import (
    against_band,
    difference,
    levels,
    most_lost,
    where_it_acts,
    without_swap,
)
from gnm.analysis.style import method_style
from gnm.errors import DataError
from gnm.files import write_json

REPORT = {"title": "A title", "compared": ["gnm", "gnm_ablation"], "published_band": [0.1, 0.4]}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved") / "memory_analysis"
    save_memory_analysis(folder, ("gnm", "gnm_ablation"))
    return folder


def test_means_are_those_of_the_targets_and_intervals_hold_them(folder):
    frame = read_layers(folder)
    rows = by_layer(frame, ["write_invariance", ABOVE]).set_index(["method", "measure", "layer"])
    raw = pd.read_parquet(folder / "gnm" / "layers.parquet").set_index(["measure", "layer", "target"])["value"]
    raw = raw.sort_index()
    assert len(rows) == 2 * 2 * 6 and methods_in(folder) == ["gnm", "gnm_ablation", "layer_swap"]
    for layer in range(6):
        own = rows.loc[("gnm", "write_invariance", layer)]
        assert own["value"] == pytest.approx(raw["write_invariance", layer].mean()) and own["targets"] == 8
        assert own["low"] <= own["value"] <= own["high"]
        about = (raw["change_learned", layer] + raw["change_left_out", layer]) / 2 - raw["change_others", layer]
        assert rows.loc[("gnm", ABOVE, layer), "value"] == pytest.approx(about.mean())
    spread = raw["write_invariance", 2].std(ddof=0) / np.sqrt(8)
    own = rows.loc[("gnm", "write_invariance", 2)]
    assert own["high"] - own["low"] == pytest.approx(2 * 1.96 * spread, rel=0.15)


def test_a_peak_is_where_the_mean_is_highest(folder):
    found = peaks(read_layers(folder)).set_index("method")
    assert found.loc["gnm", "layer"] == 3 and found.loc["gnm", "low"] <= 3 <= found.loc["gnm", "high"]
    assert found.loc["gnm", "half"] == 2 and found.loc["gnm", "layers"] == 6
    with pytest.raises(DataError, match="no method has beauty"):
        peaks(read_layers(folder), "beauty")


def test_losses_are_differences_to_the_method_as_it_is_target_by_target(folder):
    answers = read_swap(folder)
    rows = lost_by_swap(answers).set_index(["kind", "measure", "first"])
    for kind in ("writing", "reading", "both"):
        for measure in ("accuracy", "selectivity"):
            asked = answers[answers["measure"] == measure]
            plain, own = asked[asked["kind"] == "none"], asked[(asked["kind"] == kind) & (asked["first"] == 2)]
            assert rows.loc[(kind, measure, 2), "value"] == pytest.approx(plain["right"].mean() - own["right"].mean())
            lost = plain["margin"].mean() - own["margin"].mean()
            assert rows.loc[(kind, f"{measure}_margin", 2), "value"] == pytest.approx(lost)
    assert rows.loc[("writing", "selectivity_margin", 2), ["low", "high"]].tolist() == pytest.approx([3, 3])


def test_the_program_writes_a_part_and_its_table(folder, tmp_path, capsys):
    settings = {"evaluations": str(folder), "output": str(tmp_path / "memory"), **REPORT}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(settings))
    main(["--params", str(tmp_path / "params.yaml"), "--part", "write_invariance"])
    assert (tmp_path / "memory_write_invariance.md").read_text() in capsys.readouterr().out
    table = pd.read_csv(tmp_path / "memory_write_invariance.csv")
    expected = by_layer(read_layers(folder), PARTS["write_invariance"])
    pd.testing.assert_frame_equal(table, expected)
    assert (tmp_path / "memory_write_invariance.png").stat().st_size > 10_000


@pytest.mark.parametrize("part", PARTS)
def test_every_part_is_drawn_by_its_table(folder, part):
    figure, frame = draw_part(folder, part, "A title")
    panels = figure.subfigs[0].axes
    assert set(frame["measure"]) == set(PARTS[part]) and len(panels) == len(PARTS[part])
    if part == "instruction_change":
        line = panels[0].lines[0]
        own = frame[(frame["measure"] == "change_learned") & (frame["method"] == "gnm")]
        assert line.get_ydata().tolist() == pytest.approx((100 * own["value"]).tolist())
        assert to_hex(line.get_color()).upper() == method_style("gnm").color
        assert len({axes.get_ylim() for axes in panels[:3]}) == 1  # to be compared
    if part == "layer_swap":
        own = frame[(frame["measure"] == "selectivity_margin") & (frame["kind"] == "writing")]
        assert panels[3].lines[0].get_ydata().tolist() == pytest.approx(own["value"].tolist())


def test_bands_have_outlines_and_markers_do_not_cover_each_other(folder):
    figure, frame = draw_part(folder, "write_invariance", "A title")
    axes = figure.subfigs[0].axes[0]
    assert all(band.get_linewidth()[0] == 0.5 for band in axes.collections)
    edges = [to_hex(band.get_edgecolor()[0]).upper() for band in axes.collections]
    assert edges == [method_style(method).color for method in ("gnm", "gnm_ablation")]
    long = pd.concat([frame.assign(layer=frame["layer"] + 6 * part) for part in range(5)])
    lines = layer_lines(long, "A title", ["write_invariance"]).subfigs[0].axes[0].lines
    assert [line.get_markevery() for line in lines] == [(0, 4), (2, 4)]


def test_the_footnote_names_what_shows_the_intervals(folder):
    for part, marks in (("write_invariance", "Bands: "), ("layer_swap", "Whiskers: ")):
        assert draw_part(folder, part, "A title")[0].subfigs[1].texts[0].get_text().startswith(marks)


@pytest.mark.parametrize(("saved", "words"), [((10, 10), "first\n10 singular"), ((10, 8), "first\nsingular")])
def test_compressibility_says_of_how_many_singular_values(tmp_path, saved, words):
    save_memory_analysis(tmp_path, ("gnm", "gnm_ablation"))
    for method, components in zip(("gnm", "gnm_ablation"), saved, strict=True):
        write_json(tmp_path / method / "run_config.json", {"components": components})
    figure, _ = draw_part(tmp_path, "compressibility", "A title")
    assert words in figure.subfigs[0].axes[0].get_title()


def test_a_part_is_drawn_of_some_methods_alone(folder):
    figure, frame = draw_part(folder, "selectivity_index", "A title", ["gnm_ablation", "memoryllm"])
    assert set(frame["method"]) == {"gnm_ablation"} and len(figure.subfigs[0].axes[0].lines) == 1
    with pytest.raises(DataError, match="no method has selectivity_index"):
        draw_part(folder, "selectivity_index", "A title", ["memoryllm"])


@pytest.mark.parametrize("part", PARTS)
def test_every_part_is_told_with_its_methods(folder, part):
    params = MemoryReportParams(evaluations=folder, output="memory", **REPORT)
    said = " ".join(sentences(params, part))
    assert "[" in said and ("GNM" in said or part == "layer_swap")


def test_sentences_read_their_numbers_from_the_data(folder):
    said = where_it_acts(folder)
    assert "GNM at layer 3 of 0 to 5 [3, 3], by 30.0 % of a slot's length, half of it by layer 2" in said
    assert "GNM has half of the difference at 33 % of the depth (within) and all of it at 50 % (behind it)" in (
        against_band(folder, (0.2, 0.4), ["gnm"])
    )
    assert "half of the difference at 33 % of the depth (before it)" in against_band(folder, (0.4, 0.6), ["gnm"])
    assert "for writing 3.00 (layers 2–3)" in most_lost(folder, "selectivity_margin", "Selectivity")
    assert "is above" in difference(folder, ("gnm", "gnm_ablation"))
    with pytest.raises(DataError, match="has no change_above_others of x to compare"):
        difference(folder, ("gnm", "x"))
    plain = read_swap(folder)
    right = plain.loc[(plain["kind"] == "none") & (plain["measure"] == "accuracy"), "right"].mean()
    assert f"With no layer swapped: accuracy {100 * right:.2f} [" in without_swap(folder)
    raw = pd.read_parquet(folder / "gnm" / "layers.parquet")
    mean = raw.loc[raw["measure"] == "write_invariance", "value"].mean()
    assert f"Cosine, mean over layers: GNM {mean:.2f} [" in levels(folder, "write_invariance", "Cosine")


def test_what_is_missing_or_damaged_is_explained(folder, tmp_path):
    with pytest.raises(DataError, match="no memory analysis under"):
        read_layers(tmp_path)
    with pytest.raises(DataError, match="no layer swap under"):
        read_swap(tmp_path)
    with pytest.raises(DataError, match="no method has beauty"):
        by_layer(read_layers(folder), ["beauty"])
    (tmp_path / "gnm").mkdir()
    (tmp_path / "gnm" / "layers.parquet").write_bytes(b"PAR1")
    with pytest.raises(DataError, match="is not a readable parquet file .*; make it again"):
        read_layers(tmp_path)
    no_rows = {"target": [], "layer": [], "measure": [], "value": []}
    for columns, message in (({"a": [1]}, "it has no column target, layer"), (no_rows, "it has no rows")):
        pd.DataFrame(columns).to_parquet(tmp_path / "gnm" / "layers.parquet")
        with pytest.raises(DataError, match=message):
            read_layers(tmp_path)
    one = pd.DataFrame({"target": [0], "layer": [0], "measure": ["compressibility"], "value": [0.5]})
    one.to_parquet(tmp_path / "gnm" / "layers.parquet")
    assert len(draw_part(tmp_path, "compressibility", "A title")[1]) == 1
    with pytest.raises(DataError, match="no method has change_above_others"):
        where_it_acts(tmp_path)
    settings = {"evaluations": str(tmp_path / "x"), "output": "memory", **REPORT}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(settings))
    with pytest.raises(SystemExit, match="no layer swap"):
        main(["--params", str(tmp_path / "params.yaml"), "--part", "layer_swap"])


@pytest.mark.parametrize(("name", "read"), [("gnm", read_layers), ("layer_swap", read_swap)])
def test_an_analysis_that_a_kill_left_moved_aside_is_brought_back(tmp_path, name, read):
    save_memory_analysis(tmp_path, ("gnm",), targets=2)
    (tmp_path / name).rename(tmp_path / f".{name}.abcd1234.old")
    assert not read(tmp_path).empty and (tmp_path / name).is_dir()


def test_a_single_target_has_no_interval(tmp_path):
    save_memory_analysis(tmp_path / "one", ("gnm",), targets=1)
    rows = by_layer(read_layers(tmp_path / "one"), ["compressibility"])
    assert rows["low"].isna().all()
    figure, _ = draw_part(tmp_path / "one", "compressibility", "A title")
    assert any("single target" in text.get_text() for text in figure.subfigs[1].texts)
