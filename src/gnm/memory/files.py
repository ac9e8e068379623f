"""A memory on disk: one safetensors file, with what it was made by in the header.

- It holds people's text, so a new file is its owner's alone (mode 600).
- A checksum over the header and all tensors is part of it: a damaged file is refused, not answered from.
- Who loads, changes and saves a file holds its lock meanwhile (`locked`), so that no change is lost.
"""

import errno
import hashlib
import json
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch
from filelock import FileLock, Timeout
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from gnm.errors import MemoryFileError
from gnm.files import atomic_path, remove_leftovers
from gnm.memory.state import MIXED, PREAMBLE, MemoryState
from gnm.memory.store import LongTermStore

FORMAT = "gnm-memory-2"
_WITHOUT_CHECKSUM = "gnm-memory-1"
_WITH_STORE = "gnm-memory-3"  # what reads no store must not read such a file
_TENSORS = ("slots", "valid", "source", "seeds")
_GATED = ("strength", "segment")
_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
_MOST = 10_000_000  # documents of a memory, segments of a document
_REMEDIES = {
    errno.ENOSPC: "make room on this disk, or name a file on another",
    errno.EDQUOT: "make room on this disk, or name a file on another",
    errno.EACCES: "name a file in a folder that you may write to",
    errno.EPERM: "name a file in a folder that you may write to",
    errno.EROFS: "name a file in a folder that you may write to",
    errno.EISDIR: "name a file, not a folder",
    errno.ENOTDIR: "name a file in a folder, not in a file",
    errno.EEXIST: "name a file in a folder, not in a file",
    errno.ENAMETOOLONG: "give it a shorter name",
}


def save_memory(path: str | Path, state: MemoryState, model: str, notes: dict | None = None) -> str:
    """Write `state` to `path`, whole or not at all; returns the file's checksum.

    model: digest of the memory model that wrote it (backbone and adapter); only that model can read its slots.
    notes: anything JSON can hold, e.g. the instructions of the documents.
    Raises MemoryFileError if the file cannot be written, or the memory holds what could not be loaded again.
    """
    check_target(path)
    try:
        _check(state)
    except ValueError as error:
        raise MemoryFileError(f"the memory is not saved to {path}: {error}; undo the last change") from error
    stores = state.store or ()
    header = {"format": _WITH_STORE if stores else FORMAT, "model": model, "written": str(state.written)}
    header["notes"] = json.dumps(notes or {})
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.tensors().items()}
    for row, store in enumerate(stores):
        header["search_key"] = store.search_key
        tensors |= {f"store.{row}.{name}": tensor for name, tensor in store.tensors().items()}
    header["checksum"] = _checksum(header, tensors)
    with _saving(path), atomic_path(path, private=True) as temporary:
        temporary.write_bytes(save(tensors, metadata=header))
    return header["checksum"]


def load_memory(
    path: str | Path, model: str, device: torch.device | str = "cpu", like: MemoryState | None = None
) -> tuple[MemoryState, dict]:
    """Read a memory and its notes; MemoryFileError if it is damaged or was written by another model than `model`.

    like: a memory of the model that is to read it. Batch, layers, width, preamble and gates must be the same, and the
    slots get its dtype.
    """
    try:
        with open(path, "rb"):  # its errors tell more than those of safe_open
            pass
        with safe_open(path, framework="pt", device="cpu") as file:
            header = file.metadata() or {}
            if header.get("format") not in (FORMAT, _WITHOUT_CHECKSUM, _WITH_STORE):
                raise MemoryFileError(f"{path} is no memory file of this project; give one that `gnm write` made")
            found = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
            if header["format"] != _WITHOUT_CHECKSUM:
                expected = header.pop("checksum")
                if _checksum(header, found) != expected:
                    raise ValueError("its checksum is another")
            if header["model"] != model:
                raise MemoryFileError(
                    f"{path} was written by the model {header['model']}, this one is {model}: slots only mean "
                    "something to the model that wrote them; load that model, or write the documents again"
                )
            # copies: `found` is the file itself, mapped, and changes if another program writes over it in place
            found = {name: tensor.clone() for name, tensor in found.items()}
            tensors = {name: found[name] for name in (*_TENSORS, *(_GATED if _GATED[0] in found else ()))}
            stores = _stores(found, header, len(tensors["seeds"])) if header["format"] == _WITH_STORE else None
        state = MemoryState(**tensors, written=int(header["written"]), store=stores)
        notes = json.loads(header["notes"])
        _check(state)
        if not isinstance(notes, dict):
            raise ValueError("its notes are no mapping")
        if like is not None:
            _check_searchable(path, state, like)
            _check_alike(state, like)
            stores = state.store and tuple(each.to(like.slots.dtype) for each in state.store)
            state = replace(state, slots=state.slots.to(like.slots.dtype), store=stores)
    except FileNotFoundError as error:
        raise MemoryFileError(f"there is no memory file {path}; `gnm write` makes one") from error
    except IsADirectoryError as error:
        raise MemoryFileError(f"{path} is a folder and no memory file; name the file in it") from error
    except PermissionError as error:
        raise MemoryFileError(f"the memory file {path} may not be read; ask its owner, or change its mode") from error
    except KeyError as error:
        raise MemoryFileError(f"{path} is damaged (its header has no {error}); restore it from a copy") from error
    except (SafetensorError, OSError, ValueError, RecursionError) as error:
        raise MemoryFileError(f"{path} is damaged or no memory file ({error}); restore it from a copy") from error
    return state.to(device), notes


