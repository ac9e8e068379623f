"""How likely given answers are after a prefix: what multiple choice and perplexity are made of."""

from collections.abc import Sequence
from typing import NamedTuple

import torch

from gnm.inference.padding import pad
from gnm.models.attention import at_once
from gnm.models.decoder import Decoder
from gnm.models.prefix import Prefix


class Score(NamedTuple):
    """Of one answer: the sum of its tokens' log-probabilities (nats), how many they are, and whether the model would
    say just these tokens when it says the likeliest at each step."""

    log_probability: float
    tokens: int
    greedy: bool


@torch.no_grad()
def score(decoder: Decoder, prefix: Prefix, pairs: Sequence[tuple[Sequence[int], Sequence[int]]]) -> list[Score]:
    """The scores of answers after prompts, as pairs of token ids; none of them is empty, and none sees another.

    prefix: of one state. Raises BackboneError if one reaches past the backbone's attention window.
    """
    longest = max(len(prompt) + len(answer) for prompt, answer in pairs)
    number = at_once(prefix.valid.numel() * decoder.config.num_attention_heads * longest)
    parts = (_score(decoder, prefix, pairs[start : start + number]) for start in range(0, len(pairs), number))
    return [found for part in parts for found in part]


def _score(decoder: Decoder, prefix: Prefix, pairs: Sequence[tuple[Sequence[int], Sequence[int]]]) -> list[Score]:
    # the last answer token is predicted, never read
    ids, mask = pad([[[*prompt, *answer[:-1]] for prompt, answer in pairs]], decoder.device)
    hidden = decoder.read(prefix, ids, mask)[0]
    scores = []
    for row, (prompt, answer) in zip(hidden, pairs, strict=True):
        first = len(prompt) - 1
        logs = decoder.logits(row[first : first + len(answer)]).log_softmax(-1)
        told = torch.tensor(answer, device=logs.device)
        total = float(logs.gather(1, told[:, None]).sum())
        scores.append(Score(total, len(answer), bool((logs.argmax(-1) == told).all())))
    return scores
