"""A recurrent memory of a few tokens beside a decoder (RMT, Bulatov et al. 2022, sec. 3).

- A memory is M vectors that stand among the decoder's input embeddings. A text is read between two copies of them: from
  the first the text is read, the second comes after it, has seen both, and its last hidden states are the new memory.
- Questions read the memory as M tokens behind the start of the conversation. A new one, to which nothing was written
  yet, is not read: the backbone then answers as it is.
- A memory's size never changes, so nothing can be taken back of it by its document.

Shape letters: B states, M memory tokens, T tokens of a text, E hidden size.
"""

import torch
from pydantic import Field
from torch import Tensor, nn

from gnm.config import StrictModel
from gnm.models.decoder import Decoder
from gnm.models.prefix import Prefix
from gnm.models.taps import LayerTap


class RecurrentSettings(StrictModel):
    """tokens: M, the size of the memory."""

    tokens: int = Field(32, gt=0)


class RecurrentMemory(nn.Module):
    """How a memory starts, is written and is read; `start` [M, E] are its only parameters, float32.

    New ones are drawn from torch's random state, as spread as the decoder's input embeddings.
    """

    def __init__(self, decoder: Decoder, settings: RecurrentSettings):
        super().__init__()
        self.decoder = decoder
        embeddings = decoder.model.get_input_embeddings().weight
        start = torch.randn(settings.tokens, embeddings.shape[1]) * float(embeddings.float().std())
        self.start = nn.Parameter(start.to(decoder.device))

    def initial(self, batch: int) -> Tensor:
        """The vectors of new memories, [B, M, E] float32."""
        return self.start.expand(batch, -1, -1)

    def write(self, memory: Tensor, preamble: Prefix, ids: Tensor, mask: Tensor) -> Tensor:
        """The memory [B, M, E] after texts ids [B, T] long, mask [B, T] bool (false: padding on the right)."""
        embedded = self.decoder.model.get_input_embeddings()(ids)
        size, lengths = memory.shape[1], mask.sum(-1, keepdim=True)
        place = torch.arange(2 * size + ids.shape[1], device=ids.device).expand(len(ids), -1)
        # one row of both copies and the text; each place takes one of them
        row = torch.cat((memory.to(embedded.dtype), embedded), dim=1)
        last = place - lengths - size  # the place in the second copy
        source = torch.where(last >= 0, last, place)
        inputs = row.gather(1, source[..., None].expand(-1, -1, row.shape[2]))
        hidden = self._run(preamble, inputs, place < lengths + 2 * size)[0]
        ends = size + lengths + torch.arange(size, device=ids.device)
        return hidden.gather(1, ends[..., None].expand(-1, -1, hidden.shape[2])).float()

    def read(self, memory: Tensor, preamble: Prefix) -> Prefix:
        """`preamble` followed by the keys and values of a memory [B, M, E]."""
        mask = torch.ones(memory.shape[:2], dtype=torch.bool, device=memory.device)
        return self._run(preamble, memory.to(self.decoder.dtype), mask)[1]

    def _run(self, preamble: Prefix, inputs: Tensor, mask: Tensor) -> tuple[Tensor, Prefix]:
        """Last hidden states of inputs [B, T, E] behind `preamble`, and this followed by their keys and values."""
        reading, positions = self.decoder.start(preamble, mask[:, None], keep=True)
        ids = torch.zeros(positions.shape, dtype=torch.long, device=inputs.device)  # `inputs` stand in their place
        hidden = self.decoder.run(ids, positions, reading, LayerTap(layer=0, inputs=inputs[:, None]))
        keys, values = zip(*((key[:, :, 0], value[:, :, 0]) for key, value in reading.own.values()), strict=True)
        return hidden[:, 0], preamble.extend(keys, values, mask)
