"""Memories for programs on a tiny backbone, and what tests say about them."""

import re
from pathlib import Path

import torch

from gnm.api import load


def blocks(project: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (project / "README.md").read_text(encoding="utf-8"), re.DOTALL)


def same(ours, theirs):
    return ours.written == theirs.written and all(
        torch.equal(tensor, theirs.tensors()[name]) for name, tensor in ours.tensors().items()
    )


def tiny(**settings):
    return load(None, backbone="tiny", **{"dtype": "float32", "device": "cpu", **settings})


LINES = "The following hold:\n* Oman is hot\n* Fiat makes cars, and not a few of them\n"


def words_in(path):
    """The file as `grep -a` reads it."""
    return path.read_bytes().decode("utf-8", "replace")


NOTE = {"instruction": "a", "beginning": "b"}
