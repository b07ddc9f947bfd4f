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
# # Two frames, one moving car: ProDepth, read with a running program
#
# Woo, Lee, Kim, Yoon: *ProDepth: Boosting Self-Supervised Multi-Frame Monocular Depth with Probabilistic Fusion*,
# [arXiv 2407.09303](https://arxiv.org/abs/2407.09303) (ECCV 2024). Have the paper beside you.
#
# Two frames of a moving camera give depth by matching, *if nothing else moves*. A car that drives along matches perfectly, at the wrong
# depth. Can the matching itself notice? Here the scenes are ray-cast, so every depth is known exactly; at the end comes a real photograph.

# %%
import numpy as np

import workbench as wb
from workbench.systems.geometry import analysis, fusion, pairs, volume
from workbench.systems.geometry.analysis import Choice

# %% [markdown]
# ## 1. Question: where does a moving thing seem to be?
#
# The camera moves sideways by `B`, a board at `z` moves by `m` the same way. Its image shifts by `f (B - m) / z` pixels, exactly like a
# thing that stands still at `z' = z B / (B - m)`. Before you run the cell: where will a board at 4 m seem to be when `m = B / 2`?

# %%
depths = volume.bins(1.5, 40, 64, "log")
print("m/B    closed form   cheapest match   (one step of the candidates is 5.3 %)")
for speed in (-0.5, 0.0, 0.25, 0.5, 0.75):
    setting = pairs.scene("walls", "waves", seed=0, baseline=0.4, speed=speed)
    seen = volume.sweep(setting.pair, depths, patch=3)
    apparent = np.median(fusion.cheapest(seen.cost, seen.valid, depths)[setting.moving])
    print(f"{speed:5}  {4 / (1 - speed):8.2f} m  {apparent:11.2f} m")

# %% [markdown]
# At `m = B` the board would be infinitely far: it keeps pace, like the moon beside a train.
#
# ## 2. Run: a street with a crossing car
#
# Four opinions on every pixel: the truth, the cheapest match, what one frame alone suggests, and the two joined. The single-frame opinion
# is *simulated* here: the true depth with a smooth bias of 12 %. That makes the fusion testable; it says nothing about real teachers
# (`teacher="trained"` puts small trained networks in its place, with their real errors).

# %%
record = wb.run("prodepth", scene="street", object_speed=0.5, seed=0)
for name in ("error, all", "error, moving", "error, still", "delta < 1.25", "movers found by U", "time of a volume"):
    row = record.meter(name)
    print(
        f"{name:18} {row['value']:7.3f} {row['unit']:7} {row['baseline_name']:20} {row['baseline']:7.3f}  ({row['provenance']})"
    )

# %% [markdown]
# ## 3. Picture: the ghost
#
# The dashed line encloses what truly moves. Where pictures of a run are not shown:
#
# ![Depth by four opinions](../docs/pictures/depth_maps.png)

# %%
record.figure("depth_maps")

# %% [markdown]
# One pixel on the car. The volume's cost has one sharp minimum, and it is wrong. The single frame's law is broad, and right. Which of the
# two should win is not written in either curve.
#
# ![What one pixel thinks](../docs/pictures/cost_curve.png)

# %%
record.figure("cost_curve")

# %% [markdown]
# ## 4. Check the claim: doubt does not find what moves, contradiction does
#
# If the volume knew that it is wrong, its law would be flat or have two peaks. Order all pixels by such a measure and see how many
# moving ones come first: the area under this curve is 1 for a perfect finder and 0.5 for a coin.
#
# ![Which doubt finds what moves](../docs/pictures/movers_found.png)

# %%
print(record.text("movers_found"))
record.figure("movers_found")

# %% [markdown]
# `U = 1 - exp(-beta |D_single - D_cv|)` compares both opinions instead. From `U = gamma` on, their laws are multiplied,
# `p_cv^(1-U) p_s^U`, and the product becomes a cost volume again. Two lines of the method, checked by hand at one pixel:

