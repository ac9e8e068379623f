"""Which parameters a latent memory gives gradients, and through which writes they pass."""

from dataclasses import replace

import pytest
import torch

from gnm.models.lora import LoraSettings, add_lora
from gnm.weights.backbones import load_backbone
from latent_memories import ASKED, PAIRS, close, memory_of, written
from stock import (
    plain_sdpa,
    stock_nll,
)


def trained(name="tiny", **options):
    """A memory model with a LoRA adapter away from its starting point."""
    backbone = load_backbone(name, dtype="float32")
    parameters = add_lora(backbone.model, LoraSettings(r=2, alpha=4), seed=0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in parameters:
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)
    lm, reader = memory_of(backbone, **options)
    return lm, reader, parameters, backbone


def gradients(loss, parameters):
    return [
        torch.zeros_like(p) if g is None else g
        for p, g in zip(parameters, torch.autograd.grad(loss, parameters, allow_unused=True), strict=True)
    ]


ROWS = [row[:2] for row in PAIRS]


@pytest.mark.parametrize("name", ["tiny", "tiny-qwen2", "tiny-qwen3"])
def test_gradients_are_those_of_the_text_in_context(name):
    """The adapter's gradient through writing and reading = that of one full pass of the stock model over all text."""
    lm, reader, parameters, backbone = trained(name)
    loss, tokens, _ = reader.loss(lm.prefix(written(lm, reader, ROWS)), ASKED)
    ours = gradients(loss / tokens, parameters)
    with plain_sdpa(backbone.model) as stock:
        nlls = [stock_nll(stock, reader.chat, t, q) for t, asked in zip(ROWS, ASKED, strict=True) for q in asked]
        theirs = gradients(sum(nlls) / tokens, parameters)
    assert any(g.abs().max() > 1e-3 for g in theirs)
    for mine, reference in zip(ours, theirs, strict=True):
        close(mine, reference, atol=1e-5)


def test_gradients_are_finite_differences():
    """Along several directions, the slope of the loss is what the gradient says."""
    lm, reader, parameters, _ = trained()

    def loss():
        return reader.loss(lm.prefix(written(lm, reader, ROWS)), ASKED)[0]

    grad = gradients(loss(), parameters)
    for index in (0, len(parameters) // 2, len(parameters) - 1):  # first layer's query to last layer's mlp
        direction = grad[index] / grad[index].norm()
        values = []
        with torch.no_grad():
            for step in (1e-2, -1e-2):
                before = parameters[index].clone()
                parameters[index].add_(step * direction)
                values.append(loss())
                parameters[index].copy_(before)
        slope = float(values[0] - values[1]) / 2e-2
        assert slope == pytest.approx(float(grad[index].norm()), rel=2e-2)


def held(memory, lm):
    """`memory` with its slots as constants."""
    return lm.attach(replace(memory.state, slots=memory.state.slots.detach().clone()))


def test_without_gradient_through_writing_the_slots_are_constants():
    blind, reader, parameters, _ = trained(through=False)
    memory = written(blind, reader, ROWS)
    assert not memory.state.slots.requires_grad
    ours = gradients(reader.loss(blind.prefix(memory), ASKED)[0], parameters)
    lm, reader, others, _ = trained()
    memory = written(lm, reader, ROWS)
    constant = gradients(reader.loss(lm.prefix(held(memory, lm)), ASKED)[0], others)
    full = gradients(reader.loss(lm.prefix(memory), ASKED)[0], others)
    for mine, reference in zip(ours, constant, strict=True):
        close(mine, reference, atol=1e-5)
    assert max(float((a - b).abs().max()) for a, b in zip(full, constant, strict=True)) > 1e-2


def test_gradients_through_earlier_documents_end_where_they_are_cut():
    from gnm.learners.memory import MemoryLearner

    lm, reader, parameters, _ = trained()
    learner, first = MemoryLearner(lm, reader), written(lm, reader, [row[:1] for row in PAIRS])
    cut = learner.detach(first)
    assert torch.equal(cut.state.slots, first.state.slots) and not cut.state.slots.requires_grad
    text = reader.encode([row[1] for row in PAIRS])
    results = [
        gradients(reader.loss(lm.prefix(lm.write(memory, text)), ASKED)[0], parameters)
        for memory in (cut, held(first, lm), first)
    ]
    for ours, constant in zip(*results[:2], strict=True):
        close(ours, constant, atol=1e-5)
    assert max(float((a - b).abs().max()) for a, b in zip(results[0], results[2], strict=True)) > 1e-2


@pytest.mark.parametrize("eviction", ["oldest", "random"])
def test_gradients_pass_through_the_kept_keys_and_values_of_a_full_pool(eviction):
    """They are those of keys and values that are made anew of the slots that are left."""
    lm, reader, parameters, _ = trained(reads="nothing", capacity=120, eviction=eviction)
    found = []
    for again in (lambda memory: memory, lambda memory: lm.attach(memory.state)):
        memory = written(lm, reader, ROWS)
        sources = memory.state.source[memory.state.valid]
        assert (memory.state.used() == 120).any() and (sources == 0).any()  # something was dropped, not all of it
        found.append(gradients(reader.loss(lm.prefix(again(memory)), ASKED)[0], parameters))
    assert any(g.abs().max() > 1e-2 for g in found[0])
    for ours, theirs in zip(*found, strict=True):
        close(ours, theirs, atol=1e-4)
