"""Many processes: the same results as one, a share of the weights each, a kill that loses nothing, two machines."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
import torch
import yaml
from safetensors.torch import load_file
from torch.distributed.tensor import DTensor

from gnm import evaluate as evaluation
from gnm.config import validate
from gnm.errors import ConfigError
from gnm.learners import LearnerSettings, build_learner
from gnm.metrics.records import read_records
from gnm.models.lora import LoraSettings, add_lora, add_selector
from gnm.params import TrainParams
from gnm.train import Trainer
from gnm.weights.adapters import save_adapter
from gnm.weights.backbones import load_backbone
from gnm.weights.trained import WEIGHTS, copied, read_weights, trained_parameters
from processes import free_port, in_processes
from small_runs import evaluate_params, evaluate_settings, train_params, train_settings, write_small_documents


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return write_small_documents(tmp_path_factory.mktemp("documents"))


# --- the same results


def evaluated(data: Path, output: Path, method: str) -> None:
    evaluation.evaluate(evaluate_params(data, output, sequences=5, sequences_at_once=1), method, "a test")


@pytest.mark.parametrize("method", ["memoryllm", "dummy"])
def test_an_evaluation_is_the_same_on_any_number_of_processes(data, tmp_path, method):
    """Five sequences do not divide among two or four processes."""
    for count in (1, 2, 4):
        in_processes(count, evaluated, data, tmp_path / str(count), method)
    one, *others = (tmp_path / str(count) / method for count in (1, 2, 4))
    for other in others:
        for name in ("summary.json", "counts.json"):
            assert (one / name).read_text() == (other / name).read_text()
        pd.testing.assert_frame_equal(read_records(one / "records.parquet"), read_records(other / "records.parquet"))
        assert json.loads((other / "run_config.json").read_text())["made"]["processes"] == int(other.parent.name)


def gradients(data: Path, output: Path, method: str, shard: bool = False) -> dict:
    """Of one training step, with weights away from where they start; and a validation's means."""
    params = train_params(
        data, output, curriculum=None, documents_per_step=8, sequence_length=2, validation_sequences=5
    )
    params = params.model_copy(update={"distributed": params.distributed.model_copy(update={"shard": shard})})
    run = Trainer(params, method, "a test")
    with torch.no_grad():
        for parameter in run.parameters:
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    found = []
    run.optimizer.step = lambda: found.extend(p.grad.clone().numpy() for p in run.parameters)
    held = sum(p.to_local().numel() if isinstance(p, DTensor) else p.numel() for p in run.module.parameters())
    validated = run.validate()
    return {"means": run.step(0), "gradients": found, "validated": validated, "held": held}


@pytest.mark.parametrize("method", ["gnm", "gnm_ablation", "in_context_ft"])
def test_a_training_step_has_the_same_gradients(data, tmp_path, method):
    one = in_processes(1, gradients, data, tmp_path, method)[0]
    for count in (2, 4):
        for other in in_processes(count, gradients, data, tmp_path, method):
            compare(one, other)


@pytest.mark.parametrize("method", ["gnm", "in_context_ft"])
def test_a_shared_out_backbone_has_the_same_gradients_and_takes_less(data, tmp_path, method):
    one = in_processes(1, gradients, data, tmp_path, method)[0]
    for count in (2, 3):
        for other in in_processes(count, gradients, data, tmp_path, method, True):
            compare(one, other)
            assert other["held"] < one["held"] * (0.25 + 1 / count)


def trained_with_selector(data: Path, output: Path, changes: dict, loop: dict) -> set[str]:
    """Parts that two steps and a validation on the adapter of `output`/first change."""
    settings = train_settings(data, output / "second") | {"lora": None} | changes
    settings["loop"] |= {"steps": 2, "curriculum": None, "sequence_length": 1, **loop}
    (name,) = settings["methods"]
    run = Trainer(validate(settings, TrainParams, "test"), name, "a test")
    before = copied(run.parts)
    run.fit()
    saved = {part: read_weights(output / "second" / name, part) for part in before}
    return {
        part
        for part, tensors in before.items()
        if any(not torch.equal(tensor.bfloat16(), saved[part][each].bfloat16()) for each, tensor in tensors.items())
    }


SELECTS = {"method": "gnm", "write": {"reads": "nothing", "gates": {"threshold": 0.0}}}
WITH_SELECTOR = {
    "selecting alone": (SELECTS, {"selection_only": True}, {}, {"selector", "memory_module"}),
    "selecting alone, shared out": (
        SELECTS,
        {"selection_only": True, "distributed": {"shard": True}},
        {},
        {"selector", "memory_module"},
    ),
    "some steps ask": (SELECTS, {}, {"answers_every": 2}, {"default", "selector", "memory_module"}),
    "does not select": ({"method": "in_context_ft"}, {}, {}, {"default"}),
}


