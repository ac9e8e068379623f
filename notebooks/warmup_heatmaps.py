# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Experiment 1: every document after every other
#
# Across: documents seen; down: the document that the question belongs to. Hatched cells have no
# question; a summary without counts cannot tell these from wrong ones.

# %%
from gnm.analysis.measures import PARTS
from gnm.analysis.page import Page
from gnm.analysis.sentences import corners

# %% tags=["parameters"]
ROOT = "../saved_evals"  # where the evaluations are: <ROOT>/<folder>/<method>/summary.json
NAMES = {  # published folder: this project's
    "warmup_seq_10": "small_exp1",
    "warmup": "eval_exp1_20",
}
OUTPUT = "../plots/notebooks"
METHODS = {  # by published folder
    "warmup_seq_10": ["gnm", "in_context_ft", "retrieval_ft", "retrieval", "memoryllm", "no_memory"],
    "warmup": ["gnm", "in_context_ft", "memoryllm", "no_memory"],
}
COMMANDS = {  # make what is missing
    "warmup_seq_10": "cd experiments/small_exp1 && dvc repro",
    "warmup": "cd experiments/eval_exp1 && dvc repro",  # at the paper's scale
}

# %%
page = Page(ROOT, NAMES, OUTPUT)
ten = page.read("warmup_seq_10")
ten.missing(METHODS["warmup_seq_10"], COMMANDS["warmup_seq_10"])

# %%
page.heatmaps("warmup_heatmaps_ten", ten, "Experiment 1, ten documents: facts", PARTS)

# %%
page.say(lambda: corners(ten.measures(["accuracy"], "cell"), "accuracy"))

# %%
twenty = page.read("warmup")
twenty.missing(METHODS["warmup"], COMMANDS["warmup"])

# %%
page.heatmaps("warmup_heatmaps_twenty", twenty, "Experiment 1, twenty documents: facts", PARTS)

# %%
page.say(lambda: corners(twenty.measures(["accuracy"], "cell"), "accuracy"))
