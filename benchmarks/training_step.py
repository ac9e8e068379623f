"""Seconds of a training step, ours and the plain one, on the same work: `python benchmarks/training_step.py`.

- The step: 4 sequences of 2 embedded documents, SmolLM2-135M, LoRA on all linear layers, bfloat16.
- Plain: peft's own LoRA arithmetic with float32 adapters under autocast, one row a query, and documents written anew
  for every chunk of two queries, as the paper's schedule does.
- Share: the step's operations (forward, and gradients of activations, which cost as much) a second, against a bfloat16
  matrix product of this machine.
"""

import argparse
import random
import tempfile
import time
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path

import torch
from peft.tuners.lora import Linear as PeftLinear

from gnm.config import load_params
from gnm.data.counterfact import categorise
from gnm.data.documents import make_documents, write_documents
from gnm.data.sources import read_records
from gnm.data.taxonomy import load_taxonomy
from gnm.inference.prompts import block
from gnm.models import flops
from gnm.models.lora import FusedLoraLinear
from gnm.params import TrainParams
from gnm.train import Trainer
from gnm.training.batches import TrainingEpisode, training_batch

CHUNK = 2
SETTINGS = Path(__file__).resolve().parents[1] / "experiments" / "small_exp1" / "params.yaml"


def our_step(trainer: Trainer, batch: list[TrainingEpisode]) -> None:
    (answers, _), sums = trainer.module(batch)
    (answers / sums[1].item()).backward()
    finish(trainer)


def plain_step(trainer: Trainer, batch: list[TrainingEpisode]) -> None:
    learner, length = trainer.module.learner, len(batch[0].steps)
    tokens = sum(len(learner.reader._answer(q)) for e in batch for t in range(length) for q in e.questions(t))
    with plain_lora(), torch.autocast("cpu", torch.bfloat16):
        for t in range(length):
            for start in range(0, max(len(episode.questions(t)) for episode in batch), CHUNK):
                state = learner.reset([episode.seed for episode in batch])
                for steps in zip(*(episode.steps[: t + 1] for episode in batch), strict=True):
                    state = learner.write(state, [s.document for s in steps], [s.instruction for s in steps])
                asked = [(row, q) for row, e in enumerate(batch) for q in e.questions(t)[start : start + CHUNK]]
                prefix = learner.lm.prefix(state).rows(torch.tensor([row for row, _ in asked]))
                total = learner.reader.loss(prefix, [[q] for _, q in asked]).total
                (total / tokens).backward()
    finish(trainer)


def finish(trainer: Trainer) -> None:
    trainer.optimizer.step()
    trainer.optimizer.zero_grad(set_to_none=True)


@contextmanager
def plain_lora():
    ours = FusedLoraLinear.forward
    FusedLoraLinear.forward = PeftLinear.forward
    try:
        yield
    finally:
        FusedLoraLinear.forward = ours


def operations(trainer: Trainer, batch: list[TrainingEpisode]) -> float:
    """Operations that the step needs: each token once forward, once for the gradient of its activations."""
    reader = trainer.module.learner.reader
    config, total, preamble = reader.decoder.config, 0.0, len(reader.chat.preamble)
    for episode in batch:
        seen = preamble
        for t, step in enumerate(episode.steps):
            written = len(reader.chat.encode(block(step.document, step.instruction, "instruction_first")))
            total += flops.forward_flops(config, written, preamble, 0)
            seen += written
            total += flops.forward_flops(config, len(reader._shared), seen, 0)
            for question in episode.questions(t):
                tokens, answer = len(reader._prompt(question)), len(reader._answer(question))
                total += flops.forward_flops(config, tokens + answer - 1, seen + len(reader._shared), answer)
    return 2 * total


def matrix_rate() -> float:
    """Operations a second of a bfloat16 product of 2,048 squared matrices, the best of ten."""
    a, b = (torch.randn(2048, 2048).bfloat16() for _ in range(2))
    return 2 * 2048**3 / min(seconds(lambda: a @ b) for _ in range(10))


def seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=3, help="timed steps of each kind, after one that warms up")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "documents.json"
        facts, taxonomy = categorise(read_records("embedded")), load_taxonomy()
        write_documents(path, make_documents(facts.train, random.Random(0), taxonomy.seen, 60, 3))
        work = [f"data.train=[{path}]", f"data.validation={path}", f"output={folder}", "backbone.device=cpu"]
        work += ["loop.curriculum=null", "loop.documents_per_step=8", "loop.sequence_length=2"]
        trainer = Trainer(load_params(SETTINGS, TrainParams, work, block="train"), "gnm", "benchmark")
    rate = matrix_rate()
    batches = [training_batch(trainer.params, trainer.train, step) for step in range(options.steps)]
    times = {}
    for name, step in (("ours", our_step), ("plain", plain_step)):
        step(trainer, batches[0])
        times[name] = [seconds(lambda: step(trainer, batch)) for batch in batches]  # noqa: B023 - run at once
        print(f"{name:6s} {sum(times[name]) / len(batches):6.2f} s a step, each {[round(t, 2) for t in times[name]]}")
    reached = sum(operations(trainer, batch) for batch in batches) / sum(times["ours"])
    print(f"ratio  {sum(times['ours']) / sum(times['plain']):.3f} (ours / plain)")
    print(f"share  {reached / rate:.2f} of {rate / 1e9:.0f} GFLOP/s (bfloat16 product of this machine)")


if __name__ == "__main__":
    main()
