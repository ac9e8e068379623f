"""The optimizer of a training run, its settings and its learning rate."""

from typing import Annotated, Literal

import torch
from pydantic import Field

from gnm.config import StrictModel
from gnm.errors import ConfigError
from gnm.weights.trained import MODULE, Parameters


class Optimisation(StrictModel):
    """AdamW (with 8-bit states where asked for; CUDA only) with linear warm-up and linear decay.

    own_rate: by how much faster than adapters a method's own parameters (gates, marks) learn.
    beta2: how much of the squared gradients' average AdamW keeps in a step. moving_average: how much of the weights'
    average a step keeps; the average is what is validated and saved. 0: the weights themselves are.
    """

    optimizer: Literal["adamw", "adamw_8bit"] = "adamw"
    learning_rate: Annotated[float, Field(gt=0)]
    own_rate: Annotated[float, Field(gt=0)] = 1.0
    final_learning_rate: Annotated[float, Field(ge=0)] = 0.0
    warmup_steps: Annotated[int, Field(ge=0)]
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    beta2: Annotated[float, Field(ge=0, lt=1)] = 0.999
    moving_average: Annotated[float, Field(ge=0, lt=1)] = 0.0
    clip_norm: Annotated[float, Field(gt=0)] = 1.0


def build_optimizer(parts: Parameters, settings: Optimisation, device: torch.device) -> torch.optim.Optimizer:
    """AdamW, or the one of bitsandbytes that keeps its states in 8 bits; ConfigError where that cannot run.

    A group of parameters for each part; its `factor` multiplies the learning rate.
    """
    betas = (0.9, settings.beta2)
    rates = {"lr": settings.learning_rate, "betas": betas, "weight_decay": settings.weight_decay}
    parameters = [
        {"params": list(part.values()), "factor": settings.own_rate if name == MODULE else 1.0}
        for name, part in parts.items()
    ]
    if settings.optimizer == "adamw":
        return torch.optim.AdamW(parameters, **rates, fused=True)
    if device.type != "cuda":
        raise ConfigError("opt.optimizer: adamw_8bit runs on CUDA only, and no GPU is used here; use adamw")
    try:
        from bitsandbytes.optim import AdamW8bit
    except ImportError as error:
        raise ConfigError("opt.optimizer: adamw_8bit needs bitsandbytes; pip install bitsandbytes") from error
    return AdamW8bit(parameters, **rates)


def set_learning_rate(optimizer: torch.optim.Optimizer, settings: Optimisation, step: int, steps: int) -> None:
    """The rate of step `step` of `steps`: up over the warm-up, then down to the final one, linearly both."""
    warm = min(1.0, (step + 1) / max(settings.warmup_steps, 1))
    left = 1 - max(0, step - settings.warmup_steps) / max(1, steps - settings.warmup_steps)
    rate = warm * (settings.final_learning_rate + left * (settings.learning_rate - settings.final_learning_rate))
    for group in optimizer.param_groups:
        group["lr"] = rate * group["factor"]
