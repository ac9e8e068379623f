"""Latent memory with a long-term store: each question reads the pool and the stored segments that it finds.

The pool of a row with the segments that a question finds is the question's context. Questions with the same context
share one prefix and are read in one pass; others have a prefix of their own. So an answer depends on its own question
alone.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from typing import Any, TypeVar

from gnm.data.facts import load_facts, load_relations
from gnm.inference.questions import Question
from gnm.inference.reader import Reader
from gnm.learners.base import Cost
from gnm.learners.memory import MemoryLearner
from gnm.models.long_term import LongTermLM
from gnm.models.prefix import Prefix
from gnm.models.projected import Memory

CONTEXTS_AT_ONCE = 16
"""How many prefixes are held at once while questions are answered."""
_SAMPLE_LINES, _LINES_OF_A_TEXT = 160, 3

Found = tuple[int, ...]
"""Segments that a question finds: their places in the store, oldest first."""
Asked = TypeVar("Asked", Question, str)
"""What is asked: a question with its expected answer, or a phrase alone."""


class LongTermLearner(MemoryLearner):
    """A MemoryLearner whose memory is a LongTermLM."""

    same_passes = False  # the number of passes depends on how many different contexts the questions have

    def __init__(self, lm: LongTermLM, reader: Reader, *settings):
        super().__init__(lm, reader, *settings)
        lm.keys.sample = reader.encode(sample_texts())

    def find(self, state: Memory, phrases: Sequence[Sequence[str]]) -> list[list[Found]]:
        """The segments that each phrase reads of the store of its row: their places in it, oldest first.

        phrases: row b holds those for state b. A space is put before each, as before a word in the middle of a text.
        """
        found: list[list[Found]] = [[] for _ in phrases]
        for row, own in enumerate(phrases):
            if own:
                found[row] = self.lm.find(state, row, self.reader.encode([f" {phrase.strip()}" for phrase in own]))
        return found

    def answer(self, state, questions, max_new_tokens):
        return self._in_contexts(state, questions, lambda *read: self.reader.answer(*read, max_new_tokens))

    def say(self, state: Memory, phrases: Sequence[Sequence[str]], max_new_tokens: int) -> list[list[str]]:
        return self._in_contexts(state, phrases, lambda *read: self.reader.say(*read, max_new_tokens))

    def prefix(self, state: Memory, requests: Sequence[str]) -> Prefix:
        """One prefix for all requests: the pool, with every segment that any of them finds."""
        found = self.find(state, [requests])[0]
        return self.lm.recalled(state, [(0, tuple(sorted({place for each in found for place in each})))])

    def contexts(self, state: Memory, phrases: Sequence[str]) -> list[tuple[Prefix, list[int]]]:
        groups = self._grouped(state, [phrases])
        return [(self.lm.recalled(state, [context]), places) for context, places in groups.items()]

    def counted(self, state: Memory, phrases: Sequence[Sequence[str]]) -> Memory:
        found = self.find(state, phrases)
        both = zip(state.state.store, found, strict=True)
        store = tuple(own.count([place for each in row for place in each]) for own, row in both)
        return replace(state, state=replace(state.state, store=store))

    def loss(self, state, questions):
        groups = self._grouped(state, questions)
        prefix = self.lm.recalled(state, list(groups))
        loss = self.reader.loss(prefix, [[questions[row][n] for n in places] for (row, _), places in groups.items()])
        right = [[False] * len(row) for row in questions]
        for ((row, _), places), verdicts in zip(groups.items(), loss.right, strict=True):
            for place, verdict in zip(places, verdicts, strict=True):
                right[row][place] = verdict
        return loss._replace(right=right)

    def cost(self, state: Memory, row: int, asked: Question) -> Cost:
        """Kept: the slots of pool and store. Query FLOPs: finding the segments, then reading pool and segments."""
        pool, store = super().cost(state, row, asked), state.state.store[row]
        found = self.find(state, [[asked.phrase] if each == row else [] for each in range(state.state.batch)])[row][0]
        read = self.reader.query_flops(asked, int(pool.kept) + sum(len(store.entries[place]) for place in found))
        finding = self.lm.find_flops(store, self.reader.question_tokens(asked))
        return Cost(pool.kept + int(store.lengths.sum()), pool.bytes + store.bytes, read + finding)

    def _grouped(self, state: Memory, asked: Sequence[Sequence[Asked]]) -> dict[tuple[int, Found], list[int]]:
        """Questions grouped by context: {(row, segments found): places of the questions in that row of `asked`}."""
        groups: dict[tuple[int, Found], list[int]] = {}
        phrases = [[each if isinstance(each, str) else each.phrase for each in row] for row in asked]
        for row, own in enumerate(self.find(state, phrases)):
            for place, found in enumerate(own):
                groups.setdefault((row, found), []).append(place)
        return groups

    def _in_contexts(
        self, state: Memory, asked: Sequence[Sequence[Asked]], read: Callable[[Prefix, list[list[Asked]]], Any]
    ) -> list[list]:
        """The answers to all that is asked, row by row. `read` answers the groups of a few contexts at a time.

        read: takes the prefixes of some contexts, and a list of questions for each; returns a list of answers for each.
        """
        answers: list[list] = [[None] * len(row) for row in asked]
        groups = list(self._grouped(state, asked).items())
        for start in range(0, len(groups), CONTEXTS_AT_ONCE):
            some = groups[start : start + CONTEXTS_AT_ONCE]
            prefix = self.lm.recalled(state, [context for context, _ in some])
            given = read(prefix, [[asked[row][place] for place in places] for (row, _), places in some])
            for ((row, _), places), own in zip(some, given, strict=True):
                for place, answer in zip(places, own, strict=True):
                    answers[row][place] = answer
        return answers


@cache
def sample_texts() -> tuple[str, ...]:
    """A fixed sample of texts, from which whitening learns what the hidden states of all texts have in common.

    Each line of a text states one fact of `gnm.data.facts` in one of its relation's wordings.
    """
    facts, relations, lines = load_facts(), load_relations(), []
    for number, fact in enumerate(facts[:: len(facts) // _SAMPLE_LINES][:_SAMPLE_LINES]):
        relation = relations[fact.relation]
        wordings = (relation.prompt, *relation.paraphrases)
        lines.append(f"{wordings[number % len(wordings)].replace('{}', fact.subject)} {fact.object}\n")
    starts = range(0, len(lines), _LINES_OF_A_TEXT)
    return tuple("".join(lines[start : start + _LINES_OF_A_TEXT]) for start in starts)
