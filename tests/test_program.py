"""Programs that read their settings from a params.yaml: what they are given, and how they end."""

import pytest

from gnm.config import StrictModel
from gnm.program import run_method, run_program

ABOUT = "Count something.\n\nMore about it."


class Params(StrictModel):
    """Settings of a made-up program."""

    count: int


@pytest.fixture
def arguments(tmp_path):
    (tmp_path / "params.yaml").write_text("counting: {count: 1}\n", encoding="utf-8")
    return ["--params", str(tmp_path / "params.yaml"), "--block", "counting"]


def test_a_program_gets_its_settings_and_the_line_that_started_it(arguments):
    given = []
    run_program("gnm.x", ABOUT, Params, lambda *each: given.append(each), [*arguments, "count=2"])
    assert given == [(Params(count=2), "python -m gnm.x --block counting count=2")]


def test_a_program_for_one_method_gets_its_name_too_and_asks_for_it(arguments, capsys):
    given = []
    run_method("gnm.x", ABOUT, Params, lambda *each: given.append(each), [*arguments, "--method", "a"])
    assert given == [(Params(count=1), "a", "python -m gnm.x --method a --block counting")]
    with pytest.raises(SystemExit):
        run_method("gnm.x", ABOUT, Params, lambda *each: given.append(each), arguments)
    assert "--method" in capsys.readouterr().err and len(given) == 1


def test_wrong_settings_end_a_program_in_a_sentence_before_it_runs(arguments):
    with pytest.raises(SystemExit, match="count"):
        run_program("gnm.x", ABOUT, Params, lambda *_: pytest.fail("it ran"), [*arguments, "count=many"])
