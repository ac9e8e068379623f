"""What is shipped is locked: DVC finds nothing to do for it, and nothing else is in a dvc.lock."""

from pathlib import Path

import pytest
import yaml
from dvc.repo import Repo


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


def test_quickstart_is_each_machines_own(project):
    assert not (project / "experiments" / "quickstart" / "dvc.lock").exists()
    assert "mv dvc.lock" in (project / "Makefile").read_text()
