"""Prefixes that hold texts, and answers checked against the stock model."""

from stock import (
    DOCUMENTS,
    blocks,
)

TEXTS = [blocks(2), blocks(1), [DOCUMENTS[0] * 3]]


def context_prefix(reader, rows):
    """What questions read after `rows` of texts in a context."""
    text = reader.encode_segments(rows)
    return reader.decoder.extend(reader.preamble(len(rows)), text.ids, text.mask)
