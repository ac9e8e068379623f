"""A long stream, written once and read in several ways: `python benchmarks/long_stream.py`.

- Pool and store of experiments/small_long. Read is the pool alone (what is evicted is lost), the pool with the k
  segments that a question finds or with as many at random, or with the whole store (nothing is ever lost).
- Printed: the share of learned facts, asked about at the end, that are answered as the document states, by the contest
  and as said, with 95 % intervals over documents; of those that had left the pool by then, the same, and how many have
  their line among what was read; and what a write and a question cost on the way.
"""

import argparse
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from gnm.config import load_params
from gnm.data.segments import is_wanted
from gnm.data.sequences import evaluation_sequences
from gnm.data.types import PARAPHRASE, Query, Step
from gnm.evaluate import read_documents_of
from gnm.learners import Question, build_learner
from gnm.learners.long_term import LongTermLearner
from gnm.learners.memory import gated_parts
from gnm.metrics import bootstrap_mean
from gnm.models.projected import Memory
from gnm.params import EvaluateParams
from gnm.weights.backbones import load_backbone
from gnm.weights.pretrained import load_model

FOLDER = Path(__file__).resolve().parents[1] / "experiments" / "small_long"
METHOD = "generalist_store"


@dataclass(frozen=True)
class Asked:
    """A question about a learned fact of document `document`, and the place of the segment that states it."""

    document: int
    question: Question
    segment: int | None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sequences", type=int, default=2)
    parser.add_argument("--documents", type=int, default=50)
    parser.add_argument("--per-document", type=int, default=1, help="learned facts of a document that are asked about")
    parser.add_argument("--k", type=int, nargs="+", default=[8], help="segments that a question reads")
    parser.add_argument("--random", action="store_true", help="read as many segments at random too")
    options = parser.parse_args()
    overrides = [f"loop.sequence_length={options.documents}"]
    params = load_params(FOLDER / "params.yaml", EvaluateParams, overrides, "evaluate")
    documents = read_documents_of([FOLDER / path for path in params.data])
    sequences = evaluation_sequences(documents, params.sequences(), options.sequences, seed=params.seeds[0])
    settings = params.method(METHOD)
    _, backbone = load_model(FOLDER / settings.adapter, load_backbone(**params.backbone_of(METHOD)))
    ways = {"pool": None, **{f"k={k}": {"k": k} for k in options.k}}
    if options.random:
        ways |= {f"k={k} random": {"k": k, "by": "random"} for k in options.k}
    ways["all"] = {"k": 10**6}
    learners = {}
    for name, changed in ways.items():
        store = settings.memory.store.model_copy(update=changed or {})
        memory = settings.memory.model_copy(update={"store": store})
        learners[name] = build_learner(settings.model_copy(update={"memory": memory}), backbone).eval()
    rows = {name: [] for name in ways}
    for number, sequence in enumerate(sequences):
        state = written(learners["all"], number, sequence.steps)
        asked = [each for q, step in enumerate(sequence.steps) for each in learned(step, q)[: options.per_document]]
        for name, learner in learners.items():
            read(name, learner, state, asked, number, rows[name], params.loop.max_new_tokens)
            show(name, rows[name])


@torch.no_grad()
def written(learner: LongTermLearner, seed: int, steps: tuple[Step, ...]) -> Memory:
    """The memory after all of `steps`; tells what writes cost on the way."""
    state, spent = learner.reset([seed]), []
    for place, step in enumerate(steps):
        started = time.process_time()
        state = learner.write(state, [step.document], [step.instruction])
        spent.append(time.process_time() - started)
        if (place + 1) % 10 == 0:
            store, pool = state.state.store[0], int(state.state.used())
            print(
                f"sequence {seed}, {place + 1} documents: pool {pool} slots, store {len(store)} segments of "
                f"{int(store.lengths.sum())} slots, {store.bytes / 1e6:.1f} MB; CPU seconds a write "
                f"{np.median(spent[-10:]):.2f}",
                flush=True,
            )
    return state


def learned(step: Step, document: int) -> list[Asked]:
    """Questions about the facts of a document that it teaches, one a fact."""
    facts: dict[int, Query] = {}
    for query in step.queries:
        if query.learn and query.type == PARAPHRASE:
            facts.setdefault(query.fact_id, query)
    parts = gated_parts(step.document, step.instruction, "instruction_first")
    found = []
    for query in facts.values():
        stating = [
            place for place, (text, of_document) in enumerate(parts)
            if of_document and query.target_output in text and is_wanted(text, step.wanted or ())
        ]  # fmt: skip
        found.append(Asked(document, Question.of(query), stating[0] if len(stating) == 1 else None))
    return found


@torch.no_grad()
def read(name: str, learner: LongTermLearner, state: Memory, asked: list[Asked], seed: int, rows: list, most: int):
    """Add to `rows` a row for each of `asked`: what was answered, and whether its segment was read."""
    own = state
    if name == "pool":
        store = state.state.store[0]
        none = replace(state.state, store=(store.select(store.source < 0),))
        own = replace(state, state=none)
    questions = [each.question for each in asked]
    found = learner.find(own, [[question.phrase for question in questions]])[0]
    started = time.process_time()
    answers = learner.answer(own, [questions], most)[0]
    seconds = (time.process_time() - started) / len(questions)
    store = state.state.store[0]
    places = {pair: place for place, pair in enumerate(zip(store.source.tolist(), store.segment.tolist(), strict=True))}
    for each, answer, which in zip(asked, answers, found, strict=True):
        place = places.get((each.document, each.segment))
        rows.append(
            {
                "document": seed * 10_000 + each.document,
                "right": answer.target_score > answer.other_score,
                "said": each.question.target.casefold() in answer.text.casefold(),
                "gone": each.document not in state.state.source,
                "found": None if place is None else place in which,
                "seconds": seconds,
                "flops": learner.cost(own, 0, each.question).query_flops,
            }
        )


def show(name: str, rows: list[dict]) -> None:
    """Print what the rows of one way of reading say so far."""
    gone = [row for row in rows if row["gone"]]
    sought = [row for row in gone if row["found"] is not None]
    parts = [f"{key} {mean(rows, key)}, left the pool {mean(gone, key)}" for key in ("right", "said")]
    parts.append(f"line found {mean(sought, 'found')}")
    cost = (np.mean([row[key] for row in rows]) for key in ("seconds", "flops"))
    print(f"{name:12s} {'; '.join(parts)}; {next(cost):.2f} CPU s, {next(cost) / 1e9:.2f} GFLOP a question", flush=True)


def mean(rows: list[dict], key: str) -> str:
    """The mean of a column in percent with its interval and count."""
    if not rows:
        return "-"
    values = np.array([row[key] for row in rows], dtype=float)
    value, low, high = bootstrap_mean(values, np.array([row["document"] for row in rows]))
    return f"{100 * value:.1f} [{100 * low:.1f}, {100 * high:.1f}] of {len(rows)}"


if __name__ == "__main__":
    main()
