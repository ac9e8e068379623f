"""Learners with a latent bank, and what is written and asked."""

from stock import (
    DOCUMENTS,
    INSTRUCTIONS,
    QUESTIONS,
)

BANK = {"slots": 6, "size": 16, "heads": 2}


METHOD = {"method": "latent_bank", "bank": BANK}


TURNS = [(list(DOCUMENTS[:2]), list(INSTRUCTIONS[:2])), ([DOCUMENTS[2], "Later text."], ["", "Take nothing"])]


ASKED = [list(QUESTIONS), [QUESTIONS[1]]]


def written(learner, turns=TURNS):
    state = learner.reset([3, 4][: len(turns[0][0])])
    for documents, instructions in turns:
        state = learner.write(state, documents, instructions)
    return state
