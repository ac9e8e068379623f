"""One document under several instructions, shaded by its gates: `python -m gnm.probing.what_was_learned`."""

import textwrap
from collections.abc import Sequence
from pathlib import Path

from pydantic import Field

from gnm.api import load
from gnm.config import StrictModel
from gnm.errors import CheckpointError
from gnm.extras import program_imports
from gnm.memory.written import Segment

with program_imports(__name__):
    from matplotlib.figure import Figure

    from gnm.analysis.style import BLUE, save_figure, style
    from gnm.program import run_program

_LINE = 0.24  # inches
_TITLE = 60  # characters


class WhatWasLearnedParams(StrictModel):
    """A model with gates, a document, and the instructions to write it under."""

    adapter: Path
    document: str = Field(min_length=1)
    instructions: list[str] = Field(min_length=1)
    output: Path = Field(description="figure, without its suffix")


def decisions(params: WhatWasLearnedParams) -> dict[str, tuple[Segment, ...]]:
    """What the gates decide on the document, by instruction. Raises CheckpointError if the model has none."""
    conversation = load(params.adapter)
    found = {}
    for instruction in params.instructions:
        conversation.write(params.document, instruction)
        found[instruction] = tuple(each for each in conversation.documents[-1].segments if each.of_document)
        conversation.undo()
        if not found[instruction]:
            raise CheckpointError(f"{params.adapter} has no write gates; give a model that was trained with them")
    return found


def shaded(found: dict[str, tuple[Segment, ...]]) -> Figure:
    """A panel an instruction: the document's segments on a ground as dark as their gates, what is stored in bold."""
    lines = max(map(len, found.values())) + 2
    with style():
        figure = Figure(figsize=(9.6, _LINE * lines * ((len(found) + 1) // 2) + 0.3), layout="constrained")
        panels = figure.subplots((len(found) + 1) // 2, min(2, len(found)), squeeze=False).flatten()
        for axes in panels:
            axes.set_axis_off()
        for axes, (instruction, segments) in zip(panels, found.items(), strict=False):
            axes.set_title(textwrap.fill(instruction, _TITLE), loc="left", fontsize=8.5)
            axes.set_ylim(len(segments), 0)
            axes.set_xlim(0, 1)
            for row, each in enumerate(segments):
                axes.axhspan(row + 0.04, row + 0.96, color=BLUE, alpha=0.6 * each.strength, linewidth=0)
                axes.text(0.01, row + 0.5, f"{each.strength:4.0%}", va="center", fontsize=8, color="#222222")
                weight = "bold" if each.stored else "normal"
                axes.text(0.1, row + 0.5, each.text.strip(), va="center", fontsize=8, weight=weight)
    return figure


def draw(params: WhatWasLearnedParams) -> list[Path]:
    """Save the figure; returns its files."""
    return save_figure(shaded(decisions(params)), params.output)


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the settings, draw."""
    program = "gnm.probing.what_was_learned"
    run_program(program, __doc__, WhatWasLearnedParams, lambda params, _: print(*draw(params), sep="\n"), arguments)


if __name__ == "__main__":
    main()
