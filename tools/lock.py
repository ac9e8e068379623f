"""Lock what is shipped: `python tools/lock.py [FOLDER ...]` writes the dvc.lock of experiments and data pipelines.

- A stage is locked if all that it makes is there and is in git, or is data that a pipeline makes anew. It is recorded
  as made by the settings, dependencies and revision that stand now: evaluate and report first, then lock.
- An evaluation of another state of its adapter than the one that is there stays out too.
- All other stages stay out, so that DVC runs them where they are asked for.
- No FOLDER: all but quickstart, whose results are each machine's own.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

from dvc.repo import Repo
from dvc.stage import PipelineStage

PROJECT = Path(__file__).resolve().parents[1]
NOT_SHIPPED = ("experiments/quickstart",)


def main() -> None:
    """Lock the folders; print what was locked, and of each other stage why it was not."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="*", type=Path, metavar="FOLDER", help="such as experiments/people")
    given = [folder.resolve() for folder in parser.parse_args().folders]
    folders = given or [file.parent for file in sorted(PROJECT.glob("*/*/dvc.yaml"))]
    if missing := [folder for folder in folders if not (folder / "dvc.yaml").is_file()]:
        sys.exit(f"error: {missing[0]} has no dvc.yaml; give a folder of experiments/ or data_pipelines/")
    lock(folder for folder in folders if given or folder.relative_to(PROJECT).as_posix() not in NOT_SHIPPED)


def lock(folders: Iterable[Path]) -> None:
    """Write each folder's dvc.lock anew: of its stages whose results are shipped, or none at all."""
    tracked = [PROJECT / name for name in _git("ls-files").splitlines()]
    for folder in folders:
        (folder / "dvc.lock").unlink(missing_ok=True)
        with Repo(PROJECT) as repo:
            stages = [stage for stage in repo.index.stages if Path(stage.wdir) == folder]
            for stage in stages:
                reason = left_out(stage, tracked)
                name = f"{folder.relative_to(PROJECT)}:{stage.name}"
                if reason is None:
                    repo.commit(target=f"{folder / 'dvc.yaml'}:{stage.name}", force=True)
                print(f"{name}: " + ("locked" if reason is None else f"left out, {reason}"))


def left_out(stage: PipelineStage, tracked: Iterable[Path]) -> str | None:
    """Why a stage is not locked; None if it is."""
    for each in (*stage.deps, *stage.outs):
        if not Path(each.fs_path).exists():
            return f"{Path(each.fs_path).relative_to(PROJECT)} is not there"
    for out in stage.outs:
        path = Path(out.fs_path)
        if not out.use_cache and not any(file.is_relative_to(path) for file in tracked):
            return f"{path.relative_to(PROJECT)} is not in git"
        if of_another_adapter(path, Path(stage.wdir)):
            return f"{path.relative_to(PROJECT)} is of another state of its adapter"
    return None


def of_another_adapter(evaluation: Path, folder: Path) -> bool:
    """Whether an evaluation names weights of its adapter other than those there; False for all that is no evaluation.

    folder: the experiment's, from which the adapter's path starts.
    """
    record = evaluation / "run_config.json"
    made = json.loads(record.read_text(encoding="utf-8")) if record.is_file() else {}
    adapter = made.get("learner", {}).get("adapter")
    if adapter is None:
        return False
    there = json.loads((folder / adapter / "gnm.json").read_text(encoding="utf-8"))
    return made["adapter"].get("checksums") != there["checksums"]


def _git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=PROJECT, capture_output=True, text=True, check=True).stdout


if __name__ == "__main__":
    main()
