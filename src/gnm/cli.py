"""`gnm`: write into, ask, chat with, prune, serve and look at memory files; look at data; plan, train, evaluate."""

import argparse
import gc
import pkgutil
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from gnm import __version__
from gnm.errors import ConfigError, MemoryFileError, exit_on_error
from gnm.extras import optional_imports
from gnm.shell import chat, described, documents_of, printable, to_forget
from gnm.texts import check_text

if TYPE_CHECKING:  # torch is imported by those commands alone that need it
    from gnm.conversation import Conversation
    from gnm.memory.files import SavedMemory


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command; errors that are the user's to solve end in one sentence."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given and given[0] in _PROGRAMS:
        with exit_on_error(), optional_imports(), _without_collection():
            program = pkgutil.resolve_name(_PROGRAMS[given[0]])
        program(given[1:])
        return
    options = _parser().parse_args(given)
    with exit_on_error():
        options.run(options)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="gnm", description=__doc__.splitlines()[0])
    parser.add_argument("--version", action="version", version=f"gnm {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("memory", type=Path, help="memory file (safetensors)")
    common.add_argument("--adapter", default=None, help="adapter folder; default: the shipped one")
    common.add_argument("--backbone", default=None, help="backbone, untrained unless --adapter is given too")
    common.add_argument("--capacity", type=_count, default=None, metavar="SLOTS", help="slots of the pool (no limit)")
    common.add_argument(
        "--eviction", choices=("random", "oldest", "weakest"), default=None,
        help="what a pool of a --capacity drops when it is full (default: as the model has it, or random)",
    )  # fmt: skip
    common.add_argument(
        "--store", type=_count, default=None, metavar="SEGMENTS",
        help="keep what a full pool evicts in a long-term store; a question reads so many segments of it",
    )  # fmt: skip
    changing = argparse.ArgumentParser(add_help=False, parents=[common])
    changing.add_argument(
        "--timeout", type=_seconds, default=60.0, metavar="SECONDS",
        help="how long to wait for another process that has the memory open (default: 60)",
    )  # fmt: skip
    writing = argparse.ArgumentParser(add_help=False, parents=[changing])
    writing.add_argument(
        "--long", choices=("refuse", "split"), default="refuse",
        help="what to do with a document that is longer than the model reads at once (default: refuse)",
    )  # fmt: skip

    write = commands.add_parser("write", parents=[writing], help="write a document into the memory; makes the file")
    write.add_argument("document", nargs="+", help="a text (@@ for one that begins with @), @FILE or @FOLDER")
    write.add_argument("--instruction", required=True, help="what to take from each, in plain English")
    write.set_defaults(run=_write)
    ask = commands.add_parser("ask", parents=[common], help="have questions answered, or phrases continued")
    ask.add_argument("phrase", nargs="+")
    ask.add_argument("--max-new-tokens", type=_count, default=16)
    ask.set_defaults(run=_ask)
    chat = commands.add_parser("chat", parents=[writing], help="write, ask, forget, undo and inspect in one session")
    chat.add_argument(
        "--keep-history", action="store_true",
        help="let undo bring back what was forgotten; otherwise forget clears what can be undone",
    )  # fmt: skip
    chat.set_defaults(run=_chat)
    forget = commands.add_parser("forget", parents=[changing], help="drop what a document wrote, or words take back")
    forget.add_argument("what", help="a document's number, as `gnm inspect` shows it, or an instruction in words")
    forget.set_defaults(run=_forget)
    merge = commands.add_parser("merge", parents=[changing], help="take in the documents of another memory")
    merge.add_argument("other", type=Path, help="memory file of the same model")
    merge.set_defaults(run=_merge)
    inspect = commands.add_parser("inspect", parents=[common], help="show what is in the memory, and what was stored")
    inspect.add_argument("--stats", action="store_true", help="numbers by document instead: slots, strength, evictions")
    inspect.set_defaults(run=_inspect)
    convert = commands.add_parser("convert", help="write a published checkpoint's weights to one safetensors file")
    convert.add_argument("checkpoint", type=Path, help="folder of shards, or a .safetensors or .pth file")
    convert.add_argument("target", type=Path, help="the file to write")
    convert.set_defaults(run=_convert)
    for name in _PROGRAMS:
        commands.add_parser(name, help=f"as `python -m` does; `gnm {name} --help` says more")
    return parser


def _count(given: str) -> int:
    if not given.isdecimal() or not 0 < int(given) < 2**31:
        raise argparse.ArgumentTypeError(f"{given} is no number of them; give one from 1 to {2**31 - 1}")
    return int(given)


def _seconds(given: str) -> float:
    try:
        seconds = float(given)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < float("inf"):
        raise argparse.ArgumentTypeError(f"{given} is no number of seconds; give 0 or more")
    return seconds


@contextmanager
def _without_collection() -> Iterator[None]:
    """Collect no garbage while libraries and a model load; later collections pass over their objects, which stay."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()  # the process's end, too, would go through all of them
        gc.enable()


@contextmanager
def _changing(
    options: argparse.Namespace, must_exist: bool = True, check: Callable[["SavedMemory"], object] | None = None
) -> Iterator["Conversation"]:
    """The conversation of a command that changes the memory file, which no other process can change meanwhile.

    check: is given what the file holds, before the model is loaded.
    """
    from gnm.memory.files import locked

    _check_exists(options.memory, must_exist)
    with locked(options.memory, options.timeout):
        yield _conversation(options, must_exist, check)


def _check_exists(path: Path, must_exist: bool = True) -> None:
    """Raise MemoryFileError, before any work, if there is no file where one is needed."""
    if must_exist and not path.exists():
        raise MemoryFileError(f"there is no memory file {path}; `gnm write` makes one")


def _check_pool_counts(options: argparse.Namespace, saved: "SavedMemory") -> None:
    """Raise ConfigError for settings of the pool that a command which writes nothing would not use: it evicts nothing,
    unless there is a long-term store for it."""
    given = [f"--{name}" for name in ("capacity", "eviction") if getattr(options, name) is not None]
    if given and not (options.store or saved.state.store):
        raise ConfigError(
            f"{' and '.join(given)} would change nothing: a pool drops slots when something is written, and "
            f"{saved.path} has no long-term store; leave that out, or give both --capacity and --store SEGMENTS"
        )


@_without_collection()
def _conversation(
    options: argparse.Namespace, must_exist: bool = True, check: Callable[["SavedMemory"], object] | None = None
) -> "Conversation":
    from gnm.api import DEFAULT_ADAPTER, load
    from gnm.memory.files import read_memory

    _check_exists(options.memory, must_exist)
    saved = read_memory(options.memory) if must_exist or options.memory.exists() else None
    if saved and check:
        check(saved)
    adapter = options.adapter or (None if options.backbone else DEFAULT_ADAPTER)
    store = {"k": options.store} if options.store else None
    pool = {"capacity": options.capacity, "eviction": options.eviction, "store": store}
    return load(adapter, backbone=options.backbone, memory=saved, **pool)


def _write(options: argparse.Namespace) -> None:
    check_text(options.instruction, "instruction", "say what is to be taken from the document")
    documents = [text for given in options.document for text in documents_of(given)]
    with _changing(options, must_exist=False) as conversation:
        for place, text in enumerate(documents, 1):
            try:
                conversation.write(text, options.instruction, long=options.long)
            except MemoryFileError as error:
                if len(documents) == 1:
                    raise
                which = f"none of {len(documents)} documents is written, because of number {place} ({text[:40]!r} ...)"
                raise MemoryFileError(f"{which}: {error}") from error
        conversation.save_memory(options.memory)
    for written in conversation.documents[-len(documents) :]:
        print(f"document {written.number}: {written.slots} slots written to {options.memory}")


def _ask(options: argparse.Namespace) -> None:
    for phrase in options.phrase:
        check_text(phrase, "phrase", "ask a question, or for the continuation of some words")
    conversation = _conversation(options, check=partial(_check_pool_counts, options))
    for answer in conversation.ask_all(options.phrase, options.max_new_tokens):
        print(printable(answer, lines=True))


def _chat(options: argparse.Namespace) -> None:
    with _changing(options, must_exist=False) as conversation:
        chat(conversation, options.memory, options.long, options.keep_history)


def _forget(options: argparse.Namespace) -> None:
    from gnm.memory.notes import without_document

    what = to_forget(options.what)

    def check(saved: "SavedMemory") -> None:
        _check_pool_counts(options, saved)
        if isinstance(what, int):
            without_document(saved.state, saved.notes, what)

    with _changing(options, check=check) as conversation:
        if isinstance(what, int):
            conversation.forget(what)
            said = f"document {what} is forgotten; {len(conversation.documents)} documents are left"
        else:
            dropped = conversation.revoke(what)
            left = sum(conversation.state.documents().values())
            said = f"{dropped} slots are dropped; {left} are left"
        conversation.save_memory(options.memory)
    print(said)


def _merge(options: argparse.Namespace) -> None:
    from gnm.memory.checks import check_searchable
    from gnm.memory.files import read_memory

    _check_exists(options.other)
    _check_exists(options.memory)
    if options.other.samefile(options.memory):
        raise MemoryFileError(f"{options.other} is the memory itself, which would know all twice; merge another")
    other = read_memory(options.other)

    def check(saved: "SavedMemory") -> None:
        if saved.model != other.model:
            raise MemoryFileError(
                f"{options.other} was written by the model {other.model!r}, {options.memory} by {saved.model!r}; merge "
                "memories of one model"
            )
        if not (saved.state.store or options.store):
            check_searchable(other.path, other.state, None)

    with _changing(options, check=check) as conversation:
        conversation.merge(other)
        conversation.save_memory(options.memory)
    print(f"{options.memory}: {len(conversation.documents)} documents")


def _inspect(options: argparse.Namespace) -> None:
    from gnm.memory.statistics import as_text, statistics

    conversation = _conversation(options, check=partial(_check_pool_counts, options))
    if options.stats:
        print(as_text(statistics(conversation.state), conversation.state))
    else:
        print(described(conversation, options.memory))


def _convert(options: argparse.Namespace) -> None:
    from gnm.weights.tensor_files import convert

    print(f"{options.target}: {convert(options.checkpoint, options.target)} tensors")


# Imported where they are called: they take seconds.
_PROGRAMS = {
    "serve": "gnm.serve.program:main",
    "train": "gnm.train:main",
    "evaluate": "gnm.evaluate:main",
    "report": "gnm.analysis.report:main",
    "results": "gnm.analysis.report:results_main",
    "plan": "gnm.plan:main",
    "data": "gnm.data.people.show:main",
    "harness": "gnm.harness:main",
}

if __name__ == "__main__":
    main()
