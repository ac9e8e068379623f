"""Entries of a long-term store that lie in a file, and are read from there when they are needed.

Shape letters: n slots of a segment, R slots of a part, P numbers of a slot's entry.
"""

import hashlib
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from gnm.errors import MemoryFileError
from gnm.files import atomic_path

_FORMAT = "gnm-part-1"


@dataclass(frozen=True, eq=False)
class Part:
    """A file of entries. rows: [R, P], mapped: they stay readable after the file is removed."""

    path: Path
    rows: Tensor

    @classmethod
    def open(cls, path: Path, model: str, size: int) -> "Part":
        """Map a part of `size` bytes that the model `model` wrote. Raises MemoryFileError if it is not what it was."""
        if not path.is_file():
            raise MemoryFileError(f"{path} is missing; copy the folder {path.parent.name} along with its memory file")
        if (found := path.stat().st_size) != size:
            raise MemoryFileError(f"{path} has {found} bytes instead of {size}; restore it from a copy")
        with safe_open(path, framework="pt", device="cpu") as file:
            header = file.metadata() or {}
            if header.get("format") != _FORMAT or header.get("model") != model:
                raise MemoryFileError(
                    f"{path} is a part of another memory; copy the folder {path.parent.name} of this memory file"
                )
            return cls(path, file.get_tensor("entries"))

    @classmethod
    def write(cls, folder: Path, entries: Sequence[Tensor], model: str) -> "Part":
        """A new file in `folder` with `entries`, written whole or not at all."""
        rows = torch.cat(list(entries))
        data = save({"entries": rows}, metadata={"format": _FORMAT, "model": model})  # in any order
        digest = hashlib.sha256(f"{model} {rows.dtype} {rows.shape}".encode())
        digest.update(rows.view(torch.uint8).numpy())
        path = folder / f"{digest.hexdigest()[:32]}.safetensors"
        with atomic_path(path, private=True) as temporary:
            temporary.write_bytes(data)
        return cls.open(path, model, len(data))


@dataclass(frozen=True)
class Mapped:
    """The entry of a segment in a part: `slots` rows from `start` on; dtype: in which it is read."""

    part: Part
    start: int
    slots: int
    checksum: int
    dtype: torch.dtype

    def __len__(self) -> int:
        return self.slots

    @property
    def nbytes(self) -> int:
        return self.slots * self.part.rows.shape[1] * self.dtype.itemsize

    def to(self, dtype: torch.dtype) -> "Mapped":
        """The same entry, read in `dtype`."""
        return replace(self, dtype=dtype)

    def read(self) -> Tensor:
        """The entry [n, P]. Raises MemoryFileError if the file was damaged."""
        rows = self.part.rows[self.start : self.start + self.slots]
        if checksum(rows) != self.checksum:
            raise MemoryFileError(
                f"{self.part.path} is damaged (a segment's checksum is another); restore it from a copy"
            )
        return rows.to(self.dtype, copy=True)

    def last(self, width: int) -> Tensor:
        """The last `width` numbers of each slot, [n, width], without reading the others: so they are not checked."""
        return self.part.rows[self.start : self.start + self.slots, -width:].to(self.dtype, copy=True)


def read(entry: Tensor | Mapped) -> Tensor:
    """An entry [n, P], of a file or in memory."""
    return entry.read() if isinstance(entry, Mapped) else entry


def last(entry: Tensor | Mapped, width: int) -> Tensor:
    """The last `width` numbers of each slot of an entry, [n, width]."""
    return entry.last(width) if isinstance(entry, Mapped) else entry[:, -width:]


def checksum(entry: Tensor) -> int:
    """CRC-32 of an entry's bytes."""
    return zlib.crc32(entry.contiguous().view(torch.uint8).numpy())
