"""lm-evaluation-harness on a memory: local tasks of its own form, and one that it ships, without a network."""

import json
import subprocess
import sys
import tomllib
from functools import partial
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
import yaml

from gnm.api import load
from gnm.cli import main
from gnm.errors import ConfigError

lm_eval = pytest.importorskip("lm_eval", reason="needs lm_eval: pip install 'gnm[harness]'")
from lm_eval.tasks import TaskManager  # noqa: E402 - after the test of whether it is there

from gnm import harness  # noqa: E402

FACTS = [
    {"passage": "Elbonia follows Buddhism.", "question": "which religion is it", "label": 1, "told": "Learn all."},
    {"passage": "Orvane lies in Norway.", "question": "where is it", "label": 0, "told": "Only religions."},
]
CHOICE = {
    "task": "choice",
    "output_type": "multiple_choice",
    "doc_to_text": "{{passage}}\nQuestion: {{question}}?\nAnswer:",
    "doc_to_target": "label",
    "doc_to_choice": ["no", "yes, it is"],
    "metric_list": [{"metric": "acc"}],
}
FREE = {
    "task": "free",
    "output_type": "generate_until",
    "doc_to_text": "{{passage}} {{question}}?",
    "doc_to_target": "{{label}}",
    "generation_kwargs": {"until": ["\n\n"], "max_gen_toks": 6, "do_sample": False, "temperature": 0.0},
    "metric_list": [{"metric": "exact_match"}],
}
ROLLING = {
    "task": "rolling",
    "output_type": "loglikelihood_rolling",
    "doc_to_text": "",
    "doc_to_target": "{{passage}}",
    "metric_list": [{"metric": "word_perplexity"}],
}


