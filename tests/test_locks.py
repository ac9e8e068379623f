"""What is shipped is locked: DVC finds nothing to do for it, and nothing else is in a dvc.lock."""

import json
import runpy
import subprocess
from pathlib import Path

import pytest
import torch
import yaml
from dvc.repo import Repo

from gnm.config import load_params, read_blocks, validate
from gnm.params import Optimisation, TrainParams
from gnm.training.optimizer import set_learning_rate


@pytest.fixture(scope="module")
def locked(project):
    """The stages that stand in a dvc.lock, by folder and name, as DVC reads them."""
    if not (project / ".git").exists():
        pytest.skip("needs a git checkout")
    with Repo(project) as repo:
        stages = {(Path(stage.wdir), stage.name): stage for stage in repo.index.stages}
        names = {
            (file.parent, name)
            for file in project.glob("*/*/dvc.lock")
            for name in yaml.safe_load(file.read_text(encoding="utf-8"))["stages"]
        }
        assert names <= stages.keys(), "a dvc.lock names a stage that its dvc.yaml has not: run make lock"
        yield {place: stages[place] for place in names}


def test_what_is_locked_is_up_to_date(locked, project):
    """But for data that no pipeline has made here yet."""
    assert {folder.name for folder, _ in locked} >= {"people", "generate_documents"}
    changed = {}
    for (folder, name), stage in locked.items():
        if stage.changed_stage():
            changed[f"{folder.name}:{name}"] = "its command"
        for each in (*stage.deps, *stage.outs):
            data = Path(each.fs_path).is_relative_to(project / "data") and not each.exists
            if not data and (status := each.status()):
                changed[f"{folder.name}:{name}"] = status
    assert not changed, "run what changed (dvc repro), or make lock if the results are those of what stands now"


def test_what_is_shipped_is_locked(locked, project):
    """But for the generalist's training: what it begins with is not shipped."""
    tracked = subprocess.run(["git", "ls-files"], cwd=project, capture_output=True, text=True, check=True).stdout
    shipped = {folder for name in tracked.splitlines() for folder in (project / name, *(project / name).parents)}
    with Repo(project) as repo:
        unlocked = {
            f"{Path(stage.wdir).name}:{stage.name}"
            for stage in repo.index.stages
            if (Path(stage.wdir), stage.name) not in locked and all(Path(out.fs_path) in shipped for out in stage.outs)
        }
    assert unlocked == {"small_generalist:train@gnm"}, "run make lock"


def test_locked_evaluations_are_of_the_adapters_that_are_there(locked, project):
    of_another_adapter = runpy.run_path(str(project / "tools" / "lock.py"))["of_another_adapter"]
    outs = {(Path(out.fs_path), folder) for (folder, _), stage in locked.items() for out in stage.outs}
    assert {path for path, folder in outs if of_another_adapter(path, folder)} == set()
    before = project / "saved_evals/small_exp2_unseen_family/generalist", project / "experiments/small_exp2"
    assert of_another_adapter(*before) != (before in outs)


TRAININGS = [
    ("small_exp1", "train", "gnm"),
    ("small_exp1", "train", "in_context_ft"),
    ("small_exp1", "train", "in_context_ft_instruction_first"),
    ("small_exp1", "train_to_150", "gnm_ablation"),
    ("small_exp2", "train", "gnm_ablation"),
]


@pytest.mark.parametrize(("folder", "block", "method"), TRAININGS)
def test_settings_of_a_training_say_how_the_shipped_adapter_was_made(project, folder, block, method):
    """The steps that it took and the rate of each of them, what was drawn, the method: as gnm.json records them."""
    path = project / "experiments" / folder / "params.yaml"
    params = load_params(path, TrainParams, block=block)
    record = json.loads((path.parent / params.output / method / "gnm.json").read_text(encoding="utf-8"))
    made = record["training"]
    then, now = made.pop("loop"), params.loop.model_dump(mode="json")
    now |= {"easy": now.pop("curriculum"), "through": now.pop("gradients_through")}  # their names then
    assert now["steps"] == record["made"]["steps"]
    freely = {"steps", "gradient_checkpointing"}  # checkpoints of activations change no weights
    assert {key: now[key] for key in then.keys() - freely} == {key: then[key] for key in then.keys() - freely}
    planned = validate(made.pop("opt"), Optimisation, "gnm.json")
    taken = rates(params.opt, now["steps"], now["steps"])
    assert taken == pytest.approx(rates(planned, then["steps"], now["steps"]), rel=1e-4)
    described = params.model_dump(mode="json")
    assert {key: described[key] for key in made} == made
    described = params.methods[method].model_dump(mode="json")
    kept = record["learner"].keys() - {"memory", "gate_training"}  # of which newer settings are not in the record
    assert {key: described[key] for key in kept} == {key: record["learner"][key] for key in kept}
    assert params.lora.model_dump(mode="json") == record["lora"]


def test_every_shipped_training_of_the_protocol_is_looked_at(project):
    """All adapters of experiments 1 and 2 that are in the tree."""
    for name in ("exp1", "exp2"):
        shipped = {path.parent.name for path in (project / "models/smollm2-135m" / name).glob("*/gnm.json")}
        blocks = read_blocks(project / "experiments" / f"small_{name}" / "params.yaml")
        assert shipped == {method for folder, _, method in TRAININGS if folder == f"small_{name}"}
        assert shipped == set(blocks.get("trainings", blocks["train"]["methods"]))


def test_quickstart_is_each_machines_own(project):
    assert not (project / "experiments" / "quickstart" / "dvc.lock").exists()
    assert "mv dvc.lock" in (project / "Makefile").read_text()


def rates(settings: Optimisation, steps: int, taken: int) -> list[float]:
    """The learning rate of each of the first `taken` steps of a training planned for `steps`."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.0)
    optimizer.param_groups[0]["factor"] = 1.0
    found = []
    for step in range(taken):
        set_learning_rate(optimizer, settings, step, steps)
        found.append(optimizer.param_groups[0]["lr"])
    return found
