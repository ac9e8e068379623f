"""Trainings on a tiny backbone, and an adapter with a selector that they start from."""

from pathlib import Path

import torch

from gnm.config import validate
from gnm.learners import LearnerSettings, build_learner
from gnm.models.lora import LoraSettings, add_lora, add_selector
from gnm.params import TrainParams
from gnm.train import Trainer
from gnm.weights.adapters import save_adapter
from gnm.weights.backbones import load_backbone
from gnm.weights.trained import copied, trained_parameters
from small_runs import train_params, train_settings


def trainer(data: Path, output: Path, method: str = "gnm", **loop) -> Trainer:
    return Trainer(train_params(data, output, **loop), method, "a test")


def changed_trainer(data: Path, output: Path, changes: dict, method: str = "gnm") -> Trainer:
    """A run of `train_settings` with other top-level blocks."""
    return Trainer(validate({**train_settings(data, output), **changes}, TrainParams, "test"), method, "a test")


MEMORY_MODEL = {"backbone": {"name": "tiny-gnm", "dtype": "float32", "device": "cpu"}, "lora": None}


GATED = {"method": "gnm", "write": {"gates": {"threshold": 0.0}}}


def with_selector(folder: Path) -> Path:
    """An untrained adapter with gates and a selector away from where it starts, saved in `folder`."""
    backbone = load_backbone("tiny", dtype="float32")
    add_lora(backbone.model, LoraSettings(r=4, alpha=8), seed=0)
    add_selector(backbone.model, LoraSettings(r=4, alpha=8), 2)
    for part in trained_parameters(backbone.model).values():
        for name, parameter in part.items():
            parameter.data += 0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(len(name)))
    learner = build_learner(validate(GATED, LearnerSettings, "test"), backbone, training=True)
    about = {
        "backbone": {"name": "tiny", "digest": backbone.config_digest, "dtype": "float32"},
        "lora": {"r": 4, "alpha": 8},
        "learner": GATED,
    }
    weights = copied(trained_parameters(backbone.model, learner.own_parameters()))
    save_adapter(folder / "selects", weights, LoraSettings(r=4, alpha=8), about)
    return folder / "selects"
