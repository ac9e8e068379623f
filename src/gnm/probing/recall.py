"""How often a long-term store finds the line that a question is about: `python -m gnm.probing.recall [key=value ...]`.

- Streams of documents under instructions, drawn or written one by one (`gnm.training.streams`); every segment of every
  document and instruction can be found, and each question is about one of them.
- Search keys are what enters one layer, as the mean over a segment's or question's tokens or at the last one; layers
  above are not run, as nothing is answered. Beside them: lexical keys (`gnm.models.lexical_keys`), the keys of a
  trained retriever (`gnm.models.retriever`), lexical keys combined with others as in a store with `lexical`, BM25 on
  the texts (Robertson & Zaragoza 2009), and chance.
- Saved: recall at each k with 95 % intervals over documents, as table (CSV, Markdown) and figure.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import pandas as pd
import torch
from matplotlib.figure import Figure
from pydantic import Field, model_validator
from tqdm import tqdm

from gnm.analysis.drawing import legend_below, save_with_table, sheet
from gnm.analysis.style import BLACK, BLUE, GREEN, ORANGE, PURPLE, SKY, VERMILLION
from gnm.config import StrictModel
from gnm.data.people.episodes import Share
from gnm.data.people.written import read_written
from gnm.data.sampling import Sampling
from gnm.data.sequences import SequenceSettings, evaluation_sequences
from gnm.data.types import Episode
from gnm.evaluate import read_documents_of
from gnm.files import write_text
from gnm.inference.prompts import Order
from gnm.learners.memory import MemoryLearner
from gnm.learners.retrieval import bm25_scores
from gnm.memory.store import unit
from gnm.metrics import bootstrap_mean
from gnm.models.lexical_keys import LexicalKeys
from gnm.models.retriever import Retriever
from gnm.params import BackboneSettings, Distributed, Positive, TargetSettings
from gnm.program import run_program
from gnm.training.streams import Stream, lexical_keys, load_memory_learner, search_inputs, whitening_of
from gnm.weights.retrievers import load_retriever

_COLORS = {"BM25": GREEN, "Chance": BLACK, "Tokens in common": ORANGE}
_AND_TOKENS = " + tokens"
_OF_LAYERS = (SKY, BLUE, PURPLE)


class DrawnStreams(StrictModel):
    """Streams of the protocol's documents."""

    seeds: Annotated[list[int], Field(min_length=1)]
    data: Annotated[list[Path], Field(min_length=1)]
    targets: TargetSettings
    sampling: Sampling
    sequence_length: Positive = Field(description="documents of a stream; each seed draws one")

    def streams(self, order: Order) -> list[Stream]:
        """A stream of each seed. Raises DataError for files that are missing or damaged."""
        return [Stream.of(episode.steps, order) for episode in self.episodes()]

    def episodes(self) -> list[Episode]:
        """The documents of each seed's stream. Raises DataError for files that are missing or damaged."""
        documents = read_documents_of(self.data)
        return [evaluation_sequences(documents, self.sequences(), 1, seed)[0] for seed in self.seeds]

    def sequences(self) -> SequenceSettings:
        """The settings of the streams."""
        return SequenceSettings(
            **self.targets.model_dump(),
            sequence_length=self.sequence_length,
            unlearning=False,
            split="test",
            sampling=self.sampling,
        )


class RecallParams(StrictModel):
    """Streams, the model that reads them, and the search keys that are compared."""

    backbone: BackboneSettings
    distributed: Distributed = Distributed()
    adapter: Path
    written: Path | None = Field(None, description="documents written one by one: all are one stream; or `drawn`")
    drawn: DrawnStreams | None = None
    retriever: Path | None = Field(None, description="folder of a trained retriever, whose keys stand beside")
    at_once: Positive = Field(description="texts that are read side by side; changes speed, and rounding in bfloat16")
    layers: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)]
    last: bool = Field(description="whether keys of the last token stand beside the means")
    lexical: Share = Field(0.4, description="of the tokens in common, beside whitened means and trained keys")
    k: Annotated[list[Positive], Field(min_length=1)]
    title: str
    output: Path = Field(description="figure and tables, without their suffixes")

    @model_validator(mode="after")
    def _one_source(self) -> "RecallParams":
        if (self.written is None) == (self.drawn is None):
            raise ValueError("give either drawn or written")
        return self

    def streams(self, order: Order) -> list[Stream]:
        """What is searched. Raises DataError for files that are missing or damaged."""
        if self.written:
            return [Stream.written(read_written(self.written), order)]
        return self.drawn.streams(order)


