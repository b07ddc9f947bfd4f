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
# # Which expert takes which token? OpenMoE
#
# Xue, Zheng, Fu, Ni, Zheng, Zhou, You: *OpenMoE: An Early Effort on Open Mixture-of-Experts Language Models*,
# [arXiv 2402.01739](https://arxiv.org/abs/2402.01739) (2024). Have the paper beside you.
#
# A router sends every token to a few experts. The paper trained models of up to 34 billion parameters and then asked its routers three
# things: what do they look at, when did they learn it, and who loses when an expert is full? Its answers are here put to a mixture of
# two million parameters that was trained for this page on plays, Python source, help topics and sums. Some hold, some do not.

# %%
import numpy as np

import workbench as wb
from workbench.systems.routing import analysis
from workbench.systems.routing.openmoe import OpenMoE

# %% [markdown]
# ## 1. Question: who is dropped when an expert is full?
#
# An expert has a fixed number of slots for each group of tokens, a multiple (the **capacity factor**) of its fair share. Slots are given
# out in the order of the text. If routing were pure chance, the token at place t would lose its expert when the slots are taken by the t
# tokens before it: a binomial tail. The kernel that does the work must agree.

# %%
rng = np.random.default_rng(0)
draws, law = 2000, np.full(8, 1 / 8)
expert = rng.integers(0, 8, (1, draws * 128, 1)).astype(np.int16)
groups = [slice(i * 128, i * 128 + 128) for i in range(draws)]
for factor in (1.0, 1.25):
    slot = analysis.serve(expert, np.ones(expert.shape, np.float32), groups, 8, factor, "token").slot.reshape(draws, 128)
    slots = analysis.capacity(128, 8, 1, factor)
    for place in (31, 63, 95, 127):
        exact = analysis.drop_probability(place, law, slots)
        print(
            f"capacity factor {factor:<4}  place {place:3}: dropped {(slot[:, place] < 0).mean():.3f}, by the formula {exact:.3f}"
        )

# %% [markdown]
# So the end of a text pays, even where no expert is preferred. That part of *drop towards the end* is arithmetic, not learning.
#
# ## 2. Run: a real mixture reads held-out text
#
# Two layers with eight experts, two for each token. Four kinds of text it was trained on (unseen parts of them), and two it never saw: style
# sheets, and plays in a cipher.

# %%
system = OpenMoE(windows=8)
record = system.record()
for name in ("throughput", "active_parameters", "drop_rate", "load_imbalance", "slots", "perplexity"):
    row = record.meter(name)
    print(f"{name:18} {row['value']:9.3f} {row['unit']:46} {row['baseline']:9.3f} {row['baseline_name']}  ({row['provenance']})")

# %% [markdown]
# ## 3. Picture: what decides the expert?
#
# ![Which expert takes which token](../docs/pictures/routing_map.png)

# %%
record.figure("routing_map")

# %% [markdown]
# The same tokens grouped three ways: by kind of text, by position, by token. The paper's finding is that only the last is spiky.
#
# ![Shares of the experts by kind, position and token](../docs/pictures/spikiness.png)

# %%
record.figure("spikiness")

# %% [markdown]
# A number for each token id that occurs often enough: 1 where its occurrences all go to one expert, 0 where they spread evenly.

# %%
routes = record["routing"]
ids, first = routes["token_id"].values.astype(int), routes["expert"].values[-1, :, 0].astype(int)
times = analysis.counts(ids, first, routes.sizes["expert"])
score = analysis.specialisation(times)
often = np.flatnonzero(times.sum(1) >= analysis.ENOUGH)
for i in (*often[np.argsort(-score[often])][:4], *often[np.argsort(score[often])][:4]):
    piece = str(routes["piece"].values[ids == i][0])
    print(
        f"{piece!r:12} {int(times[i].sum()):4} times, specialisation {score[i]:.2f}, of ten: {np.round(10 * times[i] / times[i].sum()).astype(int)}"
    )

# %% [markdown]
# Shares of rare tokens look spiky by chance, so the question is put to the mutual information, with what shuffled values would explain
# taken off:

# %%
print(record.text("information"))

# %% [markdown]
# ## 4. When is it learnt?
#
# The router's logits on a fixed held-out probe were kept at ten steps of the training, with and without the two router losses.

# %%
print(record.text("router_film").split("\n\n")[0])
record.figure("router_film")

# %% [markdown]
# ## 5. Move this
#
# In the live page (`wb.open("openmoe")`) capacity factor, order of service, experts per token and group size are live: they are served
# again from the recorded router, in milliseconds. When you let go, the model itself runs with the limit inside. By hand:

# %%
for order in ("token", "random", "priority"):
    for factor in (0.5, 1.25, 2.0):
        system.set(order=order, capacity_factor=factor)
        moved = system.rederive(record)
        y = moved["curve/drops"].y.values.reshape(-1, 16)[0]
        drop, slots = (moved.meter(n)["value"] for n in ("drop_rate", "slots"))
        print(
            f"{order:9} factor {factor:<4} dropped {drop:6.1%}, first quarter {y[:4].mean():6.1%}, last {y[-4:].mean():6.1%}; slots {slots:.2f}x"
        )
system.set(order="token", capacity_factor=1.25)

# %% [markdown]
# Served by weight, the unsure tokens pay instead of the late ones; slots cost computing whether they are used or not.
#
# ![Where in the text choices are dropped](../docs/pictures/drop_curve.png)
#
# ## 6. Check the claims
#
# Each with its interval, and with the threshold that it is judged by:

# %%
print(record.text("claims"))

# %% [markdown]
# What does dropping cost? The same texts with half of the slots, in the model itself:

# %%
tight = wb.run("openmoe", windows=8, capacity_factor=0.5)
print(tight.text("drop_quality").split("\n\n")[0])
print(f"perplexity {tight.meter('perplexity')['value']:.1f}, without a limit {tight.meter('perplexity')['baseline']:.1f}")

# %% [markdown]
# ## 7. Any other mixture
#
# Many classes return no router logits, or return probabilities under that name; so the router modules themselves are read. A tiny OLMoE with
# random weights, and its first router multiplied out by hand:

# %%
import torch
from transformers import OlmoeConfig, OlmoeForCausalLM

from workbench.instruments import router

sizes = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
model = OlmoeForCausalLM(OlmoeConfig(**sizes, num_experts=8, num_experts_per_tok=2, pad_token_id=0, eos_token_id=None)).eval()
ids = np.arange(5, 25)
seen = router.capture(model, ids)
inputs = []
hook = model.model.layers[0].mlp.register_forward_pre_hook(lambda module, args: inputs.append(args[0][0]))
with torch.no_grad():
    model(torch.from_numpy(ids)[None])
hook.remove()
by_hand = (inputs[0] @ model.model.layers[0].mlp.gate.weight.T).detach().numpy()
print("rule of the weights:", seen.rule, "| largest difference of the logits:", float(np.abs(by_hand - seen.logits[0]).max()))

# %% [markdown]
# ## 8. Exercise
#
# 1. `group_size=8`: the slots of eight texts are shared. Who is dropped now, and why is the curve flatter?
# 2. `model="moe-16"`: the same parameters in sixteen experts. Does the token id explain more or less?
# 3. Find a token that goes to different experts in different places (`record.figure("token_card", token=...)`). What stands before it?
