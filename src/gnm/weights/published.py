"""The paper's checkpoints and data set on the hub ("Tell Me What To Learn", 2026): one table for loading and fetching.

Their commits were not at hand when this was written, so the revision is the moving `main`; the commit that is fetched
is written into `source.json` beside the files and becomes part of the backbone's digest.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from gnm.errors import BackboneError
from gnm.weights.sources import Hub
from gnm.weights.tensor_files import WeightFiles

SOURCE = "source.json"


@dataclass(frozen=True)
class Published:
    """A checkpoint of the paper: weights alone. Config, tokenizer and starting pool are those of the backbone `base`.

    memory: whether it is a memory model. newer: the name under which the hub lists it too.
    """

    hub: Hub
    base: str
    memory: bool
    newer: str | None = None


def _published(name: str, base: str, size: int, memory: bool, newer: str | None = None) -> Published:
    prefix = "maxbennett/generalized-neural-memory-"
    return Published(Hub(prefix + name, "main", size), base, memory, newer and prefix + newer)


_MEMORY, _PLAIN = ("memoryllm-8b-chat", 20 * 10**9, True), ("llama3-8b-instruct", 17 * 10**9, False)

PUBLISHED = {
    "gnm_all": _published("gnm-all", *_MEMORY, newer="gnm-counterfact"),
    "gnm_all_ablation": _published("gnm-all-ablation", *_MEMORY, newer="gnm-counterfact-ablation"),
    "icl_all": _published("icl-all", *_PLAIN, newer="iclft-counterfact"),
    "rag_all": _published("rag-all", *_PLAIN, newer="ragft-counterfact"),
    "gnm_facts": _published("gnm-facts", *_MEMORY),
    "icl_facts": _published("icl-facts", *_PLAIN),
    "rag_facts": _published("rag-facts", *_PLAIN),
}
DATA_SET = Hub("maxbennett/counterfact-gnm", "main", 10**9)


def fetched_from(name: str, folder: Path) -> str:
    """What identifies the checkpoint in `folder`: repository and commit, or its files' names, sizes and beginnings.

    Raises BackboneError if the folder is not there, CheckpointError if it holds no weights.
    """
    if not folder.is_dir():
        raise BackboneError(f"backbone {name!r} is not in {folder}; fetch it: python download_models.py --only {name}")
    try:
        source = json.loads((folder / SOURCE).read_text(encoding="utf-8"))
        return f"{source['repo']}@{source['commit']}"
    except FileNotFoundError:
        digest = hashlib.sha256()
        for file in WeightFiles(folder).files:
            with file.open("rb") as opened:
                digest.update(f"{file.name} {file.stat().st_size}".encode() + opened.read(1 << 20))
        return f"local files, {digest.hexdigest()[:16]}"
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise BackboneError(f"backbone {name!r}: {folder / SOURCE} is damaged; fetch the folder again") from error
