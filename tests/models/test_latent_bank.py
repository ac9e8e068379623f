"""The bank's arithmetic by itself: gated writes, biased reads, the loss on importance, sizes."""

import math

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from gnm.errors import ConfigError
from gnm.models.latent_bank import BankSettings, CrossAttention, LatentBank, bank_loss

HIDDEN, SETTINGS = 12, BankSettings(slots=5, size=8, heads=2)
LENGTHS = (7, 3)


@pytest.fixture
def bank() -> LatentBank:
    """A bank that is read in part."""
    made = LatentBank(HIDDEN, SETTINGS)
    nn.init.constant_(made.amount, 0.7)
    return made


@pytest.fixture
def text() -> tuple[torch.Tensor, torch.Tensor]:
    """Last hidden states [2, 7, 12] of two texts of other lengths, and their mask."""
    return torch.randn(2, max(LENGTHS), HIDDEN), torch.arange(max(LENGTHS)) < torch.tensor(LENGTHS)[:, None]


# --- attention and writing


@torch.no_grad()
def test_the_attention_is_torchs_own():
    ours = CrossAttention(8, HIDDEN, 8, heads=2)
    theirs = nn.MultiheadAttention(8, 2, kdim=HIDDEN, vdim=HIDDEN, batch_first=True)
    for name in ("query", "key", "value"):
        getattr(theirs, f"{name[0]}_proj_weight").copy_(getattr(ours, name).weight)
    theirs.in_proj_bias.copy_(torch.cat([getattr(ours, name).bias for name in ("query", "key", "value")]))
    theirs.out_proj.load_state_dict(ours.out.state_dict())
    queries, entries, bias = torch.randn(3, 4, 8), torch.randn(3, 6, HIDDEN), torch.randn(3, 6)
    normed = nn.functional.layer_norm(entries, (HIDDEN,))
    mask = bias[:, None].expand(-1, 4, -1).repeat_interleave(2, 0)
    expected, _ = theirs(nn.functional.layer_norm(queries, (8,)), normed, normed, attn_mask=mask)
    torch.testing.assert_close(ours(queries, *ours.project(entries), bias), expected)


@torch.no_grad()
def test_the_gate_mixes_old_and_new(bank, text):
    slots = torch.randn(2, 5, 8)
    before = slots.clone()
    candidate = bank.writing(slots, *bank.writing.project(text[0]), torch.where(text[1], 0.0, -1e30))
    nn.init.zeros_(bank.update.weight)
    for bias, expected in ((-50.0, slots), (50.0, candidate), (math.log(3.0), 0.25 * slots + 0.75 * candidate)):
        nn.init.constant_(bank.update.bias, bias)
        torch.testing.assert_close(bank.write(slots, *text), expected)
    assert torch.equal(slots, before)


@torch.no_grad()
def test_the_gate_sees_slot_and_candidate(bank, text):
    nn.init.zeros_(bank.update.bias)
    weight = bank.update.weight.clone()
    outcomes = []
    for half in (slice(0, 8), slice(8, 16)):
        bank.update.weight.zero_()
        bank.update.weight[:, half] = weight[:, half]
        outcomes.append(bank.write(bank.initial(2), *text))
    outcomes.append(bank.initial(2))
    for one, other in ((0, 1), (0, 2), (1, 2)):
        assert not torch.allclose(outcomes[one], outcomes[other], atol=1e-3)


@torch.no_grad()
def test_padding_and_neighbours_change_nothing_of_what_is_written(bank, text):
    hidden, mask = text
    together = bank.write(bank.initial(2), hidden, mask)
    loud = torch.where(mask[..., None], hidden, 1e4)
    torch.testing.assert_close(bank.write(bank.initial(2), loud, mask), together, atol=1e-6, rtol=1e-6)
    for row, length in enumerate(LENGTHS):
        one, real = hidden[row : row + 1, :length], torch.ones(1, length, dtype=torch.bool)
        alone = bank.write(bank.initial(1), one, real)
        torch.testing.assert_close(alone[0], together[row], atol=1e-6, rtol=1e-6)


@torch.no_grad()
def test_a_state_stays_when_the_parameters_it_began_with_change(bank):
    slots = bank.initial(2)
    before = slots.clone()
    bank.start.add_(1.0)
    assert torch.equal(slots, before)


# --- reading


