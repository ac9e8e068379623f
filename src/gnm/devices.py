"""Which device to run on."""

import ctypes
import os

import torch

from gnm.errors import ConfigError

# for mallopt(3): large requests get no mapping of their own (M_MMAP_MAX), nothing is given back (M_TRIM_THRESHOLD)
_KEEP = ((-4, 0), (-1, -1))


def pick_device(name: str, visible: str | None = None) -> torch.device:
    """`name`, or with "auto" the GPU if there is one and the CPU otherwise. ConfigError if it is not there.

    visible: numbers of the GPUs that this process may see ("0,1"), None: all; set before CUDA is first used.
    On a CPU the process keeps memory that it frees, see `keep_freed_memory`.
    """
    device = _device(name, visible)
    if device.type == "cpu":
        keep_freed_memory()
    return device


def computed_in(dtype: torch.dtype, device: str | torch.device) -> torch.dtype:
    """`dtype`, or float32 for bfloat16 on a CPU that does not multiply it: there each product is emulated.

    Without AVX-512 an emulated product of SmolLM2's shapes takes seven times as long as one of float32 (measured: 18
    and 129 GFLOP/s). Weights that were rounded to bfloat16 are the same numbers in float32.
    """
    emulated = torch.device(device).type == "cpu" and not torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return torch.float32 if dtype == torch.bfloat16 and emulated else dtype


def keep_freed_memory() -> bool:
    """Let the C library keep freed memory for the next tensor; whether it could be told so (glibc only).

    By default a tensor of some megabytes is mapped anew each time it is made, and its pages are cleared one by one at
    their first use: half of the time of attention on a CPU.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if os.name == "posix" else None
    return mallopt is not None and all(mallopt(option, value) for option, value in _KEEP)


def _device(name: str, visible: str | None) -> torch.device:
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
