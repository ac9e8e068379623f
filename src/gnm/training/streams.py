"""Streams of documents in which a question has one segment to find, and what search keys of them are made of.

- Of documents under instructions, a question is a paraphrase of a fact that the instruction says to learn; the segment
  that states this fact is to be found.
- Of documents that were written one by one, each fact is asked for twice, by its cloze and by its question; the segment
  in which the object begins is to be found. Each document stands under the first of its instructions.

Shape letters: n texts, E hidden size.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from gnm.config import validate
from gnm.data.people.written import WrittenDocument
from gnm.data.segments import is_wanted
from gnm.data.types import PARAPHRASE, Step
from gnm.devices import pick_device
from gnm.errors import ConfigError
from gnm.inference.prompts import Order
from gnm.inference.reader import Reader
from gnm.learners import LearnerSettings, build_learner
from gnm.learners.long_term import sample_texts
from gnm.learners.memory import MemoryLearner, gated_parts
from gnm.memory.pool import PoolSettings
from gnm.models.gates.keep import segment_means
from gnm.models.gates.write import segment_ends
from gnm.models.lexical_keys import LexicalKeys
from gnm.models.search_keys import early_inputs
from gnm.models.whitening import Whitening
from gnm.params import BackboneSettings, Distributed
from gnm.weights.backbones import Backbone, load_backbone
from gnm.weights.pretrained import load_model


@dataclass(frozen=True)
class Stream:
    """Its segments, text by text, and its questions.

    form: of each question, in which form it asks. document, segment: of each question, the segment that states what it
    asks for.
    """

    texts: list[list[str]]
    questions: list[str] = field(default_factory=list)
    form: list[str] = field(default_factory=list)
    document: list[int] = field(default_factory=list)
    segment: list[int] = field(default_factory=list)

    @classmethod
    def of(cls, steps: Sequence[Step], order: Order) -> "Stream":
        """The stream of `steps`; questions whose line cannot be told apart are left out."""
        parts = [gated_parts(step.document, step.instruction, order) for step in steps]
        stream = cls([[text for text, _ in own] for own in parts])
        for number, (step, own) in enumerate(zip(steps, parts, strict=True)):
            for query in step.queries:
                stating = [
                    place for place, (text, of_document) in enumerate(own)
                    if of_document and query.target_output in text and is_wanted(text, step.wanted or ())
                ]  # fmt: skip
                if query.learn and query.type == PARAPHRASE and len(stating) == 1:
                    stream._ask("paraphrase", query.input, number, stating[0])
        return stream

    @classmethod
    def written(cls, documents: Sequence[WrittenDocument], order: Order) -> "Stream":
        """The stream of documents that were written one by one."""
        stream = cls([])
        for number, document in enumerate(documents):
            parts = gated_parts(document.document, document.tasks[0].instruction, order)
            stream.texts.append([text for text, _ in parts])
            ends = np.cumsum([len(text) for text, of_document in parts if of_document])
            own = [place for place, (_, of_document) in enumerate(parts) if of_document]
            text = document.document.strip()
            for fact in document.facts:
                begins = text.index(fact.quote) + fact.quote.index(fact.object)
                place = own[int(np.searchsorted(ends, begins, side="right"))]
                stream._ask("cloze", fact.cloze, number, place)
                stream._ask("question", fact.question, number, place)
        return stream

    def _ask(self, form: str, question: str, document: int, segment: int) -> None:
        self.questions.append(question)
        self.form.append(form)
        self.document.append(document)
        self.segment.append(segment)

    @property
    def right(self) -> np.ndarray:
        """The place, among all segments of the stream, of the one that each question is about."""
        first = np.cumsum([0, *map(len, self.texts)])
        return first[self.document] + self.segment

    @property
    def asked(self) -> list[list[str]]:
        """The questions as a long-term store is asked: texts of one segment, after a blank."""
        return [[f" {question.strip()}"] for question in self.questions]


def load_memory_learner(
    backbone: BackboneSettings,
    distributed: Distributed,
    adapter: Path,
    layers: Sequence[int],
    memory: PoolSettings | None = None,
) -> tuple[Backbone, MemoryLearner]:
    """The model of `adapter`, and the memory that was trained as it, with the pool and store of `memory`, if given.

    Raises ConfigError if it keeps no slots, or has none of `layers`.
    """
    device = pick_device(backbone.device, distributed.cuda_visible_devices)
    about, loaded = load_model(adapter, load_backbone(**backbone.model_dump(exclude={"device"}), device=device))
    own = {} if memory is None else {"memory": memory.model_dump(exclude_unset=True)}
    settings = validate({**about["learner"], **own, "adapter": adapter}, LearnerSettings, f"{adapter}")
    learner = build_learner(settings, loaded).eval()
    if not isinstance(learner, MemoryLearner):
        raise ConfigError(f"{adapter} keeps no pool of slots; give the adapter of a memory")
    count = len(learner.lm.decoder.layers)
    if max(layers) >= count:
        raise ConfigError(f"the decoder has no layer {max(layers)}; its layers are 0 to {count - 1}")
    return loaded, learner


@torch.no_grad()
def search_inputs(
    reader: Reader, preamble: Sequence[int], texts: Sequence[Sequence[str]], layer: int, at_once: int
) -> dict[str, Tensor]:
    """What search keys of all segments of n `texts` are made of, in their order, by kind: [segments, E] float32.

    at_once: texts that are read side by side; changes speed, and rounding in bfloat16.
    """
    keys: dict[str, list[Tensor]] = {"Mean": [], "Last": []}
    for start in range(0, len(texts), at_once):
        some = texts[start : start + at_once]
        tokens = reader.encode_segments(some)
        seen, count = early_inputs(reader.decoder, preamble, tokens, layer), max(map(len, some))
        ends = segment_ends(tokens.segment, count)[..., None].expand(-1, -1, seen.shape[2])
        of = {"Mean": segment_means(seen, tokens.segment, count)[0], "Last": seen.gather(1, ends)}
        for kind, own in keys.items():
            own += [of[kind][row, : len(text)].float().cpu() for row, text in enumerate(some)]
    return {kind: torch.cat(own) for kind, own in keys.items()}


@torch.no_grad()
def lexical_keys(reader: Reader, keys: LexicalKeys, texts: Sequence[Sequence[str]]) -> Tensor:
    """The lexical keys of all segments of `texts`, in their order: [segments, D] float32."""
    own = []
    for text in texts:
        tokens = reader.encode_segments([text])
        own.append(keys(reader.decoder.embed(tokens.ids[0]), tokens.segment[0], len(text)).cpu())
    return torch.cat(own)


@torch.no_grad()
def whitening_of(reader: Reader, preamble: Sequence[int], layer: int) -> Whitening:
    """The whitening with which a long-term store of this decoder searches by what enters `layer`."""
    sample = reader.encode(sample_texts())
    return Whitening.fit(early_inputs(reader.decoder, preamble, sample, layer)[sample.mask].cpu())
