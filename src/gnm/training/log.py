"""Logs a training's metrics with DVCLive. A training that is resumed goes on with the same files."""

from collections.abc import Mapping
from pathlib import Path

from gnm.extras import optional_imports
from gnm.files import write_text


class TrainingLog:
    """The metrics of each step, in the folder `.NAME-live` beside the output folder NAME.

        with TrainingLog(Path("models/gnm"), first=0, enabled=True) as log:
            log.log("train", {"loss": 2.5})

    first: the step that is logged first: 0 in a new training, that of the checkpoint in a resumed one. Rows from this
    step on are dropped: a killed training logged them, and their steps are run again.
    enabled: whether anything is written; true in the main process alone.
    """

    def __init__(self, output: Path, first: int, enabled: bool):
        folder = output.parent / f".{output.name}-live"
        self._live = None
        if enabled:
            with optional_imports():
                from dvclive import Live
            _drop_rows_from(folder, first)
            self._live = Live(dir=str(folder), resume=first > 0, save_dvc_exp=False, report=None, dvcyaml=None)
            self._live.step = first

    def log(self, part: str, values: Mapping[str, float]) -> None:
        """Log the values of this step, each under the name PART/NAME."""
        for name, value in values.items() if self._live else ():
            self._live.log_metric(f"{part}/{name}", value)

    def next_step(self) -> None:
        """End this step: what is logged from now on belongs to the next one."""
        if self._live:
            self._live.next_step()

    def __enter__(self) -> "TrainingLog":
        return self

    def __exit__(self, *reason: object) -> None:
        if self._live:
            self._live.end()


def _drop_rows_from(folder: Path, step: int) -> None:
    """Keep the rows before `step` in every metric's file. The first line is a heading; a row begins with its step."""
    for path in folder.rglob("*.tsv"):
        heading, *rows = path.read_text(encoding="utf-8").splitlines() or [""]
        kept = [row for row in rows if row.split("\t")[0].isdecimal() and int(row.split("\t")[0]) < step]
        write_text(path, "".join(f"{line}\n" for line in (heading, *kept)))
