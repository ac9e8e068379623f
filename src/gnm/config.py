"""Strict settings: the schema base, the reading of params.yaml, and overrides from the command line.

- Unknown keys are errors that name the key's place and the nearest known key.
- A schema is a frozen pydantic model; each program declares its own (`params.py`, `data/pipelines.py`).
"""

import argparse
import difflib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from gnm.errors import ConfigError

_MOST_NODES = 100_000
_MOST_PROBLEMS = 10  # that an error describes
_LONGEST = 100  # characters of a key or value that are shown
_KIND = re.compile(r"[a-z-]+\[.*\]", re.DOTALL)


class StrictModel(BaseModel):
    """A settings block: unknown keys are refused, values don't change after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True)


Schema = TypeVar("Schema", bound=StrictModel)


def read_blocks(path: str | Path) -> dict[str, Any]:
    """The top level of a settings file. Raises ConfigError if it cannot be read, or is no mapping in YAML."""
    path = Path(path)
    try:
        params = _parse(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read settings from {path}: {error.strerror}; name a file that is there") from error
    except RecursionError as error:
        raise ConfigError(f"{path} is nested too deeply; settings are a few levels deep") from error
    except (yaml.YAMLError, ValueError) as error:
        raise ConfigError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(params, dict):
        raise ConfigError(f"{path} must hold a mapping of settings, it holds {type(params).__name__}")
    return params


def load_params(
    path: str | Path, schema: type[Schema], overrides: Sequence[str] = (), block: str | None = None
) -> Schema:
    """Read a YAML file into `schema`; `overrides` are "a.b=value" with a YAML value.

    block: name of the top-level block that holds the settings, None: the whole file. Overrides are within it. What
    the block has not of its own it takes from the top level of the file, so that blocks can share settings there.
    Raises ConfigError with the problems found, each with its place in the file.
    """
    params = read_blocks(path)
    if block is not None:
        if not isinstance(params.get(block), dict):
            raise ConfigError(f"{path} has no block {block!r}; it has: {', '.join(map(str, params))}")
        params = {key: params[key] for key in schema.model_fields if key in params} | params[block]
    for override in overrides:
        _set(params, override)
    try:
        return validate(params, schema, where=f"{path}, {block}" if block else str(path))
    except ConfigError as error:
        if block is None and (blocks := _blocks_for(schema, params)):
            raise ConfigError(f"{path} has its settings in blocks; read one: --block {' or '.join(blocks)}") from error
        raise


def _blocks_for(schema: type[Schema], params: Mapping[str, Any]) -> list[str]:
    """The top-level blocks of a file that hold the most of what `schema` needs and the top level lacks."""
    needed = {name for name, field in schema.model_fields.items() if field.is_required()} - params.keys()
    inner = {name: value for name, value in params.items() if name not in schema.model_fields}
    held = {str(name): len(needed & value.keys()) for name, value in inner.items() if isinstance(value, dict)}
    return [name for name, count in held.items() if count == max(held.values()) > 0]


def validate(params: dict[str, Any], schema: type[Schema], where: str) -> Schema:
    """Check a plain dict against `schema`; ConfigError describes the first problems, `where` names the source."""
    try:
        return schema.model_validate(params)
    except ValidationError as error:
        problems = [_describe(item, schema) for item in error.errors(include_url=False)[:_MOST_PROBLEMS]]
        more = error.error_count() - len(problems)
        raise ConfigError(f"{where}: {'; '.join(problems)}{f'; and {more} more' if more else ''}") from error


def add_params_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments by which every program is given its settings."""
    parser.add_argument("--params", type=Path, default=Path("params.yaml"), help="settings file (params.yaml)")
    parser.add_argument("--block", help="block of the settings file to read; without it the whole file")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings that replace the file's")


