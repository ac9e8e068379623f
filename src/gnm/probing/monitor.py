"""What a memory with a long-term store holds while documents come: `python -m gnm.probing.monitor [key=value ...]`.

- Streams of documents are written one by one. After every few documents, questions about all documents so far are put
  to the store, and what they find is counted; nothing is answered.
- Every few documents an earlier one is written once more: with `memory.store.consolidate` its segments merge with those
  that are stored.
- Saved: the numbers of `gnm inspect --stats` after each document, as table (CSV) and figure.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

import pandas as pd
import torch
from pydantic import Field, model_validator
from tqdm import tqdm

from gnm.analysis.drawing import save_with_table
from gnm.analysis.stream_figures import COLUMNS, stream_figure
from gnm.config import StrictModel
from gnm.data.types import Step
from gnm.learners.long_term import LongTermLearner
from gnm.memory.pool import PoolSettings
from gnm.memory.statistics import statistics
from gnm.params import BackboneSettings, Distributed, Positive
from gnm.probing.recall import DrawnStreams
from gnm.program import run_program
from gnm.training.streams import load_memory_learner


class MonitorParams(StrictModel):
    """The memory, and the streams that it is given. memory: pool and store, in place of the adapter's own."""

    backbone: BackboneSettings
    distributed: Distributed = Distributed()
    adapter: Path
    memory: PoolSettings
    drawn: DrawnStreams
    ask_every: Positive = Field(description="documents after which the store is asked about all so far")
    again_every: Positive = Field(description="documents after which the one that came as many before comes once more")
    title: str
    output: Path = Field(description="figure and table, without their suffixes")

    @model_validator(mode="after")
    def _has_a_store(self) -> "MonitorParams":
        if self.memory.store is None:
            raise ValueError("memory.store: the memory has no long-term store; give its settings, such as {k: 8}")
        return self


def monitor(params: MonitorParams) -> str:
    """Write, ask, save table and figure; returns the text that the program prints.

    Raises ConfigError, DataError, BackboneError, CheckpointError before any work.
    """
    streams = [episode.steps for episode in params.drawn.episodes()]
    _, learner = load_memory_learner(params.backbone, params.distributed, params.adapter, [0], params.memory)
    rows: list[dict] = []
    for number, (seed, steps) in enumerate(zip(params.drawn.seeds, streams, strict=True)):
        rows += [{"stream": number, **row} for row in _watched(learner, seed, steps, params)]
    frame = pd.DataFrame(rows, columns=COLUMNS)
    save_with_table(stream_figure(frame, params.title), frame, params.output)
    last = frame[frame["seen"] == frame["seen"].max()]
    counts = ", ".join(f"{name} {int(last[name].sum())}" for name in COLUMNS[4:] if name != "strength")
    return f"{params.title}\nafter the last document: {counts}; saved {params.output}.png"


@torch.no_grad()
def _watched(learner: LongTermLearner, seed: int, steps: Sequence[Step], params: MonitorParams) -> Iterator[dict]:
    """A row for each document that holds a slot, after every document of one stream."""
    state, phrases = learner.reset([seed]), []
    stream = list(_with_repeats(steps, params.again_every))
    for seen, (step, new) in enumerate(tqdm(stream, desc=f"stream {seed}", mininterval=5), start=1):
        state = learner.write(state, [step.document], [step.instruction])
        phrases += [query.input for query in step.queries if new]
        if seen % params.ask_every == 0 or seen == len(stream):
            state = learner.counted(state, [phrases])
        for each in statistics(state.state):
            yield {"seen": seen, **asdict(each)}


def _with_repeats(steps: Sequence[Step], every: int) -> Iterator[tuple[Step, bool]]:
    """The documents with whether they are new; after each `every` new ones, the first of these comes once more."""
    for place, step in enumerate(steps, start=1):
        yield step, True
        if place % every == 0:
            yield steps[place - every], False


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the settings, watch."""
    run_program("gnm.probing.monitor", __doc__, MonitorParams, lambda params, _: print(monitor(params)), arguments)


if __name__ == "__main__":
    main()
