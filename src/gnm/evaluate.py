"""Evaluate methods: `torchrun --nproc_per_node N -m gnm.evaluate --method NAME [--block B] [key=value ...]`.

- After each document of a sequence (or each `loop.ask_every`-th) the method answers all queries about it and about the
  earlier documents (`docs/protocol.md`, section 6). It answers each query once more with nothing written: this tells
  what comes from memory from what the backbone knows.
- Sequences are divided among processes, and their results gathered. The result of a sequence does not depend on the
  other sequences, except for rounding: in bfloat16 a few answers change with `loop.sequences_at_once`.
- One folder is written per method: records.parquet (one row per query), summary.json, counts.json, cost.json,
  run_config.json; with write gates also segments.parquet (one row per segment of a written text). An older folder is
  replaced as a whole.
"""

import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from tqdm import tqdm

from gnm.data.asking import asked, format_age
from gnm.data.documents import read_documents
from gnm.data.formats import recognise
from gnm.data.instructions import revoking_instruction
from gnm.data.refusals import is_refusal
from gnm.data.segments import is_wanted
from gnm.data.sequences import SequenceSettings, evaluation_sequences
from gnm.data.targets import COMPOSITION_TYPES, REFUSAL_TYPES, parse_target
from gnm.data.types import Episode, Query
from gnm.devices import pick_device
from gnm.errors import ConfigError
from gnm.extras import program_imports
from gnm.files import atomic_folder, write_json
from gnm.learners import Answer, Learner, Question, build_learner
from gnm.params import EvaluateParams
from gnm.provenance import provenance
from gnm.weights.backbones import load_backbone
from gnm.weights.pretrained import load_model

with program_imports(__name__):
    from gnm.metrics import summarise, write_summary
    from gnm.metrics.records import records_frame, write_records, write_segments
    from gnm.program import run_method

_TIMED_QUESTIONS = 5


def evaluate(params: EvaluateParams, method: str, command: str) -> Path:
    """Evaluate one method of `params` and write its folder under `params.output`; returns that folder.

    command: the command line of the run; it is recorded in run_config.json.
    Raises before the first write: ConfigError if `params` have no such method or it cannot do what `loop.forget` asks,
    DataError for documents that are wrong or too few, CheckpointError or BackboneError if adapter or backbone cannot
    be loaded, MemoryFileError for a document that is too long for the method.
    """
    started, learner_settings = time.time(), params.method(method)
    documents, sequence_settings = read_documents_of(params.data), params.sequences()
    seeds = [seed for seed in params.seeds for _ in range(params.loop.sequences)]
    sequences = [
        sequence
        for seed in params.seeds
        for sequence in evaluation_sequences(documents, sequence_settings, params.loop.sequences, seed)
    ]
    device = pick_device(params.backbone.device, params.distributed.cuda_visible_devices)
    processes = PartialState(cpu=device.type == "cpu")
    origin = provenance(processes.device)
    backbone = load_backbone(**params.backbone_of(method), device=processes.device)
    adapter = None
    if learner_settings.adapter:
        adapter, backbone = load_model(learner_settings.adapter, backbone)
    learner = build_learner(learner_settings, backbone).eval()
    if params.loop.forget == "document" and not learner.can_forget:
        raise ConfigError(f"loop.forget: {learner_settings.method} cannot take back a single document; leave it out")
    steps = [step for sequence in sequences for step in sequence.steps]
    learner.check([step.document for step in steps], [step.instruction for step in steps])

    own = list(enumerate(sequences))[processes.process_index :: processes.num_processes]
    rows, costs, segments = [], [], []
    known: dict[Question, Answer] = {}
    bar = tqdm(total=len(own), desc=method, disable=not processes.is_main_process, mininterval=5)
    for start in range(0, len(own), params.loop.sequences_at_once):
        batch = own[start : start + params.loop.sequences_at_once]
        found = run_sequences(learner, batch, params, known)
        rows, costs, segments = rows + found[0], costs + found[1], segments + found[2]
        bar.update(len(batch))
    bar.close()
    rows, costs, segments = gather_object(rows), gather_object(costs), gather_object(segments)

    folder = params.output / method
    if processes.is_main_process:
        records = records_frame(row | {"seed": seeds[row["sequence"]]} for row in rows)
        made = {"command": command, "seconds": round(time.time() - started), **origin}
        config = params.model_dump(mode="json", exclude={"methods"}) | {
            "method": method,
            "learner": learner_settings.model_dump(mode="json"),
            "backbone_digest": backbone.config_digest,
            "adapter": adapter,
            "made": made | {"processes": processes.num_processes},
        }
        with atomic_folder(folder) as new:
            write_records(new / "records.parquet", records)
            if segments:
                write_segments(new / "segments.parquet", segments)
            write_summary(new, summarise(records, sequence_length=params.loop.sequence_length))
            write_json(new / "cost.json", _mean_cost(costs))
            write_json(new / "run_config.json", config)
    processes.wait_for_everyone()
    return folder


