"""Passes over the questions of several states: those of one state lie packed in one row (`models/attention.py`).

Shape letters: B states, n questions per state, T tokens, E hidden size, V vocabulary, W watched tokens.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gnm.inference.padding import pad
from gnm.models.attention import at_ends
from gnm.models.decoder import Decoder
from gnm.models.prefix import Prefix

Own = dict[int, tuple[Tensor, Tensor]]
"""Keys and values of the questions' own tokens, by layer."""


@dataclass(frozen=True)
class Begun:
    """Prompts that were read: their own keys and values, mask [B, n, T], scores of the next token [B, n, V]."""

    own: Own
    mask: Tensor
    scores: Tensor


class PackedPasses:
    """Reads the prompts of questions behind prefixes, and goes on from there.

    ends: token ids, each of which ends an answer. recall: changes the last hidden states [B, n, T, E] before they are
    scored; None leaves them as they are.

        begun = passes.begin(prefix, [[prompt]])
        tokens, _ = passes.greedy(prefix, begun, [1], max_new_tokens=8)
    """

    def __init__(self, decoder: Decoder, ends: Sequence[int], recall: Callable[[Tensor], Tensor] | None = None):
        self.decoder, self.ends, self.recall = decoder, frozenset(ends), recall

    def read(self, prefix: Prefix, ids: Tensor, mask: Tensor) -> Tensor:
        """The last hidden states [B, n, T, E] of ids [B, n, T] (mask [B, n, T]); nothing of the pass is kept."""
        return self._recalled(self.decoder.read(prefix, ids, mask))

    def begin(self, prefix: Prefix, prompts: list[list[list[int]]]) -> Begun:
        """Read prompts, given as token ids: row b holds those of state b."""
        ids, mask = pad(prompts, self.decoder.device)
        reading, positions = self.decoder.start(prefix, mask, keep=True)
        hidden = self._recalled(self.decoder.run(ids, positions, reading))
        scores = self.decoder.logits(at_ends(hidden, mask).flatten(0, 1)).unflatten(0, ids.shape[:2])
        return Begun(reading.own, mask, scores)

    def greedy(
        self, prefix: Prefix, begun: Begun, widths: list[int], max_new_tokens: int, watched: Tensor | None = None
    ) -> tuple[list[list[list[int]]], list[Tensor]]:
        """Greedy continuations of what `begun` read, as token ids; row b has widths[b] of them.

        Also the scores of the tokens `watched` [B, n, W] long at each step, [B, n, W] each.
        """
        tokens: list[list[list[int]]] = [[[] for _ in range(width)] for width in widths]
        ends, own, mask, chosen = self.ends, begun.own, begun.mask, begun.scores.argmax(-1)
        open_ = torch.arange(mask.shape[1])[None, :] < torch.tensor(widths)[:, None]
        scores = [] if watched is None else [begun.scores.gather(2, watched)]
        for step in range(max_new_tokens):
            picked = chosen.tolist()
            for row, column in open_.nonzero().tolist():
                if picked[row][column] in ends:
                    open_[row, column] = False
                else:
                    tokens[row][column].append(picked[row][column])
            if step == max_new_tokens - 1 or not open_.any():
                break
            given = open_[..., None].to(mask.device)
            hidden, own = self.go_on(prefix, own, mask, chosen[..., None], given)
            mask = torch.cat((mask, given), dim=-1)
            logits = self.decoder.logits(hidden[given])
            chosen = chosen.masked_scatter(given[..., 0], logits.argmax(-1))
            if watched is not None:
                seen = logits.gather(1, watched[given[..., 0]])
                scores.append(scores[-1].masked_scatter(given, seen))
        return tokens, scores

    def go_on(self, prefix: Prefix, own: Own, mask: Tensor, ids: Tensor, given: Tensor) -> tuple[Tensor, Own]:
        """Read ids [B, n, T], where `given` [B, n, T], after the tokens of each question that `own` and `mask` hold.

        Returns the last hidden states [B, n, T, E], and what is then held of each question.
        """
        reading, positions = self.decoder.start(prefix, given, keep=True, past=mask)
        reading.own = dict(own)
        hidden = self._recalled(self.decoder.run(ids, positions, reading))
        return hidden, reading.own

    def _recalled(self, hidden: Tensor) -> Tensor:
        return self.recall(hidden) if self.recall else hidden
