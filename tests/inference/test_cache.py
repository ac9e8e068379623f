"""transformers' own `generate` on a memory, against our reading of the same memory."""

from dataclasses import replace

import pytest
import torch
from transformers import GenerationConfig

from gnm.errors import BackboneError, DataError
from gnm.inference.cache import generate_inputs
from gnm.inference.generation import generate_tokens, generation_config
from gnm.memory.pool import PoolSettings
from gnm.models.families import FAMILIES
from gnm.models.gates.write import GateSettings
from gnm.models.memory_lm import MemoryLM
from gnm.models.write_settings import WriteSettings
from gnm.weights.backbones import load_backbone
from gnm.weights.tiny import random_decoder
from stock import another, blocks, context_ids, reader_of

STEPS = 6


def memory_of(backbone, documents=2, positions="in_order", **write):
    """A reader, and the prefix of a memory of some documents."""
    reader = reader_of(backbone)
    lm = MemoryLM(reader.decoder, reader.chat.preamble, PoolSettings(positions=positions), WriteSettings(**write))
    if lm.gating:  # each segment at a strength of its own
        torch.nn.init.normal_(lm.gating.gate.weight, std=0.5)
    memory = lm.initial(torch.zeros(1, dtype=torch.long))
    for text in blocks(documents):
        memory = lm.write(memory, reader.encode_segments([[text[:20], text[20:]]]))
    return reader, lm.prefix(memory)


def prompts_of(reader, *texts):
    return [reader.chat.encode(text) + reader.chat.tail for text in texts]


def ours(reader, prefix, prompt):
    """What our own reading says, and its scores of each step [STEPS, V]."""
    said = list(generate_tokens(reader.decoder, prefix, prompt, [], generation_config(max_new_tokens=STEPS)))
    ids = torch.tensor([prompt + said[:-1]])
    hidden = reader.decoder.read(prefix, ids[:, None], torch.ones_like(ids, dtype=torch.bool)[:, None])[0, 0]
    return said, reader.decoder.logits(hidden[len(prompt) - 1 :])


def theirs(reader, inputs, **settings):
    settings = {"max_new_tokens": STEPS, "do_sample": False, "pad_token_id": 0, "output_logits": True, **settings}
    return reader.decoder.model.generate(**inputs, return_dict_in_generate=True, **settings)


KINDS = {
    "plain": {},
    "gates": {"gates": GateSettings(threshold=0.2)},
    "shared positions": {"positions": "shared"},
    "shared positions, gates": {"positions": "shared", "gates": GateSettings(threshold=0.2)},
    "outputs": {"tap": "outputs", "tokens": 7, "reads": 7},
}


