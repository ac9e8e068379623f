"""The optimizer of a training run and its learning rate."""

import torch

from gnm.errors import ConfigError
from gnm.params import Optimisation
from gnm.weights.trained import MODULE, Parameters


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
