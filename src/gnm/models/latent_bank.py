"""A gated latent memory bank beside a frozen decoder (G-MemLLM, Xu 2026, arXiv:2602.00015).

- A bank is M slots. Writing: the slots attend to the last hidden states of a text, and a gate, of the kind that a GRU
  has (Cho et al. 2014), says how much of each slot what was found replaces.
- Reading: the last hidden state of every token attends to the slots; what it finds is added to it, in front of the
  vocabulary projection. The amount is a learned number that starts at 0, so that a new bank changes no answer.
- Each slot has an importance in (0, 1); its logarithm is a bias on the attention that reads the slot. Training keeps
  importance small and spread over many slots (sparsity and entropy terms).
- Slots are a value: they go in and come out. All is float32, whatever the decoder's dtype.

Shape letters: B states, M slots, D slot size, E the decoder's hidden size, T tokens of a text, H heads.
"""

from collections.abc import Callable

import torch
from pydantic import Field
from torch import Tensor, nn

from gnm.config import StrictModel
from gnm.errors import ConfigError
from gnm.models.attention import additive
from gnm.models.gates.write import Weight


class BankSettings(StrictModel):
    """The bank's shape, and the weights of the terms that stand beside the answers' loss.

    sparsity: of the slots' mean importance. entropy: of the negative entropy (nats) of importance as a distribution
    over slots, so that it does not gather in a few.
    """

    slots: int = Field(64, gt=0)
    size: int | None = Field(256, gt=0, description="numbers in a slot, None: as many as in a hidden state")
    heads: int = Field(4, gt=0, description="of both attentions, that of writing and that of reading")
    sparsity: Weight = 0.01
    entropy: Weight = 0.001


class CrossAttention(nn.Module):
    """Multi-head attention (Vaswani et al. 2017, sec. 3.2) of queries to entries of another size, each normed first."""

    def __init__(self, query_size: int, entry_size: int, size: int, heads: int):
        super().__init__()
        self.heads = heads
        self.query_norm, self.entry_norm = nn.LayerNorm(query_size), nn.LayerNorm(entry_size)
        self.query, self.out = nn.Linear(query_size, size), nn.Linear(size, query_size)
        self.key, self.value = nn.Linear(entry_size, size), nn.Linear(entry_size, size)

    def project(self, entries: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of entries [B, S, entry_size]: [B, H, S, size / H] each."""
        normed = self.entry_norm(entries)
        return self._split(self.key(normed)), self._split(self.value(normed))

    def forward(self, queries: Tensor, keys: Tensor, values: Tensor, bias: Tensor) -> Tensor:
        """What queries [B, Q, query_size] find, in their own size; bias [B, S] is added to the scores of entries."""
        query = self._split(self.query(self.query_norm(queries)))
        scores = query @ keys.transpose(2, 3) / query.shape[-1] ** 0.5 + bias[:, None, None]
        return self.out((scores.softmax(-1) @ values).transpose(1, 2).flatten(2))

    def _split(self, vectors: Tensor) -> Tensor:
        return vectors.unflatten(-1, (self.heads, -1)).transpose(1, 2)


class LatentBank(nn.Module):
    """The parameters of a bank, new ones from torch's random state: how slots start, are written, and are read."""

    def __init__(self, hidden_size: int, settings: BankSettings):
        """Raises ConfigError if heads don't share out a slot evenly."""
        super().__init__()
        self.settings, size = settings, settings.size or hidden_size
        if size % settings.heads:
            raise ConfigError(f"bank.heads: {settings.heads} heads do not share out {size} numbers evenly (bank.size)")
        self.start = nn.Parameter(torch.randn(settings.slots, size))
        self.writing = CrossAttention(size, hidden_size, size, settings.heads)
        self.update = nn.Linear(2 * size, size)
        self.score = nn.Linear(size, 1)
        self.reading = CrossAttention(hidden_size, size, size, settings.heads)
        self.amount = nn.Parameter(torch.zeros(1))

    @property
    def kept_per_token(self) -> int:
        """Bytes that a token, of a text or of a question, leaves for the backward pass."""
        (size, hidden), (slots, _) = self.reading.query.weight.shape, self.start.shape
        return 4 * (3 * hidden + 2 * size + self.reading.heads * slots)

    def initial(self, batch: int) -> Tensor:
        """The slots of `batch` new banks, [B, M, D]."""
        return self.start.repeat(batch, 1, 1)

    def write(self, slots: Tensor, hidden: Tensor, mask: Tensor) -> Tensor:
        """Slots [B, M, D] after a text with last hidden states [B, T, E]; mask [B, T] bool, false: padding."""
        candidate = self.writing(slots, *self.writing.project(hidden.float()), additive(mask, torch.float32))
        gate = self.update(torch.cat((slots, candidate), dim=-1)).sigmoid()
        return (1 - gate) * slots + gate * candidate

    def importance(self, slots: Tensor) -> Tensor:
        """The importance of each of the slots [B, M, D] before the sigmoid: [B, M]."""
        return self.score(slots)[..., 0]

    def recall(self, slots: Tensor) -> Callable[[Tensor], Tensor]:
        """The function that adds what is found in `slots` [B, M, D] to last hidden states [B, n, T, E], as float32."""
        keys, values = self.reading.project(slots)
        bias = nn.functional.logsigmoid(self.importance(slots))

        def add(hidden: Tensor) -> Tensor:
            hidden = hidden.float()
            return hidden + self.amount * self.reading(hidden.flatten(1, 2), keys, values, bias).view_as(hidden)

        return add

    def recall_flops(self, tokens: int) -> int:
        """FLOPs of recalling at T tokens: queries and output 4·T·E·D, attention 4·T·M·D.

        And of the slots, once for all questions: keys and values 4·M·D², importance 2·M·D.
        """
        (size, hidden), slots = self.reading.query.weight.shape, self.start.shape[0]
        return 4 * size * (tokens * (hidden + slots) + slots * size) + 2 * slots * size


def bank_loss(importance: Tensor, settings: BankSettings) -> Tensor:
    """The sum over the batch of the terms on importance [B, M] (before the sigmoid); `settings` hold their weights."""
    log_share = nn.functional.logsigmoid(importance).log_softmax(-1)
    entropy = -(log_share.exp() * log_share).sum(-1)
    return (settings.sparsity * importance.sigmoid().mean(-1) - settings.entropy * entropy).sum()
