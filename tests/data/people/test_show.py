"""`gnm data`: what training draws, to be looked at."""

import pytest

from gnm.data.people.grammar import SLOTS
from gnm.data.people.show import main


def test_as_many_instructions_of_each_kind_are_shown_as_are_asked_for(capsys):
    main(["instructions", "--sample", "2"])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3 * len(SLOTS) and all(line.startswith("  ") for line in lines[1:3])


@pytest.mark.parametrize("given", [["instructions", "--sample", "0"], ["instructions", "--sample=-1"], ["sequences"]])
def test_what_shows_nothing_is_refused(capsys, given):
    with pytest.raises(SystemExit, match="2"):
        main(given)
    assert "give one from 1 on" in capsys.readouterr().err or given == ["sequences"]
