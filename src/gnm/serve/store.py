"""Memories on disk by user and name, and those that are loaded. All of it runs in the worker's thread.

- A change holds the file's lock, is made on the file's present content, and is saved before it is answered: what was
  accepted is on the disk. Other processes (`gnm write`, another service) may change the same files.
- What another process changed is loaded anew; what could be undone then is gone, as after a restart. So it is with a
  memory that is not kept loaded, because others were used since.
"""

import os
import re
import stat
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, BinaryIO

from filelock import Timeout

from gnm.errors import MemoryFileError
from gnm.files import remove_leftovers
from gnm.memory.files import SavedMemory, locked, read_memory
from gnm.memory.parts import remove_parts
from gnm.serve.errors import Refused, not_kept
from gnm.serve.keys import NAME
from gnm.serve.memory import ServedMemory
from gnm.serve.metrics import Metrics
from gnm.serve.settings import ServeSettings

EMPTY = "no-memory"
"""The name by which the model is asked without any memory."""
IMPORT = "import"
"""A file that is imported is `.import.XXXXXXXX.part` meanwhile, and so is a folder in which one that is exported is
made; what a kill leaves of them goes at the next start."""
_SUFFIX = ".mem"


def absent(name: str) -> Refused:
    """What is told of a memory that there is none of."""
    return Refused(404, f"there is no memory {name!r}; a document that is written makes one")


class Busy(Exception):
    """Another process has the memory's file open."""


@dataclass
class _Loaded:
    memory: ServedMemory
    stamp: tuple[int, int, int]
    size: int


