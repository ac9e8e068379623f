"""What an evaluation asks, how answers are judged, and what is asked again after forgetting."""

import json
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from gnm import evaluate as program
from gnm.analysis import report
from gnm.data.documents import read_documents
from gnm.data.instructions import revoking_instruction
from gnm.data.sequences import evaluation_sequences
from gnm.data.targets import parse_target
from gnm.data.taxonomy import load_taxonomy
from gnm.errors import ConfigError
from gnm.evaluate import evaluate
from gnm.learners import Answer
from gnm.learners.dummy import DummyLearner
from gnm.learners.memory import MemoryLearner
from gnm.metrics.records import read_records, read_segments
from small_runs import evaluate_params, evaluate_settings, write_small_documents


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return write_small_documents(tmp_path_factory.mktemp("documents"))


def test_formats_and_refusals_are_judged_where_they_are_asked_for(data, tmp_path, monkeypatch):
    """A learner that says everything in one format, and sorry to every second question."""
    settings = evaluate_settings(data, tmp_path)
    kinds = ["fact_subcategories", "formats", "refusal_subcategories"]
    settings["targets"] = {"target_types": kinds, "groups": "unseen", "eligible_formats": ["xml_text", "csv_body"]}
    settings["sampling"] = settings["sampling"] | {
        "num_paraphrase_from_facts_to_refuse": 2,
        "num_true_output_neighbor_from_facts_to_refuse": 1,
    }
    settings["loop"]["sequences"] = 12

    def answer(self, state, questions, max_new_tokens):
        said = ("<text>Sorry</text>", "<text>Sweden</text>")
        return [[Answer(said[i % 2], 1.0, 0.0, 0.5, 2) for i in range(len(row))] for row in questions]

    monkeypatch.setattr(DummyLearner, "answer", answer)
    folder = evaluate(program.EvaluateParams.model_validate(settings), "dummy", "a test")
    records = read_records(folder / "records.parquet")
    assert records["fact_correct"].isna().equals(records["should_refuse"].rename("fact_correct"))
    assert records["should_refuse"].any() and records["format_correct"].notna().all()
    assert (records["refused"] == records["generated"].str.contains("Sorry")).all()
    in_force = records["format_expected"].notna()
    assert in_force.any() and not in_force.all()
    assert (records["format_correct"] == (records["format_expected"] == "xml_text").fillna(False)).all()
    for _, some in records[in_force].groupby("sequence"):
        assert some.groupby("t")["format_age"].first().tolist() == list(range(some["t"].nunique()))
    said = report.sample_answers({"dummy": report.find_evaluations(tmp_path.parent, [tmp_path.name])[0]}, 4)
    (sample,) = [part for part in said.split("\n\n") if "it was told to refuse this: expected 'Sorry'" in part]
    assert sample.endswith("'<text>Sorry</text>' (right)" if "'<text>Sorry" in sample else "(wrong)")
    summary = json.loads((folder / "summary.json").read_text())
    assert 0 < summary["refusal_recall"][0] < 1 and 0 < summary["refusal_precision"][0] < 1
    assert {"format_accuracy", "format_retention", "format_selectivity", "fact_accuracy"} <= summary.keys()


@pytest.mark.parametrize(("said", "right"), [("In OSLO, I think", True), ("osl o", False), ("", False)])
def test_an_answer_holds_the_expected_object_in_capitals_too(data, tmp_path, said, right):
    params = evaluate_params(data, tmp_path)
    sequence = evaluation_sequences(read_documents(data / "test.json"), params.sequences(), 1, 0)[0]
    query = replace(sequence.steps[0].queries[0], target_output="Oslo")
    answer = Answer(said, 0.0, 1.0, 0.5, 2)
    row = program.record((0, sequence), 0, 0, query, answer, 1.0, params.sequences())
    assert (row["generated_correct"], row["fact_correct"]) == (right, False)
    even = program.record((0, sequence), 0, 0, query, Answer(said, 1.0, 1.0, 0.5, 2), 1.0, params.sequences())
    assert not even["fact_correct"]  # a contest that no one wins


def test_an_experiment_on_facts_alone_judges_no_formats_and_no_refusals(data, tmp_path):
    folder = evaluate(evaluate_params(data, tmp_path), "dummy", "a test")
    records = read_records(folder / "records.parquet")
    assert records[["format_expected", "format_correct", "format_age", "refused"]].isna().all(axis=None)
    assert not any(key.startswith(("format", "refusal")) for key in json.loads((folder / "summary.json").read_text()))


def test_asking_less_often_leaves_out_rounds_and_changes_no_answer(data, tmp_path):
    settings = evaluate_settings(data, tmp_path)
    frames = []
    for every in (1, 2):
        settings["loop"]["ask_every"] = every
        params = program.EvaluateParams.model_validate(settings | {"output": tmp_path / str(every)})
        frames.append(read_records(evaluate(params, "memoryllm", "a test") / "records.parquet"))
    assert set(frames[1]["t"]) == {1, 2}  # after the second document, and after the last
    kept = frames[0][frames[0]["t"].isin([1, 2])].reset_index(drop=True)
    pd.testing.assert_frame_equal(kept, frames[1])


