"""Train a store's retriever: `python -m gnm.training.retriever [--block B] [key=value ...]`.

- Questions are those of documents that were written one by one, and people's ways to ask for facts of drawn documents;
  each has one segment to find among all (`gnm.training.streams`).
- What the networks take, the untrained search keys, is computed once; nothing of the backbone or its adapter learns.
- A step draws questions, and segments of any document beside theirs. The loss is the binary cross-entropy of every
  question with every segment, as M+ has it; scale and offset of the cosine are trained (Zhai et al. 2023,
  arXiv:2303.15343). Cross-entropy of the right segment among all of a step (InfoNCE) found about as much.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn
from tqdm import trange

from gnm.config import StrictModel
from gnm.data.counterfact import read_facts
from gnm.data.people.episodes import PeopleSettings, Share, draw_people, index_facts
from gnm.data.people.written import read_written
from gnm.data.types import Step
from gnm.learners.memory import MemoryLearner
from gnm.memory.store import unit
from gnm.models.retriever import SIDES, Retriever
from gnm.params import BackboneSettings, Distributed, Positive
from gnm.program import run_program
from gnm.provenance import provenance
from gnm.training.streams import Stream, load_memory_learner, search_inputs, whitening_of
from gnm.weights.retrievers import inputs_digest

_SCALE, _OFFSET = 10.0, -10.0  # of a cosine, where training begins


class DrawnFacts(StrictModel):
    """Documents that state facts as people do. everyday: share of them about made-up persons."""

    facts: Path
    documents: Positive
    everyday: Share = 0.3


class RetrieverParams(StrictModel):
    """What is read, by which model, and how the retriever is trained. layer, whiten: as in StoreSettings."""

    backbone: BackboneSettings
    distributed: Distributed = Distributed()
    adapter: Path
    written: Path
    drawn: DrawnFacts
    at_once: Positive = Field(description="texts that are read side by side; changes speed, and rounding in bfloat16")
    layer: Annotated[int, Field(ge=0)]
    whiten: bool
    hidden: Positive
    size: Positive
    seed: int
    steps: Positive
    questions: Positive = Field(description="questions of a step")
    segments: Positive = Field(description="segments of a step beside those that its questions are about")
    learning_rate: Annotated[float, Field(gt=0)]
    weight_decay: Annotated[float, Field(ge=0)]
    output: Path


def train_retriever(params: RetrieverParams, command: str) -> str:
    """Train and save; returns what the program prints. Raises ConfigError, DataError, BackboneError, CheckpointError
    before any work."""
    written = read_written(params.written)
    steps = drawn_steps(params.drawn, params.seed)
    backbone, learner = load_memory_learner(params.backbone, params.distributed, params.adapter, [params.layer])
    streams = [Stream.written(written, learner.order), Stream.of(steps, learner.order)]
    pairs = [_untrained(params, learner, stream) for stream in streams]
    first = [0, len(pairs[0][1])]
    questions, segments = (torch.cat(side) for side in zip(*pairs, strict=True))
    right = torch.cat([torch.from_numpy(s.right) + start for s, start in zip(streams, first, strict=True)])
    retriever, loss = fit(params, questions, segments, right)
    about = {
        "training": params.model_dump(mode="json", exclude={"output", "distributed", "adapter"}),
        "made": {"command": command, **provenance(learner.lm.decoder.device)},
    }
    own = {"model": inputs_digest(backbone, params.layer), "adapter": str(params.adapter)}
    replace(retriever, **own).save(params.output, about)
    return f"{len(questions)} questions, {len(segments)} segments, loss {loss:.4f}; saved {params.output}"


def drawn_steps(drawn: DrawnFacts, seed: int) -> list[Step]:
    """Documents that are to be learned whole, each with questions about its facts, which no other one states."""
    kinds = {kind: float(kind == "facts_all") for kind in PeopleSettings().kinds}
    settings = PeopleSettings(kinds=kinds, corrections=0.0, everyday=drawn.everyday)
    facts = index_facts(read_facts(drawn.facts))
    ((episode, asked),) = draw_people(facts, settings, "train", seed, 0, drawn.documents)
    steps, known = [], set()
    for step, queries in zip(episode.steps, asked, strict=True):
        steps.append(replace(step, queries=tuple(query for query in queries if query.fact_id not in known)))
        known |= {query.fact_id for query in queries}
    return steps


def fit(params: RetrieverParams, questions: Tensor, segments: Tensor, right: Tensor) -> tuple[Retriever, float]:
    """The retriever trained on untrained keys [n, E] of questions and [N, E] of segments; and its last loss.

    right: [n] long, the segment that each question is about. A pure function of its arguments.
    """
    generator = torch.Generator().manual_seed(params.seed)
    retriever = Retriever.new(
        (questions.shape[1], params.hidden, params.size), params.layer, params.whiten, params.seed
    )
    scale, offset = torch.tensor(_SCALE).log(), torch.tensor(_OFFSET)
    learned = [each.requires_grad_() for each in (*retriever.parameters(), scale, offset)]
    groups = [{"params": learned[:-2], "weight_decay": params.weight_decay}, {"params": learned[-2:]}]
    optimizer = torch.optim.AdamW(groups, lr=params.learning_rate, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, params.learning_rate, params.steps, pct_start=0.1)
    for _ in trange(params.steps, desc="steps", mininterval=5):
        asked = torch.randperm(len(questions), generator=generator)[: params.questions]
        others = torch.randperm(len(segments), generator=generator)[: params.segments]
        among, place = torch.cat((right[asked], others)).unique(return_inverse=True)
        cosines = retriever.trained("question", questions[asked]) @ retriever.trained("segment", segments[among]).T
        loss = _loss(scale.exp() * cosines + offset, place[: len(asked)])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    sides = {side: tuple(matrix.detach() for matrix in getattr(retriever, side)) for side in SIDES}
    return replace(retriever, **sides), float(loss.detach())


def _loss(logits: Tensor, right: Tensor) -> Tensor:
    """Of logits [n, N], where segment `right` [n] is that of each question."""
    wanted = nn.functional.one_hot(right, logits.shape[1]).float()
    return nn.functional.binary_cross_entropy_with_logits(logits, wanted, reduction="sum") / len(right)


def _untrained(params: RetrieverParams, learner: MemoryLearner, stream: Stream) -> tuple[Tensor, Tensor]:
    """Untrained search keys of the questions and of the segments of a stream."""
    read = (learner.reader, learner.lm.preamble)
    key = whitening_of(*read, params.layer) if params.whiten else unit
    sides = (
        search_inputs(*read, texts, params.layer, params.at_once)["Mean"] for texts in (stream.asked, stream.texts)
    )
    return tuple(key(side) for side in sides)


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the settings, train, save."""
    run_program(
        "gnm.training.retriever", __doc__, RetrieverParams,
        lambda params, command: print(train_retriever(params, command)), arguments,
    )  # fmt: skip


if __name__ == "__main__":
    main()
