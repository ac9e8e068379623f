"""The sixty answer formats: how a text is wrapped in one, and how the wrapping is recognised in an answer.

- A format is a family (json, xml, yaml, csv, toml) and a key, named `json_text` and so on.
- The wrapping is the benchmark's own and deliberately literal: nothing is escaped, so the content can be read
  off an answer as the model wrote it.
- Recognising is lenient about white space and the kind of quotes, and needs no closing part: answers are cut off.
"""

import difflib
import re
from collections.abc import Iterable
from typing import NamedTuple

from gnm.errors import ConfigError

TEMPLATES = {
    "json": "{{'{key}':'{text}'}}",
    "xml": "<{key}>{text}</{key}>",
    "yaml": "{key}: '{text}'",
    "csv": "{key},{text}",
    "toml": '[{key}]\nvalue = "{text}"',
}
FAMILIES = tuple(TEMPLATES)
_MORE_TEMPLATES = {
    "bbcode": "[{key}]{text}[/{key}]",
    "call": '{key}("{text}")',
    "field": ":{key}: {text}",
    "ini": "{key} = {text}",
    "latex": "\\{key}{{{text}}}",
    "lisp": '({key} "{text}")',
    "markdown": "**{key}:** {text}",
    "wiki": "{{{{{key}|{text}}}}}",
}
"""Families beside the benchmark's, so that training in people's words sees more ways of wrapping than four."""
KEYS = (
    "response",
    "message",
    "text",
    "string",
    "chat",
    "content",
    "reply",
    "answer",
    "body",
    "payload",
    "data",
    "output",
)


def format_names(families: Iterable[str] = FAMILIES, keys: Iterable[str] = KEYS) -> tuple[str, ...]:
    """Names of the formats of these families with these keys, families first."""
    keys = tuple(keys)
    return tuple(f"{family}_{key}" for family in families for key in keys)


FORMATS = format_names()
_HELD_OUT_FAMILY, _HELD_OUT_KEYS = "xml", ("text", "content")
_TRAINED = tuple(family for family in FAMILIES if family != _HELD_OUT_FAMILY)
FORMAT_GROUPS = {
    "train": format_names(_TRAINED, (key for key in KEYS if key not in _HELD_OUT_KEYS)),
    "held_out_keys": format_names(_TRAINED, _HELD_OUT_KEYS),
    "unseen_family": format_names((_HELD_OUT_FAMILY,)),
    "people": format_names((*_TRAINED, *_MORE_TEMPLATES), (key for key in KEYS if key not in _HELD_OUT_KEYS)),
}
"""Groups of formats. train: experiment 2 trains on these. held_out_keys, unseen_family: it is evaluated on these, and
trained on none of them. people: training in people's words draws from these."""
_KNOWN = {*FORMATS, *FORMAT_GROUPS["people"]}


def check_format(name: str) -> str:
    """Return `name` if it is one of FORMATS or of the group "people", else raise ConfigError naming the nearest one."""
    if name not in _KNOWN:
        near = difflib.get_close_matches(name, FORMATS, n=1)
        hint = f"did you mean {near[0]!r}?" if near else "a name is family_key"
        raise ConfigError(f"unknown format {name!r} ({hint}); families: {', '.join(FAMILIES)}; keys: {', '.join(KEYS)}")
    return name


def formats_of(named: str | Iterable[str]) -> list[str]:
    """The formats of a group of FORMAT_GROUPS, or those named one by one. Raises ConfigError for an unknown name."""
    if not isinstance(named, str):
        return [check_format(name) for name in named]
    if named not in FORMAT_GROUPS:
        raise ConfigError(f"unknown group of formats {named!r}; use one of {', '.join(FORMAT_GROUPS)}, or a list")
    return list(FORMAT_GROUPS[named])


def apply_format(text: str, name: str | None) -> str:
    """Wrap `text` in the format `name`; None leaves it as it is. Raises ConfigError for an unknown name."""
    if name is None:
        return text
    family, key = check_format(name).split("_")
    return (TEMPLATES | _MORE_TEMPLATES)[family].format(key=key, text=text)


MALFORMED = "MALFORMED_FORMAT"
"""The name that `recognise` gives to JSON without its opening brace: an answer that begins with a quoted key."""
_QUOTED = r"(?P<quote>['\"])\s*{key}\s*(?P=quote)\s*:\s*['\"]"
_OPENINGS = {
    "json": r"\s*\{\s*" + _QUOTED,
    "xml": r"\s*<\s*{key}\s*>[\s'\"]*",
    "yaml": r"\s*{key}\s*:\s*['\"]?",
    "csv": r"\s*{key}\s*,\s*",
    "toml": r"\s*\[\s*{key}\s*\]\s*\n\s*value\s*=\s*['\"]",
    MALFORMED: r"\s*" + _QUOTED,
}
_KEYS = {MALFORMED: KEYS[:6]}  # the benchmark recognises only these without a brace
_PATTERNS = {
    family: re.compile(opening.replace("{key}", f"(?P<key>{'|'.join(_KEYS.get(family, KEYS))})"))
    for family, opening in _OPENINGS.items()
}


class Recognised(NamedTuple):
    """The format that an answer is in (None: no format), and the place in the text at which its content begins."""

    format: str | None
    offset: int


def recognise(text: str) -> Recognised:
    """The format that `text` begins with: one of FORMATS, MALFORMED, or None with offset 0."""
    for family, pattern in _PATTERNS.items():
        if match := pattern.match(text):
            name = MALFORMED if family == MALFORMED else f"{family}_{match['key']}"
            return Recognised(name, match.end())
    return Recognised(None, 0)
