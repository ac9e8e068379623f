"""The registry of methods: a name maps to how its learner is built; optional packages load on first use.

Methods by name: `gnm`, `gnm_ablation` (trained memory), `memoryllm` (untrained memory), `in_context`(`_ft`),
`retrieval`(`_ft`), `text_notes`, `latent_bank`, `compressed`, `block_retrieval`, `recurrent_memory`, `no_memory`, and
`dummy` for tests. What differs between a method's trained and untrained form is the adapter alone.
"""

import difflib
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import torch
from pydantic import Field, model_validator

from gnm.config import StrictModel
from gnm.errors import CheckpointError, ConfigError
from gnm.inference.chat import ChatFormat, PlainText
from gnm.inference.prompts import Order
from gnm.inference.reader import Reader
from gnm.learners.base import Answer, Cost, Learner, Question, State
from gnm.memory.pool import PoolSettings
from gnm.models.blocks import BlockSettings
from gnm.models.compression import CompressionSettings
from gnm.models.decoder import Decoder
from gnm.models.gates.write import GateTraining, gate_layer
from gnm.models.latent_bank import BankSettings, LatentBank
from gnm.models.long_term import LongTermLM
from gnm.models.lora import SELECTOR, adapted_layers
from gnm.models.memory_lm import MemoryLM
from gnm.models.recurrent import RecurrentMemory, RecurrentSettings
from gnm.models.write_settings import WriteSettings
from gnm.weights.backbones import Backbone
from gnm.weights.retrievers import load_retriever
from gnm.weights.trained import MODULE, put_weights

__all__ = ["Answer", "Cost", "Learner", "LearnerSettings", "Question", "State", "build_learner", "keeps_slots"]


class LearnerSettings(StrictModel):
    """Which method, with which adapter; blocks that a method doesn't use keep their defaults."""

    method: str
    backbone: str | None = Field(None, description="this method's own backbone, None: that of all methods")
    adapter: Path | None = Field(None, description="folder of a trained adapter, None: the backbone as it is")
    prompt: Literal["chat", "continuation"] = Field(
        "chat", description="questions in a chat turn, or as phrases that stand behind the texts and are continued"
    )
    order: Order | None = Field(None, description="order of document and instruction, None: the method's own")
    memory: PoolSettings = PoolSettings()
    write: WriteSettings = WriteSettings()
    gate_training: GateTraining = GateTraining()
    bank: BankSettings = BankSettings()
    compression: CompressionSettings = CompressionSettings()
    blocks: BlockSettings = BlockSettings()
    recurrent: RecurrentSettings = RecurrentSettings()
    retriever: str = Field("mean_embedding", pattern="^(mean_embedding|bm25)$")
    top_k: int = Field(4, gt=0, description="pairs retrieved for a question")
    max_note_tokens: int = Field(64, gt=0, description="length of a text note")

    @model_validator(mode="after")
    def _weakest_by_gates(self) -> "LearnerSettings":
        if self.memory.eviction == "weakest" and not self.write.gates:
            raise ValueError("memory.eviction: weakest goes by the gates' strengths; set write.gates")
        if self.memory.store and not self.write.gates:
            raise ValueError("memory.store keeps the gates' segments; set write.gates (threshold: 0 stores all)")
        return self

    @property
    def selects(self) -> bool:
        """Whether what is stored of a document is learned, and a matter of this document and its instruction alone."""
        return self.learns_gates and self.method != "gnm_ablation" and self.write.reads == "nothing"

    @property
    def learns_gates(self) -> bool:
        """Whether it has write gates that go by what was learned."""
        gates = self.write.gates
        return keeps_slots(self.method) and gates is not None and gates.by == "gate"