@torch.no_grad()
def test_every_state_reads_its_own_slots(bank):
    slots, hidden = torch.randn(2, 5, 8), torch.randn(2, 3, 4, HIDDEN)
    together = bank.recall(slots)(hidden)
    assert together.shape == hidden.shape and not torch.allclose(together, hidden, atol=1e-2)
    for row in range(2):
        for question in range(3):
            alone = bank.recall(slots[row : row + 1])(hidden[row : row + 1, question : question + 1])
            torch.testing.assert_close(alone[0, 0], together[row, question])


@torch.no_grad()
def test_a_new_bank_adds_nothing_to_the_bit(text):
    hidden = text[0][:, None]
    bank = LatentBank(HIDDEN, SETTINGS)
    assert torch.equal(bank.recall(bank.initial(2))(hidden), hidden)


@torch.no_grad()
def test_importance_is_the_weight_of_a_slot_against_others(bank):
    """A slot of no importance is not read; two alike of half the importance are read as one."""
    slots, hidden = torch.randn(1, 5, 8), torch.randn(1, 1, 4, HIDDEN)
    score, added = bank.importance(slots), torch.randn(1, 8)

    def read(slots, importance):
        bank.importance = lambda _: importance
        return bank.recall(slots)(hidden)

    weak = read(torch.cat((slots, added[None]), 1), torch.cat((score, torch.full((1, 1), -60.0)), 1))
    torch.testing.assert_close(weak, read(slots, score))
    halved = (score.sigmoid() / 2).logit()
    torch.testing.assert_close(read(slots.repeat(1, 2, 1), halved.repeat(1, 2)), read(slots, score))
    assert not torch.allclose(read(slots, score * 20), read(slots, score), atol=1e-3)


@torch.no_grad()
def test_all_is_float32_whatever_the_decoder_has(bank, text):
    hidden, mask = text[0].bfloat16(), text[1]
    slots = bank.write(bank.initial(2), hidden, mask)
    assert slots.dtype == torch.float32 and bank.recall(slots)(hidden[:, None]).dtype == torch.float32
    torch.testing.assert_close(slots, bank.write(bank.initial(2), hidden.float(), mask))


@pytest.mark.parametrize("tokens", [1, 9])
@torch.no_grad()
def test_the_counted_operations_are_those_that_run(bank, tokens):
    with FlopCounterMode(display=False) as counter:
        bank.recall(bank.initial(1))(torch.randn(1, 1, tokens, HIDDEN))
    assert counter.get_total_flops() == bank.recall_flops(tokens)


# --- training


def test_the_loss_is_sparsity_less_entropy_of_each_document():
    strength = torch.tensor([[0.5, 0.25, 0.25], [0.9, 0.3, 0.6]])
    shares = [[0.5, 0.25, 0.25], [0.5, 1 / 6, 1 / 3]]
    mean = (0.5 + 0.25 + 0.25) / 3 + (0.9 + 0.3 + 0.6) / 3
    entropy = -sum(share * math.log(share) for row in shares for share in row)
    for sparsity, weight in ((1.0, 0.0), (0.0, 1.0), (0.2, 0.7)):
        settings = BankSettings(sparsity=sparsity, entropy=weight)
        expected = sparsity * mean - weight * entropy
        assert float(bank_loss(strength.logit(), settings)) == pytest.approx(expected, abs=1e-6)


def test_importance_at_its_limits_has_a_finite_gradient():
    importance = torch.tensor([[-300.0, 300.0, 0.0], [40.0] * 3, [-300.0] * 3], requires_grad=True)
    loss = bank_loss(importance, BankSettings(sparsity=1.0, entropy=1.0))
    loss.backward()
    assert loss.isfinite() and importance.grad.isfinite().all()


def test_one_term_lowers_importance_the_other_evens_it_out():
    """Sparsity lowers every importance; entropy evens out what stands out."""
    for weights, above, below in (({"sparsity": 1, "entropy": 0}, 1, 1), ({"sparsity": 0, "entropy": 1}, 1, -1)):
        importance = torch.tensor([[2.0, -2.0]], requires_grad=True)
        bank_loss(importance, BankSettings(**weights)).backward()
        assert importance.grad.sign().tolist() == [[above, below]]


def test_heads_that_do_not_fit_are_refused():
    with pytest.raises(ConfigError, match="bank.heads: 3 heads do not share out 8 numbers"):
        LatentBank(HIDDEN, BankSettings(size=8, heads=3))
    with pytest.raises(ConfigError, match="5 heads do not share out 12"):
        LatentBank(HIDDEN, BankSettings(size=None, heads=5))
    assert LatentBank(HIDDEN, BankSettings(slots=4, size=None)).initial(3).shape == (3, 4, HIDDEN)
