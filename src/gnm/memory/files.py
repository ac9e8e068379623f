"""A memory on disk: one safetensors file, with what it was made by in the header."""

import json
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from gnm.errors import MemoryFileError
from gnm.files import atomic_path
from gnm.memory.state import MemoryState

FORMAT = "gnm-memory-1"
_TENSORS = ("slots", "valid", "source", "seeds")
_GATED = ("strength", "segment")


def save_memory(path: str | Path, state: MemoryState, model: str, notes: dict | None = None) -> None:
    """Write `state` to `path`, whole or not at all.

    model: digest of the memory model that wrote it (backbone and adapter); only that model can read its slots.
    notes: anything JSON can hold, e.g. the instructions of the documents.
    """
    header = {"format": FORMAT, "model": model, "written": str(state.written), "notes": json.dumps(notes or {})}
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.tensors().items()}
    with atomic_path(path) as temporary:
        save_file(tensors, temporary, metadata=header)


def load_memory(path: str | Path, model: str, device: torch.device | str = "cpu") -> tuple[MemoryState, dict]:
    """Read a memory and its notes; MemoryFileError if it is damaged or was written by another model than `model`."""
    try:
        with safe_open(path, framework="pt", device=str(device)) as file:
            header = file.metadata() or {}
            if header.get("format") != FORMAT:
                raise MemoryFileError(f"{path} is no memory file of this project; give one that `gnm write` made")
            if header["model"] != model:
                raise MemoryFileError(
                    f"{path} was written by the model {header['model']}, this one is {model}: slots only mean "
                    "something to the model that wrote them; load that model, or write the documents again"
                )
            gated = _GATED if _GATED[0] in file.keys() else ()  # noqa: SIM118 (no mapping)
            tensors = {name: file.get_tensor(name) for name in (*_TENSORS, *gated)}
        state, notes = MemoryState(**tensors, written=int(header["written"])), json.loads(header["notes"])
        _check(state)
    except FileNotFoundError as error:
        raise MemoryFileError(f"there is no memory file {path}; `gnm write` makes one") from error
    except KeyError as error:
        raise MemoryFileError(f"{path} is damaged (its header has no {error}); restore it from a copy") from error
    except (SafetensorError, OSError, ValueError) as error:
        raise MemoryFileError(f"{path} is damaged or no memory file ({error}); restore it from a copy") from error
    return state, notes


def _check(state: MemoryState) -> None:
    """Raise ValueError if the tensors of `state` don't fit together."""
    if state.slots.dim() != 4 or not state.slots.is_floating_point():
        raise ValueError(f"slots are {state.slots.dtype} of shape {tuple(state.slots.shape)}")
    batch, size = state.slots.shape[0], state.slots.shape[2]
    pool = (batch, size)
    expected = {"valid": (torch.bool, pool), "source": (torch.long, pool), "seeds": (torch.long, (batch,))}
    if state.strength is not None:
        expected |= {"strength": (torch.float32, pool), "segment": (torch.long, pool)}
    for name, (dtype, shape) in expected.items():
        tensor = getattr(state, name)
        if tensor.dtype != dtype or tensor.shape != shape:
            raise ValueError(f"{name} are {tensor.dtype} of shape {tuple(tensor.shape)}, not {dtype} of {shape}")
