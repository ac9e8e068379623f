"""SHA-256 of files and of values, so that what is damaged is told before anything is answered from it."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gnm.errors import CheckpointError

_LONGEST = 255  # characters of a name; no file system has longer ones


def checksums_of(folder: Path, files: Iterable[Path]) -> dict[str, str]:
    """The SHA-256 of each of `files`, by its path in `folder`."""
    return {path.relative_to(folder).as_posix(): _sha256(path) for path in sorted(files)}


def check_files(folder: Path, expected: Any, remedy: str) -> None:
    """Raise CheckpointError if a file of `folder` has another checksum than is `expected` of it, or is missing.

    remedy: what to do about it, the end of the sentence.
    """
    if not isinstance(expected, Mapping):
        raise CheckpointError(f"the checksums of {folder} are damaged; {remedy}")
    for name, checksum in expected.items():
        path = folder / name[:_LONGEST]
        if not path.is_file():
            raise CheckpointError(f"{path} is missing; {remedy}")
        if _sha256(path) != checksum:
            raise CheckpointError(f"{path} is damaged (its checksum is another than when it was saved); {remedy}")


def checksum_of(value: Any) -> str:
    """The SHA-256 of what JSON can hold, whatever the order of its keys and however it is laid out in a file."""
    return hashlib.sha256(json.dumps(json.loads(json.dumps(value)), sort_keys=True).encode()).hexdigest()


def weights_digest(parts: Iterable[Mapping[str, Tensor]]) -> str:
    """16 hex digits of tensors on the CPU by name, rounded to bfloat16, part by part."""
    digest = hashlib.sha256()
    for part in parts:
        for name in sorted(part):
            digest.update(name.encode() + part[name].bfloat16().view(torch.int16).numpy().tobytes())
    return digest.hexdigest()[:16]


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
