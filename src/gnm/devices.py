"""Which device to run on."""

import os

import torch

from gnm.errors import ConfigError


def pick_device(name: str, visible: str | None = None) -> torch.device:
    """`name`, or with "auto" the GPU if there is one and the CPU otherwise. ConfigError if it is not there.

    visible: numbers of the GPUs that this process may see ("0,1"), None: all; set before CUDA is first used.
    """
    if visible is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = visible
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
