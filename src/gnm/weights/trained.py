"""What training changes, in memory and on disk.

- It has parts: each LoRA adapter by its name, and `MODULE`, the parameters of the method itself (a memory's marks).
- On disk an adapter is in peft's layout, the first one in the folder itself, others in folders of their names;
  the method's own parameters lie beside them in `memory_module.safetensors`.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType

import torch
from peft import LoraConfig
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from gnm.errors import CheckpointError
from gnm.files import write_json
from gnm.models.lora import DEFAULT, READER, SELECTOR, LoraSettings, layers_of

ADAPTERS = (DEFAULT, READER, SELECTOR)
MODULE = "memory_module"
WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
Parameters = Mapping[str, Mapping[str, nn.Parameter]]
Weights = Mapping[str, Mapping[str, Tensor]]
_DTYPES = (torch.bfloat16, torch.float16, torch.float32, torch.float64)
_PEFT_PREFIX = "base_model.model."
_NONE: Mapping[str, nn.Parameter] = MappingProxyType({})


def trained_parameters(model: nn.Module, own: Mapping[str, nn.Parameter] = _NONE) -> dict[str, dict[str, nn.Parameter]]:
    """The parameters of a model's adapters under peft's names, and the method's `own` ones; parts without any left out.

    Adapters come in the order in which they are named here, so that the same model always gives the same order.
    """
    of_adapters = [(name, parameter) for name, parameter in model.named_parameters() if ".lora_" in name]
    parts = {
        adapter: {
            _PEFT_PREFIX + name.replace(f".{adapter}.", "."): parameter
            for name, parameter in of_adapters
            if f".{adapter}." in name
        }
        for adapter in ADAPTERS
    }
    return {part: parameters for part, parameters in {**parts, MODULE: dict(own)}.items() if parameters}


def copied(parameters: Parameters) -> dict[str, dict[str, Tensor]]:
    """A copy of their values, float32 on the CPU."""
    return {
        part: {name: value.detach().to("cpu", torch.float32, copy=True).contiguous() for name, value in named.items()}
        for part, named in parameters.items()
    }


def write_weights(folder: Path, weights: Weights, settings: LoraSettings | None, backbone: str) -> None:
    """Write every part into `folder`; `settings` are those of the adapters (None: there are none)."""
    for part, tensors in weights.items():
        path = weight_file(folder, part)
        path.parent.mkdir(exist_ok=True)
        save_file(dict(tensors), path, metadata={"format": "pt"})
        if part != MODULE:
            _write_peft_config(path.parent, settings, backbone, part == SELECTOR and layers_of(tensors))


def read_weights(folder: Path, part: str) -> dict[str, Tensor]:
    """The tensors of one part. Raises CheckpointError if its file is missing or damaged, has NaN or infinity,
    or numbers of another kind."""
    path = weight_file(folder, part)
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path} is missing or damaged ({error}); restore it") from error
    for name, tensor in tensors.items():
        if tensor.dtype not in _DTYPES:
            kinds = ", ".join(str(kind).removeprefix("torch.") for kind in _DTYPES)
            raise CheckpointError(
                f"{path} holds {name} in {str(tensor.dtype).removeprefix('torch.')}; weights are in one of {kinds}"
            )
        if not bool(tensor.isfinite().all()):
            raise CheckpointError(f"{path} holds NaN or infinity in {name}; restore it from a copy, or train it anew")
    return tensors


def load_weights(folder: Path, parameters: Parameters) -> None:
    """Put the files of `folder` into `parameters`.

    Raises CheckpointError, before any is changed, if a file is missing or damaged, or holds other tensors.
    """
    weights = {part: read_weights(folder, part) for part in parameters}
    for part, own in parameters.items():
        saved = weights[part]
        wrong = sorted(set(saved) ^ set(own))
        wrong += sorted(name for name in set(saved) & set(own) if saved[name].shape != own[name].shape)
        if wrong:
            raise CheckpointError(
                f"{weight_file(folder, part)} does not fit the backbone: {len(wrong)} tensors are missing, extra or of "
                f"another shape, the first is {wrong[0]}"
            )
    put_weights(weights, parameters)


@torch.no_grad()
def put_weights(weights: Weights, parameters: Parameters) -> None:
    """Copy `weights` into `parameters` of the same parts and names."""
    for part, named in parameters.items():
        for name, parameter in named.items():
            parameter.copy_(weights[part][name])


def weight_file(folder: Path, part: str) -> Path:
    """The file of an adapter's folder that holds `part`."""
    if part == MODULE:
        return folder / f"{MODULE}.safetensors"
    return (folder if part == DEFAULT else folder / part) / WEIGHTS


def _write_peft_config(folder: Path, settings: LoraSettings, backbone: str, layers: int) -> None:
    """layers: that have the adapter, from the first on; 0: all."""
    config = LoraConfig(
        r=settings.r,
        lora_alpha=settings.alpha,
        target_modules=sorted(settings.target_modules),
        lora_dropout=0.0,
        task_type="CAUSAL_LM",
        base_model_name_or_path=backbone,
        inference_mode=True,
        layers_to_transform=list(range(layers)) or None,
    )
    config.save_pretrained(folder)
    written = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    write_json(folder / CONFIG, written | {"target_modules": sorted(written["target_modules"])})  # peft's is a set


def weights_digest(parts: Iterable[Mapping[str, Tensor]]) -> str:
    """16 hex digits of tensors on the CPU by name, rounded to bfloat16, part by part."""
    digest = hashlib.sha256()
    for part in parts:
        for name in sorted(part):
            digest.update(name.encode() + part[name].bfloat16().view(torch.int16).numpy().tobytes())
    return digest.hexdigest()[:16]
