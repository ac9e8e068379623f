"""What an experiment needs of a GPU's memory, before anything is fetched: `gnm plan FOLDER [--processes N]`.

- Counted exactly: weights, adapters and the effective weights formed of them, the pool, its keys and values,
  gradients and optimizer state.
- Estimated: the tokens of a document; activations, from what the layers keep for the backward pass (training), or
  the scores of one portion of questions and the second state that a write makes (evaluation).
- A long-term store lies in the computer's own memory: the column `store` is no part of the total. What questions read
  of it is.
- Not counted: what CUDA itself takes and fragmentation, together one or two GB.

Letters: L layers, E hidden size, I intermediate size, H heads, K key/value heads, D head size, P prefix length.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from importlib import resources
from math import ceil
from pathlib import Path
from typing import Any

import torch
import yaml
from transformers import LlamaConfig

from gnm.config import load_params, read_blocks
from gnm.errors import ConfigError, exit_on_error
from gnm.learners import LearnerSettings
from gnm.learners.long_term import CONTEXTS_AT_ONCE as RECALLED_AT_ONCE
from gnm.learners.retrieval import CONTEXTS_AT_ONCE
from gnm.models.attention import SCORES
from gnm.models.gates.write import gate_layer
from gnm.models.latent_bank import LatentBank
from gnm.models.lora import SELECTOR, LoraSettings
from gnm.params import EvaluateParams, PeopleParams, TrainParams
from gnm.weights.backbones import REGISTRY
from gnm.weights.memoryllm import MemoryShape, empty_model, memory_sizes, parse_config
from gnm.weights.published import Published

DOCUMENT_TOKENS, QUESTION_TOKENS, SEGMENT_TOKENS = 200, 40, 20
PROBE_DOCUMENTS = 2
"""Documents of a probe in people's words, at most."""
_BYTES = {"bfloat16": 2, "float32": 4}
Params = TrainParams | EvaluateParams | PeopleParams
_MEMORIES = ("gnm", "gnm_ablation", "memoryllm")


@dataclass(frozen=True)
class Need:
    """Bytes of one process's GPU memory.

    weights: the decoder, and its LM head once more in float32; adapters: their parameters and those of a bank, and,
    on plain decoders, the effective weights formed of adapters; memory: slots; prefix: keys and values as kept and as
    read; gradients, optimizer: of what is trained. store: of a long-term store, in the computer's own memory.
    """

    weights: int = 0
    adapters: int = 0
    memory: int = 0
    prefix: int = 0
    activations: int = 0
    gradients: int = 0
    optimizer: int = 0
    store: int = 0

    @property
    def total(self) -> int:
        return sum(asdict(self).values()) - self.store


@dataclass(frozen=True)
class Model:
    """A decoder's and its memory's sizes in numbers; formed: effective weights; trained: what training changes."""

    config: LlamaConfig
    shape: MemoryShape | None
    weights: int
    adapters: int
    formed: int

    @classmethod
    def of(cls, name: str, lora: LoraSettings | None) -> "Model":
        """A registered backbone; `lora`: the adapter that a plain decoder gets, a memory model brings its own.

        Raises ConfigError if its sizes are not known.
        """
        config, shape = known_shape(name)
        adapted = MemoryShape(tokens=1, blocks=1, lora=lora) if shape is None else shape
        sizes = _sizes(config.to_json_string(), adapted)
        adapters = sum(size for name, size in sizes.items() if ".lora_" in name)
        formed = sum(size for name, size in sizes.items() if ".base_layer." in name) if shape is None else 0
        return cls(config, shape, sum(sizes.values()) - adapters, adapters, formed)

    @property
    def trained(self) -> int:
        if self.shape is None:
            return self.adapters
        sizes = memory_sizes(self.config, self.shape)
        return self.adapters + sum(size.numel() for name, size in sizes.items() if name != "memory")

    @property
    def kv_size(self) -> int:
        """Numbers of the keys of one slot in all layers, K·D·L; values are as many."""
        config = self.config
        return config.num_hidden_layers * config.num_key_value_heads * config.hidden_size // config.num_attention_heads

    def kept_per_token(self, prefix: int, dtype: int, checkpointing: bool = False) -> int:
        """Bytes that a token leaves for the backward pass: inputs of linear layers, activation, norms, attention.

        checkpointing: the layers' inputs alone, and all of that for one layer at a time.
        """
        config = self.config
        hidden, inner = config.hidden_size, config.intermediate_size
        numbers = 6 * hidden + 4 * inner + 2 * config.num_attention_heads * prefix
        layer = dtype * numbers + 4 * 4 * hidden
        return config.num_hidden_layers * dtype * hidden + layer if checkpointing else config.num_hidden_layers * layer


