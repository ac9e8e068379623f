"""LoRA (Hu et al. 2021) through peft, with one product a layer instead of three.

- peft owns the parameters, their names, saving and loading; only the arithmetic of a forward pass is ours.
- The effective weight W + s·B·A is formed in float32 once for each value of A and B, rounded to the backbone's
  dtype, and serves every pass until the adapter changes. A step of many passes (write, read, write, read) then runs
  at the speed of the plain backbone; only the two gradients of rank r are extra.
- A model may hold several adapters, to write, to read, to select; each has an effective weight of its own.
"""

import re
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import NamedTuple

import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import Linear as PeftLinear
from pydantic import Field
from torch import Tensor, nn

from gnm.config import StrictModel
from gnm.errors import ConfigError

DEFAULT, READER, SELECTOR = "default", "decoder_adapter", "selector"
"""Names of adapters: peft's, the one that writes, or does all; MemoryLLM's, one that only reads; ours, one with which
write gates decide."""
TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


class LoraSettings(StrictModel):
    """Rank, scale and places of the adapter."""

    r: int = Field(16, gt=0)
    alpha: float = Field(32, gt=0)
    target_modules: tuple[str, ...] = TARGETS


class _Product(torch.autograd.Function):
    """y = x·Wᵀ with W = effective weight; gradients go to x, A and B, and to the base if it is not frozen."""

    @staticmethod
    def forward(
        ctx, x: Tensor, effective: Tensor, base: Tensor, bias: Tensor | None, a: Tensor, b: Tensor, scaling: float
    ) -> Tensor:
        ctx.save_for_backward(x, effective, a, b)
        ctx.scaling = scaling
        return nn.functional.linear(x, effective, bias)

    @staticmethod
    def backward(ctx, grad: Tensor):
        x, effective, a, b = ctx.saved_tensors
        flat_grad, flat_x = grad.reshape(-1, grad.shape[-1]), x.reshape(-1, x.shape[-1])
        grad_x = grad_base = grad_a = grad_b = None
        if ctx.needs_input_grad[0]:
            grad_x = torch.matmul(grad, effective)
        if ctx.needs_input_grad[2]:
            grad_base = flat_grad.T @ flat_x
        if ctx.needs_input_grad[4]:
            through_b = flat_grad @ b.to(grad.dtype)
            grad_a = (through_b.T @ flat_x).to(a.dtype) * ctx.scaling
        if ctx.needs_input_grad[5]:
            through_a = flat_x @ a.to(x.dtype).T
            grad_b = (flat_grad.T @ through_a).to(b.dtype) * ctx.scaling
        return grad_x, None, grad_base, None, grad_a, grad_b, None


class FusedLoraLinear(PeftLinear):
    """A peft LoRA layer whose forward is one product with the effective weight; peft's own if not `fused`."""

    fused = True

    def forward(self, x: Tensor, *args, **kwargs) -> Tensor:
        if not self.fused or self.disable_adapters or self.merged or len(self.active_adapters) != 1:
            return super().forward(x, *args, **kwargs)
        name, base = self.active_adapters[0], self.base_layer
        a, b = self.lora_A[name].weight, self.lora_B[name].weight
        effective = self._effective(name, a, b)
        if not torch.is_grad_enabled():  # an answer's token passes two hundred layers, which the detour would slow
            return nn.functional.linear(x, effective, base.bias)
        return _Product.apply(x, effective, base.weight, base.bias, a, b, self.scaling[name])

    def switch(self, name: str) -> str:
        """Make the adapter `name` the active one, whatever is trained (peft's own switch freezes the others).

        A layer without such an adapter stays as it is: one that selects ends where the gates look.
        """
        before = self.active_adapters[0]
        if name in self.lora_A:
            self._active_adapter = name
        return before

    @torch.no_grad()
    def _effective(self, name: str, a: Tensor, b: Tensor) -> Tensor:
        base = self.base_layer.weight
        formed_from = tuple((tensor.data_ptr(), tensor._version) for tensor in (a, b, base))
        formed = self._formed.get(name)
        if formed is None or formed.out_of != formed_from:
            weight = (base.float() + self.scaling[name] * (b.float() @ a.float())).to(base.dtype)
            # while a and b are held, no other tensor takes their addresses
            formed = self._formed[name] = _Formed(weight, formed_from, (a.detach(), b.detach()))
        return formed.weight

    @property
    def _formed(self) -> dict[str, "_Formed"]:
        return self.__dict__.setdefault("_formed_weights", {})


class _Formed(NamedTuple):
    """An effective weight and what it was formed out of."""

    weight: Tensor
    out_of: tuple
    held: tuple[Tensor, Tensor]