def read_documents_of(paths: Sequence[Path]) -> list:
    """The documents of all files, in order."""
    return [document for path in paths for document in read_documents(path)]


@torch.no_grad()
def run_sequences(
    learner: Learner,
    batch: Sequence[tuple[int, Episode]],
    params: EvaluateParams,
    known: dict[Question, Answer],
) -> tuple[list[dict], list[dict], list[dict]]:
    """Write the documents of a batch of (index, sequence), and ask after each. All sequences are equally long.

    Returns three lists of rows: records (one per query and document), costs (one per document and sequence, and the
    timed questions at the end), segments (one per segment of a written text).
    known: answers with nothing written, by question. The function adds those that are missing for this batch.
    """
    settings, loop = params.sequences(), params.loop
    state = learner.reset([index for index, _ in batch])
    rows, costs, segments = [], [], []
    unwritten = []  # for each of `rows`, the question that is asked with nothing written
    length = len(batch[0][1].steps)
    for t in range(length):
        steps = [sequence.steps[t] for _, sequence in batch]
        started = time.perf_counter()
        state = learner.write(state, [s.document for s in steps], [s.instruction for s in steps])
        write_seconds = (time.perf_counter() - started) / len(batch)
        queries = [asked(sequence, t, settings) for _, sequence in batch]
        questions = [[Question.of(query) for _, query in row] for row in queries]
        asks = (t + 1) % loop.ask_every == 0 or t == length - 1
        answers = learner.answer(state, questions, loop.max_new_tokens) if asks else [[] for _ in batch]
        for row, (index, sequence) in enumerate(batch):
            cost = learner.cost(state, row, questions[row][0])
            costs.append({"t": t, "kept": cost.kept, "bytes": cost.bytes, "query_flops": cost.query_flops})
            costs[-1]["write_seconds"] = write_seconds
            segments += [
                {"sequence": index, "t": t, **asdict(each), "wanted": is_wanted(each.text, steps[row].wanted or ())}
                for each in learner.segments(state, row, steps[row].document, steps[row].instruction)
            ]
            for (q, query), answer in zip(queries[row] if asks else [], answers[row], strict=True):
                rows.append(record((index, sequence), q, t, query, answer, cost.query_flops, settings))
                unwritten.append(Question(query.input, query.true_output, query.false_output))
    if loop.forget:  # all is asked once more, at t = length
        state = _forget(learner, state, batch, params)
        answers = learner.answer(state, questions, loop.max_new_tokens)
        by_words = loop.forget == "instruction"
        for row, (index, sequence) in enumerate(batch):
            target = parse_target(sequence.steps[0].target)
            for (q, query), answer in zip(queries[row], answers[row], strict=True):
                flops = learner.cost(state, row, Question.of(query)).query_flops
                # the instruction also takes back what later documents taught of the first one's target
                revoked = by_words and query.learn and target.learns(query.category, query.subcategory)
                kind = "forgotten" if q == 0 or revoked else "remaining"
                rows.append(record((index, sequence), q, length, query, answer, flops, settings) | {kind: True})
                unwritten.append(Question(query.input, query.true_output, query.false_output))
    _answer_unwritten(learner, rows, unwritten, known, loop.max_new_tokens)
    for seconds in _query_seconds(learner, state, questions, loop.max_new_tokens):
        costs.append({"t": length - 1, "query_seconds": seconds})
    return rows, costs, segments


