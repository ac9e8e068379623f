"""Is what the instruction excludes still in the memory? `python -m gnm.analysis.probe [--block B] [key=value ...]`.

- Single documents are written under an instruction; a probe (`probes.py`) is trained to pick each fact's stated object
  out of the slots, on facts to learn and facts to ignore alike, and asked about other facts of other documents.
- Beside every figure stands its control: the same facts asked of the memory of another document. How far the
  probe is above that is what a fact left in memory.
- Each seed draws its own documents and trains its own probes; intervals are over documents.
- Written: table (CSV, Markdown) and figure, as `gnm.analysis.report` has them.
- Not covered: what this probe cannot read may still be there, in a form that a stronger one reads.
"""

import argparse
import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
import torch
from pydantic import Field, model_validator
from torch import Tensor
from tqdm import tqdm

from gnm.analysis.figures import merit_bars
from gnm.analysis.probe_facts import Case, draw_cases, others_of
from gnm.analysis.probes import Examples, ProbeTraining, draw_candidates, fit, object_weights, picked
from gnm.analysis.style import GREY, save_figure, with_variant
from gnm.analysis.tables import save_tables, text_table
from gnm.backbones import load_backbone
from gnm.checkpoints import read_about
from gnm.config import StrictModel, add_params_arguments, load_params
from gnm.data.sampling import Sampling
from gnm.data.sequences import SequenceSettings
from gnm.data.targets import FORMATTING_TYPES
from gnm.data.taxonomy import load_taxonomy
from gnm.data.types import Document
from gnm.devices import pick_device
from gnm.errors import ConfigError, exit_on_error
from gnm.evaluate import read_documents_of
from gnm.learners import build_learner, keeps_slots
from gnm.learners.memory import MemoryLearner
from gnm.metrics import MERIT_COLUMNS, bootstrap_mean
from gnm.models.taps import InputTap
from gnm.params import Methods, Positive, TargetSettings
from gnm.pretrained import load_model

KINDS = ("learn", "ignore", "refuse")
# any document with a fact can be drawn; a probe asks about all of its facts
_ANY_QUERY = Sampling(
    num_paraphrase_from_facts_to_learn=1,
    num_true_output_neighbor_from_facts_to_learn=0,
    num_paraphrase_from_facts_to_refuse=1,
    num_true_output_neighbor_from_facts_to_refuse=0,
    num_paraphrase_from_other_facts=1,
    num_true_output_neighbor_from_other_facts=0,
    max_total_io_pairs_per_sample=1,
)
_NOTE = (
    "Percent of facts whose stated object the probe picks among others, with 95 % intervals over documents. Control: "
    "the same facts asked of another document's memory."
)


class ProbeData(StrictModel):
    """Document files to train probes on, and to test them on; they may be the same."""

    train: Annotated[list[Path], Field(min_length=1)]
    test: Annotated[list[Path], Field(min_length=1)]


class ProbeLoop(StrictModel):
    """Documents of each seed, and how many are written side by side."""

    train_documents: Positive
    test_documents: Annotated[int, Field(gt=1)]
    documents_at_once: Positive


class ProbeParams(Methods):
    """Which memories are probed, at which layers (None: the middle one), for which facts.

    others: objects of the same subcategory that the stated one is to be told from.
    """

    seeds: Annotated[list[int], Field(min_length=1)]
    data: ProbeData
    targets: TargetSettings
    loop: ProbeLoop
    layers: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)] | None = None
    others: Positive
    probe: ProbeTraining = ProbeTraining()
    title: str
    output: Path = Field(description="figure and tables, without their suffixes")

    @model_validator(mode="after")
    def _can_be_probed(self) -> "ProbeParams":
        for name, settings in self.methods.items():
            if not keeps_slots(settings.method):
                raise ValueError(f"methods.{name}: {settings.method!r} has no memory of slots to probe; leave it out")
        if formats := set(self.targets.target_types) & {*FORMATTING_TYPES}:
            raise ValueError(f"targets.target_types: a probe is about facts; leave out {', '.join(sorted(formats))}")
        return self

    def sequences(self) -> SequenceSettings:
        """The settings of sequences of one document."""
        return SequenceSettings(
            target_types=self.targets.target_types,
            groups=self.targets.groups,
            sequence_length=1,
            unlearning=False,
            split="test",
            sampling=_ANY_QUERY,
        )