def build_learner(settings: LearnerSettings, backbone: Backbone, training: bool = False, seed: int = 0) -> Learner:
    """The learner that `settings` name, on `backbone` (an adapter, if any, is loaded by the caller beforehand).

    training: weights of the method's own may be new ones, which `seed` decides. Raises ConfigError for an unknown
    method, with the nearest known name, and CheckpointError if weights of the method's own are missing.
    """
    if settings.method not in _BUILDERS:
        near = difflib.get_close_matches(settings.method, _BUILDERS, n=1, cutoff=0.4)
        hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(_BUILDERS)}"
        raise ConfigError(f"unknown method {settings.method!r} ({hint})")
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # the CPU's alone, which `fork_rng` restores
        learner = _BUILDERS[settings.method](settings, backbone)
    _load_own(learner, backbone, settings, training)
    return learner


def keeps_slots(method: str) -> bool:
    """Whether the memory of a method is made of latent slots; false for unknown methods."""
    return _BUILDERS.get(method) is _memory


def _load_own(learner: Learner, backbone: Backbone, settings: LearnerSettings, training: bool) -> None:
    """Put the weights that were saved beside the backbone's adapters into a method that has such."""
    own, saved = learner.own_parameters(), backbone.module
    if backbone.memory is not None or not own:
        return
    if saved is None and training:
        return
    where = settings.adapter or backbone.name
    if training:  # what is not there yet begins anew
        own = {name: own.get(name, torch.empty(0)) for name in saved}
    if {name: value.shape for name, value in (saved or {}).items()} != {n: value.shape for n, value in own.items()}:
        names = ", ".join(list(own)[:2]) + (f" and {len(own) - 2} others" if len(own) > 2 else "")
        raise CheckpointError(
            f"{where} has no weights for {names}, or others than these, which {settings.method} needs with "
            "these settings; train it with them, or leave them out"
        )
    put_weights({MODULE: saved}, {MODULE: own})


def _reader(settings: LearnerSettings, backbone: Backbone) -> Reader:
    form = ChatFormat if settings.prompt == "chat" else PlainText
    return Reader(Decoder(backbone.model), form.of(backbone.tokenizer), backbone.tokenizer)


def _memory(settings: LearnerSettings, backbone: Backbone) -> Learner:
    from gnm.learners.long_term import LongTermLearner
    from gnm.learners.memory import MemoryLearner

    reader, order = _reader(settings, backbone), settings.order or "instruction_first"
    through = settings.method != "gnm_ablation"
    if backbone.memory is not None:
        if settings.write != WriteSettings():
            raise ConfigError(f"{backbone.name} is a memory model and writes in its own way; leave out `write`")
        lm = backbone.memory.lm(reader.decoder, settings.memory.model_dump(exclude_unset=True), through)
        # `bos_embedding` stands where a conversation begins; what follows it there comes with each question
        reader = Reader(reader.decoder, reader.chat, reader.tokenizer, lead=reader.chat.preamble_without_bos)
        return MemoryLearner(lm, reader, order)
    if settings.write.tap == "outputs":
        raise ConfigError(f"write.tap: outputs needs a memory model as backbone; {backbone.name} is a plain decoder")
    parts = (reader.decoder, reader.chat.preamble, settings.memory, settings.write, through)
    selector, store = _selector(settings, backbone), settings.memory.store
    if store is None:
        return MemoryLearner(MemoryLM(*parts, selector=selector), reader, order, settings.gate_training)
    adapter = settings.adapter or backbone.name
    retriever = load_retriever(store.retriever, backbone, adapter) if store.retriever else None
    lm = LongTermLM(*parts, selector=selector, retriever=retriever)
    return LongTermLearner(lm, reader, order, settings.gate_training)


def _selector(settings: LearnerSettings, backbone: Backbone) -> str | None:
    """The adapter with which write gates look at a text, None: the write's own. It must end where the gates look."""
    ends = adapted_layers(backbone.model, SELECTOR)
    if not ends or not settings.learns_gates:
        return None
    if ends != (layer := gate_layer(settings.write.gates, backbone.model.config.num_hidden_layers)):
        raise ConfigError(
            f"write.gates.layer: {layer}, but the adapter with which these gates select ends at layer {ends}; leave "
            "the layer as it was trained, or load a whole adapter"
        )
    return SELECTOR


