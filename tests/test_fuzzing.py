"""A thousand damaged inputs: refused in a sentence or read as what they were. `python tests/fuzz` tries more."""

import pytest

from fuzz.kinds import KINDS
from fuzz.trial import Trials

INPUTS = {
    "memories": 250, "adapters": 50, "checkpoints": 180, "settings": 180,
    "documents": 120, "counterfact": 140, "evaluations": 50, "words": 30,
}  # fmt: skip


def test_every_kind_is_tried():
    assert INPUTS.keys() == KINDS.keys() and sum(INPUTS.values()) == 1000


@pytest.mark.parametrize("name", KINDS)
def test_what_is_damaged_is_refused_in_a_sentence(tmp_path, name):
    trials = Trials(name, KINDS[name](tmp_path))
    failures = [f"{number}: {failure}" for number in range(INPUTS[name]) if (failure := trials.run(number))]
    assert not failures
    assert trials.refused > 0 and trials.refused + trials.read == INPUTS[name]