def recall(params: RecallParams) -> str:
    """Search, save table and figure; returns the text that the program prints.

    Raises ConfigError for a layer that the backbone has not, or a retriever of another model; DataError,
    CheckpointError, BackboneError before any work.
    """
    backbone, learner = load_memory_learner(params.backbone, params.distributed, params.adapter, params.layers)
    retriever = params.retriever and load_retriever(params.retriever, backbone, params.adapter)
    streams, rows = params.streams(learner.order), []
    for number, stream in enumerate(streams):
        rows += _rows(params, learner, retriever, stream, number)
    frame = _table(pd.DataFrame(rows))
    save_with_table(_figure(frame, params.title), frame, params.output)
    text = _markdown(frame)
    write_text(params.output.with_name(f"{params.output.name}.md"), text)
    return f"{params.title}\n{text}"


def _rows(
    params: RecallParams, learner: MemoryLearner, retriever: Retriever | None, stream: Stream, number: int
) -> list[dict]:
    """A row for every question, way of searching and k of stream `number`."""
    right, rows = torch.from_numpy(stream.right), []
    count = sum(map(len, stream.texts))
    ranks = {"Chance": torch.full((len(right),), float("nan"))}
    for name, scores in _scores(params, learner, retriever, stream):
        own = scores.gather(1, right[:, None])
        ranks[name] = (scores > own).sum(-1) + ((scores == own).sum(-1) - 1) / 2  # equals in the middle
    for name, rank in ranks.items():
        for each, form, document in zip(rank.tolist(), stream.form, stream.document, strict=True):
            same = {"asked": form, "search": name, "document": number * 10**6 + document}
            rows += [
                {**same, "k": k, "value": min(1.0, k / count) if name == "Chance" else float(each < k)}
                for k in params.k
            ]
    return rows


@torch.no_grad()
def _scores(params: RecallParams, learner: MemoryLearner, retriever: Retriever | None, stream: Stream):
    """Each way of searching, by name, with its scores [questions, segments]."""
    words = [text for own in stream.texts for text in own]
    yield "BM25", torch.tensor([bm25_scores(words, question) for question in stream.questions])
    read = (learner.reader, learner.lm.preamble)
    keys = LexicalKeys(learner.lm.decoder)
    question, segment = (lexical_keys(learner.reader, keys, texts) for texts in (stream.asked, stream.texts))
    yield "Tokens in common", (in_common := question @ segment.T)

    def mixed(name: str, cosines: torch.Tensor):
        yield name, cosines
        yield f"{name}{_AND_TOKENS}", (1 - params.lexical) * cosines + params.lexical * in_common

    layers = dict.fromkeys([*params.layers, *([retriever.layer] if retriever else [])])
    for layer in tqdm(layers, desc="layers", mininterval=5):
        asked = search_inputs(*read, stream.asked, layer, params.at_once)
        found = search_inputs(*read, stream.texts, layer, params.at_once)
        whitening = whitening_of(*read, layer)
        for by in ("Mean", "Last") if params.last else ("Mean",):
            plain, whitened = ([key(side[by]) for side in (asked, found)] for key in (unit, whitening))
            if layer in params.layers:
                yield f"{by} of layer {layer}", plain[0] @ plain[1].T
                cosines = whitened[0] @ whitened[1].T
                name = f"{by} of layer {layer}, whitened"
                yield from mixed(name, cosines) if by == "Mean" else [(name, cosines)]
            if retriever and (layer, by) == (retriever.layer, "Mean"):
                question, segment = whitened if retriever.whiten else plain
                cosines = retriever("question", question) @ retriever("segment", segment).T
                yield from mixed(f"Trained, of layer {layer}", cosines)


