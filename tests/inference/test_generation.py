"""Free answers against transformers' own `generate` over the same text, and streamed text."""

import pytest
import torch
from transformers import GenerationConfig

from gnm.errors import ConfigError
from gnm.inference.generation import (
    SAMPLING,
    SETTINGS,
    _processors,
    decode_stream,
    generate_tokens,
    generation_config,
)
from stock import another, context_ids, reader_of

TEXTS = ["Anna lives in Oslo. ", "She plays the violin."]


def begun(backbone):
    """A reader, a prefix that holds TEXTS in its context, and the ids of a request behind them."""
    reader = reader_of(backbone)
    text = reader.encode(["".join(TEXTS)])
    prefix = reader.decoder.extend(reader.preamble(1), text.ids, text.mask)
    return reader, prefix, reader.chat.encode("Say something.") + reader.chat.tail


@torch.no_grad()
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"repetition_penalty": 1.7},
        {"no_repeat_ngram_size": 2},
        {"do_sample": True, "top_k": 1},
        {"do_sample": True, "temperature": 1e-4},
        {"do_sample": True, "temperature": 1e-40},
        {"do_sample": True, "temperature": 5e-324, "top_p": 0.5, "min_p": 0.1},
        {"do_sample": True, "top_p": 1e-6, "top_k": 0},
        {"do_sample": True, "min_p": 1.0},
    ],
)
def test_tokens_are_those_of_transformers(tiny_family, settings):
    """Every draw that can go one way only, and what changes scores; what it is punished for is what was said since."""
    reader, prefix, prompt = begun(tiny_family)
    config = generation_config(max_new_tokens=12, **settings)
    found = list(generate_tokens(reader.decoder, prefix, prompt, reader.chat.end_of_turn, config))
    ids = torch.tensor([context_ids(reader.chat, ["".join(TEXTS)]) + prompt])
    stock = another(tiny_family)
    mine = list(ids[0])
    penal = {"repetition_penalty", "no_repeat_ngram_size"} & settings.keys()
    if penal:  # transformers punishes the whole text, a memory has none: compare by hand
        from transformers import LogitsProcessorList, NoRepeatNGramLogitsProcessor, RepetitionPenaltyLogitsProcessor

        kind = RepetitionPenaltyLogitsProcessor if "repetition_penalty" in settings else NoRepeatNGramLogitsProcessor
        change, said = LogitsProcessorList([kind(*settings.values())]), []
        for _ in range(12):
            scores = stock(input_ids=torch.tensor([[int(i) for i in mine] + said])).logits[:, -1].float()
            said.append(int(change(torch.tensor([prompt + said]), scores).argmax()))
            if said[-1] in reader.chat.end_of_turn:
                said.pop()
                break
        assert found == said
        return
    greedy = GenerationConfig(max_new_tokens=12, do_sample=False, eos_token_id=reader.chat.end_of_turn, pad_token_id=0)
    whole = stock.generate(ids, generation_config=greedy, attention_mask=torch.ones_like(ids))[0, ids.shape[1] :]
    assert found == [token for token in whole.tolist() if token not in reader.chat.end_of_turn]


@torch.no_grad()
def test_draws_go_by_the_seed(tiny):
    reader, prefix, prompt = begun(tiny)
    config = generation_config(max_new_tokens=8, do_sample=True, temperature=3.0)

    def drawn(seed):
        return list(generate_tokens(reader.decoder, prefix, prompt, [], config, seed))

    assert drawn(1) == drawn(1) != drawn(2)


@torch.no_grad()
def test_a_temperature_draws_from_where_it_can(tiny):
    reader, prefix, prompt = begun(tiny)
    drawn = [generation_config(do_sample=True, temperature=temperature, top_k=1) for temperature in (0.9e-4, 1e-4)]
    assert [len(_processors(config)) for config in drawn] == [0, 2]
    config = generation_config(max_new_tokens=3, do_sample=True, top_k=0, repetition_penalty=1e-40)
    with pytest.raises(ConfigError, match="repetition_penalty 1e-40 .*nearer to 1"):
        list(generate_tokens(reader.decoder, prefix, prompt, [], config))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"temperatur": 1.0}, "did you mean 'temperature'"),
        ({"num_beams": 3}, "known: max_new_tokens"),
        ({"do_sample": True, "temperature": -1.0}, "temperature: -1.0 is not above 0"),
        ({"temperature": -1.0}, "temperature: -1.0 is not above 0"),
        ({"temperature": 0.0}, "temperature: 0.0 is not above 0; leave it out for greedy"),
        ({"do_sample": True, "temperature": float("nan")}, "temperature: nan is not above 0"),
        ({"temperature": 0.7}, "temperature: without do_sample=True answers are greedy"),
        ({"top_p": 0.5, "top_k": None, "do_sample": False}, "top_k, top_p: without do_sample=True"),
        ({"min_p": 0.1}, "min_p: without do_sample=True"),
        ({"do_sample": True, "top_p": 2.0, "top_k": 0}, "known|top_p|settings"),
        ({"max_new_tokens": 0}, "max_new_tokens"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings, message):
    if settings.get("top_p") == 2.0:
        generation_config(**settings)  # no limit at all, as in transformers
        return
    with pytest.raises(ConfigError, match=message):
        generation_config(**settings)


def test_sampling_settings_that_are_the_defaults_are_let_pass_without_sampling():
    given = {name: SETTINGS[name] for name in SAMPLING}
    assert generation_config(**given).to_dict() == generation_config().to_dict()
    assert generation_config(do_sample=True, temperature=0.7, min_p=0.1).temperature == 0.7


class Bytes:
    """A tokenizer of bytes."""

    @staticmethod
    def decode(tokens, skip_special_tokens):
        return bytes(tokens).decode("utf-8", errors="replace")


def test_a_piece_never_ends_in_half_a_character():
    text = "Öl für 中国 🙂!"
    pieces = list(decode_stream(Bytes, iter(text.encode())))
    assert "".join(pieces) == text and len(pieces) == len(text) and "\ufffd" not in "".join(pieces)
    assert list(decode_stream(Bytes, iter("é".encode()[:1]))) == ["\ufffd"]