def _answer_unwritten(
    learner: Learner, rows: list[dict], questions: list[Question], known: dict[Question, Answer], max_new_tokens: int
) -> None:
    """Add to each of `rows` what the learner answers with nothing written.

    questions: one for each row, with the true object as target and the document's false one as the other.
    known: as in `run_sequences`.
    """
    fresh = list(dict.fromkeys(question for question in questions if question not in known))
    answers = learner.answer(learner.reset([0]), [fresh], max_new_tokens)[0]
    known.update(zip(fresh, answers, strict=True))
    for row, question in zip(rows, questions, strict=True):
        answer = known[question]
        row["known_fact_correct"] = answer.target_score > answer.other_score
        row["known_generated"] = answer.text


def _forget(learner: Learner, state, batch: Sequence[tuple[int, Episode]], params: EvaluateParams):
    """The state without the first document; or after one more instruction, which takes back what the first
    instruction asked to learn (`loop.forget`)."""
    if params.loop.forget == "document":
        return learner.forget(state, 0)
    return learner.revoke(state, [revoking_instruction(each.steps[0].target, "test") for _, each in batch])


def record(
    sequence: tuple[int, Episode], q: int, t: int, query: Query, answer: Answer, flops: float,
    settings: SequenceSettings,
) -> dict:  # fmt: skip
    """One row of records.parquet: the answer after document `t` to a query about document `q`.

    sequence: its index and its documents. flops: FLOPs of reading the query.
    A verdict is None where it makes no sense: on facts where a refusal is expected, on formats or refusals where
    `settings` draw none.
    """
    index, episode = sequence
    refusals = bool(set(settings.target_types) & {*REFUSAL_TYPES, *COMPOSITION_TYPES})
    wrapping = recognise(answer.text)  # the format of the answer, and where its content begins
    fact = not query.should_refuse
    return {
        "sequence": index,
        "q": q,
        "t": t,
        "fact_id": query.fact_id,
        "type": query.type,
        "subcategory": query.subcategory,
        "learn": query.learn,
        "refuse": query.refuse,
        "should_refuse": query.should_refuse,
        "neighbor_of_should_refuse": query.neighbor_of_should_refuse,
        "composition": episode.steps[q].target_type in COMPOSITION_TYPES,
        "unlearning": episode.unlearning and t == len(episode.steps) - 1,
        "forgotten": False,
        "remaining": False,
        "input": query.input,
        "target_output": query.target_output,
        "non_target_output": query.non_target_output,
        "generated": answer.text,
        "logit_target": answer.target_score,
        "logit_non_target": answer.other_score,
        "fact_correct": answer.target_score > answer.other_score if fact else None,
        "generated_correct": query.target_output.casefold() in answer.text.casefold() if fact else None,
        "format_expected": query.format,
        "format_correct": wrapping.format == query.format if settings.sets_format else None,
        "format_age": format_age(episode, t) if query.format else None,
        "refused": is_refusal(answer.text[wrapping.offset :]) if refusals else None,
        "nll": answer.nll,
        "num_answer_tokens": answer.tokens,
        "flops_per_token": flops,
    }


def _query_seconds(learner: Learner, state, questions, max_new_tokens: int) -> list[float]:
    """Seconds to answer one question, measured _TIMED_QUESTIONS times: the time of a batch divided by its sequences."""
    seconds = []
    for number in range(_TIMED_QUESTIONS):
        # the number in front makes each question a new one
        fresh = [[replace(row[0], phrase=f"({number}) {row[0].phrase}")] for row in questions]
        started = time.perf_counter()
        learner.answer(state, fresh, max_new_tokens)
        seconds.append((time.perf_counter() - started) / len(fresh))
    return seconds


def _mean_cost(costs: Sequence[dict]) -> dict[str, list[float | None]]:
    """Means over sequences, one for each t: tokens or slots kept, their bytes, FLOPs and seconds of a query, seconds of
    a write. None where nothing was measured."""
    length = max(cost["t"] for cost in costs) + 1
    table = {}
    for name in ("kept", "bytes", "query_flops", "query_seconds", "write_seconds"):
        values = [[cost[name] for cost in costs if cost["t"] == t and name in cost] for t in range(length)]
        table[name] = [sum(some) / len(some) if some else None for some in values]
    return table


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the settings, check them, evaluate one method."""
    run_method("gnm.evaluate", __doc__, EvaluateParams, evaluate, arguments)


if __name__ == "__main__":
    main()
