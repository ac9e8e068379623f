"""Adapters and training checkpoints on disk.

- An adapter folder holds the weights that training changed (see `trained.py`; `PeftModel.from_pretrained` reads an
  adapter) plus `gnm.json`: the method, the settings it was trained with, the backbone's digest, how it was made; and
  a model card, README.md.
- A training checkpoint is an adapter plus the optimizer's state and the position in the training; folders are
  written whole and then renamed, so a kill at any moment leaves the last one usable.
- Checksums are saved along and checked on loading: in gnm.json those of an adapter's tensors and of gnm.json itself,
  in checksums.json those of all files of a training checkpoint. An adapter without them is loaded all the same.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch

from gnm.config import validate
from gnm.errors import CheckpointError, ConfigError
from gnm.files import atomic_folder, check_files, checksum_of, checksums_of, recover_folder, write_json, write_text
from gnm.models.lora import DEFAULT, SELECTOR, LoraSettings, add_selector, inject_lora, layers_of
from gnm.weights.adapter_info import VERSION, AdapterInfo
from gnm.weights.backbones import Backbone
from gnm.weights.trained import (
    ADAPTERS,
    MODULE,
    Parameters,
    Weights,
    load_weights,
    read_weights,
    trained_parameters,
    weight_file,
    write_weights,
)

ABOUT, CARD = "gnm.json", "README.md"
CHECKSUMS = "checksums"
"""In gnm.json, the SHA-256 of each file of weights, and under its own name that of everything else that it says."""
_BLOCKS = {*AdapterInfo.model_fields, CHECKSUMS}


def save_adapter(folder: str | Path, weights: Weights, settings: LoraSettings | None, about: Mapping[str, Any]) -> None:
    """Write `weights` to `folder`, whole or not at all; `about` becomes gnm.json and the model card.

    Those of adapters are rounded to bfloat16, which halves the file; the effective weight is rounded to it in use
    anyway.
    """
    rounded = {
        part: {name: tensor if part == MODULE else tensor.bfloat16() for name, tensor in tensors.items()}
        for part, tensors in weights.items()
    }
    with atomic_folder(folder) as temporary:
        write_model(temporary, rounded, settings, about)


def save_checkpoint(
    folder: str | Path,
    weights: Weights,
    settings: LoraSettings | None,
    about: Mapping[str, Any],
    optimizer: Mapping[str, Any],
    progress: Mapping[str, Any],
) -> None:
    """Write what is needed to go on: weights, optimizer state and `progress` (JSON: step, best loss, ...)."""
    with atomic_folder(folder) as temporary:
        write_model(temporary, weights, settings, about)
        _write_optimizer(temporary / "optimizer.pt", optimizer)
        write_json(temporary / "progress.json", progress)
        files = [path for path in temporary.rglob("*") if path.is_file()]
        write_json(temporary / "checksums.json", checksums_of(temporary, files))


def _write_optimizer(path: Path, optimizer: Mapping[str, Any]) -> None:
    """Write the optimizer's state. Raises the OSError of a full disk, which torch hides behind a RuntimeError."""
    try:
        with path.open("wb") as file:  # torch tells no error of the disk if it opens the file itself
            torch.save(optimizer, file)
    except RuntimeError as error:
        if isinstance(error.__context__, OSError):
            raise error.__context__ from None
        raise


