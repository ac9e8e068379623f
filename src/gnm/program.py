"""The command line of programs that read their settings from a params.yaml."""

import argparse
from collections.abc import Callable, Sequence
from typing import Any

from gnm.config import Schema, add_params_arguments, load_params
from gnm.errors import exit_on_error


def run_program(
    module: str,
    about: str,
    schema: type[Schema],
    run: Callable[[Schema, str], Any],
    arguments: Sequence[str] | None = None,
) -> None:
    """Read the settings, check them, and call `run` with them and with the command line, as text.

    module: where the program is, as in `python -m gnm.train`. about: its docstring; the first line becomes the help.
    arguments: None for those of the process. An error of the project's own ends the program in one sentence.

        run_program("gnm.demo", __doc__, DemoParams, lambda params, command: print(demo(params)))
    """
    options = _parser(module, about).parse_intermixed_args(arguments)
    with exit_on_error():
        run(load_params(options.params, schema, options.overrides, options.block), _command_line(module, options))


def run_method(
    module: str,
    about: str,
    schema: type[Schema],
    run: Callable[[Schema, str, str], Any],
    arguments: Sequence[str] | None = None,
) -> None:
    """As `run_program`, for one of the `methods` of the settings: `run` gets settings, method and command line."""
    parser = _parser(module, about)
    parser.add_argument("--method", required=True, help="one of the keys of `methods`")
    options = parser.parse_intermixed_args(arguments)
    with exit_on_error():
        params = load_params(options.params, schema, options.overrides, options.block)
        run(params, options.method, _command_line(module, options))


def _parser(module: str, about: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=f"python -m {module}", description=about.splitlines()[0])
    add_params_arguments(parser)
    return parser


def _command_line(module: str, options: argparse.Namespace) -> str:
    """The command that a program was started with, as one would type it in the experiment's folder."""
    parts = ["python -m", module]
    parts += [f"--{name} {getattr(options, name)}" for name in ("method", "block") if getattr(options, name, None)]
    return " ".join([*parts, *options.overrides])
