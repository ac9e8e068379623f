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
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from gnm.config import validate
from gnm.errors import MemoryFileError
from gnm.files import atomic_path, remove_leftovers
from gnm.memory.checks import check_alike, check_searchable, check_values
from gnm.memory.file_errors import reading, saving
from gnm.memory.parts import references, referred
from gnm.memory.pool import PoolSettings
from gnm.memory.state import MemoryState
from gnm.memory.store import LongTermStore

FORMAT = "gnm-memory-2"
_WITHOUT_CHECKSUM = "gnm-memory-1"
_WITH_STORE = "gnm-memory-3"  # what reads no store must not read such a file
_WITH_PARTS = "gnm-memory-4"  # entries of its stores lie in files beside it (parts.py)
_TENSORS = ("slots", "valid", "source", "seeds")
_GATED = ("strength", "segment")


@dataclass(frozen=True)
class SavedMemory:
    """What a memory file holds, as far as it can be judged without its model.

    checksum: None in files from before there was one. model: digest of the model that wrote it. state: on the CPU.
    pool: of a memory with a long-term store, the settings of its pool, empty in older files, which do not have them.
    """

    path: Path
    checksum: str | None
    model: str
    state: MemoryState
    notes: dict[str, Any]
    pool: dict[str, Any]


def save_memory(
    path: str | Path,
    state: MemoryState,
    model: str,
    notes: dict | None = None,
    pool: Mapping[str, Any] | None = None,
) -> str:
    """Write `state` to `path`, whole or not at all; returns the file's checksum.

    model: digest of the memory model that wrote it (backbone and adapter); only that model can read its slots.
    notes: anything JSON can hold, e.g. the instructions of the documents. pool: settings of the pool, which a file
    with a long-term store tells, as it cannot be read without them. A state from `parts.filing` for this path leaves
    the entries of its stores where they are; any other file holds them itself.
    Raises MemoryFileError if the file cannot be written, or the memory holds what could not be loaded again.
    """
    check_target(path)
    try:
        check_values(state)
    except ValueError as error:
        raise MemoryFileError(f"the memory is not saved to {path}: {error}; undo the last change") from error
    stores = state.store or ()
    header = {"format": _WITH_STORE if stores else FORMAT, "model": model, "written": str(state.written)}
    header["notes"] = json.dumps(notes or {})
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.tensors().items()}
    parts = references(path, stores)
    if parts:
        header |= {"format": _WITH_PARTS, "parts": json.dumps(parts[0])}
    for row, store in enumerate(stores):
        header |= {"search_key": store.search_key, "pool": json.dumps(dict(pool or {}), sort_keys=True)}
        held = {**store.columns(), **parts[1][row], "entries": store.blank} if parts else store.tensors()
        tensors |= {f"store.{row}.{name}": tensor for name, tensor in held.items()}
    header["checksum"] = _checksum(header, tensors)
    with saving(path), atomic_path(path, private=True) as temporary:
        temporary.write_bytes(save(tensors, metadata=header))
    return header["checksum"]


def load_memory(
    path: str | Path | SavedMemory, model: str, device: torch.device | str = "cpu", like: MemoryState | None = None
) -> tuple[MemoryState, dict]:
    """Read a memory and its notes; MemoryFileError if it is damaged or was written by another model than `model`.

    path: a file, or what `read_memory` gave of it.
    like: a memory of the model that is to read it. Batch, layers, width, preamble and gates must be the same, and the
    slots get its dtype.
    """
    saved = path if isinstance(path, SavedMemory) else read_memory(path)
    if saved.model != model:
        raise MemoryFileError(
            f"{saved.path} was written by the model {saved.model!r}, this one is {model}: slots only mean "
            "something to the model that wrote them; load that model, or write the documents again"
        )
    state = saved.state
    if like is not None:
        check_searchable(saved.path, state, like.store[0].search_key if like.store else None)
        with reading(saved.path):
            check_alike(state, like)
        stores = state.store and tuple(each.to(like.slots.dtype) for each in state.store)
        state = replace(state, slots=state.slots.to(like.slots.dtype), store=stores)
    return state.to(device), saved.notes


