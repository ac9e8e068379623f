"""Errors that a user can act on: what was wrong, where, and what to do. Programs print them as one sentence."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager


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


@contextmanager
def exit_on_error() -> Iterator[None]:
    """End the program with the error's sentence, without a traceback, if it is the user's to solve."""
    try:
        yield
    except GNMError as error:
        sys.exit(f"error: {error}")
