"""Memory files that are damaged, foreign or hold values that no write makes."""

import errno
import json
import re
from unittest.mock import Mock

import pytest
import torch
from safetensors.torch import load_file, save_file

from gnm.errors import MemoryFileError
from gnm.memory import files as memory_files
from gnm.memory import load_memory, save_memory
from memory_files import NOTES, ONES, changed_header, some_state

# --- damage


def truncated(path, share):
    raw = path.read_bytes()
    path.write_bytes(raw[: int(len(raw) * share)])


def foreign_tensors(path):
    save_file({"x": torch.zeros(2)}, path)


def other_version(path):
    save_file(load_file(path), path, metadata={"format": "gnm-memory-0", "model": "a", "written": "1", "notes": "{}"})


def changed_tensors(**changes):
    def spoil(path):
        tensors = load_file(path) | changes
        header = {"format": "gnm-memory-1", "model": "a", "written": "5", "notes": "{}"}
        save_file({k: v for k, v in tensors.items() if v is not None}, path, metadata=header)

    return spoil


SPOILT = {
    "empty": lambda path: path.write_bytes(b""),
    "half": lambda path: truncated(path, 0.5),
    "in the header": lambda path: truncated(path, 0.05),
    "last byte": lambda path: truncated(path, 0.999),
    "text": lambda path: path.write_text("once upon a time there was a memory"),
    "json": lambda path: path.write_text(json.dumps([1, 2, 3])),
    "safetensors of something else": foreign_tensors,
    "another version": other_version,
    "no model": changed_header(model=None),
    "no count": changed_header(written=None),
    "count in words": changed_header(written="five"),
    "notes cut off": changed_header(notes='{"a": '),
    "no slots": changed_tensors(slots=None),
    "slots of one axis": changed_tensors(slots=torch.zeros(3)),
    "slots of another length": changed_tensors(slots=torch.zeros(2, 3, 4, 5)),
    "sources of another batch": changed_tensors(source=torch.zeros(1, 3, dtype=torch.long)),
    "validity in numbers": changed_tensors(valid=torch.ones(2, 3)),
    "too few seeds": changed_tensors(seeds=torch.tensor([7])),
}


@pytest.mark.parametrize("how", SPOILT)
def test_a_damaged_or_foreign_file_is_refused_by_its_name(tmp_path, how):
    path = tmp_path / "mine.safetensors"
    save_memory(path, some_state(), "a")
    SPOILT[how](path)
    with pytest.raises(MemoryFileError, match="mine.safetensors"):
        load_memory(path, "a")


def test_a_missing_file_and_a_folder_are_refused(tmp_path):
    with pytest.raises(MemoryFileError, match="no memory file .*absent"):
        load_memory(tmp_path / "absent", "a")
    with pytest.raises(MemoryFileError, match="is a folder"):
        load_memory(tmp_path, "a")


def test_a_file_that_may_not_be_read_is_neither_absent_nor_damaged(tmp_path, monkeypatch):
    save_memory(tmp_path / "m", some_state(), "a")
    refused = Mock(side_effect=PermissionError(errno.EACCES, "Permission denied"))  # root may read files of mode 0
    monkeypatch.setattr(memory_files, "open", refused, raising=False)
    with pytest.raises(MemoryFileError, match="m may not be read; ask its owner, or change its mode"):
        load_memory(tmp_path / "m", "a")


# --- damage 2


def test_every_flipped_bit_is_refused(tmp_path):
    """In the header, the notes and the tensors; also one that makes the format another."""
    path = tmp_path / "m"
    save_memory(path, some_state(torch.bfloat16), "a", NOTES)
    whole = path.read_bytes()
    for place in range(0, 8 * len(whole), 5):  # 5 and 8 share no divisor: each byte, and each bit of some bytes
        damaged = bytearray(whole)
        damaged[place // 8] ^= 1 << place % 8
        path.write_bytes(damaged)
        with pytest.raises(MemoryFileError, match=f"{path}|too large"):
            load_memory(path, "a")


def written_with(path, changes, model="a", **values):
    """A file with a right checksum and wrong values, as only a program can make it."""
    state = some_state()
    tensors = {**state.tensors(), **changes}
    header = {"format": "gnm-memory-2", "model": model, "written": "5", "notes": "{}", **values}
    header["checksum"] = memory_files._checksum(header, tensors)
    save_file(tensors, path, metadata=header)


VALUES = {
    "NaN": ({"slots": torch.full((2, 3, 3, 5), float("nan"))}, {}, "slots hold NaN or infinity"),
    "infinity": ({"slots": torch.full((2, 3, 3, 5), float("inf"))}, {}, "slots hold NaN or infinity"),
    "float64": (
        {"slots": torch.zeros(2, 3, 3, 5, dtype=torch.float64)},
        {},
        "slots are torch.float64 of shape (2, 3, 3, 5)",
    ),
    "a source that was never written": ({"source": torch.full((2, 3), 5)}, {}, "a source is not from -2 to 4"),
    "a source below all": ({"source": torch.full((2, 3), -3)}, {}, "a source is not from -2 to 4"),
    "written below a number": ({}, {"written": "3"}, "a source is not from -2 to 2"),
    "written below none": ({}, {"written": "-1"}, "-1 documents are said to be written"),
    "written without end": ({}, {"written": "1" + 20 * "0"}, "00 documents are said to be written"),
    "strength": ({"strength": 2 * ONES, "segment": ONES.long()}, {}, "a strength is not from 0 to 1"),
    "strength of NaN": ({"strength": float("nan") * ONES, "segment": ONES.long()}, {}, "a strength is not from 0 to 1"),
    "segment": (
        {"strength": ONES, "segment": -1 * ONES.long()},
        {},
        "a segment of a document is not from 0 to 10000000",
    ),
    "segment without end": (
        {"strength": ONES, "segment": ONES.long() << 40},
        {},
        "a segment is not from -1 to 10000000",
    ),
    "strengths in double precision": (
        {"strength": ONES.double(), "segment": ONES.long()},
        {},
        "strength are torch.float64 of shape (2, 3), not torch.float32 of (2, 3)",
    ),
    "segments in short numbers": (
        {"strength": ONES, "segment": ONES.int()},
        {},
        "segment are torch.int32 of shape (2, 3), not torch.int64 of (2, 3)",
    ),
    "strengths of another batch": (
        {"strength": ONES[:1], "segment": ONES.long()},
        {},
        "strength are torch.float32 of shape (1, 3), not torch.float32 of (2, 3)",
    ),
    "no segment": ({"strength": ONES}, {}, "has no 'segment'"),
    "notes that are a list": ({}, {"notes": "[1]"}, "its notes are no mapping"),
    "notes without end": ({}, {"notes": 100_000 * "["}, "recursion"),
}


@pytest.mark.parametrize("what", VALUES)
def test_values_that_no_write_makes_are_refused(tmp_path, what):
    changes, header, told = VALUES[what]
    written_with(tmp_path / "m", changes, **header)
    with pytest.raises(MemoryFileError, match=f"m is damaged .*{re.escape(told)}"):
        load_memory(tmp_path / "m", "a")
    written_with(tmp_path / "m", {})
    load_memory(tmp_path / "m", "a")
