"""How likely given answers are after a prefix: what multiple choice and perplexity are made of."""

from collections.abc import Sequence
from typing import NamedTuple

import torch

from gnm.errors import DataError
from gnm.inference.chat import ChatFormat
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


def answer_pairs(chat: ChatFormat, request: str, answers: Sequence[str]) -> list[tuple[list[int], list[int]]]:
    """A request before each of its answers, as token ids; before an empty request's answers stands an end of turn.

    Raises DataError for an empty answer.
    """
    prompt = (chat.encode(request.strip()) + chat.tail) or chat.end_of_turn[:1]
    encoded = [chat.encode_answer(answer) for answer in answers]
    if not all(encoded):
        raise DataError("an answer is empty; there is nothing to score")
    return [(prompt, answer) for answer in encoded]


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
        expected = torch.tensor(answer, device=logs.device)
        total = float(logs.gather(1, expected[:, None]).sum())
        scores.append(Score(total, len(answer), bool((logs.argmax(-1) == expected).all())))
    return scores
