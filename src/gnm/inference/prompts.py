"""The words around documents and questions, the same for every method.

A conversation is one user turn: preamble (BOS, system turn, start of the user's turn) · one block for each document
with its instruction · the question · tail (end of the turn, start of the answer). Each part is tokenised by itself, so
that what was written and what is asked later meet at the same token boundaries whatever the method.
"""

from typing import Literal

Order = Literal["instruction_first", "document_first"]

QUESTION = "Which single word most correctly continues the phrase below? Reply with that word only.\nPhrase:"
_INSTRUCTION, _DOCUMENT = "Instruction: {}\n", "Document:\n"


def opening(instruction: str) -> str:
    """The text before a document whose instruction comes first."""
    return f"{_INSTRUCTION.format(instruction.strip())}{_DOCUMENT}"


def block_parts(document: str, instruction: str, order: Order) -> list[tuple[str, bool]]:
    """A document and its instruction in the given order, as pairs: a text, and whether it is part of the document.

    An empty document leaves the instruction alone.
    """
    instructed, text = _INSTRUCTION.format(instruction.strip()), document.strip()
    if not text:
        return [(f"{instructed}\n", False)]
    if order == "instruction_first":
        return [(f"{instructed}{_DOCUMENT}", False), (f"{text}\n\n", True)]
    return [(_DOCUMENT, False), (f"{text}\n", True), (f"{instructed}\n", False)]


def block(document: str, instruction: str, order: Order) -> str:
    """A document and its instruction in the given order, as one text."""
    return "".join(text for text, _ in block_parts(document, instruction, order))


def question(phrase: str) -> str:
    """What follows QUESTION for one phrase. A real question becomes a phrase too, which its answer continues."""
    return f" {continuation(phrase)}"


def continuation(phrase: str) -> str:
    """The phrase itself, to be continued without any words around it; a real question with "Answer:" after it."""
    phrase = phrase.strip()
    return f"Question: {phrase} Answer:" if phrase.endswith(("?", "？", "؟")) else phrase


NOTE_REQUEST = "Write down, in short sentences, only what the instruction tells you to memorize from this document."


def note(text: str) -> str:
    """The text of one note in the context."""
    return f"Note:\n{text.strip()}\n\n"
