"""The folders of experiments and pipelines at a tiny scale, in which `dvc repro` works."""

import gzip
import json
import lzma
import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from gnm.config import read_blocks
from gnm.data.sources import read_json

# Two halves that take about as long, in groups: a group is run by one `dvc repro`, after those before it. The second
# group's adapters are no dependencies of it, so that DVC would not train them first.
HALVES = (
    (
        ["data_pipelines/generate_documents", "experiments/small_exp1"],
        ["experiments/small_generalist"],
        ["experiments/quickstart", "experiments/small_exp2", "experiments/small_exp3", "experiments/small_gates"]
        + ["experiments/small_rivals", "experiments/small_long", "experiments/people", "experiments/memory_analysis"],
    ),
    (
        ["data_pipelines/generate_categorized_counterfact_data_from_mapping"]
        + [f"experiments/train_exp1_{name}" for name in ("gnm", "icl", "rag")]
        + [f"experiments/train_exp2_{name}" for name in ("gnm", "gnm_ablation", "icl", "rag")]
        + [f"experiments/eval_{name}" for name in ("exp1", "exp2", "exp2_train", "exp2_val_id", "exp3")],
    ),
)


NAMES = [name for half in HALVES for group in half for name in group]


# of an evaluation's methods; the first alone at the paper's scale
KEPT = ("gnm", "generalist", "generalist_store", "block_retrieval", "no_memory")


# of the evaluations of write gates and of long streams
KEPT_EVALUATIONS = (
    "generalist",
    "generalist_all",
    "generalist_store",
    "generalist_200",
    "generalist_unlearning",
    "generalist_revoke",
    "generalist_weakest_20",
)


SMALL_LOOP = {"sequences": 2, "sequences_at_once": 2, "max_new_tokens": 2}


SMALL_TRAIN = {"steps": 2, "validate_every": 2, "validation_sequences": 1, "checkpoint_every": 1}


SMALL_DATA = {"train_files": 1, "train_documents_per_file": 60, "val_documents": 40, "test_documents_per_file": 40}


FACTS = 5  # every fifth of CounterFact is there: all relations are, and reading them takes a fifth of the time


BACKBONES = {"memoryllm-8b-chat": "tiny-gnm", "gnm_facts": "tiny-gnm", "gnm_all": "tiny-gnm"}


# there whatever few sequences ask
SHOWN = ("selectivity", "format_accuracy", "unlearning_selectivity", "forgotten_selectivity", "stored")


SECONDS = 3600  # for all folders of a half, on a machine that others use too


class Folders:
    """A copy of the project's DVC files, in which `dvc repro` works."""

    def __init__(self, project: Path, root: Path, programs: Path):
        self.root, self.python = root, programs / "python"
        for name in ("experiments", "data_pipelines", "data/counterfact", "data/people", "src/gnm/data/facts"):
            shutil.copytree(project / name, root / name, ignore=shutil.ignore_patterns("dvc.lock", "__pycache__"))
        for name, count in (("people_dev.json", 3), ("written_train.json.gz", 60), ("written_dev.json", 12)):
            table = root / "data/people" / name
            text = json.dumps(read_json(table)[:count]).encode()
            table.write_bytes(gzip.compress(text, 1) if table.suffix == ".gz" else text)
        for table in root.glob("data/counterfact/*.xz"):
            lines = lzma.decompress(table.read_bytes()).splitlines()[::FACTS]
            table.write_bytes(lzma.compress(b"\n".join(lines), preset=0))
        for name in ("src/gnm/revision.yaml", "src/gnm/data/taxonomy.yaml"):
            shutil.copy(project / name, root / name)
        self.environment = {
            **os.environ,
            "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(project / "src"),
            "GNM_MODELS": str(root / "models"),
            "READ_LOG": str(root / "read.log"),
        }
        self.dvc(root, "init", "-q", "--no-scm")

        for path in root.glob("*/*/params.yaml"):
            self.change(path, make_small)

    def run(self, groups: Sequence[list[str]]) -> list["Run"]:
        """`dvc repro` of every folder, and then what it would do in all of them once more."""
        failed = ""
        for names in groups:
            try:
                self.dvc(self.root, "repro", "--keep-going", *(f"{name}/dvc.yaml" for name in names))
            except AssertionError as error:
                failed += str(error)
        names = [name for group in groups for name in group]
        if failed:
            return [Run(name, self, [], failed) for name in names]
        said = self.dvc(self.root, "repro", "--dry", *(f"{name}/dvc.yaml" for name in names))
        again = re.findall(r"^Running stage '(.*)/dvc.yaml:(.*)'", said, flags=re.MULTILINE)
        return [Run(name, self, [s for folder, s in again if folder == name], failed) for name in names]

    def dvc(self, folder: Path, *arguments: str) -> str:
        """What `dvc` says; fails with all of it if it fails."""
        command = [self.python, "-m", "dvc", *arguments]
        done = subprocess.run(
            command, cwd=folder, env=self.environment, capture_output=True, text=True, timeout=SECONDS, check=False
        )
        assert done.returncode == 0, f"{folder.name}: dvc {' '.join(arguments)}\n{done.stdout}\n{done.stderr}"
        return done.stdout + done.stderr

    def change(self, path: Path, change) -> None:
        """Change a file of settings in place."""
        settings = read_blocks(path)
        change(settings)
        path.write_text(yaml.dump(settings, Dumper=Plain, sort_keys=False))


