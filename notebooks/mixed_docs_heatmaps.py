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
# # Experiment 2: every document after every other
#
# Facts, formats and refusals in one stream. Across: documents seen; down: the document that the
# question belongs to. Hatched cells have no question; a summary without counts cannot tell these from
# wrong ones.

# %%
from gnm.analysis.measures import PARTS
from gnm.analysis.page import Page
from gnm.analysis.sentences import corners

# %% tags=["parameters"]
ROOT = "../saved_evals"  # where the evaluations are: <ROOT>/<folder>/<method>/summary.json
NAMES = {  # published folder: this project's
    "mixed_documents_seq_10": "small_exp2",
    "mixed_documents": "eval_exp2_20",
}
OUTPUT = "../plots/notebooks"
METHODS = {  # by published folder
    "mixed_documents_seq_10": ["generalist", "gnm_ablation", "in_context"],
    "mixed_documents": ["gnm", "gnm_ablation", "in_context_ft", "retrieval_ft", "memoryllm"],
}
COMMANDS = {  # make what is missing
    "mixed_documents_seq_10": "cd experiments/small_exp2 && dvc repro",
    "mixed_documents": "cd experiments/eval_exp2 && dvc repro",  # at the paper's scale
}

# %%
page = Page(ROOT, NAMES, OUTPUT)
ten = page.read("mixed_documents_seq_10")
ten.missing(METHODS["mixed_documents_seq_10"], COMMANDS["mixed_documents_seq_10"])

# %%
page.heatmaps("mixed_docs_heatmaps_ten", ten, "Experiment 2, ten documents: facts", PARTS)

# %%
page.heatmaps(
    "mixed_docs_heatmaps_ten_others",
    ten,
    "Experiment 2, ten documents: formats, refusals",
    ["format_accuracy", "refusal_precision", "refusal_recall"],
)

# %%
page.say(lambda: corners(ten.measures(["accuracy"], "cell"), "accuracy"))

# %%
twenty = page.read("mixed_documents")
twenty.missing(METHODS["mixed_documents"], COMMANDS["mixed_documents"])

# %%
page.heatmaps("mixed_docs_heatmaps_twenty", twenty, "Experiment 2, twenty documents: facts", PARTS)

# %%
page.heatmaps(
    "mixed_docs_heatmaps_twenty_others",
    twenty,
    "Experiment 2, twenty documents: formats, refusals",
    ["format_accuracy", "refusal_precision", "refusal_recall"],
)

# %%
page.say(lambda: corners(twenty.measures(["accuracy"], "cell"), "accuracy"))
