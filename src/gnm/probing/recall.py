"""How often a long-term store finds the line that a question is about: `python -m gnm.probing.recall [key=value ...]`.

- Streams of documents under instructions; every segment of every document and instruction can be found. A question is a
  paraphrase of a fact that the instruction says to learn; the segment that states this fact is to be found.
- Search keys are what enters one layer, as the mean over a segment's or question's tokens or at the last one; layers
  above are not run, as nothing is answered. Beside them: BM25 on the texts (Robertson & Zaragoza 2009), and chance.
- Written: recall at each k with 95 % intervals over documents, as table (CSV, Markdown) and figure.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from pydantic import Field
from torch import Tensor
from tqdm import tqdm

from gnm.analysis.drawing import legend_below, save_with_table, sheet
from gnm.analysis.style import BLACK, BLUE, GREEN, ORANGE, PURPLE, SKY, VERMILLION
from gnm.config import StrictModel, validate
from gnm.data.sampling import Sampling
from gnm.data.segments import is_wanted
from gnm.data.sequences import SequenceSettings, evaluation_sequences
from gnm.data.types import PARAPHRASE, Step
from gnm.devices import pick_device
from gnm.errors import ConfigError
from gnm.evaluate import read_documents_of
from gnm.files import write_text
from gnm.inference.reader import Reader
from gnm.learners import LearnerSettings, build_learner
from gnm.learners.long_term import sample_texts
from gnm.learners.memory import MemoryLearner, gated_parts
from gnm.learners.retrieval import bm25_scores
from gnm.memory.store import unit
from gnm.metrics import bootstrap_mean
from gnm.models.gates.keep import segment_means
from gnm.models.gates.write import segment_ends
from gnm.models.long_term import early_inputs
from gnm.models.whitening import Whitening
from gnm.params import BackboneSettings, Distributed, Positive, TargetSettings
from gnm.program import run_program
from gnm.weights.backbones import load_backbone
from gnm.weights.pretrained import load_model

_COLORS = (BLUE, SKY, PURPLE, ORANGE, VERMILLION)


class RecallParams(StrictModel):
    """Streams, the model that reads them, and the search keys that are compared."""

    backbone: BackboneSettings
    distributed: Distributed = Distributed()
    adapter: Path
    seeds: Annotated[list[int], Field(min_length=1)]
    data: Annotated[list[Path], Field(min_length=1)]
    targets: TargetSettings
    sampling: Sampling
    sequence_length: Positive = Field(description="documents of a stream; each seed draws one")
    at_once: Positive = Field(description="texts that are read side by side; changes speed only")
    layers: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)]
    last: bool = Field(description="whether keys of the last token stand beside the means")
    k: Annotated[list[Positive], Field(min_length=1)]
    title: str
    output: Path = Field(description="figure and tables, without their suffixes")

    def sequences(self) -> SequenceSettings:
        """The settings of the streams."""
        return SequenceSettings(
            **self.targets.model_dump(),
            sequence_length=self.sequence_length,
            unlearning=False,
            split="test",
            sampling=self.sampling,
        )


@dataclass(frozen=True)
class Stream:
    """Its segments, text by text, and its questions.

    document, segment: of each question, the segment that states what it asks for.
    """

    texts: list[list[str]]
    questions: list[str]
    document: list[int]
    segment: list[int]

    @classmethod
    def of(cls, steps: Sequence[Step], learner: MemoryLearner) -> "Stream":
        """The stream of `steps`; questions whose line cannot be told apart are left out."""
        parts = [gated_parts(step.document, step.instruction, learner.order) for step in steps]
        stream = cls([[text for text, _ in own] for own in parts], [], [], [])
        for number, (step, own) in enumerate(zip(steps, parts, strict=True)):
            for query in step.queries:
                stating = [
                    place for place, (text, of_document) in enumerate(own)
                    if of_document and query.target_output in text and is_wanted(text, step.wanted or ())
                ]  # fmt: skip
                if query.learn and query.type == PARAPHRASE and len(stating) == 1:
                    stream.questions.append(query.input)
                    stream.document.append(number)
                    stream.segment.append(stating[0])
        return stream

    @property
    def right(self) -> np.ndarray:
        """The place, among all segments of the stream, of the one that each question is about."""
        first = np.cumsum([0, *map(len, self.texts)])
        return first[self.document] + self.segment


def recall(params: RecallParams) -> str:
    """Search, save table and figure; returns the text that the program prints.

    Raises ConfigError for a layer that the backbone has not; DataError, CheckpointError, BackboneError before any work.
    """
    documents = read_documents_of(params.data)
    drawn = [evaluation_sequences(documents, params.sequences(), 1, seed)[0] for seed in params.seeds]
    device = pick_device(params.backbone.device, params.distributed.cuda_visible_devices)
    backbone = load_backbone(**params.backbone.model_dump(exclude={"device"}), device=device)
    about, backbone = load_model(params.adapter, backbone)
    learner = build_learner(validate(about["learner"], LearnerSettings, f"{params.adapter}"), backbone).eval()
    if not isinstance(learner, MemoryLearner):
        raise ConfigError(f"{params.adapter} keeps no pool of slots; give the adapter of a memory")
    layers = len(learner.lm.decoder.layers)
    if max(params.layers) >= layers:
        raise ConfigError(f"layers: the decoder has no layer {max(params.layers)}; its layers are 0 to {layers - 1}")
    rows = []
    for seed, sequence in zip(params.seeds, drawn, strict=True):
        rows += _rows(params, learner, Stream.of(sequence.steps, learner), seed)
    frame = _table(pd.DataFrame(rows))
    save_with_table(_figure(frame, params.title), frame, params.output)
    text = _markdown(frame)
    write_text(params.output.with_name(f"{params.output.name}.md"), text)
    return f"{params.title}\n{text}"


def _rows(params: RecallParams, learner: MemoryLearner, stream: Stream, seed: int) -> list[dict]:
    """A row for every question, way of searching and k."""
    right, rows = torch.from_numpy(stream.right), []
    count = sum(map(len, stream.texts))
    for name, scores in _scores(params, learner, stream):
        own = scores.gather(1, right[:, None])
        rank = (scores > own).sum(-1) + ((scores == own).sum(-1) - 1) / 2  # equals in the middle
        rows += [
            {"search": name, "k": k, "value": float(each < k), "document": seed * 10**6 + document}
            for each, document in zip(rank.tolist(), stream.document, strict=True)
            for k in params.k
        ]
    return rows + [
        {"search": "Chance", "k": k, "value": min(1.0, k / count), "document": seed * 10**6 + document}
        for document in stream.document
        for k in params.k
    ]


@torch.no_grad()
def _scores(params: RecallParams, learner: MemoryLearner, stream: Stream):
    """Each way of searching, by name, with its scores [questions, segments]."""
    words = [text for own in stream.texts for text in own]
    yield "BM25", torch.tensor([bm25_scores(words, question) for question in stream.questions])
    for layer in tqdm(params.layers, desc="layers", mininterval=5):
        asked = _keys(learner.reader, learner.lm.preamble, [[question] for question in stream.questions], layer, params)
        found = _keys(learner.reader, learner.lm.preamble, stream.texts, layer, params)
        sample = learner.reader.encode(sample_texts())
        seen = early_inputs(learner.lm.decoder, learner.lm.preamble, sample, layer)
        whitening = Whitening.fit(seen[sample.mask].cpu())
        for by, own in found.items():
            yield f"{by} of layer {layer}", unit(asked[by]) @ unit(own).T
            yield f"{by} of layer {layer}, whitened", whitening(asked[by]) @ whitening(own).T


@torch.no_grad()
def _keys(
    reader: Reader, preamble: Sequence[int], texts: Sequence[Sequence[str]], layer: int, params: RecallParams
) -> dict[str, Tensor]:
    """What search keys of all segments of `texts` are made of, in their order, by kind: [segments, E] float32."""
    keys: dict[str, list[Tensor]] = {"Mean": [], **({"Last": []} if params.last else {})}
    for start in range(0, len(texts), params.at_once):
        some = texts[start : start + params.at_once]
        tokens = reader.encode_segments(some)
        seen, count = early_inputs(reader.decoder, preamble, tokens, layer), max(map(len, some))
        of = {"Mean": segment_means(seen, tokens.segment, count)[0]}
        if params.last:
            ends = segment_ends(tokens.segment, count)[..., None].expand(-1, -1, seen.shape[2])
            of["Last"] = seen.gather(1, ends)
        for kind, own in keys.items():
            own += [of[kind][row, : len(text)].float().cpu() for row, text in enumerate(some)]
    return {kind: torch.cat(own) for kind, own in keys.items()}


def _table(rows: pd.DataFrame) -> pd.DataFrame:
    """Recall of each way of searching at each k, in the order of `rows`, with interval and number of questions."""
    found = []
    for (search, k), own in rows.groupby(["search", "k"], sort=False):
        value, low, high = bootstrap_mean(own["value"].to_numpy(), own["document"].to_numpy())
        found.append((search, k, value, low, high, len(own), own["document"].nunique()))
    return pd.DataFrame(found, columns=["search", "k", "value", "low", "high", "samples", "documents"])


def _markdown(frame: pd.DataFrame) -> str:
    """The table for reading: a row a way of searching, a column a k, in percent."""
    ks = list(dict.fromkeys(frame["k"]))
    lines = ["| Search | " + " | ".join(f"k = {k}" for k in ks) + " |", "|---|" + "---:|" * len(ks)]
    for search, own in frame.groupby("search", sort=False):
        cells = [f"{100 * row.value:.1f} [{100 * row.low:.1f}, {100 * row.high:.1f}]" for row in own.itertuples()]
        lines.append(f"| {search} | {' | '.join(cells)} |")
    first = frame.iloc[0]
    note = (
        f"Percent of {first['samples']} questions about {first['documents']} documents, 95 % intervals over documents."
    )
    return "\n".join([*lines, "", note, ""])


def _figure(frame: pd.DataFrame, title: str) -> Figure:
    """A line a way of searching: recall by k."""
    figure, body = sheet(6.4, 3.6, title, "Whiskers: 95 % intervals, bootstrap over documents.")
    axes = body.subplots()
    colors = {"BM25": GREEN, "Chance": BLACK}
    own = [name for name in dict.fromkeys(frame["search"]) if name not in colors]
    colors |= {name: _COLORS[place % len(_COLORS)] for place, name in enumerate(own)}
    for search, line in frame.groupby("search", sort=False):
        dashes = ":" if search == "Chance" else "-" if search == "BM25" or "whitened" in search else "--"
        axes.plot(line["k"], 100 * line["value"], color=colors[search], linestyle=dashes, marker=".", label=search)
        axes.vlines(line["k"], 100 * line["low"], 100 * line["high"], color=colors[search], linewidth=0.9, alpha=0.7)
    axes.set_xscale("log", base=2)
    axes.set_xticks(list(dict.fromkeys(frame["k"])), [str(k) for k in dict.fromkeys(frame["k"])])
    axes.set_xlabel("segments that are read (k)")
    axes.set_ylabel("line found, %")
    axes.set_ylim(0, 102)
    legend_below(body, [axes], 6.4)
    return figure


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the settings, search."""
    run_program("gnm.probing.recall", __doc__, RecallParams, lambda params, _: print(recall(params)), arguments)


if __name__ == "__main__":
    main()
