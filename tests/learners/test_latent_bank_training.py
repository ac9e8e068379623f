"""A latent bank is trained, saved, loaded, or refused."""

import json

import pytest
import torch
from safetensors.torch import load_file

from gnm.config import validate
from gnm.errors import CheckpointError, ConfigError
from gnm.evaluate import evaluate
from gnm.learners import LearnerSettings, build_learner
from gnm.metrics.records import read_records
from gnm.params import EvaluateParams, TrainParams
from gnm.train import Trainer
from gnm.training.batches import training_batch
from gnm.weights.adapters import read_about
from gnm.weights.backbones import load_backbone
from gnm.weights.pretrained import load_model
from gnm.weights.trained import copied
from latent_banks import ASKED, METHOD, written
from processes import in_processes
from small_runs import evaluate_settings, train_settings, write_small_documents

MODULE = "memory_module.safetensors"


# --- training and saving


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_small_documents(tmp_path_factory.mktemp("documents"))


def trainer(data, output, lora=None, method=None, seed=0, shard=False, **loop) -> Trainer:
    settings = train_settings(data, output) | {"lora": lora, "seed": seed, "distributed": {"shard": shard}}
    settings |= {"methods": {"bank": METHOD | (method or {})}, "loop": settings["loop"] | loop}
    return Trainer(validate(settings, TrainParams, "test"), "bank", "a test")


def test_training_lowers_the_loss_and_leaves_the_backbone(data, tmp_path):
    run = trainer(data, tmp_path, steps=100)
    assert list(run.parts) == ["memory_module"] and run.lora is None
    decoder = {name: value.clone() for name, value in run.module.learner.decoder.state_dict().items()}
    means = [run.step(1) for _ in range(25)]
    assert means[-1]["loss"] < means[0]["loss"] - 0.5 and "write_loss" in means[0]
    assert all(torch.equal(value, decoder[name]) for name, value in run.module.learner.decoder.state_dict().items())


def test_what_is_written_is_worth_something_after_training(data, tmp_path):
    """Answers after the documents are better than answers without them: the bank is no mere bias on answers."""
    run = trainer(data, tmp_path, steps=100, gradients_through="last", curriculum=None, sequence_length=1)
    episodes = training_batch(run.params, run.train, 0)
    for _ in range(60):
        run.step(0)
    learner, losses = run.module.learner, []
    with torch.no_grad():
        for shift in (0, 1):  # each sequence's own document, or its neighbour's
            steps = [episodes[(i + shift) % len(episodes)].steps[0] for i in range(len(episodes))]
            state = learner.reset([0] * len(steps))
            state = learner.write(state, [s.document for s in steps], [s.instruction for s in steps])
            losses.append(float(learner.loss(state, [episode.questions(0) for episode in episodes]).total))
    assert losses[0] < losses[1]


def test_new_banks_are_their_seeds_alone(data, tmp_path, tiny):
    torch.manual_seed(7)
    before = torch.get_rng_state()
    banks = [build_learner(LearnerSettings(**METHOD), tiny, True, seed).bank.start for seed in (1, 1, 2)]
    assert torch.equal(banks[0], banks[1]) and not torch.equal(banks[0], banks[2])
    assert torch.equal(torch.get_rng_state(), before)
    runs = [trainer(data, tmp_path, seed=seed) for seed in (1, 2)]
    assert all(torch.equal(run.module.learner.bank.start, bank) for run, bank in zip(runs, banks[1:], strict=True))


def test_a_killed_training_goes_on_to_the_same_weights(data, tmp_path, monkeypatch):
    trainer(data, tmp_path / "whole").fit()
    run, honest = trainer(data, tmp_path / "killed"), Trainer.step
    monkeypatch.setattr(Trainer, "step", lambda self, step, *b: {}[step] if step == 5 else honest(self, step, *b))
    with pytest.raises(KeyError):
        run.fit()
    monkeypatch.setattr(Trainer, "step", honest)
    trainer(data, tmp_path / "killed").fit()
    whole, resumed = (load_file(tmp_path / name / "bank" / MODULE) for name in ("whole", "killed"))
    assert whole and all(torch.equal(whole[name], resumed[name]) for name in whole)


def first_gradients(data, output, shard=False):
    """Of one training step with a bank that is read, and the step's means."""
    run = trainer(data, output, shard=shard, curriculum=None, documents_per_step=8, sequence_length=2)
    torch.nn.init.constant_(run.parts["memory_module"]["amount"], 0.5)
    found = []
    run.optimizer.step = lambda: found.extend(parameter.grad.clone().numpy() for parameter in run.parameters)
    return run.step(0), found