@cache
def _sizes(config: str, shape: MemoryShape) -> dict[str, int]:
    """Numbers in each parameter of a model, by name; config: its configuration in JSON. Seconds of work at 8B."""
    model = empty_model(LlamaConfig.from_dict(json.loads(config)), shape)
    return {name: parameter.numel() for name, parameter in model.named_parameters()}


def known_shape(name: str) -> tuple[LlamaConfig, MemoryShape | None]:
    """Decoder and memory of a registered backbone, without its weights. Raises ConfigError if they are not known."""
    source = next(iter(REGISTRY.get(name, {None: None}).values()))
    name = source.base if isinstance(source, Published) else name
    sizes = yaml.safe_load(resources.files("gnm.models").joinpath("shapes.yaml").read_text(encoding="utf-8"))
    if name not in sizes:
        raise ConfigError(f"the sizes of the backbone {name!r} are not known; known are: {', '.join(sizes)}")
    return parse_config(sizes[name])


def empty_bank(settings: LearnerSettings, config: LlamaConfig) -> LatentBank | None:
    """The bank of a method that has one, its parameters on the meta device."""
    if settings.method != "latent_bank":
        return None
    with torch.device("meta"):
        return LatentBank(config.hidden_size, settings.bank)


def _selector_share(params: Params, settings: LearnerSettings, model: Model, folder: Path) -> float:
    """The share of the layers that a selector, the write gates' own adapter, adapts once more."""
    alone = isinstance(params, TrainParams) and params.selection_only
    if not settings.write.gates or not (alone or settings.adapter and (folder / settings.adapter / SELECTOR).is_dir()):
        return 0.0
    layers = model.config.num_hidden_layers
    return gate_layer(settings.write.gates, layers) / layers


def plan(params: Params, method: str, processes: int, tokens: int = DOCUMENT_TOKENS, folder: Path = Path()) -> Need:
    """What each of `processes` needs for one method, with documents of `tokens` tokens (instruction included).

    folder: the experiment's, which adapters are named from.
    """
    settings, dtype = params.method(method), _BYTES[params.backbone.dtype]
    training = isinstance(params, TrainParams)
    lora = params.lora if training else LoraSettings() if settings.adapter else None
    model = Model.of(settings.backbone or params.backbone.name, lora)
    lm_head = 4 * model.config.vocab_size * model.config.hidden_size if dtype == 2 else 0
    shard = training and params.distributed.shard and processes > 1
    weights = dtype * model.weights // (processes if shard else 1) + lm_head
    bank = empty_bank(settings, model.config)
    own = sum(parameter.numel() for parameter in bank.parameters()) if bank else 0
    numbers = 4 * model.adapters + (0 if shard else dtype * model.formed)
    selector = _selector_share(params, settings, model, folder)
    need = Need(weights=weights, adapters=round(numbers * (1 + selector)) + 4 * own)

    documents, states = _documents_and_states(params, processes)
    slots = documents * tokens
    if settings.method in _MEMORIES:
        published = model.shape and model.shape.tokens * model.shape.blocks
        slots = settings.memory.capacity or published or slots
        # keys as kept and rotated, values; where a mark stands in front, a read copies the values too
        copies = 4 if model.shape else 3
        layers, hidden = model.config.num_hidden_layers, model.config.hidden_size
        if store := settings.memory.store:
            slots = 0 if store.takes == "written" else min(slots, documents * tokens)
            stored = documents * tokens - slots
            # questions that find different segments each read a copy of the pool, with what they found
            found, copies = min(stored, store.k * SEGMENT_TOKENS), 2
            read = copies * RECALLED_AT_ONCE * (slots + found) * model.kv_size * dtype
            need = replace(need, prefix=read, store=states * stored * (2 * model.kv_size + hidden) * dtype)
        need = replace(need, memory=states * slots * layers * hidden * dtype)
    else:
        copies = 2
        if bank:
            need = replace(need, memory=4 * states * bank.start.numel())
        if bank or settings.method == "no_memory":
            slots = 0
        elif settings.method.startswith("retrieval"):
            slots, states = settings.top_k * tokens, CONTEXTS_AT_ONCE
    need = replace(need, prefix=need.prefix + copies * states * slots * model.kv_size * dtype)
    if not training:
        return replace(need, activations=max(3 * SCORES * dtype, need.memory + need.prefix))
    loop = params.loop
    written = ceil(loop.documents_per_step / processes)
    read = written * loop.max_queries_per_document * QUESTION_TOKENS
    kept = bank.kept_per_token if bank else 0
    if model.trained:
        kept += model.kept_per_token(slots, dtype, loop.gradient_checkpointing)
    states = 8 if params.opt.optimizer == "adamw" else 2
    trained = round(model.trained * (selector + (not params.selection_only))) + own
    return replace(
        need, activations=(written * tokens + read) * kept, gradients=4 * trained, optimizer=states * trained
    )


