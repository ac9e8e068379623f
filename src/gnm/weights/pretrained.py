"""A memory model as the ecosystem expects one: `save_pretrained`, `from_pretrained`, `push_to_hub`.

A folder holds, each in its own file: settings (`gnm.json`), the adapter in peft's layout (a second one, that only
reads, in a folder of its name), the memory's own weights if it has any (`memory_module.safetensors`), the memory's
state (`memory_state.safetensors`), tokenizer, generation config, and a model card. The backbone is frozen; its name
and digest stand for it.
"""

import os
from collections.abc import Iterator, Mapping, Set
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx2
from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalTokenNotFoundError, OfflineModeIsEnabled

from gnm.config import validate
from gnm.errors import BackboneError, CheckpointError, of_disk
from gnm.files import atomic_folder, recover_folder
from gnm.memory import MemoryState, save_memory
from gnm.models.lora import LoraSettings
from gnm.models.memory_lm import MARKS, MemoryLM
from gnm.weights.adapters import ABOUT, check_backbone, check_weights, load_adapter, read_about, write_model
from gnm.weights.backbones import Backbone
from gnm.weights.sources import LOADED, Hub, hub_errors
from gnm.weights.trained import MODULE, copied, read_weights, trained_parameters, weight_file, weights_digest

STATE = "memory_state.safetensors"
_FILES = [*LOADED, "README.md"]
_AT_TIMES = ("generation_config.json", "special_tokens_map.json", "added_tokens.json", f".{STATE}.lock")
"""What a folder may hold beside: files of other versions of transformers, the lock of shell commands on its memory."""
_REFUSALS = (HfHubHTTPError, HFValidationError, LocalTokenNotFoundError, OfflineModeIsEnabled, httpx2.HTTPError)


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
    Raises CheckpointError if `folder` is no name of one, holds something else than such a model, or cannot be written.
    """
    check_folder(folder)
    model, folder = backbone.model, Path(os.path.realpath(folder))  # a link stays one
    with _saving():
        recover_folder(folder)
    if folder.exists() and not (folder.is_dir() and (not any(folder.iterdir()) or (folder / ABOUT).is_file())):
        raise CheckpointError(f"{folder} holds something else than a memory model; name a new folder")
    with _saving(), atomic_folder(folder) as new:
        lora = about["lora"] and validate(about["lora"], LoraSettings, "lora")
        write_model(new, copied(trained_parameters(model, lm.own_parameters())), lora, about)
        if state is not None:
            save_memory(new / STATE, state, digest, dict(notes or {}), lm.pool.model_dump(mode="json"))
        backbone.tokenizer.save_pretrained(new)
        if model.generation_config is not None:
            model.generation_config.save_pretrained(new)
        _check_nothing_else(folder, {path.name for path in new.iterdir()} | {STATE, MODULE, *_AT_TIMES})


def check_folder(folder: str | Path) -> None:
    """Raise CheckpointError if `folder` is no name that a folder can have."""
    if not isinstance(folder, str | Path) or not str(folder).strip():
        raise CheckpointError(f"{folder!r} is no folder to save a model to; give its name, a str or a Path")


def _check_nothing_else(folder: Path, own: Set[str]) -> None:
    """Raise CheckpointError if `folder`, which is to be replaced, holds something that is not named in `own`."""
    strange = sorted(path.name for path in folder.iterdir() if path.name not in own) if folder.is_dir() else []
    if strange:
        raise CheckpointError(
            f"{folder} holds {strange[0]}, which is no part of a memory model and would be deleted; move it away, or "
            "name a new folder"
        )


@contextmanager
def _saving() -> Iterator[None]:
    """Errors of the disk as a CheckpointError, in a sentence."""
    try:
        yield
    except Exception as error:  # libraries in Rust raise errors of their own
        sentence = of_disk(error)
        if sentence is None:
            raise
        raise CheckpointError(f"the model is not saved: {sentence}") from error


def load_model(folder: str | Path, backbone: Backbone) -> tuple[dict[str, Any], Backbone]:
    """gnm.json of an adapter or a memory model, and `backbone` with the adapters and memory weights that it holds.

    Raises CheckpointError if they are missing, damaged, or made for another backbone.
    """
    folder = Path(folder)
    about = read_about(folder)
    if about["lora"] is not None:
        load_adapter(folder, backbone)
    else:
        check_weights(folder, about)
    loaded = _with_memory_module(folder, backbone)
    check_backbone(folder, about, backbone)
    return about, loaded


def model_digest(backbone: Backbone) -> str:
    """The model's checksum: the backbone's, and one of the weights that were trained, rounded to bfloat16.

    A memory file carries it, and can be read only with a model of the same checksum. The weights are those of the
    adapters, of MemoryLLM's marks, and of the method itself, such as gates.
    """
    parts = list(copied(trained_parameters(backbone.model)).values())
    if backbone.memory is not None:
        parts.append({name: getattr(backbone.memory, name).cpu() for name in MARKS})
    if backbone.module is not None:
        parts.append(dict(backbone.module))
    if not parts:
        return backbone.config_digest
    return f"{backbone.config_digest}-{weights_digest(parts)}"


def _with_memory_module(folder: Path, backbone: Backbone) -> Backbone:
    path = weight_file(folder, MODULE)
    if not path.is_file():
        return backbone
    saved = read_weights(folder, MODULE)
    if backbone.memory is None:
        if set(MARKS) & set(saved):
            raise CheckpointError(f"{path} belongs to a memory model; {backbone.name} is a plain decoder")
        return replace(backbone, module=saved)
    if missing := [name for name in MARKS if name not in saved]:
        raise CheckpointError(f"{path} is damaged ({', '.join(missing)} missing); restore it")
    module = {name: saved[name] for name in MARKS}
    for name, tensor in module.items():
        if tensor.shape != (expected := getattr(backbone.memory, name).shape):
            raise CheckpointError(f"{path}: {name} is of shape {tuple(tensor.shape)}, not {tuple(expected)}")
    return replace(backbone, memory=replace(backbone.memory, **module))


def local_folder(name: str | Path) -> Path:
    """The folder `name`, or the hub's files of the repository `name` ("owner/model") where there is no such folder.

    Raises BackboneError if a repository is not reachable.
    """
    folder = Path(name)
    recover_folder(folder)
    if folder.exists() or str(name).count("/") != 1 or str(name).startswith((".", "/", "models/")):
        return folder
    with hub_errors(f"{name} (no folder here)", Hub(str(name), "main", 0), folder):
        return Path(snapshot_download(str(name), allow_patterns=_FILES))


def push_to_hub(folder: str | Path, repo: str, private: bool = True) -> str:
    """Upload a saved memory model to the hub's repository `repo`, made if there is none; returns its commit's address.

    The memory's notes are people's text, so nothing goes into a repository that everybody can read, unless `private` is
    False. Raises BackboneError if it is such a repository, or if the hub is out of reach or refuses.
    """
    if not isinstance(repo, str):
        raise BackboneError(f"{repo!r} is no repository of the hub; give its name, 'owner/name'")
    api = HfApi()
    try:
        api.create_repo(repo, private=private, exist_ok=True)
        if private and not api.repo_info(repo).private:
            raise BackboneError(
                f"nothing was pushed: everybody can read {repo}, and a memory holds text of its documents; name a "
                "private repository, or say private=False to publish it"
            )
        return str(api.upload_folder(repo_id=repo, folder_path=folder, commit_message="Upload a memory model"))
    except _REFUSALS as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise BackboneError(
            f"the hub did not take {repo} ({reason}); check its name, the network, and `hf auth login` (write access)"
        ) from error
