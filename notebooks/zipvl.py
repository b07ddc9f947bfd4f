# ---
# jupyter:
#   jupytext:
#     formats: py:percent,ipynb
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # ZipVL, read with a running program
#
# He, Chen, Liu, Shao, Zhou, Zhang, Zhuang: *ZipVL: Efficient Large Vision-Language Models with Dynamic Token Sparsification and
# KV Cache Compression*, [arXiv 2410.08584](https://arxiv.org/abs/2410.08584) (2024). Have the paper beside you.
#
# The paper's models see pictures; here a text model with 135 million parameters reads a passage of a play. That the method is
# not tied to pictures is the paper's own claim (it tests text too); how it fares on *this* model is measured below.

# %%
import numpy as np

import workbench as wb
from workbench import data
from workbench.systems.attention.zipvl import important, smallest_count, visible

# %% [markdown]
# ## 1. Question: how many tokens does a layer need?
#
# Attention rows sum to one. Rank the tokens by what they receive; the **smallest set that holds the share tau** is what the layer
# really reads. A layer that looks at few tokens keeps few, a layer that averages keeps nearly all: the ratio is a result, not a knob.

# %%
mass = np.array([2.0, 0.55, 0.05, 0.5, 0.1, 0.35, 0.45])  # attention received by seven tokens, summed over four probe queries
for tau in (0.5, 0.8, 0.9, 0.99):
    print(f"tau {tau}: {smallest_count(mass, tau)} of {len(mass)} tokens")

# %% [markdown]
# Two details matter. The mass of token j is a sum over the probes that *can see* j, so late tokens look unimportant only because
# few queries stand behind them: the paper divides by that number. And token 0 collects mass because models park attention there.

# %%
probes = np.array([2, 4, 5, 6])
seen = visible(7, probes)
print("probes that see each token:", seen)
print("kept by the raw sum:  ", important(mass, 3, forced=0).astype(int))
print("kept by sum over seen:", important(mass / np.maximum(seen, 1), 3, forced=0).astype(int))

# %% [markdown]
# ## 2. Run: a real model, dense and sparse side by side

# %%
text = data.passage("play", 1500)
record = wb.run("zipvl", prompt=text, tau=0.975, new_tokens=16)
for name in ("kept_share", "attention_work", "prefill", "next_token_agreement", "divergence", "cache_bytes"):
    row = record["meters"].sel(meter=name)
    print(f"{name:22} {float(row.value):8.3f} {row.unit.values!s:44} dense {float(row.baseline):8.3f}  ({row.provenance.values})")

# %% [markdown]
# ## 3. Picture: each layer reads its own text
#
# Every row is a layer, the text runs to the right; green is kept. The curves below say why: heaviest token first, how much attention
# is held. Where pictures of a run are not shown:
#
# ![Tokens kept by each layer](../docs/pictures/kept_tokens.png)
#
# ![How few tokens hold the attention](../docs/pictures/mass_curves.png)

# %%
record.figure("kept_tokens")

# %%
record.figure("mass_curves")

# %% [markdown]
# Another text, side by side on one scale: what differs between a play and a program belongs to the input, what stays to the model.
# The same call compares two models (`model=`), or two settings.

# %%
program = wb.run("zipvl", prompt=data.passage("code", 1500), tau=0.975, new_tokens=16)
wb.compare(record, program).figure("attention_overview")

# %% [markdown]
# ## 4. Move this
#
# In the live page (`wb.open("zipvl")`) `tau` is a live knob: the kept sets of all layers follow the slider from the recorded
# scores, marked *estimated*, because under another tau the hidden states would have differed; the true run follows when you let go.
# Here the same by hand:

# %%
length = record["attention"].sizes["position"]
for tau in (0.6, 0.9, 0.975, 0.995, 1.0):
    counts = [smallest_count(m, tau) for m in record["attention"]["token_mass"].values]
    print(
        f"tau {tau:<5}: {np.mean(counts) / length:.0%} of the tokens on average, from {min(counts)} to {max(counts)} of {length}"
    )

# %% [markdown]
# ## 5. Check the claim: a ratio for each layer beats one ratio for all
#
# The baseline keeps the *same number of tokens on average*, but the same number in every layer.

# %%
share = float(record["meters"].value.sel(meter="kept_share"))
fixed = wb.run("zipvl", prompt=text, fixed_ratio=share, new_tokens=16)
for name, run in (("a ratio for each layer", record), ("one ratio for all", fixed)):
    meters = run["meters"].value
    print(
        f"{name:24} kept {float(meters.sel(meter='kept_share')):.3f}   divergence {float(meters.sel(meter='divergence')):.3f} nats"
    )

# %% [markdown]
# What you see is one passage and sixteen tokens: enough to see the mechanism, not enough to settle the question. The exercise does more.
#
# **The limit in one number.** Skipping tokens saves *attention* work. In this small model the products with weight matrices
# dominate at this length, so even free attention would gain little: the meter `largest_possible_gain` says how much.

# %%
print(f"largest possible gain here: {float(record['meters'].value.sel(meter='largest_possible_gain')):.3f}x")

# %% [markdown]
# ## 6. Exercise
#
# 1. Replace `text` by `data.needle(1500)` and ask at which tau the sentence about the password is skipped by *every* layer; with
#    `compare_on="the text's own end", new_tokens=4`, whether it is still known at the end (`words_right`).
# 2. `skip="keys"` lets every token ask but only kept ones answer. Is it closer to the dense run at the same tau? What does it cost?
# 3. Repeat section 5 for ten passages (`wb.sweep("zipvl", {"seed": range(10)})` varies the probes) and put an interval on the difference.
