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
# # From Bits to Rounds, read with a running program
#
# Fu, Huang, Adams, Wang, Srinivasan, Jiao: *From Bits to Rounds: Parallel Decoding with Exploration for Diffusion Language Models*,
# [arXiv 2511.21103](https://arxiv.org/abs/2511.21103) (2025). Have the paper beside you.
#
# A decoder that decides only what it trusts learns little in each round: what is certain carries no information. So a text of many
# bits needs many rounds. The paper's way out is to decide an *uncertain* token on purpose. No code was found; the theorem is derived
# and tested here, the exploring decoder is **our reconstruction**.

# %%
import numpy as np

import workbench as wb
from workbench.models.masked import ExactCanvas
from workbench.models.table_dlm import random_chain
from workbench.systems.diffusion import bounds
from workbench.systems.diffusion.decode import FALLBACK, Plain, decode, information
from workbench.systems.diffusion.exploration import corrected_bound
from workbench.systems.diffusion.rules import Rule

# %% [markdown]
# ## 1. Question: how much can a trusting round reveal?
#
# The factor rule decides the most tokens k with (k + 1)(1 - p) <= f. Then each is wrong with probability at most f / (k + 1), and the
# chance that *any* is wrong at most k f / (k + 1): so the round reveals at most the logarithm of one over the rest.

# %%
for f in (0.5, 0.9, 1.0):
    print(
        f"f = {f}: jointly at most",
        *(f"{float(bounds.joint_budget(k, f)):.2f} nat for k = {k};" for k in (1, 4, 32)),
        f"one by one at most {f} nat",
    )

# %% [markdown]
# ## 2. Check the claim on laws that are known exactly
#
# Three hundred random joint laws. Rounds in which nothing is trusted decide the best token all the same; the plain bound forgets them
# and fails, the corrected one counts them by themselves.

# %%
naive = corrected = 0
for seed in range(300):
    model = random_chain(6, 3, 1.0 + 2.0 * (seed % 2), seed)
    canvas = ExactCanvas(model, 6, 1)
    out = decode(canvas, np.full((1, 6), model.mask_id), Plain(canvas, Rule("factor", factor=0.9), np.random.default_rng(0)))
    told = information(canvas, out)
    naive += int(out.rounds[0] < bounds.naive(told.total, told.marginal.sum(0), 6, 0.9)[0] - 1e-9)
    corrected += int(out.rounds[0] < corrected_bound(out, told, 6, 0.9)[0] - 1e-9)
print(f"runs under the plain bound: {naive} of 300; under the corrected bound: {corrected}")
print("rounds of the last run that were fallbacks:", int((out.kind == FALLBACK).sum()), "of", int(out.rounds[0]))

# %% [markdown]
# ## 3. Run: stories by a small trained model, with and without exploring

# %%
record = wb.run("bits_to_rounds", items=4, candidates=4, num_samples=60, seed=1)
for name in ("rounds", "sequences forwarded", "measured time", "GPU time", "right answers", "information"):
    row = record["meters"].sel(meter=name)
    print(
        f"{name:20} {float(row.value):8.2f} {row.unit.values!s:12} {row.baseline_name.values!s} {float(row.baseline):8.2f}  ({row.provenance.values})"
    )

# %% [markdown]
# Rounds, sequences, time here and predicted time on a GPU are four different things. Exploring saves rounds and costs sequences; on a
# processor sequences are time, so look at the measured one before you believe a speed-up.
#
# ## 4. Picture: a cascade
#
# Where pictures of a run are not shown:
#
# ![A story, with and without exploring](../docs/pictures/commit_film_story.png)
#
# ![When the model becomes sure](../docs/pictures/commit_map.png)
#
# ![Rounds over information, with the bounds](../docs/pictures/bits_rounds.png)

# %%
record.figure("commit_film", step=6)

# %%
record.figure("commit_map")

# %%
record.figure("bits_rounds")

# %% [markdown]
# ## 5. Move this
#
# On the live page (`wb.open("bits_to_rounds")`) `factor` moves the lines and budgets at once. Above 1 the theorem says nothing, and the
# lines turn grey. What exploring tried, and what it unlocked:

# %%
print(record.text("explored").split("\n")[0])
print(record.text("cost_knee").split("\n")[0])

# %% [markdown]
# ## 6. Exactness meets language
#
# `plays-chain` is a second-order chain of characters fitted on plays. All its conditionals are exact at any length, so the ledger of a
# real text adds up to its information without any estimate.

# %%
text = wb.run(
    "bits_to_rounds", model="plays-chain", text="to be or not to be, that is the ", length=64, num_samples=4, study=False
)
print("".join(text["unmasking"]["piece"].values))
print(text.text("ledger").split("\n")[0])

# %% [markdown]
# ## 7. Exercise
#
# 1. Why does the factor hardly change the rounds of a story, but those of `model="joint-soft"`? Look at `commit_map` of both.
# 2. With `temperature=1.0` exploring makes *more* answers right. What does it take away? Compare the information of both decoders.
# 3. Find the K with the fewest sequences for each round saved (`fewer_rounds`), then the K that is fastest on your machine.
