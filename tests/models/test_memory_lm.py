"""Latent memory against the same text in the context of the stock model, and against itself in other batches."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gnm.errors import MemoryFileError
from gnm.memory.pool import PoolSettings
from gnm.memory.state import PREAMBLE
from gnm.models.lora import LoraSettings, add_lora
from gnm.models.memory_lm import MemoryLM
from gnm.models.tokens import TokenBatch
from gnm.models.write_settings import WriteSettings
from gnm.weights.backbones import load_backbone
from stock import (
    DOCUMENTS,
    QUESTIONS,
    another,
    blocks,
    context_ids,
    first_scores,
    plain_sdpa,
    prompt_ids,
    reader_of,
    stock_logits,
    stock_nll,
)

PAIRS = [blocks(3), ["A much longer text, so that rows are ragged. " * 2, "b", blocks(1)[0]]]  # per row: 3 documents
ASKED = [list(QUESTIONS[:3]), list(QUESTIONS[1:2])]


def memory_of(backbone, reads="all", capacity=None, eviction="random", through=True, **chat):
    reader = reader_of(backbone, **chat)
    pool, write = PoolSettings(capacity=capacity, eviction=eviction), WriteSettings(reads=reads)
    return MemoryLM(reader.decoder, reader.chat.preamble, pool, write, through), reader


def written(lm, reader, rows, seeds=None, padding=0, token=0):
    """All documents of `rows` [B][documents] written one after another; `padding` columns of `token` are appended."""
    memory = lm.initial(torch.tensor(seeds or range(len(rows))))
    for texts in zip(*rows, strict=True):
        text = reader.encode(texts)
        ids = torch.nn.functional.pad(text.ids, (0, padding), value=token)
        memory = lm.write(memory, TokenBatch.of(ids, torch.nn.functional.pad(text.mask, (0, padding), value=False)))
    return memory


def close(ours, theirs, atol=1e-4):
    torch.testing.assert_close(ours, theirs, atol=atol, rtol=0)


def own_slots(memory, row):
    """The valid slots of a row, their sources, and their keys and values, in order."""
    keep = memory.state.valid[row]
    projected = [side[row][:, keep] for pair in (memory.keys, memory.values) for side in pair]
    return memory.state.slots[row][:, keep], memory.state.source[row][keep], projected


# --- the same function as a context


@torch.no_grad()
@pytest.mark.parametrize("count", [0, 1, 3])
def test_untrained_memory_that_reads_everything_is_the_text_in_context(tiny_family, count):
    lm, reader = memory_of(tiny_family)
    stock, rows = another(tiny_family), [texts[:count] for texts in PAIRS]
    scores = first_scores(reader, lm.prefix(written(lm, reader, rows)), ASKED)
    for texts, asked, row in zip(rows, ASKED, scores, strict=True):
        for question, ours in zip(asked, row, strict=True):
            close(ours, stock_logits(stock, prompt_ids(reader.chat, texts, question))[-1])


@torch.no_grad()
def test_untrained_memory_of_smollm2_is_the_text_in_context(smollm2):
    lm, reader = memory_of(smollm2)
    rows, asked = [texts[:2] for texts in PAIRS], [[QUESTIONS[0]], list(QUESTIONS[:2])]
    scores = first_scores(reader, lm.prefix(written(lm, reader, rows)), asked)
    with plain_sdpa(smollm2.model) as stock:
        for texts, questions, row in zip(rows, asked, scores, strict=True):
            for question, ours in zip(questions, row, strict=True):
                close(ours, stock_logits(stock, prompt_ids(reader.chat, texts, question))[-1])


@torch.no_grad()
def test_slots_are_the_stock_models_layer_inputs(tiny_family):
    lm, reader = memory_of(tiny_family)
    stock, memory = another(tiny_family), written(lm, reader, PAIRS)
    for row, texts in enumerate(PAIRS):
        ids = torch.tensor([context_ids(reader.chat, texts)])
        expected = torch.stack(stock(ids, output_hidden_states=True).hidden_states[:-1], 1)[0]
        slots, source, _ = own_slots(memory, row)
        close(slots, expected)
        lengths = [len(reader.chat.preamble), *(len(reader.chat.encode(text)) for text in texts)]
        assert source.tolist() == [s for s, n in zip((PREAMBLE, 0, 1, 2), lengths, strict=True) for _ in range(n)]


@torch.no_grad()
def test_a_conversation_without_a_head_starts_with_nothing(tiny):
    lm, reader = memory_of(tiny, preamble=[])
    assert lm.initial(torch.tensor([0, 1])).state.slots.shape == (2, 3, 0, 48)
    memory, question = written(lm, reader, [blocks(2)]), QUESTIONS[0]
    ours = first_scores(reader, lm.prefix(memory), [[question]])[0][0]
    close(ours, stock_logits(another(tiny), prompt_ids(reader.chat, blocks(2), question))[-1])


# --- one by one, in a batch, with padding

KINDS = {  # the small pools hold about a third of what is written
    "all": {"reads": "all"},
    "nothing": {"reads": "nothing"},
    "last": {"reads": 20},
    "random": {"reads": "all", "capacity": 120, "eviction": "random"},
    "oldest": {"reads": 30, "capacity": 120, "eviction": "oldest"},
}


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_a_batch_of_memories_is_each_memory_by_itself(tiny_family, kind):
    lm, reader = memory_of(tiny_family, **KINDS[kind])
    rows, seeds = [row * 2 for row in (*PAIRS, [PAIRS[0][2], PAIRS[1][0], PAIRS[1][1]])], [5, 6, 7]
    asked = [*ASKED, list(QUESTIONS)]
    together = written(lm, reader, rows, seeds)
    scores = first_scores(reader, lm.prefix(together), asked)
    for row in range(3):
        alone = written(lm, reader, rows[row : row + 1], seeds[row : row + 1])
        ours, theirs = own_slots(together, row), own_slots(alone, 0)
        assert torch.equal(ours[1], theirs[1])
        close(ours[0], theirs[0])
        close(scores[row], first_scores(reader, lm.prefix(alone), asked[row : row + 1])[0])


@pytest.mark.parametrize("kind", KINDS)
@given(st.integers(1, 9), st.integers(0, 260))
@settings(max_examples=4)
@torch.no_grad()
def test_padding_of_any_amount_changes_nothing(kind, columns, token):
    lm, reader = memory_of(load_backbone("tiny", dtype="float32"), **KINDS[kind])
    rows = [row * 2 for row in PAIRS]
    plain, padded = (written(lm, reader, rows, padding=p, token=token) for p in (0, columns))
    for row in range(2):
        ours, theirs = own_slots(padded, row), own_slots(plain, row)
        assert torch.equal(ours[1], theirs[1])
        close(ours[0], theirs[0])
    for ours, theirs in zip(*(first_scores(reader, lm.prefix(m), ASKED) for m in (padded, plain)), strict=True):
        close(ours, theirs)


@torch.no_grad()
def test_seeds_alone_decide_what_a_full_pool_drops(tiny):
    lm, reader = memory_of(tiny, capacity=120)
    first, again, other = (written(lm, reader, [PAIRS[0]], seeds=[s]) for s in (3, 3, 4))
    assert torch.equal(first.state.slots, again.state.slots)
    assert not torch.equal(first.state.slots, other.state.slots)


# --- what a write reads


@torch.no_grad()
def test_a_write_that_reads_nothing_is_blind_to_earlier_documents(tiny_family):
    lm, reader = memory_of(tiny_family, reads="nothing")
    stock, last = another(tiny_family), blocks(3)[2]
    alone = lm.write(lm.initial(torch.tensor([0])), reader.encode([last]))
    after = written(lm, reader, [[DOCUMENTS[0], DOCUMENTS[1], last]])
    size = len(reader.chat.encode(last))
    assert torch.equal(after.state.slots[:, :, -size:], alone.state.slots[:, :, -size:])
    ids = torch.tensor([context_ids(reader.chat, [last])])
    expected = torch.stack(stock(ids, output_hidden_states=True).hidden_states[:-1], 1)
    close(alone.state.slots, expected)


@torch.no_grad()
def test_a_write_reads_the_preamble_and_the_last_slots(tiny_family):
    """Reading the last N slots is reading everything of a memory that holds the preamble and these slots alone."""
    lm, reader = memory_of(tiny_family, reads=10)
    full, _ = memory_of(tiny_family, reads="all")
    memory, last = written(lm, reader, [PAIRS[0][:2], PAIRS[1][:2]]), ["the third", "text is"]
    size, preamble = len(last[0]), len(reader.chat.preamble)
    ours = lm.write(memory, reader.encode(last)).state.slots[:, :, -size:]
    for row in range(2):
        state = memory.state.rows([row])
        columns = state.valid[0].nonzero()[:, 0]
        keep = torch.zeros_like(state.valid)
        keep[0, torch.cat((columns[:preamble], columns[-10:]))] = True
        short = full.attach(state.select(keep)[0])
        theirs = full.write(short, reader.encode(last[row : row + 1])).state.slots[0]
        own = len(last[row])
        close(ours[row, :, :own], theirs[:, -own:], atol=1e-5)
    everything = full.write(memory, reader.encode(last)).state.slots[:, :, -size:]
    assert (ours - everything).abs().max() > 1e-3
    far, _ = memory_of(tiny_family, reads=10_000)
    close(far.write(memory, reader.encode(last)).state.slots[:, :, -size:], everything, atol=1e-5)


@pytest.mark.parametrize("reads", [0, -1, "some"])
def test_a_write_that_reads_a_nonsense_is_refused(reads):
    with pytest.raises(ValueError, match="reads"):
        WriteSettings(reads=reads)


# --- a full pool, and memories as values


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_keys_kept_from_write_to_write_are_those_of_the_whole_pool(tiny_family, kind):
    lm, reader = memory_of(tiny_family, **KINDS[kind])
    memory = written(lm, reader, [row * 2 for row in PAIRS])
    again = lm.attach(memory.state)
    for row in range(2):
        close(own_slots(memory, row)[2], own_slots(again, row)[2], atol=1e-6)


@torch.no_grad()
def test_writing_changes_no_earlier_memory(tiny):
    """Undo is going on from the old value: it is what it was, and a second write from it gives the same again."""
    lm, reader = memory_of(tiny, capacity=120)
    old = written(lm, reader, [row[:2] for row in PAIRS])
    copies = [t.clone() for t in (old.state.slots, old.state.valid, old.state.source, *old.keys, *old.values)]
    text = reader.encode([PAIRS[0][2], PAIRS[1][2]])
    new = lm.write(old, text)
    assert new.state.written == 3 and old.state.written == 2
    for before, now in zip(
        copies, (old.state.slots, old.state.valid, old.state.source, *old.keys, *old.values), strict=True
    ):
        assert torch.equal(before, now)
    again = lm.write(old, text)
    assert torch.equal(again.state.slots, new.state.slots) and torch.equal(again.state.source, new.state.source)


@pytest.mark.parametrize("document", [0, 1])
@torch.no_grad()
def test_a_forgotten_document_was_never_written(tiny_family, document):
    lm, reader = memory_of(tiny_family, reads="nothing")
    memory = written(lm, reader, [row[:2] for row in PAIRS])
    forgot = lm.attach(memory.state.forget(document))
    never = written(lm, reader, [[row[1 - document]] for row in PAIRS])
    assert not (forgot.state.source[forgot.state.valid] == document).any()
    for row in range(2):
        # bit-equal, had the batches the same shapes; a matrix product of other sizes may round otherwise
        close(own_slots(forgot, row)[0], own_slots(never, row)[0], atol=1e-6)
    for ours, theirs in zip(*(first_scores(reader, lm.prefix(m), ASKED) for m in (forgot, never)), strict=True):
        close(ours, theirs)


@torch.no_grad()
def test_a_forgotten_documents_neighbours_keep_their_slots_to_the_bit(tiny):
    lm, reader = memory_of(tiny, reads="nothing")
    never = written(lm, reader, [[PAIRS[0][1]]])
    memory = written(lm, reader, [PAIRS[0][:2]])
    assert torch.equal(memory.state.forget(0).slots, never.state.slots)


@torch.no_grad()
def test_a_document_longer_than_the_pool_is_refused_before_any_work(tiny, monkeypatch):
    lm, reader = memory_of(tiny, capacity=10)
    memory = lm.initial(torch.tensor([0, 1]))
    monkeypatch.setattr(lm.decoder, "run", lambda *_, **__: pytest.fail("the document was read"))
    with pytest.raises(MemoryFileError, match="takes 11 slots, the pool holds 10"):
        lm.write(memory, reader.encode(["short", "eleven long"]))


# --- gradients


def trained(name="tiny", **options):
    """A memory model with a LoRA adapter away from its starting point."""
    backbone = load_backbone(name, dtype="float32")
    parameters = add_lora(backbone.model, LoraSettings(r=2, alpha=4), seed=0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in parameters:
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)
    lm, reader = memory_of(backbone, **options)
    return lm, reader, parameters, backbone


def gradients(loss, parameters):
    return [
        torch.zeros_like(p) if g is None else g
        for p, g in zip(parameters, torch.autograd.grad(loss, parameters, allow_unused=True), strict=True)
    ]


ROWS = [row[:2] for row in PAIRS]


@pytest.mark.parametrize("name", ["tiny", "tiny-qwen2", "tiny-qwen3"])
def test_gradients_are_those_of_the_text_in_context(name):
    """The adapter's gradient through writing and reading = that of one full pass of the stock model over all text."""
    lm, reader, parameters, backbone = trained(name)
    loss, tokens, _ = reader.loss(lm.prefix(written(lm, reader, ROWS)), ASKED)
    ours = gradients(loss / tokens, parameters)
    with plain_sdpa(backbone.model) as stock:
        nlls = [stock_nll(stock, reader.chat, t, q) for t, asked in zip(ROWS, ASKED, strict=True) for q in asked]
        theirs = gradients(sum(nlls) / tokens, parameters)
    assert any(g.abs().max() > 1e-3 for g in theirs)
    for mine, reference in zip(ours, theirs, strict=True):
        close(mine, reference, atol=1e-5)


