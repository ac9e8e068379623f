"""How a question is put and where its answer ends, as token ids: in a chat turn, or as plain text to be continued.

- Chat turns are taken from the tokenizer's own chat template.

- A prompt is `preamble + encode(text) + tail`: the parts are tokenised apart, so the ids of a text never depend on
  what stands around it. Memory, in-context and retrieval prompts are built from the same pieces.
- Text of users and documents is never parsed for special tokens: `<|im_end|>` in a document stays ten characters.
- A tokenizer without a template gets a plain form: beginning-of-sequence, the text, a line break, the answer.
- Not covered: templates that write today's date (their preamble changes from day to day), system turns of one's own.
"""

import re
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from gnm.errors import BackboneError
from gnm.inference.prompts import QUESTION, continuation, question

_SENTENCE_END = re.compile(r"[.!?](?=\s|$)|\n")
_USER, _ASSISTANT = "SENTINELOFUSER", "SENTINELOFASSISTANT"


@dataclass(frozen=True)
class ChatFormat:
    """One user turn and its answer, as token ids around the user's text.

    preamble: everything before the text, with beginning-of-sequence and the template's default system turn, if any.
    tail: everything between the text and the first token of the answer.
    end_of_turn: ids that end an answer; the first is the one the template writes, to be appended in training.
    """

    preamble: list[int]
    tail: list[int]
    end_of_turn: list[int]
    tokenizer: PreTrainedTokenizerBase

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerBase) -> "ChatFormat":
        """Read the format off `tokenizer`. Raises BackboneError if its template does not show a user's text once."""
        eos = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
        if not tokenizer.chat_template:
            bos = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
            return cls(bos, _ids(tokenizer, "\n", special=False), eos, tokenizer)
        user = {"role": "user", "content": _USER}
        preamble, tail = _split(_render(tokenizer, [user], add_generation_prompt=True), _USER)
        answered = _render(tokenizer, [user, {"role": "assistant", "content": _ASSISTANT}])
        closing = _ids(tokenizer, _split(answered, _ASSISTANT)[1].strip(), special=True)[:1]
        specials = tokenizer.added_tokens_decoder
        ends = [token for token in closing if token in specials and specials[token].special]
        end_of_turn = list(dict.fromkeys(ends + eos))  # each once, the template's first
        return cls(_ids(tokenizer, preamble, special=True), _ids(tokenizer, tail, special=True), end_of_turn, tokenizer)

    def encode(self, text: str) -> list[int]:
        """Ids of plain text: nothing added, and what looks like a special token is spelt out."""
        return _ids(self.tokenizer, text, special=False)

    def encode_lead(self) -> list[int]:
        """Ids of the words that every question begins with."""
        return self.encode(QUESTION)

    def encode_question(self, phrase: str) -> list[int]:
        """Ids of what follows `encode_lead` for one phrase, up to where the answer starts."""
        return self.encode(question(phrase)) + self.tail

    def encode_answer(self, text: str) -> list[int]:
        """Ids of an answer that is given, without its end."""
        return self.encode(text.strip())

    def said(self, text: str) -> str:
        """The answer in a generated text, up to where the answer ends."""
        return text.strip()

    def encode_with_ends(self, text: str) -> tuple[list[int], list[int]]:
        """The same ids, and the place in `text` where the characters of each end."""
        found = self.tokenizer(text, add_special_tokens=False, split_special_tokens=True, return_offsets_mapping=True)
        return list(found["input_ids"]), [end for _, end in found["offset_mapping"]]

    @property
    def preamble_without_bos(self) -> list[int]:
        """`preamble` without the beginning-of-sequence token, for models that have something else in its place."""
        return self.preamble[1:] if self.preamble[:1] == [self.tokenizer.bos_token_id] else self.preamble

    def prompt(self, text: list[int]) -> list[int]:
        """Ids of a user turn holding `text` (ids), up to where the answer starts."""
        return self.preamble + text + self.tail


class PlainText(ChatFormat):
    """Plain text without turns: the phrase stands behind the texts, and the answer continues it.

    The answer ends with its sentence or its line; in training a full stop follows it.
    """

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerBase) -> "PlainText":
        """The form for `tokenizer`; any will do."""
        plain, whole = _ids(tokenizer, "a", special=False), list(tokenizer("a")["input_ids"])
        preamble = whole[: whole.index(plain[0])]  # what the tokenizer itself puts before a text
        stops = [_ids(tokenizer, text, special=False) for text in (".", "\n", "\n\n")]
        eos = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
        ends = list(dict.fromkeys([*(ids[0] for ids in stops if len(ids) == 1), *eos]))
        return cls(preamble, [], ends, tokenizer)

    def encode_lead(self) -> list[int]:
        return []

    def encode_question(self, phrase: str) -> list[int]:
        return self.encode(continuation(phrase))

    def encode_answer(self, text: str) -> list[int]:
        """With the blank that stands between the phrase and its next word."""
        return self.encode(f" {text.strip()}" if text.strip() else "")

    def said(self, text: str) -> str:
        """Up to the first end of a sentence or of a line."""
        return _SENTENCE_END.split(text, maxsplit=1)[0].strip()


def _ids(tokenizer: PreTrainedTokenizerBase, text: str, special: bool) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False, split_special_tokens=not special)["input_ids"])


def _render(tokenizer: PreTrainedTokenizerBase, messages: list[dict[str, str]], **options: bool) -> str:
    # `enable_thinking` is for templates of reasoning models (Qwen3): the answer starts at once. Others ignore it.
    try:
        return tokenizer.apply_chat_template(messages, tokenize=False, enable_thinking=False, **options)
    except Exception as error:  # a template is a program of its own: it may raise anything
        raise BackboneError(
            f"the tokenizer's chat template fails on a user's message ({type(error).__name__}: {error}); use a "
            "backbone whose template takes turns of user and assistant"
        ) from error


def _split(rendered: str, sentinel: str) -> tuple[str, str]:
    before, *after = rendered.split(sentinel)
    if len(after) != 1:
        raise BackboneError(f"the tokenizer's chat template shows a message {len(after)} times, not once; it is unfit")
    return before, after[0]
