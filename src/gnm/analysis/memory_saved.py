"""What `gnm.probing.memory_analysis` and `layer_swap` saved, read and checked.

A measure has every layer of a target or none, and a swap has answers of every target in every block of layers: what is
drawn is then of all targets that the footnote counts.
"""

from pathlib import Path

import pandas as pd

from gnm.analysis.saved_lists import read_json
from gnm.errors import DataError
from gnm.files import recover_folders
from gnm.metrics.checked import Column, read_table, refuse

ABOVE = "change_above_others"
"""How much more the lines change that the instruction is about (to learn and to leave out alike) than the others."""
KINDS = ("none", "writing", "reading", "both")
_MOST, _AGAIN = 1e9, "make it again"
_LAYERS = {
    "target": Column("int64", False, "the fact"),
    "layer": Column("int64", False, "from 0 on", 0),
    "measure": Column("str", False, "what was measured"),
    "value": Column("float64", True, "null: not measured, as a single document's likeness", -_MOST, _MOST),
}  # fmt: skip
_ANSWERS = {
    "target": Column("int64", False, "the fact"),
    "kind": Column("str", False, "one of KINDS: what the swapped adapters do"),
    "first": Column("int64", False, "the first swapped layer; -1: none", -1),
    "last": Column("int64", False, "the last swapped layer; -1: none", -1),
    "measure": Column("str", False, "accuracy or selectivity"),
    "right": Column("bool", False, "the expected object scores above the other"),
    "margin": Column("float64", False, "by how much, logits", -_MOST, _MOST),
}


def methods_in(folder: Path) -> list[str]:
    """The methods whose slots were measured, and "layer_swap" if there is one."""
    return [path.parent.name for path in sorted(Path(folder).glob("[!.]*/*.parquet"))]


def read_layers(folder: Path) -> pd.DataFrame:
    """Every method's measures: columns method, target, layer, measure, value. Raises DataError if there are none."""
    recover_folders(folder)
    paths = sorted(Path(folder).glob("[!.]*/layers.parquet"))
    parts = [_layers(path).assign(method=path.parent.name) for path in paths]
    if not parts:
        raise DataError(f"no memory analysis under {folder} (looked for <method>/layers.parquet)")
    frame = pd.concat(parts, ignore_index=True)
    return pd.concat([frame, _above_others(frame)], ignore_index=True)


def read_swap(folder: Path) -> pd.DataFrame:
    """The answers of the layer swap, a row a question. Raises DataError if there are none."""
    recover_folders(folder)
    path = Path(folder) / "layer_swap" / "answers.parquet"
    if not path.is_file():
        raise DataError(f"no layer swap under {folder} (looked for layer_swap/answers.parquet)")
    frame, where = read_table(path, _ANSWERS, _AGAIN), f"{path} is damaged"
    refuse(~frame["kind"].isin(KINDS), where, f"'kind' must be one of {', '.join(KINDS)}", _AGAIN)
    swapped = frame["kind"] != "none"
    backwards = (frame["first"] > frame["last"]) | (swapped != (frame["first"] >= 0))
    refuse(backwards, where, "'first' and 'last' must be layers in their order, or -1 where none is swapped", _AGAIN)
    if swapped.all():
        raise DataError(f"{where}: it has no answers with no layer swapped; {_AGAIN}")
    blocks = {kind: set(map(tuple, own.to_numpy())) for kind, own in frame.groupby("kind")[["first", "last"]]}
    if len({frozenset(each) for kind, each in blocks.items() if kind != "none"}) > 1:
        kinds = " and ".join(sorted(set(blocks) - {"none"}))
        raise DataError(f"{where}: {kinds} differ in the layers that are swapped; {_AGAIN}")
    asked = frame.groupby(["measure", "kind", "first", "last"])["target"].agg(set)
    every = sorted((kind, *block) for kind, own in blocks.items() for block in own)
    for measure, targets in frame.groupby("measure")["target"].agg(set).items():
        for kind, first, last in every:
            if absent := targets - asked.get((measure, kind, first, last), set()):
                missing = f"{measure} of target {min(absent)} for {kind}, layers {first} to {last}"
                raise DataError(f"{where}: it has no answers on {missing}; {_AGAIN}")
    return frame


def components(folder: Path) -> int | None:
    """The number of singular values that all methods were measured with; None where it was not saved, or differs."""
    found = {_components(path) for path in Path(folder).glob("[!.]*/run_config.json")}
    return found.pop() if len(found) == 1 else None


def _components(path: Path) -> int | None:
    found = read_json(path).get("components")
    if found is not None and (type(found) is not int or found < 1):
        raise DataError(f"{path} is damaged: 'components' is no whole number above 0; {_AGAIN}")
    return found


def _layers(path: Path) -> pd.DataFrame:
    frame, where = read_table(path, _LAYERS, _AGAIN), f"{path} is damaged"
    twice = frame.duplicated(["measure", "target", "layer"])
    refuse(twice, where, "a measure has one value for a target and a layer", _AGAIN)
    there = frame.groupby(["measure", "target"])["value"].agg(["size", "count"])
    layers = frame["layer"].max() + 1
    partly = there[(there["size"] < layers) | (there["count"] > 0) & (there["count"] < layers)]
    if len(partly):
        measure, target = partly.index[0]
        has = partly["count"].iloc[0]
        raise DataError(f"{where}: {measure} of target {target} is there for {has} of {layers} layers; {_AGAIN}")
    return frame.dropna(subset="value")


def _above_others(frame: pd.DataFrame) -> pd.DataFrame:
    wide = frame.pivot(index=["method", "target", "layer"], columns="measure", values="value")
    if not {"change_learned", "change_left_out", "change_others"} <= set(wide.columns):
        return frame[:0]
    about = (wide["change_learned"] + wide["change_left_out"]) / 2
    return (about - wide["change_others"]).rename("value").dropna().reset_index().assign(measure=ABOVE)