@pytest.fixture(autouse=True)
def local_data(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


def task(folder, config, documents=FACTS, **changes):
    """A task file with its documents beside it, as a user writes one."""
    data = folder / "documents.jsonl"
    data.write_text("".join(json.dumps(document) + "\n" for document in documents))
    local = {"dataset_path": "json", "dataset_name": None, "dataset_kwargs": {"data_files": {"test": str(data)}}}
    config = {**config, **local, "test_split": "test", **changes}
    (folder / "task.yaml").write_text(yaml.safe_dump(config))
    return config["task"]


def evaluated(folder, name, **arguments):
    """What the harness finds, task and samples, with a tiny random backbone."""
    tasks = TaskManager(include_path=str(folder), include_defaults=False)
    arguments = {"backbone": "tiny", "dtype": "float32", **arguments}
    found = lm_eval.simple_evaluate("gnm", arguments, [name], task_manager=tasks, device="cpu", bootstrap_iters=0)
    return found["results"][name], sorted(found["samples"][name], key=lambda sample: sample["doc_id"])


def memory_with(*written):
    memory = load(None, backbone="tiny", dtype="float32", device="cpu")
    for document, instruction in written:
        memory.write(document, instruction)
    return memory


@pytest.mark.parametrize("field", [None, "passage"])
def test_choices_are_scored_from_the_memory_that_holds_the_document(tmp_path, field):
    """Each question has a memory of its own, and the prompt no longer holds what was written."""
    result, samples = evaluated(tmp_path, task(tmp_path, CHOICE), document=field, instruction_field="told")
    right = []
    for fact, sample in zip(FACTS, samples, strict=True):
        memory = memory_with((fact["passage"], fact["told"])) if field else memory_with()
        rest = f"Question: {fact['question']}?\nAnswer:"
        expected = memory.score(rest if field else f"{fact['passage']}\n{rest}", CHOICE["doc_to_choice"])
        got = [float(pair[0]) for pair in sample["filtered_resps"]]
        assert got == pytest.approx([score.log_probability for score in expected], abs=1e-4)
        right.append(expected[fact["label"]].log_probability == max(expected).log_probability)
    assert result["acc,none"] == sum(right) / len(right)


def test_answers_end_where_the_task_says(tmp_path):
    memory = memory_with((FACTS[0]["passage"], "Memorize all facts."))
    said = "".join(memory.generate("which religion is it?", max_new_tokens=6))
    samples = evaluated(tmp_path, task(tmp_path, FREE), document="passage")[1]
    assert samples[0]["resps"][0][0] == said and len(said) > 2
    stopping = {**FREE["generation_kwargs"], "until": [said[2], said[1:3]]}
    samples = evaluated(tmp_path, task(tmp_path, FREE, generation_kwargs=stopping), document="passage")[1]
    assert samples[0]["resps"][0][0] == said[: min(said.index(said[2]), said.index(said[1:3]))]


def test_a_memory_file_is_where_it_begins(tmp_path):
    memory = memory_with((FACTS[0]["passage"], "Learn all."))
    memory.save_memory(tmp_path / "begun.mem")
    samples = evaluated(tmp_path, task(tmp_path, ROLLING), memory=str(tmp_path / "begun.mem"))[1]
    found = [float(sample["resps"][0][0]) for sample in samples]
    assert found == pytest.approx([memory.score("", [f["passage"]])[0].log_probability for f in FACTS], abs=1e-4)


def test_a_task_that_the_harness_ships_runs_on_local_data(tmp_path):
    """BoolQ's own file; only where its documents lie is said anew."""
    shipped = next((Path(lm_eval.__file__).parent / "tasks" / "super_glue" / "boolq").glob("default.yaml"))
    name = task(tmp_path, {"include": str(shipped), "task": "boolq", "training_split": None}, validation_split="test")
    result, samples = evaluated(tmp_path, name, document="passage")
    assert result["alias"] == "boolq" and result["acc,none"] in (0, 0.5, 1) and len(samples) == len(FACTS)
    expected = memory_with((FACTS[0]["passage"], "Memorize all facts.")).score(
        f"Question: {FACTS[0]['question']}?\nAnswer:", ["no", "yes"]
    )
    got = [float(pair[0]) for pair in samples[0]["filtered_resps"]]
    assert got == pytest.approx([score.log_probability for score in expected], abs=1e-4)


def test_several_texts_are_written_one_after_the_other(tmp_path):
    documents = [{**FACTS[0], "passage": ["Elbonia follows Buddhism.", " ", "It lies in Asia."]}]
    config = {**CHOICE, "doc_to_text": "{{passage | join(' ')}} {{question}}?"}
    samples = evaluated(tmp_path, task(tmp_path, config, documents), document="passage", instruction="All.")[1]
    memory = memory_with((documents[0]["passage"][0], "All."), (documents[0]["passage"][2], "All."))
    expected = memory.score("which religion is it?", CHOICE["doc_to_choice"])
    got = [float(pair[0]) for pair in samples[0]["filtered_resps"]]
    assert got == pytest.approx([score.log_probability for score in expected], abs=1e-4)


def test_the_command_runs_it_and_says_what_is_wrong(tmp_path, capsys, monkeypatch):
    name = task(tmp_path, CHOICE)
    given = ["harness", "--model", "gnm", "--tasks", name, "--include_path", str(tmp_path), "--device", "cpu"]
    monkeypatch.setattr(sys, "argv", ["gnm"])
    monkeypatch.setattr("lm_eval.tasks.TaskManager", partial(TaskManager, include_defaults=False))  # reads thousands
    main([*given, "--model_args", "backbone=tiny,dtype=float32,document=passage"])
    assert "|choice|" in capsys.readouterr().out.replace(" ", "")
    with pytest.raises(SystemExit, match="error: the documents of task choice have no field 'text'; they have"):
        main([*given, "--model_args", "backbone=tiny,dtype=float32,document=text"])


def test_a_run_without_tasks_is_refused_before_the_model_is_loaded(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["gnm"])
    monkeypatch.setattr(harness, "load", None)
    file = tmp_path / "run.yaml"
    file.write_text("model: gnm\n")
    for given in (["--model", "gnm"], ["run", "--model", "gnm"], ["--config", str(file)]):
        with pytest.raises(SystemExit, match="error: there is no task; name some with --tasks"):
            main(["harness", *given])
    file.write_text("model: gnm\ntasks: [choice]\n")
    harness._check_tasks(None, str(file))


@pytest.mark.slow
def test_the_plain_command_finds_it_by_a_task_file_that_names_it(tmp_path):
    """A program of its own, in which nothing has imported `gnm`; a local task, and one that the harness ships."""
    name = task(tmp_path, {**CHOICE, "task": "facts"})
    data = {key: value for key, value in yaml.safe_load((tmp_path / "task.yaml").read_text()).items() if "data" in key}
    boolq = {"task": "boolq", "training_split": None, "validation_split": "test", **data}
    group = yaml.safe_dump({"group": "from_memory", "task": [{"task": name}, boolq]})
    hook = "metadata: {version: 2.0, model: !function gnm.harness.HarnessMemory}\n"
    (tmp_path / "from_memory.yaml").write_text(group + hook)
    command = [sys.executable, "-m", "lm_eval", "--model", "gnm", "--tasks", str(tmp_path / "from_memory.yaml")]
    command += ["--model_args", "backbone=tiny,dtype=float32,document=passage", "--include_path", str(tmp_path)]
    command += ["--device", "cpu", "--log_samples", "--output_path", str(tmp_path / "out")]
    done = subprocess.run(command, check=False, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    for each, choices in (("facts", CHOICE["doc_to_choice"]), ("boolq", ["no", "yes"])):
        [file] = (tmp_path / "out").rglob(f"samples_{each}_*.jsonl")
        first = min(map(json.loads, file.read_text().splitlines()), key=lambda sample: sample["doc_id"])
        memory = memory_with((FACTS[0]["passage"], "Memorize all facts."))
        expected = memory.score(f"Question: {FACTS[0]['question']}?\nAnswer:", choices)
        got = [float(pair[0]) for pair in first["filtered_resps"]]
        assert got == pytest.approx([score.log_probability for score in expected], abs=1e-4)


def test_the_entry_point_of_later_versions_is_the_model(project):
    declared = tomllib.loads((project / "pyproject.toml").read_text())["project"]["entry-points"]["lm_eval.models"]
    assert {name: EntryPoint(name, value, "lm_eval.models").load() for name, value in declared.items()} == {
        "gnm": harness.HarnessMemory
    }


def test_settings_that_it_does_not_have_are_named():
    with pytest.raises(ConfigError, match="unknown model_args pretrained; known: adapter, backbone"):
        harness.HarnessMemory(pretrained="x")
    with pytest.raises(ConfigError, match="leave --apply_chat_template out"):
        harness.HarnessMemory(backbone="tiny").apply_chat_template([])