def _stores(found: Mapping[str, torch.Tensor], header: Mapping[str, str], rows: int) -> tuple[LongTermStore, ...]:
    """The long-term stores among a file's tensors. KeyError or ValueError if there are none, or damaged ones."""
    stores = []
    for row in range(rows):
        start = f"store.{row}."
        own = {name.removeprefix(start): tensor for name, tensor in found.items() if name.startswith(start)}
        stores.append(LongTermStore.of(header["search_key"], own))
    return tuple(stores)


def version_of(path: str | Path) -> str | None:
    """The checksum that stands in a memory file: another one, another content. None: it has none, or is none."""
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            return (file.metadata() or {}).get("checksum")
    except (SafetensorError, OSError):
        return None


def check_target(path: str | Path) -> None:
    """Raise MemoryFileError if no memory can be saved to `path`, as far as this can be known before."""
    target = Path(os.path.realpath(path))
    with _saving(path):
        names = (*target.parent.parts, f".{target.name}.12345678.part")
        if max(len(os.fsencode(name)) for name in names) > 255:
            raise OSError(errno.ENAMETOOLONG, "its name is too long")
        if target.is_dir():
            raise OSError(errno.EISDIR, "it is a folder")
        folder = next(folder for folder in target.parents if folder.exists())
        if not folder.is_dir():
            raise OSError(errno.ENOTDIR, f"{folder} is no folder")
        if not os.access(folder, os.W_OK | os.X_OK):
            raise OSError(errno.EACCES, f"the folder {folder} may not be written to")


@contextmanager
def locked(path: str | Path, timeout: float = 60.0) -> Iterator[None]:
    """Hold the lock of the memory file `path`, from before it is loaded until it is saved.

    The lock is a hidden file beside the memory. It goes with its process, also with one that is killed. What is held
    already can be taken once more. Raises MemoryFileError after `timeout` seconds, or if `path` cannot be saved to.
    """
    check_target(path)
    target = Path(os.path.realpath(path))
    with _saving(path):
        target.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(target.with_name(f".{target.name}.lock"), is_singleton=True, mode=0o600)
        _acquire(lock, path, timeout)
    try:
        remove_leftovers(target)
        yield
    finally:
        lock.release()


def _acquire(lock: FileLock, path: str | Path, timeout: float) -> None:
    try:
        lock.acquire(timeout=0)
    except Timeout:
        if timeout > 0:
            print(f"waiting for another gnm process that has {path} open ...", file=sys.stderr)
        try:
            lock.acquire(timeout=timeout)
        except Timeout as error:
            raise MemoryFileError(
                f"another gnm process has had {path} open for {timeout:g} seconds; end it (a `gnm chat`?), or wait "
                "longer with --timeout SECONDS"
            ) from error


@contextmanager
def _saving(path: str | Path) -> Iterator[None]:
    """Errors of the file system, as a sentence about the memory file `path`."""
    try:
        yield
    except OSError as error:
        remedy = _REMEDIES.get(error.errno, "name another file")
        raise MemoryFileError(f"cannot save the memory to {path}: {error.strerror or error}; {remedy}") from error


def _checksum(header: Mapping[str, str], tensors: Mapping[str, torch.Tensor]) -> str:
    """SHA-256 of the header and of all tensors, with their names, dtypes and shapes."""
    kinds = {name: [str(tensor.dtype), list(tensor.shape)] for name, tensor in tensors.items()}
    digest = hashlib.sha256(json.dumps([dict(header), kinds], sort_keys=True).encode())
    for name in sorted(tensors):
        digest.update(tensors[name].contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def _check(state: MemoryState) -> None:
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
        _check_range("stored_at of the store", store.stored_at, 0, state.written)
    if state.strength is not None:
        _check_range("strength", state.strength[state.valid], 0, 1)
        _check_range("segment", state.segment, -1, _MOST)
        _check_range("segment of a document", state.segment[state.valid & (state.source >= 0)], 0, _MOST)


def _check_range(name: str, values: torch.Tensor, low: int, high: int) -> None:
    if not bool(((values >= low) & (values <= high)).all()):
        raise ValueError(f"a {name} is not from {low} to {high}")


def _check_alike(state: MemoryState, like: MemoryState) -> None:
    """Raise ValueError if `state` is no memory of the model that made `like`."""
    ours, theirs = (_kind(each) for each in (state, like))
    for name, value in ours.items():
        if value not in (theirs[name], None):
            raise ValueError(f"{name}: {value}, of this model: {theirs[name]}")


def _check_searchable(path: str | Path, state: MemoryState, like: MemoryState) -> None:
    """Raise MemoryFileError if `state` has a long-term store in which the model that made `like` finds nothing."""
    if not state.store:
        return
    if not like.store:
        raise MemoryFileError(
            f"{path} has a long-term store, and this model was loaded without one; load it with a capacity "
            "and a store (in the shell --capacity SLOTS --store SEGMENTS)"
        )
    ours, theirs = (each.store[0].search_key for each in (state, like))
    if ours != theirs:
        raise MemoryFileError(
            f"the search keys in {path} are {ours}, this model searches by {theirs}; load it with the same store.layer "
            "and store.by"
        )


def _kind(state: MemoryState) -> dict[str, object]:
    return {
        "batch": state.batch,
        "layers": state.slots.shape[1],
        "width": state.slots.shape[3],
        "gates": state.strength is not None,
        "numbers of a stored slot": state.store[0].blank.shape[1] if state.store else None,
        "slots of the preamble": (state.valid & (state.source == PREAMBLE)).sum(-1).tolist(),
    }