class Objects:
    """All objects that facts of some documents state, and the taxonomy's others of their subcategories.

    names: [M] (subcategory, object).
    """

    def __init__(self, documents: Sequence[Document]):
        facts = {pair.fact_id: (pair.subcategory, pair.false_output) for d in documents for pair in d.pairs}
        stated = Counter(facts.values())
        groups = sorted({group for group, _ in stated})
        members = {(group, name) for group in groups for name in load_taxonomy().members(group)}
        self.names = sorted(members | stated.keys())
        self._number = {name: number for number, name in enumerate(self.names)}
        self._group = {name: number for number, name in enumerate(groups)}
        count = torch.tensor([stated[name] for name in self.names], dtype=torch.float32)
        self._weights = object_weights(count, torch.tensor([self._group[group] for group, _ in self.names]))

    def stated_in(self, cases: Sequence[Case]) -> tuple[Tensor, Tensor]:
        """The number of the object that each fact states [N] long, and weights [N, M] of the other candidates.

        The fact's true object is none of these, so that knowing the fact is of no help.
        """
        facts = [fact for case in cases for fact in case.facts]
        stated = torch.tensor([self._number[fact.subcategory, fact.stated] for fact in facts])
        weights = self._weights[[self._group[fact.subcategory] for fact in facts]]
        true = torch.tensor([self._number.get((f.subcategory, f.true), s) for f, s in zip(facts, stated, strict=True)])
        return stated, weights.scatter(1, torch.stack((stated, true), 1), 0.0)


def probe(params: ProbeParams) -> str:
    """Probe every method, save tables and figure; returns the text that the program prints.

    Raises ConfigError for a layer that a backbone has not; DataError, CheckpointError, BackboneError before any work.
    """
    documents, loop = (read_documents_of(params.data.train), read_documents_of(params.data.test)), params.loop
    counts = (loop.train_documents, loop.test_documents)
    drawn = [draw_cases(documents, params.sequences(), counts, seed) for seed in params.seeds]
    for cases in drawn:
        others_of(cases[1])
    for settings in params.methods.values():
        if settings.adapter:
            read_about(settings.adapter)
    objects = Objects([*documents[0], *documents[1]])
    rows = pd.concat([_rows_of(params, method, drawn, objects) for method in params.methods], ignore_index=True)
    merit, about = merit_of_probes(rows)
    figures = list(dict.fromkeys(merit["metric"]))
    bars = merit_bars(merit, params.title, [figure for figure in figures if not figure.endswith("_above_control")])
    for axes in bars.axes:
        axes.axvline(about["Chance, %"].mean(), color=GREY, linestyle=":", linewidth=1.0)
    save_figure(bars, params.output)
    save_tables(merit, params.output, figures, about)
    where = f"The table lies in {params.output}.md and .csv, the figure in {params.output}.png and .svg."
    return "\n".join([params.title, text_table(merit, figures, about), f"{_NOTE} {where}"])


