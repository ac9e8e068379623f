"""What a memory refuses to write because it could never be read."""

from dataclasses import replace

import pytest
import torch

from gnm.errors import MemoryFileError
from gnm.memory.pool import PoolSettings
from gnm.models.memory_lm import MemoryLM
from gnm.models.tokens import TokenBatch
from gnm.models.write_settings import WriteSettings
from gnm.weights.backbones import load_backbone
from latent_memories import memory_of


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