def test_gradients_are_finite_differences():
    """Along several directions, the slope of the loss is what the gradient says."""
    lm, reader, parameters, _ = trained()

    def loss():
        return reader.loss(lm.prefix(written(lm, reader, ROWS)), ASKED)[0]

    grad = gradients(loss(), parameters)
    for index in (0, len(parameters) // 2, len(parameters) - 1):  # first layer's query to last layer's mlp
        direction = grad[index] / grad[index].norm()
        values = []
        with torch.no_grad():
            for step in (1e-2, -1e-2):
                before = parameters[index].clone()
                parameters[index].add_(step * direction)
                values.append(loss())
                parameters[index].copy_(before)
        slope = float(values[0] - values[1]) / 2e-2
        assert slope == pytest.approx(float(grad[index].norm()), rel=2e-2)


def held(memory, lm):
    """`memory` with its slots as constants."""
    return lm.attach(replace(memory.state, slots=memory.state.slots.detach().clone()))


def test_without_gradient_through_writing_the_slots_are_constants():
    blind, reader, parameters, _ = trained(through=False)
    memory = written(blind, reader, ROWS)
    assert not memory.state.slots.requires_grad
    ours = gradients(reader.loss(blind.prefix(memory), ASKED)[0], parameters)
    lm, reader, others, _ = trained()
    memory = written(lm, reader, ROWS)
    constant = gradients(reader.loss(lm.prefix(held(memory, lm)), ASKED)[0], others)
    full = gradients(reader.loss(lm.prefix(memory), ASKED)[0], others)
    for mine, reference in zip(ours, constant, strict=True):
        close(mine, reference, atol=1e-5)
    assert max(float((a - b).abs().max()) for a, b in zip(full, constant, strict=True)) > 1e-2


def test_gradients_through_earlier_documents_end_where_they_are_cut():
    from gnm.learners.memory import MemoryLearner

    lm, reader, parameters, _ = trained()
    learner, first = MemoryLearner(lm, reader), written(lm, reader, [row[:1] for row in PAIRS])
    cut = learner.detach(first)
    assert torch.equal(cut.state.slots, first.state.slots) and not cut.state.slots.requires_grad
    text = reader.encode([row[1] for row in PAIRS])
    results = [
        gradients(reader.loss(lm.prefix(lm.write(memory, text)), ASKED)[0], parameters)
        for memory in (cut, held(first, lm), first)
    ]
    for ours, constant in zip(*results[:2], strict=True):
        close(ours, constant, atol=1e-5)
    assert max(float((a - b).abs().max()) for a, b in zip(results[0], results[2], strict=True)) > 1e-2


@pytest.mark.parametrize("eviction", ["oldest", "random"])
def test_gradients_pass_through_the_kept_keys_and_values_of_a_full_pool(eviction):
    """They are those of keys and values that are made anew of the slots that are left."""
    lm, reader, parameters, _ = trained(reads="nothing", capacity=120, eviction=eviction)
    found = []
    for again in (lambda memory: memory, lambda memory: lm.attach(memory.state)):
        memory = written(lm, reader, ROWS)
        sources = memory.state.source[memory.state.valid]
        assert (memory.state.used() == 120).any() and (sources == 0).any()  # something was dropped, not all of it
        found.append(gradients(reader.loss(lm.prefix(again(memory)), ASKED)[0], parameters))
    assert any(g.abs().max() > 1e-2 for g in found[0])
    for ours, theirs in zip(*found, strict=True):
        close(ours, theirs, atol=1e-4)


# --- what could never be read


def small_window(reads="nothing", **pool):
    """A memory over a decoder that attends over 400 positions; a question takes 100 of them."""
    lm, reader = memory_of(load_backbone("tiny", dtype="float32"), reads)
    lm.decoder.config.max_position_embeddings = 400
    lm.pool = PoolSettings(**pool)
    return lm, reader


def ids_of(*lengths):
    mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    return TokenBatch.of(torch.randint(5, 261, mask.shape) * mask, mask)


@torch.no_grad()
def test_a_write_that_could_never_be_read_is_refused_before_its_pass(monkeypatch):
    lm, _ = small_window()
    memory = lm.write(lm.initial(torch.tensor([0, 1])), ids_of(120, 20))
    lm.write(memory, ids_of(100, 250))
    monkeypatch.setattr(lm.decoder, "run", lambda *_: pytest.fail("the pass came first"))
    preamble = len(lm.preamble)
    with pytest.raises(
        MemoryFileError, match=f"take {preamble + 300} positions, and a question up to 100; .* over 400: "
    ):
        lm.write(memory, ids_of(180, 20))
    with pytest.raises(MemoryFileError, match=f"takes 301 tokens; {300 - preamble} of the 400 .*: split the doc"):
        lm.write(memory, ids_of(20, 301))


@torch.no_grad()
@pytest.mark.parametrize("pool", [{"capacity": 200}, {"positions": "shared"}])
def test_what_is_evicted_or_read_at_the_same_positions_takes_no_room(pool):
    lm, _ = small_window(**pool)
    memory = lm.initial(torch.tensor([0]))
    for _ in range(3):
        memory = lm.write(memory, ids_of(180))
    assert int(lm.prefix(memory).next_position) <= 300


@torch.no_grad()
def test_gates_leave_room_by_what_they_store():
    lm, _ = small_window()
    gates = WriteSettings(gates={"by": "random", "threshold": 0, "share": 0.5})
    lm = MemoryLM(lm.decoder, lm.preamble, PoolSettings(), gates)
    text = replace(ids_of(190), segment=torch.arange(190)[None] // 10)
    memory = lm.initial(torch.tensor([0]))
    refused = False
    for _ in range(8):
        try:
            memory = lm.write(memory, text)
        except MemoryFileError as error:
            refused = "forget a document first" in str(error)
            break
        assert int(lm.prefix(memory).next_position) <= 300
    assert refused
    with pytest.raises(MemoryFileError, match="takes 400 tokens.*split the document"):
        lm.write(memory, ids_of(400))
