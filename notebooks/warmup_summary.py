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
# # Experiment 1: ten documents, learn one group of facts, ignore the rest
#
# Table, bars with no memory as a dashed line, score at chosen ages, and every part by age and by
# documents seen.

# %%
from gnm.analysis.measures import PARTS
from gnm.analysis.page import Page
from gnm.analysis.sentences import ranking, with_age

# %% tags=["parameters"]
ROOT = "../saved_evals"  # where the evaluations are: <ROOT>/<folder>/<method>/summary.json
NAMES = {  # published folder: this project's
    "warmup_seq_10": "small_exp1",
}
OUTPUT = "../plots/notebooks"
METHODS = ["gnm", "in_context_ft", "retrieval_ft", "retrieval", "memoryllm", "no_memory"]
COMMAND = "cd experiments/small_exp1 && dvc repro"  # makes what is missing

# %%
page = Page(ROOT, NAMES, OUTPUT)
folder = page.read("warmup_seq_10")
folder.missing(METHODS, COMMAND)

# %%
page.table(folder)

# %%
page.bars("warmup_bars", folder, "Experiment 1, ten documents", ["score", *PARTS], reference="no_memory")

# %%
page.say(lambda: ranking(folder.metrics()))

# %%
page.at_ages("warmup_score_at_ages", folder, "Experiment 1: score by age", ["score"], [0, 4, 9], reference="no_memory")

# %%
page.lines("warmup_by_age", folder, "Experiment 1, by age of the question", ["score", *PARTS], reference="no_memory")

# %%
page.lines("warmup_by_documents", folder, "Experiment 1: all questions so far", ["score", *PARTS], "t", "no_memory")

# %%
page.say(lambda: with_age(folder.measures(["score"], "age"), "score"))
