"""The published form of the memory: MemoryLLM (Wang et al. 2024) and the checkpoints of "Tell Me What To Learn" (2026).

A checkpoint is a Llama with one or two LoRA adapters, a pool [L, M, E], `bos_embedding` [L, 1, E] and
`new_memory_positional_emb` [1, 1, E]. It loads into the stock decoder and the same `MemoryLM` as everything else: what
is particular about it is said by pool and write settings.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import init_empty_weights
from accelerate.utils import set_module_tensor_to_device
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from gnm.errors import CheckpointError
from gnm.memory.pool import PoolSettings
from gnm.models.decoder import Decoder
from gnm.models.lora import LoraSettings, inject_lora
from gnm.models.memory_lm import MemoryLM, WriteSettings
from gnm.models.weight_files import WeightFiles

WRITER, READER = "default", "decoder_adapter"
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
        return () if self.lora is None else (WRITER, READER) if self.two_adapters else (WRITER,)


@dataclass(frozen=True)
class MemoryWeights:
    """The memory's part of a checkpoint. start: the pool that a new memory begins with [L, M, E], None: empty."""

    shape: MemoryShape
    bos_embedding: Tensor
    new_memory_positional_emb: Tensor
    start: Tensor | None

    def lm(self, decoder: Decoder, pool: PoolSettings | None = None, gradient_through_writing: bool = True) -> MemoryLM:
        """The memory model of these weights on `decoder`; `pool` replaces the checkpoint's own rules."""
        writer = WRITER if self.shape.two_adapters else None
        lm = MemoryLM(
            decoder, [], pool or self.shape.pool, self.shape.write, gradient_through_writing, writer, self.start
        )
        with torch.no_grad():
            lm.bos_embedding.copy_(self.bos_embedding)
            lm.new_memory_positional_emb.copy_(self.new_memory_positional_emb)
        return lm


def read_config(folder: str | Path) -> tuple[LlamaConfig, MemoryShape]:
    """config.json of a published memory model. Raises CheckpointError if it is missing or lacks what a memory needs."""
    path = Path(folder) / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        lora = config.get("lora_config")
        shape = MemoryShape(
            tokens=int(config["num_tokens"]),
            blocks=int(config["num_blocks"]),
            per_layer=bool(config.get("drop_memory_per_layer", False)),
            lora=lora and LoraSettings(r=lora["r"], alpha=lora["lora_alpha"], target_modules=lora["target_modules"]),
            two_adapters=bool(lora) and bool(config.get("add_decoder_lora", False)),
        )
    except FileNotFoundError as error:
        raise CheckpointError(f"{folder} has no config.json; fetch it again, or check the path") from error
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise CheckpointError(f"{path} is no config of a memory model ({type(error).__name__}: {error})") from error
    if not config.get("add_bos_embedding", True):
        raise CheckpointError(f"{path} says add_bos_embedding: false; only memories with that embedding are known")
    return LlamaConfig.from_dict({**config, "architectures": ["LlamaForCausalLM"]}), shape


def empty_model(config: LlamaConfig, shape: MemoryShape) -> LlamaForCausalLM:
    """The decoder with its adapters, its parameters on the meta device: names and shapes without memory."""
    with init_empty_weights(include_buffers=False):
        model = LlamaForCausalLM(config)
    if shape.lora:
        for adapter in shape.adapters:
            inject_lora(model, shape.lora, adapter, empty=True)
    return model


def load_memoryllm(
    path: str | Path,
    dtype: torch.dtype = torch.bfloat16,
    device: torch.device | str = "cpu",
    base: str | Path | None = None,
) -> tuple[LlamaForCausalLM, MemoryWeights]:
    """Load a published checkpoint: a folder of weights, or one weight file.

    base: folder of the model that it was trained from. Its config.json serves where the checkpoint has none, and its
    pool is the starting pool: the published evaluation starts from that one, not from the pool that training left in
    the checkpoint. Without `base` the checkpoint's own pool is the start (empty if it says so).
    One shard at a time is in host memory besides the weights; adapters stay float32, all else becomes `dtype`.
    Raises CheckpointError that names missing, extra or mis-shaped tensors, before any is put into the model.
    """
    path = Path(path)
    folder = path if path.is_dir() else path.parent
    config, shape = read_config(folder if base is None or (folder / "config.json").is_file() else base)
    model, files = empty_model(config, shape), WeightFiles(path)
    files.check(_expected(model, config, shape, files.shapes))
    own = dict(model.named_parameters())
    memory: dict[str, Tensor] = {}
    for name, tensor in files:
        if name in own:
            kept = torch.float32 if ".lora_" in name else dtype
            set_module_tensor_to_device(model, name, device, value=tensor, dtype=kept)
        elif name in _MEMORY:
            memory[name] = tensor
    model.tie_weights()
    if base is not None:
        start = WeightFiles(base).tensor("memory")
    else:
        start = memory["memory"] if bool(memory.get("initialized", True)) else None
    weights = MemoryWeights(
        shape,
        memory["bos_embedding"].float(),
        memory["new_memory_positional_emb"].float(),
        None if start is None else start.to(dtype),
    )
    return model.eval().requires_grad_(False).to(device), weights


def _expected(model: LlamaForCausalLM, config: LlamaConfig, shape: MemoryShape, found) -> dict[str, torch.Size]:
    """The tensors that a checkpoint must have; those that it may have count if it has them."""
    layers, size = config.num_hidden_layers, config.hidden_size
    expected = {name: parameter.shape for name, parameter in model.named_parameters()}
    expected |= {"bos_embedding": torch.Size((layers, 1, size)), "new_memory_positional_emb": torch.Size((1, 1, size))}
    expected["memory"] = torch.Size((layers, shape.tokens * shape.blocks, size))
    may = {"initialized": torch.Size(())} | {n: found[n] for n in found if n.endswith("rotary_emb.inv_freq")}
    return expected | {name: size for name, size in may.items() if name in found}
