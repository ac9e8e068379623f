"""Raw CounterFact records from the hub, a local folder, or the embedded table.

- A source is a hub id with a pinned revision, a local folder or file (parquet, JSON or JSON lines, these two
  also packed by gzip or xz; or arrow as `save_to_disk` writes it), or the word `embedded`.
- In a folder the split is read off the file names: each holds `train` or `test`. A single file and the
  embedded table have no splits: every tenth `case_id` is a test record.
- Every record comes with its place, for the messages of whoever checks its fields.
- `datasets` and `pyarrow` are imported only where a source needs them.
"""

import gzip
import json
import lzma
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from gnm.errors import DataError
from gnm.extras import optional_imports

EMBEDDED = "embedded"
SPLITS = ("train", "test")
_PACKED = {".gz": gzip.open, ".xz": lzma.open}
JSON_SUFFIXES = tuple(f"{kind}{packed}" for packed in ("", *_PACKED) for kind in (".json", ".jsonl"))
SUFFIXES = (*JSON_SUFFIXES, ".parquet")
UNPACKED_LIMIT = 2 * 10**9
"""Bytes of text that a packed file may hold, a hundred times CounterFact: a small file can unpack to all of memory."""
_CHUNK = 2**20
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")

Placed = tuple[str, Any]
"""A raw record behind its place, such as "train.json, record 3"."""


def read_records(source: str, revision: str | None = None, base: Path = Path()) -> dict[str, list[Placed]]:
    """Raw records of every split of `source`.

    A path is taken relative to `base`. What exists as a path is read locally, anything else of the form
    owner/name from the hub at `revision`. Raises DataError when nothing can be read, or a split is missing.
    """
    if source == EMBEDDED:
        from gnm.data.facts import embedded_records

        return _split_by_id(_placed(embedded_records(), "embedded facts"), "the embedded table")
    path = base / source
    if path.is_file():
        return _split_by_id(read_file(path), str(path))
    if path.is_dir():
        arrow = any((path / name).exists() for name in ("dataset_dict.json", "state.json"))
        return _read_arrow(path) if arrow else _read_folder(path)
    if source.startswith((".", "/", "~")) or source.count("/") != 1:
        raise DataError(
            f"CounterFact source {source!r} does not exist at {path.resolve()}; give a folder, a file, "
            f"a hub id such as azhx/counterfact, or {EMBEDDED!r}"
        )
    return _read_hub(source, revision)


def read_file(path: Path) -> Iterator[Placed]:
    """Records of one parquet, JSON or JSON lines file. Raises DataError naming the file and what is wrong."""
    if path.suffix == ".parquet":
        yield from _read_parquet(path)
    elif not path.name.endswith(JSON_SUFFIXES):
        raise DataError(f"{path} is of no known kind; its name must end in {', '.join(SUFFIXES)}")
    elif path.name.removesuffix(path.suffix if path.suffix in _PACKED else "").endswith(".json"):
        records = read_json(path)
        if not isinstance(records, list):
            raise DataError(f"{path} must hold a list of records, it holds {type(records).__name__}")
        yield from _placed(records, str(path))
    else:
        yield from _read_lines(path)


def read_json(path: Path) -> Any:
    """Parse a JSON file (packed if it ends in .gz or .xz). Raises DataError naming the file and what is wrong."""
    text = _text(path)
    try:
        return _parse(text, str(path))
    except json.JSONDecodeError as error:
        raise DataError(
            f"{path} is not whole JSON (line {error.lineno}: {error.msg}); fetch or make it again"
        ) from error


def _read_folder(path: Path) -> dict[str, list[Placed]]:
    splits: dict[str, list[Placed]] = {split: [] for split in SPLITS}
    for file in sorted(path.rglob("*")):
        named = [split for split in SPLITS if split in file.name.lower()]
        if len(named) == 1 and file.is_file() and file.name.endswith(SUFFIXES):
            splits[named[0]] += read_file(file)
    for split, records in splits.items():
        if not records:
            raise DataError(
                f"{path} holds no {split} records: expected a file with {split!r} in its name ending in "
                f"{', '.join(SUFFIXES)}, or a data set saved with save_to_disk"
            )
    return splits


def _read_lines(path: Path) -> Iterator[Placed]:
    for number, line in enumerate(_text(path).split("\n"), start=1):
        if line.strip():
            where = f"{path}, line {number}"
            try:
                yield where, _parse(line, where)
            except json.JSONDecodeError as error:
                raise DataError(f"{where} is not whole JSON ({error.msg}); fetch the file again") from error


