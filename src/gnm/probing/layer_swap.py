"""Which layers' adapters make a memory selective: `python -m gnm.probing.layer_swap [--params FILE] [key=value ...]`.

- A few layers of one method's adapters get the weights of another's (the ablation's), for writing, for reading, or for
  both; everything else stays. What is lost in accuracy and selectivity says what these layers' adapters do there.
- Each document (`distracted.py`) is written alone; asked are the target, to be answered as stated, and the distractor
  that the other instruction names, to be answered truly.
- Slots are projected to keys and values by the reader, so that its swap reaches them.
- Saved: a row for every question, in `output`/layer_swap/answers.parquet, with run_config.json beside it.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor
from tqdm import tqdm

from gnm.errors import ConfigError
from gnm.inference.questions import Question
from gnm.learners.memory import MemoryLearner
from gnm.memory import MemoryState
from gnm.probing.distracted import DistractedDocument, by_target, read_distracted
from gnm.probing.memory_analysis import AnalysisParams, check_documents, load_learner, save
from gnm.program import run_program

NONE, WRITING, READING, BOTH = "none", "writing", "reading", "both"
"""What a swap is for; `none` is the method as it is."""
ACCURACY, SELECTIVITY = "accuracy", "selectivity"
Adapters = dict[str, Tensor]


def swap_layers(params: AnalysisParams, command: str) -> Path:
    """Swap layer by layer; returns the folder that is written.

    Raises ConfigError, before any work, if the two methods' adapters are not of one shape.
    """
    started, settings = time.time(), params.swap
    groups = by_target(read_distracted(params.documents), settings.documents)
    donor = {name: tensor.detach().clone() for name, tensor in adapters_of(load_learner(params, settings.donor)[0])}
    learner, made_of = load_learner(params, settings.method)
    own = dict(adapters_of(learner))
    if not own or {name: t.shape for name, t in own.items()} != {name: t.shape for name, t in donor.items()}:
        raise ConfigError(
            f"swap: the adapters of {settings.method} and {settings.donor} are not of one shape, or there are none; "
            "name two methods whose adapters have the same rank and the same layers"
        )
    check_documents(learner, groups)
    documents = [each for group in groups for each in group]
    count, step, rows = len(learner.lm.decoder.layers), settings.layers_at_once, []
    blocks = [range(start, min(start + step, count)) for start in range(0, count, step)]
    bar = tqdm(total=-(-len(documents) // params.at_once) * len(blocks), desc="swapped layers", mininterval=5)
    for start in range(0, len(documents), params.at_once):
        some = documents[start : start + params.at_once]
        plain = _written(learner, some)
        rows += _rows(learner, some, plain, NONE, range(0))
        for layers in blocks:
            with swapped(learner, donor, layers):
                other = _written(learner, some)
                rows += _rows(learner, some, plain, READING, layers)
                rows += _rows(learner, some, other, BOTH, layers)
            rows += _rows(learner, some, other, WRITING, layers)
            bar.update()
    bar.close()
    made = {"command": command, "seconds": round(time.time() - started), **made_of}
    return save(params, "layer_swap", "answers", pd.DataFrame(rows), made)


def adapters_of(learner: MemoryLearner) -> Iterator[tuple[str, Tensor]]:
    """The adapters' weights by name: "3.self_attn.q_proj.lora_A.default.weight" is of layer 3."""
    return ((name, part) for name, part in learner.lm.decoder.layers.named_parameters() if ".lora_" in name)


@contextmanager
def swapped(learner: MemoryLearner, donor: Adapters, layers: Sequence[int]) -> Iterator[None]:
    """The learner with the adapters of `donor` in `layers`; its own are put back at the end."""
    changed = {name: part for name, part in adapters_of(learner) if int(name.split(".")[0]) in layers}
    before = {name: part.detach().clone() for name, part in changed.items()}
    _put(changed, donor)
    try:
        yield
    finally:
        _put(changed, before)


@torch.no_grad()
def _written(learner: MemoryLearner, documents: Sequence[DistractedDocument]) -> MemoryState:
    """The memories of documents that are written alone, each under the instruction about its target."""
    texts, instructions = [each.text for each in documents], [each.instruction for each in documents]
    return learner.write(learner.reset(range(len(documents))), texts, instructions).state


@torch.no_grad()
def _rows(
    learner: MemoryLearner, documents: Sequence[DistractedDocument], state: MemoryState, kind: str,
    layers: Sequence[int],
) -> list[dict]:  # fmt: skip
    """A row for each question: whether the expected object scores above the other, and by how much (logits)."""
    rows = []
    first, last = (layers[0], layers[-1]) if len(layers) else (-1, -1)
    answers = learner.answer(learner.lm.attach(state), [questions(each) for each in documents], max_new_tokens=1)
    for document, pair in zip(documents, answers, strict=True):
        for measure, answer in zip((ACCURACY, SELECTIVITY), pair, strict=True):
            margin = answer.target_score - answer.other_score
            row = {"target": document.target, "kind": kind, "first": first, "last": last, "measure": measure}
            rows.append(row | {"right": margin > 0, "margin": margin})
    return rows


def questions(document: DistractedDocument) -> list[Question]:
    """The target, to be answered as the document states, and the named distractor, to be answered truly."""
    target, other = document.statements[document.about], document.statements[document.named]
    return [Question(target.question, target.stated, target.true), Question(other.question, other.true, other.stated)]


@torch.no_grad()
def _put(parts: Adapters, values: Adapters) -> None:
    for name, part in parts.items():
        part.copy_(values[name])


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the settings, swap."""
    run_program("gnm.probing.layer_swap", __doc__, AnalysisParams, swap_layers, arguments)


if __name__ == "__main__":
    main()
