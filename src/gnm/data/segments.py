"""Segments of a text: its lines, and the sentences of a line; and which of a document's an instruction is about."""

import re
from collections.abc import Collection, Iterable

# the end of a line with the empty ones after it, or of a sentence: two small letters, a stop, a capital after it
_END = re.compile(r"\n+|(?<=[a-z]{2}[.!?])\s+(?=[A-Z])")


def split_segments(text: str) -> list[str]:
    """The segments of `text`, each with the white space after it; joined they are `text`."""
    ends = [match.end() for match in _END.finditer(text)]
    cuts = [0, *ends, len(text)]
    return [text[start:end] for start, end in zip(cuts, cuts[1:], strict=False) if end > start]


def segments_of_lines(lines: Iterable[str]) -> frozenset[str]:
    """The segments of some lines without the white space around them; those without any letter are left out."""
    bare = (segment.strip() for line in lines for segment in split_segments(line))
    return frozenset(segment for segment in bare if any(map(str.isalpha, segment)))


def is_wanted(segment: str, wanted: Collection[str]) -> bool:
    """Whether a segment is one of `wanted`, or holds one between the words of a format."""
    return any(text in segment for text in wanted)
