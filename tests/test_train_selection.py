"""Training what is stored alone: between steps that ask, and by an adapter of its own."""

from pathlib import Path

import pytest
import torch

from gnm.errors import ConfigError
from gnm.models.lora import layers_of, renew_effective_weights
from gnm.training.batches import training_batch
from gnm.training.loss import SUMS
from gnm.weights.adapters import read_about
from gnm.weights.trained import copied, read_weights
from small_runs import train_settings, write_small_documents
from trainers import GATED, changed_trainer, with_selector


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return write_small_documents(tmp_path_factory.mktemp("documents"))


def test_steps_between_those_that_ask_train_what_is_stored_alone(data, tmp_path):
    loop = {**train_settings(data, tmp_path)["loop"], "answers_every": 3}
    run = changed_trainer(data, tmp_path, {"methods": {"gnm": GATED}, "loop": loop})
    deepest = [p for name, p in run.module.named_parameters() if p.requires_grad and "layers.2." in name]
    assert deepest and run.module.learner.lm.gating.layer == 2
    for step in range(6):
        before = [parameter.detach().clone() for parameter in deepest]
        gate = run.module.learner.lm.gating.gate.weight.detach().clone()
        means = run.step(step)
        asked = step in (2, 5)
        assert ("loss" in means) == asked and "write_loss" in means
        assert not torch.equal(gate, run.module.learner.lm.gating.gate.weight)
        changed = [not torch.equal(*pair) for pair in zip(before, deepest, strict=True)]
        assert any(changed) == asked


def test_the_loss_of_what_is_stored_alone_is_that_of_the_writes(data, tmp_path):
    """With gates and no keep gates the writes' own loss is all that there is."""
    run = changed_trainer(data, tmp_path, {"methods": {"gnm": GATED}})
    batch = training_batch(run.params, run.train, 0)
    (asked, _), (alone, sums) = run.module(batch), run.module(batch, asks=False)
    torch.testing.assert_close(alone[1], asked[1])
    assert float(alone[0].detach()) == 0 and sums[SUMS.index("tokens")] == 0


@pytest.mark.parametrize("write", [{}, {"gates": {"by": "random", "threshold": 0, "share": 0.5}}])
def test_steps_without_questions_need_gates_that_learn(data, tmp_path, write):
    loop, methods = train_settings(data, tmp_path)["loop"], {"gnm": {"method": "gnm", "write": write}}
    with pytest.raises(ConfigError, match="loop.answers_every: gnm has no gates to train alone"):
        changed_trainer(data, tmp_path, {"methods": methods, "loop": {**loop, "answers_every": 2}})
    with pytest.raises(ConfigError, match="selection_only: gnm has no gates to train alone"):
        changed_trainer(data, tmp_path, {"methods": methods, "selection_only": True})


def test_selecting_is_learned_alone(data, tmp_path):
    """By an adapter of its own: what else was trained stays as it is, to the bit."""
    changed_trainer(data, tmp_path / "first", {"methods": {"gnm": GATED}}).fit()
    first = tmp_path / "first" / "gnm"
    settings = {"methods": {"gnm": {**GATED, "adapter": str(first)}}, "lora": None, "selection_only": True}
    run = changed_trainer(data, tmp_path / "second", settings)
    assert list(run.parts) == ["default", "selector", "memory_module"]
    assert set(run.validate()) == {"write_loss"} == set(run.step(0))
    changed_trainer(data, tmp_path / "second", settings).fit()
    before, after = (
        {part: read_weights(f, part) for part in ("default", "memory_module")}
        for f in (first, tmp_path / "second" / "gnm")
    )
    assert all(torch.equal(tensor, after["default"][name]) for name, tensor in before["default"].items())
    assert not torch.equal(before["memory_module"]["gate.weight"], after["memory_module"]["gate.weight"])
    assert "about_gate.weight" not in after["memory_module"]  # without `revise` nothing is taken back
    selector = read_weights(tmp_path / "second" / "gnm", "selector")
    assert layers_of(selector) == run.module.learner.lm.gating.layer == 2
    assert all(not torch.equal(tensor, before["default"][name]) for name, tensor in selector.items())
    about = read_about(tmp_path / "second" / "gnm")
    assert float(about["made"]["validation loss"]) > 0 and about["training"]["selection_only"]
    settings["methods"]["gnm"]["adapter"] = str(tmp_path / "second" / "gnm")  # and goes on from there
    again = copied(changed_trainer(data, tmp_path / "third", settings).parts)["selector"]
    assert all(torch.equal(tensor, again[name].bfloat16()) for name, tensor in selector.items())


