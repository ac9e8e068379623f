"""The reader: it turns questions into tokens, which attend to a prefix, and answers them or computes their loss.

- The words that all questions begin with (`ChatFormat.encode_lead`) are read once for each state, and join the prefix.
- The questions of one state are read in one pass, and none sees another (`packed.py`, which also generates).
- Logits are computed at the tokens of answers only; the others do not pass through the LM head.
- Each question has two objects that compete, the target and the other one. Their scores are compared at the first token
  in which they differ, where the content of the answer begins: after the opening words of a format, if it has one.

Shape letters: B states, n questions per state, T tokens, E hidden size.
"""

from collections.abc import Callable, Sequence
from copy import copy

import torch
from torch import Tensor, nn

from gnm.data.formats import recognise
from gnm.inference.chat import ChatFormat
from gnm.inference.packed import Begun, PackedPasses
from gnm.inference.padding import pad
from gnm.inference.questions import Answer, AnswerLoss, Question
from gnm.models import flops
from gnm.models.attention import at_once
from gnm.models.decoder import Decoder
from gnm.models.prefix import Prefix
from gnm.models.tokens import TokenBatch


class Reader:
    """Asks questions behind prefixes; also turns texts into tokens.

    chat: how a question and its answer are put into tokens.
    lead: token ids in front of the words that every question begins with, for prefixes without the preamble.

        prefix = lm.prefix(memory)
        reader.say(prefix, [["Oslo lies on a"]], max_new_tokens=4)
    """

    def __init__(self, decoder: Decoder, chat: ChatFormat, tokenizer, lead: Sequence[int] = ()):
        self.decoder, self.chat, self.tokenizer = decoder, chat, tokenizer
        self._shared = [*lead, *chat.encode_lead()]
        self.passes = PackedPasses(decoder, chat.end_of_turn)

    def recalling(self, recall: Callable[[Tensor], Tensor]) -> "Reader":
        """A copy of this reader that changes the questions' last hidden states [B, n, T, E] before the LM head.

        recall: takes them and returns others of the same shape, for the B states that it was made for; so the copy can
        answer with prefixes of these states only. The latent bank reads in this way.
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
        """Texts as tokens, one text per row, with the segment of each token.

        rows: the segments of each text. is_document: which segments belong to a document; None: all.
        The segments of a text are joined and then tokenised. A token that spans two segments belongs to the one in
        which it ends.
        """
        tokens = [self.chat.encode_with_ends("".join(row)) for row in rows]
        ids, mask = (part.flatten(1) for part in pad([[own] for own, _ in tokens], self.decoder.device))
        segment, of_document = torch.full(ids.shape, -1), torch.zeros(ids.shape, dtype=torch.bool)
        for row, (_, ends) in enumerate(tokens):
            borders = torch.tensor([len(part) for part in rows[row]]).cumsum(0)
            number = torch.searchsorted(borders, torch.tensor(ends, dtype=torch.long))
            belongs = [True] * len(rows[row]) if is_document is None else is_document[row]
            segment[row, : len(ends)] = number
            of_document[row, : len(ends)] = torch.tensor(belongs, dtype=torch.bool)[number]
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
        """How many tokens a question has before its answer; the words that all questions begin with do not count."""
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
        """The cross-entropy of the answers that the questions expect, and whether the target wins at each.

        questions: row b holds those of state b; rows may have different lengths.
        """
        prompts = [[self._prompt(q) for q in row] for row in questions]
        answers = [[self._answer(q) for q in row] for row in questions]
        if not any(prompts):
            return AnswerLoss(torch.zeros((), device=self.decoder.device), 0, [[] for _ in questions])
        # the last answer token is predicted, never read
        both = zip(prompts, answers, strict=True)
        rows = [[prompt + answer[:-1] for prompt, answer in zip(*row, strict=True)] for row in both]
        ids, mask = pad(rows, self.decoder.device)
        hidden = self.passes.read(self.shared(prefix), ids, mask)
        spots, targets = [], []  # places in `hidden` whose next token belongs to an answer, and this token
        contests = []  # for each question: the place in `spots` where its two objects differ, and their tokens there
        width, length = ids.shape[1:]
        for row, asked in enumerate(questions):
            for column, q in enumerate(asked):
                prompt, answer = prompts[row][column], answers[row][column]
                common, *pair = self._contest(q)
                step = min(self._content_step(answer) + len(common), len(answer) - 1)
                contests.append((len(spots) + step, *pair))
                first = (row * width + column) * length + len(prompt) - 1
                spots += range(first, first + len(answer))
                targets += answer
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
        """Answer every question greedily, and score its target and the other object.

        questions: row b holds those of state b. One pass reads all of them, or as many as `attention.at_once` allows.
        """
        prefix, width = self.shared(prefix), max(map(len, questions), default=0)
        number = self._at_once(prefix, max((len(self._prompt(q)) for row in questions for q in row), default=1))
        parts = [
            self._answer_some(prefix, [row[start : start + number] for row in questions], max_new_tokens)
            for start in range(0, width, number)
        ]
        return [[answer for part in parts for answer in part[row]] for row in range(len(questions))]

    def _at_once(self, prefix: Prefix, longest: int) -> int:
        """How many questions of a state one pass reads at most. longest: tokens of the longest prompt."""
        scores = prefix.valid.numel() * self.decoder.config.num_attention_heads * longest
        return at_once(scores)

    def _answer_some(
        self, prefix: Prefix, questions: Sequence[Sequence[Question]], max_new_tokens: int
    ) -> list[list[Answer]]:
        """As `answer`, in one pass. prefix: with the words that every question begins with."""
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

    def _late_contests(
        self, prefix: Prefix, questions: Sequence[Sequence[Question]], said: list[list[list[int]]]
    ) -> dict[tuple[int, int], list[float]]:
        """Scores of target and other object, {(row, column): [target, other]}, for questions whose objects begin alike.

        Such objects are compared in a pass of their own, over the prompt, the opening words of the answer `said`
        (token ids; those before its content), and the tokens that both objects have in common.
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
        """Greedy answers to phrases, as texts; nothing is scored. phrases: row b holds those for state b.

        Unlike `answer`, the words that all questions begin with are read as part of each prompt: a pass less.
        """
        prompts = [[self._shared + self.chat.encode_question(phrase) for phrase in row] for row in phrases]
        return self._said(prefix, prompts, max_new_tokens)

    def complete(self, prefix: Prefix, requests: Sequence[str], max_new_tokens: int) -> list[str]:
        """Greedy answers to free requests, as texts: one request for each state, read behind its prefix."""
        prompts = [[self.chat.encode(text) + self.chat.tail] for text in requests]
        return [row[0] for row in self._said(prefix, prompts, max_new_tokens)]

    @torch.no_grad()
    def _said(self, prefix: Prefix, prompts: list[list[list[int]]], max_new_tokens: int) -> list[list[str]]:
        """Greedy answers to `prompts`, given as token ids, row b those for state b."""
        number = self._at_once(prefix, max((len(prompt) for row in prompts for prompt in row), default=1))
        answers: list[list[str]] = [[] for _ in prompts]
        for start in range(0, max(map(len, prompts), default=0), number):
            some = [row[start : start + number] for row in prompts]
            said, _ = self.passes.greedy(prefix, self.passes.begin(prefix, some), list(map(len, some)), max_new_tokens)
            for row, found in zip(answers, said, strict=True):
                row += map(self._text, found)
        return answers

    def _target_nll(self, prefix: Prefix, begun: Begun, questions: Sequence[Sequence[Question]]) -> list[list[float]]:
        """Sum of -log p (nats) of each question's expected answer. begun: the prompts, read behind `prefix`."""
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
        """Token ids of the expected answer, with the end of turn."""
        said = asked.target if asked.said is None else asked.said
        return self.chat.encode_answer(said) + self.chat.end_of_turn[:1]

    def _contest(self, asked: Question) -> tuple[list[int], int, int]:
        """The tokens with which both the target and the other object begin, and the next token of each.

        The end of turn counts as the last token of an object. Two equal objects are compared at their first token.
        """
        target, other = (
            self.chat.encode_answer(text) + self.chat.end_of_turn[:1] for text in (asked.target, asked.other)
        )
        alike = next((n for n, (a, b) in enumerate(zip(target, other, strict=False)) if a != b), 0)
        return target[:alike], target[alike], other[alike]

    def _text(self, tokens: Sequence[int]) -> str:
        return self.chat.said(self.tokenizer.decode(tokens, skip_special_tokens=True))

    def _content_step(self, tokens: Sequence[int]) -> int:
        """The index in an answer's `tokens` at which its content begins, after the opening words of a format."""
        decode = self.tokenizer.decode
        offset = recognise(decode(tokens, skip_special_tokens=True)).offset
        if not offset:
            return 0
        steps = range(len(tokens))
        reached = (step for step in steps if len(decode(tokens[: step + 1], skip_special_tokens=True)) > offset)
        return next(reached, len(tokens) - 1)
