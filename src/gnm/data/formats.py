"""The sixty answer formats and how a text is wrapped in one.

- A format is a family (json, xml, yaml, csv, toml) and a key, named `json_text` and so on.
- The wrapping is the benchmark's own and deliberately literal: nothing is escaped, so the content can be read
  off an answer as the model wrote it.
"""

import difflib
from collections.abc import Iterable

from gnm.errors import ConfigError

TEMPLATES = {
    "json": "{{'{key}':'{text}'}}",
    "xml": "<{key}>{text}</{key}>",
    "yaml": "{key}: '{text}'",
    "csv": "{key},{text}",
    "toml": '[{key}]\nvalue = "{text}"',
}
FAMILIES = tuple(TEMPLATES)
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


def check_format(name: str) -> str:
    """Return `name` if it is one of FORMATS, else raise ConfigError naming the nearest one."""
    if name not in FORMATS:
        near = difflib.get_close_matches(name, FORMATS, n=1)
        hint = f"did you mean {near[0]!r}?" if near else "a name is family_key"
        raise ConfigError(f"unknown format {name!r} ({hint}); families: {', '.join(FAMILIES)}; keys: {', '.join(KEYS)}")
    return name


def apply_format(text: str, name: str | None) -> str:
    """Wrap `text` in the format `name`; None leaves it as it is. Raises ConfigError for an unknown name."""
    if name is None:
        return text
    family, key = check_format(name).split("_")
    return TEMPLATES[family].format(key=key, text=text)
