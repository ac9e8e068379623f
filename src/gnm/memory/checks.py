"""What the values of a memory file must be: those that a write makes, of the model that is to read them."""

from pathlib import Path

import torch

from gnm.errors import MemoryFileError
from gnm.memory.state import MIXED, PREAMBLE, MemoryState

_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
_MOST = 10_000_000  # documents of a memory, segments of a document


def check_values(state: MemoryState) -> None:
    """Raise ValueError if the tensors of `state` don't fit together, or hold what no write makes."""
    if state.slots.dim() != 4 or state.slots.dtype not in _DTYPES:
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
    if not bool(state.slots.isfinite().all()):
        raise ValueError("slots hold NaN or infinity")
    if not 0 <= state.written <= _MOST:
        raise ValueError(f"{state.written} documents are said to be written")
    _check_range("source", state.source, MIXED, state.written - 1)
    for store in state.store or ():
        store.check()
        _check_range("source of the store", store.source, 0, state.written - 1)
        _check_range("segment of the store", store.segment, 0, _MOST)
        _check_range("document of a duplicate", store.duplicates.source, 0, state.written - 1)
        _check_range("stored_at of the store", store.stored_at, 0, state.written)
    if state.strength is not None:
        _check_range("strength", state.strength[state.valid], 0, 1)
        _check_range("segment", state.segment, -1, _MOST)
        _check_range("segment of a document", state.segment[state.valid & (state.source >= 0)], 0, _MOST)


def _check_range(name: str, values: torch.Tensor, low: int, high: int) -> None:
    if not bool(((values >= low) & (values <= high)).all()):
        raise ValueError(f"a {name} is not from {low} to {high}")


def check_alike(state: MemoryState, like: MemoryState) -> None:
    """Raise ValueError if `state` is no memory of the model that made `like`."""
    ours, theirs = (_kind(each) for each in (state, like))
    for name, value in ours.items():
        if value not in (theirs[name], None):
            raise ValueError(f"{name}: {value}, of this model: {theirs[name]}")


def check_searchable(path: str | Path, state: MemoryState, search_key: str | None) -> None:
    """Raise MemoryFileError if `state` has a long-term store in which a model that searches by `search_key` (None: it
    has no store) finds nothing."""
    if not state.store:
        return
    if search_key is None:
        raise MemoryFileError(
            f"{path} has a long-term store, and this model was loaded without one; load it with a capacity "
            "and a store (in the shell --capacity SLOTS --store SEGMENTS)"
        )
    if (ours := state.store[0].search_key) != search_key:
        raise MemoryFileError(
            f"the search keys in {path} are {ours!r}, this model searches by {search_key}; load it with the same "
            "store.layer, store.by, store.retriever and store.lexical"
        )


def _kind(state: MemoryState) -> dict[str, object]:
    return {
        "batch": state.batch,
        "layers": state.slots.shape[1],
        "width": state.slots.shape[3],
        "gates": state.strength is not None,
        "numbers of a stored slot": state.store[0].blank.shape[1] if state.store else None,
        "numbers of a search key": state.store[0].keys.shape[1] if state.store else None,
        "numbers of a meaning": state.store[0].meanings.shape[1] if state.store else None,
        "slots of the preamble": (state.valid & (state.source == PREAMBLE)).sum(-1).tolist(),
    }
