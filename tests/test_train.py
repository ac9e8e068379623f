"""Training on a tiny backbone: it learns, resumes to bit-equal weights, and refuses bad settings before work."""

from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from gnm import train
from gnm.config import validate
from gnm.data.documents import read_documents
from gnm.data.instructions import instruction_for
from gnm.data.types import NEIGHBOUR, PARAPHRASE
from gnm.errors import CheckpointError, ConfigError, DataError
from gnm.params import TrainParams
from gnm.train import Trainer
from gnm.training.batches import Material, training_batch
from gnm.weights.adapters import load_adapter, read_about
from gnm.weights.trained import WEIGHTS, copied
from small_runs import SAMPLING, train_params, train_settings, write_small_documents
from trainers import changed_trainer, trainer


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return write_small_documents(tmp_path_factory.mktemp("documents"))


@pytest.mark.parametrize("method", ["gnm", "gnm_ablation", "in_context_ft", "retrieval_ft"])
def test_the_loss_of_a_step_that_is_repeated_falls(data, tmp_path, method):
    run = trainer(data, tmp_path, method, steps=100)
    losses = [run.step(1)["loss"] for _ in range(12)]
    assert losses[-1] < losses[0] - 0.5


def _kill_at_step_5(monkeypatch) -> None:
    honest = Trainer.step

    def killed_at_5(self, step, *drawn):
        if step == 5:
            raise KeyboardInterrupt
        return honest(self, step, *drawn)

    monkeypatch.setattr(Trainer, "step", killed_at_5)


def test_a_killed_run_goes_on_to_the_same_weights(data, tmp_path, monkeypatch):
    trainer(data, tmp_path / "whole").fit()

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        _kill_at_step_5(patch)
        trainer(data, tmp_path / "killed").fit()
    honest = Trainer.step
    second = trainer(data, tmp_path / "killed")
    steps = []
    monkeypatch.setattr(Trainer, "step", lambda self, step, *drawn: steps.append(step) or honest(self, step, *drawn))
    logged = tmp_path / "killed" / ".gnm-live" / "plots" / "metrics" / "train" / "loss.tsv"
    assert len(logged.read_text().splitlines()) == 6  # a heading and steps 0 to 4
    second.fit()
    assert steps == [4, 5]  # the checkpoint of step 4 was whole
    assert [line.split("\t")[0] for line in logged.read_text().splitlines()] == ["step", *"012345"]
    logs = [tmp_path / name / ".gnm-live" / "plots" / "metrics" for name in ("whole", "killed")]
    names = [sorted(path.relative_to(log) for path in log.rglob("*.tsv")) for log in logs]
    assert names[0] == names[1]
    for name in names[0]:
        if name.stem != "seconds":
            assert (logs[0] / name).read_text() == (logs[1] / name).read_text()
    whole, resumed = (load_file(tmp_path / name / "gnm" / WEIGHTS) for name in ("whole", "killed"))
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_a_killed_run_goes_on_with_the_average_of_its_weights(data, tmp_path, monkeypatch):
    """Validated and saved is the average; the steps themselves go on from the weights."""
    settings = {"opt": {**train_settings(data, tmp_path)["opt"], "moving_average": 0.8}}
    run = changed_trainer(data, tmp_path / "whole", settings)
    seen = []
    validate = Trainer.validate
    monkeypatch.setattr(Trainer, "validate", lambda self: seen.append(copied(self.parts)["default"]) or validate(self))
    run.fit()
    saved = load_file(tmp_path / "whole" / "gnm" / WEIGHTS)
    assert any(all(torch.equal(saved[name], each[name].bfloat16()) for name in saved) for each in seen)
    last = copied(run.parts)["default"]
    assert not any(torch.equal(last[name], seen[-1][name]) for name in last if "lora_B" in name)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        _kill_at_step_5(patch)
        changed_trainer(data, tmp_path / "killed", settings).fit()
    changed_trainer(data, tmp_path / "killed", settings).fit()
    resumed = load_file(tmp_path / "killed" / "gnm" / WEIGHTS)
    assert all(torch.equal(saved[name], resumed[name]) for name in saved)


def test_a_checkpoint_of_other_settings_is_refused(data, tmp_path):
    trainer(data, tmp_path).fit()
    with pytest.raises(CheckpointError, match="training"):
        trainer(data, tmp_path, max_queries_per_document=3).fit()


