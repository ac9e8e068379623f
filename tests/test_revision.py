"""Results do not change unnoticed: tiny ones are made anew and held against those of the revision that stands."""

import json

import pytest

import revisions
from revisions import GOLDEN, RESULTS, differences, made_now


def test_every_number_has_results():
    assert revisions.revisions().keys() == RESULTS.keys()


@pytest.mark.parametrize("name", RESULTS)
def test_results_change_only_with_their_revision(name):
    """Fails where they changed: raise the number in src/gnm/revision.yaml, then run `python tests/revisions.py`."""
    golden = json.loads((GOLDEN / f"{name}.json").read_text(encoding="utf-8"))
    number = revisions.revisions()[name]
    assert golden["revision"] == number, "the golden results are of another revision: run python tests/revisions.py"
    assert not differences(golden["results"], made_now(name)), f"raise `{name}` in src/gnm/revision.yaml"


def test_a_difference_is_found_where_it_is():
    before = {"a": [1.0, {"b": "x"}], "c": 2}
    assert not differences(before, {"a": [1.0005, {"b": "x"}], "c": 2})
    assert differences(before, {"a": [1.1, {"b": "y"}], "c": 2}) == ["a[0]: 1.0 -> 1.1", "a[1].b: x -> y"]
    assert len(differences(before, {"a": [1.0], "c": 3})) == 2


def test_changed_results_are_not_written_under_the_same_number(tmp_path, monkeypatch):
    monkeypatch.setattr(revisions, "GOLDEN", tmp_path)
    monkeypatch.setattr(revisions, "REVISION", tmp_path / "revision.yaml")
    made = {"loss": 1.0}
    monkeypatch.setattr(revisions, "RESULTS", {"training": lambda folder: made})
    (tmp_path / "revision.yaml").write_text("training: 1\n")
    revisions.renew()
    made["loss"] = 2.0
    with pytest.raises(SystemExit, match=r"training: loss: 1.0 -> 2.0\nresults changed: raise the number"):
        revisions.renew()
    (tmp_path / "revision.yaml").write_text("training: 2\n")
    revisions.renew()
    assert json.loads((tmp_path / "training.json").read_text()) == {"revision": 2, "results": {"loss": 2.0}}