def merit_of_probes(rows: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Figures as `gnm.metrics.figures_of_merit` gives them, with a column `method`; and what else there is to know.

    rows: a row for every fact of every method, as `_rows_of` makes them. Figures of each kind that there is:
    `to_learn`, `to_learn_control` and `to_learn_above_control`, the difference of the two.
    """
    found, about = [], {}
    for method, own in rows.groupby("method", sort=False):
        counts = {}
        for kind in KINDS:
            some = own[own["kind"] == kind]
            if some.empty:
                continue
            right, control = (some[name].to_numpy(dtype=float) for name in ("right", "control"))
            figures = (("", right), ("_control", control), ("_above_control", right - control))
            for name, value in figures:
                mean = bootstrap_mean(value, some["document"].to_numpy())
                found.append((method, f"to_{kind}{name}", None, *mean, len(some), some["document"].nunique()))
            counts[f"Facts to {kind}"] = len(some)
        slots = own.groupby(["seed", "case"])["slots"].first().mean()
        about[method] = {**counts, "Slots": round(slots, 1), "Chance, %": 100 * own["chance"].mean()}
    merit = pd.DataFrame(found, columns=["method", *MERIT_COLUMNS])
    merit = merit.astype({"age": "Int64", "samples": "Int64", "sequences": "Int64"})
    return merit, pd.DataFrame.from_dict(about, orient="index")


def _rows_of(
    params: ProbeParams, method: str, drawn: Sequence[tuple[list[Case], list[Case]]], objects: Objects
) -> pd.DataFrame:
    """A row for every tested fact of every seed, at every layer of one method."""
    device = pick_device(params.backbone.device, params.distributed.cuda_visible_devices)
    settings, at_once = params.method(method), params.loop.documents_at_once
    backbone = load_backbone(**params.backbone_of(method), device=device)
    if settings.adapter:
        _, backbone = load_model(settings.adapter, backbone)
    learner = build_learner(settings, backbone).eval()
    count = len(learner.lm.decoder.layers)
    layers = params.layers or [count // 2]
    if max(layers) >= count:
        raise ConfigError(f"layers: {max(layers)} is none of the {count} layers of {backbone.name}, 0 to {count - 1}")
    cases = [case for parts in drawn for part in parts for case in part]
    learner.check([case.document for case in cases], [case.instruction for case in cases])
    named = last_states(learner, [f" {name}" for _, name in objects.names], layers, at_once)
    documents = {text: number for number, text in enumerate(dict.fromkeys(case.document for case in cases))}
    rows = []
    for seed, parts in zip(params.seeds, drawn, strict=True):
        slots = [written_slots(learner, part, layers, at_once, method) for part in parts]
        phrases = [
            last_states(learner, [fact.phrase for case in part for fact in case.facts], layers, at_once)
            for part in parts
        ]
        other = others_of(parts[1])
        drawing = torch.Generator().manual_seed(random.Random(f"{seed}/candidates").getrandbits(32))
        choice = draw_candidates(*objects.stated_in(parts[1]), params.others, drawing)
        facts = pd.DataFrame(
            [
                (number, documents[case.document], fact.kind, slots[1][number].shape[1])
                for number, case in enumerate(parts[1])
                for fact in case.facts
            ],
            columns=["case", "document", "kind", "slots"],
        ).assign(seed=seed, chance=(1 / choice[1].sum(-1)).numpy())
        for place, layer in enumerate(layers):

            def examples(part: int, memories: Sequence[int] | None = None, place: int = place) -> Examples:
                """Facts of a part, in the memories of their own documents or of those in `memories`."""
                order = range(len(parts[part])) if memories is None else memories
                number = torch.repeat_interleave(torch.tensor([len(case.facts) for case in parts[part]]))
                own = [slots[part][at][place] for at in order]
                return Examples(own, phrases[part][:, place], number, *objects.stated_in(parts[part]))

            trained = fit(examples(0), named[:, place], params.others, params.probe, seed, device)
            right, control = (
                picked(trained, examples(1, memories), named[:, place], *choice, at_once) for memories in (None, other)
            )
            key = with_variant(method, f"layer {layer}" if len(layers) > 1 else "")
            rows.append(facts.assign(method=key, right=right.numpy(), control=control.numpy()))
    return pd.concat(rows, ignore_index=True)


@torch.no_grad()
def written_slots(
    learner: MemoryLearner, cases: Sequence[Case], layers: Sequence[int], at_once: int, label: str = ""
) -> list[Tensor]:
    """What each document, written alone, left in memory at `layers`: [L, S, E] each, on the CPU, in its dtype."""
    found = []
    bar = tqdm(total=len(cases), desc=label, mininterval=5)
    for start in range(0, len(cases), at_once):
        some = cases[start : start + at_once]
        empty = learner.reset(range(start, start + len(some)))
        state = learner.write(empty, [c.document for c in some], [c.instruction for c in some]).state
        own = state.valid & (state.source >= 0)
        found += [state.slots[row, layers][:, own[row]].cpu() for row in range(len(some))]
        bar.update(len(some))
    bar.close()
    return found


@torch.no_grad()
def last_states(learner: MemoryLearner, texts: Sequence[str], layers: Sequence[int], at_once: int) -> Tensor:
    """The input of `layers` at the last token of each text, read at the start of a conversation: [N, L, E], CPU."""
    reader, decoder = learner.reader, learner.lm.decoder
    head, found, each = reader.head(1), [], list(dict.fromkeys(texts))
    for start in range(0, len(each), at_once):
        ids, mask = reader.encode(each[start : start + at_once])
        tap, rows = InputTap(), torch.arange(len(ids), device=ids.device)
        reading, positions = decoder.start(head.rows(torch.zeros_like(rows)), mask[:, None])
        decoder.run(ids[:, None], positions, reading, tap)
        found.append(tap.slots[rows, :, mask.sum(-1) - 1][:, layers].cpu())
    number = {text: place for place, text in enumerate(each)}
    return torch.cat(found)[[number[text] for text in texts]]


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the settings, probe."""
    parser = argparse.ArgumentParser(prog="python -m gnm.analysis.probe", description=__doc__.splitlines()[0])
    add_params_arguments(parser)
    options = parser.parse_intermixed_args(arguments)
    with exit_on_error():
        print(probe(load_params(options.params, ProbeParams, options.overrides, options.block)))


if __name__ == "__main__":
    main()
