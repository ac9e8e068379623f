"""A Hugging Face decoder, run layer by layer over many short texts that attend to a key/value prefix.

The texts of all states are packed into one row without padding (`attention.py`).
Shape letters: B states, n queries per state, T tokens per query, P prefix length, L layers, E hidden size,
V vocabulary, K key/value heads, D head size, S slots, N real tokens of all queries.
Decoders of the Llama shape work: `model.embed_tokens`, `model.layers` (with the projections of `projections.py`),
`model.norm`, `model.rotary_emb`. `families.py` lists the families; any other is refused.
"""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import partial

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from gnm.errors import BackboneError
from gnm.models.attention import IMPLEMENTATION, Reading, additive, capped, in_window
from gnm.models.families import attention_windows, check_family, layer_kinds, rotary_settings
from gnm.models.lora import FusedLoraLinear, active_adapters, use_adapters
from gnm.models.prefix import Prefix
from gnm.models.projections import project_slots, rotate
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
        # outside their layers Granite scales the embeddings and the logits, Gemma 2 caps the logits
        self._embedding_multiplier = getattr(model.config, "embedding_multiplier", None) or 1
        self._logits_scaling = getattr(model.config, "logits_scaling", None) or 1
        self._logits_cap = getattr(model.config, "final_logit_softcapping", None)
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
        none = torch.zeros(batch, 0, dtype=torch.long, device=self.device)
        return Prefix(empty, empty, none.bool(), none, none.sum(-1))

    def rotary(self, positions: Tensor) -> tuple[tuple[Tensor, Tensor], ...]:
        """cos and sin of each layer for `positions` [B, T] long: [B, T, D] each."""
        like, embed = torch.empty(0, dtype=self.dtype, device=self.device), self.model.model.rotary_emb
        kinds = rotary_settings(self.config)
        if None in kinds:
            return (embed(like, positions),) * len(self.layers)
        by_kind = {kind: embed(like, positions, kind) for kind in kinds}
        return tuple(by_kind[kind] for kind in layer_kinds(self.config))

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
        return Prefix(self.rotate(keys, positions), values, valid, positions, following, bias, remembered=True)

    def rotate(self, tensors: tuple[Tensor, ...], positions: Tensor) -> tuple[Tensor, ...]:
        """Each layer's queries or keys [B, K, P, D] at `positions` [B, P] long; layers without rotation keep theirs."""
        return tuple(map(rotate, self.layers, tensors, self.rotary(positions)))

    def start(
        self, prefix: Prefix, mask: Tensor, keep: bool = False, past: Tensor | None = None
    ) -> tuple[Reading, Tensor]:
        """Prepare a pass over new tokens behind `prefix`: what they attend to, and their positions [B, n, T] long.

        mask: [B, n, T] bool, false for padding on the right. keep: whether the pass keeps its keys and values in
        `Reading.own`. past: [B, n, S] bool, the tokens that earlier passes read between the prefix and these, false for
        padding; who calls puts their keys and values into `Reading.own`.
        Raises BackboneError if positions exceed those of the backbone, before any [T, T] mask is allocated.
        """
        past = mask[..., :0] if past is None else past
        before, tokens = past.shape[2], mask.shape[2]
        every = torch.cat((past, mask), dim=-1).long().cumsum(-1)
        every = prefix.next_position[:, None, None] + (every - 1).clamp(min=0)
        positions = every[..., before:]
        last = self._check_positions(positions, prefix, mask)
        causal = torch.ones(tokens, tokens, dtype=torch.bool, device=mask.device).tril()
        own = causal & mask[:, :, None, :]
        own = own | torch.eye(tokens, dtype=torch.bool, device=mask.device)  # padding sees itself: no empty softmax
        own = torch.cat((past[:, :, None].expand(-1, -1, tokens, -1), own), dim=-1)
        prefix_bias = _prefix_bias(prefix, self.dtype)[:, None, None, None, :]
        own_bias = additive(own, self.dtype)[:, None]
        windowed = {}
        for window in {window for window in self.windows if window is not None and last >= window}:
            keys = ((prefix.positions[:, None], prefix_bias), (every, own_bias))
            biases = tuple(_windowed(bias, in_window(positions, of_keys, window)) for of_keys, bias in keys)
            windowed |= {layer: biases for layer, own_window in enumerate(self.windows) if own_window == window}
        cells = mask.flatten().nonzero()[:, 0]
        reading = Reading(prefix, tuple(mask.shape), cells, prefix_bias, own_bias, keep, windowed=windowed)
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

    def embed(self, ids: Tensor) -> Tensor:
        """What enters the first layer at tokens `ids` [...] long: [..., E]."""
        hidden = self.model.model.embed_tokens(ids)
        return hidden if self._embedding_multiplier == 1 else hidden * self._embedding_multiplier

    def run(self, ids: Tensor, positions: Tensor, reading: Reading, tap: Tap | None = None) -> Tensor | None:
        """One pass over the real tokens of ids [B, n, T] at `positions` [B, n, T], both long.

        reading: from `start`. tap: sees what enters and leaves each layer.
        Returns the hidden states after the final norm [B, n, T, E], zeros at padding; None if the tap ends the pass
        before some layer (`ends_before`).
        Raises BackboneError if positions exceed those of the backbone.
        """
        self._check_positions(positions, reading.prefix)
        inner = self.model.model
        positions = positions.flatten()[reading.cells][None]
        hidden = self.embed(ids.flatten()[reading.cells][None])
        rotary = self.rotary(positions)
        # a negative `ends_before` counts from the last layer
        end = None if tap is None or tap.ends_before is None else range(len(self.layers))[tap.ends_before]
        for index, layer in enumerate(self.layers):
            if tap:
                hidden = tap.before(index, hidden, reading)
                if index == end:
                    return None
            hidden = self._layer(index, layer, hidden, positions, rotary[index], reading)
            if tap:
                tap.after(index, hidden, reading)
        return reading.spread(inner.norm(hidden)[0])

    def _layer(self, index: int, layer: nn.Module, hidden: Tensor, positions: Tensor, rotary, reading: Reading):
        """Hidden states [1, N, E] after one layer.

        With `checkpointing`, its activations are not kept, but computed again in the backward pass.
        """

        def run_layer(hidden: Tensor, *past: Tensor) -> tuple[Tensor, ...]:
            return _of(layer, pass_layer)(hidden, positions, rotary, reading.of_layer(index, past))

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
        return capped(logits if self._logits_scaling == 1 else logits / self._logits_scaling, self._logits_cap)

    @property
    def windows(self) -> tuple[int | None, ...]:
        """How many positions, its own included, a token attends over in each layer; None: all."""
        windows = attention_windows(self.config)
        return tuple(windows[kind] for kind in layer_kinds(self.config))

    @property
    def reach(self) -> int:
        """How many positions the backbone has."""
        rope = self.config.rope_parameters or {}
        reach = self.config.max_position_embeddings
        return int(reach * rope["factor"]) if rope.get("rope_type") == "linear" else reach

    @property
    def window(self) -> int:
        """How many positions some layer attends over: of more, a question would not see a part of its memory at all."""
        return min(self.reach, max(window or self.reach for window in self.windows))

    def limit(self, prefix: Prefix) -> int:
        """The positions of a pass that reads `prefix`: what is remembered must be seen, a text may be longer."""
        return self.window if prefix.remembered else self.reach

    def _check_positions(self, positions: Tensor, prefix: Prefix, mask: Tensor | None = None) -> int:
        """The last of `positions` in a pass that reads `prefix`. Raises BackboneError if it exceeds the limit.

        mask: which tokens are real, if a pass starts; with it the error tells a text that is too long by itself from a
        prefix that leaves too little room.
        """
        last, limit = int(positions.max()) if positions.numel() else -1, self.limit(prefix)
        if last < limit:
            return last
        longest, name = 0 if mask is None else int(mask.sum(-1).max()), type(self.model).__name__
        if longest > limit:
            raise BackboneError(
                f"a text of {longest} tokens exceeds the {limit} positions that {name} attends over; shorten it, or "
                "split the document"
            )
        raise BackboneError(
            f"{last + 1} positions exceed the {limit} that {name} attends over; "
            "use a smaller pool (memory.capacity, in the shell --capacity), fewer documents or fewer new tokens"
        )


def _prefix_bias(prefix: Prefix, dtype: torch.dtype) -> Tensor:
    """What is added to the scores of attention to a prefix, [B, P]: its bias, the dtype's minimum where not valid."""
    closed = additive(prefix.valid, dtype)
    return closed if prefix.bias is None else torch.where(prefix.valid, prefix.bias.to(dtype), closed)


def _windowed(bias: Tensor, seen: Tensor) -> Tensor:
    """Bias [B, 1, n or 1, T or 1, X] where `seen` [B, n, T, X], the dtype's minimum elsewhere: [B, 1, n, T, X]."""
    return torch.where(seen[:, None], bias, torch.finfo(bias.dtype).min)


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
