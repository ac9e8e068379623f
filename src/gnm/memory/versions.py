"""Which content of a memory file was seen last, so that another process's changes are not overwritten."""

import os
from pathlib import Path

from gnm.errors import MemoryFileError
from gnm.memory.files import version_of


class FileVersions:
    """The checksums of memory files as they were when they were loaded or saved; None for a file that had none.

    versions.note(path, version_of(path))
    versions.check(path)  # before it is saved again
    """

    def __init__(self) -> None:
        self._seen: dict[str, str | None] = {}

    def note(self, path: str | Path, version: str | None) -> None:
        """Remember what `path` holds now."""
        self._seen[os.path.realpath(path)] = version

    def check(self, path: str | Path) -> None:
        """Raise MemoryFileError if `path` holds something else than what was noted of it."""
        place = os.path.realpath(path)
        if place in self._seen and os.path.exists(place) and version_of(path) != self._seen[place]:
            raise MemoryFileError(
                f"{path} was changed since this conversation loaded or saved it; load it again and repeat what was "
                "done, or save to another file"
            )

    def copy(self) -> "FileVersions":
        """The same checksums, to be changed apart from these."""
        other = FileVersions()
        other._seen = dict(self._seen)
        return other
