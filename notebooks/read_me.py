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
# # If the experts are known before the model runs: Read-ME
#
# Cai, Ro, Kim, Wang, Bejnordi, Akella, Wang: *Read-ME: Refactorizing LLMs as Router-Decoupled Mixture of Experts with System Co-Design*,
# [arXiv 2410.19123](https://arxiv.org/abs/2410.19123), NeurIPS 2024. Have the paper beside you.
#
# The paper cuts a dense model into experts by what each kind of text excites, and puts one small router **in front** of it: token ids in,
# one expert for all layers out. So a server knows the experts of every queued token. Here SmolLM2-135M is cut that way (without the
# paper's billion tokens of training afterwards), and a simulated server works with routes and seconds that were measured.

# %%
import numpy as np

import workbench as wb
from workbench.system import get
from workbench.systems.routing import read_me_serving, serving

# %% [markdown]
# ## 1. Question: what is it worth to know the future?
#
# A cache holds some of the experts. When another is needed, one must leave. Belady's rule, evict what is needed last, cannot be beaten, but
# it needs the future. On a cycle 0 1 2 0 1 2 ... with room for two, LRU always throws out the wrong one; knowing just the next use is
# enough for the best there is:

# %%
cycle = np.arange(12) % 3
for policy, ahead in (("lru", 0), ("lfu", 0), ("belady", 1)):
    hit, _ = serving.stream(cycle, 2, policy, 3, lookahead=ahead)
    print(f"{policy:7} hits {''.join('x' if h else '.' for h in hit)}")
print("the most any cache can hit:", serving.most_hits(cycle, 2, 3))

# %% [markdown]
# Before looking at the paper's hit rates, a stream that has no structure at all: even, independent draws among **six** experts. LRU then
# hits k/6, whatever the text. Compare the rows:

# %%
draws = np.random.default_rng(0).integers(0, 6, 20_000)


def row(policy, ahead=0):
    return "  ".join(f"{100 * serving.stream(draws, k, policy, 6, lookahead=ahead)[0].mean():5.1f}" for k in (2, 3, 4, 5))


print(f"{'experts in the cache':34}    2      3      4      5")
print(f"{'even draws, LRU':34}", row("lru"))
for name, values in read_me_serving.REPORTED.items():
    print(f"{name + ', unverified':34}", "  ".join(f"{v:5.1f}" for v in values))
for ahead in (1, 2, 3, 20_000):
    print(f"{f'even draws, Belady, {ahead} ahead':34}", row("belady", ahead))

# %% [markdown]
# The published LRU row is an even stream's, and the published Belady row is what knowing the next few draws of such a stream gives. That
# is a fair demonstration of the rule, but it says nothing about how *text* routes, and text is what we look at next.
#
# ## 2. Run: cut, read, time, serve
#
# Perplexities are true runs with the other neurons silent; milliseconds are measured; what the server does with them is simulated and
# marked *predicted*.

# %%
record = wb.run("read_me", windows=1, length=32, requests=32)
for name in (
    "perplexity",
    "active_parameters",
    "expert_of_one_token",
    "router_of_256_tokens",
    "p95_latency",
    "hit_rate",
    "loaded",
):
    line = record.meter(name)
    print(
        f"{name:22} {line['value']:9.3f} {line['unit']:16} {line['baseline']:9.3f} {line['baseline_name']}  ({line['provenance']})"
    )

# %% [markdown]
# ## 3. Picture: the cache, batch by batch
#
# ![The cache over the batches](../docs/pictures/cache_timeline.png)

# %%
record.figure("cache_timeline")

# %% [markdown]
# How many experts must fit? The same uses, served again from caches of every size. Belady here knows the tokens that wait in the queue and
# nothing else: what a request will generate is not known before it is generated.
#
# ![Hits by size of the cache](../docs/pictures/hit_rates.png)

# %%
record.figure("hit_rates")

# %%
print(record.text("hit_rates"))

# %% [markdown]
# Look at plain LRU. A batch needs each of its experts once, in some order, so the expert that LRU throws out is often the very one that
# comes next. A batch's experts may be used in *any* order. Using those at hand first (the dashed line, the knob `at_hand_first`) costs
# nothing, and most of what Belady gained is there without knowing any future.
#
# ## 4. Move this
#
# Every rule of serving is a live knob: the recorded requests are served again in milliseconds. How does latency grow with the load, first
# come first served beside batches by expert?

# %%
system = get("read_me")(windows=1, length=32, requests=32)
print("requests/s    first come   by expert   (95th percentile of latency, s, predicted)")
for rate in (1, 2, 4, 8, 16):
    late = []
    for batching in ("fifo", "expert-aware"):
        system.set(arrival_rate=rate, batching=batching)
        late.append(system.rederive(record).meter("p95_latency")["value"] / 1e3)
    print(f"{rate:10}    {late[0]:10.2f}  {late[1]:10.2f}")

# %% [markdown]
# `wb.open("read_me")` has the same knobs as sliders.
#
# ## 5. Check the claims, and what the cut cost

# %%
print(record.text("claims"))

# %%
print(record.text("expert_perplexity"))

# %% [markdown]
# ![Perplexity by share of neurons](../docs/pictures/keep_curve.png)
#
# Half of the neurons, chosen well, still read; chosen at random they do not. But the experts are far from the dense model, and much alike:

# %%
print(record.text("mask_overlap").split("\n\n")[0])
print(record.text("layer_choice").split("\n\n")[0])

# %% [markdown]
# ## 6. Exercise
#
# 1. Set `router="random"`. Which of the claims on serving survive, and why does the hit rate still differ from k/N?
# 2. Set `bandwidth=25`, as between a processor and a GPU. Is the cache still worth anything on this machine's seconds?
# 3. In `serving.Requests` make every request one single expert. What is the best batching now, and who starves?
