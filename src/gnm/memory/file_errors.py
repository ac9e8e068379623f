"""What can go wrong with a memory file, as a sentence."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from gnm.errors import ConfigError, MemoryFileError

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


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """What is wrong with the memory file `path`, as a sentence."""
    try:
        yield
    except FileNotFoundError as error:
        raise MemoryFileError(f"there is no memory file {path}; `gnm write` makes one") from error
    except IsADirectoryError as error:
        raise MemoryFileError(f"{path} is a folder and no memory file; name the file in it") from error
    except PermissionError as error:
        raise MemoryFileError(f"the memory file {path} may not be read; ask its owner, or change its mode") from error
    except KeyError as error:
        raise MemoryFileError(f"{path} is damaged (its header has no {error}); restore it from a copy") from error
    except (SafetensorError, OSError, ValueError, RecursionError, ConfigError) as error:
        raise MemoryFileError(f"{path} is damaged or no memory file ({error}); restore it from a copy") from error


@contextmanager
def saving(path: str | Path) -> Iterator[None]:
    """Errors of the file system, as a sentence about the memory file `path`."""
    try:
        yield
    except OSError as error:
        remedy = _REMEDIES.get(error.errno, "name another file")
        raise MemoryFileError(f"cannot save the memory to {path}: {error.strerror or error}; {remedy}") from error
