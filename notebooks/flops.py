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
# # Cost by documents seen
#
# Published numbers are those of a profiler around one forward pass of *two* prompts, not divided by
# two. Ours are counted analytically for one question, and seconds are measured on the machine that
# the evaluation ran on.

# %%
from gnm.analysis.page import Page
from gnm.analysis.sentences import growth

# %% tags=["parameters"]
ROOT = "../saved_evals"  # where the evaluations are: <ROOT>/<folder>/<method>/summary.json
NAMES = {  # published folder: this project's
    "mixed_documents_analysis": "small_exp2",
    "warmup_seq_10": "small_exp1",
}
OUTPUT = "../plots/notebooks"
METHODS = ["gnm", "in_context", "in_context_ft", "retrieval", "retrieval_ft", "memoryllm", "no_memory"]
COMMAND = "cd experiments/small_exp2 && dvc repro"  # makes what is missing

# %%
page = Page(ROOT, NAMES, OUTPUT)
stream = page.read("mixed_documents_analysis", "flops") or page.read("mixed_documents_analysis", "")
stream.missing(METHODS, COMMAND)

# %%
page.cost("flops", stream, "Cost by documents seen, experiment 2")

# %%
page.say(lambda: growth(stream.evaluations))

# %%
facts = page.read("warmup_seq_10")
page.cost("flops_facts", facts, "Cost by documents seen, experiment 1")

# %%
page.say(lambda: growth(facts.evaluations))
