"""Text notes: the backbone itself writes notes on each document as its instruction says; the notes go in context."""

from collections.abc import Sequence

from gnm.inference.prompts import NOTE_REQUEST, block, note
from gnm.inference.reader import Reader
from gnm.learners.in_context import InContextLearner
from gnm.models.prefix import Prefix


class TextNotesLearner(InContextLearner):
    """A memory in words, written by the untrained backbone; one note of at most `max_note_tokens` per document.

    `reader` asks the questions; `writer`, in chat form, asks for the notes.
    """

    def __init__(self, reader: Reader, writer: Reader, max_note_tokens: int):
        super().__init__(reader, order="instruction_first")
        self.writer, self.max_note_tokens = writer, max_note_tokens

    def write(self, state: Prefix, documents: Sequence[str], instructions: Sequence[str]) -> Prefix:
        notes = self.notes(documents, instructions)
        text = self.reader.encode([note(text) for text in notes])
        return self.decoder.extend(state, text.ids, text.mask)

    def notes(self, documents: Sequence[str], instructions: Sequence[str]) -> list[str]:
        """The notes that the backbone takes on each document, read on its own."""
        requests = [block(d, i, self.order) + NOTE_REQUEST for d, i in zip(documents, instructions, strict=True)]
        return self.writer.complete(self.writer.preamble(len(requests)), requests, self.max_note_tokens)
