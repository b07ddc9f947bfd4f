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
# # Recursive speculative decoding, read with a running program
#
# Jeon, Gagrani, Goel, Park, Lee, Lott: *Recursive Speculative Decoding: Accelerating LLM Inference via Sampling Without
# Replacement*, [arXiv 2402.14160](https://arxiv.org/abs/2402.14160) (2024). Have the paper beside you.
# Letters: p is the **target**'s law of the next token, q the **draft**'s, both after temperature.

# %%
import numpy as np

import workbench as wb
from workbench.systems.speculation.verify import residual_law, without

# %% [markdown]
# ## 1. Question: what should be tried after a rejection?
#
# A draft proposes a token x drawn from q. The target accepts it with probability min(1, p(x)/q(x)); otherwise it draws from
# what is left to emit, the **residual** [p - q]₊, normalised. The output then has exactly the law p. Now the draft proposes a
# *second* token before the target gives up. Drawn from q again it may be the very token that was just rejected.
# The paper's answer: draw the siblings **without replacement**, and compare each with the residual that is left.
#
# ## 2. Run: all outcomes of one node
#
# With three tokens every draw order and every decision can be enumerated: no sampling, no error bars.


# %%
def with_replacement(remaining, token):
    return remaining


def enumerate_node(p, q, trials, drawn=without, claimed=None):
    """Return the law of the emitted token, and the probability that each trial is the accepted one.

    Siblings are drawn from q, then from what `drawn` leaves of it; the verifier believes in what `claimed` leaves.
    """
    law, accepted, claimed = np.zeros(len(p)), np.zeros(trials), claimed or drawn

    def walk(r, source, believed, trial, weight):
        if trial == trials or source is None:
            law[:] += weight * r  # every sibling was rejected: draw from what is left
            return
        for x in np.flatnonzero(source):
            here, accept = weight * source[x], min(1.0, r[x] / believed[x])
            law[x] += here * accept
            accepted[trial] += here * accept
            if accept < 1:
                walk(residual_law(r, believed), drawn(source, x), claimed(believed, x), trial + 1, here * (1 - accept))

    walk(np.array(p), np.array(q), np.array(q), 0, 1.0)
    return law, accepted


p, q = [0.5, 0.3, 0.2], [0.2, 0.3, 0.5]
law, accepted = enumerate_node(p, q, trials=3)
again, accepted_again = enumerate_node(p, q, trials=3, drawn=with_replacement)
print("accepted by the 1st, 2nd, 3rd sibling, without replacement:", accepted.round(6), "sum", accepted.sum().round(6))
print(
    "accepted by the 1st, 2nd, 3rd sibling, with replacement:   ", accepted_again.round(6), "sum", accepted_again.sum().round(6)
)

# %% [markdown]
# ## 3. Check the claim
#
# **Lossless**: the emitted token has the law p, to rounding, for both rules. **Better**: three siblings without replacement
# cover all three tokens, so one of them is always accepted; with replacement 19 % of the nodes end in a rejection.

# %%
np.testing.assert_allclose(law, p, atol=1e-12)
np.testing.assert_allclose(again, p, atol=1e-12)
np.testing.assert_allclose(accepted.cumsum(), [0.70, 0.82, 1.00], atol=1e-12)
np.testing.assert_allclose(accepted_again.cumsum(), [0.70, 0.76, 0.808], atol=1e-12)

p4, q4 = [0.1, 0.2, 0.3, 0.4], [0.4, 0.3, 0.2, 0.1]
np.testing.assert_allclose(enumerate_node(p4, q4, 4)[1], [0.6, 0.164286, 0.076012, 0.159702], atol=1e-6)
print("all golden values hold")

# %% [markdown]
# **Break it.** A verifier that removes a rejected token from q but forgets to renormalise is wrong. Yet on the three tokens above
# its output law is exactly p. On four tokens it is not. What does that say about testing on the smallest example?


# %%
def forgetful(remaining, token):
    return np.where(np.arange(len(remaining)) == token, 0.0, remaining)


for target_law, draft_law in ((p, q), (p4, q4)):
    for trials in (2, 3):
        emitted = enumerate_node(target_law, draft_law, trials, claimed=forgetful)[0]
        print(f"{len(target_law)} tokens, {trials} siblings: total variation {np.abs(emitted - target_law).sum() / 2:.4f}")

