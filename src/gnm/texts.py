"""What is given as text is text: a `str` with something in it, of whole characters."""

import re
from typing import Any

from gnm.errors import DataError

_SURROGATE = re.compile("[\ud800-\udfff]")


def check_text(text: Any, name: str, remedy: str | None) -> None:
    """Raise DataError if `text` is no `str`, is blank, or holds half a surrogate pair.

    Bytes that are no UTF-8 become such halves in a program's arguments. name: what it is, for the message; remedy: what
    to do if it is blank, None if it may be.
    """
    if not isinstance(text, str):
        raise DataError(f"the {name} is of type {type(text).__name__}, not text; give a str")
    if remedy and not text.strip():
        raise DataError(f"the {name} is empty; {remedy}")
    if broken := _SURROGATE.search(text):
        raise DataError(
            f"the {name} holds a byte that is no UTF-8 ({ascii(broken.group())}, character {broken.start() + 1}); give "
            "it as UTF-8 text"
        )
