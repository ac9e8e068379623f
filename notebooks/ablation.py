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
# # What the gradient through writing brings
#
# GNM, the same trained without a gradient through writing, and the untrained memory. Alignment by
# layer comes from the memory analysis, whose notebook has its cautions.

# %%
from pathlib import Path

from gnm.analysis.measures import PARTS
from gnm.analysis.memory import draw_part
from gnm.analysis.page import Page
from gnm.analysis.sentences import ranking

# %% tags=["parameters"]
ROOT = "../saved_evals"  # where the evaluations are: <ROOT>/<folder>/<method>/summary.json
NAMES = {  # published folder: this project's
    "mixed_documents": "small_exp1",
}
OUTPUT = "../plots/notebooks"
METHODS = ["gnm", "gnm_ablation", "memoryllm"]
LAYERS = "memory_analysis"  # below ROOT; of the paper's checkpoints: memory_analysis_8b
COMMAND = "cd experiments/small_exp1 && dvc repro"  # makes what is missing

# %%
page = Page(ROOT, NAMES, OUTPUT)
folder = page.read("mixed_documents").only(*METHODS)
folder.missing(METHODS, COMMAND)

# %%
page.table(folder)

# %%
frames = ["score", *PARTS, "format_accuracy", "refusal_f1"]
page.bars("ablation", folder, "With and without a gradient through writing", frames)

# %%
measures = ["score", "format_accuracy", "refusal_f1"]
page.lines("ablation_by_age", folder, "With and without a gradient through writing", measures)

# %%
page.say(lambda: ranking(folder.metrics()) + " " + ranking(folder.metrics(), "selectivity"))

# %%
title = "Slots along the line from the object to leave out to the one to learn"
page.draw("ablation_alignment", lambda: draw_part(Path(ROOT) / LAYERS, "selectivity_index", title, METHODS))
