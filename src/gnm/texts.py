"""What is given as text is text: a `str` with something in it, of whole characters."""

import re
from collections.abc import Iterable
from typing import Any

from gnm.errors import DataError

_SURROGATE = re.compile("[\ud800-\udfff]")
_WORD = re.compile(r"[^\W\d_]+")
_PLACES = re.compile(
    "forget|drop|delete|remove|undo|please|sorry|wrong|mistake|what|was|written|wrote|said|in|by|of|the|a|my|i|you|and|"
    "documents?|doc|texts?|messages?|number|no|nr|it|this|that|these|those|them|first|second|third|fourth|fifth|last|"
    "latest|newest|oldest|previous|one|two|three|four|five|six|seven|eight|nine|ten"
)
"""Words that name a document by its number or place, and nothing that it is about."""


def check_text(text: Any, name: str, remedy: str | None) -> None:
    """Raise DataError if `text` is no `str`, is blank, or holds half a surrogate pair.

    Bytes that are no UTF-8 become such halves in a program's arguments. name: what it is, for the message; remedy: what
    to do if it is blank, None if it may be.
    """
    if not isinstance(text, str):
        raise DataError(f"the {name} is of type {type(text).__name__}, not text; give a str")
    if remedy and not text.strip():
        raise DataError(f"the {name} is empty; {remedy}")
    if broken := _SURROGATE.search(text):
        raise DataError(
            f"the {name} holds a byte that is no UTF-8 ({ascii(broken.group())}, character {broken.start() + 1}); give "
            "it as UTF-8 text"
        )


def checked_texts(texts: Any, name: str, remedy: str) -> list[str]:
    """`texts` as a list, which an iterator is only once. Raises DataError if it is one text or no collection, or if one
    of the texts is none or blank (`check_text`). name: what one of them is."""
    if isinstance(texts, str):
        raise DataError(f"the {name}s are one text, not several; give a list of texts")
    if not isinstance(texts, Iterable):
        raise DataError(f"the {name}s are of type {type(texts).__name__}, not texts; give a list of str")
    found = list(texts)
    for text in found:
        check_text(text, name, remedy)
    return found


def check_subject(instruction: str) -> None:
    """Raise DataError if an instruction that takes something back does not say what that is about ("-1", "Forget
    document 2", "the last one"), or tells to keep all: every stored clause can be taken for it."""
    check_text(instruction, "instruction", "say what is to be forgotten")
    subject = {word for word in _WORD.findall(instruction.casefold()) if not _PLACES.fullmatch(word)}
    if not subject or "keep" in subject and subject <= {"keep", "all", "everything"}:
        raise DataError(
            f"the instruction {instruction[:60]!r} does not say what is to be forgotten; name what it is about, as in "
            "'Forget what you learned about companies', or forget a document by its number, as "
            "`gnm inspect` shows it (0, 1, ...)"
        )
