"""Saved models, damaged or as earlier versions saved them."""

import json
from pathlib import Path


def without_checksums(folder: Path) -> Path:
    """The same folder without the checksums in gnm.json, as earlier versions saved it."""
    about = json.loads((folder / "gnm.json").read_text())
    del about["checksums"]
    (folder / "gnm.json").write_text(json.dumps(about))
    return folder


def flip_a_bit(path: Path, place: int = 0) -> None:
    """Flip one bit of a file; places count from its middle."""
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2 + place] ^= 64
    path.write_bytes(raw)
