"""Is what the instruction excludes still in the memory? `python -m gnm.probing.probe [--block B] [key=value ...]`.

- Single documents are written under an instruction; a probe (`probes.py`) is trained to pick each fact's stated object
  out of the slots, on facts to learn and facts to ignore alike, and asked about other facts of other documents.
- Beside every figure stands its control: the same facts asked of the memory of another document. How far the
  probe is above that is what a fact left in memory.
- Of the facts to ignore, those of which no slot was stored are shown once more: what is above the control there, other
  slots tell; the rest was stored by mistake.
- Each seed draws its own documents and trains its own probes; intervals are over documents.
- Written: table (CSV, Markdown) and figure, as `gnm.analysis.report` has them.
- Not covered: what this probe cannot read may still be there, in a form that a stronger one reads.
"""

import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import torch
from pydantic import Field, model_validator

from gnm.config import StrictModel
from gnm.data.sampling import Sampling
from gnm.data.sequences import SequenceSettings
from gnm.data.targets import FORMATTING_TYPES
from gnm.devices import pick_device
from gnm.errors import ConfigError
from gnm.extras import program_imports
from gnm.learners import build_learner, keeps_slots
from gnm.learners.memory import MemoryLearner
from gnm.params import Methods, Positive, TargetSettings
from gnm.probing.facts import Case, Objects, draw_cases, others_of
from gnm.probing.inputs import last_states, read_examples, write_alone
from gnm.probing.probes import ProbeTraining, draw_candidates, fit, picked
from gnm.weights.adapters import read_about
from gnm.weights.backbones import load_backbone
from gnm.weights.pretrained import load_model

with program_imports(__name__):
    import pandas as pd

    from gnm.analysis.figures import metric_bars
    from gnm.analysis.saved import split_method
    from gnm.analysis.style import BLACK, save_figure, with_variant
    from gnm.analysis.tables import save_tables, text_table
    from gnm.evaluate import read_documents_of
    from gnm.metrics import METRIC_COLUMNS, bootstrap_mean
    from gnm.program import run_program

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


class ProbeDocuments(StrictModel):
    """Documents of each seed to train on and to test on, and how many are written side by side."""

    train: Positive
    test: Annotated[int, Field(gt=1)]
    at_once: Positive


class ProbeParams(Methods):
    """Which memories are probed, at which layers (None: the middle one), for which facts.

    others: objects of the same subcategory that the stated one is to be told from.
    """

    seeds: Annotated[list[int], Field(min_length=1)]
    data: ProbeData
    targets: TargetSettings
    documents: ProbeDocuments
    layers: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)] | None = None
    others: Positive
    probe: ProbeTraining = ProbeTraining()
    title: str
    output: Path = Field(description="figure and tables, without their suffixes")

    @model_validator(mode="after")
    def _can_be_probed(self) -> "ProbeParams":
        if not self.methods:
            raise ValueError("methods is empty; name at least one memory to probe")
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


def probe_memories(params: ProbeParams) -> str:
    """Probe every method, save tables and figure; returns the text that the program prints.

    Raises ConfigError for a layer that a backbone has not; DataError, CheckpointError, BackboneError before any work.
    """
    documents = (read_documents_of(params.data.train), read_documents_of(params.data.test))
    counts = (params.documents.train, params.documents.test)
    drawn = [draw_cases(documents, params.sequences(), counts, seed) for seed in params.seeds]
    for cases in drawn:
        others_of(cases[1])
    for settings in params.methods.values():
        if settings.adapter:
            read_about(settings.adapter)
    objects = Objects([*documents[0], *documents[1]])
    rows = pd.concat([_rows_of(params, method, drawn, objects) for method in params.methods], ignore_index=True)
    metrics, about = metrics_of_probes(rows)
    figures = list(dict.fromkeys(metrics["metric"]))
    shown = [figure for figure in figures if not figure.endswith("_above_control")]
    bars = metric_bars(metrics, f"{params.title}\n(dotted: chance)", shown)
    for axes in bars.axes:
        axes.axvline(about["Chance, %"].mean(), color=BLACK, linestyle=":", linewidth=1.2)
    save_figure(bars, params.output)
    save_tables(metrics, params.output, figures, about)
    where = f"The table lies in {params.output}.md and .csv, the figure in {params.output}.png and .svg."
    return "\n".join([params.title, text_table(metrics, figures, about), f"{_NOTE} {where}"])


