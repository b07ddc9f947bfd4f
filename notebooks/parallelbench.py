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
# # ParallelBench, read with a running program
#
# Kang, Galim, Oh et al.: *ParallelBench: Understanding the Trade-offs of Parallel Decoding in Diffusion LLMs*,
# [arXiv 2510.04767](https://arxiv.org/abs/2510.04767) (2025). Have the paper beside you.
#
# A masked-diffusion model fills hidden tokens in any order. It knows how likely each token is *by itself*; deciding two at once
# means drawing them as if they had nothing to do with each other. This notebook puts a price on that, first exactly, then on a small
# model trained for these tasks.

# %%
import math

import numpy as np

import workbench as wb
from workbench.models import TableDLM
from workbench.systems.diffusion import laws
from workbench.systems.diffusion.parallelbench import ParallelBench

# %% [markdown]
# ## 1. Question: what does one parallel step lose?
#
# Two cities, "New York" and "Cape Town", equally likely. Each word by itself is a fair coin, so drawing both at once writes "New
# Town" half of the time. The loss is the **total correlation**: the sum of the words' entropies minus the entropy of the pair.

# %%
cities = TableDLM([[0.5, 0.0], [0.0, 0.5]])  # rows: New, Cape; columns: York, Town
entropies = cities.subset_entropies() / math.log(2)
print(
    "both at once loses",
    laws.step_losses(entropies, [[0, 1]]).sum(),
    "bit; one after the other",
    laws.step_losses(entropies, [[0], [1]]).sum(),
)
print("what the parallel sampler writes:", {k: round(v, 3) for k, v in laws.sampler_law(cities, [[0, 1]]).items()})

# %% [markdown]
# Theorem 1 says that this is exactly the divergence between the true law and the sampler's, for any schedule:

# %%
law = TableDLM(np.random.default_rng(0).dirichlet(np.ones(81)).reshape((3,) * 4))
for schedule in ([[0, 1, 2, 3]], [[0, 1], [2, 3]], [[0], [1, 2], [3]], [[0], [1], [2], [3]]):
    lost = laws.step_losses(law.subset_entropies(), schedule).sum()
    print(f"{schedule!s:28} total correlations {lost:.6f} nat, divergence by enumeration {laws.divergence(law, schedule):.6f}")

# %% [markdown]
# ## 2. Which tasks have a price?
#
# Copying and sorting have none: given the prompt every token is certain. A shuffle has one that no model can avoid.

# %%
for task in ("copy", "sort", "replace_random", "insert_random", "shuffle"):
    print(f"{task:16}", *(f"n = {n}: {laws.total_correlation_bits(task, n):6.3f} bits" for n in (4, 8, 16)))
print("shuffles of 6, right when k are decided at once:", {k: round(laws.shuffle_accuracy(6, k), 3) for k in (1, 2, 3, 6)})

# %% [markdown]
# ## 3. Run: a trained model on held-out prompts
#
# TinyMDM has 0.2 million parameters and was trained here. Every rule at every setting decodes the same prompts.

# %%
record = wb.run("parallelbench", task="shuffle", items=6, rule="static", k=2, temperature=1.0, num_samples=100, seed=2)
for name in ("tokens a round", "rounds", "sequences forwarded", "measured time", "GPU time", "right answers", "bits lost"):
    row = record["meters"].sel(meter=name)
    print(
        f"{name:20} {float(row.value):8.2f} {row.unit.values!s:12} one token a round {float(row.baseline):8.2f}  ({row.provenance.values})"
    )

# %% [markdown]
# ## 4. Picture: two decoders write the same answer
#
# Where pictures of a run are not shown:
#
# ![Two decoders write the same shuffle](../docs/pictures/commit_film.png)
#
# ![Why the round broke the answer](../docs/pictures/why_broke.png)
#
# ![Right answers over tokens a round for every rule](../docs/pictures/tokens_accuracy.png)

# %%
record.figure("commit_film")

# %%
record.figure("why_broke")

# %%
record.figure("tokens_accuracy")

# %% [markdown]
# ## 5. Move this
#
# On the live page (`wb.open("parallelbench")`) the schedule is a knob: move a token to another step, and the bits lost follow at
# once, exactly. Here by hand:

# %%
shuffle = wb.run("parallelbench", model="ideal", task="shuffle", items=6, k=2, num_samples=200, study=False)
for schedule in ("1 2 | 3 4 | 5 6", "1 2 3 | 4 5 | 6", "1 | 2 3 4 5 | 6"):
    print(schedule, "->", ParallelBench(schedule=schedule).rederive(shuffle).text("bits_lost").split("\n")[0])

# %% [markdown]
# ## 6. Check the claim: two tasks want opposite thresholds
#
# Replace-random asks for patience: while the model is unsure which item changes, every item looks unchanged with probability
# (n - 1) / n, and a threshold below that decides them all, wrongly. A shuffle is safe under any threshold above one half.

# %%
for task in ("replace_random", "shuffle"):
    for gamma in (0.6, 0.8, 0.85, 0.95):
        run = wb.run(
            "parallelbench",
            model="ideal",
            task=task,
            items=6,
            rule="threshold",
            gamma=gamma,
            temperature=0.0,
            num_samples=100,
            study=False,
        )
        print(
            f"{task:15} gamma {gamma}: {run.meter('right answers')['value']:5.1f} % right, {run.meter('tokens a round')['value']:.2f} tokens a round"
        )

# %% [markdown]
# ## 7. Exercise
#
# 1. Predict with pencil and paper the share of right answers of `replace_random`, six items, all at once; check with `model="ideal"`.
# 2. `task="sentences"`, `k=8`: find a "New Angeles" in the film and its combination in `why_broke`. Which rule avoids it, at which speed?
# 3. Give `TableDLM` a law of your own in which two tokens are independent given a third. Which schedule of two steps loses nothing?
