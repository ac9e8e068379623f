"""Where a training starts from: adapters, memory models, both killed and resumed."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from gnm.api import load
from gnm.errors import ConfigError
from gnm.learners import LearnerSettings, build_learner
from gnm.train import Trainer
from gnm.training.loss import TrainingLoss
from gnm.weights.adapters import read_about
from gnm.weights.backbones import load_backbone
from gnm.weights.pretrained import load_model
from gnm.weights.trained import WEIGHTS, copied
from small_runs import train_settings, write_small_documents
from trainers import MEMORY_MODEL, changed_trainer, trainer


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return write_small_documents(tmp_path_factory.mktemp("documents"))


def test_training_goes_on_from_an_adapter(data, tmp_path):
    trainer(data, tmp_path / "first").fit()
    method = {"methods": {"gnm": {"method": "gnm", "adapter": str(tmp_path / "first" / "gnm")}}}
    run = changed_trainer(data, tmp_path / "second", method)
    saved = load_file(tmp_path / "first" / "gnm" / WEIGHTS)
    assert all(torch.equal(tensor.bfloat16(), saved[name]) for name, tensor in copied(run.parts)["default"].items())
    run.fit()
    about = read_about(tmp_path / "second" / "gnm")
    assert about["start"] and "start" not in read_about(tmp_path / "first" / "gnm")
    with pytest.raises(ConfigError, match="has LoRA of its own"):
        changed_trainer(data, tmp_path, {**method, "lora": {"r": 3, "alpha": 8}})


def test_what_a_method_has_beside_its_adapters_can_learn_alone(data, tmp_path):
    method = {"method": "gnm", "write": {"gates": {"threshold": 0.0}}}
    changed_trainer(data, tmp_path / "first", {"methods": {"gnm": method}}).fit()
    method |= {"adapter": str(tmp_path / "first" / "gnm"), "write": {"gates": {"threshold": 0.0, "revise": True}}}
    alone = {"train_adapters": False, "lora": None}
    loop = {**train_settings(data, tmp_path)["loop"], "unlearning": True}
    run = changed_trainer(data, tmp_path / "second", {**alone, "methods": {"gnm": method}, "loop": loop})
    before = copied(run.parts)
    first = load_file(tmp_path / "first" / "gnm" / "memory_module.safetensors")
    assert all(torch.equal(before["memory_module"][name], tensor) for name, tensor in first.items())
    run.fit()
    after = load_file(tmp_path / "second" / "gnm" / "memory_module.safetensors")
    assert after.keys() == before["memory_module"].keys() > first.keys()
    assert not any(torch.equal(before["memory_module"][name], tensor) for name, tensor in after.items())
    adapters = [load_file(tmp_path / part / "gnm" / WEIGHTS) for part in ("first", "second")]
    assert all(torch.equal(tensor, adapters[1][name]) for name, tensor in adapters[0].items())
    with pytest.raises(ConfigError, match="nothing but adapters to train"):
        changed_trainer(data, tmp_path, alone | {"methods": {"gnm": {"method": "gnm", "adapter": method["adapter"]}}})


def test_a_memory_model_trains_its_own_adapters_and_marks(data, tmp_path):
    run = changed_trainer(data, tmp_path, MEMORY_MODEL)
    assert list(run.parts) == ["default", "decoder_adapter", "memory_module"]
    before = copied(run.parts)
    run.fit()
    after = copied(run.parts)
    for part, tensors in before.items():
        assert any(not torch.equal(tensor, after[part][name]) for name, tensor in tensors.items()), part
    backbone = load_backbone("tiny-gnm", dtype="float32")
    about, loaded = load_model(tmp_path / "gnm", backbone)
    assert about["lora"]["r"] == 2
    learner = build_learner(LearnerSettings(method="gnm"), loaded)
    assert torch.equal(learner.lm.bos_embedding, run.module.learner.lm.bos_embedding)
    with torch.no_grad():
        ours, theirs = (TrainingLoss(one, "all")(run.validation[:1])[0][0] for one in (run.module.learner, learner))
    assert float(ours) == pytest.approx(float(theirs), rel=2e-3)  # adapters are rounded when they are saved


def test_a_saved_memory_model_without_adapters_gets_a_new_one(data, tmp_path):
    load(None, backbone="tiny-memoryllm", dtype="float32", device="cpu").save_pretrained(tmp_path / "model")
    backbone = {"backbone": MEMORY_MODEL["backbone"] | {"name": "tiny-memoryllm"}}
    methods = {"methods": {"gnm": {"method": "gnm", "adapter": str(tmp_path / "model")}}}
    run = changed_trainer(data, tmp_path / "out", backbone | methods)
    assert list(run.parts) == ["default", "memory_module"] and run.lora.r == 4
    assert run.step(0)["loss"] > 0 and run.about["start"]


def test_a_killed_training_of_a_memory_model_goes_on_to_the_same_weights(data, tmp_path, monkeypatch):
    changed_trainer(data, tmp_path / "whole", MEMORY_MODEL).fit()
    run, honest = changed_trainer(data, tmp_path / "killed", MEMORY_MODEL), Trainer.step
    monkeypatch.setattr(Trainer, "step", lambda self, step, *b: {}[step] if step == 5 else honest(self, step, *b))
    with pytest.raises(KeyError):
        run.fit()
    monkeypatch.setattr(Trainer, "step", honest)
    changed_trainer(data, tmp_path / "killed", MEMORY_MODEL).fit()
    for file in sorted((tmp_path / "whole" / "gnm").rglob("*.safetensors")):
        whole, resumed = load_file(file), load_file(tmp_path / "killed" / file.relative_to(tmp_path / "whole"))
        assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_the_ablation_of_a_memory_model_leaves_what_only_writes_alone(data, tmp_path):
    run = changed_trainer(data, tmp_path, MEMORY_MODEL, "gnm_ablation")
    before = copied(run.parts)
    run.fit()
    after = copied(run.parts)
    same = {part: {n: torch.equal(t, after[part][n]) for n, t in tensors.items()} for part, tensors in before.items()}
    assert all(same["default"].values()) and not all(same["decoder_adapter"].values())
    assert same["memory_module"] == {"bos_embedding": False, "new_memory_positional_emb": True}
