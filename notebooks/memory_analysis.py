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
# # Memory analysis: where in the layers the instruction acts
#
# A target fact stands in several documents among other facts; each document is written alone, once
# under an instruction to learn the target's group, once under one to learn another fact's group.
# The documents of a target are not independent, so intervals are over targets.
#
# Two cautions. The slots of this project's memory are the layers' inputs at every token, so they
# hold the tokens' own states whatever was told: the untrained memory is drawn to show how much of a
# figure is that. And a slot of a late layer differs because of all layers before it: where the
# difference grows is where the instruction acts, not where it is largest.

# %%
from pathlib import Path

from gnm.analysis.memory import draw_part
from gnm.analysis.memory_saved import methods_in
from gnm.analysis.memory_sentences import (
    against_band,
    difference,
    levels,
    most_lost,
    where_it_acts,
    without_swap,
)
from gnm.analysis.page import Page, missing

# %% tags=["parameters"]
ROOT = "../saved_evals"  # where the analyses are: <ROOT>/<FOLDER>/<method>/layers.parquet
FOLDER = "memory_analysis"  # of the paper's checkpoints: memory_analysis_8b
OUTPUT = "../plots/notebooks"
METHODS = ["generalist", "gnm", "gnm_ablation", "memoryllm", "layer_swap"]
PUBLISHED_BAND = (5 / 32, 12 / 32)  # where the paper's swap costs selectivity most, as a part of the depth
COMMAND = "cd experiments/memory_analysis && dvc repro"  # makes what is missing

# %%
folder = Path(ROOT) / FOLDER
page = Page(ROOT, {}, OUTPUT)
missing(FOLDER, methods_in(folder), METHODS, COMMAND)

# %% [markdown]
# ## What changes when only the instruction changes

# %%
title = "Change of a document's slots when only the instruction changes"
page.draw("memory_instruction_change", lambda: draw_part(folder, "instruction_change", title))

# %%
page.say(lambda: where_it_acts(folder))

# %%
page.say(lambda: difference(folder, ("gnm", "gnm_ablation")))

# %%
page.say(lambda: difference(folder, ("gnm", "memoryllm")))

# %%
page.say(lambda: against_band(folder, PUBLISHED_BAND, METHODS))

# %% [markdown]
# ## Swapped layers
#
# The ablation's adapter in a few layers of GNM's.

# %%
title = "What GNM loses with the ablation's adapter in some layers"
page.draw("memory_layer_swap", lambda: draw_part(folder, "layer_swap", title))

# %%
page.say(lambda: without_swap(folder))

# %%
page.say(lambda: most_lost(folder, "selectivity_margin", "Selectivity's margin in logits,"))

# %%
page.say(lambda: most_lost(folder, "accuracy_margin", "Accuracy's margin in logits,"))

# %% [markdown]
# ## Write invariance and compressibility
#
# Slots of a fact's own line are compared where documents have a slot a token; all slots where they
# have equally many, as the published memory has.

# %%
title = "A fact's slots beside other facts"
page.draw("memory_write_invariance", lambda: draw_part(folder, "write_invariance", title))

# %%
page.say(lambda: levels(folder, "write_invariance", "Cosine between documents"))

# %%
title = "Directions that a fact's slots span"
page.draw("memory_compressibility", lambda: draw_part(folder, "compressibility", title))

# %%
page.say(lambda: levels(folder, "compressibility", "Variance in the first singular values, %", 100))

# %% [markdown]
# ## Selectivity index
#
# As published, and as the difference that the instruction makes to slots that are no object's own.

# %%
title = "Slots along the line from the object to leave out to the one to learn"
page.draw("memory_selectivity_index", lambda: draw_part(folder, "selectivity_index", title))

# %%
page.say(lambda: levels(folder, "selectivity_index_paired", "By which the instruction moves the slots"))
