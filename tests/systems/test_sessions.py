"""Sessions: a pending tree row must score exactly as a plain pass over its own path, for every kind of model."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from workbench import models
from workbench.errors import InputError, ModelError
from workbench.models import fused
from workbench.models.drafts import open_draft, open_session
from workbench.models.session import HFSession, Session, TableSession, ancestor_mask, chain_parents, depths, skinny_view

SMALL = {
    "llama": {"hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 6, "num_key_value_heads": 2},
    "qwen2": {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2},
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128},
    "gemma": {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 1,
              "head_dim": 16},
    "gpt_neox": {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4},
    "phi": {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4},
}  # fmt: skip


def tiny(kind: str, **more):
    torch.manual_seed(0)
    config = AutoConfig.for_model(kind, vocab_size=97, **(SMALL.get(kind, {}) | more))
    return AutoModelForCausalLM.from_config(config).eval().requires_grad_(False)


def plain(model, ids: list[int]) -> np.ndarray:
    with torch.inference_mode():
        return model(torch.tensor([ids])).logits[0, -1].numpy()


TREE, PARENTS = [11, 12, 13, 14, 15, 16], [-1, 0, 0, 1, 2, 2]
PATHS = {3: [11, 12, 14], 4: [11, 13, 15], 5: [11, 13, 16], 0: [11]}


def check_tree(session: Session, model, prompt: list[int], tolerance: float) -> None:
    session.forward(prompt, chain_parents(len(prompt)), last_only=True)
    session.keep(range(len(prompt)))
    whole = session.forward(TREE, PARENTS)
    for row, path in PATHS.items():
        np.testing.assert_allclose(whole[row], plain(model, prompt + path), atol=tolerance)
    session.keep([])
    parts = [
        session.forward(TREE[:1], PARENTS[:1]),
        session.forward(TREE[1:3], PARENTS[1:3]),
        session.forward(TREE[3:], PARENTS[3:]),
    ]
    np.testing.assert_allclose(np.concatenate(parts), whole, atol=tolerance)
    session.keep([0, 2, 5])
    assert session.length == len(prompt) + 3
    after = session.forward([17], [-1])
    np.testing.assert_allclose(after[0], plain(model, [*prompt, 11, 13, 16, 17]), atol=tolerance)
    session.rewind(len(prompt))
    again = session.forward(TREE, PARENTS)
    np.testing.assert_allclose(again, whole, atol=tolerance)


@pytest.mark.parametrize("kind", sorted(SMALL))
def test_tree_rows_equal_their_paths(kind: str) -> None:
    model = tiny(kind)
    check_tree(HFSession(model, kind, skinny_view(model)), model, [1, 2, 3, 4, 5], 2e-5)


@pytest.mark.parametrize("length", [1, 5, 60])
def test_fused_step_equals_the_module(length: int) -> None:
    model = tiny("llama")
    assert fused.why_not(model) == ""
    session = open_session(models.load(model))
    assert isinstance(session, fused.FusedSession)
    check_tree(session, model, [int(t) for t in np.random.default_rng(0).integers(0, 97, length)], 2e-5)


def test_the_shared_model_keeps_its_values_and_takes_two_sessions_at_once() -> None:
    model = tiny("llama")
    before = plain(model, [1, 2, 3])
    loaded = models.load(model)
    results: dict[int, np.ndarray] = {}

    def work(seed: int) -> None:
        session = open_session(loaded)
        ids = [seed, seed + 1, seed + 2]
        for _ in range(20):
            results[seed] = session.forward(ids, chain_parents(3))
            session.keep([])

    threads = [threading.Thread(target=work, args=(s,)) for s in (1, 40)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    for seed, logits in results.items():
        np.testing.assert_allclose(logits[-1], plain(model, [seed, seed + 1, seed + 2]), atol=2e-5)
    np.testing.assert_array_equal(plain(model, [1, 2, 3]), before)


def test_int8_draft_reads_the_targets_cache_and_leaves_it_alone() -> None:
    loaded = models.load(tiny("llama"))
    target = open_session(loaded)
    target.forward([1, 2, 3], chain_parents(3))
    target.keep([0, 1, 2])
    draft = open_draft("int8", loaded, target, [1, 2, 3])
    exact, rough = target.forward([4], [-1]), draft.forward([4], [-1])
    assert 0 < np.abs(exact - rough).max() < 0.2 * np.abs(exact).max()
    draft.keep([0])
    assert draft.length == target.length == 3
    target.keep([0])
    assert draft.length == target.length == 4


def test_a_model_without_a_tree_mask_is_named_with_the_reason() -> None:
    model = AutoModelForCausalLM.from_config(
        AutoConfig.for_model("mamba", vocab_size=97, hidden_size=32, num_hidden_layers=1, state_size=4)
    ).eval()
    with pytest.raises(ModelError, match=r"cannot score a token tree: .+ Use a decoder"):
        HFSession(model, "mamba")


def test_masks_and_depths_of_a_tree() -> None:
    parents = np.array([-1, 0, 0, 1, -1])
    expected = [[1, 0, 0, 0, 0], [1, 1, 0, 0, 0], [1, 0, 1, 0, 0], [1, 1, 0, 1, 0], [0, 0, 0, 0, 1]]
    np.testing.assert_array_equal(ancestor_mask(parents), np.array(expected, bool))
    np.testing.assert_array_equal(depths(parents), [0, 1, 1, 2, 0])
    with pytest.raises(InputError, match="at row 1, got 1"):
        ancestor_mask(np.array([-1, 1]))


def test_table_session_returns_the_rows_of_its_table() -> None:
    probs = np.array([[0.5, 0.5], [0.0, 1.0]])
    session = TableSession(probs)
    logits = session.forward([0, 1], [-1, 0])
    np.testing.assert_allclose(np.exp(logits), probs)