def test_layers_below_the_first_stay_as_they_are(data, tmp_path):
    """Those from it on get the gradients that they get when all of them learn."""
    changed_trainer(data, tmp_path / "first", {"methods": {"gnm": GATED}}).fit()
    settings = {"methods": {"gnm": {**GATED, "adapter": str(tmp_path / "first" / "gnm")}}, "lora": None}
    settings["selection_only"] = True
    gradients = []
    for first_layer in (0, 1):
        run = changed_trainer(data, tmp_path / "second", {**settings, "first_layer": first_layer})
        losses, _ = run.module(training_batch(run.params, run.train, 0), asks=False)
        losses.sum().backward()
        named = run.parts["selector"].items()
        gradients.append({name: value.grad for name, value in named if value.grad is not None})
    every, above = gradients
    assert {layers_of([name]) for name in every} == {1, 2} and {layers_of([name]) for name in above} == {2}
    for name, gradient in above.items():
        torch.testing.assert_close(gradient, every[name])
    before = copied(run.parts)["selector"]
    run.step(0)
    changed = {name for name, value in run.parts["selector"].items() if not torch.equal(value, before[name])}
    assert changed == set(above)
    with pytest.raises(ConfigError, match="first_layer: 2 leaves no layer of the adapter 'selector' to train"):
        changed_trainer(data, tmp_path / "third", {**settings, "first_layer": 2})


def test_taking_back_is_learned_with_selecting(data, tmp_path):
    """By the same adapter, which reads instructions; the gate that compares what is stored stays as it is."""
    revising = {**GATED, "write": {"gates": {"threshold": 0.0, "revise": True}}}
    changed_trainer(data, tmp_path / "first", {"methods": {"gnm": revising}}).fit()
    settings = {"methods": {"gnm": {**revising, "adapter": str(tmp_path / "first" / "gnm")}}, "lora": None}
    run = changed_trainer(data, tmp_path / "second", {**settings, "selection_only": True})
    lm = run.module.learner.lm
    gates = {name: parameter.detach().clone() for name, parameter in lm.gating.named_parameters()}
    told = run.module.learner._encode_instructions(["Forget it."])
    text = run.module.learner.reader.encode_segments([["Bern is big."]])
    before = lm.about(text, told).item()
    run.step(0)
    learned = {name for name, tensor in lm.gating.named_parameters() if not torch.equal(tensor, gates[name])}
    assert {name.split(".")[0] for name in learned} == {"gate", "about_gate"}
    lm.gating.load_state_dict(gates)
    renew_effective_weights(lm)
    assert lm.about(text, told).item() != before, "the selector reads instruction and text"


def test_answers_are_learned_alone(data, tmp_path):
    """The selector, the write gate and the about gate stay as they are; all else learns."""
    revising = {**GATED, "write": {"gates": {"threshold": 0.0, "revise": True}}}
    changed_trainer(data, tmp_path / "first", {"methods": {"gnm": revising}}).fit()
    again = {"methods": {"gnm": {**revising, "adapter": str(tmp_path / "first" / "gnm")}}, "lora": None}
    changed_trainer(data, tmp_path / "second", {**again, "selection_only": True}).fit()
    again["methods"]["gnm"]["adapter"] = str(tmp_path / "second" / "gnm")
    loop = {**train_settings(data, tmp_path)["loop"], "sequence_length": 2}
    run = changed_trainer(data, tmp_path / "third", {**again, "loop": loop, "answers_only": True})
    before = copied(run.parts)
    assert "loss" in run.step(2)
    changed = {
        (part, name)
        for part, tensors in copied(run.parts).items()
        for name, tensor in tensors.items()
        if not torch.equal(tensor, before[part][name])
    }
    assert {part for part, _ in changed} == {"default", "memory_module"}
    assert {name for part, name in changed if part == "default"} == set(before["default"])
    assert {name.split(".")[0] for part, name in changed if part == "memory_module"} == {"keep_gate"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"selection_only": True}, "selection_only and answers_only together leave nothing to learn"),
        ({"loop": {"answers_every": 2}}, "set loop.answers_every to 1"),
        ({"methods": {"gnm": {"method": "gnm"}}}, "answers_only: gnm has no gates that select; leave it out"),
    ],
)
def test_answers_alone_need_gates_and_questions(data, tmp_path, changes, message):
    loop = {**train_settings(data, tmp_path)["loop"], **changes.get("loop", {})}
    settings = {"methods": {"gnm": GATED}, **changes, "loop": loop, "answers_only": True}
    with pytest.raises(ConfigError, match=message):
        changed_trainer(data, tmp_path, settings)


def test_steps_without_questions_need_writing_with_gradient(data, tmp_path):
    methods = {"gnm": {**GATED, "method": "gnm_ablation"}}
    with pytest.raises(ConfigError, match="selection_only: gnm_ablation has no gates to train alone"):
        changed_trainer(data, tmp_path, {"methods": methods, "selection_only": True})


@pytest.mark.parametrize("method", [{"method": "in_context_ft"}, {"method": "gnm"}])
def test_a_method_that_does_not_select_leaves_the_selector_as_it_is(data, tmp_path, method):
    settings = {"methods": {"m": {**method, "adapter": with_selector(tmp_path)}}, "lora": None}
    run = changed_trainer(data, tmp_path, settings, "m")
    assert not any(parameter.requires_grad for parameter in run.parts["selector"].values())
    assert all(parameter.requires_grad for parameter in run.parts["default"].values())


def test_selecting_needs_an_adapter_to_start_from(data, tmp_path):
    with pytest.raises(ConfigError, match="selection_only: there is no adapter to start from"):
        changed_trainer(data, tmp_path, {"methods": {"gnm": GATED}, "selection_only": True, "lora": None})
