"""Learners of every method, and what is written and asked."""

import dataclasses

from gnm.inference.prompts import block
from gnm.learners import _BUILDERS, LearnerSettings, build_learner
from stock import DOCUMENTS, INSTRUCTIONS, QUESTIONS

METHODS = sorted(_BUILDERS)


FIXED_SIZE = ("latent_bank", "recurrent_memory")


INSTRUCTION_FIRST = ("gnm", "gnm_ablation", "memoryllm", "compressed", "block_retrieval")


TURNS = [(list(DOCUMENTS[:2]), list(INSTRUCTIONS[:2])), ([DOCUMENTS[2], "Later text."], ["", "Take nothing"])]


ASKED = [list(QUESTIONS), [QUESTIONS[1]]]


def learner_of(method, backbone, **settings):
    return build_learner(LearnerSettings(method=method, max_note_tokens=6, **settings), backbone, training=True)


def written(learner, turns=TURNS, seeds=(3, 4)):
    state = learner.reset(list(seeds))
    for documents, instructions in turns:
        state = learner.write(state, documents, instructions)
    return state


def row_of(turns, row):
    return [([documents[row]], [instructions[row]]) for documents, instructions in turns]


def parts(state):
    """The leaves of a state: tensors, texts and numbers."""
    if dataclasses.is_dataclass(state):
        return parts([getattr(state, field.name) for field in dataclasses.fields(state)])
    if isinstance(state, (list, tuple)):
        return [leaf for item in state for leaf in parts(item)]
    return [state]


def expected_texts(method, order):
    own = "instruction_first" if method in INSTRUCTION_FIRST else "document_first"
    return [[block(d[row], i[row], order or own) for d, i in TURNS] for row in range(2)]