class Store:
    """The memories of all users in one folder: `FOLDER/USER/NAME.mem`."""

    def __init__(self, folder: Path, model: ServedMemory, settings: ServeSettings, metrics: Metrics):
        """model: an empty memory, from which the others are made."""
        self.folder, self._model, self._settings, self._metrics = folder, model, settings, metrics
        self._loaded: OrderedDict[Path, _Loaded] = OrderedDict()
        for each in folder.glob("*/"):
            remove_leftovers(each / IMPORT)

    def names(self, user: str) -> list[str]:
        """The user's memories, in alphabetical order."""
        stems = (path.stem for path in (self.folder / user).glob(f"*{_SUFFIX}") if path.is_file())
        return sorted(stem for stem in stems if _is_name(stem))

    def has(self, user: str, name: str) -> bool:
        """Whether there is a memory of this name. Raises Refused for a name that none can have."""
        return self.path(user, name).is_file()

    def path(self, user: str, name: str) -> Path:
        """The file of a memory. Raises Refused for a name that none can have."""
        if not _is_name(name):
            raise Refused(
                400, "a memory's name has letters, digits, '.', '_' and '-', at most 64, a letter or digit first, "
                f"and is not {EMPTY!r}",
            )  # fmt: skip
        return self.folder / user / f"{name}{_SUFFIX}"

    def open(self, user: str, name: str) -> ServedMemory:
        """A memory to be read; `EMPTY` is the one with nothing in it. Raises Refused if there is none."""
        if name == EMPTY:
            return self._model
        path = self.path(user, name)
        stamp = _stamp(path)
        if stamp is None:
            self._drop(path)
            raise absent(name)
        loaded = self._loaded.get(path)
        if loaded is None or loaded.stamp != stamp:
            self._keep(path, self._read(path, f"the file of memory {name!r}"), stamp)
        self._loaded.move_to_end(path)
        return self._loaded[path].memory

    def change(self, user: str, name: str, function: Callable[[ServedMemory], Any], make: bool = False) -> Any:
        """What `function` returns of a memory that it changes, once that is saved.

        make: whether a memory that is not there is begun. Raises Busy, Refused, and what `function` raises.
        """
        path = self.path(user, name)
        if not make:
            self.open(user, name)
        with self._alone(path):
            memory = self.open(user, name) if path.exists() else self._begun(user, path, name, make)
            with memory.all_or_nothing():
                with self._nameless():
                    result = function(memory)
                with self._saving():
                    memory.save_memory(path)
            memory.settle()
            self._keep(path, memory, _stamp(path))
        return result

    def whole(self, user: str, name: str) -> BinaryIO:
        """A memory in one file, open to be read, with what lies in its parts. Raises Refused if it cannot be made."""
        memory, path = self.open(user, name), self.path(user, name)
        with self._saving(), TemporaryDirectory(dir=path.parent, prefix=f".{IMPORT}.", suffix=".part") as folder:
            memory.save_whole(Path(folder) / path.name)
            return (Path(folder) / path.name).open("rb")

    def delete(self, user: str, name: str) -> None:
        """Remove a memory's file and its parts, also a damaged one's. Raises Busy, or Refused if there is none."""
        path = self.path(user, name)
        if not self.has(user, name):
            self._drop(path)
            raise absent(name)
        with self._alone(path), self._saving():
            path.unlink(missing_ok=True)
            remove_parts(path)
            self._drop(path)

    def take_in(self, user: str, name: str, file: Path) -> ServedMemory:
        """Begin a memory with the content of `file`. Raises Refused if it is there, MemoryFileError if it is damaged,
        another model's, or too large to be read."""
        path = self.path(user, name)
        self._check_header(file)
        memory = self._read(file, "the file")
        memory.check_readable()
        with self._alone(path):
            if path.exists():
                raise Refused(409, f"there is a memory {name!r}; delete it first, or import under another name")
            self._check_room(user)
            with self._saving():
                memory.save_memory(path)
            self._keep(path, memory, _stamp(path))
        return memory

    def _read(self, file: Path, said: str) -> ServedMemory:
        """The memory in `file`, which errors call `said`."""
        memory = self._model.another()
        with self._nameless((str(file), said)):
            memory.load_memory(_packed(read_memory(file)))
        memory.clear_history()
        return memory

    def _begun(self, user: str, path: Path, name: str, make: bool) -> ServedMemory:
        self._drop(path)
        if not make:
            raise Refused(404, f"there is no memory {name!r} any more")
        self._check_room(user)
        return self._model.another()

    def _check_room(self, user: str) -> None:
        most = self._settings.limits.memories
        if len(self.names(user)) >= most:
            raise Refused(409, f"there are {most} memories, which is the limit; delete one")

    def _check_header(self, file: Path) -> None:
        """Raise Refused for a file that says more of its documents than is read of an import.

        A header that is longer than its file is damaged, which reading it tells.
        """
        with file.open("rb") as opened:
            size = int.from_bytes(opened.read(8), "little")
        most = self._settings.limits.import_header_bytes
        if most < size < file.stat().st_size:
            raise Refused(413, f"the file says {size} bytes of its documents; at most {most} are taken")

    @contextmanager
    def _nameless(self, *said: tuple[str, str]) -> Iterator[None]:
        """Errors name memories instead of their files: where files lie is nobody's to know.

        said: further paths, and the words for each.
        """
        try:
            yield
        except MemoryFileError as error:
            message = str(error)
            for path, words in said:
                message = message.replace(path, words)
            for folder in {str(self.folder), os.path.realpath(self.folder)}:
                message = re.sub(
                    rf"{re.escape(folder)}/[^/\s]+/([^/\s]+?){re.escape(_SUFFIX)}", r"the file of memory '\1'", message
                )
                message = message.replace(folder, "the folder of memories")
            raise MemoryFileError(message) from error

    @contextmanager
    def _saving(self) -> Iterator[None]:
        """Raise Refused for an error of the file system."""
        try:
            with self._nameless():
                yield
        except OSError as error:
            raise not_kept(error) from error
        except MemoryFileError as error:
            cause = error.__cause__ and error.__cause__.__cause__
            if isinstance(cause, OSError):
                raise not_kept(cause) from error
            raise

    @contextmanager
    def _alone(self, path: Path) -> Iterator[None]:
        """Nobody else changes the file meanwhile. Raises Busy at once if another process has it open."""
        with ExitStack() as stack:
            with self._saving():
                path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
                try:
                    stack.enter_context(locked(path, timeout=0))
                except MemoryFileError as error:
                    if isinstance(error.__cause__, Timeout):
                        raise Busy from error
                    raise
            yield

    def _keep(self, path: Path, memory: ServedMemory, stamp: tuple[int, int, int]) -> None:
        """Hold a memory loaded; those that were not used for longest go when there are too many slots."""
        self._loaded[path] = _Loaded(memory, stamp, memory.size)
        self._loaded.move_to_end(path)
        slots = self._slots()
        while slots > self._settings.cached_slots and len(self._loaded) > 1:
            _, oldest = self._loaded.popitem(last=False)
            slots -= oldest.size
        self._metrics.cached.set(slots)

    def _drop(self, path: Path) -> None:
        self._loaded.pop(path, None)
        self._metrics.cached.set(self._slots())

    def _slots(self) -> int:
        return sum(each.size for each in self._loaded.values())


def _packed(saved: SavedMemory) -> SavedMemory:
    """The memory without slots that hold nothing. A write leaves none; a file that somebody made may have a million,
    which would be kept, and read past for each token, but count as none."""
    if bool(saved.state.valid.all()):
        return saved
    return replace(saved, state=saved.state.select(saved.state.valid)[0])


def _is_name(name: str) -> bool:
    """Whether a memory can have this name."""
    return NAME.fullmatch(name) is not None and name != EMPTY


def _stamp(path: Path) -> tuple[int, int, int] | None:
    """What is another when the file's content is; None without a file."""
    try:
        found = os.stat(path)
    except FileNotFoundError:
        return None
    if not stat.S_ISREG(found.st_mode):
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size
