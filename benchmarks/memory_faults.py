"""What becomes of a memory file under writers at once, kills and a full disk: `python benchmarks/memory_faults.py`.

- Each writer is a process of its own that locks the file, loads it, writes one document, saves, and only then reports.
  A write that was reported is in the file afterwards, whole; one that was not is in it whole or not at all.
- The disk is a file system in memory (Linux; needs the right to mount), filled so that only a few more writes fit.
- On a tiny random backbone, as only the file matters. Printed: counts; the program ends with 1 if anything was lost.
"""

import argparse
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path

from gnm.api import Conversation, load
from gnm.errors import GNMError
from gnm.memory.files import locked

_FORK = multiprocessing.get_context("fork")  # a writer begins with the model loaded
_SETTINGS = {"backbone": "tiny", "dtype": "float32", "device": "cpu", "eviction": "oldest", "capacity": 1000}
_LEAST_ROOM = 200_000  # bytes that the ballast of a full disk leaves


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--writers", type=int, nargs="*", default=[2, 4, 8], help="at once (default: 2 4 8)")
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--disk", type=int, default=20, metavar="MB", help="0: no full disk (default: 20)")
    options = parser.parse_args(arguments)
    told = []
    with tempfile.TemporaryDirectory() as folder:
        for writers in options.writers:
            told.append(at_once(load(None, **_SETTINGS), Path(folder) / f"{writers}.mem", writers))
        if options.kills:
            told.append(killed(load(None, **_SETTINGS), Path(folder) / "killed.mem", options.kills))
        if options.disk:
            told.append(full_disk(load(None, **_SETTINGS), Path(folder) / "disk", options.disk))
    print("\n".join(text for text, _ in told))
    sys.exit(any(lost for _, lost in told))


def at_once(conversation: Conversation, path: Path, writers: int) -> tuple[str, int]:
    """Writers of one file at once; what is told, and how many accepted writes are lost."""
    processes = [_Writer(conversation, path, f"Town {number}") for number in range(writers)]
    accepted = [process.name for process in processes if process.accepted()]
    lost = len(set(accepted) - set(_names(conversation, path)))
    return f"{writers} writers at once: {len(accepted)} writes accepted, {lost} lost", lost


def killed(conversation: Conversation, path: Path, kills: int) -> tuple[str, int]:
    """Writers killed at random moments; what is told, and how often the file was not what it should be."""
    draw, wrong, counts, held = random.Random(0), 0, Counter(), []
    started = time.monotonic()
    if _Writer(conversation, path, "Town 0").accepted():
        held = ["Town 0"]
    usual = time.monotonic() - started
    for number in range(1, kills + 1):
        writer = _Writer(conversation, path, f"Town {number}")
        time.sleep(draw.uniform(0, 1.2 * usual))
        accepted = writer.kill()
        found = _names(conversation, path)
        right = [*held, writer.name] if accepted or writer.name in found else held
        wrong += found != right[-len(found) :] or not found
        counts["accepted" if accepted else "whole but not reported" if writer.name in found else "without a trace"] += 1
        held = found
    with locked(path):
        left = [name for name in os.listdir(path.parent) if name.endswith(".part")]
    told = ", ".join(f"{count} {what}" for what, count in sorted(counts.items()))
    return f"{kills} kills: {told}; {wrong} files not as they should be, {len(left)} leftovers", wrong + len(left)


def full_disk(conversation: Conversation, folder: Path, megabytes: int) -> tuple[str, int]:
    """Writes until the disk is full; what is told, and how many accepted writes are lost."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        return f"a disk of {megabytes} MB: not tried, mounting one is not permitted here", 0
    try:
        path, refused = folder / "m.mem", ""
        (folder / "ballast").write_bytes(bytes(megabytes * 2**20 - _LEAST_ROOM))
        accepted = []
        while not refused:
            try:
                conversation.write(f"Town {len(accepted)} is in Asia.", "Learn it all.")
                conversation.save_memory(path)
                accepted.append(f"Town {len(accepted)}")
            except GNMError as error:
                refused = str(error)
        found = _names(conversation, path)
        lost = int(found != accepted[-len(found) :])
        left = [name for name in os.listdir(folder) if name.endswith(".part")]
        return (
            f"a disk of {megabytes} MB: {len(accepted)} writes accepted, then: {refused.replace(str(folder), '')}; "
            f"{lost} lost, {len(left)} leftovers"
        ), lost + len(left)
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


class _Writer:
    """A process that writes one document into the file."""

    def __init__(self, conversation: Conversation, path: Path, name: str):
        self.name = name
        self._said, saying = _FORK.Pipe(duplex=False)
        self._process = _FORK.Process(target=_write, args=(conversation, path, name, saying))
        self._process.start()
        saying.close()

    def accepted(self) -> bool:
        """Whether it reports its write, once it has ended."""
        self._process.join()
        try:
            return self._said.poll() and self._said.recv()
        except EOFError:
            return False

    def kill(self) -> bool:
        """End it by SIGKILL; whether it had reported its write."""
        os.kill(self._process.pid, signal.SIGKILL)
        return self.accepted()


def _write(conversation: Conversation, path: Path, name: str, saying: Connection) -> None:
    with locked(path):
        if path.exists():
            conversation.load_memory(path)
        conversation.write(f"{name} is in Asia.", "Learn it all.")
        conversation.save_memory(path)
    saying.send(True)


def _names(conversation: Conversation, path: Path) -> list[str]:
    """What the documents in the file are about, oldest first. Raises MemoryFileError if the file is damaged."""
    if not path.exists():
        return []
    conversation.load_memory(path)
    whole = (document.beginning for document in conversation.documents)  # "" where a part was evicted
    return [beginning.removesuffix(" is in Asia.") for beginning in whole if beginning]


if __name__ == "__main__":
    main()
