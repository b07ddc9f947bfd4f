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
# # Thresholds that are learnt: ATP-LLaVA
#
# Ye, Gan, Ge, Zhang, Tang: *ATP-LLaVA: Adaptive Token Pruning for Large Vision Language Models*,
# [arXiv 2412.00447](https://arxiv.org/abs/2412.00447) (2024). Have the paper beside you.
#
# Small modules between layers look at how picture and question attend to each picture token and set two thresholds, for **this** picture
# and **this** question. A token stays if it is looked at enough, or if it lies on a grid that keeps the picture's layout. Here the
# modules are trained on a frozen reader of 0.43 million parameters; the paper tunes a model of seven thousand million along.

# %%
import numpy as np
import torch

import workbench as wb
from workbench.systems.attention import atp_modules as atp
from workbench.systems.attention import pictures, schedules

# %% [markdown]
# ## 1. The model, and how good it is blind

# %%
print(wb.models.load("scene-reader").card.split("\n\n", 1)[1])

# %% [markdown]
# ## 2. Two scores, two thresholds
#
# The spatial score is the same for every picture: a token gets that of the sparsest grid it lies on, so a rising threshold leaves a coarser
# grid. On 24 x 24 tokens, with every second, fourth and eighth row and column:

# %%
grid = atp.spatial_scores((24, 24))
for theta in (0.1, 0.5, 0.9):
    print(f"threshold {theta}: {int((grid > theta).sum())} of {grid.numel()} tokens lie on a grid that passes")

# %% [markdown]
# In training a mask is soft, `sigmoid(T (score - threshold))`, so that a threshold can learn. The steeper, the nearer it is to what really
# happens later; too steep, and nothing is left to learn from:

# %%
margin = torch.linspace(-0.2, 0.2, 5)
for temperature in (1.0, 10.0, 100.0):
    soft = torch.sigmoid(temperature * margin)
    slope = temperature * soft * (1 - soft)
    print(f"T {temperature:5.0f}: mask {np.round(soft.numpy(), 3)}  gradient {np.round(slope.numpy(), 3)}")

# %% [markdown]
# ## 3. Run: one picture, one question

# %%
adaptive = wb.run("atp_llava", budget=0.28, held_out=200, compare=False)
for name in ("kept_share", "accuracy", "multiply_adds", "cache_bytes"):
    row = adaptive.meter(name)
    print(f"{name:14} {row['value']:9.3f} {row['unit']:44} all tokens {row['baseline']:9.3f}  ({row['provenance']})")

# %%
adaptive.figure("patch_film")

# %% [markdown]
# ![The picture in each layer, and why a patch stays](../docs/pictures/atp_film.png)
#
# ## 4. Did it learn to adapt?
#
# If a threshold were the same for all questions, the module would be a fixed ratio in disguise.

# %%
print(adaptive.text("thresholds").split("\n\n")[0])
print(adaptive.text("kept_by_kind"))

# %%
adaptive.figure("kept_by_kind")

# %% [markdown]
# ![Tokens kept by kind of question](../docs/pictures/kept_by_kind.png)
#
# ## 5. Check the claim: adaptive beats fixed at the same mean number of tokens
#
# The fixed schedule keeps everything in two layers and the same few best tokens in all others (FastV's shape); its share is set to what
# the modules kept on average on the same questions.

# %%
reader = pictures.open_reader("scene-reader")
exam = pictures.exam(reader, 400, seed=2)
for budget, found in atp.trained().items():
    learnt = pictures.sit(reader, exam, atp.Pruner(found.modules, found.after, exam.glance.grid), at=found.after, own=True)
    line = f"budget {budget:<5} kept {learnt.share:.1%}: learnt thresholds {learnt.accuracy:.1%}"
    if learnt.share * reader.layers > 2:
        rule, at = pictures.scheduled(schedules.step(learnt.share, reader.layers, exam.glance.patches))
        fixed = pictures.sit(reader, exam, rule, at=at)
        line += f", fixed {fixed.accuracy:.1%} right (at {fixed.share:.1%})"
    print(line)

# %% [markdown]
# **Move this.** `wb.open("atp_llava")` has the two thresholds' offsets as live knobs: patches, counts and costs follow from the recorded scores,
# accuracy is read off the measured curve and marked *estimated* until the true run.
#
# ## 6. Exercise
#
# 1. `use="redundancy"` and `use="spatial"` switch one score off (the paper's ablation). Which kind of question misses which?
# 2. Which kind of question breaks first when the budget falls, and is it the one that needs most patches?
# 3. Raise `theta_r_offset` until one token is left. Which one is it, and can the model still answer?
