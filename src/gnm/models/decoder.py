"""A Hugging Face decoder, run layer by layer over many short texts that attend to a key/value prefix.

The texts of all states are packed into one row without padding (`attention.py`).
Shape letters: B states, n queries per state, T tokens per query, P prefix length, L layers, E hidden size,
V vocabulary, K key/value heads, D head size, S slots, N real tokens of all queries.
Decoders of the Llama shape work: `model.embed_tokens`, `model.layers` (with the projections of `projections.py`),
`model.norm`, `model.rotary_emb`. `families.py` lists the families; any other is refused.
"""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from gnm.errors import BackboneError
from gnm.models.attention import IMPLEMENTATION, Reading, additive, rotate
from gnm.models.families import check_family
from gnm.models.lora import FusedLoraLinear, active_adapters, use_adapters
from gnm.models.prefix import Prefix
from gnm.models.projections import is_rotated, project_slots
from gnm.models.taps import Tap


class Decoder(nn.Module):
    """Runs the backbone's own layers, and has no weights of its own.

    Raises BackboneError for a model whose family or settings `families.py` does not support.

        hidden = decoder.read(decoder.empty_prefix(1), ids, mask)  # ids and mask [1, n, T]
        scores = decoder.logits(hidden[mask])
    """

    def __init__(self, model: nn.Module):
        super().__init__()
        check_family(model.config)
        model.set_attn_implementation(IMPLEMENTATION)
        self.model = model
        self.config = model.config
        self.checkpointing = False
        # Granite scales the embeddings and the logits outside its layers
        self._embedding_multiplier = getattr(model.config, "embedding_multiplier", None) or 1
        self._logits_scaling = getattr(model.config, "logits_scaling", None) or 1
        self._lm_head: Tensor | None = None

    @property
    def layers(self) -> nn.ModuleList:
        return self.model.model.layers

    @property
    def dtype(self) -> torch.dtype:
        return self.model.model.embed_tokens.weight.dtype

    @property
    def device(self) -> torch.device:
        return self.model.model.embed_tokens.weight.device

    @property
    def head_size(self) -> int:
        return getattr(self.config, "head_dim", None) or self.config.hidden_size // self.config.num_attention_heads

    def empty_prefix(self, batch: int) -> Prefix:
        """A prefix without entries (P = 0) for `batch` states."""
        shape = (batch, self.config.num_key_value_heads, 0, self.head_size)
        empty = tuple(torch.empty(shape, dtype=self.dtype, device=self.device) for _ in self.layers)
        none = torch.zeros(batch, dtype=torch.long, device=self.device)
        return Prefix(empty, empty, torch.ones(batch, 0, dtype=torch.bool, device=self.device), none)

    def rotary(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """cos and sin for `positions` [B, T] long: [B, T, D] each."""
        return self.model.model.rotary_emb(torch.empty(0, dtype=self.dtype, device=self.device), positions)

    def project(self, slots: Tensor) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """Keys (not rotated) and values of slots [B, L, S, E]: per layer [B, K, S, D] each.

        What the layer itself would compute if the slots stood at its input (MemoryLLM, Wang et al. 2024, sec. 3).
        """
        keys, values = [], []
        for layer, inputs in zip(self.layers, slots.unbind(1), strict=True):
            key, value = _of(layer, project_slots)(inputs)
            keys.append(key)
            values.append(value)
        return tuple(keys), tuple(values)

    def rotated(
        self,
        keys: tuple[Tensor, ...],
        values: tuple[Tensor, ...],
        valid: Tensor,
        positions: Tensor,
        bias: Tensor | None = None,
    ) -> Prefix:
        """A prefix from keys without rotation: they are rotated to `positions` [B, P] long.

        keys, values: [B, K, P, D] per layer. valid: [B, P] bool. bias: as in Prefix.
        The prefix's next position is the one after the last valid entry's.
        """
        after = (positions + 1).masked_fill(~valid, 0)
        following = after.amax(-1) if valid.shape[1] else after.sum(-1)
        return Prefix(self.rotate(keys, positions), values, valid, following, bias)

    def rotate(self, tensors: tuple[Tensor, ...], positions: Tensor) -> tuple[Tensor, ...]:
        """Each layer's queries or keys [B, K, P, D] at `positions` [B, P] long; layers without rotation keep theirs."""
        cos, sin = self.rotary(positions)
        pairs = zip(tensors, self.layers, strict=True)
        # OLMo 2 has float32 cosines whatever its dtype
        return tuple(
            rotate(tensor, cos, sin).to(tensor.dtype) if is_rotated(layer) else tensor for tensor, layer in pairs
        )

    def start(self, prefix: Prefix, mask: Tensor, keep: bool = False) -> tuple[Reading, Tensor]:
        """Prepare a pass over new tokens behind `prefix`: what they attend to, and their positions [B, n, T] long.

        mask: [B, n, T] bool, false for padding on the right. keep: whether the pass keeps its keys and values in
        `Reading.own`.
        Raises BackboneError if positions exceed the backbone's attention window, before any [T, T] mask is allocated.
        """
        positions = prefix.next_position[:, None, None] + (mask.long().cumsum(-1) - 1).clamp(min=0)
        self._check_window(positions, mask)
        tokens = mask.shape[2]
        causal = torch.ones(tokens, tokens, dtype=torch.bool, device=mask.device).tril()
        own = causal & mask[:, :, None, :]
        own = own | torch.eye(tokens, dtype=torch.bool, device=mask.device)  # padding sees itself: no empty softmax
        reading = Reading(
            prefix,
            tuple(mask.shape),
            mask.flatten().nonzero()[:, 0],
            _prefix_bias(prefix, self.dtype)[:, None, None, None, :],
            additive(own, self.dtype)[:, None],
            keep,
        )
        return reading, positions

    def extend(self, prefix: Prefix, ids: Tensor, mask: Tensor, tap: Tap | None = None) -> Prefix:
        """`prefix` followed by the keys and values of ids [B, T] (mask [B, T] bool), as if it had gone on with them."""
        if not mask.any():
            return prefix
        reading, positions = self.start(prefix, mask[:, None], keep=True)
        self.run(ids[:, None], positions, reading, tap)
        keys, values = zip(*((key[:, :, 0], value[:, :, 0]) for key, value in reading.own.values()), strict=True)
        return prefix.extend(keys, values, mask)

    def read(self, prefix: Prefix, ids: Tensor, mask: Tensor, tap: Tap | None = None) -> Tensor | None:
        """One pass over new tokens ids [B, n, T] (mask [B, n, T], false: padding on the right) that reads `prefix`.

        Returns what `run` returns, and raises what `start` raises. Its keys and values are not kept.
        """
        reading, positions = self.start(prefix, mask)
        return self.run(ids, positions, reading, tap)

    def run(self, ids: Tensor, positions: Tensor, reading: Reading, tap: Tap | None = None) -> Tensor | None:
        """One pass over the real tokens of ids [B, n, T] at `positions` [B, n, T], both long.

        reading: from `start`. tap: sees what enters and leaves each layer.
        Returns the hidden states after the final norm [B, n, T, E], zeros at padding; None if the tap ends the pass
        before some layer (`ends_before`).
        Raises BackboneError if positions exceed the backbone's attention window.
        """
        self._check_window(positions)
        inner = self.model.model
        positions = positions.flatten()[reading.cells][None]
        hidden = inner.embed_tokens(ids.flatten()[reading.cells][None])
        if self._embedding_multiplier != 1:
            hidden = hidden * self._embedding_multiplier
        rotary = self.rotary(positions)
        # a negative `ends_before` counts from the last layer
        end = None if tap is None or tap.ends_before is None else range(len(self.layers))[tap.ends_before]
        for index, layer in enumerate(self.layers):
            if tap:
                hidden = tap.before(index, hidden, reading)
                if index == end:
                    return None
            hidden = self._layer(index, layer, hidden, positions, rotary, reading)
            if tap:
                tap.after(index, hidden, reading)
        return reading.spread(inner.norm(hidden)[0])

    def _layer(self, index: int, layer: nn.Module, hidden: Tensor, positions: Tensor, rotary, reading: Reading):
        """Hidden states [1, N, E] after one layer.

        With `checkpointing`, its activations are not kept, but computed again in the backward pass.
        """

        def run_layer(hidden: Tensor, *past: Tensor) -> tuple[Tensor, ...]:
            of_layer = replace(reading, own={index: past} if past else {})
            return _of(layer, pass_layer)(hidden, positions, rotary, of_layer)

        past = reading.own.get(index, ())
        if self.checkpointing and torch.is_grad_enabled():
            # other adapters may be active in the backward pass: the layer is computed again with those of now
            contexts = partial(_contexts, active_adapters(layer))
            hidden, *kept = checkpoint(run_layer, hidden, *past, use_reentrant=False, context_fn=contexts)
        else:
            hidden, *kept = run_layer(hidden, *past)
        if kept:
            reading.own[index] = tuple(kept)
        return hidden

    def logits(self, hidden: Tensor) -> Tensor:
        """Scores of the next token for hidden rows [N, E]: [N, V] float32.

        Computed in float32 whatever the backbone's dtype: bfloat16 scores would tie or swap close candidates.
        """
        weight = self.model.get_output_embeddings().weight
        if weight.dtype != torch.float32:
            if self._lm_head is None or self._lm_head.device != weight.device:
                self._lm_head = weight.detach().float()
            weight = self._lm_head
        logits = nn.functional.linear(hidden.float(), weight)
        return logits if self._logits_scaling == 1 else logits / self._logits_scaling

    @property
    def window(self) -> int:
        """How many positions the backbone attends over."""
        window = getattr(self.config, "sliding_window", None)
        if not getattr(self.config, "use_sliding_window", True):
            window = None
        rope = self.config.rope_parameters or {}
        reach = self.config.max_position_embeddings
        if rope.get("rope_type") == "linear":
            reach = int(reach * rope["factor"])
        return min(window or reach, reach)

    def _check_window(self, positions: Tensor, mask: Tensor | None = None) -> None:
        """Raise BackboneError if `positions` exceed the window.

        mask: which tokens are real, if a pass starts; with it the error tells a text that is too long by itself from a
        prefix that leaves too little room.
        """
        if not positions.numel() or (last := int(positions.max())) < self.window:
            return
        longest, name = 0 if mask is None else int(mask.sum(-1).max()), type(self.model).__name__
        if longest > self.window:
            raise BackboneError(
                f"a text of {longest} tokens exceeds the {self.window} positions that {name} attends over; "
                "split the document"
            )
        raise BackboneError(
            f"{last + 1} positions exceed the {self.window} that {name} attends over; "
            "use a smaller pool (memory.capacity) or fewer documents"
        )


def _prefix_bias(prefix: Prefix, dtype: torch.dtype) -> Tensor:
    """What is added to the scores of attention to a prefix, [B, P]: its bias, the dtype's minimum where not valid."""
    closed = additive(prefix.valid, dtype)
    return closed if prefix.bias is None else torch.where(prefix.valid, prefix.bias.to(dtype), closed)


def pass_layer(layer: nn.Module, hidden: Tensor, positions: Tensor, rotary, reading: Reading) -> tuple[Tensor, ...]:
    """Hidden states [1, N, E] after a decoder layer; its own keys and values too, if `reading` keeps them."""
    hidden = layer.forward(hidden, position_ids=positions, position_embeddings=rotary, use_cache=False, reading=reading)
    return hidden, *(reading.own[layer.self_attn.layer_idx] if reading.keep else ())


def _contexts(adapters: Mapping[FusedLoraLinear, str]) -> tuple[AbstractContextManager, AbstractContextManager]:
    """The contexts of a checkpointed layer: none for its first pass, `adapters` for its pass in the backward."""
    return nullcontext(), use_adapters(adapters)


def _of(layer: nn.Module, function: Callable) -> Callable:
    """`function` with `layer` as its first argument.

    A layer that is sharded over processes has a method of that name instead, which gathers its weights (`sharding.py`).
    """
    return getattr(layer, function.__name__, None) or partial(function, layer)
