"""Files are written whole or not at all: to a temporary name beside the target, then renamed onto it.

- A process locks what it is writing, so that the next one can tell what a killed one left, and removes that.
- Folders change places under a lock of the folder around them, so that nobody sees the instant between.
- SHA-256 checksums show that a file was damaged before anything is answered from it.
"""

import fcntl
import glob
import hashlib
import json
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from gnm.errors import CheckpointError

_LONGEST = 255  # characters of a name; no file system has longer ones


@contextmanager
def atomic_path(target: str | Path, private: bool = False) -> Iterator[Path]:
    """Give a temporary path in the target's folder; on success it replaces `target`, on error it is removed.

    A symbolic link stays: the file that it names is replaced. A file that exists keeps its mode; a new one has the
    ordinary mode, or with `private` is its owner's alone (600). What is written is on the disk before the renaming.
    """
    target = Path(os.path.realpath(target))
    target.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(target)
    temporary, handle = _new_temporary(target, folder=False)
    try:
        yield temporary
        temporary.chmod(_mode(target, private))
        _to_disk(temporary)
        os.replace(temporary, target)
        _to_disk(target.parent)
    finally:
        temporary.unlink(missing_ok=True)
        os.close(handle)


def _mode(target: Path, private: bool) -> int:
    """The mode of `target` if it is a file, otherwise that of a new one."""
    if target.is_file():
        return stat.S_IMODE(target.stat().st_mode)
    umask = os.umask(0)
    os.umask(umask)
    return 0o600 if private else 0o666 & ~umask


def _to_disk(path: Path) -> None:
    """Wait until a file, or a folder's list of names, is on the disk: a power loss leaves no empty file."""
    with _opened(path) as handle:
        os.fsync(handle)


def remove_leftovers(target: str | Path) -> None:
    """Delete the temporary files and folders that killed processes left for `target`; not those that one still has."""
    target = Path(target)
    for left in _beside(target, "part"):
        with suppress(OSError), _opened(left) as handle:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)  # an error if a process holds it
            shutil.rmtree(left) if left.is_dir() else left.unlink()


def _new_temporary(target: Path, folder: bool) -> tuple[Path, int]:
    """A new temporary file or folder for `target`, and the open handle that locks it."""
    while True:
        if folder:
            temporary = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}.", suffix=".part"))
        else:
            handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.", suffix=".part")
            os.close(handle)
            temporary = Path(name)
        with suppress(FileNotFoundError):  # before it was locked, another process took it for a leftover
            handle = os.open(temporary, os.O_RDONLY)
            _lock(handle)
            if temporary.exists():
                return temporary, handle
            os.close(handle)


def _beside(target: Path, kind: str) -> list[Path]:
    """The temporary names of `target`: `.NAME.XXXXXXXX.part` is being written, `.NAME.XXXXXXXX.old` was moved aside."""
    return sorted(target.parent.glob(f".{glob.escape(target.name)}.????????.{kind}"))


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    handle = os.open(path, os.O_RDONLY)
    try:
        yield handle
    finally:
        os.close(handle)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """No other process is here meanwhile, where the file system has locks."""
    with _opened(folder) as handle:
        _lock(handle)
        yield


def _lock(handle: int) -> None:
    """Lock an open file or folder until it is closed, also by a kill. Some network file systems have no such locks."""
    with suppress(OSError):
        fcntl.flock(handle, fcntl.LOCK_EX)


@contextmanager
def atomic_folder(target: str | Path) -> Iterator[Path]:
    """Give a temporary folder beside `target`; on success it takes the target's place, on error it is removed.

    The old folder is moved aside before the new one is moved in and deleted after, so `target` is at every
    moment either the old content, absent for an instant, or the new content, never a mixture. After a kill in
    that instant `recover_folder` brings the old content back. What killed processes left is removed first. What is
    written is on the disk before the renaming.
    """
    target = Path(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    recover_folder(target)
    remove_leftovers(target)
    with _alone(target.parent):
        for left in _beside(target, "old"):
            shutil.rmtree(left, ignore_errors=True)
    temporary, handle = _new_temporary(target, folder=True)
    try:
        yield temporary
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o777 & ~umask)
        for path in (*temporary.rglob("*"), temporary):
            _to_disk(path)
        with _alone(target.parent):
            _exchange(target, temporary)
            _to_disk(target.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        os.close(handle)


def _exchange(target: Path, new: Path) -> None:
    """Rename the folder `new` to `target`; what stood there is then called `new`, or is brought back on an error."""
    if not target.is_dir():
        os.replace(new, target)
        return
    old = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}.", suffix=".old"))
    try:
        os.replace(target, old)
        os.replace(new, target)
        os.replace(old, new)
    except BaseException:
        if not target.exists():
            os.replace(old, target)
        raise


def recover_folder(target: str | Path) -> None:
    """If `target` is absent, bring back what a killed `atomic_folder` had moved aside, if anything."""
    target = Path(target)
    if target.exists() or not _beside(target, "old"):
        return
    with _alone(target.parent):
        for old in _beside(target, "old"):
            if not target.exists() and any(old.iterdir()):
                os.replace(old, target)


def recover_folders(parent: str | Path) -> None:
    """`recover_folder` for all folders in `parent`."""
    for old in Path(parent).glob(".?*.????????.old"):
        recover_folder(old.with_name(old.name[1 : -len(".12345678.old")]))


def write_text(path: str | Path, text: str) -> None:
    """Write `text` as UTF-8, whole or not at all."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | Path, value: Any, indent: int | None = 2) -> None:
    """Write `value` as JSON with a final newline, whole or not at all. NaN is refused (not JSON).

    With an indent, a list of numbers (of true, false and null too) takes one line, so that a matrix has a line for each
    of its rows.
    """
    text = json.dumps(value, indent=indent, ensure_ascii=False, allow_nan=False)
    # Strings hold no raw line break, and lists that hold a string, a list or an object are left as they are.
    text = re.sub(r"\[\n\s*([^\[\]{}\"]+?)\n\s*\]", lambda found: f"[{' '.join(found[1].split())}]", text)
    write_text(path, text + "\n")


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


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
