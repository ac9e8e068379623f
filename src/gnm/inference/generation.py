"""Free answers from a prefix, token by token, with the sampling settings of transformers' GenerationConfig.

One state, one request: what is said is streamed as text. The processors of the scores are transformers' own.
"""

import difflib
from collections.abc import Iterator, Sequence

import torch
from pydantic import ConfigDict, Field
from torch import Tensor
from transformers import (
    GenerationConfig,
    LogitsProcessorList,
    MinPLogitsWarper,
    NoRepeatNGramLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from gnm.config import StrictModel, validate
from gnm.errors import ConfigError
from gnm.models.decoder import Decoder
from gnm.models.prefix import Prefix


class _Settings(StrictModel):
    """The types of what is set; what values make sense, transformers says itself."""

    model_config = ConfigDict(strict=True)

    max_new_tokens: int = Field(gt=0)
    do_sample: bool
    temperature: float
    top_k: int | None
    top_p: float
    min_p: float | None
    repetition_penalty: float
    no_repeat_ngram_size: int


SETTINGS = {
    "max_new_tokens": 128,
    "do_sample": False,
    "temperature": 1.0,
    "top_k": 50,
    "top_p": 1.0,
    "min_p": None,
    "repetition_penalty": 1.0,
    "no_repeat_ngram_size": 0,
}
"""The settings of GenerationConfig that count here, with what they are if nothing is said."""

SAMPLING = ("temperature", "top_k", "top_p", "min_p")
"""Those of SETTINGS that count with do_sample alone."""

COLDEST = 1e-4
"""A lower temperature would divide scores beyond all numbers: nothing is drawn, what is likeliest is chosen."""

_UNFINISHED = "\ufffd"  # what a tokenizer decodes half a character to


def generation_config(**settings) -> GenerationConfig:
    """A GenerationConfig of SETTINGS. Raises ConfigError for a setting that does not count here, or makes no sense.

    Settings of SAMPLING without do_sample do not count, so they are refused, as by transformers' strict check; its
    ordinary one warns and answers greedily. A value that is the default changes nothing and is let pass by both.
    """
    for name in settings:
        if name not in SETTINGS:
            near = difflib.get_close_matches(name, SETTINGS, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(SETTINGS)}"
            raise ConfigError(f"unknown generation setting {name!r} ({hint})")
    validate({**SETTINGS, **settings}, _Settings, "generation settings")
    if not settings.get("temperature", 1.0) > 0:  # nor NaN
        raise ConfigError(
            f"generation settings: temperature: {settings['temperature']} is not above 0; leave it out for greedy "
            "answers, or give one above 0 with do_sample=True"
        )
    unused = [name for name in SAMPLING if name in settings and settings[name] != SETTINGS[name]]
    if unused and not settings.get("do_sample"):
        raise ConfigError(
            f"generation settings: {', '.join(unused)}: without do_sample=True answers are greedy and nothing is "
            "drawn; give it too, or leave that out"
        )
    try:
        config = GenerationConfig(**{**SETTINGS, **settings})
        config.validate(strict=False)
        _processors(config)
    except (ValueError, TypeError) as error:
        raise ConfigError(f"generation settings: {error}") from error
    return config


@torch.no_grad()
def generate_tokens(
    decoder: Decoder,
    prefix: Prefix,
    prompt: Sequence[int],
    ends: Sequence[int],
    config: GenerationConfig,
    seed: int = 0,
) -> Iterator[int]:
    """The tokens that follow `prefix` and `prompt`, up to one of `ends` or `config.max_new_tokens`.

    prefix: of one state. seed: of the draws, with do_sample. Raises ConfigError if settings make scores too large.
    """
    processors = _processors(config)
    generator = torch.Generator(device="cpu").manual_seed(seed)
    seen = torch.tensor([list(prompt)], device=decoder.device)
    ids, own = seen, {}
    for _ in range(config.max_new_tokens):
        scores, own = _read_on(decoder, prefix, ids, own, seen.shape[1] - ids.shape[1])
        scores = processors(seen, scores)
        if _draws(config):
            chances = scores.softmax(-1).cpu()
            if bool(chances.isnan().any()):
                raise ConfigError(
                    f"generation settings: repetition_penalty {config.repetition_penalty} makes scores too large to "
                    "draw from; give one nearer to 1"
                )
            chosen = int(torch.multinomial(chances, 1, generator=generator))
        else:
            chosen = int(scores.argmax())
        if chosen in ends:
            return
        yield chosen
        ids = torch.tensor([[chosen]], device=decoder.device)
        seen = torch.cat((seen, ids), dim=1)


def decode_stream(tokenizer, tokens: Iterator[int]) -> Iterator[str]:
    """The text of `tokens`, piece by piece; a piece never ends in half a character."""
    return (piece for piece in decode_steps(tokenizer, tokens) if piece)


def decode_steps(tokenizer, tokens: Iterator[int]) -> Iterator[str]:
    """What each of `tokens` adds to the text, "" if it is half a character; at the end what is left."""
    held: list[int] = []
    said = ""
    for token in tokens:
        held.append(token)
        text = tokenizer.decode(held, skip_special_tokens=True)
        if len(text) > len(said) and not text.endswith(_UNFINISHED):
            yield text[len(said) :]
            said = text
        else:
            yield ""
    if held and len(text := tokenizer.decode(held, skip_special_tokens=True)) > len(said):
        yield text[len(said) :]


def _read_on(
    decoder: Decoder, prefix: Prefix, ids: Tensor, own: dict[int, tuple[Tensor, Tensor]], past: int
) -> tuple[Tensor, dict[int, tuple[Tensor, Tensor]]]:
    """Scores [1, V] of what follows ids [1, T], and the keys and values of all tokens after the prefix.

    own: those of the `past` tokens before; they stay apart from the prefix, which would be copied for each token.
    """
    real = torch.ones(1, 1, past + ids.shape[1], dtype=torch.bool, device=ids.device)
    reading, positions = decoder.start(prefix, real[..., past:], keep=True, past=real[..., :past])
    reading.own = dict(own)
    hidden = decoder.run(ids[:, None], positions, reading)
    return decoder.logits(hidden[0, 0, -1:]), reading.own


def _draws(config: GenerationConfig) -> bool:
    return config.do_sample and not 0 < config.temperature < COLDEST


def _processors(config: GenerationConfig) -> LogitsProcessorList:
    """What changes the scores before a token is chosen, in transformers' order."""
    found = LogitsProcessorList()
    if config.repetition_penalty != 1.0:
        found.append(RepetitionPenaltyLogitsProcessor(penalty=config.repetition_penalty))
    if config.no_repeat_ngram_size:
        found.append(NoRepeatNGramLogitsProcessor(config.no_repeat_ngram_size))
    if _draws(config):
        found.append(TemperatureLogitsWarper(float(config.temperature)))
        if config.top_k:
            found.append(TopKLogitsWarper(top_k=config.top_k))
        if config.top_p < 1.0:
            found.append(TopPLogitsWarper(top_p=config.top_p))
        if config.min_p is not None:
            found.append(MinPLogitsWarper(min_p=config.min_p))
    return found
