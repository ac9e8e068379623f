"""A part of the memory analysis: `python -m gnm.analysis.memory_report --part P [--block B] [key=value ...]`.

Written: the figure (PNG, SVG), its numbers (CSV), and what they say in sentences (Markdown).
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from pydantic import Field

from gnm.analysis.drawing import save_with_table
from gnm.analysis.memory import PARTS, draw_part
from gnm.analysis.memory_saved import methods_in
from gnm.analysis.memory_sentences import against_band, difference, levels, most_lost, where_it_acts, without_swap
from gnm.config import StrictModel, add_params_arguments, load_params
from gnm.errors import exit_on_error
from gnm.files import write_text


class MemoryReportParams(StrictModel):
    """Which analysis to show. compared: two methods, the first of which is said to be above the second."""

    evaluations: Path
    title: str
    compared: tuple[str, str]
    published_band: tuple[float, float] = Field(description="where the paper's instruction acts, of the depth")
    output: Path = Field(description="figures and tables: OUTPUT_PART and a suffix")


def sentences(params: MemoryReportParams, part: str) -> list[str]:
    """What one of PARTS says. Raises DataError if it is not there."""
    folder = params.evaluations
    match part:
        case "instruction_change":
            texts = [where_it_acts(folder)]
            if set(params.compared) <= set(methods_in(folder)):
                texts.append(difference(folder, params.compared))
            if set(params.compared) & set(methods_in(folder)):
                texts.append(against_band(folder, params.published_band, params.compared))
            return texts
        case "layer_swap":
            lost = [most_lost(folder, f"{name}_margin", f"{name.capitalize()}'s margin in logits,")
                    for name in ("selectivity", "accuracy")]  # fmt: skip
            return [without_swap(folder), *lost]
        case "selectivity_index":
            return [levels(folder, "selectivity_index_paired", "By which the instruction moves the slots")]
        case "compressibility":
            return [levels(folder, part, "Variance in the first singular values, %", 100)]
    return [levels(folder, part, "Cosine between a fact's slots in different documents")]


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the settings, draw and tell one part."""
    parser = argparse.ArgumentParser(prog="python -m gnm.analysis.memory_report", description=__doc__.splitlines()[0])
    parser.add_argument("--part", required=True, choices=tuple(PARTS), help="what to draw")
    add_params_arguments(parser)
    options = parser.parse_intermixed_args(arguments)
    with exit_on_error():
        params = load_params(options.params, MemoryReportParams, options.overrides, options.block)
        figure, frame = draw_part(params.evaluations, options.part, params.title)
        said = "\n".join(f"- {sentence}" for sentence in sentences(params, options.part)) + "\n"
        output = params.output.with_name(f"{params.output.name}_{options.part}")
        save_with_table(figure, frame, output)
        write_text(Path(f"{output}.md"), said)
        print(said)


if __name__ == "__main__":
    main()
