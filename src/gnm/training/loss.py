"""What training minimises: documents are written one after another, queries asked after each."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from gnm.data.types import NEIGHBOUR, PARAPHRASE, Query
from gnm.learners import Learner
from gnm.models.lora import renew_effective_weights
from gnm.training.batches import TrainingEpisode

_KINDS = ("accuracy", "selectivity", "specificity")
SUMS = ("loss", "tokens", "writes", "documents", *_KINDS, *(f"{kind} asked" for kind in _KINDS))


class TrainingLoss(nn.Module):
    """Writes and asks: the forward pass that DDP and FSDP wrap."""

    def __init__(self, learner: Learner, gradients_through: str):
        super().__init__()
        self.learner, self.gradients_through = learner, gradients_through

    def forward(self, batch: Sequence[TrainingEpisode], asks: bool = True) -> tuple[Tensor, Tensor]:
        """With gradient, the sums of the answers' cross-entropy (nats) and of the writes' own loss, [2]; and the sums
        of SUMS; sequences are equally long. asks: false for what writes would store alone, without any question."""
        renew_effective_weights(self.learner)
        if not asks:
            labels = [each for episode in batch for each in episode.labels]
            writes = self.learner.selection_loss(labels).cpu()
            sums = dict.fromkeys(SUMS, 0.0) | {"writes": float(writes.detach()), "documents": len(labels)}
            return torch.stack((torch.zeros(()), writes)), _in_order(sums)
        state = self.learner.reset([episode.seed for episode in batch])
        answers, writes, sums = torch.zeros(()), torch.zeros(()), dict.fromkeys(SUMS, 0.0)
        for t in range(len(batch[0].steps)):
            if self.gradients_through == "last":
                state = self.learner.detach(state)
            steps = [episode.steps[t] for episode in batch]
            state = self.learner.write(state, [s.document for s in steps], [s.instruction for s in steps])
            sums["documents"] += len(steps)
            if (of_write := self.learner.write_loss(state, [episode.labels[t] for episode in batch])) is not None:
                writes = writes + of_write.cpu()
            loss = self.learner.loss(state, [episode.questions(t) for episode in batch])
            answers = answers + loss.total.cpu()
            sums["tokens"] += loss.tokens
            for episode, row in zip(batch, loss.right, strict=True):
                for query, right in zip(episode.queries[t], row, strict=True):
                    if kind := _measured(query):
                        sums[f"{kind} asked"] += 1
                        sums[kind] += right
        sums |= {"loss": float(answers.detach()), "writes": float(writes.detach())}
        return torch.stack((answers, writes)), _in_order(sums)


def _in_order(sums: dict[str, float]) -> Tensor:
    return torch.tensor([sums[name] for name in SUMS], dtype=torch.float64)


def means_of(sums: Tensor) -> dict[str, float]:
    """Means from the sums of SUMS; a figure without questions is left out."""
    named = dict(zip(SUMS, sums.tolist(), strict=True))
    figures = {kind: named[kind] / asked for kind in _KINDS if (asked := named[f"{kind} asked"])}
    own = {"write_loss": named["writes"] / named["documents"]} if named["writes"] else {}
    answers = {"loss": named["loss"] / named["tokens"]} if named["tokens"] else {}
    return answers | own | figures


def _measured(query: Query) -> str | None:
    """Which of the figures of facts a query counts in (protocol, section 6)."""
    if query.type == PARAPHRASE and not query.refuse:
        return "accuracy" if query.learn else "selectivity"
    return "specificity" if query.type == NEIGHBOUR and query.learn else None
