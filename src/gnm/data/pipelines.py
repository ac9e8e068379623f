"""The two stages that make the data set: `python -m gnm.data.pipelines STAGE [--block B] [key=value ...]`.

- `categorise` reads CounterFact and writes categorised facts: train.json, test.json, report.json.
- `documents` writes the data set's files from them: train/, val/ and test/.
- Each file of documents has a generator of its own, seeded from `seed` and the file's name, so no file changes
  with the number of others.
- An output folder is replaced whole, and only if all that it holds came from the same stage.
"""

import argparse
import random
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from pydantic import Field

from gnm.config import StrictModel, add_params_arguments, load_params
from gnm.data.counterfact import categorise, read_facts, write_facts
from gnm.data.documents import make_documents, write_documents
from gnm.data.paraphrases import check_paraphrases
from gnm.data.sources import EMBEDDED, SPLITS, read_records
from gnm.data.taxonomy import load_taxonomy
from gnm.data.types import Fact
from gnm.errors import DataError, exit_on_error
from gnm.files import atomic_folder, write_json

REPORT = "report.json"


class CategoriseParams(StrictModel):
    """params.yaml of the stage `categorise`; paths are relative to the working directory."""

    source: str = Field(min_length=1)
    revision: str | None
    output: Path


class DocumentsParams(StrictModel):
    """params.yaml of the stage `documents`; a count of null makes as many documents as the facts give."""

    facts: Path
    output: Path
    seed: int
    min_subcategories: int = Field(ge=2)
    train_files: int = Field(ge=1)
    train_documents_per_file: int | None = Field(ge=1)
    val_documents: int | None = Field(ge=1)
    test_files: int = Field(ge=1)
    test_documents_per_file: int | None = Field(ge=1)


def run_categorise(params: CategoriseParams) -> None:
    """Read CounterFact, write train.json, test.json and report.json into `params.output`."""
    _check_replaceable(params.output, {*(f"{split}.json" for split in SPLITS), REPORT})
    categorised = categorise(read_records(params.source, params.revision))
    local = params.source == EMBEDDED or Path(params.source).exists()
    report = {"source": params.source, "revision": None if local else params.revision, **categorised.report}
    # the embedded table words a relation's paraphrases beside its prompt: no fact has one of them as its prompt
    wordings = None
    if params.source != EMBEDDED:
        wordings = check_paraphrases(categorised.train + categorised.test)
        report["paraphrases"] = {
            "count": wordings.count,
            "known_wordings": wordings.known,
            "share": wordings.share,
            "others": wordings.others,
        }
    with atomic_folder(params.output) as folder:
        write_facts(folder / "train.json", categorised.train)
        write_facts(folder / "test.json", categorised.test)
        write_json(folder / REPORT, report)
    print(
        f"{params.output}: {len(categorised.train)} train and {len(categorised.test)} test facts; "
        f"{report['dropped']} dropped for an object in no subcategory, "
        f"{report['moved_from_train_to_test']} moved to test as held out"
    )
    if wordings:
        print(f"{wordings.share:.1%} of the paraphrases are wordings of their relation")
    if wordings and wordings.warning:
        print(f"warning: {wordings.warning}")


def run_documents(params: DocumentsParams) -> None:
    """Read categorised facts, write the document files into `params.output`."""
    _check_replaceable(params.output, {"train", "val", "test"})
    with atomic_folder(params.output) as folder:
        for name, facts, leading, count in _files(params):
            rng = random.Random(f"{params.seed}/{name}")
            try:
                documents = make_documents(facts, rng, leading, count, params.min_subcategories)
            except DataError as error:
                raise DataError(f"{name}: {error}") from error
            write_documents(folder / name, documents)
            stated = sum(len(document.fact_ids) for document in documents)
            print(f"{params.output / name}: {len(documents)} documents stating {stated} facts", flush=True)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one stage; exits with the error's sentence where one is the user's to solve."""
    parser = argparse.ArgumentParser(prog="python -m gnm.data.pipelines", description="make the GNM data set")
    parser.add_argument("stage", choices=("categorise", "documents"))
    add_params_arguments(parser)
    given = parser.parse_intermixed_args(arguments)
    with exit_on_error():
        if given.stage == "categorise":
            run_categorise(load_params(given.params, CategoriseParams, given.overrides, given.block))
        else:
            run_documents(load_params(given.params, DocumentsParams, given.overrides, given.block))


def _files(params: DocumentsParams) -> Iterator[tuple[str, list[Fact], tuple[str, ...], int | None]]:
    """Name, facts, leading subcategories and wanted count of every file."""
    taxonomy = load_taxonomy()
    train, test = (read_facts(params.facts / f"{split}.json") for split in SPLITS)
    if held_out := sorted({fact.subcategory for fact in train} & set(taxonomy.unseen)):
        raise DataError(f"{params.facts / 'train.json'} has facts of held-out groups ({', '.join(held_out)})")
    for number in range(params.train_files):
        yield f"train/train_{number}.json", train, taxonomy.seen, params.train_documents_per_file
    seen = [fact for fact in test if fact.subcategory in taxonomy.seen]
    yield "val/test_seen_categories.json", seen, taxonomy.seen, params.val_documents
    for number in range(params.test_files):
        name = f"test/test_unseen_categories_{number}.json"
        yield name, test, taxonomy.unseen, params.test_documents_per_file


def _check_replaceable(output: Path, own: Iterable[str]) -> None:
    """Refuse to replace a folder that holds anything but a former result of the stage."""
    if output.exists() and not output.is_dir():
        raise DataError(f"output {output} is a file; set `output` to a folder")
    strangers = sorted({path.name for path in output.glob("*")} - set(own))
    if strangers:
        raise DataError(
            f"output {output} holds {strangers[0]!r}, which this stage does not write and would delete; "
            "set `output` to a folder of its own"
        )


if __name__ == "__main__":
    main()
