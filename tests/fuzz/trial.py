"""Reading one damaged input, with bounds on time and memory."""

import random
import resource
import signal
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

from fuzz.kind import Kind
from gnm.errors import GNMError

SECONDS, BYTES = 10, 2 * 10**9
_PAGE = resource.getpagesize()


class TooLong(BaseException):
    """More than SECONDS of CPU time have passed."""


class Trials:
    """Counts of what became of the inputs of one kind."""

    def __init__(self, name: str, kind: Kind):
        self.name, self.kind = name, kind
        self.refused = self.read = self.failed = 0
        self.longest = 0.0

    def run(self, number: int) -> str | None:
        """Read the input of this number; returns what is wrong with how it was taken, if anything."""
        self.kind.spoil(random.Random(f"{self.name} {number}"))
        started = time.process_time()
        try:
            with _bounded():
                self.kind.read()
        except GNMError as error:
            self.refused += 1
            problem = None if _is_sentence(str(error)) else f"no sentence: {error}"
        except (Exception, TooLong) as error:
            problem = f"{type(error).__name__}: {str(error)[:200]} ({_where(error)})"
        else:
            self.read += 1
            problem = None
        self.longest = max(self.longest, time.process_time() - started)
        self.failed += problem is not None
        return problem

    def told(self) -> str:
        """The counts in one line."""
        inputs = self.refused + self.read + self.failed
        return (
            f"{self.name:12s} {inputs:6d} inputs: {self.refused} refused, {self.read} read, {self.failed} failed; "
            f"the longest took {self.longest:.1f} s"
        )


def _is_sentence(text: str) -> bool:
    """Whether an error says something, in words that every terminal can show."""
    return len(text.split()) > 3 and text.encode("utf-8", "replace").decode() == text


def _where(error: BaseException) -> str:
    """The last line of the project's own code in a traceback."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "/gnm/" in frame.filename]
    return f"{frames[-1].filename.rpartition('/gnm/')[2]}:{frames[-1].lineno}" if frames else "outside gnm"


@contextmanager
def _bounded() -> Iterator[None]:
    """Raise TooLong, or MemoryError, if what runs takes more than it should."""

    def stop(*_):
        raise TooLong(f"more than {SECONDS} s of CPU time")

    with open("/proc/self/statm") as sizes:
        held = int(sizes.read().split()[0]) * _PAGE
    before, limits = signal.signal(signal.SIGPROF, stop), resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (held + BYTES, limits[1]))
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        resource.setrlimit(resource.RLIMIT_AS, limits)
        signal.signal(signal.SIGPROF, before)
