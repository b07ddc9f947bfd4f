"""What the package ships: it loads without a network, is as small as promised, and does what its card says."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch

from workbench import data, models
from workbench.models import eagle
from workbench.models.drafts import open_session
from workbench.models.session import chain_parents

LARGEST_MB = 10


@pytest.fixture(scope="module")
def held_out_ids():
    target = models.load("lab-target")
    text = "\n".join(data.stdlib_code()[name] for name in sorted(data.stdlib_code()) if data.held_out(name))
    return torch.tensor(target.encode(text[20_000:40_000])[: 512 * 8]).view(8, 512)


def laws(name, ids):
    with torch.inference_mode():
        return models.load(name).model(ids).logits.log_softmax(-1)


@pytest.mark.parametrize("name", ["lab-target", "lab-draft"])
def test_lab_models_do_what_their_cards_say(name, held_out_ids):
    loaded = models.load(name)
    folder = Path({e.name: e.where for e in models.available()}[name])
    assert sum(f.stat().st_size for f in folder.iterdir()) < LARGEST_MB * 1e6
    assert loaded.vocab_size == 1024
    stated = float(re.search(r"held-out loss: ([\d.]+) nats", loaded.card)[1])
    told = laws(name, held_out_ids)[:, :-1].gather(-1, held_out_ids[:, 1:, None])
    assert abs(-float(told.mean()) - stated) < 0.6  # another sample of the held-out modules


def test_the_lab_draft_follows_the_lab_target(held_out_ids):
    p, q = laws("lab-target", held_out_ids), laws("lab-draft", held_out_ids)
    assert models.load("lab-target").pieces(range(1024)) == models.load("lab-draft").pieces(range(1024))
    assert float(torch.minimum(p.exp(), q.exp()).sum(-1).mean()) > 0.5
    assert float((p.argmax(-1) == q.argmax(-1)).float().mean()) > 0.4


def test_the_lab_target_writes_python():
    loaded = models.load("lab-target")
    ids = loaded.encode("    def __init__(self")
    text = loaded.decode(loaded.model.generate(torch.tensor([ids]), max_new_tokens=12, do_sample=False)[0])
    assert "):" in text


@pytest.mark.model
def test_the_shipped_draft_guesses_what_smollm2_says():
    """Along SmolLM2's own greedy text the draft's first guess is right far more often than chance would have it."""
    loaded = models.load("smollm2-135m")
    session = open_session(loaded, 160)
    draft = eagle.open_eagle(loaded, session)
    assert (eagle.FOLDER / "draft.safetensors").stat().st_size < LARGEST_MB * 1e6
    text = loaded.encode("What are three good reasons to plant a tree?")
    session.forward(text[:-1], chain_parents(len(text) - 1), last_only=True)
    draft.commit(range(len(text) - 1), text[:-1], session)
    session.keep(range(len(text) - 1))
    right = []
    for _ in range(40):
        guess = draft.forward(text[draft.length :], chain_parents(len(text) - draft.length), last_only=True).argmax()
        token = int(session.forward(text[-1:], [-1]).argmax())
        right.append(guess == token)
        draft.commit([0], text[-1:], session)
        session.keep([0])
        text.append(token)
    assert np.mean(right) > 0.25
