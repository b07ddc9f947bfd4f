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
# # Start here: one paper, run and watched
#
# Workbench holds methods for efficient machine learning as programs that can be run, watched and changed. This notebook takes
# about half a minute and shows the whole way once: **a question, a run, a picture, something to move, a claim to check.**
# Everything runs on this computer's processor; the model is SmolLM2 with 135 million parameters (`make model` fetches it once).

# %%
import workbench as wb

wb.catalog()

# %% [markdown]
# ## Question
#
# A language model writes one token per call, and each call reads all of its weights. Could a cheap *draft* propose several
# tokens and the model only check them, without changing a single word? That is speculative decoding; the paper behind `rsd`
# lets the draft propose a small **tree** of tokens.
#
# ## Run
#
# `wb.run` takes a system's name and its knobs and returns a **record**: every array of the run, labelled, with units.

# %%
knobs = {"prompt": "Explain in one sentence why the sky is blue.", "depth": 3, "width": 3, "temperature": 0.0}
record = wb.run("rsd", **knobs, max_new_tokens=32, seed=0)
record

# %% [markdown]
# Each figure below was measured in this run, next to plain decoding of the same prompt in the same run. On your machine the
# tree may be slower than plain decoding; then the figures say so.

# %%
columns = ["value", "unit", "kind", "baseline", "provenance"]
record["meters"].to_dataframe()[columns]

# %% [markdown]
# ## Picture
#
# Which tokens did the draft get right? Green tokens came for free with a call of the model that was made anyway.
#
# ![The generated text, each token coloured by where it came from](../docs/pictures/text_strip.png)

# %%
record.figure("text_strip")

# %% [markdown]
# Every picture has a twin in words, and a step that it shows:
#
# ![The token tree of one step: accepted, rejected and untried proposals](../docs/pictures/token_tree.png)

# %%
print(record.text("token_tree", step=1))
record.figure("token_tree", step=1)

# %% [markdown]
# ## Move this
#
# `wb.open` returns the live page of a system. Move **depth** and watch tokens per target call and milliseconds move against each
# other. `make serve` opens the same page in a browser of its own.

# %%
wb.open("rsd", **knobs, max_new_tokens=32)

# %% [markdown]
# ## Check the claim
#
# The claim is "not a single word changes". At temperature 0 that can be checked token by token:

# %%
plain = wb.run("rsd", **knobs | {"method": "autoregressive"}, max_new_tokens=32, seed=0)
same = (plain["text"]["token_id"].values == record["text"]["token_id"].values).all()
print("identical to plain greedy decoding:", bool(same))

# %% [markdown]
# ## Keep it, compare it
#
# A record is one file. Loading it gives the same arrays back, bit by bit, and executes nothing.

# %%
path = record.save("first_run.zarr.zip")
again = wb.load(path)
path.unlink()
assert again.equals(record)
wb.compare(record, plain)

# %% [markdown]
# ## Exercise
#
# 1. Set `temperature` to 1.0. Do more or fewer proposals survive? Look at `acceptance_rate` before you look at the text.
# 2. Give a prompt that repeats itself (a list, a piece of code) and `draft="lookup"`, which proposes what followed the same words
#    earlier in the text and costs nothing. Where does it win?
# 3. Ask a question of your own: any array of the record is an `xarray` dataset, `record["tree"]` for instance.
#
# Next: `rsd.ipynb` reads the paper itself, with a model so small that every outcome can be enumerated.
