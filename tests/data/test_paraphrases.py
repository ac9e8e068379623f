"""The check of a source's paraphrases: wordings of the relation count, generation prompts don't, 80 % is enough."""

from dataclasses import replace

import pytest

from gnm.data.paraphrases import check_paraphrases
from gnm.data.types import Fact

PROMPTS = ("{} is based in", "The seat of {} is", "{}, whose head office is in")


def fact(number, *paraphrases, relation="P159"):
    return Fact(
        number, f"Firm {number}", PROMPTS[number % 3], "Rome", "Paris", paraphrases, (), "location", "non_us",
        relation=relation,
    )  # fmt: skip


def good(number, other=1):
    return PROMPTS[(number + other) % 3].replace("{}", f"Firm {number}")


def test_wordings_of_other_facts_count_also_behind_a_sentence():
    facts = [fact(n, good(n), f"It rained all day. {good(n, 2)}") for n in range(6)]
    found = check_paraphrases(facts)
    assert (found.count, found.known, found.others, found.warning) == (12, 12, (), None)


def test_generation_prompts_do_not_count_although_all_records_have_them():
    facts = [fact(n, good(n), f"The best restaurants around Firm {n} include") for n in range(6)]
    found = check_paraphrases(facts)
    assert (found.count, found.known) == (12, 6) and found.others[0] == "The best restaurants around Firm 0 include"
    assert "50%" in found.warning and "Firm 0" in found.warning


def test_a_wording_must_be_of_the_relation_about_the_subject_and_of_another_record():
    facts = [fact(n, good(n)) for n in range(6)]
    assert check_paraphrases([replace(facts[0], relation="P36"), *facts[1:]]).known == 5
    assert check_paraphrases([replace(facts[0], paraphrases=(good(3),)), *facts[1:]]).known == 5
    alone = [fact(0, "Firm 0 is based in"), fact(1, good(1))]
    assert check_paraphrases(alone).known == 0  # only its own prompt has the wording; and no fact has the other
    assert check_paraphrases([fact(0, "Xfirm Firm 0 is based in"), fact(3, good(3))]).known == 1
    assert check_paraphrases([fact(0, "XFirm 0 is based in"), fact(3, good(3))]).known == 0


@pytest.mark.parametrize(("bad", "warns"), [(2, False), (3, True)])
def test_the_warning_begins_below_four_fifths(bad, warns):
    facts = [fact(n, good(n) if n >= bad else f"Firm {n} is loved by") for n in range(10)]
    assert (check_paraphrases(facts).warning is not None) == warns


def test_facts_without_relation_ids_form_one_relation():
    facts = [fact(n, good(n), f"The best restaurants around Firm {n} include", relation="") for n in range(6)]
    assert check_paraphrases(facts).known == 6
