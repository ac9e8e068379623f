"""What a question costs after twenty documents, by method, in one run: `python benchmarks/query_cost.py`.

- The same sequences and questions for each method of small_gates; one question at a time, methods in turn, so that all
  see the machine in the same state. The prefix (memory, or cached context) is there before the clock starts.
- Printed: what is kept, its megabytes, GFLOP and median ms a query.
"""

import argparse
import statistics
import time
from dataclasses import replace
from pathlib import Path

import torch

from gnm.config import load_params
from gnm.data.asking import asked
from gnm.data.sequences import evaluation_sequences
from gnm.evaluate import read_documents_of
from gnm.learners import Question, build_learner
from gnm.params import EvaluateParams
from gnm.weights.backbones import load_backbone
from gnm.weights.pretrained import load_model

FOLDER = Path(__file__).resolve().parents[1] / "experiments" / "small_gates"
METHODS = ("generalist_weakest", "generalist_all")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sequences", type=int, default=3)
    parser.add_argument("--questions", type=int, default=15, help="timed in each sequence")
    options = parser.parse_args()
    params = load_params(FOLDER / "params.yaml", EvaluateParams, [], "evaluate_20")
    documents = read_documents_of([FOLDER / path for path in params.data])
    sequences = evaluation_sequences(documents, params.sequences(), options.sequences, seed=1)
    learners, seconds, kept = {}, {name: [] for name in METHODS}, {name: [] for name in METHODS}
    for name in METHODS:
        settings = params.method(name)
        _, backbone = load_model(FOLDER / settings.adapter, load_backbone(**params.backbone_of(name)))
        learners[name] = build_learner(settings, backbone).eval()
    for number, sequence in enumerate(sequences):
        questions = [Question.of(query) for _, query in asked(sequence, len(sequence.steps) - 1, params.sequences())]
        states = {}
        for name, learner in learners.items():
            states[name] = learner.reset([number])
            for step in sequence.steps:
                states[name] = learner.write(states[name], [step.document], [step.instruction])
            kept[name].append(learner.cost(states[name], 0, questions[0]))
        for question in questions[: options.questions + 1]:
            for name, learner in learners.items():
                fresh = replace(question, phrase=f"({len(seconds[name])}) {question.phrase}")
                seconds[name].append(timed(learner, states[name], fresh, params.loop.max_new_tokens))
    print(f"{'':26s}{'kept':>8s}{'MB':>8s}{'GFLOP/query':>13s}{'ms/query':>10s}")
    for name in METHODS:
        costs = kept[name]
        tokens, size, work = (
            statistics.mean(getattr(cost, part) for cost in costs) for part in ("kept", "bytes", "query_flops")
        )
        milliseconds = 1e3 * statistics.median(seconds[name])
        print(f"{name:26s}{tokens:8.0f}{size / 1e6:8.1f}{work / 1e9:13.2f}{milliseconds:10.0f}")


@torch.no_grad()
def timed(learner, state, question: Question, max_new_tokens: int) -> float:
    """Seconds to answer one question."""
    started = time.perf_counter()
    learner.answer(state, [[question]], max_new_tokens)
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
