"""Every experiment folder and data pipeline really runs: `dvc repro` with a tiny backbone and a handful of documents.

Only params.yaml is changed: other backbones, fewer methods, steps and sequences. Commands, stages, dependencies and
outputs are the folder's own; `python` and `torchrun` are those of the fork server, which start in no time.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pytest
import yaml
from dvc.repo import Repo

from fork_server import commands
from gnm.config import read_blocks

# Two halves that take about as long, in groups: a group is run by one `dvc repro`, after those before it. The second
# group's adapters are no dependencies of it, so that DVC would not train them first.
HALVES = (
    (
        ["data_pipelines/generate_documents", "experiments/small_exp1", "experiments/small_exp2"],
        ["experiments/small_generalist"],
        ["experiments/quickstart", "experiments/small_exp3", "experiments/small_gates", "experiments/small_rivals"]
        + ["experiments/small_long", "experiments/people", "experiments/memory_analysis"],
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
# of the evaluations of write gates
KEPT_GATES = ("generalist", "generalist_all", "generalist_unlearning", "generalist_revoke", "generalist_forget")
KEPT_GATES += ("generalist_all_random_20", "generalist_all_random_50")
SMALL_LOOP = {"sequences": 2, "sequences_at_once": 2, "max_new_tokens": 2}
SMALL_TRAIN = {"steps": 2, "validate_every": 2, "validation_sequences": 1, "checkpoint_every": 1}
SMALL_DATA = {"train_files": 1, "train_documents_per_file": 60}
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
        probes = root / "data/people/people_dev.json"
        probes.write_text(json.dumps(json.loads(probes.read_text())[:3]))
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
        settings["evaluations"] = {key: settings["evaluations"][key] for key in KEPT_GATES}
        named = {item["method"] for item in settings["evaluations"].values()}
        settings["methods"] = {key: item for key, item in settings["methods"].items() if key in named}
        settings["methods"]["generalist_all_random"]["memory"]["capacity"] = 2000  # a byte is a token here
        settings["probe"] |= {"documents": {"train": 6, "test": 4, "at_once": 2}}
    elif "methods" in settings:
        kept = KEPT[:1] if at_paper_scale else KEPT
        settings["methods"] = {key: item for key, item in settings["methods"].items() if key in kept}
    if "documents_drawn" in settings:
        settings["documents_drawn"] |= {"count": 2}
        settings["analysis"]["methods"] = {"gnm": settings["analysis"]["methods"]["gnm"]}
        settings["analysis"]["swap"] |= {"donor": "gnm"}
        settings["parts"] = ["layer_swap"]
    if "trained" in settings:
        settings["trained"] = {key: item for key, item in settings["trained"].items() if item["method"] == KEPT[0]}
        settings["untrained"] = {KEPT[-1]: settings["untrained"][KEPT[-1]]}
        settings["train"]["methods"] = {"gnm": settings["train"]["methods"]["gnm"]}
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
        if "sequence_length" in block:
            block["sequence_length"] = 3
        if "optimizer" in block.get("opt", {}):
            block["opt"]["optimizer"] = "adamw"
        if "seeds" in block:
            block["seeds"] = block["seeds"][:1]
        if "train_files" in block:
            block |= SMALL_DATA
    if "distributed" in settings:
        settings["distributed"]["nproc_per_node"] = 1
    if "people" in settings.get("train", {}):  # goes on from what is shipped; here from what another folder leaves
        settings["train"]["methods"]["gnm"]["adapter"] = "../../models/smollm2-135m/exp2/gnm"


def make_loop_small(loop: dict) -> None:
    """Two steps of training, or two sequences of evaluation, of two or three documents."""
    loop |= SMALL_TRAIN if "steps" in loop else SMALL_LOOP
    shorter = {"5": 2, "10": 2, "20": 3, "50": 3}
    loop["sequence_length"] = shorter.get(str(loop["sequence_length"]), loop["sequence_length"])
    if "documents_per_step" in loop:
        loop["documents_per_step"] = min(loop["documents_per_step"], 8)
    if loop.get("curriculum"):
        loop["curriculum"] |= {"steps": 1, "documents_per_step": 2}


@pytest.fixture(scope="module")
def runs(project, tmp_path_factory) -> Iterator[dict[str, Run]]:
    """Every folder run, two of them side by side."""
    with commands(tmp_path_factory.mktemp("commands")) as programs, ThreadPoolExecutor(2) as pool:
        halves = [Folders(project, tmp_path_factory.mktemp("project"), programs) for _ in range(2)]
        parts = pool.map(Folders.run, halves, HALVES)
        yield {run.name: run for part in parts for run in part}


@pytest.mark.parametrize("name", NAMES)
def test_a_folder_runs_to_its_end_and_then_has_nothing_to_do(runs, name):
    run = runs[name]
    assert not run.error, run.error
    assert run.left == (["report@report"] if name == "experiments/quickstart" else [])


def test_every_folder_is_run(project):
    folders = {str(path.parent.relative_to(project)) for path in project.glob("*/*/dvc.yaml")}
    assert folders == set(NAMES)


REPORTING = [n for n in NAMES if ("eval" in n or "small" in n) and n != "experiments/small_generalist"]


@pytest.mark.parametrize("name", REPORTING)
def test_a_report_is_left(runs, name):
    """Tables with a row a method, and a figure, for every report of the folder."""
    root, settings = runs[name].root, read_blocks(runs[name].root / name / "params.yaml")
    blocks = [block for block in settings.values() if isinstance(block, dict)]
    reports = [block for block in blocks if "figures_of_merit" in block]
    for block in reports:
        stem = root / name / block["output"]
        table = pd.read_csv(stem.with_name(stem.name + ".csv"))
        assert set(table["method"].str.partition(" ")[0]) <= {*KEPT, *KEPT_GATES} and len(table) > 0
        assert stem.with_name(stem.name + ".png").stat().st_size > 10_000
    assert reports


@pytest.mark.parametrize(
    ("name", "change", "rerun"),
    [
        ("experiments/eval_exp1", ("methods", "gnm", "order", "document_first"), ["evaluate@gnm", "evaluate_20@gnm"]),
        ("experiments/eval_exp1", ("evaluate_20", "seeds", [7]), ["evaluate_20@gnm"]),
        ("experiments/eval_exp1", ("report", "title", "Another"), ["report@report"]),
        ("experiments/eval_exp1", ("revision", "reporting", 7), ["report@report", "report@report_20"]),
        ("experiments/small_exp1", ("train", "seed", 7), ["train@gnm"]),
        (
            "experiments/small_exp1",
            ("evaluate_unlearning", "seeds", [7]),
            ["evaluate_trained@gnm_unlearning"],
        ),
        ("data_pipelines/generate_documents", ("seed", 7), ["documents"]),
    ],
)
def test_a_changed_setting_reruns_only_what_depends_on_it(runs, name, change, rerun):
    """What `dvc repro --dry` would run first; what builds on it follows if that changes."""
    run = runs[name]
    assert not run.error, run.error
    *keys, last, value = change
    path = run.root / name / "params.yaml"
    if keys == ["revision"]:
        keys, path = [], run.root / "src/gnm/revision.yaml"
    before = path.read_text()

    def set_(settings):
        for key in keys:
            settings = settings[key]
        settings[last] = value

    run.folders.change(path, set_)
    said = run.folders.dvc(run.root / name, "repro", "--dry")
    path.write_text(before)
    stages = re.findall(r"^Running stage '([^']*)'", said, flags=re.MULTILINE)
    assert sorted(stages) == sorted(rerun)


# what is read and is no dependency: adapters that another folder trains, which DVC would then train first
UNDECLARED = ("models/smollm2-135m/gnm", "models/smollm2-135m/exp1", "models/smollm2-135m/exp2")


@pytest.mark.parametrize("half", range(2))
def test_stages_declare_what_they_read(project, runs, half):
    """Every file of the project that a stage opened is a dependency, an output or a file of settings of that stage."""
    root = runs[HALVES[half][0][0]].root
    with Repo(root) as repo:
        stages = {f"{stage.wdir}/{stage.name}": stage for stage in repo.index.stages}
    read = [line.split("\t") for line in (root / "read.log").read_text().splitlines()]
    seen, missing = set(), set()
    for name, path in read:
        if not Path(path).is_relative_to(root) or "/." in path:  # what it is just writing, or goes on with; DVC's own
            continue
        declared = [Path(each.fs_path) for each in (*stages[name].deps, *stages[name].outs)]
        if any(Path(path).is_relative_to(each) or each.parent == Path(path) for each in declared):
            seen.add(name)
        elif not Path(path).relative_to(root).as_posix().startswith(UNDECLARED):
            missing.add(f"{name} reads {path}")
    assert not missing
    assert len(seen) > len(HALVES[half][0])


def test_what_settings_put_into_a_command_is_quoted_for_the_shell(project):
    """A key or value of params.yaml is then one word there, whatever spaces or semicolons it has."""
    files = sorted(project.glob("*/*/dvc.yaml"))
    assert len(files) > 15
    for path in files:
        for name, stage in yaml.safe_load(path.read_text(encoding="utf-8"))["stages"].items():
            command = stage.get("do", stage)["cmd"]
            assert "${" not in re.sub(r"'\$\{[\w.]+\}'", "", command), f"{path}: {name}: {command}"


def test_outputs_of_trainings_and_evaluations_stay_until_they_are_replaced(project):
    """DVC removes what does not persist before a stage starts; these programs replace theirs whole at their end."""
    for path in sorted(project.glob("experiments/*/dvc.yaml")):
        for name, stage in yaml.safe_load(path.read_text(encoding="utf-8"))["stages"].items():
            for out in stage.get("do", stage).get("outs", []):
                place, settings = next(iter(out.items())) if isinstance(out, dict) else (out, {})
                kept = settings.get("persist", False)
                assert kept == ("saved_evals/" in place or "/models/" in place), f"{path}: {name}: {place}"


def test_a_repro_that_is_killed_leaves_what_was_there(runs, tmp_path):
    """Killed while a stage works: DVC has then removed what it removes before a stage."""
    run = runs["experiments/people"]
    assert not run.error, run.error
    saved, started = run.root / "saved_evals/people/generalist", tmp_path / "started"
    files = {file.name: file.read_bytes() for file in saved.iterdir()}
    (tmp_path / "python").write_text(f"#!/bin/sh\ntouch '{started}'\nsleep 60\n")
    (tmp_path / "python").chmod(0o755)
    environment = run.folders.environment | {"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}
    command = [sys.executable, "-m", "dvc", "repro", "--single-item", "--force", "evaluate@generalist"]
    repro = subprocess.Popen(command, cwd=run.root / run.name, env=environment, start_new_session=True)
    while not started.exists():
        assert repro.poll() is None
        time.sleep(0.05)
    os.killpg(repro.pid, signal.SIGKILL)
    repro.wait()
    assert files and {file.name: file.read_bytes() for file in saved.iterdir()} == files
    assert "Running stage" not in run.folders.dvc(run.root / run.name, "repro", "--dry")


def test_a_stage_that_fails_leaves_what_was_there(runs):
    run = runs["experiments/people"]
    assert not run.error, run.error
    path, saved = run.root / run.name / "params.yaml", run.root / "saved_evals/people/generalist"
    before, files = path.read_text(), {file.name: file.read_bytes() for file in saved.iterdir()}

    def spoil(settings):
        settings["evaluate"]["probes"] = "../../data/people/nowhere.json"

    run.folders.change(path, spoil)
    with pytest.raises(AssertionError, match="nowhere.json"):
        run.folders.dvc(path.parent, "repro", "evaluate@generalist")
    path.write_text(before)
    assert files and {file.name: file.read_bytes() for file in saved.iterdir()} == files