@dataclass(frozen=True)
class Run:
    """What was left to do in a folder after `dvc repro`, and what DVC said if anything went wrong."""

    name: str
    folders: Folders
    left: list[str]
    error: str

    @property
    def root(self) -> Path:
        return self.folders.root


class Plain(yaml.SafeDumper):
    """YAML without anchors: shared values become values of their own."""

    def ignore_aliases(self, data):
        return True


def make_small(settings: dict) -> None:
    """The same experiment with tiny backbones, few methods, steps and sequences."""
    at_paper_scale = settings.get("backbone", {}).get("name") == "llama3-8b-instruct"
    if "evaluations" in settings:
        given = settings["evaluations"]
        settings["evaluations"] = {key: given[key] for key in KEPT_EVALUATIONS if key in given}
        named = {item["method"] for item in settings["evaluations"].values()}
        settings["methods"] = {key: item for key, item in settings["methods"].items() if key in named}
        if "generalist_weakest" in named:
            settings["methods"]["generalist_weakest"]["memory"]["capacity"] = 2000  # a byte is a token here
    elif "methods" in settings:
        kept = [*(KEPT[:1] if at_paper_scale else KEPT)]
        if "trained" in settings:
            learned, untrained = next(iter(settings["trained"])), settings["untrained"]
            other = KEPT[-1] if KEPT[-1] in untrained else "generalist"
            settings["trained"] = {learned: settings["trained"][learned]}
            settings["untrained"] = {key: item for key, item in untrained.items() if item["method"] == other}
            trained = (learned, "recurrent_memory")  # which small_rivals trains by small_exp1's block
            settings["train"]["methods"] = {k: m for k, m in settings["train"]["methods"].items() if k in trained}
            settings["trainings"] = {learned: "train"}
            kept.append(learned)
        settings["methods"] = {key: item for key, item in settings["methods"].items() if key in kept}
    if "documents_drawn" in settings:
        settings["documents_drawn"] |= {"count": 2}
        settings["analysis"]["methods"] = {"gnm": settings["analysis"]["methods"]["gnm"]}
        settings["analysis"]["swap"] |= {"donor": "gnm"}
        settings["parts"] = ["layer_swap"]
    for block in (settings, *(block for block in settings.values() if isinstance(block, dict))):
        if "backbone" in block:
            block["backbone"] |= {"name": BACKBONES.get(block["backbone"]["name"], "tiny"), "dtype": "float32"}
        for method in block.get("methods", {}).values():
            if method.get("backbone"):
                method["backbone"] = BACKBONES.get(method["backbone"], "tiny")
        if "loop" in block:
            make_loop_small(block["loop"])
        if "figures_of_merit" in block:
            block["figures_of_merit"] = [name for name in block["figures_of_merit"] if name in SHOWN]
        if block.get("shown") == "score":
            block["shown"] = "selectivity"
        for own in (block, block.get("drawn", {})):
            if "sequence_length" in own:
                own["sequence_length"] = 3
            if "documents" in own and own is not block:
                own["documents"] = 3
        if "sampling" in block:  # room for questions about what is left out, which come last
            most = block["sampling"]["max_total_io_pairs_per_sample"]
            block["sampling"]["max_total_io_pairs_per_sample"] = max(most, 6)
        if "optimizer" in block.get("opt", {}):
            block["opt"]["optimizer"] = "adamw"
        if "hidden" in block:  # the retriever's training
            block["steps"] = 2
        if "seeds" in block:
            block["seeds"] = block["seeds"][:1]
        if "train_files" in block:
            block |= SMALL_DATA
    if "distributed" in settings:
        settings["distributed"]["nproc_per_node"] = 1
    if "train_selection" in settings:  # goes on from what is shipped; here from what another folder leaves
        settings["train_selection"]["methods"]["gnm"]["adapter"] = "../../models/smollm2-135m/exp1/gnm"
        settings["train_selection"]["first_layer"] = 1  # tiny backbones have two below the gates


def make_loop_small(loop: dict) -> None:
    """Two steps of training, or two sequences of evaluation, of two or three documents."""
    loop |= SMALL_TRAIN if "steps" in loop else SMALL_LOOP
    shorter = {"5": 2, "10": 2, "20": 3, "50": 3, "200": 3}
    loop["sequence_length"] = shorter.get(str(loop["sequence_length"]), loop["sequence_length"])
    if isinstance(loop["sequence_length"], list):
        loop["sequence_length"] = [1, 2]
    if "documents_per_step" in loop:
        loop["documents_per_step"] = min(loop["documents_per_step"], 4)
        loop["max_queries_per_document"] = 4
    if loop.get("curriculum"):
        loop["curriculum"] |= {"steps": 1, "documents_per_step": 2}