# %% [markdown]
# ## 4. From a node to a tree, on a model that is a table
#
# `TableLM(P)` is a language model whose next-token law is row `P[last token]`. It can be used wherever a real model can, so the
# very code that speeds up SmolLM2 below runs here, and its output law can be compared with the exact one.

# %%
rng = np.random.default_rng(0)
target, draft = (wb.models.TableLM(rng.dirichlet(np.ones(4), size=4)) for _ in range(2))
table = {"target": target, "draft": draft, "prompt": [0], "max_new_tokens": 2, "temperature": 1.0, "depth": 2, "width": 3}
honest = wb.run("rsd", **table, num_samples=2000, seed=7)
meter = honest.meter("total_variation_to_target")
print(f"total variation {meter['value']:.4f}, an exact sampler of as many draws has {meter['baseline']:.4f}")
honest.figure("lossless_monitor")

# %% [markdown]
# ![Distance from the exact law as samples come in](../docs/pictures/lossless_monitor.png)
#
# **Break it.** The proof needs the siblings in the order in which they were *drawn*. Sorting them by probability looks harmless:

# %%
wrong = wb.run("rsd", **table, num_samples=2000, seed=7, break_it="sorted-siblings")
meter = wrong.meter("total_variation_to_target")
print(f"total variation {meter['value']:.4f}, an exact sampler has {meter['baseline']:.4f}")
wrong.figure("lossless_monitor")

# %% [markdown]
# **Look at one rejection.** Bars are p and q; each panel further on shows what a rejection leaves of both. The residual moves to the
# tokens that the draft proposes too rarely.
#
# ![The rejection ladder of one node](../docs/pictures/rejection_ladder.png)

# %%
run = wb.run("rsd", **table | {"max_new_tokens": 40}, seed=3)
tree = run["tree"]
rejected = tree["step"].values[tree["visited"].values & ~tree["accepted"].values]
run.figure("rejection_ladder", step=int(rejected[0]))

# %% [markdown]
# ## 5. How much does a better draft buy?
#
# `draft_alignment` moves the draft's law towards the target's. One sweep, one record: every run is a row of `settings`.

# %%
sweep = wb.sweep("rsd", {"draft_alignment": [0.0, 0.5, 1.0], "method": ["chain", "rsd-s"]}, **table | {"max_new_tokens": 200})
rows = sweep["settings"].to_dataframe()[["method", "draft_alignment"]]
names = sweep["meters"]["meter"].values.tolist()
rows.assign(tokens_per_target_call=sweep["meters"]["value"].values[:, names.index("tokens_per_target_call")])

# %% [markdown]
# With depth 2 a step writes at most 3 tokens: two accepted drafts and the bonus token. At alignment 1 the draft *is* the target and
# every step reaches that bound.
#
# ## 6. A real model
#
# SmolLM2-135M, drafted by its own weights in 8 bits: a draft that is nearly always right, and not free.

# %%
record = wb.run("rsd", prompt="Write a short poem about rain.", depth=3, width=3, temperature=0.7, max_new_tokens=32, seed=1)
record["meters"].to_dataframe()[["value", "unit", "baseline", "provenance"]]

# %% [markdown]
# ![The token tree of one step](../docs/pictures/token_tree.png)

# %%
print(record.text("token_tree", step=2))
record.figure("token_tree", step=2)

# %% [markdown]
# Where do the milliseconds go? If the draft's share is large, a deeper tree cannot pay, however good its guesses are.

# %%
record.figure("step_timeline")

# %% [markdown]
# ## 7. Move this
#
# Before you move **width** from 1 to 8: will tokens per target call grow in proportion? Will tokens per second?

# %%
wb.open("rsd", prompt="Write a short poem about rain.", depth=3, width=3, temperature=0.7, max_new_tokens=32)

# %% [markdown]
# ## Exercises
#
# 1. **Equal length, equal budget.** `study=True` measures every method at several depths. Compare the curves over depth with the
#    curves over the number of verified nodes (`record.figure("length_and_budget")`): which gain is left at equal budget?
# 2. **Temperature.** At 0 with-replacement siblings would all be the same token. Compare `method="with-replacement"` with
#    `"rsd-c"` at temperatures 0.3 and 1.0. Where is the gap wider, and why?
# 3. **Prove it.** In one step with proposal Q and goal r, show that accepting with min(1, r/Q) and else drawing from the
#    normalised [r - Q]₊ emits r. Then go backwards from the last sibling, as `enumerate_node` does.
