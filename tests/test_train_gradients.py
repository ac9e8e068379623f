"""Gradients of a training step: what they are means of, where they reach, what they keep."""

from pathlib import Path

import pytest
import torch

from gnm.training.batches import training_batch
from gnm.training.loss import SUMS
from small_runs import train_settings, write_small_documents
from trainers import GATED, MEMORY_MODEL, changed_trainer, trainer, with_selector


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return write_small_documents(tmp_path_factory.mktemp("documents"))


def gradients_of_a_step(run, monkeypatch):
    """What the optimizer is given in step 0."""
    seen = []
    monkeypatch.setattr(run.optimizer, "step", lambda: seen.extend(p.grad.clone() for p in run.parameters))
    run.step(0)
    return seen


def test_a_step_follows_the_means_over_tokens_and_over_documents(data, tmp_path, monkeypatch):
    """The answers' loss is a mean over tokens, the writes' own one over documents."""
    changes = {
        "methods": {"gnm": {"method": "gnm", "write": {"gates": {"threshold": 0.0}}}},
        "opt": {"learning_rate": 0.02, "warmup_steps": 1, "clip_norm": 1e9},
    }
    run = changed_trainer(data, tmp_path, changes)
    losses, sums = run.module(training_batch(run.params, run.train, 0))
    sums = dict(zip(SUMS, sums.tolist(), strict=True))
    assert sums["documents"] == 4 < sums["tokens"]
    (losses[0] / sums["tokens"] + losses[1] / 4).backward()
    expected = [p.grad.clone() for p in run.parameters]
    run.module.zero_grad()
    for ours, theirs in zip(gradients_of_a_step(run, monkeypatch), expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-8)


def test_gradients_are_clipped_to_the_norm(data, tmp_path, monkeypatch):
    norms = []
    for clip in (1e9, 1e-3):
        run = changed_trainer(data, tmp_path, {"opt": {"learning_rate": 0.02, "warmup_steps": 1, "clip_norm": clip}})
        seen = gradients_of_a_step(run, monkeypatch)
        norms.append(float(torch.cat([gradient.flatten() for gradient in seen]).norm()))
    assert norms[0] > 2e-3 and norms[1] == pytest.approx(1e-3, rel=1e-2)


def test_a_step_has_its_own_learning_rate_and_leaves_no_gradient(data, tmp_path):
    opt = {"learning_rate": 0.02, "warmup_steps": 2, "own_rate": 10.0}
    run = changed_trainer(data, tmp_path, {**MEMORY_MODEL, "opt": opt})
    for step, rate in ((0, 0.01), (1, 0.02), (4, 0.01)):
        run.step(step)
        assert [group["lr"] for group in run.optimizer.param_groups] == pytest.approx([rate, rate, 10 * rate])
        assert all(parameter.grad is None for parameter in run.parameters)


def test_gradients_reach_what_the_setting_says(data, tmp_path):
    """Through `all`, `last` and no writing at all: three different gradients of the same loss."""
    gradients = {}
    for name, method, through in (("all", "gnm", "all"), ("last", "gnm", "last"), ("none", "gnm_ablation", "all")):
        run = trainer(data, tmp_path, method, gradients_through=through, sequence_length=2, curriculum=None)
        with torch.no_grad():
            for parameter in run.parameters:  # B starts at zero, and with it every gradient of A
                parameter.add_(0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
        losses, _ = run.module(training_batch(run.params, run.train, 0))
        losses[0].backward()
        gradients[name] = (float(losses[0].detach()), torch.cat([p.grad.flatten() for p in run.parameters]))
    assert gradients["all"][0] == pytest.approx(gradients["last"][0], rel=1e-5)
    assert gradients["all"][0] == pytest.approx(gradients["none"][0], rel=1e-5)
    for one, other in (("all", "last"), ("all", "none"), ("last", "none")):
        assert not torch.allclose(gradients[one][1], gradients[other][1], rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("method", ["gnm", "in_context_ft"])
def test_checkpointed_gradients_are_the_same_and_keep_less(data, tmp_path, method):
    kept, gradients = [], []
    for on in (False, True):
        run = trainer(data, tmp_path, method, gradient_checkpointing=on, sequence_length=2, curriculum=None)
        seen = {}

        def keep(tensor, seen=seen):
            seen[tensor.data_ptr()] = tensor.numel()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            losses, _ = run.module(training_batch(run.params, run.train, 0))
            kept.append(sum(seen.values()))
            losses[0].backward()
        gradients.append([p.grad for p in run.parameters])
    assert kept[1] < 0.6 * kept[0]
    for plain, checkpointed in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, checkpointed, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("kind", ["memory model", "selector", "selector alone"])
def test_checkpointed_gradients_are_the_same_with_several_adapters(data, tmp_path, kind):
    changes = MEMORY_MODEL
    if kind != "memory model":
        methods = {"gnm": {**GATED, "adapter": with_selector(tmp_path)}}
        changes = {"methods": methods, "lora": None, "selection_only": kind == "selector alone"}
    gradients = []
    for on in (False, True):
        loop = {**train_settings(data, tmp_path)["loop"], "gradient_checkpointing": on}
        run = changed_trainer(data, tmp_path, {**changes, "loop": loop})
        with torch.no_grad():
            for parameter in run.parameters:
                parameter.add_(0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
        losses, _ = run.module(training_batch(run.params, run.train, 0), not run.params.selection_only)
        losses.sum().backward()
        gradients.append([parameter.grad for parameter in run.parameters])
    for plain, checkpointed in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, checkpointed, rtol=1e-4, atol=1e-6)