def load_checkpoint(folder: str | Path, parameters: Parameters, about: Mapping[str, Any]) -> tuple[dict, dict] | None:
    """Load a training checkpoint into `parameters`; returns (optimizer state, progress), or None if there is none.

    Raises CheckpointError if it was made with other settings than `about`, or is damaged.
    """
    folder = Path(folder)
    recover_folder(folder)
    if not folder.exists():
        return None
    made = read_about(folder)
    made.pop(CHECKSUMS, None)
    now = {"version": VERSION, **json.loads(json.dumps(about))}
    if made != now:
        changed = sorted(key for key in {*made, *now} if made.get(key) != now.get(key))
        raise CheckpointError(
            f"{folder} was made with other settings ({', '.join(changed)}); delete it to start anew, "
            "or restore the settings to go on"
        )
    if (folder / "checksums.json").exists():  # older ones have none
        check_files(folder, _read_checksums(folder), "delete the folder to start anew")
    load_weights(folder, parameters)
    try:
        optimizer = torch.load(folder / "optimizer.pt", weights_only=True)
        progress = json.loads((folder / "progress.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RuntimeError, EOFError, UnpicklingError) as error:
        raise CheckpointError(
            f"{folder} is damaged (optimizer.pt or progress.json cannot be read: {type(error).__name__}); "
            "delete it to start anew"
        ) from error
    return optimizer, progress


def load_adapter(folder: str | Path, backbone: Backbone) -> dict[str, Any]:
    """Put the adapters of `folder` into `backbone` (frozen); returns its gnm.json.

    Raises CheckpointError if one is missing, damaged, or was trained on another backbone.
    """
    folder = Path(folder)
    about = read_about(folder)
    check_weights(folder, about)
    if about["lora"] is None:
        raise CheckpointError(f"{folder} holds a memory model without an adapter; name its backbone instead")
    check_backbone(folder, about, backbone)
    settings = LoraSettings(**about["lora"])
    adapters = [name for name in ADAPTERS if name == DEFAULT or weight_file(folder, name).parent.is_dir()]
    for name in adapters:
        if name == SELECTOR:
            add_selector(backbone.model, settings, layers_of(read_weights(folder, name)))
        elif name not in trained_parameters(backbone.model):
            inject_lora(backbone.model, settings, name)
    own = trained_parameters(backbone.model)
    load_weights(folder, {name: own.get(name, {}) for name in adapters})
    backbone.model.requires_grad_(False)
    return about


def check_weights(folder: Path, about: Mapping[str, Any]) -> None:
    """Raise CheckpointError if a file of weights is damaged by the checksums that gnm.json tells `about`, if any."""
    if CHECKSUMS in about:
        files = {name: checksum for name, checksum in about[CHECKSUMS].items() if name != ABOUT}
        check_files(folder, files, "restore the folder from a copy, or train it anew")


def check_backbone(folder: Path, about: Mapping[str, Any], backbone: Backbone) -> None:
    """Raise CheckpointError if what gnm.json of `folder` tells `about` was trained on another backbone."""
    if about["backbone"]["digest"] != backbone.config_digest:
        raise CheckpointError(
            f"the adapter {folder} was trained on {about['backbone']['name']} "
            f"({about['backbone']['digest']}), not on {backbone.name} ({backbone.config_digest}); "
            "choose the backbone it was trained on"
        )


def read_about(folder: Path) -> dict[str, Any]:
    """gnm.json of an adapter folder. Raises CheckpointError if it is missing or damaged.

    If a save was killed while the old folder and the new one changed places, the old one is brought back first.
    """
    try:
        recover_folder(folder)
        about = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
        if not isinstance(about, dict):
            raise ValueError(f"it holds a {type(about).__name__}, not a mapping")
        _check_own(about)
        about = {"version": VERSION, **about}
        if about["version"] != VERSION:
            raise CheckpointError(
                f"{folder} is of version {about['version']}, this program reads version {VERSION}; update it"
            )
        validate(about, AdapterInfo, where=ABOUT)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise CheckpointError(
            f"{folder} is no adapter of this project (no {ABOUT} in it); train one, or check the path"
        ) from error
    except (OSError, ValueError, RecursionError, ConfigError) as error:
        raise CheckpointError(f"{folder / ABOUT} is damaged ({error}); restore it") from error
    return about


def _check_own(about: Mapping[str, Any]) -> None:
    """Raise ValueError if gnm.json has a block that none is written with, or another checksum than it names."""
    if unknown := sorted(about.keys() - _BLOCKS):
        raise ValueError(f"it has an unknown block {unknown[0][:20]!r}")
    checksums = about.get(CHECKSUMS, {})
    if not isinstance(checksums, dict):
        raise ValueError("its checksums are no mapping")
    if ABOUT in checksums and checksums[ABOUT] != _checksum(about):
        raise ValueError(
            f"its checksum is another than when it was saved; if you changed it yourself, take {ABOUT!r} out of its "
            f"block {CHECKSUMS!r}"
        )


def _checksum(about: Mapping[str, Any]) -> str:
    """The checksum of gnm.json: of all that it says but this checksum itself."""
    files = {name: checksum for name, checksum in about[CHECKSUMS].items() if name != ABOUT}
    return checksum_of({**about, CHECKSUMS: files})


def write_model(folder: Path, weights: Weights, settings: LoraSettings | None, about: Mapping[str, Any]) -> None:
    """Write weights, gnm.json with checksums, and the model card into `folder`."""
    write_weights(folder, weights, settings, about["backbone"]["name"])
    checksums = checksums_of(folder, [weight_file(folder, part) for part in weights])
    whole = {**about, CHECKSUMS: checksums}
    write_json(folder / ABOUT, {**whole, CHECKSUMS: {**checksums, ABOUT: _checksum(whole)}})
    write_text(folder / CARD, model_card(about))


def _read_checksums(folder: Path) -> Any:
    try:
        return json.loads((folder / "checksums.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(
            f"{folder / 'checksums.json'} is damaged ({error}); delete the folder to start anew"
        ) from error


def model_card(about: Mapping[str, Any]) -> str:
    """The README.md of an adapter, from what gnm.json says."""
    made, backbone = about.get("made", {}), about["backbone"]["name"]
    rows = "".join(f"| {key} | {value} |\n" for key, value in made.items())
    how = f"It was made by\n\n| | |\n|---|---|\n{rows}\nwith these settings:" if made else "Its settings:"
    kind = "memory model" if about["lora"] is None else "LoRA adapter"
    library = "" if about["lora"] is None else "library_name: peft\n"
    settings = json.dumps({key: about[key] for key in about if key not in ("made", CHECKSUMS)}, indent=2)
    return (
        f"---\nbase_model: {backbone}\n{library}---\n\n# {about['learner']['method']} on {backbone}\n\n"
        f"A {kind} of Generalized Neural Memory; its licence is the project's, together with the backbone's own. {how}"
        f"\n\n```json\n{settings}\n```\n"
    )
