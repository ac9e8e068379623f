"""Look at what training draws in people's words: `gnm data instructions --sample 20`, `gnm data sequences FACTS`."""

import argparse
import random
from collections.abc import Sequence
from pathlib import Path

from gnm.data.counterfact import read_facts
from gnm.data.instructions import Split
from gnm.data.people.episodes import PeopleSettings, draw_people, index_facts
from gnm.data.people.fine_groups import load_fine_groups
from gnm.data.people.grammar import SLOTS, load_grammar, worded
from gnm.data.people.themes import load_themes
from gnm.data.segments import is_wanted, split_segments
from gnm.data.taxonomy import load_taxonomy
from gnm.errors import exit_on_error


def instructions(count: int, split: Split, seed: int) -> str:
    """`count` instructions of each kind about seen groups, themes and fine groups, with the kinds as headings."""
    rng, lines = random.Random(seed), []
    groups = [*load_taxonomy().seen, *load_themes(), *load_fine_groups()]
    for kind in SLOTS:
        families = (load_grammar().train if split == "train" else load_grammar().test)[kind]
        lines.append(f"{kind} ({', '.join(families)})")
        for _ in range(count):
            first, second = rng.sample(groups, 2)
            lines.append(f"  {worded(kind, (first,), (second,), split, rng)}")
    return "\n".join(lines)


def sequences(facts: Path, count: int, split: Split, seed: int) -> str:
    """`count` sequences of two documents: each document's clauses, a star where the instruction is about one, and the
    questions that follow with their answers."""
    known, lines = index_facts(read_facts(facts)), []
    for index in range(count):
        settings = PeopleSettings(eligible_formats="people")
        [(sequence, queries)] = draw_people(known, settings, split, seed, index, 2)
        for step, asked in zip(sequence.steps, queries, strict=True):
            lines.append(f"\n{step.target}: {step.instruction}")
            for part in split_segments(step.document):
                lines.append(f"  {'*' if is_wanted(part, step.wanted) else ' '} {part.rstrip()}")
            lines += [f"    {query.input} -> {query.formatted_target}" for query in asked]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print instructions or sequences."""
    parser = argparse.ArgumentParser(prog="gnm data", description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("instructions", "sequences"))
    parser.add_argument("facts", nargs="?", type=Path, help="for sequences: a file of the pipeline's first stage")
    parser.add_argument("--sample", type=int, default=5, help="so many, of each kind")
    parser.add_argument("--split", choices=("train", "test"), default="train", help="test: the held-out families")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    if (options.facts is None) == (options.what == "sequences"):
        parser.error("sequences need a file of facts, instructions take none")
    if options.sample < 1:
        parser.error(f"--sample: {options.sample} is no number of samples; give one from 1 on")
    with exit_on_error():
        if options.what == "instructions":
            print(instructions(options.sample, options.split, options.seed))
        else:
            print(sequences(options.facts, options.sample, options.split, options.seed))


if __name__ == "__main__":
    main()