def _in_context(settings: LearnerSettings, backbone: Backbone) -> Learner:
    from gnm.learners.in_context import InContextLearner

    return InContextLearner(_reader(settings, backbone), settings.order or "document_first")


def _retrieval(settings: LearnerSettings, backbone: Backbone) -> Learner:
    from gnm.learners.retrieval import RetrievalLearner

    order = settings.order or "document_first"
    return RetrievalLearner(_reader(settings, backbone), settings.retriever, settings.top_k, order)


def _text_notes(settings: LearnerSettings, backbone: Backbone) -> Learner:
    from gnm.learners.text_notes import TextNotesLearner

    reader = _reader(settings, backbone)
    writer = Reader(reader.decoder, ChatFormat.of(backbone.tokenizer), backbone.tokenizer)
    return TextNotesLearner(reader, writer, settings.max_note_tokens)


def _latent_bank(settings: LearnerSettings, backbone: Backbone) -> Learner:
    from gnm.learners.latent_bank import LatentBankLearner

    _check_plain(settings, backbone)
    reader = _reader(settings, backbone)
    bank = LatentBank(reader.decoder.config.hidden_size, settings.bank).to(reader.decoder.device)
    return LatentBankLearner(bank, reader, settings.order or "instruction_first")


def _compressed(settings: LearnerSettings, backbone: Backbone) -> Learner:
    from gnm.learners.compressed import CompressedLearner, QuestionGuidedLearner

    form = CompressedLearner if settings.compression.guide == "instruction" else QuestionGuidedLearner
    return form(_reader(settings, backbone), settings.compression, *_kept_tokens(settings, backbone))


def _block_retrieval(settings: LearnerSettings, backbone: Backbone) -> Learner:
    from gnm.learners.block_retrieval import BlockRetrievalLearner

    return BlockRetrievalLearner(_reader(settings, backbone), settings.blocks, *_kept_tokens(settings, backbone))


def _kept_tokens(settings: LearnerSettings, backbone: Backbone) -> tuple[Order, Literal["nothing", "all"]]:
    """The order of document and instruction, and what a write reads, of methods that keep tokens' keys and values."""
    _check_plain(settings, backbone)
    reads = settings.write.reads
    if reads not in ("nothing", "all") or settings.write != WriteSettings(reads=reads):
        raise ConfigError(f"{settings.method} has write.reads: nothing or all, and no other setting of `write`")
    return settings.order or "instruction_first", reads


def _recurrent_memory(settings: LearnerSettings, backbone: Backbone) -> Learner:
    from gnm.learners.recurrent import RecurrentLearner

    _check_plain(settings, backbone)
    reader = _reader(settings, backbone)
    memory = RecurrentMemory(reader.decoder, settings.recurrent)
    return RecurrentLearner(memory, reader, settings.order or "instruction_first")


def _check_plain(settings: LearnerSettings, backbone: Backbone) -> None:
    if backbone.memory is not None:
        raise ConfigError(f"{settings.method} needs a plain decoder; {backbone.name} is a memory model")


def _no_memory(settings: LearnerSettings, backbone: Backbone) -> Learner:
    from gnm.learners.in_context import NoMemoryLearner

    return NoMemoryLearner(_reader(settings, backbone))


def _dummy(settings: LearnerSettings, backbone: Backbone) -> Learner:
    from gnm.learners.dummy import DummyLearner

    return DummyLearner()


_BUILDERS: dict[str, Callable[[LearnerSettings, Backbone], Learner]] = {
    "gnm": _memory,
    "gnm_ablation": _memory,
    "memoryllm": _memory,
    "in_context": _in_context,
    "in_context_ft": _in_context,
    "retrieval": _retrieval,
    "retrieval_ft": _retrieval,
    "text_notes": _text_notes,
    "latent_bank": _latent_bank,
    "compressed": _compressed,
    "block_retrieval": _block_retrieval,
    "recurrent_memory": _recurrent_memory,
    "no_memory": _no_memory,
    "dummy": _dummy,
}
