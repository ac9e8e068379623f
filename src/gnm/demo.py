"""One document, several instructions in a person's words: `python -m gnm.demo [--block B] [key=value ...]`.

For each instruction the document is written into an empty memory; printed are its lines with what was stored of them,
and the answers to a few questions, beside those of the same model with nothing written. The printed text is saved too.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from pydantic import Field

from gnm.api import load
from gnm.config import StrictModel
from gnm.conversation import Conversation
from gnm.files import write_text
from gnm.program import run_program
from gnm.shell import shaded


class DemoParams(StrictModel):
    """A model, a document, the instructions to write it under, and the questions to ask."""

    adapter: Path
    document: Annotated[str, Field(min_length=1)]
    instructions: Annotated[list[str], Field(min_length=1)]
    questions: Annotated[list[str], Field(min_length=1)]
    output: Path


def demo(conversation: Conversation, params: DemoParams) -> list[str]:
    """What is printed for each instruction, the answers with nothing written first."""
    known = conversation.ask_all(params.questions)
    parts = ["Nothing written:\n" + _answers(params.questions, known)]
    for instruction in params.instructions:
        conversation.write(params.document, instruction)
        [written] = conversation.documents
        said = _answers(params.questions, conversation.ask_all(params.questions))
        parts.append(f"{instruction}\n{shaded(written.segments)}\n{said}")
        conversation.undo()
    return parts


def _answers(questions: Sequence[str], answers: Sequence[str]) -> str:
    width = max(map(len, questions))
    return "\n".join(f"    {q:{width}s}  {a!r}" for q, a in zip(questions, answers, strict=True))


def show(params: DemoParams) -> None:
    """Print the demonstration part by part, and write it to `params.output`."""
    parts = demo(load(params.adapter), params)
    for part in parts:
        print(f"\n{part}", flush=True)
    write_text(params.output, "\n\n".join(parts) + "\n")


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the settings, show."""
    run_program("gnm.demo", __doc__, DemoParams, lambda params, _: show(params), arguments)


if __name__ == "__main__":
    main()
