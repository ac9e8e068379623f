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
    "train": "eval_exp2_train",
    "held_out_keys": "eval_exp2_val_id",
    "unseen_family": "small_exp2_unseen_family",
}
OUTPUT = "../plots/notebooks"
METHODS = {  # by folder in words; those of the first two are evaluated at the paper's scale
    "Trained formats": ["gnm", "in_context_ft", "retrieval_ft"],
    "Held-out keys": ["gnm", "in_context_ft", "retrieval_ft"],
    "Unseen family": ["generalist"],
}
COMMANDS = {  # make what is missing
    "Trained formats": "cd experiments/eval_exp2_train && dvc repro",
    "Held-out keys": "cd experiments/eval_exp2_val_id && dvc repro",
    "Unseen family": "cd experiments/small_exp2 && dvc repro",
}

# %%
page = Page(ROOT, NAMES, OUTPUT)
folders = {
    "Trained formats": page.read("format_generalization", "val_train") or page.read("train"),
    "Held-out keys": page.read("format_generalization", "val_id") or page.read("held_out_keys"),
    "Unseen family": page.read("mixed_documents_seq_10") or page.read("unseen_family"),
}

# %%
page.say(lambda: " ".join(each.missing(METHODS[words], COMMANDS[words]).text for words, each in folders.items()))

# %%
trained = ["gnm", "generalist", "in_context_ft", "retrieval_ft"]
shown = {words: folder.only(*trained) for words, folder in folders.items()}
page.folders("format_generalization", shown, "Formats followed", ["format_accuracy"])

# %%
page.say(
    lambda: " ".join(f"{words}: {ranking(each.metrics(), 'format_accuracy')}" for words, each in shown.items() if each)
)
