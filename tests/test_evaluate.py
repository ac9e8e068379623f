"""Evaluation on a tiny backbone: what it writes, and that batches and order change nothing."""

import json
import re
from pathlib import Path
from unittest.mock import Mock

import pandas as pd
import pytest
import yaml

from gnm import cli
from gnm import evaluate as program
from gnm.analysis import report
from gnm.config import validate
from gnm.errors import ConfigError, DataError
from gnm.evaluate import evaluate
from gnm.metrics.records import read_records
from small_runs import evaluate_params, evaluate_settings, write_small_documents


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return write_small_documents(tmp_path_factory.mktemp("documents"))


def test_every_query_of_every_document_so_far_is_asked(data, tmp_path):
    records = read_records(evaluate(evaluate_params(data, tmp_path), "dummy", "a test") / "records.parquet")
    assert set(records["sequence"]) == {0, 1, 2}
    assert (records["q"] <= records["t"]).all()
    asked_now = records[records["t"] == records["q"]].groupby("sequence").size()
    asked_last = records[records["t"] == 2].groupby("sequence").size()
    assert (asked_now == asked_last).all()


def test_the_dummy_scores_as_one_who_believes_everything(data, tmp_path):
    folder = evaluate(evaluate_params(data, tmp_path), "dummy", "a test")
    summary = json.loads((folder / "summary.json").read_text())
    counts = json.loads((folder / "counts.json").read_text())
    assert summary["fact_accuracy"] == [1.0]
    assert summary["fact_selectivity"][0] < 0.5  # not 0: some true objects stand in other lines of the document
    assert counts["fact_accuracy"][0] > 0 and counts["fact_selectivity"][0] > 0


def test_the_run_says_what_it_was(data, tmp_path):
    folder = evaluate(evaluate_params(data, tmp_path), "memoryllm", "a test")
    config = json.loads((folder / "run_config.json").read_text())
    assert config["method"] == "memoryllm" and config["seeds"] == [0] and config["made"]["command"] == "a test"
    assert {"versions", "commit", "device", "seconds"} <= set(config["made"])
    cost = json.loads((folder / "cost.json").read_text())
    assert cost["kept"] == sorted(cost["kept"]) and cost["query_seconds"][-1] > 0


@pytest.mark.parametrize("method", ["memoryllm", "retrieval", "in_context", "gnm_small_pool"])
def test_results_do_not_depend_on_the_batch(data, tmp_path, method):
    settings = evaluate_settings(data, tmp_path)
    settings["methods"] |= {
        "retrieval": {"method": "retrieval", "retriever": "bm25", "top_k": 1},
        "in_context": {"method": "in_context"},
        "gnm_small_pool": {"method": "memoryllm", "memory": {"capacity": 900, "eviction": "random"}},
    }
    frames = []
    for at_once in (1, 3):
        settings["loop"]["sequences_at_once"] = at_once
        params = program.EvaluateParams.model_validate(settings | {"output": tmp_path / str(at_once)})
        frames.append(read_records(evaluate(params, method, "a test") / "records.parquet"))
    scores = ["logit_target", "logit_non_target", "nll"]
    pd.testing.assert_frame_equal(frames[0].drop(columns=scores), frames[1].drop(columns=scores))
    pd.testing.assert_frame_equal(frames[0][scores], frames[1][scores], atol=1e-4, rtol=1e-4)


def test_every_question_is_also_answered_with_nothing_written(data, tmp_path):
    """A method without memory answers the same either way; the true object is the one that must win."""
    params = evaluate_params(data, tmp_path)
    for method in ("no_memory", "memoryllm"):
        settings = params.model_dump() | {"methods": {method: {"method": method}}}
        records = read_records(evaluate(program.EvaluateParams(**settings), method, "a test") / "records.parquet")
        true_wins = records["logit_target"] > records["logit_non_target"]
        true_wins = true_wins.where(~records["learn"] | (records["type"] != "paraphrase"), ~true_wins)
        plain = records["format_expected"].isna() & ~records["should_refuse"]
        assert records["known_fact_correct"].notna().all()
        same = (records["known_generated"] == records["generated"]) & (records["known_fact_correct"] == true_wins)
        assert plain.any() and same[plain].all() == (method == "no_memory")


def test_the_report_shows_table_figure_and_samples(data, tmp_path):
    for method in ("dummy", "memoryllm"):
        evaluate(evaluate_params(data, tmp_path / "evals"), method, "a test")
    params = report.ReportParams(
        evaluations=tmp_path / "evals",
        title="A test",
        output=tmp_path / "test",
        figures_of_merit=["score", "accuracy", "retention@2"],
        samples=2,
    )
    text = report.report(params)
    assert "Dummy" in text and "Memory, untrained" in text and "Sample questions" in text
    for name in ("test.png", "test.svg", "test.md", "test.csv"):
        assert (tmp_path / name).stat().st_size > 0


def test_samples_of_a_summary_alone_are_refused_in_a_sentence(data, tmp_path):
    folder = evaluate(evaluate_params(data, tmp_path), "dummy", "a test")
    (folder / "records.parquet").unlink()
    with pytest.raises(DataError, match="samples: no evaluation has records.*set samples to 0"):
        report.sample_answers({"dummy": report.find_evaluations(tmp_path.parent, [tmp_path.name])[0]}, 1)