def renew_effective_weights(model: nn.Module) -> None:
    """Have every layer form its effective weight anew: call it after each optimizer step.

    In-place changes by plain torch operations are noticed without it; fused optimizers leave no trace of theirs.
    """
    for module in model.modules():
        if isinstance(module, FusedLoraLinear):
            module._formed.clear()


def keep_adapters_apart(model: nn.Module) -> None:
    """Form no effective weights: for backbones whose weights are put together for each pass only."""
    for module in model.modules():
        if isinstance(module, FusedLoraLinear):
            module.fused = False


@contextmanager
def use_adapter(model: nn.Module, name: str | None) -> Iterator[None]:
    """Run `model` with its LoRA adapter `name` instead of the active one; None: with the active one."""
    with use_adapters({layer: name for layer in active_adapters(model) if name}):
        yield


def active_adapters(model: nn.Module) -> dict[FusedLoraLinear, str]:
    """The active adapter of each layer of `model` that has any."""
    return {module: module.active_adapters[0] for module in model.modules() if isinstance(module, FusedLoraLinear)}


@contextmanager
def use_adapters(names: Mapping[FusedLoraLinear, str]) -> Iterator[None]:
    """Run each layer with the adapter that `names` gives it."""
    before = {layer: layer.switch(name) for layer, name in names.items()}
    try:
        yield
    finally:
        for layer, active in before.items():
            layer.switch(active)


def inject_lora(
    model: nn.Module,
    settings: LoraSettings,
    adapter: str = DEFAULT,
    empty: bool = False,
    fused: bool = True,
    layers: int | None = None,
) -> None:
    """Put a LoRA adapter (float32) into `model` and make it the active one.

    layers: into the first so many layers, None: into all. empty: its parameters are on the meta device.
    fused: effective weights are formed, which takes the memory of the adapted weights once more for each adapter;
    otherwise each product is three.
    Raises ConfigError, before anything is allocated, for a rank above the model's width; and for targets it has not.
    """
    width = getattr(getattr(model, "config", None), "hidden_size", settings.r)
    if settings.r > width:
        raise ConfigError(f"lora.r: {settings.r} is above the model's width, {width}; use a smaller rank, such as 16")
    config = LoraConfig(
        r=settings.r,
        lora_alpha=settings.alpha,
        target_modules=list(settings.target_modules),
        lora_dropout=0.0,
        layers_to_transform=layers and list(range(layers)),
    )
    config._register_custom_module({nn.Linear: FusedLoraLinear})
    with warnings.catch_warnings():  # a second adapter is meant
        warnings.filterwarnings("ignore", "Already found a `peft_config` attribute")
        try:
            inject_adapter_in_model(config, model, adapter_name=adapter, low_cpu_mem_usage=empty)
        except ValueError as error:
            raise ConfigError(f"lora.target_modules: {error}") from error
    for module in model.modules():
        if isinstance(module, FusedLoraLinear):
            module.switch(adapter)
            module.fused = fused
            for part in (module.lora_A, module.lora_B):
                if adapter in part:
                    part[adapter].weight.data = part[adapter].weight.data.float()


def add_selector(model: nn.Module, settings: LoraSettings, layers: int) -> None:
    """Put an adapter SELECTOR into the first `layers` layers of `model`, equal to the one that is and stays active.

    A model that has one stays as it is, and so does any with 0 layers.
    """
    if not layers or adapted_layers(model, SELECTOR):
        return
    before = next(iter(active_adapters(model).values()))
    inject_lora(model, settings, SELECTOR, layers=layers)
    for module in model.modules():
        if isinstance(module, FusedLoraLinear):
            module.switch(before)
            for part in (module.lora_A, module.lora_B):
                if SELECTOR in part:
                    part[SELECTOR].weight.data.copy_(part[before].weight.data)


def adapted_layers(model: nn.Module, name: str) -> int:
    """How many layers of the decoder `model`, from the first on, have an adapter `name`."""
    modules = model.named_modules()
    return layers_of(path for path, each in modules if isinstance(each, FusedLoraLinear) and name in each.lora_A)


def layers_of(names: Iterable[str]) -> int:
    """How many layers of a decoder, from the first on, the modules or parameters `names` are of."""
    found = (re.search(r"\.layers\.(\d{1,6})\.", name) for name in names)
    return 1 + max((int(match[1]) for match in found if match), default=-1)


def add_lora(model: nn.Module, settings: LoraSettings, seed: int) -> list[nn.Parameter]:
    """Put a LoRA adapter named "default" into `model`, initialised from `seed`; return its parameters."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        inject_lora(model, settings)
    return [parameter for name, parameter in model.named_parameters() if ".lora_" in name]
