"""What the folder of a trained retriever says of itself, without its weights (`gnm.models.retriever`)."""

import json
from pathlib import Path
from typing import Any

from gnm.errors import CheckpointError
from gnm.files import recover_folder

ABOUT, WEIGHTS = "retriever.json", "retriever.safetensors"
_DIGITS = 8


def retriever_digest(folder: str | Path) -> str:
    """A few digits that tell the weights of a saved retriever from others'. Raises CheckpointError as loading does."""
    return read_retriever(Path(folder))["checksums"][WEIGHTS][:_DIGITS]


def read_retriever(folder: Path) -> dict[str, Any]:
    """The retriever's JSON file: its settings and checksums. Raises CheckpointError if it is missing or damaged.

    One that a killed save had moved aside is brought back first.
    """
    try:
        recover_folder(folder)
        about = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
        if not isinstance(about["checksums"][WEIGHTS], str):
            raise TypeError("its checksum is no text")
    except (FileNotFoundError, NotADirectoryError) as error:
        raise CheckpointError(
            f"{folder} is no retriever of this project (no {ABOUT} in it); train one with gnm.training.retriever, or "
            "check the path"
        ) from error
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise CheckpointError(f"{folder / ABOUT} is damaged ({error}); restore it, or train it anew") from error
    return about
