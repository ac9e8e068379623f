"""What a notebook needs: evaluations by the published name of their folder, and pictures with their tables.

Nothing here ends in a traceback for evaluations that are not there, damaged or called the same, for settings that are
not known, nor for pictures that cannot be saved: what cannot be shown is a sentence.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from gnm.analysis.cost_figures import cost_by_documents, cost_lines
from gnm.analysis.drawing import save_with_table
from gnm.analysis.grouped import at_ages, grouped_bars, of_folders, of_measures
from gnm.analysis.heatmaps import heatmaps
from gnm.analysis.lines import measure_lines
from gnm.analysis.measures import measure_frame
from gnm.analysis.report import cost_frame
from gnm.analysis.saved import SavedEvaluation, by_method, find_evaluations, metric_frame
from gnm.analysis.shown import Picture, Pictures, Sentence
from gnm.analysis.style import in_order, method_style, with_variant
from gnm.analysis.tables import figures_in, select, wide
from gnm.errors import DataError, GNMError, of_disk


@dataclass(frozen=True, slots=True)
class Folder:
    """The evaluations of one folder by method; `found` is empty where there are none.

    own: this project's name of the folder. asked: the methods that `only` chose. clash: which two folders of methods
    are called the same in figures; then none of them is read.
    """

    name: str
    found: Mapping[str, SavedEvaluation]
    own: str
    asked: tuple[str, ...] = ()
    clash: str = ""

    @property
    def evaluations(self) -> Mapping[str, SavedEvaluation]:
        """The evaluations by method. Raises DataError, which says why, when there are none."""
        if not self.found:
            methods = ", ".join(method_style(method).name for method in in_order(self.asked))
            raise DataError(
                self.clash or f"there are no evaluations of {f'{methods} in ' if methods else ''}{self.name}"
            )
        return self.found

    def metrics(self) -> pd.DataFrame:
        """Metrics. Raises DataError when the folder has no evaluation."""
        parts = [metric_frame([each]).assign(method=method, variant="") for method, each in self.evaluations.items()]
        return select(pd.concat(parts, ignore_index=True))

    def measures(self, names: Sequence[str], by: str) -> pd.DataFrame:
        """Measures by cell, age or t. Raises DataError when the folder has no evaluation, or none of them."""
        return measure_frame(self.evaluations, names, by)

    def cost(self) -> pd.DataFrame:
        """Cost after the last document, of the methods that saved it. Raises DataError as `metrics`."""
        return cost_frame(self.evaluations)

    def __bool__(self) -> bool:
        return bool(self.found)

    def only(self, *methods: str) -> "Folder":
        """The same folder with these methods alone."""
        chosen = {method: each for method, each in self.found.items() if method in methods}
        return replace(self, found=chosen, asked=methods if self.found else ())

    def missing(self, methods: Sequence[str], command: str) -> Sentence:
        """Which of `methods` have no evaluation here, and the command that makes them.

        A variant counts under its full name too where all that is here are of one variant.
        """
        if self.clash:
            return Sentence(f"`{self.name}` is not read: {self.clash}.")
        full = {with_variant(each.method, each.variant) for each in self.found.values()}
        return missing(self.name, full | set(self.found), methods, command, self.own)


@dataclass(frozen=True, slots=True)
class Page:
    """Where a notebook reads and draws. `names` turns published folder names into this project's."""

    root: Path
    names: Mapping[str, str]
    output: Path

    def read(self, published: str, variant: str | None = None) -> Folder:
        """The evaluations under the published name where the root has it, else under this project's.

        `variant`: those alone whose folder's name ends so (`gnm_val_id`), under the method's own name; None: all.
        """
        own = self.names.get(published, published)
        name = published if (Path(self.root) / published).is_dir() else own
        try:
            found = find_evaluations(self.root, [name])
        except DataError:
            return Folder(name, {}, own)
        if variant is not None:
            found = [each for each in found if each.variant == variant]
        several = variant is None and len({each.variant for each in found}) > 1
        try:
            return Folder(name, by_method(found, several), own)
        except DataError as error:
            return Folder(name, {}, own, clash=str(error))

    def draw(self, name: str, make: Callable[[], tuple[Figure, pd.DataFrame]]) -> Picture | Sentence:
        """Save what `make` draws, and its table, as `output/name`; a sentence where there is nothing to draw."""
        shown = self.draw_several(name, lambda: [make()])
        return shown.pictures[0] if isinstance(shown, Pictures) else shown

    def draw_several(self, name: str, make: Callable[[], Sequence[tuple[Figure, pd.DataFrame]]]) -> Pictures | Sentence:
        """As `draw`, for figures that belong together: `output/name` for a single one, else `name_1`, `name_2` on."""
        try:
            drawn = make()
        except GNMError as error:
            return Sentence(f"Not drawn: {error}.")
        names = [name] if len(drawn) == 1 else [f"{name}_{number + 1}" for number in range(len(drawn))]
        try:
            saved = [save_with_table(*each, Path(self.output) / own) for each, own in zip(drawn, names, strict=True)]
        except OSError as error:
            if (problem := of_disk(error)) is None:
                raise
            return Sentence(f"Not saved: {problem}.")
        return Pictures(tuple(Picture(paths[0]) for paths in saved))

    def say(self, make: Callable[[], str]) -> Sentence:
        """What `make` says, or that there is nothing to say."""
        try:
            return Sentence(make().strip() or "Nothing to say: there are no evaluations.")
        except GNMError as error:
            return Sentence(f"Nothing to say: {error}.")

    def frame(self, make: Callable[[], pd.DataFrame]) -> pd.DataFrame | Sentence:
        """The table that `make` gives, or that there is none."""
        try:
            return make()
        except GNMError as error:
            return Sentence(f"No table: {error}.")

    def table(self, folder: Folder) -> pd.DataFrame | Sentence:
        """The usual metrics and the cost, a row a method."""

        def make() -> pd.DataFrame:
            metrics = folder.metrics()
            return wide(metrics, figures_in(metrics), folder.cost())

        return self.frame(make)

    def bars(
        self, name: str, folder: Folder, title: str, measures: Sequence[str], reference: str | None = None
    ) -> Picture | Sentence:
        """Metrics beside each other, those of `measures` that some method has."""

        def make() -> tuple[Figure, pd.DataFrame]:
            frame = of_measures(folder.metrics(), measures)
            return grouped_bars(frame, title, [*frame["measure"].unique()], reference), frame

        return self.draw(name, make)

    def folders(
        self, name: str, folders: Mapping[str, Folder], title: str, measures: Sequence[str]
    ) -> Picture | Sentence:
        """The same metrics in several folders, by what these are called in words; empty ones are left out.

        Of a single folder the metrics stand in one panel, and the title says which folder it is.
        """

        def make() -> tuple[Figure, pd.DataFrame]:
            frames = {words: folder.metrics() for words, folder in folders.items() if folder or folder.clash}
            if len(frames) == 1:
                ((words, metrics),) = frames.items()
                frame = of_measures(metrics, measures, "share")
                return grouped_bars(frame, f"{title}: {words[0].lower()}{words[1:]}", ["share"]), frame
            frame = of_folders(frames, measures)
            return grouped_bars(frame, title, _there(frame, measures)), frame

        return self.draw(name, make)

    def at_ages(
        self,
        name: str,
        folder: Folder,
        title: str,
        measures: Sequence[str],
        ages: Sequence[int],
        reference: str | None = None,
    ) -> Picture | Sentence:
        """Bars of measures at chosen ages."""

        def make() -> tuple[Figure, pd.DataFrame]:
            frame = at_ages(folder.measures(measures, "age"), ages)
            return grouped_bars(frame, title, _there(frame, measures), reference), frame

        return self.draw(name, make)

    def lines(
        self,
        name: str,
        folder: Folder,
        title: str,
        measures: Sequence[str],
        along: str = "age",
        reference: str | None = None,
    ) -> Picture | Sentence:
        """Lines of measures by age, or by documents seen (`along="t"`)."""

        def make() -> tuple[Figure, pd.DataFrame]:
            frame = folder.measures(measures, along)
            return measure_lines(frame, title, _there(frame, measures), along, reference), frame

        return self.draw(name, make)

    def heatmaps(self, name: str, folder: Folder, title: str, measures: Sequence[str]) -> Pictures | Sentence:
        """Matrices of methods and measures, on as many pages as they need."""

        def make() -> list[tuple[Figure, pd.DataFrame]]:
            frame = folder.measures(measures, "cell")
            return heatmaps(frame, title, _there(frame, measures))

        return self.draw_several(name, make)

    def cost(self, name: str, folder: Folder, title: str) -> Picture | Sentence:
        """Cost by documents seen."""

        def make() -> tuple[Figure, pd.DataFrame]:
            frame = cost_by_documents(folder.evaluations)
            return cost_lines(frame, title), frame

        return self.draw(name, make)


def missing(name: str, has: Collection[str], methods: Sequence[str], command: str, own: str = "") -> Sentence:
    """Which of `methods` the folder `name`, which `has` some, lacks, and the command that makes them.

    own: this project's name of a published folder, into which the command writes.
    """
    absent = [method_style(method).name for method in in_order(set(methods) - set(has))]
    if not absent:
        return Sentence(f"`{name}` has every method that is asked for.")
    made = "them" if own in ("", name) else f"this project's, in `{own}`"
    return Sentence(f"Missing in `{name}`: {'; '.join(absent)}. `{command}` makes {made}.")


def _there(frame: pd.DataFrame, measures: Sequence[str]) -> list[str]:
    return [measure for measure in measures if measure in set(frame["measure"])]
