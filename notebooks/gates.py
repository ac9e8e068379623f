# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#       format_version: '1.3'
#       jupytext_version: 1.19.6
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Gates: what is stored, for how long, and what can be taken back
#
# What is this project's alone: write gates store a share of a document; streams of 20 documents go
# into a pool for five; what was learned is taken back by an instruction, or turned round. Leakage: of
# ignored facts that a method answers truly with nothing written, the share that it answers as the
# document states; less is better.

# %%
from gnm.analysis.gates import against_kept, compression, segment_metrics
from gnm.analysis.grouped import grouped_bars, of_measures
from gnm.analysis.measures import PARTS
from gnm.analysis.page import Page
from gnm.analysis.sentences import ranking, with_age

# %% tags=["parameters"]
ROOT = "../saved_evals"  # where the evaluations are: <ROOT>/<folder>/<method>/summary.json
NAMES = {}  # nothing here was published
OUTPUT = "../plots/notebooks"
METHODS = ["generalist", "generalist (all)"]
COMMAND = "cd experiments/small_gates && dvc repro"  # makes what is missing

# %%
page = Page(ROOT, NAMES, OUTPUT)
folder = page.read("small_gates")
folder.missing(METHODS, COMMAND)


# %%
def kept():
    metrics, cost = folder.metrics(), folder.cost()
    return compression(metrics, cost, "Score against what is kept"), against_kept(metrics, cost)


page.draw("gates_kept", kept)


# %%
def stored():
    frame = of_measures(segment_metrics(folder.evaluations), ["segments", "stored"], "share")
    title, note = "Segments decided rightly, and the share of tokens stored", "The same gates decide the same segments."
    return grouped_bars(frame, title, ["share"], note=f"{note} What is stored differs."), frame


page.draw("gates_stored", stored)

# %%
page.say(lambda: ranking(segment_metrics(folder.evaluations), "stored", "most"))

# %%
page.lines("gates_leakage", folder, "What leaks, by age", ["accuracy", "leakage", "neighbour_leakage"])

# %%
stream = page.read("small_gates_20")
stream.missing(["generalist (weakest)"], COMMAND)

# %%
page.lines("gates_retention_20", stream, "20 documents into a pool for five", ["score", *PARTS])

# %%
page.say(lambda: with_age(stream.measures(["accuracy"], "age"), "accuracy"))

# %%
taken = {
    "Taken back by an instruction": page.read("small_gates_revocation"),
    "Turned round": page.read("small_gates_unlearning"),
}
page.say(lambda: " ".join(each.missing(["generalist"], COMMAND).text for each in taken.values()))

# %%
measures = ["accuracy_age_0", "forgotten_accuracy", "remaining_accuracy", "unlearning_accuracy"]
page.folders("gates_taken_back", taken, "What was learned and what is left of it", measures)

# %%
page.say(
    lambda: " ".join(f"{words}: {ranking(each.metrics(), 'accuracy_age_0')}" for words, each in taken.items() if each)
)
