"""The metrics file of a training that goes on (DVCLive)."""

from collections.abc import Mapping
from pathlib import Path

from gnm.extras import optional_imports
from gnm.files import write_text


class TrainingLog:
    """Metrics by step, in `.NAME-live` beside the output NAME; the main process alone writes it.

    first: the step that comes next, 0 in a new training. What a killed training logged after its last checkpoint is
    dropped, as those steps are done once more.
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
        """Add the values of this step, as PART/NAME."""
        for name, value in values.items() if self._live else ():
            self._live.log_metric(f"{part}/{name}", value)

    def next_step(self) -> None:
        """What is logged from now on is the next step's."""
        if self._live:
            self._live.next_step()

    def __enter__(self) -> "TrainingLog":
        return self

    def __exit__(self, *reason: object) -> None:
        if self._live:
            self._live.end()


def _drop_rows_from(folder: Path, step: int) -> None:
    """Keep the rows before `step` of every metric; each line begins with its step, but the first, the heading."""
    for path in folder.rglob("*.tsv"):
        heading, *rows = path.read_text(encoding="utf-8").splitlines() or [""]
        kept = [row for row in rows if row.split("\t")[0].isdecimal() and int(row.split("\t")[0]) < step]
        write_text(path, "".join(f"{line}\n" for line in (heading, *kept)))
