"""Latent memory against the same text in the context of the stock model, and against itself in other batches."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gnm.errors import MemoryFileError
from gnm.memory.pool import PoolSettings
from gnm.memory.state import PREAMBLE
from gnm.models.memory_lm import MemoryLM
from gnm.models.tokens import TokenBatch
from gnm.models.write_settings import WriteSettings
from gnm.weights.backbones import load_backbone
from latent_memories import ASKED, PAIRS, close, memory_of, written
from stock import (
    DOCUMENTS,
    QUESTIONS,
    another,
    blocks,
    context_ids,
    first_scores,
    plain_sdpa,
    prompt_ids,
    stock_logits,
)


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


@torch.no_grad()
def test_short_texts_take_the_last_slots_of_their_own_memory_along(tiny):
    """Slots of outputs: each write gives twelve, of a memory that holds some and of one that is empty."""
    _, reader = memory_of(tiny)
    lm = MemoryLM(
        reader.decoder, reader.chat.preamble, PoolSettings(), WriteSettings(tap="outputs", tokens=12, reads=12)
    )
    lm.new_memory_positional_emb.normal_(std=0.5, generator=torch.Generator().manual_seed(0))
    ids = torch.randint(5, 261, (3, 2, 14), generator=torch.Generator().manual_seed(1))
    lengths = torch.tensor([[14, 0], [5, 3], [1, 14]])  # of three documents in two memories; 0: none

    def after(rows):
        memory = lm.initial(torch.tensor(rows))
        for document, length in zip(ids, lengths, strict=True):
            mask = torch.arange(int(length[rows].max())) < length[rows][:, None]
            if mask.numel():
                memory = lm.write(memory, TokenBatch.of(document[rows, : mask.shape[1]] * mask, mask))
        return memory

    together = after([0, 1])
    assert [together.state.documents(row) for row in (0, 1)] == [{0: 12, 1: 12, 2: 12}, {1: 3, 2: 12}]
    for row in (0, 1):
        close(own_slots(together, row)[0], own_slots(after([row]), 0)[0])


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
