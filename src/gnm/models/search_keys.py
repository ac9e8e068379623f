"""Search keys of questions and of segments, by which a question finds what it reads of a long-term store.

- They are made of the hidden states that enter an early layer, before much of the context is mixed in: whitened
  (`whitening.py`), and passed through a trained retriever (`retriever.py`) if the settings name one.
- Beside these stand lexical keys (`lexical_keys.py`). The cosine of two keys is the mean of both, weighted as the
  settings say.

Shape letters: n texts, T tokens, N tokens of all of them, E hidden size, D numbers of a search key.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from gnm.errors import ConfigError
from gnm.memory.store import unit
from gnm.memory.store_settings import StoreSettings
from gnm.models import flops
from gnm.models.attention import at_ends
from gnm.models.decoder import Decoder
from gnm.models.lexical_keys import LEXICAL_SIZE, LexicalKeys
from gnm.models.retriever import Retriever, Side
from gnm.models.taps import LayerTap
from gnm.models.tokens import TokenBatch
from gnm.models.whitening import Whitening


class SearchKeys:
    """What a store with these settings is searched by; name: in words, size: D.

    sample: texts on which the whitening is fitted. Set it before the first key is made.
    retriever: the one of `store.retriever`, if the settings name one.
    Raises ConfigError if the decoder has no layer `store.layer`, or if `retriever` was trained for other keys than
    these.

        keys.of_questions(questions) @ keys.of_segments(means, inputs, segment).T  # cosines
    """

    sample: TokenBatch

    def __init__(self, decoder: Decoder, preamble: Sequence[int], settings: StoreSettings, retriever: Retriever | None):
        self._decoder, self._preamble, self._settings = decoder, preamble, settings
        self._whitening: Whitening | None = None
        layers = len(decoder.layers)
        if settings.layer >= layers:
            raise ConfigError(f"memory.store.layer: {settings.layer} is none of the decoder's layers 0 to {layers - 1}")
        self.name, self.size = settings.search_key, decoder.config.hidden_size
        self._retriever, self._lexical = retriever, LexicalKeys(decoder)
        if retriever:
            self.size = retriever.key_size
            self._check_fits(retriever)
        if settings.lexical:
            self.size += LEXICAL_SIZE

    def of_questions(self, questions: TokenBatch) -> Tensor:
        """Search keys [n, D] float32 of n questions, each read after the preamble alone."""
        seen, mask = early_inputs(self._decoder, self._preamble, questions, self._settings.layer), questions.mask
        if self._settings.by == "last":
            meanings = at_ends(seen[None], mask[None])[0]
        else:
            meanings = (seen.float() * mask[..., None]).sum(1) / mask.sum(-1, keepdim=True).clamp(min=1)
        return self._of("question", meanings, self._decoder.embed(questions.ids[mask]), mask.nonzero()[:, 0])

    def of_segments(self, hidden: Tensor, inputs: Tensor, segment: Tensor) -> Tensor:
        """Search keys [n, D] float32 of n segments.

        hidden: [n, E], the means (or last ones) of what enters the layer. inputs: [N, E], what enters the first layer
        at their tokens. segment: [N] long, the number of the segment that each token is of.
        """
        return self._of("segment", hidden, inputs, segment)

    def flops(self, tokens: int) -> float:
        """FLOPs of the search key of a question of `tokens` tokens."""
        read = flops.prefill_flops(self._decoder.config, tokens, len(self._preamble))
        trained = self._retriever.flops if self._retriever else 0
        lexical = 2 * tokens * LEXICAL_SIZE if self._settings.lexical else 0
        return read * self._settings.layer / len(self._decoder.layers) + trained + lexical

    @torch.no_grad()
    def _of(self, side: Side, hidden: Tensor, inputs: Tensor, text: Tensor) -> Tensor:
        keys = self._whitened(hidden) if self._settings.whiten else unit(hidden)
        keys = keys if self._retriever is None else self._retriever(side, keys)
        share = self._settings.lexical
        return beside(keys, self._lexical(inputs, text, len(keys)), share) if share else keys

    def _whitened(self, hidden: Tensor) -> Tensor:
        if self._whitening is None:
            seen = early_inputs(self._decoder, self._preamble, self.sample, self._settings.layer)
            self._whitening = Whitening.fit(seen[self.sample.mask])
        return self._whitening(hidden)

    def _check_fits(self, retriever: Retriever) -> None:
        for name in ("layer", "whiten"):
            its, own = getattr(retriever, name), getattr(self._settings, name)
            if its != own:
                raise ConfigError(
                    f"memory.store.{name}: {own}, but the retriever {self._settings.retriever} was trained with {its}; "
                    "set the same here, or train another"
                )


def beside(keys: Tensor, lexical: Tensor, share: float) -> Tensor:
    """Keys [n, D + D']: a product of two is that of their `keys` [n, D] times 1 - share, plus that of their `lexical`
    [n, D'] times share."""
    return torch.cat((keys * (1 - share) ** 0.5, lexical * share**0.5), dim=-1)


def early_inputs(decoder: Decoder, preamble: Sequence[int], texts: TokenBatch, layer: int) -> Tensor:
    """The hidden states that enter `layer` at the tokens of n texts, each read after `preamble` alone: [n, T, E].

    That layer and those above it are not run.
    """
    tap = LayerTap(layer, ends_before=layer)
    begun = torch.tensor([list(preamble)], dtype=torch.long, device=decoder.device)
    prefix = decoder.extend(decoder.empty_prefix(1), begun, torch.ones_like(begun, dtype=torch.bool))
    decoder.read(prefix, texts.ids[None], texts.mask[None], tap)
    return tap.seen[0]