def test_the_saved_adapter_says_how_it_was_made_and_loads(data, tmp_path, tiny):
    trainer(data, tmp_path).fit()
    about = read_about(tmp_path / "gnm")
    assert about["made"]["steps"] == 6 and about["made"]["seed"] == 0 and "torch" in about["made"]["versions"]
    assert "gnm on tiny" in (tmp_path / "gnm" / "README.md").read_text()
    # each setting has one place, and places and processes of this machine have none: a run may go on elsewhere
    assert about["lora"]["r"] == 4 and about["learner"]["method"] == "gnm" and about["backbone"]["name"] == "tiny"
    assert about["training"].keys() >= {"seed", "data", "loop", "opt"}
    assert not about["training"].keys() & {"output", "backbone", "methods", "lora", "distributed"}
    assert "adapter" not in about["learner"]
    load_adapter(tmp_path / "gnm", tiny)
    assert any("lora_A" in name for name, _ in tiny.model.named_parameters())


def test_the_best_adapter_is_saved_not_the_last(data, tmp_path, monkeypatch):
    values = iter([{"loss": 1.0}, {"loss": 2.0}])
    run = trainer(data, tmp_path)
    states = []

    def validate(self):
        states.append({name: tensor.bfloat16() for name, tensor in train.copied(self.parts)["default"].items()})
        return next(values)

    monkeypatch.setattr(Trainer, "validate", validate)
    run.fit()
    saved = load_file(tmp_path / "gnm" / WEIGHTS)
    assert all(torch.equal(saved[name], states[0][name]) for name in saved)
    assert not all(torch.equal(saved[name], states[1][name]) for name in saved)


def test_training_stops_early_when_validation_gets_worse(data, tmp_path, monkeypatch):
    values = iter([{"loss": value} for value in (1.0, 2.0, 3.0, 4.0, 5.0)])
    monkeypatch.setattr(Trainer, "validate", lambda self: next(values))
    run = trainer(data, tmp_path, steps=50, validate_every=1, patience=2)
    run.fit()
    assert read_about(tmp_path / "gnm")["made"]["steps"] == 3


def validations(monkeypatch, *losses):
    """Runs whose steps add 1 to every weight, and whose validations give these losses."""
    values = iter([{"loss": value} for value in losses])
    monkeypatch.setattr(Trainer, "validate", lambda self: next(values))

    @torch.no_grad()
    def step(self, number, drawn):
        for parameter in self.parameters:
            parameter.add_(1.0)
        return {}

    monkeypatch.setattr(Trainer, "step", step)


@pytest.mark.parametrize(
    ("losses", "steps", "best"),
    [
        ((5.0, 6.0, 4.0, 5.0, 6.0), 5, 3),  # an improvement begins the count anew
        ((5.0, 5.0, 5.0), 3, 1),  # as good is no better
        ((5.0, 6.0, 4.0, 3.0, 2.0, 1.0), 6, 6),
    ],
)
def test_training_waits_for_so_many_validations_in_a_row_that_are_no_better(
    data, tmp_path, monkeypatch, losses, steps, best
):
    validations(monkeypatch, *losses)
    trainer(data, tmp_path, steps=6, validate_every=1, patience=2).fit()
    made = read_about(tmp_path / "gnm")["made"]
    assert (made["steps"], made["best step"], made["validation loss"]) == (steps, best, f"{min(losses):.4f}")


def test_the_last_step_is_validated_whatever_its_number(data, tmp_path, monkeypatch):
    validations(monkeypatch, 2.0, 1.0)
    trainer(data, tmp_path, steps=3, validate_every=2).fit()
    assert read_about(tmp_path / "gnm")["made"]["best step"] == 3


def test_a_resumed_run_keeps_the_best_weights_so_far_and_the_count_of_worse_ones(data, tmp_path, monkeypatch):
    """The first validation is the best; the run is killed after the second, and the third ends it."""
    settings = {"steps": 6, "validate_every": 1, "patience": 2, "checkpoint_every": 1}
    validations(monkeypatch, 1.0, 2.0)
    with pytest.raises(StopIteration):  # there is no third validation
        trainer(data, tmp_path, **settings).fit()
    validations(monkeypatch, 3.0)
    run = trainer(data, tmp_path, **settings)
    start = copied(run.parts)["default"]
    run.fit()
    saved, made = load_file(tmp_path / "gnm" / WEIGHTS), read_about(tmp_path / "gnm")["made"]
    assert all(torch.equal(saved[name], (start[name] + 1).bfloat16()) for name in saved)  # those after one step
    assert (made["steps"], made["best step"], made["validation loss"]) == (3, 1, "1.0000")


def test_retrieval_of_all_documents_trains_as_in_context_does(data, tmp_path):
    losses = {}
    for method in ("in_context_ft", "retrieval_ft"):
        run = trainer(data, tmp_path, method)
        means = [run.step(step) for step in range(4)]
        losses[method] = [value for mean in means for value in mean.values()]
    assert losses["in_context_ft"] == pytest.approx(losses["retrieval_ft"], rel=1e-4)


