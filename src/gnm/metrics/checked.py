"""Tables that were saved, read and checked: every column is there, in its dtype and range, nulls in nullable columns.

An error is one sentence that names the file, the column and the first row, and says what to do.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pyarrow as pa

from gnm.errors import DataError

AGAIN = "evaluate again to replace it"


@dataclass(frozen=True, slots=True)
class Column:
    """One column: its pandas dtype, whether it may be null, what it means, and the range of its numbers."""

    dtype: str
    nullable: bool
    meaning: str
    low: float = -math.inf
    high: float = math.inf


def read_table(path: Path, columns: Mapping[str, Column], again: str = AGAIN) -> pd.DataFrame:
    """These columns of a parquet file, checked. Raises DataError; a file without rows is an error too.

    again: what to do about a file that is damaged.
    """
    return checked_columns(read_parquet(path, again), columns, path, again)


def read_parquet(path: str | Path, again: str = AGAIN) -> pd.DataFrame:
    """A parquet file, its columns unchecked. Raises DataError if it cannot be read."""
    try:
        return pd.read_parquet(path)
    # TypeError: a dtype unknown to pandas; KeyError: what pandas notes of its columns lacks a part
    except (OSError, ValueError, TypeError, KeyError, pa.lib.ArrowException) as error:
        raise DataError(f"{path} is not a readable parquet file ({error}); {again}") from error


def checked_columns(
    frame: pd.DataFrame, columns: Mapping[str, Column], where: str | Path, again: str = AGAIN
) -> pd.DataFrame:
    """These columns in their dtypes, checked. Raises DataError; a frame without rows is an error too."""
    if missing := [name for name in columns if name not in frame]:
        raise DataError(f"{where} is damaged: it has no column {', '.join(missing)}; {again}")
    if frame.empty:
        raise DataError(f"{where} is damaged: it has no rows; {again}")
    try:
        found = pd.DataFrame({name: cast(frame[name], column, name) for name, column in columns.items()})
    except DataError as error:
        raise DataError(f"{where} is damaged: {error}; {again}") from error
    for name, column in columns.items():
        if not math.isinf(column.low):
            span = f"from {column.low:g} to {column.high:g}" if column.high < math.inf else f"{column.low:g} or more"
            outside = (found[name] < column.low) | (found[name] > column.high)
            refuse(outside, f"{where} is damaged", f"{name!r} must be {span}", again)
    return found


def cast(values: pd.Series, column: Column, name: str) -> pd.Series:
    """The values in the column's dtype. Raises DataError where one does not fit, or is null and must not be."""
    kind = "boolean" if column.dtype == "bool" else column.dtype
    try:
        if not column.nullable:
            _no_nulls(values, name)
        if column.dtype == "str":
            present = values.dropna()
            wrong = ~present.map(lambda value: isinstance(value, str)).astype(bool)
            if wrong.any():
                raise TypeError(f"{present[wrong].iloc[0]!r} is not text")
        if kind == "int64":
            values = values.astype("Int64")  # refuses 1.5, which int64 rounds down
        found = values.astype(kind).astype(column.dtype)
    except (TypeError, ValueError, OverflowError, pa.lib.ArrowException) as error:  # the last: text that is no UTF-8
        raise DataError(f"column {name!r} does not fit {column.dtype} ({error})") from error
    if not column.nullable:
        _no_nulls(found, name)  # "nan" in text is a number
    return found


def refuse(wrong: pd.Series, where: str, rule: str, again: str = "") -> None:
    """Raise DataError if any row is `wrong` [rows] bool. rule: what all rows must keep, in words."""
    wrong = wrong.fillna(False).astype(bool)
    if wrong.any():
        remedy = f"; {again}" if again else ""
        raise DataError(f"{where}: {rule}; {wrong.sum()} rows break this, first row {_first(wrong)}{remedy}")


def _no_nulls(values: pd.Series, name: str) -> None:
    nulls = values.isna()
    if nulls.any():
        raise DataError(f"column {name!r} is null in {nulls.sum()} rows, first in row {_first(nulls)}")


def _first(mask: pd.Series) -> int:
    return int(mask.to_numpy().argmax())
