"""What a memory answers beside others is what it answers alone: in float32 up to rounding, in bfloat16 nearly."""

import pytest
import torch

from gnm.learners import LearnerSettings, build_learner
from gnm.weights.backbones import load_backbone
from stock import DOCUMENTS, INSTRUCTIONS, QUESTIONS


def largest_difference(dtype: torch.dtype) -> float:
    """Between the scores of answers from four memories in one batch and from each alone."""
    backbone = load_backbone("tiny", dtype="float32")
    backbone.model.to(dtype)  # computed in it also where a CPU would take float32 for bfloat16
    learner = build_learner(LearnerSettings(method="memoryllm"), backbone).eval()
    assert learner.lm.decoder.dtype == dtype
    documents, instructions = [(list(own) * 4)[:4] for own in (DOCUMENTS, INSTRUCTIONS)]

    def scores(rows):
        state = learner.reset(rows)
        state = learner.write(state, [documents[row] for row in rows], [instructions[row] for row in rows])
        answers = learner.answer(state, [list(QUESTIONS)] * len(rows), 4)
        return torch.tensor([[(a.target_score, a.other_score, a.nll) for a in row] for row in answers])

    with torch.no_grad():
        return float((scores([0, 1, 2, 3]) - torch.cat([scores([row]) for row in range(4)])).abs().max())


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-4), (torch.bfloat16, 0.25)])
def test_a_batch_changes_scores_by_rounding_alone(dtype, bound):
    assert largest_difference(dtype) <= bound


def test_bfloat16_is_not_independent_of_the_batch():
    """Or else the documentation says less than is true."""
    assert largest_difference(torch.bfloat16) > 1e-3
