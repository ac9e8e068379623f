"""What gates keep, in tables and figures: from segments made by hand, and from an evaluation on a tiny backbone."""

import pandas as pd
import pytest

from gnm.analysis.gates import GatesParams, against_kept, compression, gates, segment_metrics
from gnm.analysis.saved import SavedEvaluation
from gnm.api import load
from gnm.errors import CheckpointError, DataError
from gnm.evaluate import evaluate
from gnm.memory.written import Segment
from gnm.metrics.records import write_segments
from gnm.params import EvaluateParams
from gnm.probing.what_was_learned import WhatWasLearnedParams, decisions, shaded
from small_runs import evaluate_settings, write_small_documents


def segment(sequence, text, strength, tokens, stored, of_document, wanted):
    return {
        "sequence": sequence, "t": 0, "text": text, "strength": strength, "tokens": tokens, "stored": stored,
        "of_document": of_document, "wanted": wanted,
    }  # fmt: skip


def test_decisions_are_judged_on_the_documents_own_words(tmp_path):
    rows = [
        segment(0, "Instruction: all.\n", 0.9, 6, 6, False, False),  # counts among what is stored only
        segment(0, "* Oman is hot\n", 0.8, 4, 4, True, True),
        segment(0, "* Fiat is cold\n", 0.6, 4, 0, True, False),  # wrong, whatever the budget then stored
        segment(0, "'}\n", 0.9, 2, 0, True, False),  # no letter: nothing to decide
        segment(1, "* Rome is old\n", 0.1, 4, 2, True, False),
        segment(1, "* Élan, a car\n", 0.5, 4, 4, True, True),
    ]
    write_segments(tmp_path / "segments.parquet", rows)
    metrics = segment_metrics({"generalist": SavedEvaluation("e", "generalist", "", tmp_path)}).set_index("metric")
    assert metrics.loc["segments", "value"] == 3 / 4 and metrics.loc["segments", "samples"] == 4
    assert metrics.loc["stored", "value"] == 16 / 24
    low, high = metrics.loc["segments", ["low", "high"]]
    assert low == 0.5 and high == 1.0  # two sequences: either alone, or both


def test_without_gates_there_is_nothing_to_judge(tmp_path):
    with pytest.raises(DataError, match=r"no evaluation has segments\.parquet"):
        segment_metrics({"gnm": SavedEvaluation("e", "gnm", "", tmp_path)})


def test_table_and_figure_of_budgets(tmp_path):
    data = write_small_documents(tmp_path)
    settings = evaluate_settings(data, tmp_path / "evals")
    shares = {f"generalist_{percent}": percent / 100 for percent in (50, 25)}
    settings["methods"] = {"gnm": {"method": "gnm"}} | {
        name: {"method": "gnm", "write": {"gates": {"by": "random", "threshold": 0.0, "share": share}}}
        for name, share in shares.items()
    }
    for name in settings["methods"]:
        evaluate(EvaluateParams.model_validate(settings), name, "a test")
    shown = {"evaluations": tmp_path / "evals", "title": "T", "output": tmp_path / "out", "shown": "selectivity"}
    gates(GatesParams(**shown, figures_of_merit=["selectivity", "segments", "stored"]))
    table = pd.read_csv(tmp_path / "out.csv").set_index("method")
    for name, share in shares.items():
        row = table.loc[f"generalist ({name[-2:]})"]
        assert row["stored"] == pytest.approx(share, abs=0.01) and 0 < row["segments"] < 1
        assert row["Kept"] == pytest.approx(share * table.loc["gnm", "Kept"], rel=0.05)
    assert pd.isna(table.loc["gnm", "stored"])
    assert (tmp_path / "out.png").stat().st_size > 10_000
    with pytest.raises(DataError, match="no method has a figure 'beauty'"):
        gates(GatesParams(**shown | {"shown": "beauty"}, figures_of_merit=["selectivity"]))


def test_each_instruction_has_a_panel_with_the_segments_under_their_gates():
    found = {
        f"Instruction {number}": (Segment("* Oman\n", 0.9, 3, 3, True), Segment("* Fiat\n", 0.0, 3, 0, True))
        for number in range(3)
    }
    figure = shaded(found)
    panels = [axes for axes in figure.axes if axes.get_title(loc="left")]
    assert [axes.get_title(loc="left") for axes in panels] == list(found)
    for axes in panels:
        assert [text.get_text().strip() for text in axes.texts] == ["90%", "* Oman", "0%", "* Fiat"]
        weights = [text.get_weight() for text in axes.texts][1::2]
        shades = [patch.get_alpha() for patch in axes.patches]
        assert weights == ["bold", "normal"] and shades[0] > 0.5 and shades[1] == 0


def test_a_model_without_gates_has_nothing_to_show(tmp_path):
    load(None, backbone="tiny", dtype="bfloat16", device="cpu").save_pretrained(tmp_path / "plain")
    params = WhatWasLearnedParams(
        adapter=tmp_path / "plain", document="* Oman\n", instructions=["All."], output=tmp_path / "out"
    )
    with pytest.raises(CheckpointError, match="has no write gates"):
        decisions(params)


@pytest.mark.parametrize(("against", "places", "named"), [("Kept", [100, 300], "Slots"), ("MB", [6.9, 13.8], "MB")])
def test_quality_stands_against_slots_or_bytes(against, places, named):
    """A token's keys and values take other bytes than a slot."""
    methods, value = ["finch (16)", "finch"], [0.5, 0.7]
    numbers = {"value": value, "low": value, "high": value, "age": None, "sequences": 30}
    metrics = pd.DataFrame({"metric": "score", "method": methods, **numbers}).astype({"age": "Int64"})
    cost = pd.DataFrame({"Kept": [100, 300], "MB": [6.9, 13.8]}, index=methods)
    body, foot = compression(metrics, cost, "A title", "score", against).subfigs
    axes = body.axes[0]
    assert axes.lines[0].get_xdata().tolist() == places and axes.get_xlabel().startswith(named)
    first, last = axes.get_xlim()
    assert [text.get_text() for text in axes.texts] == ["16 % stored"]
    assert sum(first <= tick <= last for tick in axes.get_xticks()) >= 3
    assert last > 4 * first  # two ticks with their numbers at least
    assert foot.texts[0].get_text().replace("\n", " ") == "Whiskers: 95 % intervals, bootstrap over 30 sequences."
    table = against_kept(metrics, cost).set_index("method")
    assert table[["value", "Kept", "MB"]].to_numpy().tolist() == [[0.5, 100, 6.9], [0.7, 300, 13.8]]
    with pytest.raises(DataError, match="has saved its cost"):
        compression(metrics, pd.DataFrame(), "A title")