def _parse(text: str, where: str) -> Any:
    """A JSON text's value. DataError for what Python parses but cannot handle, JSONDecodeError for what is no JSON."""
    try:
        value = json.loads(text)
        if _SURROGATE.search(text):
            json.dumps(value, ensure_ascii=False).encode("utf-8")
        return value
    except json.JSONDecodeError:
        raise
    except UnicodeEncodeError as error:
        raise DataError(f"{where} holds half of a surrogate pair (\\ud800 to \\udfff), which is no text") from error
    except RecursionError as error:
        raise DataError(f"{where} nests lists or mappings too deeply; is this a file of records?") from error
    except ValueError as error:
        raise DataError(f"{where} holds a number of too many digits; is this a file of records?") from error


def _text(path: Path) -> str:
    """A file's text, unpacked, without a byte-order mark."""
    try:
        return (_unpack(path) if path.suffix in _PACKED else path.read_bytes()).decode("utf-8-sig")
    except (EOFError, gzip.BadGzipFile, zlib.error, lzma.LZMAError) as error:
        raise DataError(f"{path} is not a whole {path.suffix} file ({error}); fetch it again") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text ({error.reason} at byte {error.start}); give a JSON file") from error
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}; make or fetch it first") from error


def _unpack(path: Path) -> bytearray:
    data = bytearray()
    with _PACKED[path.suffix](path) as file:
        while chunk := file.read(_CHUNK):
            data += chunk
            if len(data) > UNPACKED_LIMIT:
                raise DataError(f"{path} unpacks to more than {UNPACKED_LIMIT:,} bytes; is this a file of records?")
    return data


def _read_parquet(path: Path) -> Iterator[Placed]:
    with optional_imports():
        import pyarrow
        import pyarrow.parquet

    try:
        records = pyarrow.parquet.read_table(path).to_pylist()
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{path} is not a whole parquet file ({error}); fetch it again") from error
    yield from _placed(records, str(path))


def _read_arrow(path: Path) -> dict[str, list[Placed]]:
    with optional_imports():
        import datasets

    try:
        data = datasets.load_from_disk(str(path))
    except Exception as error:  # for damaged files the library raises errors of several packages
        raise DataError(f"{path} is not a whole saved data set ({error}); save it again with save_to_disk") from error
    if isinstance(data, Mapping):
        return _splits_of(data, str(path))
    return _split_by_id(_placed(data, str(path)), str(path))


def _read_hub(source: str, revision: str | None) -> dict[str, list[Placed]]:
    if not revision:
        raise DataError(f"source {source!r} is on the hub: pin its `revision` (a commit) to keep the data the same")
    with optional_imports():
        import datasets

    try:
        data = datasets.load_dataset(source, revision=revision)
    except Exception as error:  # network, authentication, missing repository: each has errors of its own
        raise DataError(
            f"cannot fetch {source!r} at revision {revision} ({type(error).__name__}: {error}); check the "
            f"name and the connection, or set `source` to a local copy or to {EMBEDDED!r}"
        ) from error
    return _splits_of(data, f"{source}@{revision}")


def _splits_of(data: Mapping[str, Iterable[Any]], where: str) -> dict[str, list[Placed]]:
    if missing := [split for split in SPLITS if split not in data]:
        raise DataError(f"{where} has no {' and no '.join(missing)} split; it has {', '.join(data)}")
    splits = {split: list(_placed(data[split], f"{where}, {split}")) for split in SPLITS}
    if empty := [split for split in SPLITS if not splits[split]]:
        raise DataError(f"{where} holds no {' and no '.join(empty)} records; fetch or make it again")
    return splits


def _split_by_id(records: Iterable[Placed], source: str) -> dict[str, list[Placed]]:
    """Records that come without a split: every tenth by `case_id` is a test record."""
    splits: dict[str, list[Placed]] = {split: [] for split in SPLITS}
    for where, record in records:
        case_id = record.get("case_id") if isinstance(record, dict) else None
        if not isinstance(case_id, int):
            raise DataError(f"{where} has no whole number 'case_id'; is this a CounterFact record?")
        splits["train" if case_id % 10 else "test"].append((where, record))
    if not any(splits.values()):
        raise DataError(f"{source} holds no records and so no facts; fetch or make it again")
    return splits


def _placed(records: Iterable[Any], where: str) -> Iterator[Placed]:
    return ((f"{where}, record {number}", record) for number, record in enumerate(records))
