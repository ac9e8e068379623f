"""Random damage: to the bytes of a file, and to the values that it holds."""

import copy
import json
import random
import struct
from collections.abc import Callable, Iterator
from typing import Any

HOSTILE: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2**31, 2**63, 10**30, -(10**30), 0.5, -0.5, 1e308, 1e-320, float("nan"), float("inf"),
    "", " ", "0", "-1", "\x00", "\ud800", "\u202e", "\ufeff", "…" * 5000, "../../x", "/", "a" * 300, "{}", "[", "$(x)",
    [], {}, [[]], [None], {"": {}}, {"a": 1}, [0] * 1000,
)  # fmt: skip
"""Values that no writer of ours would put there."""
_TOKENS = (b"[", b"{", b'"', b"null", b"1e999", b"&a [*a]", b"\xff\xfe", b"\xef\xbb\xbf", b"\x00", b"\n", b"9" * 5000)


def damaged(raw: bytes, rng: random.Random) -> bytes:
    """`raw` with one to three pieces of damage: flipped bits, cuts, what is moved, put in or written over."""
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        raw = rng.choice(_DAMAGES)(raw, rng)
    return raw


def _flipped(raw: bytes, rng: random.Random) -> bytes:
    changed = bytearray(raw)
    for _ in range(rng.choice((1, 1, 2, 8)) if raw else 0):
        changed[rng.randrange(len(raw))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _cut(raw: bytes, rng: random.Random) -> bytes:
    return raw[: rng.randrange(len(raw) + 1)]


def _without_a_piece(raw: bytes, rng: random.Random) -> bytes:
    start, end = _piece(raw, rng)
    return raw[:start] + raw[end:]


def _piece_twice(raw: bytes, rng: random.Random) -> bytes:
    start, end = _piece(raw, rng)
    return raw[:end] + raw[start:]


def _written_over(raw: bytes, rng: random.Random) -> bytes:
    start, end = _piece(raw, rng)
    return raw[:start] + rng.choice((bytes(end - start), rng.randbytes(end - start))) + raw[end:]


def _with_a_token(raw: bytes, rng: random.Random) -> bytes:
    place = rng.choice((0, len(raw), rng.randrange(len(raw) + 1)))
    return raw[:place] + rng.choice(_TOKENS) * rng.choice((1, 1, 1, 3000)) + raw[place:]


def _piece(raw: bytes, rng: random.Random) -> tuple[int, int]:
    start = rng.randrange(len(raw) + 1)
    return start, min(len(raw), start + rng.choice((1, 4, 64, 4096)))


_DAMAGES: tuple[Callable[[bytes, random.Random], bytes], ...] = (
    _flipped, _flipped, _cut, _without_a_piece, _piece_twice, _written_over, _with_a_token
)  # fmt: skip


def changed(value: Any, rng: random.Random) -> Any:
    """A copy of `value` (what JSON can hold) with one to three places changed: replaced, taken out, renamed, nested."""
    value = copy.deepcopy(value)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        places = list(_places(value))
        if not places:
            return value
        holder, key = rng.choice(places)
        how = rng.randrange(6)
        if how == 0:
            del holder[key]
        elif how == 1 and isinstance(holder, dict):
            holder[rng.choice(("", "x", f"{key}s", str(key).upper(), "\ud800"))] = holder.pop(key)
        elif how == 2:
            holder[key] = [holder[key]]
        elif how == 3:
            holder[key] = _near(holder[key], rng)
        else:
            holder[key] = copy.deepcopy(rng.choice(HOSTILE))
    return value


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Each (mapping or list, its key or index) within `value`."""
    keys = list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    for key in keys:
        yield value, key
        yield from _places(value[key])


def _near(value: Any, rng: random.Random) -> Any:
    """A value of the same kind."""
    if isinstance(value, str):
        return damaged(value.encode("utf-8", "replace"), rng).decode("utf-8", "replace")
    if isinstance(value, int | float):
        return rng.choice((-value, value + 1, value - 1, value * 1000, value / 3, int(value) if value == value else 0))
    if isinstance(value, list):
        return rng.choice((value * 2, value[1:], value[::-1]))
    return rng.choice(HOSTILE)


def safetensors_header(raw: bytes) -> tuple[dict, bytes]:
    """The header of a safetensors file, and the bytes behind it."""
    [size] = struct.unpack("<Q", raw[:8])
    return json.loads(raw[8 : 8 + size]), raw[8 + size :]


def safetensors_file(header: dict, data: bytes) -> bytes:
    """The file that `safetensors_header` takes apart."""
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data
