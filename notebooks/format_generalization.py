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
# # Formats: trained, with held-out keys, of a family never trained
#
# The published notebook has its values typed in; one of them differs from its own file (retrieval FT
# on trained formats: drawn 100, its file says 52.2). Here all are read from the files.

# %%
from gnm.analysis.page import Page
from gnm.analysis.sentences import ranking

# %% tags=["parameters"]
ROOT = "../saved_evals"  # where the evaluations are: <ROOT>/<folder>/<method>/summary.json
NAMES = {  # published folder: this project's
    "train": "small_exp2_train",
    "held_out_keys": "small_exp2_held_out_keys",
    "unseen_family": "small_exp2_unseen_family",
}
OUTPUT = "../plots/notebooks"
METHODS = ["gnm", "in_context_ft", "retrieval_ft"]
COMMAND = "cd experiments/small_exp2 && dvc repro"  # makes what is missing

# %%
page = Page(ROOT, NAMES, OUTPUT)
folders = {
    "Trained formats": page.read("format_generalization", "val_train") or page.read("train"),
    "Held-out keys": page.read("format_generalization", "val_id") or page.read("held_out_keys"),
    "Unseen family": page.read("mixed_documents_seq_10") or page.read("unseen_family"),
}

# %%
page.say(lambda: " ".join(folder.missing(METHODS, COMMAND).text for folder in folders.values()))

# %%
shown = {words: folder.only(*METHODS, "generalist", "gnm_ablation") for words, folder in folders.items()}
page.folders("format_generalization", shown, "Formats followed", ["format_accuracy"])

# %%
page.say(
    lambda: " ".join(f"{words}: {ranking(each.metrics(), 'format_accuracy')}" for words, each in shown.items() if each)
)