@pytest.mark.parametrize("shard", [False, True])
def test_two_processes_have_the_gradients_of_one(data, tmp_path, shard):
    means, gradients = in_processes(1, first_gradients, data, tmp_path)[0]
    for other_means, others in in_processes(2, first_gradients, data, tmp_path, shard):
        assert other_means == pytest.approx(means, rel=1e-5)
        for ours, theirs in zip(gradients, others, strict=True):
            assert ours == pytest.approx(theirs, abs=1e-6)


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    """The folder of a trained bank, and the learner that it was saved from."""
    run = trainer(data, tmp_path_factory.mktemp("trained"), validate_every=6)
    run.fit()
    return run.output, run.module.learner


@torch.no_grad()
def test_a_saved_bank_answers_as_the_one_that_was_trained(trained, tiny):
    folder, learner = trained
    assert {path.name for path in folder.iterdir()} == {"gnm.json", "README.md", MODULE}
    assert read_about(folder)["lora"] is None and "latent_bank on tiny" in (folder / "README.md").read_text()
    about, backbone = load_model(folder, tiny)
    settings = LearnerSettings(**about["learner"], adapter=folder)
    loaded = build_learner(settings, backbone)
    assert loaded.bank.amount != 0
    assert loaded.answer(written(loaded), ASKED, 4) == learner.answer(written(learner), ASKED, 4)


def test_a_saved_bank_is_evaluated_as_every_method(trained, data, tmp_path):
    frames = []
    for at_once in (1, 3):
        settings = evaluate_settings(data, tmp_path / str(at_once))
        settings |= {"methods": {"bank": METHOD | {"adapter": str(trained[0])}}}
        settings["loop"]["sequences_at_once"] = at_once
        folder = evaluate(validate(settings, EvaluateParams, "test"), "bank", "a test")
        frames.append(read_records(folder / "records.parquet"))
    assert json.loads((folder / "cost.json").read_text())["kept"] == [6.0] * 3
    scores = ["logit_target", "logit_non_target", "nll"]
    assert frames[0].drop(columns=scores).equals(frames[1].drop(columns=scores))
    for name in scores:
        assert frames[0][name].tolist() == pytest.approx(frames[1][name].tolist(), abs=1e-4)


def test_training_goes_on_from_a_saved_bank(trained, data, tmp_path):
    run = trainer(data, tmp_path, method={"adapter": str(trained[0])})
    saved = load_file(trained[0] / MODULE)
    assert all(torch.equal(value, saved[name]) for name, value in copied(run.parts)["memory_module"].items())
    assert run.about["start"]


def test_with_lora_settings_adapters_train_too(data, tmp_path):
    run = trainer(data, tmp_path, lora={"r": 2, "alpha": 4})
    assert list(run.parts) == ["default", "memory_module"]
    before = copied(run.parts)
    for step in range(3):
        run.step(step)
    for part, tensors in copied(run.parts).items():
        assert any(not torch.equal(value, before[part][name]) for name, value in tensors.items()), part


# --- what is refused


def test_a_bank_of_another_backbone_or_shape_is_refused(trained, tiny):
    with pytest.raises(CheckpointError, match="was trained on tiny .* not on tiny-qwen2"):
        load_model(trained[0], load_backbone("tiny-qwen2", dtype="float32"))
    _, backbone = load_model(trained[0], tiny)
    with pytest.raises(CheckpointError, match="has no weights for start, amount and .* others"):
        build_learner(LearnerSettings(method="latent_bank", adapter=trained[0]), backbone)
    with pytest.raises(CheckpointError, match="tiny has no weights for start"):
        build_learner(LearnerSettings(**METHOD), load_backbone("tiny", dtype="float32"))


def test_a_memory_model_as_backbone_is_refused():
    with pytest.raises(ConfigError, match="needs a plain decoder; tiny-gnm is a memory model"):
        build_learner(LearnerSettings(**METHOD), load_backbone("tiny-gnm", dtype="float32"), training=True)


def test_without_lora_a_method_that_trains_the_backbone_has_nothing_to_train(data, tmp_path):
    for method in ({"method": "gnm"}, {"method": "gnm", "write": {"gates": {}}}, {"method": "in_context_ft"}):
        with pytest.raises(ConfigError, match="lora is missing: tiny has no adapters of its own to train"):
            trainer(data, tmp_path, method=method)
