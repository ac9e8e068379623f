"""Segments of a text: its clauses; and which of a document's an instruction is about.

- A text is cut into lines, a line into sentences (by `sentencex`, Wikimedia's rules, whatever the script), a sentence
  into clauses: after a comma, semicolon or dash and before a conjunction, so that facts that share a sentence can be
  told apart. A clause has at least three words, as far as the sentence has. A name alone ("In Uruguay, ...", "Ada
  Lovelace, who ...") is not a clause: it goes with what is said of it, for only this tells what it is about.
- Nothing is lost: the segments of a text, joined, are the text.
"""

import re
from bisect import bisect_left, bisect_right
from collections.abc import Collection, Iterable
from itertools import accumulate, pairwise

import sentencex

# the end of a line with the empty ones after it; Unicode's line and paragraph separators and form feeds end lines too
_LINE = re.compile("(?:\r\n|[\n\r\f\v\x85\u2028\u2029])\\s*")
_CLAUSE = re.compile(
    r"(?<=[,;–—、，；،])\s+(?=\S)|(?<=\s-)\s+(?=\S)|(?<=[、，；])"
    r"|(?<!\s)\s+(?=(?:and|but|while|whereas|although|though|plus|yet|or)\s)"
)
_WORD = re.compile(r"\S+")
_LEAST_WORDS = 3
_LETTERS = re.compile(r"(?<![\w'’-])[^\W\d_]\w*")  # a word that begins with a letter
_IN_NAMES = re.compile(  # words without a capital that stand in names, or lead to one
    "al|although|an?|and|at|between|bin|but|by|da|de|dei|del|della|den|der|di|du|e|el|for|from|ibn|in|la|les?|near|of|on"
    "|or|though|the|to|van|von|whereas|while|y|yet|zu"
)
_TO_LAST_BLANK = re.compile(r".*\s", re.DOTALL)
_INITIAL = re.compile(r"([A-Z]\s*)[^\S\x00-\x7f](?=\.)")  # with a wide blank before its full stop sentencex panics
_WINDOW = 8192  # characters of a line that are cut into sentences at once
_AHEAD = 2048  # of those, read for context only


def split_segments(text: str) -> list[str]:
    """The segments of `text`, each with the white space after it; joined they are `text`."""
    return [
        clause
        for line in _cut(text, [match.end() for match in _LINE.finditer(text)])
        for sentence in _sentences(line)
        for clause in _clauses(sentence)
    ]


def segments_of_lines(lines: Iterable[str]) -> frozenset[str]:
    """The segments of some lines without the white space around them; those without any letter are left out."""
    bare = (segment.strip() for line in lines for segment in split_segments(line))
    return frozenset(segment for segment in bare if any(map(str.isalpha, segment)))


def segments_at(text: str, spans: Collection[tuple[int, int]]) -> frozenset[str]:
    """The segments of `text` that share a letter or digit with one of `spans` (start, end), without space around."""
    found, place = set(), 0
    for segment in split_segments(text):
        end = place + len(segment)
        if any(any(map(str.isalnum, text[max(place, a) : min(end, b)])) for a, b in spans):
            found.add(segment.strip())
        place = end
    return frozenset(found)


def wanted_segments(
    text: str, meant: Collection[tuple[int, int]], left: Collection[tuple[int, int]] | None, wrapped: str | None
) -> frozenset[str]:
    """The segments of `text` that an instruction is about, bare.

    meant: where the facts stand that it means (start, end). left: of an instruction that takes in the whole text, where
    the facts stand that it leaves out; None where it takes in nothing but what it means. wrapped: the text within its
    format, if the format counts; then its ends are wanted too.
    """
    wanted = segments_at(text, meant)
    if left is not None:
        wanted |= segments_at(text, [(0, len(text))]) - segments_at(text, left)
    if wrapped is not None:
        wanted |= segments_at(text, [(0, text.index(wrapped) + 1), (len(text.rstrip()) - 2, len(text))])
    return wanted


def is_wanted(segment: str, wanted: Collection[str]) -> bool:
    """Whether a segment is one of `wanted`, or holds one between the words of a format."""
    return any(text in segment for text in wanted)


def _cut(text: str, ends: Iterable[int]) -> list[str]:
    """`text` cut at `ends`; empty pieces are left out."""
    cuts = sorted({0, *ends, len(text)})
    return [text[start:end] for start, end in zip(cuts, cuts[1:], strict=False)]


def _sentences(line: str) -> list[str]:
    """The sentences of one line; white space that stands alone goes to the sentence before."""
    return _cut(line, [end for end, after in pairwise(_sentence_ends(line)) if line[end:after].strip()])


def _sentence_ends(line: str) -> list[int]:
    """Where the sentences of one line end.

    sentencex takes time that grows with the square of some lines, so it sees a long line through a window. The window
    moves on to the last sentence that ends before its context; where none ends, it moves on within the sentence.
    """
    ends, start = [], 0
    while start < len(line):
        window = line[start : start + _WINDOW]
        found = [start + end for end in accumulate(map(len, sentencex.segment("en", _INITIAL.sub(r"\1 ", window))))]
        if start + _WINDOW < len(line):
            found = [end for end in found if end <= start + _WINDOW - _AHEAD] or found[:-1][:1]
        ends += found
        start = found[-1] if found else start + _after_last_blank(window)
    return ends


def _after_last_blank(text: str) -> int:
    """The place after the last white space of `text`, or its end if it is one word."""
    found = _TO_LAST_BLANK.match(text)
    return found.end() if found else len(text)


def _clauses(sentence: str) -> list[str]:
    """The clauses of one sentence, of at least `_LEAST_WORDS` words each; a name alone goes with what follows.

    A clause is more than a name if it has a word without a capital that is not among `_IN_NAMES`. In a sentence without
    any such word, as in one of capitals, that tells nothing, and every clause counts.
    """
    telling = [
        match.start()
        for match in _LETTERS.finditer(sentence)
        if not (match[0][0].isupper() or _IN_NAMES.fullmatch(match[0]))
    ]
    words = [match.span() for match in _WORD.finditer(sentence)]
    starts, stops = [start for start, _ in words], [stop for _, stop in words]

    def enough(start: int, end: int) -> bool:
        return bisect_left(starts, end) - bisect_right(stops, start) >= _LEAST_WORDS

    def tells(start: int, end: int) -> bool:
        return not telling or bisect_left(telling, end) > bisect_left(telling, start)

    ends, last = [], 0
    for match in _CLAUSE.finditer(sentence):
        if enough(last, match.end()) and tells(last, match.end()) and enough(match.end(), len(sentence)):
            last = match.end()
            ends.append(last)
    return _cut(sentence, ends)
