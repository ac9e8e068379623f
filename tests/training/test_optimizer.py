"""The learning rate of every step and every part, on numbers worked out by hand."""

import sys
from types import SimpleNamespace

import pytest
import torch

from gnm.errors import ConfigError
from gnm.training.optimizer import Optimisation, build_optimizer, set_learning_rate


def optimizer_of(**settings):
    sizes = {"default": 2, "memory_module": 3}
    parts = {part: {"weight": torch.nn.Parameter(torch.ones(size))} for part, size in sizes.items()}
    settings = Optimisation(**{"learning_rate": 1.0, "warmup_steps": 0, **settings})
    return build_optimizer(parts, settings, torch.device("cpu")), settings


def rates(steps, **settings):
    """The rate of each step, of adapters and of what a method has beside them."""
    optimizer, settings = optimizer_of(**settings)
    found = []
    for step in range(steps):
        set_learning_rate(optimizer, settings, step, steps)
        found.append([group["lr"] for group in optimizer.param_groups])
    return [list(rates) for rates in zip(*found, strict=True)]


def test_the_rate_falls_linearly_to_the_final_one():
    assert rates(4)[0] == pytest.approx([1.0, 0.75, 0.5, 0.25])
    assert rates(4, final_learning_rate=0.2)[0] == pytest.approx([1.0, 0.8, 0.6, 0.4])
    assert rates(3, learning_rate=0.1, final_learning_rate=0.1)[0] == pytest.approx([0.1] * 3)


def test_the_first_step_has_its_share_of_the_warm_up_and_the_fall_begins_where_it_ends():
    assert rates(6, warmup_steps=2)[0] == pytest.approx([0.5, 1.0, 1.0, 0.75, 0.5, 0.25])
    assert rates(4, warmup_steps=4)[0] == pytest.approx([0.25, 0.5, 0.75, 1.0])
    assert rates(2, warmup_steps=4)[0] == pytest.approx([0.25, 0.5])  # training ends within the warm-up
    assert rates(2, warmup_steps=1)[0] == rates(2, warmup_steps=0)[0][:1] * 2


def test_what_a_method_has_beside_its_adapters_learns_faster_by_its_own_rate():
    adapters, own = rates(6, warmup_steps=2, own_rate=10.0)
    assert own == pytest.approx([10 * rate for rate in adapters])
    assert rates(3)[0] == rates(3)[1]


def test_every_part_has_the_weight_decay_and_its_own_parameters():
    optimizer, _ = optimizer_of(weight_decay=0.3)
    assert [[len(p) for p in group["params"]] for group in optimizer.param_groups] == [[2], [3]]
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.3, 0.3]
    assert isinstance(optimizer, torch.optim.AdamW)


@pytest.mark.parametrize("kind", ["adamw", "adamw_8bit"])
def test_every_optimizer_gets_the_same_settings(monkeypatch, kind):
    eight_bits = SimpleNamespace(AdamW8bit=torch.optim.AdamW)  # in place of one that needs a GPU
    monkeypatch.setitem(sys.modules, "bitsandbytes", SimpleNamespace(optim=eight_bits))
    monkeypatch.setitem(sys.modules, "bitsandbytes.optim", eight_bits)
    parts = {part: {"weight": torch.nn.Parameter(torch.ones(2))} for part in ("default", "memory_module")}
    settings = Optimisation(
        optimizer=kind, learning_rate=0.5, warmup_steps=0, weight_decay=0.1, beta2=0.9, own_rate=3.0
    )
    groups = build_optimizer(parts, settings, torch.device("cpu" if kind == "adamw" else "cuda")).param_groups
    assert [group["params"] for group in groups] == [list(part.values()) for part in parts.values()]
    assert [group["factor"] for group in groups] == [1.0, 3.0]
    for group in groups:
        assert (group["lr"], group["betas"], group["weight_decay"]) == (0.5, (0.9, 0.9), 0.1)


def test_eight_bits_are_refused_where_they_cannot_run(monkeypatch):
    settings = Optimisation(optimizer="adamw_8bit", learning_rate=0.5, warmup_steps=0)
    with pytest.raises(ConfigError, match="adamw_8bit runs on CUDA only, .*; use adamw"):
        build_optimizer({}, settings, torch.device("cpu"))
    monkeypatch.setitem(sys.modules, "bitsandbytes.optim", None)
    with pytest.raises(ConfigError, match="adamw_8bit needs bitsandbytes; pip install bitsandbytes"):
        build_optimizer({}, settings, torch.device("cuda"))
