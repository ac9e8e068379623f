"""What written slots look like, layer by layer: `python -m gnm.probing.memory_analysis --method M [key=value ...]`.

Each document (`distracted.py`) is written alone into a new memory, once under each of its two instructions; measures
(`layer_measures.py`) are saved as a row for every target and layer, in `output`/M/layers.parquet, with run_config.json
beside it. `gnm.analysis.memory` makes tables and figures of them. The settings are also those of `layer_swap.py`.
"""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
import torch
from pydantic import Field, model_validator
from tqdm import tqdm

from gnm.config import StrictModel
from gnm.devices import pick_device
from gnm.files import atomic_folder, write_json
from gnm.learners import build_learner, keeps_slots
from gnm.learners.memory import MemoryLearner
from gnm.metrics.records import write_table
from gnm.params import MethodName, Methods, Positive
from gnm.probing.distracted import DistractedDocument, by_target, read_distracted
from gnm.probing.inputs import last_states
from gnm.probing.layer_measures import directions_between, measures_of
from gnm.probing.line_slots import write_lines
from gnm.program import run_method
from gnm.provenance import provenance
from gnm.weights.backbones import load_backbone
from gnm.weights.pretrained import load_model


class SwapSettings(StrictModel):
    """The layer swap: `layers_at_once` neighbouring layers of `method` get the adapters that `donor` has there.

    documents: how many of each target are written.
    """

    method: MethodName
    donor: MethodName
    layers_at_once: Positive
    documents: Positive


class AnalysisParams(Methods):
    """params.yaml of a memory analysis. documents: the file that `gnm.probing.distracted` writes.

    at_once: documents written side by side, which changes speed and memory only. components: singular values whose
    share of the variance is measured.
    """

    documents: Path
    at_once: Positive
    components: Annotated[int, Field(gt=0)] = 10
    swap: SwapSettings
    output: Path

    @model_validator(mode="after")
    def _memories_of_slots(self) -> "AnalysisParams":
        for name, settings in self.methods.items():
            if not keeps_slots(settings.method):
                raise ValueError(f"methods.{name}: {settings.method!r} has no memory of slots; leave it out")
        for name in (self.swap.method, self.swap.donor):
            if name not in self.methods:
                raise ValueError(f"swap: {name!r} is none of methods; they are: {', '.join(self.methods)}")
        return self


def analyse(params: AnalysisParams, method: str, command: str) -> Path:
    """Measure one method's slots; returns the folder that is written."""
    started = time.time()
    groups = by_target(read_distracted(params.documents))
    learner, made_of = load_learner(params, method)
    check_documents(learner, groups)
    rows = []
    for group in tqdm(groups, desc=method, mininterval=5):
        for name, by_layer in _measured(learner, group, params).items():
            rows += [(group[0].target, layer, name, value) for layer, value in enumerate(by_layer.tolist())]
    frame = pd.DataFrame(rows, columns=["target", "layer", "measure", "value"])
    made = {"command": command, "seconds": round(time.time() - started), **made_of}
    return save(params, method, "layers", frame, made)


def load_learner(params: AnalysisParams, method: str) -> tuple[MemoryLearner, dict[str, Any]]:
    """The learner of one method, with its adapter, and what it was made of, for run_config.json."""
    settings, device = params.method(method), pick_device(params.backbone.device, None)
    backbone = load_backbone(**params.backbone_of(method), device=device)
    adapter = None
    if settings.adapter:
        adapter, backbone = load_model(settings.adapter, backbone)
    made_of = {"backbone_digest": backbone.config_digest, "adapter": adapter, **provenance(device)}
    return build_learner(settings, backbone).eval(), made_of


def check_documents(learner: MemoryLearner, groups: Sequence[Sequence[DistractedDocument]]) -> None:
    """Raise a GNMError if a document can never be written under one of its instructions."""
    every = [each for group in groups for each in group]
    learner.check([each.text for each in every] * 2, [e.instruction for e in every] + [e.swapped for e in every])


def save(params: AnalysisParams, name: str, table: str, frame: pd.DataFrame, made: dict[str, Any]) -> Path:
    """Write `output`/NAME with TABLE.parquet and run_config.json, whole or not at all; returns the folder."""
    folder = params.output / name
    with atomic_folder(folder) as new:
        write_table(new / f"{table}.parquet", frame)
        write_json(new / "run_config.json", params.model_dump(mode="json") | {"made": made})
    return folder


def _measured(
    learner: MemoryLearner, group: Sequence[DistractedDocument], params: AnalysisParams
) -> dict[str, torch.Tensor]:
    """The measures of one target's documents by layer."""
    layers = range(len(learner.lm.decoder.layers))
    original, swapped = (
        write_lines(learner, group, [getattr(each, name) for each in group], params.at_once)
        for name in ("instruction", "swapped")
    )
    targets, named = (
        last_states(learner, [f" {each.statements[getattr(each, place)].stated}" for each in group], layers,
                    params.at_once).float()
        for place in ("about", "named")
    )  # fmt: skip
    fixed = learner.lm.write_settings.tap == "outputs"
    return measures_of(group, original, swapped, directions_between(targets, named), params.components, fixed)


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the settings, measure one method."""
    run_method("gnm.probing.memory_analysis", __doc__, AnalysisParams, analyse, arguments)


if __name__ == "__main__":
    main()
