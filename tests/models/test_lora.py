"""The one-product LoRA layer against peft's own."""

import copy

import pytest
import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import Linear as PeftLinear

from gnm.errors import ConfigError
from gnm.models.lora import TARGETS, FusedLoraLinear, LoraSettings, add_lora, inject_lora, renew_effective_weights
from gnm.weights.backbones import load_backbone
from stock import another, stock_logits

SETTINGS = LoraSettings(r=3, alpha=5)


def randomise(parameters, seed=1):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in parameters:
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)


def adapter(model):
    return {name: p for name, p in model.named_parameters() if ".lora_" in name}


@pytest.fixture(params=["tiny", "tiny-qwen2"])
def backbone(request):
    """Without and with biases."""
    return load_backbone(request.param, dtype="float32")


@pytest.fixture
def pair(backbone):
    """Our model and peft's on the same backbone, with the same adapter away from its starting point."""
    ours, theirs = backbone.model, another(backbone)
    randomise(add_lora(ours, SETTINGS, seed=0))
    config = LoraConfig(r=3, lora_alpha=5, target_modules=list(TARGETS), lora_dropout=0.0)
    inject_adapter_in_model(config, theirs)
    equalise(ours, theirs)
    return ours, theirs


def equalise(ours, theirs):
    values = adapter(ours)
    with torch.no_grad():
        for name, parameter in adapter(theirs).items():
            parameter.copy_(values[name])


def layers(model, kind):
    return {name: module for name, module in model.named_modules() if isinstance(module, kind)}


def assert_equal_models(ours, theirs):
    ids = list(range(20, 30))
    torch.testing.assert_close(stock_logits(ours, ids), stock_logits(theirs, ids), atol=1e-4, rtol=0)


