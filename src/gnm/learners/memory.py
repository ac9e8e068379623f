"""The learner of latent memories: a document becomes slots, and questions attend to slots.

The methods `gnm`, `gnm_ablation` and `memoryllm` are this learner with different weights. The ablation was trained
without gradients through writing ("Tell Me What To Learn", arXiv:2602.23201).
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from gnm.data.labels import WriteLabels
from gnm.data.segments import split_segments
from gnm.errors import DataError
from gnm.inference.prompts import Order, block, block_parts, opening
from gnm.inference.questions import Question
from gnm.inference.reader import Reader
from gnm.learners.base import Cost, Learner
from gnm.memory.written import Segment
from gnm.models.gates.keep import keep_loss
from gnm.models.gates.write import Decisions, GateTraining, balanced_loss, gate_loss
from gnm.models.memory_lm import MemoryLM
from gnm.models.prefix import Prefix
from gnm.models.projected import Memory
from gnm.models.tokens import TokenBatch


class MemoryLearner(Learner):
    """Writes with a MemoryLM, and answers with its prefix in front of each question.

    lm: writes and holds the memory. reader: makes tokens, and asks. order: whether the instruction stands before or
    after its document. gate_training: weights of the gates' losses.

        state = learner.write(learner.reset([0]), ["Oslo lies on a fjord."], ["Learn all facts."])
        learner.say(state, [["Oslo lies on"]], max_new_tokens=4)
    """

    can_forget = True

    def __init__(
        self,
        lm: MemoryLM,
        reader: Reader,
        order: Order = "instruction_first",
        gate_training: GateTraining | None = None,
    ):
        super().__init__()
        self.lm, self.reader, self.order = lm, reader, order
        self.gated, self.gate_training = lm.gating is not None, gate_training
        self.learned_gates = self.gated and lm.gating.gate is not None
        # whether there are parameters that only writing uses: its adapter, MemoryLLM's marks, gates
        own = lm.write_settings.tap == "outputs" or self.learned_gates
        self.trains_all = not lm.revises and (lm.gradient_through_writing or not own)
        self.same_passes = not lm.revises  # what an instruction takes back is read once more

    def own_parameters(self):
        return self.lm.own_parameters()

    def selecting_parameters(self):
        return self.lm.gating.understanding() if self.gated else set()

    def reset(self, seeds: Sequence[int]) -> Memory:
        return self.lm.initial(torch.tensor(seeds, dtype=torch.long))

    def write(self, state: Memory, documents: Sequence[str], instructions: Sequence[str]) -> Memory:
        return self.lm.write(state, self._blocks(documents, instructions))

    def _blocks(self, documents: Sequence[str], instructions: Sequence[str]) -> TokenBatch:
        """Documents with their instructions, as tokens. With gates their segments are those of `gated_parts`."""
        pairs = zip(documents, instructions, strict=True)
        if not self.gated:
            return self.reader.encode([block(*pair, self.order) for pair in pairs])
        rows = [gated_parts(*pair, self.order) for pair in pairs]
        texts, of_document = ([[part[kind] for part in row] for row in rows] for kind in range(2))
        return self.reader.encode_segments(texts, of_document)

    def revoke(self, state: Memory, instructions: Sequence[str]) -> Memory:
        if not self.lm.revises:
            return super().revoke(state, instructions)
        return self.lm.revoke(state, self._encode_instructions(instructions))

    def _encode_instructions(self, instructions: Sequence[str]) -> TokenBatch:
        """Instructions without their documents, as tokens. The tokens are those that stand in front of a document."""
        return self.reader.encode([opening(instruction) for instruction in instructions])

    def forget(self, state: Memory, document: int) -> Memory:
        return self.lm.attach(state.state.without(document))

    def segments(self, state: Memory, row: int, document: str, instruction: str) -> list[Segment]:
        if not self.gated:
            return []
        decisions = state.decisions
        strengths, tokens = decisions.logits[row].sigmoid().tolist(), decisions.tokens[row].tolist()
        stored = decisions.segment[row][decisions.stored[row]].bincount(minlength=len(tokens)).tolist()
        refusals = [0.0] * len(tokens) if decisions.refusal is None else decisions.refusal[row].sigmoid().tolist()
        parts = gated_parts(document, instruction, self.order)
        return [
            Segment(part, strengths[number], tokens[number], stored[number], own, refusals[number] if own else 0.0)
            for number, (part, own) in enumerate(parts)
        ]

    def write_loss(self, state: Memory, labels: Sequence[WriteLabels]) -> Tensor | None:
        if not self.learned_gates:
            return None
        loss = self._understanding_loss(state.decisions, labels)
        if not self.lm.revises:
            return loss
        return loss + self.gate_training.keep * self._keep_loss(state, labels)

    def selection_loss(self, labels: Sequence[WriteLabels]) -> Tensor:
        text = self._blocks([each.document for each in labels], [each.instruction for each in labels])
        return self._understanding_loss(self.lm.decisions(text), labels)

    def _understanding_loss(self, decisions: Decisions, labels: Sequence[WriteLabels]) -> Tensor:
        """The loss of the gates that understand instructions: what is to be stored, and what is to be taken back."""
        loss = self._gate_loss(decisions, labels)
        if not (self.lm.revises and self.gate_training.revoke):
            return loss
        return loss + self.gate_training.revoke * self._revoke_loss(labels)

    def _gate_loss(self, decisions: Decisions, labels: Sequence[WriteLabels]) -> Tensor:
        wanted, of_instruction = (torch.zeros(decisions.logits.shape, dtype=torch.bool) for _ in range(2))
        for row, own in enumerate(labels):
            if own.wanted is None:
                raise DataError(
                    f"the lines that state the facts of {own.document[:60]!r} cannot be told, so gates cannot learn "
                    "what the instruction is about; leave such documents out"
                )
            segments = in_block(own.wanted, own.is_rule, self.order)
            wanted[row, : len(segments)] = torch.tensor(segments)
            of_instruction[row, : len(segments)] = ~torch.tensor(in_block([True] * len(own.wanted), False, self.order))
        device = decisions.logits.device
        loss = gate_loss(decisions, wanted.to(device), of_instruction.to(device), self.gate_training)
        if decisions.refusal is None:
            return loss
        refused = torch.zeros_like(wanted)
        for row, own in enumerate(labels):
            segments = in_block(own.refused, False, self.order)
            refused[row, : len(segments)] = torch.tensor(segments)
        of_refusal = balanced_loss(decisions.refusal, refused.to(device), (wanted & ~of_instruction).to(device))
        return loss + self.gate_training.refuse * of_refusal.sum()

    def _keep_loss(self, state: Memory, labels: Sequence[WriteLabels]) -> Tensor:
        kept = state.kept
        revoked = torch.zeros(kept.logits.shape, dtype=torch.bool)
        for row, own in enumerate(labels):
            for number, segments in enumerate(own.revoked):
                for place, gone in enumerate(in_block(segments, False, self.order)):
                    if gone:
                        revoked[row] |= ((kept.source[row] == number) & (kept.segment[row] == place)).cpu()
        return keep_loss(kept, revoked.to(kept.logits.device))

    def _revoke_loss(self, labels: Sequence[WriteLabels]) -> Tensor:
        """The cross-entropy of the about gate with the segments of its document that each revocation takes back, summed
        over the revocations."""
        revocations = [(own.document, *each) for own in labels for each in own.revocations]
        if not revocations:
            return torch.zeros((), device=self.lm.decoder.device)
        documents, instructions, taken_back = zip(*revocations, strict=True)
        text = self.reader.encode_segments([split_segments(document.strip()) for document in documents])
        about = self.lm.about(text, self._encode_instructions(instructions))
        wanted = pad_sequence([torch.tensor(each) for each in taken_back], batch_first=True)
        real = pad_sequence([torch.ones(len(each), dtype=torch.bool) for each in taken_back], batch_first=True)
        return balanced_loss(about, wanted.to(about.device), real.to(about.device)).sum()

    def check(self, documents: Sequence[str], instructions: Sequence[str]) -> None:
        for document, instruction in zip(documents, instructions, strict=True):
            tokens = len(self.reader.chat.encode(block(document, instruction, self.order)))
            self.lm.check_text(tokens)

    def answer(self, state, questions, max_new_tokens):
        return self.reader.answer(self.lm.prefix(state), questions, max_new_tokens)

    def say(self, state: Memory, phrases: Sequence[Sequence[str]], max_new_tokens: int) -> list[list[str]]:
        """The greedy answers to the phrases of each row. Nothing is scored, as a person's question has no target."""
        return self.reader.say(self.lm.prefix(state), phrases, max_new_tokens)

    def prefix(self, state: Memory, requests: Sequence[str]) -> Prefix:
        """What free requests attend to. state: of one memory; all `requests` share the prefix."""
        return self.lm.prefix(state)

    def contexts(self, state: Memory, phrases: Sequence[str]) -> list[tuple[Prefix, list[int]]]:
        """The prefixes that `phrases` read, each with the places in `phrases` of those that read it.

        state: of one memory. Each prefix has one row.
        """
        return [(self.lm.prefix(state), list(range(len(phrases))))]

    def counted(self, state: Memory, phrases: Sequence[Sequence[str]]) -> Memory:
        """The memory after `phrases` were asked. Only a long-term store changes: it counts how often each of its
        segments was found."""
        return state

    def loss(self, state, questions):
        return self.reader.loss(self.lm.prefix(state), questions)

    def detach(self, state: Memory) -> Memory:
        return self.lm.attach(state.state.detach())

    def cost(self, state: Memory, row: int, asked: Question) -> Cost:
        kept, slots = int(state.state.valid[row].sum()), state.state.slots
        size = slots.shape[1] * slots.shape[3] * slots.element_size()
        return Cost(kept, kept * size, self.reader.query_flops(asked, kept))


def gated_parts(document: str, instruction: str, order: Order) -> list[tuple[str, bool]]:
    """The segments that gates decide on, in order, each with whether it belongs to the document.

    The document's segments are its clauses. The instruction is one segment; it is worth storing where it is a rule for
    later answers. Joined, the segments are the text that is written (`prompts.block`).
    """
    return [
        (segment, of_document)
        for part, of_document in block_parts(document, instruction, order)
        for segment in (split_segments(part) if of_document else [part])
    ]


def in_block(of_document: Sequence[bool], of_instruction: bool, order: Order) -> list[bool]:
    """Labels of the `gated_parts` of a block, from those of its document's segments and the one of its instruction."""
    if not of_document:
        return [of_instruction]
    return [of_instruction, *of_document] + [of_instruction] * (order == "document_first")
