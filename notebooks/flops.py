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
from functools import cache

from gnm.analysis.cost_figures import cost_lines
from gnm.analysis.page import Page
from gnm.analysis.sentences import growth
from gnm.costs import break_even, cost_of_stream, measured, pays, sizes_in_words, sizes_of

# %% tags=["parameters"]
ROOT = "../saved_evals"  # where the evaluations are: <ROOT>/<folder>/<method>/summary.json
NAMES = {  # published folder: this project's
    "mixed_documents_analysis": "small_exp2",
    "warmup_seq_10": "small_exp1",
}
OUTPUT = "../plots/notebooks"
METHODS = ["generalist", "gnm_ablation", "in_context"]
SHAPE = "smollm2-135m"  # the decoder that was evaluated
OWN = "../saved_evals"  # whose documents are counted where ROOT has no cost of them
LARGE = "memoryllm-8b-chat"  # another to count for: the paper's, with its pool
DOCUMENTS = 100  # of the stream that is counted
RETRIEVED = 4  # documents that retrieval reads
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

# %% [markdown]
# ## Writing and asking, and when memory pays
#
# Counted for a longer stream of documents and questions of the size of experiment 1's, at the
# scale that was evaluated and at the paper's. A context whose keys and values are kept is read once
# a document, as memory is, but each document reads all before it. Retrieval reads its documents
# for every question anew. Every question to the published pool reads all of its slots. Training
# changes no count: GNM without a gradient through writing costs what GNM does, FT what untrained does.

# %%
sized = facts if {"in_context", "generalist"} <= set(facts.found) else Page(OWN, NAMES, OUTPUT).read("small_exp1")


# %%
@cache
def counted(backbone):
    return cost_of_stream(backbone, sizes_of(sized.evaluations, SHAPE, RETRIEVED), DOCUMENTS)


def drawn(backbone):
    frame = counted(backbone)
    return cost_lines(frame, f"Counted cost by documents seen, {backbone}"), frame


page.say(lambda: sizes_in_words(sizes_of(sized.evaluations, SHAPE, RETRIEVED)))

# %%
page.draw("flops_counted", lambda: drawn(SHAPE))

# %%
page.draw("flops_counted_large", lambda: drawn(LARGE))

# %%
after = sorted({min(10, DOCUMENTS), DOCUMENTS})
page.say(lambda: " ".join(pays(break_even(counted(SHAPE)), count) for count in after))

# %%
page.say(lambda: " ".join(pays(break_even(counted(LARGE)), count) for count in after))

# %% [markdown]
# Measured beside it, on the machine of the evaluation. A small model on a GPU waits for the
# processor, so seconds there follow the number of passes and not the operations.

# %%
page.frame(lambda: measured(facts.evaluations))
