"""Train an adapter: `torchrun --nproc_per_node N -m gnm.train --method NAME [--block B] [key=value ...]`.

- A step draws sequences, writes their documents one after another, and asks queries after each; the loss is the mean
  cross-entropy over answer tokens.
- `loop.through`: gradients reach the writing of the current document only ("last") or of every earlier one ("all").
- Which sequences a step sees is a pure function of seed and step, so a run that was killed goes on to bit-equal
  weights, and the number of processes changes nothing but the order of sums.
"""

import argparse
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import Accelerator
from dvclive import Live
from torch import Tensor, nn
from tqdm import tqdm

from gnm.backbones import load_backbone
from gnm.checkpoints import adapter_state, load_checkpoint, save_adapter, save_checkpoint
from gnm.config import add_params_arguments, load_params
from gnm.data.documents import read_documents
from gnm.data.sequences import asked, draw_twins, evaluation_sequences
from gnm.data.types import NEIGHBOUR, PARAPHRASE, Document, Query
from gnm.data.types import Sequence as DocumentSequence
from gnm.devices import pick_device
from gnm.errors import ConfigError, DataError, exit_on_error
from gnm.learners import Learner, Question, build_learner
from gnm.models.lora import add_lora, renew_effective_weights
from gnm.params import TrainParams
from gnm.provenance import command_line, provenance

_KINDS = ("accuracy", "selectivity", "specificity")
_SUMS = ("loss", "tokens", *_KINDS, *(f"{kind} asked" for kind in _KINDS))


@dataclass(frozen=True)
class Exercise:
    """One sequence as it is trained on: its documents, and the queries asked after each."""

    sequence: DocumentSequence
    queries: tuple[tuple[Query, ...], ...]
    seed: int

    def questions(self, t: int) -> list[Question]:
        """What a learner is asked after document `t`."""
        return [Question.of(query) for query in self.queries[t]]


class TrainingLoss(nn.Module):
    """Writes and asks: the forward pass that DDP and FSDP wrap."""

    def __init__(self, learner: Learner, through: str):
        super().__init__()
        self.learner, self.through = learner, through

    def forward(self, batch: Sequence[Exercise]) -> tuple[Tensor, Tensor]:
        """Sum of the answers' cross-entropy (nats) with gradient, and the sums of _SUMS; sequences are equally long."""
        renew_effective_weights(self.learner)
        state = self.learner.reset([exercise.seed for exercise in batch])
        total, sums = torch.zeros(()), dict.fromkeys(_SUMS, 0.0)
        for t in range(len(batch[0].sequence.steps)):
            if self.through == "last":
                state = self.learner.cut(state)
            steps = [exercise.sequence.steps[t] for exercise in batch]
            state = self.learner.write(state, [s.document for s in steps], [s.instruction for s in steps])
            loss = self.learner.loss(state, [exercise.questions(t) for exercise in batch])
            total = total + loss.total.cpu()
            sums["tokens"] += loss.tokens
            for exercise, row in zip(batch, loss.right, strict=True):
                for query, right in zip(exercise.queries[t], row, strict=True):
                    if kind := _measured(query):
                        sums[f"{kind} asked"] += 1
                        sums[kind] += right
        sums["loss"] = float(total.detach())
        return total, torch.tensor(list(sums.values()), dtype=torch.float64)


