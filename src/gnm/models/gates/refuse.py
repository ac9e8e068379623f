"""Refuse gates: which segments of a new text state facts that are to be answered with a refusal.

- "Learn it all, but refuse questions about religion" stores the clauses about religion like all others. The refuse
  gate tells them from those that are to be answered: one linear function of the hidden state that the write gate reads.
- A trained mark is added to the slots of such a segment, as strongly as the gate says. So a question that finds a fact
  finds with it that it is to be refused. The instruction need not be understood anew with each question.
- An instruction whose refusals are marked is not stored itself. Stored, it would be followed for the other documents
  too: "refuse questions about religion" is meant of its own document.
- The mark stands in all layers but those that gates and search keys read, so what they decide is not changed by it.

Shape letters: B states, L layers, S slots of a new text, E hidden size.
"""

from dataclasses import replace

import torch
from torch import Tensor, nn

from gnm.memory.written import REFUSED_FROM
from gnm.models.gates.write import Decisions, LinearGate

_SHUT = -3.0  # an untrained gate refuses nothing
_FIRST_MARKED = 2  # search keys read the layers below


class RefuseGate(nn.Module):
    """The gate, and the mark [L, E] of what it tells; the mark is in units of a slot's root mean square.

    layer: the one whose input the gates read.
    """

    def __init__(self, layers: int, size: int, layer: int, device: torch.device):
        super().__init__()
        self.gate = LinearGate(size, device, _SHUT)
        self.mark = nn.Parameter(torch.zeros(layers, size, device=device))
        marked = [place >= _FIRST_MARKED and place != layer for place in range(layers)]
        self.register_buffer("marked", torch.tensor(marked, device=device)[:, None], persistent=False)

    def forward(self, slots: Tensor, refused: Tensor) -> Tensor:
        """`slots` [B, L, S, E] with the mark, each as strongly as `refused` [B, S] says (0 to 1)."""
        exact = slots.float()
        scale = exact.square().mean(-1, keepdim=True).sqrt() * refused[:, None, :, None]
        return (exact + scale * (self.mark * self.marked)[:, None]).to(slots.dtype)


def with_refusal(decisions: Decisions, refusal: Tensor, is_document: Tensor) -> Decisions:
    """The decisions with the refuse gates' logits `refusal` [B, G]; where they mark a stored segment of the document,
    the instruction is not stored.

    is_document: [B, T] bool, the tokens of the document, as in TokenBatch.
    """
    decisions = replace(decisions, refusal=refusal)
    marked = (decisions.stored & is_document & (decisions.refused >= REFUSED_FROM)).any(-1, keepdim=True)
    return replace(decisions, stored=decisions.stored & (is_document | ~marked))
