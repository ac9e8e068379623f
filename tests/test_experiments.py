"""Every experiment folder and data pipeline really runs: `dvc repro` with a tiny backbone and a handful of documents.

Only params.yaml is changed: other backbones, fewer methods, steps and sequences. Commands, stages, dependencies and
outputs are the folder's own; `python` and `torchrun` are those of the fork server, which start in no time.
"""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pandas as pd
import pytest
import yaml
from dvc.repo import Repo

from experiment_folders import HALVES, NAMES, Folders, Run
from fork_server import commands
from gnm.config import read_blocks


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
    """Tables of what was evaluated, and a figure, for every report of the folder."""
    root, settings = runs[name].root, read_blocks(runs[name].root / name / "params.yaml")
    blocks = [block for block in settings.values() if isinstance(block, dict)]
    reports = [block for block in blocks if "figures_of_merit" in block]
    for block in reports:
        stem = root / name / block["output"]
        table = pd.read_csv(stem.with_name(stem.name + ".csv"))
        saved = [each.name for each in (root / name / block["evaluations"]).iterdir()]
        # a method's settings follow its name after a blank, in a folder's after an underscore
        methods = {*saved, *(each.partition("_")[0] for each in saved)}
        assert set(table["method"].str.partition(" ")[0]) <= methods and len(table) > 0
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
        ("experiments/small_gates", ("evaluate_unlearning", "seeds", [7]), ["evaluate@generalist_unlearning"]),
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


def test_what_experiments_make_and_is_shipped_stays_until_it_is_replaced(project):
    """Before a stage starts, DVC removes outputs that do not persist; programs replace theirs whole at their end."""
    for path in sorted(project.glob("experiments/*/dvc.yaml")):
        for name, stage in yaml.safe_load(path.read_text(encoding="utf-8"))["stages"].items():
            made = stage.get("do", stage)
            for out in (out for kind in ("outs", "metrics", "plots") for out in made.get(kind, [])):
                place, settings = next(iter(out.items())) if isinstance(out, dict) else (out, {})
                kept = settings.get("persist", False)
                shipped = any(f"/{folder}/" in place for folder in ("saved_evals", "models", "plots"))
                assert kept == shipped, f"{path}: {name}: {place}"


@pytest.mark.parametrize(
    ("stage", "shipped"), [("evaluate@generalist", "saved_evals/people/generalist/*"), ("report", "plots/people.*")]
)
def test_a_repro_that_is_killed_leaves_what_was_there(runs, tmp_path, stage, shipped):
    """Killed while a stage works: DVC has then removed what it removes before a stage."""
    run = runs["experiments/people"]
    assert not run.error, run.error
    started = tmp_path / "started"
    files = {file: file.read_bytes() for file in run.root.glob(shipped)}
    (tmp_path / "python").write_text(f"#!/bin/sh\ntouch '{started}'\nsleep 60\n")
    (tmp_path / "python").chmod(0o755)
    environment = run.folders.environment | {"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}
    command = [sys.executable, "-m", "dvc", "repro", "--single-item", "--force", stage]
    repro = subprocess.Popen(command, cwd=run.root / run.name, env=environment, start_new_session=True)
    while not started.exists():
        assert repro.poll() is None
        time.sleep(0.05)
    os.killpg(repro.pid, signal.SIGKILL)
    repro.wait()
    assert files and {file: file.read_bytes() for file in run.root.glob(shipped)} == files
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
