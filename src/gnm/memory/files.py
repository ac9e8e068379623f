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


def save_memory(path: str | Path, state: MemoryState, model: str, notes: dict | None = None) -> None:
    """Write `state` to `path`, whole or not at all.

    model: digest of the memory model that wrote it (backbone and adapter); only that model can read its slots.
    notes: anything JSON can hold, e.g. the instructions of the documents.
    """
    header = {"format": FORMAT, "model": model, "written": str(state.written), "notes": json.dumps(notes or {})}
    tensors = {name: getattr(state, name).detach().cpu().contiguous() for name in _TENSORS}
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
            tensors = {name: file.get_tensor(name) for name in _TENSORS}
    except FileNotFoundError as error:
        raise MemoryFileError(f"there is no memory file {path}; `gnm write` makes one") from error
    except (SafetensorError, OSError) as error:
        raise MemoryFileError(f"{path} is damaged or no memory file ({error}); restore it from a copy") from error
    return MemoryState(**tensors, written=int(header["written"])), json.loads(header["notes"])