def check_scores(reader, prefix):
    """The tokens that `generate` says, and every logit, are those of our reading."""
    (prompt,) = prompts_of(reader, "Who speaks English?")
    said, scores = ours(reader, prefix, prompt)
    found = theirs(reader, generate_inputs(reader.decoder, prefix, [prompt]))
    assert found.sequences[0, len(prompt) :].tolist() == said
    torch.testing.assert_close(torch.stack(found.logits, 1)[0], scores, atol=1e-4, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
def test_generate_scores_as_our_reading_does(tiny, kind):
    """Memories of every kind; gates store each segment at a strength of its own."""
    reader, prefix = memory_of(tiny, **KINDS[kind])
    if "gates" in kind:
        assert prefix.bias.exp().unique().numel() > 3 and prefix.bias.min() < -0.1
    check_scores(reader, prefix)


@torch.no_grad()
@pytest.mark.parametrize("family", FAMILIES)
def test_generate_scores_as_our_reading_does_in_every_family(family):
    backbone = replace(load_backbone("tiny", dtype="float32"), model=random_decoder(family).eval())
    check_scores(*memory_of(backbone, positions="shared", gates=GateSettings(threshold=0.2)))


@torch.no_grad()
@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_the_strengths_count_in_every_attention_that_takes_a_mask(tiny, implementation):
    reader, prefix = memory_of(tiny, gates=GateSettings(threshold=0.2))
    (prompt,) = prompts_of(reader, "Who speaks English?")
    expected = ours(reader, prefix, prompt)[1]
    weak = ours(reader, replace(prefix, bias=None), prompt)[1]
    assert (expected - weak).abs().max() > 0.01
    reader.decoder.model.set_attn_implementation(implementation)
    found = theirs(reader, generate_inputs(reader.decoder, prefix, [prompt]))
    torch.testing.assert_close(torch.stack(found.logits, 1)[0], expected, atol=1e-4, rtol=0)


@torch.no_grad()
def test_prompts_of_any_length_and_several_memories_go_together(tiny):
    """Padding on the left of prompts, and slots of a memory that do not count, change nothing."""
    reader, prefix = memory_of(tiny, gates=GateSettings(threshold=0.2))
    prompts = prompts_of(reader, "Who?", "What has Quartz, and who wrote for the Engine?")
    hole = prefix.valid.clone()
    hole[:, 5:9] = False
    both = replace(prefix.rows(torch.tensor([0, 0])), valid=torch.cat((prefix.valid, hole)))
    for memories in (prefix, both):
        found = theirs(reader, generate_inputs(reader.decoder, memories, prompts))
        for row, prompt in enumerate(prompts):
            said, scores = ours(reader, memories.rows(torch.tensor([min(row, len(memories.valid) - 1)])), prompt)
            assert found.sequences[row, -STEPS:].tolist() == said
            torch.testing.assert_close(torch.stack(found.logits, 1)[row], scores, atol=1e-4, rtol=0)


@torch.no_grad()
def test_beams_are_those_of_the_text_in_context(tiny_family):
    """A memory that reads everything, untrained, is the text in the context: so are its beams and several answers."""
    reader, prefix = memory_of(tiny_family, reads="all")
    (prompt,) = prompts_of(reader, "Who speaks English?")
    settings = {"num_beams": 3, "num_return_sequences": 2}
    found = theirs(reader, generate_inputs(reader.decoder, prefix, [prompt]), **settings)
    whole = torch.tensor([context_ids(reader.chat, blocks(2)) + prompt])
    config = GenerationConfig(max_new_tokens=STEPS, pad_token_id=0, **settings)
    plain = another(tiny_family).generate(whole, attention_mask=torch.ones_like(whole), generation_config=config)
    assert found.sequences[:, len(prompt) :].tolist() == plain[:, whole.shape[1] :].tolist()


@torch.no_grad()
def test_streamers_and_constraints_apply(tiny):
    reader, prefix = memory_of(tiny, gates=GateSettings(threshold=0.2))
    (prompt,) = prompts_of(reader, "Who speaks English?")
    streamer, allowed = Streamer(), [17, 40, 99]
    found = theirs(
        reader,
        generate_inputs(reader.decoder, prefix, [prompt]),
        streamer=streamer,
        prefix_allowed_tokens_fn=lambda row, ids: allowed,
    )
    said = found.sequences[0, len(prompt) :].tolist()
    assert set(said) <= set(allowed) and streamer.seen == prompt + said


class Streamer:
    """Keeps what it is given."""

    def __init__(self):
        self.seen = []

    def put(self, tokens):
        self.seen += tokens.flatten().tolist()

    def end(self):
        pass


@torch.no_grad()
@pytest.mark.parametrize("settings", [{"prompt_lookup_num_tokens": 3}, {"assistant_model": "tiny"}])
def test_assisted_decoding_says_the_same(tiny, settings):
    """Tokens that were guessed and not taken leave the cache again."""
    reader, prefix = memory_of(tiny, gates=GateSettings(threshold=0.2))
    (prompt,) = prompts_of(reader, "Who speaks English? Who speaks English?")
    settings = {name: another(tiny) if name == "assistant_model" else value for name, value in settings.items()}
    found = theirs(reader, generate_inputs(reader.decoder, prefix, [prompt]), **settings)
    assert found.sequences[0, len(prompt) :].tolist() == ours(reader, prefix, prompt)[0]


@torch.no_grad()
def test_a_prompt_read_in_chunks_is_the_same(tiny):
    reader, prefix = memory_of(tiny, gates=GateSettings(threshold=0.2), positions="shared")
    (prompt,) = prompts_of(reader, "Who speaks English?")
    whole, chunks = (
        theirs(reader, generate_inputs(reader.decoder, prefix, [prompt]), prefill_chunk_size=size) for size in (None, 7)
    )
    assert whole.sequences.tolist() == chunks.sequences.tolist()
    torch.testing.assert_close(torch.stack(whole.logits), torch.stack(chunks.logits), atol=1e-4, rtol=0)


@torch.no_grad()
def test_the_memory_stays_as_it_was(tiny):
    reader, prefix = memory_of(tiny)
    (prompt,) = prompts_of(reader, "Who?")
    before = [key.clone() for key in prefix.keys]
    first, second = (theirs(reader, generate_inputs(reader.decoder, prefix, [prompt])).sequences for _ in range(2))
    assert first.equal(second) and all(map(torch.equal, before, prefix.keys))


@pytest.mark.parametrize("name", ["past_key_values", "cache"])
def test_strengths_are_added_under_either_name_of_the_cache(tiny, monkeypatch, name):
    """transformers 5.24 calls a model with `cache`, earlier ones with `past_key_values`; both are in the range."""
    reader, prefix = memory_of(tiny)
    inputs = generate_inputs(reader.decoder, prefix, prompts_of(reader, "Who?"))
    cache, given = inputs.pop("past_key_values"), []
    monkeypatch.setattr(reader.decoder.model, "forward", lambda **inputs: given.append(inputs["attention_mask"]))
    reader.decoder.model(**inputs, **{name: cache})
    assert given[0].is_floating_point() and given[0].dim() == 4


@torch.no_grad()
def test_what_would_be_read_wrongly_is_an_error(tiny):
    reader, prefix = memory_of(tiny)
    prompts = prompts_of(reader, "Who?", "What?")
    inputs = generate_inputs(reader.decoder, prefix, prompts[:1])
    with pytest.raises(DataError, match=r"use the memory's own \(`memory.model`\)"):
        another(tiny).generate(**inputs, max_new_tokens=1)
    with pytest.raises(DataError, match="the attention mask is"):
        reader.decoder.model(**{**inputs, "attention_mask": inputs["input_ids"]})
    with pytest.raises(DataError, match="use_cache is false"):
        reader.decoder.model.generate(**inputs, max_new_tokens=2, use_cache=False)
    with pytest.raises(DataError, match="a prompt is empty"):
        generate_inputs(reader.decoder, prefix, [[]])
    with pytest.raises(DataError, match="2 prompts stand against 3 memories"):
        generate_inputs(reader.decoder, prefix.rows(torch.tensor([0, 0, 0])), prompts)
    reader.decoder.config.max_position_embeddings = int(prefix.next_position) + len(prompts[0]) + 1
    inputs = generate_inputs(reader.decoder, prefix, prompts[:1])
    with pytest.raises(BackboneError, match="1 positions more than the model attends over"):
        theirs(reader, inputs)
