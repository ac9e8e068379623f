"""Evaluate methods in people's words: `python -m gnm.evaluate_people --method NAME [--block B] [key=value ...]`.

- Each probe is written into a memory of its own; its questions are asked after the last step, and once more of the same
  method with nothing written.
- Per question two verdicts: the contest (the right object's first differing token is likelier than the wrong one's, and
  than an outdated one's) and what is said (the answer contains the right object, or is a refusal).
- Written per method: records.parquet (a row a question), figures.csv, run_config.json.
"""

import time
from collections.abc import Sequence
from pathlib import Path

import torch
from tqdm import tqdm

from gnm.data.formats import apply_format, recognise
from gnm.data.people.written import read_written
from gnm.data.people.written_probes import probes_of
from gnm.data.probes import Probe, ProbeQuery, read_probes
from gnm.data.refusals import is_refusal
from gnm.data.types import REFUSAL_ANSWER
from gnm.devices import pick_device
from gnm.extras import program_imports
from gnm.files import atomic_folder, write_json
from gnm.learners import Answer, Learner, Question, build_learner
from gnm.params import PeopleParams
from gnm.provenance import provenance
from gnm.weights.backbones import load_backbone
from gnm.weights.pretrained import load_model

with program_imports(__name__):
    import pandas as pd

    from gnm.metrics.people import people_figures
    from gnm.metrics.records import write_table
    from gnm.program import run_method


def evaluate_people(params: PeopleParams, method: str, command: str) -> Path:
    """Evaluate one method of `params` and write its folder under `params.output`; returns that folder.

    Raises ConfigError if `params` have no such method; DataError, CheckpointError, BackboneError before any work.
    """
    started, settings = time.time(), params.method(method)
    probes = read_probes(params.probes) if params.probes else probes_of(read_written(params.written))
    device = pick_device(params.backbone.device, params.distributed.cuda_visible_devices)
    backbone, adapter = load_backbone(**params.backbone_of(method), device=device), None
    if settings.adapter:
        adapter, backbone = load_model(settings.adapter, backbone)
    learner = build_learner(settings, backbone).eval()
    for probe in probes:
        for document, instruction in probe.steps:
            learner.check([document], [instruction])
    rows: list[dict] = []
    for number, probe in enumerate(tqdm(probes, desc=method, mininterval=5)):
        rows += run_probe(learner, probe, number, params.max_new_tokens)
    records = pd.DataFrame(rows)
    folder = params.output / method
    with atomic_folder(folder) as new:
        write_table(new / "records.parquet", records)
        people_figures(records).to_csv(new / "figures.csv", index=False)
        made = {"command": command, "seconds": round(time.time() - started), **provenance(device)}
        write_json(
            new / "run_config.json",
            params.model_dump(mode="json", exclude={"methods"})
            | {"method": method, "learner": settings.model_dump(mode="json"), "adapter": adapter, "made": made},
        )
    return folder


@torch.no_grad()
def run_probe(learner: Learner, probe: Probe, number: int, max_new_tokens: int) -> list[dict]:
    """Write a probe and ask its queries; one row each. number: the probe's, which seeds its memory."""
    nothing = state = learner.reset([number])
    for document, instruction in probe.steps:
        written = bool(document.strip())
        state = learner.write(state, [document], [instruction]) if written else learner.revoke(state, [instruction])
    asked = [question for query in probe.queries for question in _questions(query, query.format)]
    plain = [question for query in probe.queries for question in _questions(query, None)]
    answers = iter(learner.answer(state, [asked], max_new_tokens)[0])
    known = iter(learner.answer(nothing, [plain], max_new_tokens)[0])
    rows = []
    for query in probe.queries:
        number_of = len(_questions(query, None))
        own, before = ([next(side) for _ in range(number_of)] for side in (answers, known))
        rows.append(_row(probe, query, own, before))
    return rows


def _questions(query: ProbeQuery, format: str | None) -> list[Question]:
    """The query beside each of its wrong objects; beside nothing if there is none, or if it is to be refused."""
    if query.expect == "refused":
        return [Question(query.text, REFUSAL_ANSWER, "", apply_format(REFUSAL_ANSWER, format) if format else None)]
    said = apply_format(query.right, format) if format else None
    return [Question(query.text, query.right, wrong, said) for wrong in query.wrong or ("",)]


def _row(probe: Probe, query: ProbeQuery, answers: Sequence[Answer], known: Sequence[Answer]) -> dict:
    """One row of records.parquet. known_*: the same with nothing written, whatever the format asked for."""
    text = answers[0].text
    found = recognise(text)
    content = text[found.offset :]
    refused, refusal = is_refusal(content), query.expect == "refused"
    return {
        "probe": probe.id,
        "kind": probe.kind,
        "document_style": probe.document_style,
        "form": query.form,
        "expect": query.expect,
        "text": query.text,
        "learn": query.learn,
        "true": query.true,
        "rival": query.rival,
        "generated": text,
        "contest": None if refusal else _wins(answers),
        "said": refused if refusal else not refused and _contains(content, query.right),
        "states": not refusal and _contains(content, query.learn),
        "refused": refused,
        "format_expected": query.format,
        "format_right": found.format == query.format,
        "known_generated": known[0].text,
        "known_contest": None if refusal else _wins(known),
        "known_said": not refusal and _contains(known[0].text, query.right),
    }


def _wins(answers: Sequence[Answer]) -> bool:
    return all(answer.target_score > answer.other_score for answer in answers)


def _contains(text: str, object: str) -> bool:
    return object.casefold() in text.casefold()


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the settings, check them, evaluate one method."""
    run_method("gnm.evaluate_people", __doc__, PeopleParams, evaluate_people, arguments)


if __name__ == "__main__":
    main()
