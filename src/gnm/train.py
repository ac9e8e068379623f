"""Train a method: `torchrun --nproc_per_node N -m gnm.train --method NAME [--block B] [key=value ...]`.

- A step draws episodes, writes their documents one after another, and asks queries after each document. The loss is
  the mean cross-entropy over the answers' tokens, and a loss of the method's own if it has one (write gates).
- `loop.gradients_through` says how far gradients go back: to the writing of the current document ("last"), or of every
  earlier document too ("all").
- The episodes of a step are a pure function of seed and step. So a run that was killed and is started again with the
  same number of processes ends with the same weights, bit for bit. Another number changes only the order of sums.
"""

import time
from collections.abc import Sequence
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs
from torch.utils.data import DataLoader
from tqdm import tqdm

from gnm.devices import pick_device
from gnm.errors import ConfigError
from gnm.learners import build_learner
from gnm.models.lora import SELECTOR, keep_adapters_apart, layers_of
from gnm.models.sharding import shard_backbone
from gnm.params import TrainParams
from gnm.program import run_method
from gnm.provenance import provenance
from gnm.training.batches import Material, TrainingEpisode, TrainingSteps, training_batch, validation_episodes
from gnm.training.log import TrainingLog
from gnm.training.loss import SUMS, TrainingLoss, means_of
from gnm.training.moving_average import MovingAverage
from gnm.training.optimizer import build_optimizer, set_learning_rate
from gnm.training.starting_point import starting_point
from gnm.weights.adapter_info import AdapterInfo, BackboneInfo
from gnm.weights.adapters import load_checkpoint, save_adapter, save_checkpoint
from gnm.weights.backbones import load_backbone
from gnm.weights.trained import ADAPTERS, MODULE, Weights, copied, trained_parameters