def test_forward_and_gradients_are_pefts(pair):
    ours, theirs = pair
    assert adapter(ours).keys() == adapter(theirs).keys()
    assert set(layers(ours, FusedLoraLinear)) == set(layers(theirs, PeftLinear))
    ids, results = list(range(20, 30)), []
    for model in pair:
        logits = stock_logits(model, ids)
        results.append((logits, torch.autograd.grad(logits.square().mean(), list(adapter(model).values()))))
    torch.testing.assert_close(*results, atol=1e-5, rtol=1e-4)
    assert all(g.abs().max() > 0 for g in results[0][1])


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("shape", [(7,), (5, 7), (2, 5, 7)])
def test_one_layer_is_pefts_layer_with_and_without_bias(bias, shape):
    class Holder(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.q_proj = torch.nn.Linear(7, 4, bias=bias).requires_grad_(False)

    ours, theirs = Holder(), Holder()
    theirs.load_state_dict(ours.state_dict())
    randomise(add_lora(ours, LoraSettings(r=3, alpha=5, target_modules=("q_proj",)), seed=0))
    inject_adapter_in_model(LoraConfig(r=3, lora_alpha=5, target_modules=["q_proj"]), theirs)
    equalise(ours, theirs)
    x, results = torch.randn(shape), []
    for model in (ours, theirs):
        given = x.clone().requires_grad_()
        out = model.q_proj(given)
        results.append((out, torch.autograd.grad(out.pow(3).sum(), [given, *adapter(model).values()])))
    torch.testing.assert_close(*results, atol=1e-5, rtol=1e-5)
    assert (ours.q_proj.base_layer.bias is not None) == bias and ours.q_proj.base_layer.weight.grad is None


def test_gradients_that_nobody_asked_for_are_not_formed():
    layer = torch.nn.ModuleDict({"q_proj": torch.nn.Linear(3, 3)}).requires_grad_(False)
    randomise(add_lora(layer, LoraSettings(r=1, alpha=1, target_modules=("q_proj",)), seed=0))
    a, b = layer["q_proj"].lora_A["default"].weight, layer["q_proj"].lora_B["default"].weight
    a.requires_grad_(False)
    x = torch.randn(2, 3)
    layer["q_proj"](x).sum().backward()
    assert a.grad is None and x.grad is None and b.grad.abs().max() > 0
    torch.testing.assert_close(b.grad, (torch.ones(3, 2) @ x @ a.T))


@pytest.mark.parametrize("matrix", ["lora_A", "lora_B"])
def test_changes_in_place_are_noticed(pair, matrix):
    ours, theirs = pair
    assert_equal_models(ours, theirs)
    with torch.no_grad():
        for parameter in (p for name, p in adapter(ours).items() if matrix in name):
            parameter.mul_(1.5)
    equalise(ours, theirs)
    assert_equal_models(ours, theirs)


@pytest.mark.parametrize("fused", [False, True])
def test_after_an_optimizer_step_the_new_weights_count(pair, fused):
    ours, theirs = pair
    parameters = list(adapter(ours).values())
    optimizer = torch.optim.AdamW(parameters, lr=0.1, fused=fused)
    before = stock_logits(ours, [20, 21]).detach()
    stock_logits(ours, [20, 21]).square().mean().backward()
    optimizer.step()
    renew_effective_weights(ours)
    equalise(ours, theirs)
    assert_equal_models(ours, theirs)
    assert (stock_logits(ours, [20, 21]) - before).abs().max() > 1e-2


def test_loaded_weights_count(pair):
    ours, theirs = pair
    state = {name: torch.randn_like(value) * 0.2 for name, value in adapter(ours).items()}
    for model in pair:
        stock_logits(model, [20])
        model.load_state_dict(state, strict=False)
    assert_equal_models(ours, theirs)


def test_a_backbone_loaded_anew_counts(pair):
    ours, theirs = pair
    stock_logits(ours, [20])
    state = {n: v + 0.05 * torch.randn_like(v) for n, v in ours.state_dict().items() if n.endswith("base_layer.weight")}
    for model in pair:
        model.load_state_dict(state, strict=False)
    assert_equal_models(ours, theirs)


def test_a_copy_goes_its_own_way(pair):
    ours, theirs = pair
    stock_logits(ours, [20])
    copied = copy.deepcopy(ours)
    assert_equal_models(copied, theirs)
    randomise(adapter(ours).values(), seed=5)
    assert_equal_models(copied, theirs)


@pytest.mark.filterwarnings("ignore:Already found a `peft_config`")
def test_an_adapter_put_in_anew_counts(pair):
    """The new tensors may lie where the old ones lay, and be as often changed."""
    ours, theirs = pair
    stock_logits(ours, [20])
    for seed in range(3):
        randomise(add_lora(ours, SETTINGS, seed=seed), seed=10 + seed)
        equalise(ours, theirs)
        assert_equal_models(ours, theirs)


def test_a_switched_off_and_a_merged_adapter_are_pefts(pair, backbone):
    ours, theirs = pair
    stock = another(backbone)
    for module in layers(ours, FusedLoraLinear).values():
        module.enable_adapters(False)
    assert_equal_models(ours, stock)
    for module in layers(ours, FusedLoraLinear).values():
        module.enable_adapters(True)
        module.merge()
    assert_equal_models(ours, theirs)


def test_without_an_active_adapter_the_layer_is_the_backbones(pair, backbone):
    ours, _ = pair
    for module in layers(ours, FusedLoraLinear).values():
        module._active_adapter = []
    assert_equal_models(ours, another(backbone))


def test_a_new_adapter_changes_nothing_and_comes_from_its_seed(tiny_family):
    expected = stock_logits(another(tiny_family), [20, 21, 22])
    before = torch.get_rng_state()
    parameters = add_lora(tiny_family.model, SETTINGS, seed=4)
    assert torch.equal(before, torch.get_rng_state())
    torch.testing.assert_close(stock_logits(tiny_family.model, [20, 21, 22]), expected)
    again, other = (add_lora(another(tiny_family), SETTINGS, seed=seed) for seed in (4, 5))
    assert all(torch.equal(a, b) for a, b in zip(parameters, again, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(parameters, other, strict=True))
    assert len(parameters) == 2 * 7 * 3 and {p.dtype for p in parameters} == {torch.float32}
    trainable = [p for p in tiny_family.model.parameters() if p.requires_grad]
    assert {id(p) for p in trainable} == {id(p) for p in parameters}


def test_in_bfloat16_parameters_stay_float32_and_gradients_follow_the_float32_model():
    gradients = []
    for dtype in ("bfloat16", "float32"):
        model = load_backbone("tiny", dtype=dtype).model
        parameters = add_lora(model, SETTINGS, seed=0)
        randomise(parameters)
        logits = stock_logits(model, [20, 21, 22, 23])
        assert {p.dtype for p in parameters} == {torch.float32}
        found = torch.autograd.grad(logits.float().square().mean(), parameters)
        gradients.append(torch.cat([gradient.flatten() for gradient in found]))
    low, high = gradients
    assert low.dtype == torch.float32
    assert torch.nn.functional.cosine_similarity(low, high, dim=0) > 0.99


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"r": 10_000_000}, "lora.r: 10000000 is above the model's width, 48"),
        ({"target_modules": ("nothing",)}, "lora.target_modules: "),
    ],
)
def test_an_adapter_that_does_not_fit_the_model_is_refused(tiny, settings, told):
    with pytest.raises(ConfigError, match=told):
        inject_lora(tiny.model, LoraSettings(**settings))
