"""A memory as a key/value cache of transformers, so that the model's own `generate` works on it.

- The keys and values of a prefix are those that the model itself would have cached; generation goes on after them.
- How strongly each slot is stored (write gates) has no place in a cache: keys and values cannot hold what is added to
  scores. The cache carries it beside them, and a hook of the model adds it to the mask of every pass. A model without
  the hook is told so by an error.
- Not covered: static and quantized caches, attention kernels that take no mask, continuous batching.

Shape letters: B rows, P prefix length, S cached entries, T tokens of a pass, L layers.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache

from gnm.errors import BackboneError, DataError
from gnm.models.attention import additive, in_window
from gnm.models.decoder import Decoder
from gnm.models.families import attention_windows
from gnm.models.prefix import Prefix


class MemoryCache(DynamicCache):
    """What a prefix holds, as a cache that grows with what is read and said after it.

    bias: [B, P] float32, added to the scores of attention to each entry of the prefix.
    positions: [B, P] long, those of the prefix's entries; following: [B] long, the one after them.
    reach: the entries that it may have before the model's attention window is full.
    """

    def __init__(self, prefix: Prefix, reach: int):
        super().__init__(zip(prefix.keys, prefix.values, strict=True))
        self.bias = additive(prefix.valid, torch.float32)
        if prefix.bias is not None:
            self.bias = torch.where(prefix.valid, prefix.bias.float(), self.bias)
        self.positions, self.following = prefix.positions, prefix.next_position
        self.reach = reach
        self._heeded = False

    def masks(
        self, given: Tensor | None, rows: int, tokens: int, dtype: torch.dtype, windows: Iterable[int | None]
    ) -> list[Tensor]:
        """What is added to the scores of a pass over `tokens` tokens of each of `rows`: [rows, 1, T, S + T].

        given: the attention mask that the pass was called with, [rows, S + T], false or 0 where there is padding.
        windows: of each mask, how many positions a token attends over; None: all.
        Rows become as many as the pass has, for beams and several answers to one prompt.
        Raises DataError for a mask of another shape, BackboneError if the pass exceeds the model's attention window.
        """
        if rows != len(self.bias):
            self.batch_repeat_interleave(rows // len(self.bias))
        before = self.get_seq_length()
        length = before + tokens
        if length > self.reach:
            raise BackboneError(
                f"memory and text would take {length - self.reach} positions more than the model attends over; ask for "
                "fewer tokens, or forget a document first"
            )
        if given is not None and given.shape != (rows, length):
            raise DataError(
                f"the attention mask is {list(given.shape)}; after a memory it is [{rows}, {length}]: a column for "
                "each cached entry, then one for each token, as in what `generate_inputs` gives"
            )
        self._heeded = True
        device = self.bias.device
        seen = torch.arange(length, device=device) <= torch.arange(before, length, device=device)[:, None]
        seen = seen if given is None else seen & given[:, None, None, :].bool()
        bias = nn.functional.pad(self.bias, (0, length - self.bias.shape[1]))[:, None, None, :].to(dtype)
        own = torch.ones_like(bias[:, 0, 0], dtype=torch.long) if given is None else given.long()
        own = self.following[:, None] + own[:, self.positions.shape[1] :].cumsum(-1) - 1
        places = torch.cat((self.positions, own), dim=1)
        near = (True if w is None else in_window(places[:, before:], places, w)[:, None] for w in windows)
        return [torch.where(seen & each, bias, torch.finfo(dtype).min) for each in near]

    def update(self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args, **kwargs):
        """As DynamicCache. Raises DataError in a model that does not heed what the memory adds to its scores."""
        if layer_idx == 0 and not self._heeded:
            raise DataError(
                "this model does not read how strongly a memory stores each slot; use the memory's own (`memory.model`)"
            )
        self._heeded = False
        return super().update(key_states, value_states, layer_idx, *args, **kwargs)

    def reorder_cache(self, beam_idx: Tensor) -> None:
        super().reorder_cache(beam_idx)
        self._take(beam_idx.to(self.bias.device))

    def batch_repeat_interleave(self, repeats: int) -> None:
        super().batch_repeat_interleave(repeats)
        self._take(torch.arange(len(self.bias), device=self.bias.device).repeat_interleave(repeats))

    def batch_select_indices(self, indices: Tensor) -> None:
        super().batch_select_indices(indices)
        self._take(indices)

    def _take(self, rows: Tensor) -> None:
        self.bias, self.positions, self.following = self.bias[rows], self.positions[rows], self.following[rows]


def generate_inputs(decoder: Decoder, prefix: Prefix, prompts: Sequence[Sequence[int]], pad: int = 0) -> dict[str, Any]:
    """What `decoder.model.generate` is called with to go on after `prefix` and `prompts` (token ids, one row each).

    A prefix of one row is read by every prompt. Returns `input_ids` [B, T], padded with `pad` on the left,
    `attention_mask` and `position_ids` [B, P + T], and `past_key_values`, a cache to be used once.
    Raises DataError for an empty prompt, and if prefix and prompts are not equally many.
    """
    if not prompts or not all(prompts):
        raise DataError("a prompt is empty; give at least one token for the model to go on after")
    if len(prefix.valid) not in (1, len(prompts)):
        raise DataError(f"{len(prompts)} prompts stand against {len(prefix.valid)} memories; give one of each, or one")
    prefix = prefix.rows(torch.zeros(len(prompts), dtype=torch.long)) if len(prefix.valid) == 1 else prefix
    longest = max(map(len, prompts))
    ids = torch.tensor([[pad] * (longest - len(row)) + list(row) for row in prompts], device=decoder.device)
    own = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in prompts], device=decoder.device)
    after = prefix.next_position[:, None] + (own.cumsum(-1) - 1).clamp(min=0)
    _heed(decoder.model)
    reach = prefix.valid.shape[1] + decoder.limit(prefix) - int(prefix.next_position.max())
    return {
        "input_ids": ids,
        "attention_mask": torch.cat((prefix.valid.long(), own), dim=1),
        "position_ids": torch.cat((torch.zeros_like(prefix.valid, dtype=torch.long), after), dim=1),
        "past_key_values": MemoryCache(prefix, reach),
    }


def _heed(model: nn.Module) -> None:
    """Let every pass of `model` over a MemoryCache add what the cache carries to its scores."""
    if _add_bias not in model._forward_pre_hooks.values():
        model.register_forward_pre_hook(_add_bias, with_kwargs=True)


def _add_bias(model: nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
    cache = kwargs.get("cache", kwargs.get("past_key_values"))  # its name from transformers 5.24 on, and before
    if not isinstance(cache, MemoryCache):
        return args, kwargs
    if kwargs.get("use_cache") is False:
        raise DataError("use_cache is false; a memory is read as a cache, so leave that setting out")
    given = kwargs.get("input_ids", args[0] if args else None)
    given = kwargs["inputs_embeds"] if given is None else given
    windows = attention_windows(model.config)
    masks = cache.masks(kwargs.get("attention_mask"), *given.shape[:2], model.dtype, windows.values())
    # a decoder whose layers are of several kinds takes a mask of each
    mask = masks[0] if None in windows else dict(zip(windows, masks, strict=True))
    return args, {**kwargs, "attention_mask": mask}