class _Loader(yaml.SafeLoader):
    """Safe YAML in which a key that stands twice in a mapping is an error, not quietly the last of the two; and a whole
    number beyond 64 bits too."""

    def compose_mapping_node(self, anchor):
        node, seen = super().compose_mapping_node(anchor), set()
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if key.value in seen:
                raise yaml.MarkedYAMLError(problem=f"the key {key.value!r} stands twice", problem_mark=key.start_mark)
            seen.add(key.value)
        return node

    def construct_yaml_int(self, node):
        value = super().construct_yaml_int(node)
        if abs(value) >= 2**63:  # no seed, no count
            raise yaml.MarkedYAMLError(problem="the number takes more than 64 bits", problem_mark=node.start_mark)
        return value


_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_yaml_int)


def _parse(text: str) -> Any:
    """The value of a YAML text. Raises YAMLError, ValueError (a number too long to read) or RecursionError."""
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        _expanded(node, {})
        return loader.construct_document(node)
    finally:
        loader.dispose()


def _expanded(node: yaml.Node, sizes: dict[int, int]) -> int:
    """Nodes of `node` with every alias written out; sizes: those known by the node's id.

    Raises YAMLError above _MOST_NODES: aliases of aliases make gigabytes of a few lines.
    """
    if id(node) in sizes:
        return sizes[id(node)]
    sizes[id(node)] = _MOST_NODES  # a node within itself never ends
    inside = () if isinstance(node, yaml.ScalarNode) else node.value
    parts = [part for each in inside for part in (each if isinstance(each, tuple) else (each,))]
    size = 1
    for part in parts:
        size += _expanded(part, sizes)
        if size > _MOST_NODES:
            raise yaml.MarkedYAMLError(
                problem=f"with its aliases written out it has more than {_MOST_NODES:,} values",
                problem_mark=node.start_mark,
            )
    sizes[id(node)] = size
    return size


def _set(params: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not all(key.split(".")):
        raise ConfigError(f"override {override!r} is not of the form key.subkey=value")
    try:
        value = _parse(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(f"override {override!r}: the value is not valid YAML") from error
    *parents, last = key.split(".")
    block = params
    for parent in parents:
        if block.get(parent) is None:
            block[parent] = {}
        block = block[parent]
        if not isinstance(block, dict):
            raise ConfigError(f"override {override!r}: {parent!r} is a value, not a block of settings")
    block[last] = value


def _describe(item: dict[str, Any], schema: type[BaseModel]) -> str:
    # pydantic's own names of what a value could be, "list[...]" or "lax-or-strict[...]", say nothing to people
    *above, last = map(str, item["loc"] or ("",))
    kept = [part for part in above if not _KIND.fullmatch(part)]
    own = last if item["type"] == "extra_forbidden" or not _KIND.fullmatch(last) else None
    place = _short(".".join(kept if own is None else [*kept, own]))
    if item["type"] == "extra_forbidden":
        known = _fields_at(schema, item["loc"][:-1])
        near = difflib.get_close_matches(_short(str(item["loc"][-1])), known, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}?" if near else f"known here: {', '.join(sorted(known))}"
        return f"unknown key {place!r} ({hint})"
    if item["type"] == "missing":
        return f"missing key {place!r}"
    return f"{place or 'settings'}: {item['msg']}{_got(item['input'])}"


def _got(value: Any) -> str:
    """The value that was wrong, in brackets; nothing for a whole block of settings."""
    if isinstance(value, (dict, BaseModel)):
        return ""
    return f" (got {_short(repr(value))})"


def _short(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."


def _fields_at(schema: type[BaseModel], location: tuple[Any, ...]) -> list[str]:
    """Names of the fields of the block at `location`."""
    types: list[Any] = [schema]
    for part in location:
        types = [inner for one in types for inner in _inside(one, part)] or types
    return [name for one in types for model in _models_in(one) for name in model.model_fields]


def _inside(annotation: Any, part: Any) -> list[Any]:
    """Types of what stands at key or index `part` of a value of type `annotation`; none if `part` is not one."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation.model_fields[part].annotation] if part in annotation.model_fields else []
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is dict:
        return [arguments[1]]
    if origin in (list, tuple):
        return list(arguments)
    return [inner for one in arguments for inner in _inside(one, part)]


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for inner in get_args(annotation) for model in _models_in(inner)]