@pytest.mark.parametrize("case", WITH_SELECTOR)
def test_an_adapter_with_a_selector_is_trained_on_by_two_processes(data, tmp_path, case):
    method, changes, loop, changed = WITH_SELECTOR[case]
    backbone = load_backbone("tiny", dtype="float32")
    lora = LoraSettings(r=4, alpha=8)
    add_lora(backbone.model, lora, seed=0)
    add_selector(backbone.model, lora, 2)
    learner = build_learner(validate(SELECTS, LearnerSettings, "test"), backbone, training=True)
    about = {
        "backbone": {"name": "tiny", "digest": backbone.config_digest, "dtype": "float32"},
        "lora": lora.model_dump(mode="json"),
        "learner": SELECTS,
    }
    save_adapter(tmp_path / "first", copied(trained_parameters(backbone.model, learner.own_parameters())), lora, about)
    changes = {**changes, "methods": {"m": {**method, "adapter": str(tmp_path / "first")}}}
    assert in_processes(2, trained_with_selector, data, tmp_path, changes, loop) == [changed, changed]


def compare(one: dict, other: dict) -> None:
    assert other["means"] == pytest.approx(one["means"], rel=1e-6)
    assert other["validated"] == pytest.approx(one["validated"], rel=1e-6)
    largest = max(abs(gradient).max() for gradient in one["gradients"])
    for left, right in zip(one["gradients"], other["gradients"], strict=True):
        assert abs(left - right).max() < 1e-6 * max(1, largest)


def refused(data: Path, output: Path) -> str:
    try:
        gradients(data, output, "retrieval_ft", True)
    except ConfigError as error:
        return str(error)
    return "nothing"


def test_retrieval_is_not_shared_out(data, tmp_path):
    assert all("takes other passes" in said for said in in_processes(2, refused, data, tmp_path))


# --- torchrun


def torchrun(arguments: list[str], folder: Path, *options: str) -> subprocess.Popen:
    """torchrun in `folder`, with gnm's module and `arguments`."""
    source = str(Path(evaluation.__file__).parents[1])
    command = [sys.executable, "-m", "torch.distributed.run", *(options or ("--standalone", "--nproc_per_node", "2"))]
    return subprocess.Popen(
        [*command, "-m", *arguments], cwd=folder, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        env={**os.environ, "PYTHONPATH": source},
    )  # fmt: skip


def test_a_killed_process_ends_the_run_and_the_same_command_goes_on(data, tmp_path):
    """To weights that are equal to the bit to those of an undisturbed run on as many processes."""
    settings = train_settings(data, tmp_path / "killed")
    settings["loop"] |= {"steps": 40, "validate_every": 20, "checkpoint_every": 4}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(settings))
    command = ["gnm.train", "--method", "gnm"]
    run, checkpoint = torchrun(command, tmp_path), tmp_path / "killed" / ".gnm-checkpoint"
    deadline = time.time() + 120
    while not checkpoint.exists() and run.poll() is None and time.time() < deadline:
        time.sleep(0.05)
    victim = rank_of(run.pid, 1)
    os.kill(victim, signal.SIGKILL)
    said = run.communicate(timeout=120)[0]
    assert run.returncode != 0 and f"pid: {victim}" in said and "rank      : 1" in said, said
    at = json.loads((checkpoint / "progress.json").read_text())["step"]
    assert at < 40

    run = torchrun(command, tmp_path)
    assert run.wait(timeout=200) == 0, run.communicate()[0]
    in_processes(2, undisturbed, settings | {"output": str(tmp_path / "whole")})
    whole, resumed = (load_file(tmp_path / name / "gnm" / WEIGHTS) for name in ("whole", "killed"))
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    assert {path.name for path in tmp_path.iterdir()} == {"params.yaml", "killed", "whole"}


def undisturbed(settings: dict) -> None:
    Trainer(validate(settings, TrainParams, "test"), "gnm", "a test").fit()


def rank_of(agent: int, rank: int) -> int:
    """The process id of a rank that torchrun started."""
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            variables = dict(part.split("=", 1) for part in path.read_text().split("\0") if "=" in part)
            parent = int(Path(path.parent / "stat").read_text().rsplit(")", 1)[1].split()[1])
        except (OSError, UnicodeDecodeError):
            continue
        if parent == agent and variables.get("RANK") == str(rank):
            return int(path.parent.name)
    raise AssertionError(f"no process of rank {rank} under {agent}")


def test_two_machines_evaluate_as_one(data, tmp_path):
    """Two groups of processes that meet on loopback, started as the README says."""
    settings = evaluate_settings(data, tmp_path / "two")
    settings["loop"]["sequences_at_once"] = 1
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(settings))
    port = free_port()
    common = ("--nnodes", "2", "--nproc_per_node", "1", "--master_addr", "127.0.0.1", "--master_port", str(port))
    runs = [
        torchrun(["gnm.evaluate", "--method", "memoryllm"], tmp_path, *common, "--node_rank", str(node))
        for node in range(2)
    ]
    for run in runs:
        said = run.communicate(timeout=200)[0]
        assert run.returncode == 0, said
    evaluation.evaluate(evaluate_params(data, tmp_path / "one", sequences_at_once=1), "memoryllm", "a test")
    one, two = (read_records(tmp_path / name / "memoryllm" / "records.parquet") for name in ("one", "two"))
    pd.testing.assert_frame_equal(one, two)
