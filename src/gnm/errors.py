"""Errors that a user can act on: what was wrong, where, and what to do. Programs print them as one sentence."""

import errno
import io
import json
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NoReturn


class GNMError(Exception):
    """Base of all errors that are the user's to solve."""


class ConfigError(GNMError):
    """A params file or an override is wrong."""


class DataError(GNMError):
    """A data file is missing, truncated, foreign, or unfit for what is asked of it."""


class BackboneError(GNMError):
    """A backbone cannot be found, fetched, verified or used."""


class CheckpointError(GNMError):
    """An adapter or training checkpoint is missing, damaged, or made for something else."""


class MemoryFileError(GNMError):
    """A memory file is damaged or belongs to another model; or a write does not fit the pool."""


_DISK = {
    errno.ENOSPC: "the disk is full; make room and run again",
    errno.EDQUOT: "the disk quota is used up; make room and run again",
    errno.EROFS: "the disk is read-only; choose another folder",
    errno.ENAMETOOLONG: "the name is too long; choose a shorter one",
    errno.EACCES: "permission denied; change the permissions or choose another folder",
    errno.EPERM: "the operation is not permitted; change the permissions or choose another folder",
    errno.EISDIR: "it is a folder; give the name of a file",
    errno.ENOTDIR: "a part of its path is a file, not a folder; choose another folder",
    errno.EEXIST: "a file of this name is in the way; choose another folder",
}
_TEMPORARY = re.compile(r"\.(.+)\.[^.]{8}\.part")
_INTERRUPTED, _BROKEN_PIPE, _TERMINATED = 128 + 2, 128 + 13, 128 + 15
"""What a shell says of a program that SIGINT (Ctrl-C), SIGPIPE or SIGTERM ended."""


@contextmanager
def exit_on_error() -> Iterator[None]:
    """End the program with the error's sentence, without a traceback, if it is the user's to solve.

    So are a full disk and files that cannot be written. Ctrl-C, and a reader of the output that goes away (`| head`),
    end the program quietly. Characters that the output's encoding does not have are shown as question marks. SIGTERM
    ends the program as an error does, so that half-written files are removed. torchrun's report ends in the sentence,
    too.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")
    try:
        with _terminable():
            yield
        if sys.stdout is not None:
            _flush()  # here, not while the interpreter ends
    except GNMError as error:
        _exit(str(error))
    except KeyboardInterrupt:
        sys.exit(_INTERRUPTED)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # so that Python does not flush its buffer into the pipe at exit
        sys.exit(_BROKEN_PIPE)
    except Exception as error:
        sentence = of_disk(error)
        if sentence is None:
            raise
        _exit(sentence)


def _flush() -> None:
    """Write what is left of the output. If its disk is full, end the program with what that means for its work."""
    try:
        sys.stdout.flush()
    except OSError as error:
        if error.errno not in _DISK:
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        _exit("the work is done, but its output cannot be written; don't run it again, look at what it made")


def _exit(sentence: str) -> NoReturn:
    """End the program with an error. torchrun reads the reason from a file that it names, and tells it last."""
    if path := os.environ.get("TORCHELASTIC_ERROR_FILE"):
        with suppress(OSError):
            Path(path).write_text(json.dumps({"message": f"error: {sentence}", "timestamp": int(time.time())}))
    sys.exit(f"error: {sentence}")


@contextmanager
def _terminable() -> Iterator[None]:
    """Have SIGTERM raise SystemExit, unless the program handles SIGTERM itself or this is not the main thread."""
    ours = threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    if ours:
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(_TERMINATED))
    try:
        yield
    finally:
        if ours:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)


def of_disk(error: Exception) -> str | None:
    """The sentence for an error of writing or reading files, None for any other.

    Libraries in Rust (safetensors) have the error's number in their message only.
    """
    match = re.search(r"\(os error (\d+)\)", str(error))
    number = error.errno if isinstance(error, OSError) else int(match[1]) if match else None
    if number not in _DISK:
        return None
    path = getattr(error, "filename2", None) or getattr(error, "filename", None)
    if not isinstance(path, str | Path):
        return f"a file cannot be written: {_DISK[number]}"
    path = Path(path)
    temporary = _TEMPORARY.fullmatch(path.name)
    return f"cannot use {path.with_name(temporary[1]) if temporary else path}: {_DISK[number]}"