def _documents_and_states(params: Params, processes: int) -> tuple[int, int]:
    """Documents of the longest sequence, and sequences that one process holds at once."""
    if isinstance(params, PeopleParams):
        return PROBE_DOCUMENTS, 1
    if isinstance(params, EvaluateParams):
        return params.loop.sequence_length, params.loop.sequences_at_once
    longest = params.loop.longest
    return longest, ceil(params.loop.sequences_of_step(longest) / processes)


def table(folder: Path, processes: int | None, tokens: int, overrides: Sequence[str] = ()) -> str:
    """The needs of every method of every training and evaluation of an experiment, as text.

    Raises ConfigError if the folder has no params.yaml, or no such block in it.
    """
    path = folder / "params.yaml"
    blocks = {name: schema for name, block in read_blocks(path).items() if (schema := _schema_of(name, block))}
    if not blocks:
        raise ConfigError(f"{path} has no block that begins with train or evaluate; there is nothing to plan")
    rows = [("GB of each process", [*asdict(Need()), "total"])]
    for block, schema in blocks.items():
        params = load_params(path, schema, overrides, block)
        count = processes or params.distributed.nproc_per_node
        for method in params.methods:
            need = plan(params, method, count, tokens, folder)
            numbers = [*asdict(need).values(), need.total]
            rows.append((f"{block} {method}, 1 of {count}", [f"{number / 1e9:.2f}" for number in numbers]))
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:{width}}" + "".join(f"{cell:>13}" for cell in cells) for name, cells in rows)


def _schema_of(name: str, block: Any) -> type[Params] | None:
    """The schema of a block of params.yaml, None if it is none of a training or an evaluation."""
    kind = name.split("_")[0]
    if kind == "train":
        return TrainParams
    if kind != "evaluate":
        return None
    return PeopleParams if isinstance(block, dict) and {"probes", "written"} & block.keys() else EvaluateParams


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="gnm plan", description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="an experiment's folder")
    parser.add_argument("--processes", type=int, default=None, help="processes, one GPU each; default: params.yaml's")
    parser.add_argument("--document-tokens", type=int, default=DOCUMENT_TOKENS, help="with the instruction")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings of every block to change")
    options = parser.parse_intermixed_args(arguments)
    with exit_on_error():
        if options.processes is not None and options.processes < 1:
            raise ConfigError("--processes must be at least 1")
        print(table(options.folder, options.processes, options.document_tokens, options.overrides))


if __name__ == "__main__":
    main()