def test_gates_leave_a_row_for_every_segment_of_what_was_written(data, tmp_path):
    settings = evaluate_settings(data, tmp_path)
    settings["methods"]["gnm_random_half"] = {
        "method": "gnm", "write": {"gates": {"by": "random", "threshold": 0.0, "share": 0.5}},
    }  # fmt: skip
    folder = evaluate(program.EvaluateParams.model_validate(settings), "gnm_random_half", "a test")
    segments = read_segments(folder / "segments.parquet")
    written = segments.groupby(["sequence", "t"])[["tokens", "stored"]].sum()
    assert len(written) == 9 and (written["stored"] == -(-written["tokens"] // 2)).all()
    assert segments["strength"].between(0, 1).all()
    lines = segments[segments["text"].str.startswith("* ")]
    assert 0 < lines["wanted"].mean() < 1 and not segments[~segments["text"].str.startswith("* ")]["wanted"].any()
    kept = json.loads((folder / "cost.json").read_text())["kept"]
    preamble = kept[0] - written.xs(0, level="t")["stored"].mean()
    assert kept[2] - preamble == pytest.approx(written.groupby("sequence")["stored"].sum().mean())


def test_a_forgotten_document_is_answered_as_if_it_had_never_been_there(data, tmp_path):
    """Its slots are gone, so the answers are those of a memory that was given the other documents only."""
    settings = evaluate_settings(data, tmp_path)
    settings["loop"] |= {"forget": "document", "sequence_length": 1}
    settings["methods"]["no_memory"] = {"method": "no_memory"}
    params = program.EvaluateParams.model_validate(settings)
    records = read_records(evaluate(params, "memoryllm", "a test") / "records.parquet")
    without = read_records(evaluate(params.model_copy(update={"loop": params.loop.model_copy(
        update={"forget": None})}), "no_memory", "a test") / "records.parquet")  # fmt: skip
    again = records[records["forgotten"]]
    assert len(again) == len(without) and (again["t"] == 1).all()
    keys = ["sequence", "fact_id", "type", "input"]
    both = again.merge(without, on=keys, suffixes=("", "_without"))
    assert (both["generated"] == both["generated_without"]).all()
    assert (both["logit_target"] - both["logit_target_without"]).abs().max() < 1e-3
    summary = json.loads((params.output / "memoryllm" / "summary.json").read_text())
    expected = again[again["learn"] & (again["type"] == "paraphrase")]["fact_correct"].mean()
    assert summary["forgotten_fact_accuracy"] == [pytest.approx(expected)]
    with pytest.raises(ConfigError, match="dummy cannot take back a single document"):
        evaluate(params, "dummy", "a test")


def test_an_instruction_takes_back_what_the_first_one_taught(data, tmp_path, monkeypatch):
    """All questions are asked once more: those on what was taken back, and those on what remains."""
    settings = evaluate_settings(data, tmp_path)
    settings["loop"] |= {"forget": "instruction", "sequence_length": 2}
    params, told = program.EvaluateParams.model_validate(settings), []
    revoke = MemoryLearner.revoke
    monkeypatch.setattr(
        MemoryLearner, "revoke", lambda self, state, said: told.extend(said) or revoke(self, state, said)
    )
    records = read_records(evaluate(params, "memoryllm", "a test") / "records.parquet")
    again = records[records["t"] == 2]
    assert len(again) == len(records[records["t"] == 1]) and (again["forgotten"] != again["remaining"]).all()
    assert again[again["q"] == 0]["forgotten"].all() and not records[records["t"] < 2]["remaining"].any()
    sequences = program.evaluation_sequences(
        program.read_documents_of(params.data), params.sequences(), params.loop.sequences, params.seeds[0]
    )
    assert told == [revoking_instruction(sequence.steps[0].target, "test") for sequence in sequences]
    for number, sequence in enumerate(sequences):
        rows = again[(again["sequence"] == number) & again["learn"] & (again["q"] == 1)]
        taught, category = parse_target(sequence.steps[0].target), load_taxonomy().category_of
        assert rows["forgotten"].tolist() == [taught.learns(category(group), group) for group in rows["subcategory"]]
    summary = json.loads((params.output / "memoryllm" / "summary.json").read_text())
    remaining = again[again["learn"] & (again["type"] == "paraphrase") & again["remaining"]]["fact_correct"]
    assert summary["remaining_fact_accuracy"] == [pytest.approx(remaining.mean()) if len(remaining) else None]
    settings["targets"] = {"target_types": ["formats"], "groups": "all", "eligible_formats": "train"}
    with pytest.raises(ValueError, match="loop.forget: instruction takes back facts; targets.target_types has formats"):
        program.EvaluateParams.model_validate(settings)