def metrics_of_probes(rows: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Figures as `gnm.metrics.metrics_of_records` gives them, with a column `method`; and what else there is to know.

    rows: a row for every fact of every method, as `_rows_of` makes them. Figures of each kind that there is:
    `to_learn`, `to_learn_control` and `to_learn_above_control`, the difference of the two.
    """
    found, about = [], {}
    for method, own in rows.groupby("method", sort=False):
        counts = {}
        groups = {kind: own[own["kind"] == kind] for kind in KINDS}
        groups["ignore_not_stored"] = groups["ignore"][~groups["ignore"]["stored"].astype(bool)]
        for kind, some in groups.items():
            if some.empty:
                continue
            right, control = (some[name].to_numpy(dtype=float) for name in ("right", "control"))
            figures = (("", right), ("_control", control), ("_above_control", right - control))
            for name, value in figures:
                mean = bootstrap_mean(value, some["document"].to_numpy())
                found.append((method, f"to_{kind}{name}", None, *mean, len(some), some["document"].nunique()))
            counts[f"Facts to {kind.replace('_', ' ')}"] = len(some)
        slots = own.groupby(["seed", "case"])["slots"].first().mean()
        about[method] = {**counts, "Slots": round(slots, 1), "Chance, %": 100 * own["chance"].mean()}
    metrics = pd.DataFrame(found, columns=["method", *METRIC_COLUMNS])
    metrics = metrics.astype({"age": "Int64", "samples": "Int64", "sequences": "Int64"})
    return metrics, pd.DataFrame.from_dict(about, orient="index")


def _rows_of(
    params: ProbeParams, method: str, drawn: Sequence[tuple[list[Case], list[Case]]], objects: Objects
) -> pd.DataFrame:
    """A row for every tested fact of every seed, at every layer of one method."""
    device = pick_device(params.backbone.device, params.distributed.cuda_visible_devices)
    learner, at_once = _learner_of(params, method, device), params.documents.at_once
    count = len(learner.lm.decoder.layers)
    layers = params.layers or [count // 2]
    if max(layers) >= count:
        raise ConfigError(f"layers: {method} has no layer {max(layers)}; its layers are 0 to {count - 1}")
    cases = [case for parts in drawn for part in parts for case in part]
    learner.check([case.document for case in cases], [case.instruction for case in cases])
    documents = {text: number for number, text in enumerate(dict.fromkeys(case.document for case in cases))}
    named = last_states(learner, [f" {name}" for _, name in objects.names], layers, at_once)
    rows = []
    for seed, (to_train, to_test) in zip(params.seeds, drawn, strict=True):
        learned = write_alone(learner, to_train, layers, at_once, f"{method}, to train on")
        written = write_alone(learner, to_test, layers, at_once, f"{method}, to test on")
        trained_on = read_examples(learner, to_train, learned, objects, layers, at_once)
        tested_on = read_examples(learner, to_test, written, objects, layers, at_once)
        drawing = torch.Generator().manual_seed(random.Random(f"{seed}/candidates").getrandbits(32))
        choice = draw_candidates(*objects.stated_in(to_test), params.others, drawing)
        facts = [
            {"seed": seed, "case": number, "document": documents[case.document], "kind": fact.kind,
             "stored": stored, "slots": left.slots.shape[1]}
            for number, (case, left) in enumerate(zip(to_test, written, strict=True))
            for fact, stored in zip(case.facts, left.facts, strict=True)
        ]  # fmt: skip
        facts = pd.DataFrame(facts).assign(chance=(1 / choice[1].sum(-1)).numpy())
        for place, layer in enumerate(layers):
            probe = fit(trained_on[place], named[:, place], params.others, params.probe, seed, device)
            own = tested_on[place]
            other = replace(own, slots=[own.slots[number] for number in others_of(to_test)])
            right, control = (picked(probe, each, named[:, place], *choice, at_once).numpy() for each in (own, other))
            base, variant = split_method(method)
            apart = [variant] * bool(variant) + [f"layer {layer}"] * (len(layers) > 1)
            key = with_variant(base, ", ".join(apart))
            rows.append(facts.assign(method=key, right=right, control=control))
    return pd.concat(rows, ignore_index=True)


def _learner_of(params: ProbeParams, method: str, device: torch.device) -> MemoryLearner:
    settings = params.method(method)
    backbone = load_backbone(**params.backbone_of(method), device=device)
    if settings.adapter:
        _, backbone = load_model(settings.adapter, backbone)
    return build_learner(settings, backbone).eval()


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the settings, probe."""
    run_program("gnm.probing.probe", __doc__, ProbeParams, lambda params, _: print(probe_memories(params)), arguments)


if __name__ == "__main__":
    main()
