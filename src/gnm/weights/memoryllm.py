"""The published form of the memory: MemoryLLM (Wang et al. 2024) and the checkpoints of "Tell Me What To Learn" (2026).

A checkpoint is a Llama with one or two LoRA adapters, a pool [L, M, E], `bos_embedding` [L, 1, E] and
`new_memory_positional_emb` [1, 1, E]. It loads into the stock decoder and the same `MemoryLM` as everything else: what
is particular about it is said by pool and write settings.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from accelerate.utils import set_module_tensor_to_device
from huggingface_hub.errors import StrictDataclassError
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from gnm.config import validate
from gnm.errors import CheckpointError
from gnm.memory.pool import PoolSettings
from gnm.models.decoder import Decoder
from gnm.models.lora import DEFAULT, READER, LoraSettings, inject_lora
from gnm.models.memory_lm import MemoryLM
from gnm.models.write_settings import WriteSettings
from gnm.weights.tensor_files import WeightFiles

_OWN: Mapping[str, Any] = MappingProxyType({})
_MEMORY = ("memory", "initialized", "bos_embedding", "new_memory_positional_emb")


@dataclass(frozen=True)
class MemoryShape:
    """What a published config.json says of the memory.

    tokens: slots of a document; blocks: documents that the pool holds; per_layer: each layer draws what it drops;
    lora: the adapters' shape, None without; two_adapters: one to write and one to read.
    """

    tokens: int
    blocks: int
    per_layer: bool = False
    lora: LoraSettings | None = None
    two_adapters: bool = False

    @property
    def pool(self) -> PoolSettings:
        return PoolSettings(capacity=self.tokens * self.blocks, per_layer=self.per_layer, fill=True)

    @property
    def write(self) -> WriteSettings:
        return WriteSettings(reads=self.tokens, tap="outputs", tokens=self.tokens)

    @property
    def adapters(self) -> tuple[str, ...]:
        return () if self.lora is None else (DEFAULT, READER) if self.two_adapters else (DEFAULT,)


@dataclass(frozen=True)
class MemoryWeights:
    """The memory's part of a checkpoint. start: the pool that a new memory begins with [L, M, E], None: empty."""

    shape: MemoryShape
    bos_embedding: Tensor
    new_memory_positional_emb: Tensor
    start: Tensor | None

    def lm(self, decoder: Decoder, pool: Mapping[str, Any] = _OWN, gradient_through_writing: bool = True) -> MemoryLM:
        """The memory model of these weights on `decoder`; `pool` changes fields of the checkpoint's PoolSettings."""
        own = self.shape.pool.model_dump()
        if pool.get("eviction") == "oldest":
            own["per_layer"] = False  # the oldest are the same in every layer
        rules = validate({**own, **pool}, PoolSettings, "memory")
        writer = DEFAULT if self.shape.two_adapters else None
        lm = MemoryLM(decoder, [], rules, self.shape.write, gradient_through_writing, writer, self.start)
        with torch.no_grad():
            lm.bos_embedding.copy_(self.bos_embedding)
            lm.new_memory_positional_emb.copy_(self.new_memory_positional_emb)
        return lm


def read_config(folder: str | Path) -> tuple[LlamaConfig, MemoryShape | None]:
    """config.json of a published checkpoint; no MemoryShape where it is a plain decoder's.

    Raises CheckpointError if it is missing, damaged, or of a memory that is not known.
    """
    path = Path(folder) / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        parsed = parse_config(config)
    except FileNotFoundError as error:
        raise CheckpointError(f"{folder} has no config.json; fetch it again, or check the path") from error
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError, StrictDataclassError) as error:
        raise CheckpointError(f"{path} is damaged ({type(error).__name__}: {error}); fetch it again") from error
    if config.get("model_type") != "llama" or not config.get("add_bos_embedding", True):
        raise CheckpointError(f"{path} is no Llama's, or of a memory without add_bos_embedding; neither is known")
    return parsed


def parse_config(config: Mapping[str, Any]) -> tuple[LlamaConfig, MemoryShape | None]:
    """Decoder and memory out of the keys of a published config.json. Raises KeyError for what a memory must have."""
    shape = None
    if "num_tokens" in config:
        lora = config.get("lora_config")
        adapter = lora and {"r": lora["r"], "alpha": lora["lora_alpha"], "target_modules": lora["target_modules"]}
        shape = MemoryShape(
            tokens=int(config["num_tokens"]),
            blocks=int(config["num_blocks"]),
            per_layer=bool(config.get("drop_memory_per_layer", False)),
            lora=adapter and LoraSettings(**adapter),
            two_adapters=bool(adapter) and bool(config.get("add_decoder_lora", False)),
        )
    return LlamaConfig.from_dict({**config, "architectures": ["LlamaForCausalLM"]}), shape