def test_steps_are_a_pure_function_of_seed_and_number(data, tmp_path):
    params = train_params(data, tmp_path)
    material = Material.read([data / "train.json"], None)
    assert training_batch(params, material, 3) == training_batch(params, material, 3)
    assert training_batch(params, material, 3) != training_batch(params, material, 4)


def test_the_first_steps_are_easy(data, tmp_path):
    """Single short documents under one phrasing, with questions of their own."""
    curriculum = {"steps": 12, "documents_per_step": 6, "sampling": SAMPLING | {"num_paraphrase_from_other_facts": 0}}
    params = train_params(data, tmp_path, curriculum=curriculum, sequence_length=[2, 2])
    documents = read_documents(data / "train.json")
    short = {document.text for document in documents if len(document.fact_ids) <= 4}
    assert 0 < len(short) < len(documents)
    later, ignored = set(), set()
    for step in range(24):
        batch = training_batch(params, Material(documents), step)
        lengths = [len(episode.steps) for episode in batch]
        assert lengths == ([1] * 6 if step < 12 else [2, 2])
        written = [written for episode in batch for written in episode.steps]
        if step < 12:
            assert {step.document for step in written} <= short
            assert all(step.instruction == instruction_for(step.target, "train") for step in written)
            assert all(query.learn for step in written for query in step.queries)
        else:
            later |= {step.document for step in written}
            ignored |= {query.learn for step in written for query in step.queries}
    assert not later <= short and ignored == {True, False}


def test_settings_that_leave_no_easy_document_are_refused(data, tmp_path):
    with pytest.raises(DataError, match="curriculum.facts"):
        trainer(data, tmp_path, curriculum={"facts": 2})
    trainer(data, tmp_path, curriculum=None)


def test_more_processes_than_sequences_are_refused(data, tmp_path, monkeypatch):
    monkeypatch.setattr(train.Accelerator, "num_processes", 3)
    with pytest.raises(ConfigError, match="3 processes.* only 2"):
        trainer(data, tmp_path)


def test_what_is_logged_is_what_the_answers_say(data, tmp_path):
    """Accuracy, selectivity and specificity of a validation against the learner's own answers."""
    run = trainer(data, tmp_path)
    means, learner = run.validate(), run.module.learner
    kinds = {(PARAPHRASE, True): "accuracy", (PARAPHRASE, False): "selectivity", (NEIGHBOUR, True): "specificity"}
    right = {kind: [] for kind in kinds.values()}
    for episode in run.validation:
        state = learner.reset([episode.seed])
        for t, step in enumerate(episode.steps):
            state = learner.write(state, [step.document], [step.instruction])
            answers = learner.answer(state, [episode.questions(t)], 1)[0]
            for query, answer in zip(episode.queries[t], answers, strict=True):
                right[kinds[query.type, query.learn]].append(answer.target_score > answer.other_score)
    assert means.keys() == {"loss", *right}
    for name, verdicts in right.items():
        assert means[name] == pytest.approx(sum(verdicts) / len(verdicts))


def test_validations_without_end_are_refused(data, tmp_path):
    settings = train_settings(data, tmp_path)
    settings["loop"]["validation_sequences"] = 10**11
    with pytest.raises(ConfigError, match="loop.validation_sequences: .*100000"):
        validate(settings, TrainParams, "params.yaml")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lop": {}}, "did you mean 'loop'"),
        ({"data": {"train": ["absent.json"], "validation": "absent.json"}}, "absent.json"),
        ({"backbone": {"name": "tinny", "dtype": "float32"}}, "did you mean 'tiny'"),
        ({"methods": {"gnm": {"method": "gmn"}}}, "did you mean 'gnm'"),
        ({"methods": {"gnm": {"method": "gnm", "adapter": "absent"}}}, "absent is no adapter"),
        ({"lora": None}, "lora is missing: tiny has no adapters of its own"),
        ({"opt": {"learning_rate": 0.1, "warmup_steps": 1, "optimizer": "adamw_8bit"}}, "runs on CUDA only"),
    ],
)
def test_bad_settings_end_in_one_sentence_before_any_work(data, tmp_path, change, message):
    settings = train_settings(data, tmp_path / "out") | change
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(settings))
    with pytest.raises(SystemExit) as stop:
        train.main(["--method", "gnm", "--params", str(tmp_path / "params.yaml")])
    assert message in str(stop.value) and "Traceback" not in str(stop.value)
    assert not (tmp_path / "out").exists()
