"""Files of lists that an evaluation saved, read and checked: summary.json, counts.json, cost.json.

Each key has a list with one entry for each logged epoch; in cost.json, one for each document. An error is one sentence
that names file and key.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from gnm.errors import DataError
from gnm.metrics.checked import AGAIN
from gnm.metrics.samples import GROUPS

_MOST, _DEAREST = 10**12, 1e30  # answers behind a figure; a cost
_SHARES = ("fact", "format", "refusal", "neighbour", *GROUPS[2:])  # first words of a summary's keys that are shares
_ROUNDED = 1e-9  # by which a share may be beside 0 and 1


def read_json(path: Path) -> dict[str, Any]:
    """The object that a file of an evaluation holds, NaN as null. Raises DataError where it is not there or damaged."""
    try:
        text = path.read_text(encoding="utf-8")
        value = json.loads(text, parse_constant=lambda name: None if name == "NaN" else float(name))
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}; evaluate this method first") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is not valid JSON ({error}); {AGAIN}") from error
    if not isinstance(value, dict):
        raise DataError(f"{path} must hold an object, it holds {type(value).__name__}; {AGAIN}")
    return value


def read_lists(path: Path, wrong: Callable[[str, np.ndarray], str]) -> dict[str, list[Any]]:
    """A mapping of lists that are not empty; each entry is a number, null, or a line or matrix of them.

    `wrong` says what is wrong with an entry under a key, in words; nothing where it is right.
    """
    value = read_json(path)
    for key, entries in value.items():
        try:
            if not isinstance(entries, list) or not entries:
                raise ValueError("no numbers (it is no list, or an empty one)")
            for entry in entries:
                if problem := wrong(key, _numbers(entry)):
                    raise ValueError(problem)
        except (ValueError, TypeError, OverflowError, RecursionError) as error:
            raise DataError(f"{path} is damaged: {ascii(key)[:40]} holds {error}; {AGAIN}") from error
    return value


def _numbers(entry: Any) -> np.ndarray:
    """An entry as numbers; null is NaN. Raises ValueError for anything else, and for an empty list."""
    if any(not isinstance(leaf, float | int | None) or isinstance(leaf, bool) for leaf in _leaves(entry)):
        raise ValueError("no numbers (but text, verdicts or objects)")
    try:
        found = np.array(entry, dtype=float)
    except (ValueError, OverflowError) as error:
        raise ValueError(f"no numbers ({error})") from error
    if not found.size:
        raise ValueError("no numbers (an entry is empty)")
    return found


def _leaves(entry: Any) -> list[Any]:
    return [leaf for part in entry for leaf in _leaves(part)] if isinstance(entry, list) else [entry]


def shares_or_costs(key: str, entry: np.ndarray) -> str:
    """What is wrong with an entry of a summary."""
    if entry.ndim > 1 + key.endswith("_matrix"):
        return f"an entry of {entry.ndim} dimensions"
    if key.partition("_")[0] in _SHARES and _beyond(entry, -_ROUNDED, 1 + _ROUNDED):
        return "a number that is no share from 0 to 1"
    return "no costs" if key == "flops_per_token" and _beyond(entry, 0, _DEAREST) else ""


def counts(key: str, entry: np.ndarray) -> str:
    """What is wrong with an entry of the counts beside a summary."""
    unknown = entry.ndim and np.isnan(entry).any()
    return "no counts" if unknown or entry.ndim > 2 or _beyond(entry, 0, _MOST) else ""


def costs(key: str, entry: np.ndarray) -> str:
    """What is wrong with an entry of a cost by documents seen."""
    return "no costs by document" if entry.ndim or _beyond(entry, 0, _DEAREST) else ""


def _beyond(entry: np.ndarray, low: float, high: float) -> bool:
    return bool(((entry < low) | (entry > high)).any())
