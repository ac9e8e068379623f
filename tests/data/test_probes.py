"""The probe file: what is refused, and that nothing of it is trained on."""

import json
import random
import re
from pathlib import Path

import pytest

from gnm.data.people import grammar
from gnm.data.people.fine_groups import load_fine_groups
from gnm.data.people.grammar import SLOTS, worded
from gnm.data.people.layouts import STYLES, lay_out, load_layouts
from gnm.data.people.themes import load_themes
from gnm.data.people.wordings import Stated, load_wordings
from gnm.data.people.written import read_written
from gnm.data.probes import read_probes
from gnm.data.taxonomy import load_taxonomy
from gnm.errors import DataError

FILE = Path(__file__).parents[2] / "data" / "people" / "people_dev.json"


def fives(text):
    words = re.findall(r"\w+", text.lower())
    return {tuple(words[start : start + 5]) for start in range(len(words) - 4)}


def texts_of(document):
    """All that was written of a document."""
    told = [document.correction] if document.correction else []
    texts = [document.document, *(each.document for each in told)]
    texts += [each.instruction for each in (*document.tasks, *document.take_back, *told)]
    return texts + [text for fact in document.facts for text in (fact.cloze, fact.question)]


def test_the_public_set_is_read_whole():
    probes = read_probes(FILE)
    assert len(probes) == 60 and len({probe.kind for probe in probes}) == 9
    first = probes[0].queries[0]
    assert (first.right, first.wrong, first.expect) == ("Seattle", ("Chicago",), "learned")
    rivals = [query for probe in probes for query in probe.queries if query.rival]
    assert rivals and all(len(query.wrong) == 2 for query in rivals if query.expect == "learned")
    alone = [probe for probe in probes if probe.kind == "forget"]
    assert alone and all(not probe.steps[-1][0] for probe in alone)


def test_no_training_phrasing_or_document_shares_five_words_in_a_row_with_it():
    """Instructions, documents and questions as training draws them, with names that occur nowhere."""
    rng = random.Random(0)
    probes = read_probes(FILE)
    theirs = set().union(*(
        fives(text)
        for probe in probes
        for text in [*(part for step in probe.steps for part in step), *(query.text for query in probe.queries)]
    ))  # fmt: skip
    groups = [*load_taxonomy().categories, *load_taxonomy().seen, *load_themes(), *load_fine_groups()]
    ours = [
        worded(kind, (rng.choice(groups),), (rng.choice(groups),), "train", rng) for kind in SLOTS for _ in range(1500)
    ]
    for relation, wordings in load_wordings().items():
        facts = [Stated(n, relation, f"Xq{n}", f"Zj{n}") for n in range(5)]
        ours += [lay_out(facts, style, (), rng).text for style in STYLES for _ in range(3)]
        ours += [text.replace("{s}", "Xq") for text in (*wordings.cloze, *wordings.questions)]
    ours += [text for document in read_written(FILE.with_name("written_train.json.gz")) for text in texts_of(document)]
    ours += [text for texts in load_layouts().values() for text in texts]
    ours += [text for texts in grammar.load_grammar().parts.values() for text in texts]
    shared = {five: text for text in ours for five in fives(text) & theirs}
    assert not shared, shared


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p: p.update(steps=[]), "at least one step"),
        (lambda p: p["steps"][0].update(instruction=" "), "an instruction is empty"),
        (lambda p: p["queries"][0].update(expect="known"), "unknown expect 'known'"),
        (lambda p: p["queries"][0].update(format="json_txt"), "probe 0.*json_text"),
        (lambda p: p["queries"][0].pop("learn"), "'learn'"),
        (lambda p: p.update(style="prose"), "'style'"),
    ],
)
def test_an_unsound_probe_is_named(tmp_path, change, message):
    table = json.loads(FILE.read_text())[:2]
    change(table[0])
    (tmp_path / "probes.json").write_text(json.dumps(table))
    with pytest.raises(DataError, match=message):
        read_probes(tmp_path / "probes.json")


def test_two_probes_of_one_id_and_an_empty_file_are_refused(tmp_path):
    table = json.loads(FILE.read_text())[:1]
    for content, message in ((table * 2, "share an id"), ([], "non-empty list")):
        (tmp_path / "probes.json").write_text(json.dumps(content))
        with pytest.raises(DataError, match=message):
            read_probes(tmp_path / "probes.json")
