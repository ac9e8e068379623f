"""Which device to run on."""

import torch

from gnm.errors import ConfigError


def pick_device(name: str) -> torch.device:
    """`name`, or with "auto" the GPU if there is one and the CPU otherwise. ConfigError if it is not there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"backbone.device {name!r} is no device; use 'auto', 'cpu' or 'cuda'") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError(
            "backbone.device asks for a GPU, torch finds none; use 'auto' or 'cpu', or install CUDA torch"
        )
    return device
