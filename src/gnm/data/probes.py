"""Probes: small tests of a memory in a person's own words. A probe writes a document or two, then asks.

The file is a JSON list; `data/people/README.md` describes its fields. Probes are for evaluation only: no training
phrasing or document shares five words in a row with them (a test says so).
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gnm.data.formats import check_format
from gnm.data.sources import read_json
from gnm.errors import ConfigError, DataError

EXPECTATIONS = ("learned", "ignored", "neighbour", "refused")


@dataclass(frozen=True, slots=True)
class ProbeQuery:
    """A question. `learn`: the object as the document states it; `true`: that of the real world; `rival`: an outdated
    one, None if there is none; `expect`: one of EXPECTATIONS; `format`: of the answer, None for none."""

    text: str
    form: str
    learn: str
    true: str
    expect: str
    format: str | None = None
    rival: str | None = None

    @property
    def right(self) -> str:
        """The object to be answered with; for a query to be refused that of the document, which must not be said."""
        return self.learn if self.expect in ("learned", "refused") else self.true

    @property
    def wrong(self) -> tuple[str, ...]:
        """The objects that must be less likely than the right one."""
        other = self.true if self.expect in ("learned", "refused") else self.learn
        return tuple(text for text in (other, self.rival) if text and text != self.right)


@dataclass(frozen=True, slots=True)
class Probe:
    """`steps`: pairs of a document (empty: the instruction stands alone) and an instruction, written in order."""

    id: str
    kind: str
    document_style: str
    question_style: str
    steps: tuple[tuple[str, str], ...]
    queries: tuple[ProbeQuery, ...]


def read_probes(path: str | Path) -> list[Probe]:
    """Read a file of probes. Raises DataError naming file, probe and field for anything missing or foreign."""
    table = read_json(Path(path))
    if not isinstance(table, list) or not table:
        raise DataError(f"{path} must hold a non-empty list of probes")
    probes = [_probe(entry, f"{path}, probe {number}") for number, entry in enumerate(table)]
    if len({probe.id for probe in probes}) < len(probes):
        raise DataError(f"{path}: two probes share an id; give each its own")
    return probes


def _probe(entry: Any, where: str) -> Probe:
    style = _get(entry, "style", dict, where)
    steps = tuple(
        (_get(step, "document", str, where), _get(step, "instruction", str, where))
        for step in _get(entry, "steps", list, where)
    )
    queries = tuple(_query(query, where) for query in _get(entry, "queries", list, where))
    if not steps or not queries:
        raise DataError(f"{where}: it needs at least one step and one query")
    if any(not instruction.strip() for _, instruction in steps):
        raise DataError(f"{where}: an instruction is empty")
    return Probe(
        _get(entry, "id", str, where),
        _get(entry, "kind", str, where),
        _get(style, "document", str, where),
        _get(style, "question", str, where),
        steps,
        queries,
    )


def _query(entry: Any, where: str) -> ProbeQuery:
    text, form, learn, true, expect = (
        _get(entry, name, str, where) for name in ("text", "form", "learn", "true", "expect")
    )
    if expect not in EXPECTATIONS:
        raise DataError(f"{where}: unknown expect {expect!r}; known: {', '.join(EXPECTATIONS)}")
    format, rival = entry.get("format"), entry.get("rival")
    if format is not None:
        try:
            check_format(format)
        except ConfigError as error:
            raise DataError(f"{where}: {error}") from error
    return ProbeQuery(text, form, learn, true, expect, format, rival)


def _get(entry: Any, name: str, kind: type, where: str) -> Any:
    if not isinstance(entry, dict) or not isinstance(entry.get(name), kind):
        raise DataError(f"{where}: field {name!r} must be a {kind.__name__}")
    return entry[name]