class Trainer:
    """A training run; `fit` carries it through."""

    def __init__(self, params: TrainParams, method: str, command: str):
        self.params, self.command = params, command
        learner = params.method(method)
        self.output = params.output / method
        self.train = [document for path in params.data.train for document in read_documents(path)]
        self.validation = validation_exercises(params, read_documents(params.data.validation))
        for step in (0, params.loop.steps - 1):  # documents that give no easy or no later step are refused here
            training_exercises(params, self.train, step)
        device = pick_device(params.backbone.device)
        self.accelerator = Accelerator(cpu=device.type == "cpu")
        self._check_processes()
        self.device = self.accelerator.device
        backbone = load_backbone(**params.backbone_of(method), device=self.device)
        if backbone.memory is not None:
            raise ConfigError(
                f"{backbone.name} is a memory model with adapters of its own, which cannot be trained further yet; "
                "choose a plain decoder as backbone"
            )
        self.parameters = add_lora(backbone.model, params.lora, params.seed)
        self.model = backbone.model
        self.about = {
            "backbone": {"name": backbone.name, "digest": backbone.config_digest, "dtype": params.backbone.dtype},
            "lora": params.lora.model_dump(mode="json"),
            "learner": learner.model_dump(mode="json", exclude={"adapter"}),
            "training": params.model_dump(
                mode="json", exclude={"output", "backbone", "methods", "lora", "distributed"}
            ),
        }
        optimizer = torch.optim.AdamW(
            self.parameters, lr=params.opt.learning_rate, weight_decay=params.opt.weight_decay, fused=True
        )
        loss = TrainingLoss(build_learner(learner, backbone), params.loop.through)
        self.module, self.optimizer = self.accelerator.prepare(loss, optimizer)

    def _check_processes(self) -> None:
        loop, processes = self.params.loop, self.accelerator.num_processes
        fewest = min(loop.sequences_of_step(loop.longest), loop.sequences_of_step(1, easy=True))
        if fewest < processes:
            raise ConfigError(
                f"{processes} processes, but some steps have only {fewest} sequences: start fewer processes or raise "
                "loop.documents_per_step and loop.easy.documents_per_step"
            )

    @property
    def checkpoint(self) -> Path:
        return self.output.parent / f".{self.output.name}-checkpoint"

    def fit(self) -> None:
        """Train to the last step or until validation stops improving; save the best adapter."""
        params, loop, start = self.params, self.params.loop, time.time()
        progress = {"step": 0, "best": None, "best_step": 0, "bad": 0, "seconds": 0.0}
        best = adapter_state(self.model)
        found = load_checkpoint(self.checkpoint, self.model, self.about)
        if found:
            self.optimizer.load_state_dict(found[0]["optimizer"])
            best, progress = found[0]["best"], found[1]
            start -= progress["seconds"]
        main = self.accelerator.is_main_process
        bar = tqdm(total=loop.steps, initial=progress["step"], disable=not main, desc=self.output.name, mininterval=5)
        with _live(self.output, resume=bool(found), enabled=main) as live:
            while progress["step"] < loop.steps and progress["bad"] < loop.patience:
                step = progress["step"]
                means = self.step(step)
                progress |= {"step": step + 1, "seconds": time.time() - start}
                bar.update()
                bar.set_postfix({name: f"{value:.3f}" for name, value in means.items()})
                for name, value in means.items():
                    live.log_metric(f"train/{name}", value)
                live.log_metric("train/seconds", progress["seconds"])
                if (step + 1) % loop.validate_every == 0 or step + 1 == loop.steps:
                    means = self.validate()
                    for name, mean in means.items():
                        live.log_metric(f"validation/{name}", mean)
                    value = means["loss"]
                    better = progress["best"] is None or value < progress["best"]
                    if better:
                        best = adapter_state(self.model)
                        progress |= {"best": value, "best_step": step + 1, "bad": 0}
                    else:
                        progress["bad"] += 1
                if main and ((step + 1) % loop.checkpoint_every == 0):
                    held = {"optimizer": self.optimizer.state_dict(), "best": best}
                    save_checkpoint(
                        self.checkpoint, adapter_state(self.model), params.lora, self.about, held, progress
                    )
                live.next_step()
        if main:
            self._save(best, progress)
        self.accelerator.wait_for_everyone()

    def step(self, step: int) -> dict[str, float]:
        """One optimizer step; returns the means over all processes' questions, as `validate` does."""
        batch = training_exercises(self.params, self.train, step)
        share = self.accelerator.num_processes
        own = batch[self.accelerator.process_index :: share]
        self._set_learning_rate(step)
        self.module.train(False)  # no dropout anywhere: training mode would change nothing but the model's flags
        total, sums = self.module(own)
        everywhere = self.accelerator.reduce(sums.to(self.device))
        # gradients are averaged over processes: scale so that the average is the mean over all tokens
        self.accelerator.backward(total * (share / everywhere[1].item()))
        self.accelerator.clip_grad_norm_(self.parameters, self.params.opt.clip_norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return _means(everywhere)

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """Loss (mean over answer tokens), accuracy, selectivity and specificity on the validation sequences."""
        sums = torch.zeros(len(_SUMS), dtype=torch.float64)
        size = self.params.loop.sequences_of_step(self.params.loop.longest)
        for batch in _batches(self.validation[self.accelerator.process_index :: self.accelerator.num_processes], size):
            sums += self.accelerator.unwrap_model(self.module)(batch)[1]
        return _means(self.accelerator.reduce(sums.to(self.device)))

    def _save(self, best: dict[str, Tensor], progress: dict) -> None:
        made = {
            "command": self.command,
            "seed": self.params.seed,
            "steps": progress["step"],
            "best step": progress["best_step"],
            "validation loss": f"{progress['best']:.4f}",
            "seconds": round(progress["seconds"]),
            "processes": self.accelerator.num_processes,
            **provenance(self.device),
        }
        with torch.no_grad():
            current = dict(self.model.named_parameters())
            for name, value in best.items():
                current[_own_name(name)].copy_(value)
        save_adapter(self.output, self.model, self.params.lora, {**self.about, "made": made})

    def _set_learning_rate(self, step: int) -> None:
        opt, steps = self.params.opt, self.params.loop.steps
        warm = min(1.0, (step + 1) / max(opt.warmup_steps, 1))
        left = 1 - max(0, step - opt.warmup_steps) / max(1, steps - opt.warmup_steps)
        rate = warm * (opt.final_learning_rate + left * (opt.learning_rate - opt.final_learning_rate))
        for group in self.optimizer.param_groups:
            group["lr"] = rate


def training_exercises(params: TrainParams, documents: Sequence[Document], step: int) -> list[Exercise]:
    """The sequences of one step, all of the length that the step drew; a pure function of its arguments."""
    loop = params.loop
    easy = step < loop.easy.steps
    length = 1 if easy else loop.sequence_length
    if not isinstance(length, int):
        length = random.Random(f"{params.seed}/length/{step}").randint(*length)
    if easy:
        documents = [document for document in documents if len(document.fact_ids) <= loop.easy.facts]
        if not documents:
            raise DataError(f"no document of data.train has at most loop.easy.facts = {loop.easy.facts} facts")
    settings = params.sequences("train", length, easy)
    exercises = []
    stride = max(loop.documents_per_step, loop.easy.documents_per_step)
    for place in range(0, loop.sequences_of_step(length, easy), loop.instructions_per_document):
        index = step * stride + place
        twins = draw_twins(documents, settings, params.seed, index, loop.instructions_per_document)
        for seed, sequence in enumerate(twins, index):
            rng = random.Random(f"{params.seed}/questions/{index}")
            queries = tuple(
                tuple(query for _, query in asked(sequence, t, settings, rng)[: loop.max_queries_per_document])
                for t in range(len(sequence.steps))
            )
            exercises.append(Exercise(sequence, queries, seed))
    return exercises


def validation_exercises(params: TrainParams, documents: Sequence[Document]) -> list[Exercise]:
    """Fixed sequences with the held-out phrasing; as long as the longest in training."""
    settings = params.sequences("test", params.loop.longest)
    sequences = evaluation_sequences(documents, settings, params.loop.validation_sequences, params.seed)
    return [
        Exercise(s, tuple(tuple(query for _, query in asked(s, t, settings)) for t in range(len(s.steps))), seed=index)
        for index, s in enumerate(sequences)
    ]


def _measured(query: Query) -> str | None:
    """Which of the figures of facts a query counts in (protocol, section 6)."""
    if query.type == PARAPHRASE and not query.refuse:
        return "accuracy" if query.learn else "selectivity"
    return "specificity" if query.type == NEIGHBOUR and query.learn else None


def _means(sums: Tensor) -> dict[str, float]:
    """Means from the sums of _SUMS; a figure without questions is left out."""
    named = dict(zip(_SUMS, sums.tolist(), strict=True))
    figures = {kind: named[kind] / asked for kind in _KINDS if (asked := named[f"{kind} asked"])}
    return {"loss": named["loss"] / named["tokens"], **figures}


def _batches(items: Sequence, size: int):
    return (items[start : start + size] for start in range(0, len(items), size))


def _own_name(name: str) -> str:
    inner = name.removeprefix("base_model.model.")
    return inner.replace(".lora_A.weight", ".lora_A.default.weight").replace(".lora_B.weight", ".lora_B.default.weight")


def _live(output: Path, resume: bool, enabled: bool) -> Live:
    folder = output.parent / f".{output.name}-live" if enabled else None
    return Live(dir=str(folder), resume=resume, save_dvc_exp=False, report=None, dvcyaml=None)


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the settings, check them, train."""
    parser = argparse.ArgumentParser(prog="python -m gnm.train", description=__doc__.splitlines()[0])
    parser.add_argument("--method", required=True, help="one of the keys of `methods`")
    add_params_arguments(parser)
    options = parser.parse_intermixed_args(arguments)
    with exit_on_error():
        params = load_params(options.params, TrainParams, options.overrides, options.block)
        Trainer(params, options.method, command_line("gnm.train", options)).fit()


if __name__ == "__main__":
    main()