def read_memory(path: str | Path) -> SavedMemory:
    """Read a memory file without its model. Raises MemoryFileError if there is none, or it is damaged."""
    path = checked_path(path)
    with reading(path):
        if path.exists() and not (path.is_file() or path.is_dir()):  # a pipe would wait for ever
            raise MemoryFileError(f"{path} is no regular file; name a memory file")
        with open(path, "rb"):  # its errors tell more than those of safe_open
            pass
        with safe_open(path, framework="pt", device="cpu") as file:
            header = file.metadata() or {}
            if header.get("format") not in (FORMAT, _WITHOUT_CHECKSUM, _WITH_STORE, _WITH_PARTS):
                raise MemoryFileError(f"{path} is no memory file of this project; give one that `gnm write` made")
            found = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
            checksum = None
            if header["format"] != _WITHOUT_CHECKSUM:
                checksum = header.pop("checksum")
                if _checksum(header, found) != checksum:
                    raise ValueError("its checksum is another")
            # copies: `found` is the file itself, mapped, and changes if another program writes over it in place
            found = {name: tensor.clone() for name, tensor in found.items()}
            tensors = {name: found[name] for name in (*_TENSORS, *(_GATED if _GATED[0] in found else ()))}
            has_store = header["format"] in (_WITH_STORE, _WITH_PARTS)
            stores = _stores(path, found, header, len(tensors["seeds"])) if has_store else None
        state = MemoryState(**tensors, written=int(header["written"]), store=stores)
        check_values(state)
        pool = _mapping(header, "pool")
        if pool:
            validate(pool, PoolSettings, "its pool")
        return SavedMemory(path, checksum, header["model"], state, _mapping(header, "notes"), pool)


def _mapping(header: Mapping[str, str], name: str) -> dict[str, Any]:
    """A value of the header that is a mapping in JSON. ValueError if it is something else."""
    value = json.loads(header[name] if name == "notes" else header.get(name, "{}"))
    if not isinstance(value, dict):
        raise ValueError(f"its {name} are no mapping")
    return value


def checked_path(path: str | Path) -> Path:
    """`path` as a Path. Raises MemoryFileError if it is none that a file can have."""
    if not isinstance(path, str | os.PathLike) or not os.fspath(path) or "\0" in os.fsdecode(path):
        raise MemoryFileError(f"{path!r} is no path of a memory file; give a str or a Path")
    return Path(path)


def _stores(
    path: Path, found: Mapping[str, torch.Tensor], header: Mapping[str, str], rows: int
) -> tuple[LongTermStore, ...]:
    """The long-term stores of a file. KeyError or ValueError if there are none, or damaged ones; MemoryFileError if
    a part of them is missing or damaged."""
    stores = []
    for row in range(rows):
        start = f"store.{row}."
        own = {name.removeprefix(start): tensor for name, tensor in found.items() if name.startswith(start)}
        if header["format"] == _WITH_STORE:
            stores.append(LongTermStore.of(header["search_key"], own))
        else:
            entries = referred(path, json.loads(header["parts"]), header["model"], own, own["entries"])
            stores.append(LongTermStore.mapped(header["search_key"], own, entries))
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
    target = Path(os.path.realpath(checked_path(path)))
    with saving(path):
        names = (*target.parent.parts, f".{target.name}.12345678.part")
        if max(len(os.fsencode(name)) for name in names) > 255:
            raise OSError(errno.ENAMETOOLONG, "its name is too long")
        if target.is_dir():
            raise OSError(errno.EISDIR, "it is a folder")
        if target.exists() and not target.is_file():
            raise MemoryFileError(f"{path} is no regular file; name a memory file")
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
    with saving(path):
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


def _checksum(header: Mapping[str, str], tensors: Mapping[str, torch.Tensor]) -> str:
    """SHA-256 of the header and of all tensors, with their names, dtypes and shapes."""
    kinds = {name: [str(tensor.dtype), list(tensor.shape)] for name, tensor in tensors.items()}
    digest = hashlib.sha256(json.dumps([dict(header), kinds], sort_keys=True).encode())
    for name in sorted(tensors):
        digest.update(tensors[name].contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()