def has_memory(folder: str | Path) -> bool:
    """Whether the config.json of a folder is a memory model's."""
    try:
        return "num_tokens" in json.loads((Path(folder) / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, TypeError):
        return False


def empty_model(config: LlamaConfig, shape: MemoryShape | None) -> LlamaForCausalLM:
    """The decoder with its adapters, its parameters on the meta device: names and shapes that take no memory.

    Adapters of a memory model stay apart from the weights: formed together, two of them would take three times the
    memory of an 8B decoder.
    """
    with torch.device("meta"):
        model = LlamaForCausalLM(config)
    model.model.rotary_emb = LlamaRotaryEmbedding(config)  # its frequencies are no weights: a checkpoint has none
    model.tie_weights()
    for adapter in shape.adapters if shape else ():
        inject_lora(model, shape.lora, adapter, empty=True, fused=False)
    return model


def memory_sizes(config: LlamaConfig, shape: MemoryShape) -> dict[str, torch.Size]:
    """The shapes of the tensors that a memory adds to its decoder."""
    layers, size = config.num_hidden_layers, config.hidden_size
    sizes = {
        "memory": (layers, shape.tokens * shape.blocks, size),
        "bos_embedding": (layers, 1, size),
        "new_memory_positional_emb": (1, 1, size),
    }
    return {name: torch.Size(size) for name, size in sizes.items()}


def load_published(
    path: str | Path,
    dtype: torch.dtype = torch.bfloat16,
    device: torch.device | str = "cpu",
    base: str | Path | None = None,
) -> tuple[LlamaForCausalLM, MemoryWeights | None]:
    """Load a published checkpoint: a folder of weights or one weight file, with a memory or of a plain decoder.

    base: folder of the model that it was trained from. Its config.json serves where the checkpoint has none, and its
    pool is the starting pool: the published evaluation starts from that one, not from the pool that training left in
    the checkpoint. Without `base` the checkpoint's own pool is the start (none if it says that it is not initialised).
    Besides the weights one shard at a time is in host memory; adapters stay float32, all else becomes `dtype`.
    Raises CheckpointError that names missing, unknown and mis-shaped tensors, before any is put into the model.
    """
    path = Path(path)
    folder = path if path.is_dir() else path.parent
    config, shape = read_config(folder if base is None or (folder / "config.json").is_file() else base)
    files = WeightFiles(path)
    model = empty_model(config, shape)
    files.check(_expected(model, config, shape, files.shapes))
    own, memory = dict(model.named_parameters()), {}
    for name, tensor in files:
        if name in own:
            kept = torch.float32 if ".lora_" in name else dtype
            set_module_tensor_to_device(model, name, device, value=tensor, dtype=kept)
        elif name in _MEMORY:
            memory[name] = tensor.clone()
    model.tie_weights()
    model = model.eval().requires_grad_(False).to(device)
    if shape is None:
        return model, None
    start = memory["memory"] if bool(memory.get("initialized", True)) else None
    if base is not None:
        start = _starting_pool(WeightFiles(base), memory_sizes(config, shape)["memory"])
    marks = (memory[name].float() for name in ("bos_embedding", "new_memory_positional_emb"))
    return model, MemoryWeights(shape, *marks, None if start is None else start.to(dtype))


def _starting_pool(base: WeightFiles, size: torch.Size) -> Tensor | None:
    """The pool with which new memories begin, from the base model's file; None if `initialized` is false there.

    Raises CheckpointError if the file has no pool of shape `size`.
    """
    if base.shapes.get("memory") != size:
        raise CheckpointError(f"{base.path} has no pool of shape {tuple(size)}, with which the checkpoint could start")
    initialised = "initialized" not in base.shapes or bool(base.tensor("initialized"))
    return base.tensor("memory") if initialised else None


def _expected(model, config: LlamaConfig, shape: MemoryShape | None, found: Mapping[str, torch.Size]):
    """The tensors that a checkpoint must have; those that it may have count if it has them."""
    expected = {name: parameter.shape for name, parameter in model.named_parameters()}
    may = {name: found[name] for name in found if name.endswith("rotary_emb.inv_freq")}
    if shape:
        expected |= memory_sizes(config, shape)
        may["initialized"] = torch.Size(())
    if config.tie_word_embeddings:
        may["lm_head.weight"] = expected["model.embed_tokens.weight"]
    return expected | {name: size for name, size in may.items() if name in found}
