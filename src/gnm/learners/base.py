"""The contract of every method: a state goes in and comes out; questions are asked of a state.

Training, evaluation, metrics and figures see nothing but this. A new method is one file and one line in the registry
(`learners/__init__.py`). A batch holds B independent sequences; row b of every argument belongs to sequence b.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from gnm.data.labels import WriteLabels
from gnm.inference.questions import Answer, AnswerLoss, Question
from gnm.memory.written import Segment
from gnm.models.decoder import Decoder

State = Any
"""What a learner keeps of the documents it was given. A value: to undo a write, go on from the state before it."""


@dataclass(frozen=True)
class Cost:
    """What a state holds and what a question costs: tokens or slots kept, bytes of them, FLOPs of one question."""

    kept: float
    bytes: float
    query_flops: float


class Learner(nn.Module, ABC):
    """A method that is given documents with instructions, and asked questions."""

    trains_all = True
    """Whether a loss reaches every parameter that can be trained."""
    can_forget = False
    """Whether a single document can be taken back."""
    same_passes = True
    """Whether batches of the same numbers of sequences and documents take the same passes of the decoder."""
    needs_adapter = True
    """Whether its training needs an adapter of the backbone."""

    def own_parameters(self) -> dict[str, nn.Parameter]:
        """Parameters of the method itself, beside the backbone's adapters, by the names that they are saved under."""
        return {}

    def selecting_parameters(self) -> set[str]:
        """The names of those of its own parameters that select what a write stores, and what is taken back."""
        return set()

    def checkpoint_gradients(self, on: bool) -> None:
        """Whether activations of a pass are computed again for its gradient instead of kept (Chen et al. 2016)."""
        for module in self.modules():
            if isinstance(module, Decoder):
                module.checkpointing = on

    @abstractmethod
    def reset(self, seeds: Sequence[int]) -> State:
        """The state of B sequences before any document; `seeds` [B] make anything random their own."""

    @abstractmethod
    def write(self, state: State, documents: Sequence[str], instructions: Sequence[str]) -> State:
        """The state after one more document per sequence. `state` itself stays as it was."""

    def check(self, documents: Sequence[str], instructions: Sequence[str]) -> None:
        """Raise a GNMError if any of these pairs can never be written. By default all can."""

    def forget(self, state: State, document: int) -> State:
        """The state without document number `document`, of methods that `can_forget`; TypeError from all others."""
        raise TypeError(f"{type(self).__name__} cannot take back a single document")

    def revoke(self, state: State, instructions: Sequence[str]) -> State:
        """The state after instructions without documents, that earlier ones be taken back.

        By default they are written like any other, for the reader to heed.
        """
        return self.write(state, [""] * len(instructions), instructions)

    def segments(self, state: State, row: int, document: str, instruction: str) -> list[Segment]:
        """What the last write, of this pair in row `row`, decided. By default nothing: everything is stored."""
        return []

    def write_loss(self, state: State, labels: Sequence[WriteLabels]) -> Tensor | None:
        """The loss, with gradient, of what the last write decided: a sum over the batch; None: no loss.

        labels: what the last write of each of the B sequences should have done.
        """
        return None

    def selection_loss(self, labels: Sequence[WriteLabels]) -> Tensor:
        """The part of `write_loss` that says what is stored of each document, whatever was written before it.

        Nothing needs to be written for it: the documents are those of `labels`.
        """
        raise TypeError(f"{type(self).__name__} does not decide what it stores")

    @abstractmethod
    def answer(self, state: State, questions: Sequence[Sequence[Question]], max_new_tokens: int) -> list[list[Answer]]:
        """Answer each sequence's questions; sequences may have different numbers of them."""

    @abstractmethod
    def loss(self, state: State, questions: Sequence[Sequence[Question]]) -> AnswerLoss:
        """The loss of each sequence's questions, with gradient."""

    @abstractmethod
    def detach(self, state: State) -> State:
        """The same state without its graph of gradients."""

    @abstractmethod
    def cost(self, state: State, row: int, asked: Question) -> Cost:
        """What row `row` of `state` holds, and what the question `asked` costs when put to it."""
