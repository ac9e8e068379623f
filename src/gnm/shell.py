"""What the shell commands of a memory share, and `gnm chat`: one session with the model loaded once."""

import io
import sys
import unicodedata
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

from gnm.errors import ConfigError, DataError, GNMError
from gnm.texts import check_subject, check_text

HELP = """\
  write DOCUMENT | INSTRUCTION   take from a text, @FILE or @FOLDER what the instruction says (@@: a text with @)
  ask QUESTION                   or a phrase to be continued; a line that is no command is one too
  say REQUEST                    a free request, answered at length
  forget NUMBER | forget WORDS   drop what a document wrote, or what the words take back; `undo` {undo}
  undo · inspect · save · help · quit (saves)"""
NOT_STORED = "(not stored)"
GONE = "`undo` goes back to nothing before it (`gnm chat --keep-history` keeps that)"
UNDO = "`undo` can bring it back until the session ends; the saved file holds nothing of it"


def documents_of(given: str) -> list[str]:
    """The texts that an argument names: itself, or the contents of @FILE, or of every file in @FOLDER by name.

    Hidden files of a folder (locks, a system's own) are left out. Of a text that begins with @@ the first one is taken
    away: so a text can begin with @.
    Raises ConfigError if @ stands alone, a file is empty or cannot be read as UTF-8 text, or a folder has no file;
    DataError for what is no text or blank.
    """
    if not given.startswith("@") or given.startswith("@@"):
        text = given.removeprefix("@")
        check_text(text, "document", "there is nothing to write")
        return [text]
    if not given[1:].strip():
        raise ConfigError("@ names no file; write @FILE or @FOLDER, or @@ for a text that begins with @")
    path = Path(given[1:])
    files = [path]
    if path.is_dir():
        files = sorted(each for each in path.iterdir() if each.is_file() and not each.name.startswith("."))
    if not files:
        raise ConfigError(f"the folder {path} has no file to write; give one with text files")
    return [_read(each) for each in files]


def to_forget(given: str) -> int | str:
    """What `forget` was given: a document's number, or words that take something back.

    Raises DataError for words that do not say what that is.
    """
    given = given.strip()
    if given.isdecimal() and len(given) < 19:
        return int(given)
    check_subject(given)
    return given


def _read(path: Path) -> str:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read the document {path}: {error}; give text files in UTF-8") from error
    if not text.strip():
        raise ConfigError(f"the document {path} is empty; there is nothing to write")
    return text


def described(conversation, name: Path | str) -> str:
    """What is in a memory, document by document; with gates, each line shaded by what they decided on its clauses.

    Control characters in its texts are shown escaped, so that a foreign file cannot command the terminal.
    """
    documents, used = conversation.documents, int(conversation.state.used().sum())
    used += sum(int(store.lengths.sum()) for store in conversation.state.store or ())
    parts = [f"{name}: {used} slots of {len(documents)} documents"]
    parts += _store_of(conversation)
    for document in documents:
        share = "#" * round(40 * document.slots / max(used, 1))
        texts = [printable(text) or NOT_STORED for text in (document.instruction, document.beginning)]
        parts.append(f"\n{document.number:4d}  {document.slots:5d} slots  {share}\n      {texts[0]}")
        parts.append(shaded(document.segments) or f"      {texts[1]}")
    return "\n".join(parts)


def _store_of(conversation) -> list[str]:
    """A line on the long-term store of a memory that has one, with the settings by which it is read."""
    if not conversation.state.store:
        return []
    held, pool = conversation.state.store[0], conversation.pool
    size = f"{len(held)} segments, {int(held.lengths.sum())} slots"
    read = f"a question reads {pool.store.k} of them, found by {held.search_key}"
    return [f"long-term store: {size}; {read}; pool: capacity {pool.capacity}, eviction {pool.eviction}"]


def printable(text: str, lines: bool = False) -> str:
    """`text` with control characters escaped, also those that turn the direction of writing or break the line.

    lines: line breaks stay, as in an answer of several lines.
    """
    harmless = "\t\u200c\u200d" + "\n" * lines  # joiners are part of some scripts
    return "".join(
        c if c.isprintable() or c in harmless or unicodedata.category(c) == "Zs"
        else c.encode("unicode_escape", "surrogatepass").decode()
        for c in text
    )  # fmt: skip


def shaded(segments: Iterable) -> str:
    """The lines of a document: the strongest gate of each in percent, how much is stored, and the text; "refuse" where
    all that is stored is to be refused. In a terminal a clause has a shade of green, or of red if it is to be refused,
    none where it is weak; elsewhere [brackets] hold what is not stored, {braces} what is to be refused. A clause
    without text is a line of its own."""
    lines, line = [], []
    for segment in segments:
        if segment.of_document and not segment.text:
            lines, line = [*lines, line, [replace(segment, text=NOT_STORED)]], []
        elif segment.of_document and segment.text.strip():
            line.append(segment)
            if "\n" in segment.text:
                lines, line = [*lines, line], []
    return "\n".join(_shaded_line(each) for each in [*lines, line] if each)


