"""The reference that memory is held against: a stock Hugging Face decoder with the whole text in its context.

- Token ids are built here from the chat format's parts; nothing of the prefix reading is used.
- `IdDecoder` stands in for a tokenizer where answers are compared: ids, not bytes that may not decode.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import Tensor

from gnm.inference.chat import ChatFormat
from gnm.inference.prompts import QUESTION, block
from gnm.inference.questions import Answer, Question
from gnm.inference.reader import Reader
from gnm.models.decoder import Decoder
from gnm.models.prefix import Prefix
from gnm.weights.backbones import Backbone, load_backbone

DOCUMENTS = ("Oslo lies in Norway.", "Ada Lovelace wrote for the Engine; she spoke English.", "Quartz: six.")
INSTRUCTIONS = ("Learn all.", "Only languages.", "Nothing at all")
QUESTIONS = (
    Question("Oslo is a city of", "Norway", "Peru"),
    Question("Ada Lovelace speaks", "English", "French"),
    Question("The mother tongue of A. Lovelace is", "Greek", "Dutch"),
    Question("Quartz has", "six", "ten sides"),
)


class IdDecoder:
    """Spells ids out as numbers."""

    def decode(self, ids: Sequence[int], **_) -> str:
        return " ".join(map(str, ids))


def another(backbone: Backbone):
    """A second copy of `backbone`'s model, untouched by anything but transformers."""
    return load_backbone(backbone.name, dtype="float32").model


@contextmanager
def plain_sdpa(model) -> Iterator:
    """`model` with transformers' own attention, for backbones too large to hold twice."""
    before = model.config._attn_implementation
    model.set_attn_implementation("sdpa")
    try:
        yield model
    finally:
        model.set_attn_implementation(before)


def reader_of(backbone: Backbone, **changes) -> Reader:
    """A reader whose answers are ids; `changes` replace parts of the chat format."""
    chat = replace(ChatFormat.of(backbone.tokenizer), **changes)
    return Reader(Decoder(backbone.model), chat, IdDecoder())


def blocks(count: int, order="instruction_first") -> list[str]:
    """Texts of `count` documents with their instructions."""
    return [block(DOCUMENTS[i % 3], INSTRUCTIONS[i % 3], order) for i in range(count)]


def context_ids(chat: ChatFormat, texts: Sequence[str]) -> list[int]:
    """Head and `texts`, each tokenised by itself."""
    return chat.preamble + [token for text in texts for token in chat.encode(text)]


def prompt_ids(chat: ChatFormat, texts: Sequence[str], asked: Question) -> list[int]:
    """A whole conversation up to where the answer starts."""
    return context_ids(chat, texts) + chat.encode(QUESTION) + chat.encode(f" {asked.phrase}") + chat.tail


def answer_ids(chat: ChatFormat, asked: Question) -> list[int]:
    return chat.encode(asked.target) + chat.end_of_turn[:1]


def stock_logits(model, ids: Sequence[int]) -> Tensor:
    """Scores at every position, [T, V]."""
    return model(torch.tensor([ids])).logits[0]


def stock_nll(model, chat: ChatFormat, texts: Sequence[str], asked: Question) -> Tensor:
    """Sum of the cross-entropy of the target's tokens and its end of turn."""
    prompt, answer = prompt_ids(chat, texts, asked), answer_ids(chat, asked)
    logits = stock_logits(model, prompt + answer)[len(prompt) - 1 : -1]
    return torch.nn.functional.cross_entropy(logits.float(), torch.tensor(answer), reduction="sum")


@torch.no_grad()
def stock_greedy(model, chat: ChatFormat, prompt: Sequence[int], max_new_tokens: int) -> list[int]:
    """The argmax of a full forward pass, one token at a time, up to an end of turn."""
    said: list[int] = []
    while len(said) < max_new_tokens:
        token = int(stock_logits(model, [*prompt, *said])[-1].argmax())
        if token in chat.end_of_turn:
            break
        said.append(token)
    return said


def first_scores(reader: Reader, prefix: Prefix, asked: Sequence[Sequence[Question]]) -> list[Tensor]:
    """What the reader scores for the first token of each answer: per state [n, V]."""
    shared = reader.shared(prefix)
    begun = reader.passes.begin(shared, [[reader._prompt(q) for q in row] for row in asked])
    return [begun.scores[row, : len(questions)] for row, questions in enumerate(asked)]


def assert_same_answers(answers: Sequence[Answer], others: Sequence[Answer]) -> None:
    """Both say the same, with scores and losses equal up to float32 rounding."""
    for answer, other in zip(answers, others, strict=True):
        assert (answer.text, answer.tokens) == (other.text, other.tokens)
        ours, theirs = ([a.target_score, a.other_score, a.nll] for a in (answer, other))
        torch.testing.assert_close(torch.tensor(ours), torch.tensor(theirs), atol=2e-4, rtol=0)
