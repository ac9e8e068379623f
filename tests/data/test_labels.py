"""Labels of writes: what is wanted of a document, what of earlier ones no longer holds, what takes back."""

import pytest

from gnm.data.labels import label_writes
from gnm.data.segments import split_segments
from gnm.data.types import Step

FIRST, SECOND = "Oslo is big\nA horse is red", "Oslo is small\nBirds are blue\n"


def step(document, wanted, revokes=(), **named):
    wanted = None if wanted is None else frozenset(wanted)
    return Step(document, f"Learn {document}", "all", "fact_all", None, (), wanted, frozenset(revokes), **named)


def test_labels_say_segment_by_segment_what_a_write_should_do():
    others = (
        ("Forget the birds", frozenset({"Birds are blue"})),
        ("Forget nothing here", frozenset()),
    )
    first, second = label_writes([
        step(FIRST, ["A horse is red"], is_rule=True, refused=frozenset({"A horse is red"})),
        step(SECOND, ["Oslo is small"], ["Oslo is big"], revocations=others),
    ])  # fmt: skip
    assert first.wanted == (False, True) and first.is_rule and first.revoked == ()
    assert first.refused == (False, True) and second.refused == (False, False)
    assert first.revocations == ()
    assert second.wanted == (True, False) and not second.is_rule and second.revoked == ((True, False),)
    assert second.revocations == (("Forget the birds", (False, True)), ("Forget nothing here", (False, False)))
    assert (second.document, second.instruction) == (SECOND, f"Learn {SECOND}")


def test_what_is_not_known_to_be_wanted_is_labelled_so():
    assert [labels.wanted for labels in label_writes([step(FIRST, None), step(SECOND, [])])] == [None, (False, False)]


@pytest.mark.parametrize("end", ["", "\n", "\n\n"])
def test_a_document_has_as_many_segments_however_its_block_ends_it(end):
    text = "He went to the U.S.\nShe (a nurse, and a good one at that) stayed — for a whole long year; then left."
    assert len(split_segments(text + end)) == len(label_writes([step(text, [])])[0].wanted)
