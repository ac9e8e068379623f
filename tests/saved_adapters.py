"""Adapters that are saved for tests."""

import torch

from gnm.models.lora import LoraSettings, add_lora
from gnm.weights.trained import copied, trained_parameters

SETTINGS = LoraSettings(r=2, alpha=6, target_modules=("q_proj", "down_proj"))


IDS = list(range(30, 42))


def trained(backbone, settings=SETTINGS, seed=1):
    """The parameters of an adapter away from its starting point, put into `backbone`; numbers that bfloat16 holds."""
    parameters = add_lora(backbone.model, settings, seed=0)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in parameters:
            parameter.copy_((torch.randn(parameter.shape, generator=generator) * 0.2).bfloat16())
    return parameters


def weights(backbone):
    return copied(trained_parameters(backbone.model))


def about(backbone, settings=SETTINGS):
    return {
        "backbone": {"name": backbone.name, "digest": backbone.config_digest, "dtype": "float32"},
        "lora": settings.model_dump(mode="json"),
        "learner": {"method": "gnm", "order": None},
        "training": {"seed": 1, "loop": {"steps": 5}},
    }


FIRST = "base_model.model.model.layers.0.mlp.down_proj.lora_A.weight"
