"""The reader: it asks questions whose tokens attend to a prefix, to answer them or to train on them.

- The words that all questions begin with are read once for each state, and join the prefix.
- The questions of one state are read in one pass, and none sees another (`packed.py`).
- Logits are computed at the places of answers only; the other places do not pass through the LM head.

Shape letters: B states, n questions per state, T tokens.
"""

from collections.abc import Callable, Sequence
from copy import copy

import torch
from torch import Tensor, nn

from gnm.data.formats import recognise
from gnm.inference.chat import ChatFormat
from gnm.inference.packed import PackedPasses
from gnm.inference.padding import pad
from gnm.inference.questions import Answer, AnswerLoss, Question
from gnm.models import flops
from gnm.models.attention import at_once
from gnm.models.decoder import Decoder
from gnm.models.prefix import Prefix
from gnm.models.tokens import TokenBatch


class Reader:
    """Asks questions behind prefixes; also turns texts into tokens.

    lead: token ids in front of every question, for prefixes that do not hold the preamble.

        prefix = lm.prefix(memory)
        reader.say(prefix, [["Oslo lies on a"]], max_new_tokens=4)
    """

    def __init__(self, decoder: Decoder, chat: ChatFormat, tokenizer, lead: Sequence[int] = ()):
        self.decoder, self.chat, self.tokenizer = decoder, chat, tokenizer
        self._shared = [*lead, *chat.encode_lead()]
        self.passes = PackedPasses(decoder, chat.end_of_turn)

    def recalling(self, recall: Callable[[Tensor], Tensor]) -> "Reader":
        """A reader with the same parts that applies `recall` to the questions' last hidden states [B, n, T, E].

        The logits are then those of what `recall` returns. It belongs to B states: ask with the prefixes of these.
        """
        reader = copy(self)
        reader.passes = PackedPasses(self.decoder, self.chat.end_of_turn, recall)
        return reader

    def encode(self, texts: Sequence[str]) -> TokenBatch:
        """Texts as tokens; each is one segment, and all of it counts as a document."""
        return self.encode_segments([(text,) for text in texts])

    def encode_segments(
        self, rows: Sequence[Sequence[str]], is_document: Sequence[Sequence[bool]] | None = None
    ) -> TokenBatch:
        """Texts as tokens. rows: the segments of each text. is_document: which segments are a document's; None: all.

        The segments of a text are joined and then tokenised. A token across a border belongs to the segment in which it
        ends.
        """
        tokens = [self.chat.encode_with_ends("".join(row)) for row in rows]
        ids, mask = (part.flatten(1) for part in pad([[own] for own, _ in tokens], self.decoder.device))
        segment, of_document = torch.full(ids.shape, -1), torch.zeros(ids.shape, dtype=torch.bool)
        for row, (_, ends) in enumerate(tokens):
            borders = torch.tensor([len(part) for part in rows[row]]).cumsum(0)
            number = torch.searchsorted(borders, torch.tensor(ends, dtype=torch.long))
            own = [True] * len(rows[row]) if is_document is None else is_document[row]
            segment[row, : len(ends)] = number
            of_document[row, : len(ends)] = torch.tensor(own, dtype=torch.bool)[number]
        return TokenBatch(ids, mask, segment.to(ids.device), of_document.to(ids.device))

    def preamble(self, batch: int) -> Prefix:
        """A prefix that holds the preamble alone, for `batch` states."""
        empty = self.decoder.empty_prefix(batch)
        if not self.chat.preamble:
            return empty
        ids = torch.tensor(self.chat.preamble, device=self.decoder.device).expand(batch, -1)
        return self.decoder.extend(empty, ids, torch.ones_like(ids, dtype=torch.bool))

    def query_flops(self, asked: Question, prefix_tokens: int) -> float:
        """FLOPs of reading one question behind `prefix_tokens` entries, and of its first answer token's logits."""
        prompt = len(self._shared) + self.question_tokens(asked)
        return flops.query_flops(self.decoder.config, prompt, prefix_tokens, 1)

    def question_tokens(self, asked: Question) -> int:
        """How many tokens a question has before its answer, without the words that all questions begin with."""
        return len(self._prompt(asked))

    def prefill_flops(self, tokens: int) -> float:
        """FLOPs of reading `tokens` tokens of context."""
        return flops.prefill_flops(self.decoder.config, tokens)

    def shared(self, prefix: Prefix) -> Prefix:
        """`prefix` followed by the words that every question begins with."""
        shared = torch.tensor(self._shared, dtype=torch.long, device=self.decoder.device)
        ids = shared.expand(prefix.valid.shape[0], 1, -1)
        mask = torch.ones_like(ids, dtype=torch.bool)
        return self.decoder.extend(prefix, ids[:, 0], mask[:, 0])

    def loss(self, prefix: Prefix, questions: Sequence[Sequence[Question]]) -> AnswerLoss:
        """The cross-entropy of the questions' targets. Row b holds the questions of state b, as many as it likes."""
        prompts = [[self._prompt(q) for q in row] for row in questions]
        answers = [[self._answer(q) for q in row] for row in questions]
        if not any(prompts):
            return AnswerLoss(torch.zeros((), device=self.decoder.device), 0, [[] for _ in questions])
        # the last answer token is predicted, never read
        rows = [[p + a[:-1] for p, a in zip(ps, as_, strict=True)] for ps, as_ in zip(prompts, answers, strict=True)]
        ids, mask = pad(rows, self.decoder.device)
        hidden = self.passes.read(self.shared(prefix), ids, mask)
        spots, targets, contests = [], [], []  # a contest: where two objects differ, and their tokens there
        width, length = ids.shape[1:]
        for row, (ps, as_) in enumerate(zip(prompts, answers, strict=True)):
            for column, (p, a) in enumerate(zip(ps, as_, strict=True)):
                common, *pair = self._contest(questions[row][column])
                step = min(self._content_step(a) + len(common), len(a) - 1)
                contests.append((len(spots) + step, *pair))
                first = (row * width + column) * length + len(p) - 1
                spots += range(first, first + len(a))
                targets += a
        logits = self.decoder.logits(hidden.flatten(0, 2)[torch.tensor(spots, device=hidden.device)])
        expected = torch.tensor(targets, device=hidden.device)
        spot, target, other = torch.tensor(contests, device=hidden.device).T
        won = iter((logits[spot, target] > logits[spot, other]).tolist())
        right = [[next(won) for _ in row] for row in questions]
        return AnswerLoss(nn.functional.cross_entropy(logits, expected, reduction="sum"), len(targets), right)

    @torch.no_grad()
    def answer(
        self, prefix: Prefix, questions: Sequence[Sequence[Question]], max_new_tokens: int
    ) -> list[list[Answer]]:
        """Answer every question greedily, and score its target and the other object. Row b: questions of state b."""
        prefix, width = self.shared(prefix), max(map(len, questions), default=0)
        number = self._at_once(prefix, max((len(self._prompt(q)) for row in questions for q in row), default=1))
        parts = [
            self._answer_some(prefix, [row[start : start + number] for row in questions], max_new_tokens)
            for start in range(0, width, number)
        ]
        return [[answer for part in parts for answer in part[row]] for row in range(len(questions))]

    def _at_once(self, prefix: Prefix, longest: int) -> int:
        """How many questions of a state are read in one pass. longest: tokens of the longest prompt."""
        scores = prefix.valid.numel() * self.decoder.config.num_attention_heads * longest
        return at_once(scores)

    def _answer_some(self, prefix, questions, max_new_tokens: int) -> list[list[Answer]]:
        begun = self.passes.begin(prefix, [[self._prompt(q) for q in row] for row in questions])
        nll = self._target_nll(prefix, begun, questions)
        watched = torch.zeros(*begun.mask.shape[:2], 2, dtype=torch.long, device=begun.mask.device)
        for row, asked in enumerate(questions):
            for column, q in enumerate(asked):
                watched[row, column] = torch.tensor(self._contest(q)[1:])
        said, scores = self.passes.greedy(prefix, begun, [len(row) for row in questions], max_new_tokens, watched)
        late = self._late_contests(prefix, questions, said)
        answers: list[list[Answer]] = [[] for _ in questions]
        for row, asked in enumerate(questions):
            for column, q in enumerate(asked):
                tokens = said[row][column]
                step = min(self._content_step(tokens), len(scores) - 1)
                pair = late.get((row, column)) or scores[step][row, column].tolist()
                answers[row].append(Answer(self._text(tokens), *pair, nll[row][column], len(self._answer(q))))
        return answers

    def _late_contests(self, prefix, questions, said) -> dict[tuple[int, int], list[float]]:
        """The scores of both objects' tokens where they first differ, of the questions whose objects begin alike.

        What they have in common is read after what was `said` up to the content.
        """
        prompts: list[list[list[int]]] = [[] for _ in questions]
        places: dict[tuple[int, int], tuple[int, list[int]]] = {}
        for row, asked in enumerate(questions):
            for column, q in enumerate(asked):
                common, *pair = self._contest(q)
                if common:
                    opening = said[row][column][: self._content_step(said[row][column])]
                    places[row, column] = len(prompts[row]), pair
                    prompts[row].append(self._prompt(q) + opening + common)
        if not places:
            return {}
        scores = self.passes.begin(prefix, prompts).scores
        return {(row, column): scores[row, place, pair].tolist() for (row, column), (place, pair) in places.items()}

    def say(self, prefix: Prefix, phrases: Sequence[Sequence[str]], max_new_tokens: int) -> list[list[str]]:
        """What is answered, greedily, to each state's phrases; nothing is scored.

        A pass over the phrases, with the words that all begin with, and one over each token of the answers.
        """
        prompts = [[self._shared + self.chat.encode_question(phrase) for phrase in row] for row in phrases]
        return self._said(prefix, prompts, max_new_tokens)

    def complete(self, prefix: Prefix, requests: Sequence[str], max_new_tokens: int) -> list[str]:
        """What the backbone says, greedily, to one free request per state."""
        prompts = [[self.chat.encode(text) + self.chat.tail] for text in requests]
        return [row[0] for row in self._said(prefix, prompts, max_new_tokens)]

    @torch.no_grad()
    def _said(self, prefix: Prefix, prompts: list[list[list[int]]], max_new_tokens: int) -> list[list[str]]:
        number = self._at_once(prefix, max((len(prompt) for row in prompts for prompt in row), default=1))
        answers: list[list[str]] = [[] for _ in prompts]
        for start in range(0, max(map(len, prompts), default=0), number):
            some = [row[start : start + number] for row in prompts]
            said, _ = self.passes.greedy(prefix, self.passes.begin(prefix, some), list(map(len, some)), max_new_tokens)
            for row, found in zip(answers, said, strict=True):
                row += map(self._text, found)
        return answers

    def _target_nll(self, prefix, begun, questions) -> list[list[float]]:
        answers = [[self._answer(q) for q in row] for row in questions]
        first = begun.scores.log_softmax(-1)
        total = [[-float(first[r, c, a[0]]) for c, a in enumerate(row)] for r, row in enumerate(answers)]
        ids, given = pad([[a[:-1] for a in row] for row in answers], self.decoder.device)
        if ids.shape[2] == 0:
            return total
        hidden, _ = self.passes.go_on(prefix, begun.own, begun.mask, ids, given)
        spots = [(r, c, t) for r, row in enumerate(answers) for c, a in enumerate(row) for t in range(len(a) - 1)]
        rows, columns, times = (torch.tensor(part, device=ids.device) for part in zip(*spots, strict=True))
        expected = torch.tensor([answers[r][c][t + 1] for r, c, t in spots], device=ids.device)
        losses = nn.functional.cross_entropy(
            self.decoder.logits(hidden[rows, columns, times]), expected, reduction="none"
        )
        for (r, c, _), loss in zip(spots, losses.tolist(), strict=True):
            total[r][c] += loss
        return total

    def _prompt(self, asked: Question) -> list[int]:
        return self.chat.encode_question(asked.phrase)

    def _answer(self, asked: Question) -> list[int]:
        said = asked.target if asked.said is None else asked.said
        return self.chat.encode_answer(said) + self.chat.end_of_turn[:1]

    def _contest(self, asked: Question) -> tuple[list[int], int, int]:
        """The tokens that target and other object begin with alike, and the next one of each; the end of turn is the
        last token of an object. Objects that are the same have nothing in common here."""
        target, other = (
            self.chat.encode_answer(text) + self.chat.end_of_turn[:1] for text in (asked.target, asked.other)
        )
        alike = next((n for n, (a, b) in enumerate(zip(target, other, strict=False)) if a != b), 0)
        return target[:alike], target[alike], other[alike]

    def _text(self, tokens: Sequence[int]) -> str:
        return self.chat.said(self.tokenizer.decode(tokens, skip_special_tokens=True))

    def _content_step(self, tokens: Sequence[int]) -> int:
        """The place among the answer's `tokens` of the one with which its content begins."""
        decode = self.tokenizer.decode
        offset = recognise(decode(tokens, skip_special_tokens=True)).offset
        if not offset:
            return 0
        steps = range(len(tokens))
        reached = (step for step in steps if len(decode(tokens[: step + 1], skip_special_tokens=True)) > offset)
        return next(reached, len(tokens) - 1)
