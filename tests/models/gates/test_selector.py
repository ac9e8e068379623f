"""Write gates that look at a text with an adapter of their own."""

import pytest
import torch

from gated_memories import LINES, gated, written
from gnm.errors import ConfigError
from gnm.learners import LearnerSettings, build_learner
from gnm.models.lora import (
    DEFAULT,
    SELECTOR,
    TARGETS,
    FusedLoraLinear,
    LoraSettings,
    adapted_layers,
    add_lora,
    add_selector,
    use_adapter,
)


def selecting(backbone, **gates):
    """A memory whose gates look at texts with an adapter that is, at first, equal to the one that writes."""
    add_lora(backbone.model, LoraSettings(r=2, alpha=4), seed=1)
    with torch.no_grad():
        for name, parameter in backbone.model.named_parameters():
            if ".lora_B." in name:
                parameter.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(len(name))) * 0.1)
    lm, reader = gated(backbone, **gates)
    add_selector(backbone.model, LoraSettings(r=2, alpha=4), lm.gating.layer)
    return lm, reader


@torch.no_grad()
def test_gates_with_an_equal_adapter_of_their_own_decide_the_same(tiny):
    lm, reader = selecting(tiny)
    shared = written(lm, reader, [LINES, LINES.replace("Oslo", "Bern")])
    lm.selector = SELECTOR
    own_pass = written(lm, reader, [LINES, LINES.replace("Oslo", "Bern")])
    torch.testing.assert_close(own_pass.decisions.logits, shared.decisions.logits)
    assert torch.equal(own_pass.state.slots, shared.state.slots)


@torch.no_grad()
def test_what_gates_learn_with_an_adapter_of_their_own_changes_no_slot(tiny):
    lm, reader = selecting(tiny, threshold=0.0)
    lm.selector = SELECTOR
    before = written(lm, reader, [LINES])
    for name, parameter in tiny.model.named_parameters():
        if f".lora_B.{SELECTOR}." in name:
            parameter.mul_(-3)
    after = written(lm, reader, [LINES])
    assert not torch.allclose(before.decisions.logits, after.decisions.logits, atol=0.1)
    assert torch.equal(before.state.slots, after.state.slots)


@torch.no_grad()
def test_an_adapter_that_selects_ends_where_the_gates_look_and_another_stays_active(tiny):
    lm, _ = selecting(tiny)
    layers = [layer for layer in tiny.model.modules() if isinstance(layer, FusedLoraLinear)]
    assert {layer.active_adapters[0] for layer in layers} == {DEFAULT}
    assert sum(SELECTOR in layer.lora_A for layer in layers) == len(TARGETS) * lm.gating.layer
    with use_adapter(tiny.model, SELECTOR):
        assert sum(layer.active_adapters[0] == SELECTOR for layer in layers) == len(TARGETS) * lm.gating.layer
    assert {layer.active_adapters[0] for layer in layers} == {DEFAULT}


def test_gates_at_the_first_layer_need_no_adapter_to_select(tiny):
    add_lora(tiny.model, LoraSettings(r=2, alpha=4), seed=1)
    add_selector(tiny.model, LoraSettings(r=2, alpha=4), 0)
    assert not adapted_layers(tiny.model, SELECTOR)


def test_gates_that_look_elsewhere_than_their_adapter_ends_are_refused(tiny):
    add_lora(tiny.model, LoraSettings(r=2, alpha=4), seed=1)
    add_selector(tiny.model, LoraSettings(r=2, alpha=4), 2)
    for layer in (None, 2):
        settings = LearnerSettings(method="gnm", write={"gates": {"layer": layer}})
        assert build_learner(settings, tiny, training=True).lm.selector == SELECTOR
    with pytest.raises(ConfigError, match="write.gates.layer: 1, but the adapter .* ends at layer 2"):
        build_learner(LearnerSettings(method="gnm", write={"gates": {"layer": 1}}), tiny, training=True)
