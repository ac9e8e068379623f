"""The contract of everything that is fuzzed."""

import random
from abc import ABC, abstractmethod
from pathlib import Path


class Kind(ABC):
    """One kind of input: made once in `folder`, then damaged and read again and again."""

    def __init__(self, folder: Path):
        """Make a good example in `folder`."""
        self.folder = folder

    @abstractmethod
    def spoil(self, rng: random.Random) -> None:
        """Put a damaged copy in place of the last one."""

    @abstractmethod
    def read(self) -> None:
        """Read what lies there. Raises GNMError if it is refused, AssertionError if damage is taken for data."""
