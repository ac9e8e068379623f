"""A long-term store larger than memory: its entries lie in files beside the memory file, and are mapped.

- The folder `NAME.parts` holds them, some 64 MB in a safetensors file. A part is named by its content and never
  changed. The memory file says which parts there are, which rows of them each segment has, and each segment's checksum.
- Saving (`filing`) writes what is new as new parts, then the memory file, then removes parts that it names no more. So
  a kill or a full disk leaves the old memory. A part with rows of what was dropped is written anew without them.
- Loading reads no entries. A segment's entry is read, and its checksum compared, when a question finds it.

Shape letters: N segments, n slots of a segment, R slots of a part, P numbers of a slot's entry.
"""

import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from gnm.memory.file_errors import saving
from gnm.memory.mapped import Mapped, Part, checksum, read
from gnm.memory.state import MemoryState
from gnm.memory.store import LongTermStore

PART_BYTES = 1 << 26
"""A part with fewer bytes is written anew with what comes next, so that there are no crowds of small files."""
_NAME = f"{'?' * 32}.safetensors"


def parts_folder(path: str | Path) -> Path:
    """Where the parts of the memory file `path` lie."""
    target = Path(os.path.realpath(path))
    return target.with_name(f"{target.name}.parts")


@contextmanager
def filing(path: str | Path, state: MemoryState, model: str, on_disk: bool) -> Iterator[MemoryState]:
    """Give the state to be saved to `path`: with `on_disk`, all entries of its stores are in parts; else, none is.

    After it was saved, parts that it has not are removed; if an error comes first, those that are new.
    Raises MemoryFileError if they cannot be written.
    """
    folder = parts_folder(path)
    before = set(_parts_in(folder))
    try:
        with saving(path):
            stores = state.store and _filed(folder, state.store, model, on_disk)
        yield replace(state, store=stores)
    except BaseException:
        _remove(folder, set(_parts_in(folder)) - before)
        raise
    used = {entry.part.path for store in stores or () for entry in store.entries if isinstance(entry, Mapped)}
    _remove(folder, set(_parts_in(folder)) - used)


def _filed(folder: Path, stores: Sequence[LongTermStore], model: str, on_disk: bool) -> tuple[LongTermStore, ...]:
    """The stores with every entry in a part in `folder`, or with none in a part."""
    if not on_disk:
        return tuple(store.with_entries(map(read, store.entries)) for store in stores)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    for left in folder.glob(".*.part"):  # of a process that was killed
        left.unlink()
    kept = _full_parts(folder, stores)
    todo = [
        (row, place)
        for row, store in enumerate(stores)
        for place, entry in enumerate(store.entries)
        if not (isinstance(entry, Mapped) and entry.part.path in kept and entry.dtype == entry.part.rows.dtype)
    ]
    entries = [list(store.entries) for store in stores]
    for some in _batches(todo, [entries[row][place].nbytes for row, place in todo]):
        held = [read(entries[row][place]) for row, place in some]
        part, start = Part.write(folder, held, model), 0
        for (row, place), entry in zip(some, held, strict=True):
            entries[row][place] = Mapped(part, start, len(entry), checksum(entry), entry.dtype)
            start += len(entry)
    return tuple(store.with_entries(own) for store, own in zip(stores, entries, strict=True))


def _full_parts(folder: Path, stores: Sequence[LongTermStore]) -> set[Path]:
    """Parts in `folder` that stay as they are: all of their rows are used, and nothing is to join them."""
    used: dict[Path, int] = {}
    rows: dict[Path, Tensor] = {}
    new = False
    for entry in (entry for store in stores for entry in store.entries):
        if isinstance(entry, Mapped) and entry.part.path.parent == folder:
            used[entry.part.path] = used.get(entry.part.path, 0) + len(entry)
            rows[entry.part.path] = entry.part.rows
        else:
            new = True
    whole = {path for path, count in used.items() if count == len(rows[path]) and path.is_file()}
    if new or len(whole) < len(used):
        return {path for path in whole if rows[path].nbytes >= PART_BYTES}
    return whole


def _batches(todo: Sequence, sizes: Sequence[int]) -> Iterator[list]:
    """`todo` in runs that reach PART_BYTES each, but for the last."""
    batch, held = [], 0
    for each, size in zip(todo, sizes, strict=True):
        batch.append(each)
        held += size
        if held >= PART_BYTES:
            yield batch
            batch, held = [], 0
    if batch:
        yield batch


def _parts_in(folder: Path) -> Iterable[Path]:
    return folder.glob(_NAME)


def _remove(folder: Path, parts: Iterable[Path]) -> None:
    """Remove parts, and the folder if none is left."""
    for path in parts:
        path.unlink(missing_ok=True)
    with suppress(OSError):
        folder.rmdir()


def remove_parts(path: str | Path) -> None:
    """Remove the parts of a memory file that is removed itself."""
    shutil.rmtree(parts_folder(path), ignore_errors=True)


def references(path: str | Path, stores: Sequence[LongTermStore]) -> tuple[list[list], list[dict[str, Tensor]]] | None:
    """What a memory file `path` says of its parts: their names and bytes, and for each store tensors [N] long.

    None if there are no entries, or not all of them are in parts of this file.
    """
    names: dict[Path, int] = {}
    tensors = []
    for store in stores:
        rows = []
        for entry in store.entries:
            if not isinstance(entry, Mapped) or entry.part.path.parent != parts_folder(path):
                return None
            rows.append((names.setdefault(entry.part.path, len(names)), entry.start, entry.checksum))
        numbered = enumerate(("part", "start", "checksum"))
        tensors.append({name: torch.tensor([row[n] for row in rows], dtype=torch.long) for n, name in numbered})
    if not names:
        return None
    return [[part.name, part.stat().st_size] for part in names], tensors


def referred(
    path: str | Path, parts: Sequence[Sequence], model: str, tensors: Mapping[str, Tensor], blank: Tensor
) -> tuple[Mapped, ...]:
    """The entries of a store, from what `references` gave.

    Raises MemoryFileError for a part that is not what it was, KeyError or ValueError for wrong references.
    """
    if not all(Path(name).name == name for name, _ in parts):
        raise ValueError("a part of the store has a name that none can have")
    opened = [Part.open(parts_folder(path) / name, model, size) for name, size in parts]
    if any(part.rows.shape[1:] != blank.shape[1:] for part in opened):
        raise ValueError("entries of the store are of another size than those of its parts")
    entries = []
    columns = (tensors[name].tolist() for name in ("part", "start", "lengths", "checksum"))
    for place, start, slots, own in zip(*columns, strict=True):
        if not (0 <= place < len(opened) and slots > 0 and 0 <= start <= len(opened[place].rows) - slots):
            raise ValueError("a segment of the store lies outside its part")
        entries.append(Mapped(opened[place], start, slots, own, blank.dtype))
    return tuple(entries)
