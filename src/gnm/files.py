"""Files are written whole or not at all: to a temporary name beside the target, then renamed onto it."""

import glob
import json
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any


@contextmanager
def atomic_path(target: str | Path, private: bool = False) -> Iterator[Path]:
    """Give a temporary path in the target's folder; on success it replaces `target`, on error it is removed.

    A symbolic link stays: the file that it names is replaced. A file that exists keeps its mode; a new one has the
    ordinary mode, or with `private` is its owner's alone (600). What is written is on the disk before the renaming.
    """
    target = Path(os.path.realpath(target))
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.", suffix=".part")
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(_mode(target, private))
        _to_disk(temporary)
        os.replace(temporary, target)
        _to_disk(target.parent)
    finally:
        temporary.unlink(missing_ok=True)


def _mode(target: Path, private: bool) -> int:
    """The mode of `target` if it is a file, otherwise that of a new one."""
    if target.is_file():
        return stat.S_IMODE(target.stat().st_mode)
    umask = os.umask(0)
    os.umask(umask)
    return 0o600 if private else 0o666 & ~umask


def _to_disk(path: Path) -> None:
    """Wait until a file, or a folder's list of names, is on the disk: a power loss leaves no empty file."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def remove_leftovers(target: str | Path) -> None:
    """Delete the temporary files that killed `atomic_path`s left for `target`. No other process may be writing it."""
    target = Path(os.path.realpath(target))
    for left in target.parent.glob(f".{glob.escape(target.name)}.????????.part"):
        left.unlink(missing_ok=True)


@contextmanager
def atomic_folder(target: str | Path) -> Iterator[Path]:
    """Give a temporary folder beside `target`; on success it takes the target's place, on error it is removed.

    The old folder is moved aside before the new one is moved in and deleted after, so `target` is at every
    moment either the old content, absent for an instant, or the new content, never a mixture. After a kill in
    that instant `recover_folder` brings the old content back.
    """
    target = Path(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}.", suffix=".part"))
    try:
        yield temporary
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o777 & ~umask)
        _exchange(target, temporary)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _exchange(target: Path, new: Path) -> None:
    """Rename the folder `new` to `target`; what stood there is deleted after, or brought back on an error."""
    if not target.is_dir():
        os.replace(new, target)
        return
    old = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}.", suffix=".old"))
    os.replace(target, old)
    try:
        os.replace(new, target)
    except BaseException:
        os.replace(old, target)
        raise
    shutil.rmtree(old)


def recover_folder(target: str | Path) -> None:
    """If `target` is absent, bring back what a killed `atomic_folder` had moved aside, if anything."""
    target = Path(target)
    for old in sorted(target.parent.glob(f".{glob.escape(target.name)}.*.old")):
        if not target.exists() and any(old.iterdir()):
            with suppress(FileNotFoundError):  # another process was faster
                os.replace(old, target)


def write_text(path: str | Path, text: str) -> None:
    """Write `text` as UTF-8, whole or not at all."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | Path, value: Any, indent: int | None = 2) -> None:
    """Write `value` as JSON with a final newline, whole or not at all. NaN is refused (not JSON)."""
    write_text(path, json.dumps(value, indent=indent, ensure_ascii=False, allow_nan=False) + "\n")
