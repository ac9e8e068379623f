"""A memory model as the ecosystem expects one: `save_pretrained`, `from_pretrained`, `push_to_hub`.

A folder holds, each in its own file: settings (`gnm.json`), the adapter in peft's layout (a second one, that only
reads, in a folder of its name), the memory's own weights if it has any (`memory_module.safetensors`), the memory's
state (`memory_state.safetensors`), tokenizer, generation config, and a model card. The backbone is frozen; its name
and digest stand for it.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, snapshot_download
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from gnm.backbones import Backbone
from gnm.checkpoints import ABOUT, CARD, adapter_state, model_card, write_peft
from gnm.config import validate
from gnm.errors import CheckpointError
from gnm.files import atomic_folder, write_json, write_text
from gnm.memory import MemoryState, save_memory
from gnm.models.lora import DEFAULT, READER, LoraSettings
from gnm.models.memory_lm import MemoryLM
from gnm.weights import LOADED, Hub, hub_errors

MODULE, STATE = "memory_module.safetensors", "memory_state.safetensors"
_MODULE_TENSORS = ("bos_embedding", "new_memory_positional_emb")
_FILES = [*LOADED, "README.md"]


def save_pretrained(
    folder: str | Path,
    backbone: Backbone,
    lm: MemoryLM,
    about: Mapping[str, Any],
    state: MemoryState | None = None,
    digest: str = "",
    notes: Mapping | None = None,
) -> None:
    """Write a memory model to `folder`, whole or not at all; `about` becomes gnm.json and the model card.

    state, digest, notes: the memory to save along, the digest of the model that it belongs to, what is known of it.
    """
    model = backbone.model
    with atomic_folder(folder) as new:
        for name in (DEFAULT, READER):
            if weights := adapter_state(model, name):
                place = new if name == DEFAULT else new / name
                place.mkdir(exist_ok=True)
                write_peft(place, weights, validate(about["lora"], LoraSettings, "lora"), backbone.name)
        if lm.write_settings.tap == "outputs":
            module = {name: getattr(lm, name).detach().cpu().contiguous() for name in _MODULE_TENSORS}
            save_file(module, new / MODULE, metadata={"format": "pt"})
        if state is not None:
            save_memory(new / STATE, state, digest, dict(notes or {}))
        backbone.tokenizer.save_pretrained(new)
        if model.generation_config is not None:
            model.generation_config.save_pretrained(new)
        write_json(new / ABOUT, about)
        write_text(new / CARD, model_card(about))


def with_memory_module(folder: Path, backbone: Backbone) -> Backbone:
    """`backbone` with the memory's own weights that `folder` holds, if it holds any.

    Raises CheckpointError if they are damaged or don't fit, or the backbone has no such memory.
    """
    path = folder / MODULE
    if not path.is_file():
        return backbone
    if backbone.memory is None:
        raise CheckpointError(f"{path} belongs to a memory model; {backbone.name} is a plain decoder")
    try:
        saved = load_file(path)
        module = {name: saved[name] for name in _MODULE_TENSORS}
    except (OSError, SafetensorError, KeyError) as error:
        raise CheckpointError(f"{path} is damaged ({error}); restore it") from error
    for name, tensor in module.items():
        if tensor.shape != (expected := getattr(backbone.memory, name).shape):
            raise CheckpointError(f"{path}: {name} is of shape {tuple(tensor.shape)}, not {tuple(expected)}")
    return replace(backbone, memory=replace(backbone.memory, **module))


def local_folder(name: str | Path) -> Path:
    """The folder `name`, or the hub's files of the repository `name` ("owner/model") where there is no such folder.

    Raises BackboneError if a repository is not reachable.
    """
    folder = Path(name)
    if folder.exists() or str(name).count("/") != 1 or str(name).startswith((".", "/")):
        return folder
    with hub_errors(str(name), Hub(str(name), "main", 0), folder):
        return Path(snapshot_download(str(name), allow_patterns=_FILES))


def push_to_hub(folder: str | Path, repo: str, private: bool = True) -> str:
    """Upload a saved memory model to the hub's repository `repo`, made if there is none; returns its commit's address.

    Raises BackboneError if the hub is out of reach or refuses.
    """
    api = HfApi()
    with hub_errors(repo, Hub(repo, "main", 0), Path(folder)):
        api.create_repo(repo, private=private, exist_ok=True)
        return str(api.upload_folder(repo_id=repo, folder_path=folder, commit_message="Upload a memory model"))