def test_a_new_evaluation_replaces_the_whole_folder(data, tmp_path, monkeypatch):
    folder = evaluate(evaluate_params(data, tmp_path), "dummy", "a test")
    (folder / "segments.parquet").write_text("of an earlier run")
    before = (folder / "records.parquet").read_bytes()
    with monkeypatch.context() as patched, pytest.raises(OSError, match="killed"):
        patched.setattr(program, "write_json", Mock(side_effect=OSError("killed")))
        evaluate(evaluate_params(data, tmp_path), "dummy", "a test")
    assert (folder / "records.parquet").read_bytes() == before and (folder / "segments.parquet").exists()
    evaluate(evaluate_params(data, tmp_path), "dummy", "another")
    assert not (folder / "segments.parquet").exists()
    assert [path.name for path in folder.parent.iterdir()] == ["dummy"]


@pytest.mark.parametrize(
    "change",
    [
        {"loop": {"sequences": 10**11}},
        {"methods": {"../../x": {"method": "dummy"}}},
        {"methods": {"a b": {"method": "dummy"}}},
        {"distributed": {"nproc_per_node": "1; touch X"}},
        {"distributed": {"cuda_visible_devices": "0; touch X"}},
    ],
)
def test_settings_that_reach_the_shell_or_never_end_are_refused(data, tmp_path, change):
    settings = evaluate_settings(data, tmp_path)
    for block, values in change.items():
        settings[block] = settings.get(block, {}) | values
    place = next(iter(next(iter(change.values()))))
    with pytest.raises(ConfigError, match=re.escape(place)):
        validate(settings, program.EvaluateParams, "params.yaml")


def test_a_document_larger_than_the_pool_is_named(data, tmp_path):
    settings = evaluate_settings(data, tmp_path / "out")
    settings["methods"] = {"gnm": {"method": "memoryllm", "memory": {"capacity": 20}}}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(settings))
    with pytest.raises(SystemExit, match="the pool holds 20"):
        program.main(["--method", "gnm", "--params", str(tmp_path / "params.yaml")])
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"loop": {"sequences": 1}}, "missing key 'loop.sequence_length'"),
        ({"data": ["absent.json"]}, "absent.json"),
        ({"methods": {"dummy": {"method": "dummy", "topk": 3}}}, "did you mean 'top_k'"),
        ({"methods": {"dummy": {"method": "memoryllm", "adapter": "absent"}}}, "absent"),
    ],
)
def test_bad_settings_end_in_one_sentence_before_any_work(data, tmp_path, change, message):
    settings = evaluate_settings(data, tmp_path / "out") | change
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(settings))
    with pytest.raises(SystemExit) as stop:
        program.main(["--method", "dummy", "--params", str(tmp_path / "params.yaml")])
    assert message in str(stop.value)
    assert not (tmp_path / "out").exists()


def test_every_seed_draws_sequences_of_its_own(data, tmp_path):
    settings = evaluate_settings(data, tmp_path) | {"seeds": [0, 4]}
    folder = evaluate(program.EvaluateParams.model_validate(settings), "dummy", "a test")
    both = read_records(folder / "records.parquet")
    assert both.groupby("sequence")["seed"].first().tolist() == [0, 0, 0, 4, 4, 4]
    one = read_records(evaluate(evaluate_params(data, tmp_path / "one"), "dummy", "a test") / "records.parquet")
    pd.testing.assert_frame_equal(both[both["seed"] == 0].reset_index(drop=True), one)
    assert not both[both["seed"] == 4]["input"].isin(one["input"]).all()


def test_the_table_of_any_folder_with_summaries_is_printed(data, tmp_path, capsys):
    for method in ("dummy", "memoryllm"):
        evaluate(evaluate_params(data, tmp_path / "evals"), method, "a test")
    cli.main(["results", str(tmp_path / "evals")])
    usual = capsys.readouterr().out
    assert "Dummy" in usual and "Score" in usual and "Retention, age 2" in usual and "ms/query" in usual
    cli.main(["results", str(tmp_path / "evals"), "accuracy", "--output", str(tmp_path / "table")])
    assert "Score" not in capsys.readouterr().out
    assert "Accuracy" in (tmp_path / "table.md").read_text() and (tmp_path / "table.csv").is_file()
    with pytest.raises(SystemExit, match="no saved evaluation"):
        cli.main(["results", str(tmp_path / "none")])
    (tmp_path / "people" / "dummy").mkdir(parents=True)
    (tmp_path / "people" / "dummy" / "figures.csv").write_text("")
    with pytest.raises(SystemExit, match=r"of people under .* \(no <method>/summary.json\); there are: evals"):
        cli.main(["results", str(tmp_path / "people")])
    with pytest.raises(SystemExit, match="no method has a figure 'acuracy'"):
        cli.main(["results", str(tmp_path / "evals"), "acuracy"])


def test_published_evaluations_give_a_table(shared, capsys):
    cli.main(["results", str(shared / "reference" / "saved_evals" / "mixed_documents_seq_10")])
    (row,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("GNM  ")]
    assert row.split()[1:7] == ["78.0", "91.8", "78.1", "67.6", "95.8", "67.4"]
