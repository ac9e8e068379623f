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
# # Experiment 2: facts, formats and refusals in one stream
#
# The score by age is the harmonic mean of accuracy, specificity and selectivity; the published figure
# shows their arithmetic mean, which is higher where the parts differ. Formats go by the documents
# written since the format's own.

# %%
from gnm.analysis.measures import PARTS
from gnm.analysis.page import Page
from gnm.analysis.sentences import ranking

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
page.table(ten)

# %%
page.lines("mixed_ten_by_age", ten, "Experiment 2, ten documents, by age", ["score", "format_accuracy", "refusal_f1"])

# %%
page.lines("mixed_ten_by_documents", ten, "Experiment 2, ten documents: all questions so far", PARTS, "t")

# %%
page.say(lambda: ranking(ten.metrics()) + " " + ranking(ten.metrics(), "refusal_f1"))

# %%
twenty = page.read("mixed_documents")
twenty.missing(METHODS["mixed_documents"], COMMANDS["mixed_documents"])

# %%
page.table(twenty)

# %%
page.lines(
    "mixed_twenty_by_age", twenty, "Experiment 2, twenty documents, by age", ["score", "format_accuracy", "refusal_f1"]
)

# %%
page.lines("mixed_twenty_by_documents", twenty, "Experiment 2, twenty documents: all questions so far", PARTS, "t")

# %%
page.say(lambda: ranking(twenty.metrics()) + " " + ranking(twenty.metrics(), "refusal_f1"))

# %% [markdown]
# The published notebook draws the cost beside these; `flops.ipynb` does so here, and says what its unit is.