# %%
setting = pairs.scene("street", "waves", 0, 0.4, 0.5)
found = analysis.analyse(setting, Choice())
y, x = 40, 80
u = float(found.maps["uncertainty"][y, x])
disagreement = abs(found.maps["depth_single"][y, x] - found.maps["depth_cv"][y, x])
print(f"|D_single - D_cv| = {disagreement:.2f} m, U = {u:.3f}, by hand {1 - np.exp(-0.6 * disagreement):.3f}")
p_cv = fusion.min_max(fusion.matching_law(found.volume.cost))[:, y, x]
p_s = fusion.min_max(fusion.single_law(found.volume.depths, found.maps["depth_single"], found.maps["sigma"]))[:, y, x]
product = p_cv ** (1 - u) * p_s**u
print("the product peaks at", depths[product.argmax()], "m, the joined depth is", found.maps["depth_fused"][y, x], "m")
print("matching said", found.maps["depth_multi"][y, x], "m, the truth is", round(float(setting.true[y, x]), 2), "m")

# %% [markdown]
# ## 5. Move this
#
# On the live page (`wb.open("prodepth")`) every knob below acts while it moves, and a click on a pixel shows its curves. Watch the
# *slow* car: its ghost stands so near to the truth that the contradiction stays under the threshold. The method is blind there.
#
# ![Error over object speed](../docs/pictures/ghost_speed.png)

# %%
record.figure("ghost_speed")

# %% [markdown]
# `gamma` and `beta` have two bad ends each: one hands good matches to the single frame, the other keeps the ghosts.

# %%
for name, values in (("gamma", (0.2, 0.4, 0.6, 0.8, 1.01)), ("beta", (0.1, 0.3, 0.6, 1.2, 3.0))):
    errors = [
        analysis.table(analysis.analyse(setting, Choice(**{name: v})), setting, fused_only=True)["fused", "all"] for v in values
    ]
    print(f"{name:5}", ", ".join(f"{v:g}: {e['abs_rel']:.3f}" for v, e in zip(values, errors, strict=True)))

# %% [markdown]
# Both defaults count in *network units*, one metre here. Scale the scene by ten without telling beta, and everything moves:

# %%
for unit in (0.1, 1.0, 10.0):
    maps = analysis.analyse(setting, Choice(unit=unit)).maps
    print(f"one unit = {unit:4} m: {np.mean(maps['weight'] == 0):.0%} of the pixels distrusted; {setting.moving.mean():.0%} move")

# %% [markdown]
# ## 6. Real pixels
#
# The Middlebury motorcycle: two photographs and a measured depth. A rectified pair is a camera that moves sideways, so the same program
# runs. Nothing moves in it; the board is a patch of the left picture, pasted into the right one where a moving thing would be seen.

# %%
real = wb.run("prodepth", scene="motorcycle", object_speed=0.5, study=False)
print(real.text("error_split"))
real.figure("depth_maps")

# %% [markdown]
# `wb.run("prodepth", scene="motorcycle", resolution="full")` takes every pixel. Your own rectified pair: `scene="pair"` with `left`,
# `right`, `focal`, `baseline` and `teacher="trained"`; nobody knows its true depth, so only the contradiction is shown.
#
# ## 7. Exercise
#
# 1. `pose_noise_deg=0.5`: which of the measures reacts, on what stands still? Does the entropy?
# 2. Let the softmax be sharper, `temperature=0.02`. Does the volume's entropy now find the car? Why does it get worse?
# 3. ManyDepth's mask asks whether one depth is twice the other. At which object speed does it start to see the car? Compare with the
#    closed form of section 1.
# 4. The paper writes the product at every pixel, the released code only where `U >= gamma`: `product="everywhere"`. What does it do to
#    the part that stands still, and what has the teacher's bias to do with it?