def _shaded_line(segments: list) -> str:
    text = "".join(_clause(segment) for segment in segments).rstrip()
    stored, tokens = (sum(getattr(segment, name) for segment in segments) for name in ("stored", "tokens"))
    mark = "stored" if stored == tokens else f"{stored}/{tokens}" if stored else "-"
    if stored and all(segment.is_refused for segment in segments if segment.stored):
        mark = "refuse"
    return f"      {max(segment.strength for segment in segments):4.0%} {mark:>7s}  {text}"


def _clause(segment) -> str:
    text = printable(segment.text.strip("\r\n"))
    bare = text.rstrip()
    space = text[len(bare) :]
    if bare == NOT_STORED:
        return bare
    if sys.stdout.isatty():
        level = round(segment.strength * 5)
        shade = 16 + (36 if segment.is_refused else 6) * level
        return (f"\x1b[97;48;5;{shade}m{bare}\x1b[0m" if level else bare) + space
    if not segment.stored:
        return f"[{bare}]{space}"
    return (f"{{{bare}}}" if segment.is_refused else bare) + space


def chat(
    conversation,
    path: Path,
    long: str = "refuse",
    keep_history: bool = False,
    read: Callable[[str], str] = input,
) -> None:
    """Read commands until "quit" or the end of input; errors are told and the session goes on. Saves at the end.

    Ctrl-C stops what is being written or answered, and the session goes on. What was written is saved too if something
    else ends the session (SIGTERM, an error of ours). If it cannot be saved at "quit", the session goes on.

    long: what is done with documents that are too long to be read at once, as for `Conversation.write`.
    keep_history: whether `undo` can bring back what was forgotten. If not, `forget` clears the history for `undo`, so
    that nothing of what was forgotten stays in this process.
    """
    commands = {
        **_COMMANDS,
        "write": partial(_write, long=long),
        "forget": partial(_forget, keep_history=keep_history),
        "help": partial(_help, keep_history=keep_history),
    }
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="surrogateescape")  # bytes that are no UTF-8 are refused by `check_text`
    _help(conversation, "", path, keep_history)
    try:
        while True:
            try:
                line = read("> ").strip()
                if line == "quit":
                    return _save(conversation, "", path)
                if line:
                    _run(conversation, line, path, commands)
            except EOFError:
                return _save(conversation, "", path)
            except KeyboardInterrupt:
                print()
            except GNMError as error:
                print(f"error: {error}")
    except GNMError:
        raise
    except BaseException:
        conversation.save_memory(path)
        raise


def _run(conversation, line: str, path: Path, commands: Mapping[str, Callable]) -> None:
    """Do what a line of a session says: one of `commands`, or a question."""
    command, _, rest = line.partition(" ")
    run = commands.get(command)
    if run is None or (rest and command in _ALONE):
        _ask(conversation, line, path)
    elif not rest and command not in _ALONE:
        raise DataError(f"{command} needs something after it; `help` shows what")
    else:
        run(conversation, rest.strip(), path)


def _write(conversation, rest: str, path: Path, long: str) -> None:
    document, bar, instruction = rest.rpartition("|")
    if not bar or not document.strip():
        raise DataError("write needs a document and an instruction: write Bern is in Asia. | Learn it all.")
    for text in documents_of(document.strip()):
        number = conversation.write(text, instruction.strip(), long=long)
        print(f"document {number}: {conversation.documents[-1].slots} slots")
        if conversation.documents[-1].segments:
            print(shaded(conversation.documents[-1].segments))


def _ask(conversation, rest: str, path: Path) -> None:
    print(printable(conversation.ask(rest), lines=True))


def _say(conversation, rest: str, path: Path) -> None:
    for piece in conversation.generate(rest):
        print(printable(piece, lines=True), end="", flush=True)
    print()


def _forget(conversation, rest: str, path: Path, keep_history: bool) -> None:
    given = to_forget(rest)
    if isinstance(given, int):
        conversation.forget(given)
        what = f"document {given} is forgotten"
    else:
        dropped = conversation.revoke(given)
        what = f"{dropped} slots are dropped"
        if not dropped:
            return print(what)
    if not keep_history:
        conversation.clear_history()
    print(f"{what}; {UNDO if keep_history else GONE}")


def _undo(conversation, rest: str, path: Path) -> None:
    conversation.undo()
    print(f"{len(conversation.documents)} documents")


def _inspect(conversation, rest: str, path: Path) -> None:
    print(described(conversation, path))


def _save(conversation, rest: str, path: Path) -> None:
    conversation.save_memory(path)
    print(f"saved to {path}")


def _help(conversation, rest: str, path: Path, keep_history: bool) -> None:
    print(HELP.format(undo="can bring it back" if keep_history else "can't bring it back"))


_COMMANDS = {"ask": _ask, "say": _say, "undo": _undo, "inspect": _inspect, "save": _save}
_ALONE = ("undo", "inspect", "save", "help")