def _table(rows: pd.DataFrame) -> pd.DataFrame:
    """Recall of each way of searching at each k, in the order of `rows`, with interval and number of questions."""
    found = []
    for (asked, search, k), own in rows.groupby(["asked", "search", "k"], sort=False):
        value, low, high = bootstrap_mean(own["value"].to_numpy(), own["document"].to_numpy())
        found.append((asked, search, k, value, low, high, len(own), own["document"].nunique()))
    columns = ["asked", "search", "k", "value", "low", "high", "samples", "documents"]
    return pd.DataFrame(found, columns=columns)


def _markdown(frame: pd.DataFrame) -> str:
    """The tables for reading, one a form of question: a row a way of searching, a column a k, in percent."""
    ks, lines = list(dict.fromkeys(frame["k"])), []
    for asked, part in frame.groupby("asked", sort=False):
        lines += [f"| Search, asked by {asked} | " + " | ".join(f"k = {k}" for k in ks) + " |"]
        lines += ["|---|" + "---:|" * len(ks)]
        for search, own in part.groupby("search", sort=False):
            cells = [f"{100 * row.value:.1f} [{100 * row.low:.1f}, {100 * row.high:.1f}]" for row in own.itertuples()]
            lines.append(f"| {search} | {' | '.join(cells)} |")
        first = part.iloc[0]
        lines += [
            "",
            f"Percent of {first['samples']} questions about {first['documents']} documents, 95 % intervals over "
            "documents.",
            "",
        ]
    return "\n".join(lines)


def _figure(frame: pd.DataFrame, title: str) -> Figure:
    """A panel a form of question, a line a way of searching: recall by k."""
    forms = list(dict.fromkeys(frame["asked"]))
    width = 8 + 3.2 * (len(forms) - 1)
    figure, body = sheet(width, 4.4, title, "Whiskers: 95 % intervals, bootstrap over documents.")
    panels = body.subplots(1, len(forms), sharey=True, squeeze=False)[0]
    for axes, form in zip(panels, forms, strict=True):
        for search, line in frame[frame["asked"] == form].groupby("search", sort=False):
            style = _style(search)
            axes.plot(line["k"], 100 * line["value"], label=search, **style)
            axes.vlines(line["k"], 100 * line["low"], 100 * line["high"], color=style["color"], lw=0.9, alpha=0.7)
        axes.set_xscale("log", base=2)
        axes.set_xticks(list(dict.fromkeys(frame["k"])), [str(k) for k in dict.fromkeys(frame["k"])])
        axes.set_xlabel(f"segments that are read (k), asked by {form}")
    panels[0].set_ylabel("line found, %")
    panels[0].set_ylim(0, 102)
    legend_below(body, list(panels), width - 1)
    return figure


def _style(search: str) -> dict[str, str]:
    """How a line is drawn: a colour a layer, dashed unless whitened, crosses for last tokens, dots beside tokens."""
    if search in _COLORS:
        return {"color": _COLORS[search], "linestyle": ":" if search == "Chance" else "-", "marker": "."}
    if search.startswith("Trained"):
        color, line = VERMILLION, "-"
    else:
        layer = int(search.partition(",")[0].rpartition(" ")[2])
        color, line = _OF_LAYERS[layer // 2 % len(_OF_LAYERS)], "-" if "whitened" in search else "--"
    marker = "x" if search.startswith("Last") else "."
    return {"color": color, "linestyle": "-." if search.endswith(_AND_TOKENS) else line, "marker": marker}


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the settings, search."""
    run_program("gnm.probing.recall", __doc__, RecallParams, lambda params, _: print(recall(params)), arguments)


if __name__ == "__main__":
    main()
