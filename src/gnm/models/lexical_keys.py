"""Lexical search keys: how many rare tokens a question and a segment have in common, as a product of two keys.

- A name that stands in both is the best clue to a line, and means of hidden states blur it.
- A token weighs the square of the logarithm of its number: byte-pair vocabularies are nearly ordered by frequency, so
  what is rare has a large number (Zipf 1949). How often a text has it does not count.
- Each token has pseudo-random signs. A key is the sum over the different tokens of a text, weight times signs, of
  length 1. So a product of two keys is near the cosine between their weighted sets of tokens (random projections:
  Achlioptas 2003), and the keys are as small as those of meaning.
- A token is known by what enters the first layer, its embedding, as slots keep that and no token numbers.

Shape letters: N tokens, E hidden size, n texts, V vocabulary, D numbers of a lexical key.
"""

from functools import cached_property, lru_cache
from hashlib import blake2b
from math import log

import numpy as np
import torch
from torch import Tensor, nn

from gnm.models.decoder import Decoder

LEXICAL_SIZE = 512  # D: as many signs as BLAKE2b has bits
_ROWS = 4096  # of the vocabulary, embedded at once


class LexicalKeys:
    """The lexical keys of texts for one decoder.

    keys = LexicalKeys(decoder)
    first, second = keys(decoder.embed(ids), text, 2)  # text: 0 at the tokens of the first, 1 at the second's
    first @ second  # near 1 if they have the same tokens, near 0 if they have none in common
    """

    def __init__(self, decoder: Decoder):
        self._decoder = decoder

    def __call__(self, inputs: Tensor, text: Tensor, count: int) -> Tensor:
        """Keys [count, D] float32 of texts whose tokens enter the first layer as `inputs` [N, E].

        text: [N] long, the number of the text that each token is of; tokens with a negative one are of none.
        A text without tokens has a key of zeros.
        """
        summed = torch.zeros(count, LEXICAL_SIZE)
        for number, digest in sorted({*zip(text.tolist(), _digests(inputs), strict=True)}):
            if number >= 0:
                summed[number] += self._weights.get(digest, 1.0) * _signs(digest)
        return nn.functional.normalize(summed, dim=-1).to(inputs.device)

    @cached_property
    def _weights(self) -> dict[bytes, float]:
        """The weight of each token, by its embedding; of equal embeddings the first counts."""
        size = self._decoder.model.get_input_embeddings().weight.shape[0]
        weights: dict[bytes, float] = {}
        for start in range(0, size, _ROWS):
            ids = torch.arange(start, min(start + _ROWS, size), device=self._decoder.device)
            for number, digest in enumerate(_digests(self._decoder.embed(ids)), start):
                weights.setdefault(digest, (log(2 + number) / log(2 + size)) ** 2)
        return weights


def _digests(inputs: Tensor) -> list[bytes]:
    """A hash of each row of [N, E]; equal rows have equal ones, on every machine, in float32 as in bfloat16."""
    rows = inputs.detach().cpu().bfloat16().contiguous().view(torch.uint8).numpy()
    return [blake2b(row.tobytes(), digest_size=LEXICAL_SIZE // 8).digest() for row in rows]


@lru_cache(maxsize=2**15)
def _signs(digest: bytes) -> Tensor:
    """1 or -1 for each bit of a hash, [D] float32."""
    return torch.from_numpy(np.unpackbits(np.frombuffer(digest, np.uint8)).astype(np.float32) * 2 - 1)