class Trainer:
    """One training run of one method.

        Trainer(params, "gnm", "python -m gnm.train --method gnm").fit()

    params: the settings of all methods. method: the name of the one to train. command: the command line of the run; it
    is recorded in the adapter.
    Raises ConfigError, DataError, BackboneError or CheckpointError before the first step.
    """

    def __init__(self, params: TrainParams, method: str, command: str):
        self.params, self.command = params, command
        settings = params.method(method)
        self.output = params.output / method
        people = params.people
        written = people and people.written
        self.train = Material.read(params.data.train, people and people.train, written and written.train)
        self.validation = validation_episodes(
            params,
            Material.read([params.data.validation], people and people.validation, written and written.validation),
        )
        # too few documents raise here: for the first step, which the curriculum draws if there is one, or for the last
        for step in (0, params.loop.steps - 1):
            training_batch(params, self.train, step)
        # settings that train the write gates in steps without questions
        gates_alone = {"selection_only": params.selection_only, "loop.answers_every": params.loop.answers_every > 1}
        for key in (key for key, is_set in gates_alone.items() if is_set and not settings.selects):
            raise ConfigError(
                f"{key}: {settings.method} has no gates to train alone; leave it out, or set write.gates and "
                "write.reads: nothing"
            )
        device = pick_device(params.backbone.device, params.distributed.cuda_visible_devices)
        torch.backends.cuda.matmul.allow_tf32 = True  # faster float32 products on a GPU: adapters, logits
        ddp = DistributedDataParallelKwargs()
        self.accelerator = Accelerator(cpu=device.type == "cpu", kwargs_handlers=[ddp])
        self._check_processes()
        self.device = self.accelerator.device
        self.provenance = provenance(self.device)
        backbone = load_backbone(**params.backbone_of(method), device=self.device)
        backbone, self.lora, start = starting_point(backbone, settings, params)
        learner = build_learner(settings, backbone, training=True, seed=params.seed)
        if self.lora is None and learner.needs_adapter:
            raise ConfigError(f"lora is missing: {backbone.name} has no adapters of its own to train")
        learner.checkpoint_gradients(params.loop.gradient_checkpointing)
        self.parts = trained_parameters(backbone.model, learner.own_parameters())
        adapters = {SELECTOR} if params.selection_only else {*ADAPTERS} if params.train_adapters else set()
        if params.answers_only or not settings.learns_gates:
            adapters -= {SELECTOR}  # without learned gates no pass uses the selector, so it would get no gradient
        fixed = learner.selecting_parameters() if params.answers_only else set()
        if params.answers_only and not fixed:
            raise ConfigError(f"answers_only: {settings.method} has no gates that select; leave it out")
        learned = {
            part: {name: value for name, value in named.items() if part != MODULE or name not in fixed}
            for part, named in self.parts.items()
            if part in {*adapters, MODULE}
        }
        for part in adapters & {*learned}:
            above = {name: value for name, value in learned[part].items() if layers_of([name]) > params.first_layer}
            if not above:
                raise ConfigError(
                    f"first_layer: {params.first_layer} leaves no layer of the adapter {part!r} to train; its layers "
                    f"are 0 to {layers_of(self.parts[part]) - 1}"
                )
            learned[part] = above
        if not learned:
            raise ConfigError(f"train_adapters: {settings.method} has nothing but adapters to train; leave it true")
        for part, named in self.parts.items():
            for name, parameter in named.items():
                parameter.requires_grad_(name in learned.get(part, {}))
        self.parameters = [parameter for named in learned.values() for parameter in named.values()]
        self.about = AdapterInfo(
            backbone=BackboneInfo(name=backbone.name, digest=backbone.config_digest, dtype=params.backbone.dtype),
            lora=self.lora,
            learner=settings.model_dump(mode="json", exclude={"adapter"}),
            training=params.model_dump(mode="json", exclude={"output", "backbone", "methods", "lora", "distributed"}),
            **start,
        ).as_json()
        # parameters without a gradient: all above the gates' layer in a step without questions, and the selector's, if
        # it has layers above the gates' layer
        stops_early = params.loop.answers_every > 1 or SELECTOR in learned
        ddp.find_unused_parameters = stops_early or not learner.trains_all
        self.module = TrainingLoss(learner, params.loop.gradients_through)
        self.sharded = params.distributed.shard and self.accelerator.num_processes > 1
        if self.sharded:
            if not learner.same_passes:
                raise ConfigError(
                    f"distributed.shard: {settings.method} takes other passes on each process; leave it false"
                )
            keep_adapters_apart(backbone.model)
            shard_backbone(self.module, backbone.model, self.accelerator.num_processes, self.device)
        else:
            self.module = self.accelerator.prepare(self.module)
        self.optimizer = self.accelerator.prepare(build_optimizer(learned, params.opt, self.device))

    def _check_processes(self) -> None:
        """Raise ConfigError if a step has fewer sequences than there are processes."""
        loop, processes = self.params.loop, self.accelerator.num_processes
        fewest = loop.fewest_sequences
        if fewest < processes:
            raise ConfigError(
                f"{processes} processes, but some steps have only {fewest} sequences: start fewer processes or raise "
                "loop.documents_per_step and loop.curriculum.documents_per_step"
            )

    @property
    def checkpoint(self) -> Path:
        """The hidden folder beside the output where a run saves its checkpoints."""
        return self.output.parent / f".{self.output.name}-checkpoint"

    def fit(self) -> None:
        """Train to the last step, or until validation stops improving, and save the best adapter.

        If a killed run with the same settings left a checkpoint, training goes on from it.
        progress["bad"] counts the validations without improvement since the best one.
        """
        loop, started = self.params.loop, time.time()
        progress = {"step": 0, "best": None, "best_step": 0, "bad": 0, "seconds": 0.0}
        best, average = copied(self.parts), MovingAverage(self.parts, self.params.opt.moving_average)
        found = load_checkpoint(self.checkpoint, self.parts, self.about)
        if found:
            held, progress = found
            self.optimizer.load_state_dict(held["optimizer"])
            best, average.weights = held["best"], held["average"]
            started -= progress["seconds"]
        main = self.accelerator.is_main_process
        bar = tqdm(total=loop.steps, initial=progress["step"], disable=not main, desc=self.output.name, mininterval=5)
        with TrainingLog(self.output, progress["step"], enabled=main) as live:
            drawn = iter(self.steps_from(progress["step"]))
            while progress["step"] < loop.steps and progress["bad"] < loop.patience:
                step = progress["step"]
                means = self.step(step, next(drawn))
                average.update()
                progress |= {"step": step + 1, "seconds": time.time() - started}
                bar.update()
                bar.set_postfix({name: f"{value:.3f}" for name, value in means.items()})
                live.log("train", means | {"seconds": progress["seconds"]})
                if (step + 1) % loop.validate_every == 0 or step + 1 == loop.steps:
                    with average.in_place() as averaged:
                        means = self.validate()
                    live.log("validation", means)
                    value = means["write_loss" if self.params.selection_only else "loss"]
                    better = progress["best"] is None or value < progress["best"]
                    if better:
                        best = averaged
                        progress |= {"best": value, "best_step": step + 1, "bad": 0}
                    else:
                        progress["bad"] += 1
                if main and ((step + 1) % loop.checkpoint_every == 0):
                    held = {"optimizer": self.optimizer.state_dict(), "best": best, "average": average.weights}
                    save_checkpoint(self.checkpoint, copied(self.parts), self.lora, self.about, held, progress)
                live.next_step()
        if main:
            self._save(best, progress)
        self.accelerator.wait_for_everyone()

    def steps_from(self, first: int) -> DataLoader:
        """The batches of step `first` and of all later steps, drawn ahead by `distributed.drawers` processes."""
        steps = TrainingSteps(self.params, self.train)
        left = range(first, self.params.loop.steps)
        return DataLoader(steps, None, sampler=left, num_workers=self.params.distributed.drawers)

    def step(self, step: int, batch: Sequence[TrainingEpisode] | None = None) -> dict[str, float]:
        """One optimizer step. Returns the means over the questions of all processes, as `validate` does.

        batch: the step's episodes, of all processes; None: they are drawn here.
        """
        batch = training_batch(self.params, self.train, step) if batch is None else batch
        num_processes = self.accelerator.num_processes
        own = batch[self.accelerator.process_index :: num_processes]
        set_learning_rate(self.optimizer, self.params.opt, step, self.params.loop.steps)
        self.module.train(False)  # no dropout anywhere: training mode would change nothing but the model's flags
        losses, sums = self.module(own, self.params.asks(step))  # losses: sums over answers' tokens, and over documents
        everywhere = self.accelerator.reduce(sums.to(self.device))
        counts = torch.tensor([everywhere[SUMS.index(name)].item() for name in ("tokens", "documents")])
        # gradients are averaged over processes: scale so that the average is the mean over all tokens and documents
        self.accelerator.backward((losses / counts.clamp(min=1)).sum() * num_processes)
        if self.sharded:
            for parameter in (p for p in self.parameters if p.grad is not None):
                parameter.grad = self.accelerator.reduce(parameter.grad, "mean")
        self.accelerator.clip_grad_norm_(self.parameters, self.params.opt.clip_norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return means_of(everywhere)

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """Loss (mean over the answers' tokens), accuracy, selectivity and specificity on the validation episodes."""
        sums = torch.zeros(len(SUMS), dtype=torch.float64)
        size, processes = self.params.loop.sequences_of_step(self.params.loop.longest), self.accelerator.num_processes
        batches = list(_batches(self.validation, size))
        for first in range(0, len(batches), processes):
            place = first + self.accelerator.process_index
            # a process whose batches run out reads the last one again, uncounted: with a sharded backbone the others
            # need its share of the weights in every pass
            batch = batches[min(place, len(batches) - 1)]
            found = self.accelerator.unwrap_model(self.module)(batch, not self.params.selection_only)[1]
            sums += found if place < len(batches) else 0
        return means_of(self.accelerator.reduce(sums.to(self.device)))

    def _save(self, best: Weights, progress: dict) -> None:
        made = {
            "command": self.command,
            "seed": self.params.seed,
            "steps": progress["step"],
            "best step": progress["best_step"],
            "validation loss": f"{progress['best']:.4f}",
            "seconds": round(progress["seconds"]),
            "processes": self.accelerator.num_processes,
            **self.provenance,
        }
        save_adapter(self.output, best, self.lora, {**self.about, "made": made})


def _batches(items: Sequence, size: int):
    return (items[start : start + size] for start in range(0, len(items), size))


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the settings, check them, train."""
    run_method("gnm.train", __doc__, TrainParams, lambda *given: Trainer(*given).fit(), arguments)


if __name__ == "__main__":
    main()
