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
# # Experiment 3: learn one group, refuse another, a pair that no training step composed
#
# Single documents: fact score, selectivity and refusals.

# %%
from gnm.analysis.page import Page
from gnm.analysis.sentences import ranking

# %% tags=["parameters"]
ROOT = "../saved_evals"  # where the evaluations are: <ROOT>/<folder>/<method>/summary.json
NAMES = {  # published folder: this project's
    "comp_gen_fact_refusals": "small_exp3",
}
OUTPUT = "../plots/notebooks"
METHODS = ["generalist", "no_memory"]
COMMAND = "cd experiments/small_exp3 && dvc repro"  # makes what is missing

# %%
page = Page(ROOT, NAMES, OUTPUT)
folder = page.read("comp_gen_fact_refusals")
folder.missing(METHODS, COMMAND)

# %%
page.table(folder)

# %%
page.bars("comp_gen", folder, "Experiment 3: compositions", ["score", "selectivity", "refusal_f1"], "no_memory")

# %%
page.say(lambda: ranking(folder.metrics()) + " " + ranking(folder.metrics(), "refusal_f1"))
