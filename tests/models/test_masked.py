"""Ideal models against brute force, the trained ones against their card, LLaDA- and Dream-shaped checkpoints against their shift."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from workbench import models
from workbench.data import parallel_tasks as tasks
from workbench.errors import InputError, KindError, ModelError
from workbench.models import TableDLM
from workbench.models.chain_dlm import ChainDLM, plays_chain
from workbench.models.masked import ExactCanvas, open_canvas
from workbench.models.table_dlm import random_chain

RNG = np.random.default_rng(0)


def brute(model: TableDLM, state: np.ndarray) -> np.ndarray:
    """Return every position's law (n, V) by going through all sequences one by one."""
    laws = np.zeros((model.length, model.vocab_size))
    for row, p in zip(model.rows, model.probs, strict=True):
        if all(s in (model.mask_id, t) for s, t in zip(state, row, strict=True)):
            laws[np.arange(model.length), row] += p
    return laws / laws.sum(1, keepdims=True)


def test_a_tables_conditionals_are_sums_over_its_law() -> None:
    for seed in range(5):
        model = random_chain(4, 3, 1.5, seed)
        states = RNG.integers(0, 4, (30, 4))
        found = np.exp(model.log_laws(states))
        for state, laws in zip(states, found, strict=True):
            np.testing.assert_allclose(laws, brute(model, state), atol=1e-12)


def test_evidence_follows_the_chain_rule_in_any_order() -> None:
    model = random_chain(5, 3, 1.0, 7)
    text = model.rows[RNG.integers(len(model.rows))]
    for order in itertools.islice(itertools.permutations(range(5)), 0, 120, 17):
        state, total = np.full(5, model.mask_id), 0.0
        for i in order:
            total += model.log_laws(state[None])[0, i, text[i]]
            state[i] = text[i]
        np.testing.assert_allclose(total, model.log_evidence(text[None])[0], atol=1e-12)


def test_a_law_with_zeros_keeps_only_what_is_possible() -> None:
    joint = np.zeros((3, 3))
    joint[0, 1] = joint[2, 0] = 0.5
    model = TableDLM(joint)
    assert len(model.rows) == 2
    np.testing.assert_allclose(np.exp(model.log_laws(np.array([[2, 3]])))[0, 1], [1, 0, 0])
    assert model.log_evidence(np.array([[0, 0]]))[0] == -np.inf


@pytest.mark.parametrize(
    ("joint", "error", "words"),
    [
        ([[0.5, 0.4], [0.2, 0.0]], InputError, "sum 1.1"),
        ([[0.5, 0.6], [-0.1, 0.0]], InputError, "at least 0"),
        ([[0.5, np.nan], [0.5, 0.0]], InputError, "finite"),
        (np.full((2, 3), 1 / 6), InputError, r"shape \(2, 3\)"),
        ("law", KindError, "array of numbers"),
        (1.0, InputError, "same length"),
        (np.full((2,) * 18, 2.0**-18), InputError, "262,144"),
    ],
)
def test_what_is_no_joint_law_is_refused(joint: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        TableDLM(joint)


def test_the_chain_is_the_table_of_its_own_law() -> None:
    initial, transition = RNG.dirichlet(np.ones(9)).reshape(3, 3), RNG.dirichlet(np.ones(3), (3, 3))
    chain = ChainDLM(initial, transition, ("a", "b", "c"), "test")
    joint = np.zeros((3,) * 5)
    for s in itertools.product(range(3), repeat=5):
        joint[s] = initial[s[0], s[1]] * math.prod(transition[s[i - 2], s[i - 1], s[i]] for i in range(2, 5))
    table, states = TableDLM(joint), RNG.integers(0, 4, (60, 5))
    np.testing.assert_allclose(np.exp(chain.log_laws(states)), np.exp(table.log_laws(states)), atol=1e-12)
    np.testing.assert_allclose(chain.log_evidence(states), table.log_evidence(states), atol=1e-12)


def test_the_chain_goes_on_from_what_stands_before() -> None:
    chain = plays_chain()
    left = tuple(chain.encode("th"))
    law = np.exp(chain.after((left[0], left[1])).log_laws(np.full((1, 8), chain.mask_id)))[0, 0]
    np.testing.assert_allclose(law, chain.transition[left[0], left[1]], atol=1e-12)
    assert chain.pieces[int(law.argmax())] == "e"
    with pytest.raises(InputError, match="at least 2"):
        chain.log_laws(np.full((1, 1), chain.mask_id))


# ---- exercises -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", tasks.TASKS)
def test_every_drawn_answer_is_right_and_held_out_prompts_stay_out(task: str) -> None:
    size = 3 if task == "sentences" else 5
    for held in (True, False):
        batch = tasks.draw(task, size, 40, np.random.default_rng(1), held=held)
        assert all(tasks.is_right(task, p, a) for p, a in zip(batch.prompt, batch.answer, strict=True))
        assert batch.answer.shape[1] == tasks.answer_length(task, size)
        assert task == "sentences" or (tasks.held_out(batch.prompt) == held).all()
    wrong = batch.answer.copy()
    wrong[:, 0] = tasks.ID["Z" if task != "sentences" else "in"]
    right = [tasks.is_right(task, p, a) for p, a in zip(batch.prompt, wrong, strict=True)]
    assert np.mean(right) < 0.5


@pytest.mark.parametrize("task", tasks.TASKS)
def test_a_state_can_be_right_exactly_as_long_as_a_right_answer_agrees(task: str) -> None:
    rng = np.random.default_rng(2)
    size = 2 if task == "sentences" else 4
    batch = tasks.draw(task, size, 20, rng)
    for prompt, answer in zip(batch.prompt, batch.answer, strict=True):
        state = np.where(rng.random(len(answer)) < 0.5, answer, tasks.MASK_ID)
        assert tasks.can_be_right(task, prompt, state)
        assert tasks.can_be_right(task, prompt, answer)
        broken = answer.copy()
        broken[rng.integers(len(answer))] = tasks.ID["+1"]
        assert not tasks.can_be_right(task, prompt, broken)
    if task == "sentences":
        state = answer.copy()
        state[5] = tasks.ID["New" if tasks.VOCABULARY[answer[5]] != "New" else "San"]
        assert not tasks.can_be_right(task, prompt, state)  # half of one city, half of another


def test_exercises_that_do_not_exist_say_so() -> None:
    rng = np.random.default_rng(0)
    with pytest.raises(InputError, match="1 to 4 for sentences"):
        tasks.draw("sentences", 9, 1, rng)
    with pytest.raises(KeyError, match="Did you mean 'shuffle'"):
        tasks.draw("shufle", 4, 1, rng)
    prompt = tasks.draw("shuffle", 12, 1, rng).prompt[0]
    with pytest.raises(InputError, match="479,001,600"):
        tasks.support("shuffle", prompt)


# ---- trained models --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["tiny-mdm", "tiny-mdm-1", "tiny-mdm-2", "tiny-ar", "tiny-ar-1", "tiny-ar-2"])
def test_shipped_models_are_small_and_their_card_names_the_recipe(name: str) -> None:
    entry = next(e for e in models.available() if e.name == name)
    assert entry.ready
    assert entry.size_mb < 1.5
    card = models.load(name).card
    assert "recipes/tiny_diffusion.py" in card
    assert "| shuffle 6 sampled |" in card


def test_the_small_models_law_does_not_depend_on_what_is_hidden_elsewhere_in_the_batch() -> None:
    batch = tasks.draw("reverse", 5, 3, np.random.default_rng(0), held=True)
    canvas = open_canvas(models.load("tiny-mdm"), batch.prompt, 6)
    states = np.full((3, 6), canvas.mask_id)
    whole = canvas.forward(states, np.arange(3))
    for row in range(3):
        np.testing.assert_allclose(whole[row], canvas.forward(states[[row]], np.array([row]))[0], atol=1e-4)
    assert np.isneginf(whole[..., canvas.mask_id]).all()


def test_a_left_to_right_model_fills_no_masks() -> None:
    with pytest.raises(ModelError, match="writes left to right"):
        open_canvas(models.load("tiny-ar"), np.zeros((1, 4), np.int64), 4)
    with pytest.raises(InputError, match="at least one position"):
        open_canvas(models.load("tiny-mdm"), np.zeros((1, 4), np.int64), 0)
    with pytest.raises(InputError, match="the table's positions"):
        open_canvas(models.load("joint-soft"), np.zeros((1, 0), np.int64), 4)


def test_the_training_loss_is_the_any_order_likelihood() -> None:
    """The loss weighted by 1/t over masks of level t equals ln N for N equally likely sequences; without 1/t it does not."""
    rng, n = np.random.default_rng(0), 4
    rows = np.array(list(itertools.permutations(range(n))))
    model = TableDLM.of_rows(rows)
    text = rows[rng.integers(len(rows), size=40_000)]
    level = (rng.random() + np.arange(len(text)) / len(text)) % 1  # low discrepancy, as the recipe draws its counts
    level = rng.permutation(level)
    hidden = rng.random(text.shape) < level[:, None]
    states = np.where(hidden, model.mask_id, text)
    nats = -np.take_along_axis(model.log_laws(states), text[..., None], 2)[..., 0]
    weighted = float((np.where(hidden, nats, 0).sum(1) / level).mean())
    assert abs(weighted / math.log(len(rows)) - 1) < 0.03
    assert abs(float(np.where(hidden, nats, 0).sum(1).mean()) / math.log(len(rows)) - 1) > 0.2


# ---- checkpoints in the shape of LLaDA and Dream ---------------------------------------------------------------------


def _llada(folder: Path) -> dict[str, Any]:
    """Write a tiny checkpoint with LLaDA's names and random weights."""
    import torch
    from safetensors.torch import save_file

    torch.manual_seed(0)
    width, inner, vocab = 32, 48, 40
    block = {"q_proj": (width, width), "k_proj": (width, width), "v_proj": (width, width), "attn_out": (width, width), "ff_proj": (inner, width), "up_proj": (inner, width), "ff_out": (width, inner)}  # fmt: skip
    weights = {f"model.transformer.blocks.{i}.{n}.weight": 0.2 * torch.randn(s) for i in range(2) for n, s in block.items()}
    weights |= {f"model.transformer.blocks.{i}.{n}.weight": torch.ones(width) for i in range(2) for n in ("attn_norm", "ff_norm")}
    weights |= {"model.transformer.wte.weight": torch.randn(vocab, width), "model.transformer.ln_f.weight": torch.ones(width), "model.transformer.ff_out.weight": 0.2 * torch.randn(vocab, width)}  # fmt: skip
    save_file(weights, folder / "model.safetensors")
    config = {
        "model_type": "llada", "d_model": width, "n_heads": 4, "n_kv_heads": 4, "n_layers": 2, "mlp_hidden_size": inner, "vocab_size": vocab, "embedding_size": vocab,
        "rope_theta": 10000.0, "rms_norm_eps": 1e-5, "mask_token_id": 39, "eos_token_id": 38, "weight_tying": False, "auto_map": {"AutoModel": "evil.Code"},
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    return weights


def _by_hand(weights: dict[str, Any], ids: Any) -> Any:
    """Return LLaDA's logits written out: a Llama whose attention looks both ways."""
    import torch

    def norm(x: Any) -> Any:
        return x * (x.square().mean(-1, keepdim=True) + 1e-5).rsqrt()

    x = weights["model.transformer.wte.weight"][ids]
    batch, length, width = x.shape
    angle = torch.arange(length)[:, None] * 10000.0 ** (-torch.arange(0, 8, 2) / 8)
    cos, sin = (torch.cat([f(angle)] * 2, -1) for f in (torch.cos, torch.sin))
    for i in range(2):
        w = {n.rsplit(".", 2)[1]: v for n, v in weights.items() if f"blocks.{i}." in n}
        q, k, v = ((norm(x) @ w[n].T).view(batch, length, 4, 8).transpose(1, 2) for n in ("q_proj", "k_proj", "v_proj"))
        q, k = (t * cos + torch.cat([-t[..., 4:], t[..., :4]], -1) * sin for t in (q, k))
        mixed = ((q @ k.mT / 8**0.5).softmax(-1) @ v).transpose(1, 2).reshape(batch, length, width)
        x = x + mixed @ w["attn_out"].T
        h = norm(x)
        x = x + (torch.nn.functional.silu(h @ w["ff_proj"].T) * (h @ w["up_proj"].T)) @ w["ff_out"].T
    return norm(x) @ weights["model.transformer.ff_out.weight"].T


def test_a_llada_shaped_checkpoint_runs_without_its_code(tmp_path: Path) -> None:
    import torch

    weights = _llada(tmp_path)
    loaded = models.load(str(tmp_path))
    assert (loaded.model.mask_id, loaded.model.eos_id, loaded.model.shift) == (39, 38, 0)
    ids = torch.tensor([[1, 2, 39, 4, 39, 6]])
    np.testing.assert_allclose(loaded.model.aligned_logits(ids), _by_hand(weights, ids), atol=1e-4)
    canvas = open_canvas(loaded, np.array([[1, 2]]), 4)
    logits = canvas.forward(np.array([[39, 4, 39, 6]]), np.array([0]))
    assert np.isneginf(logits[..., 39]).all()
    assert logits.shape == (1, 4, 40)


def _dream(folder: Path) -> None:
    """Write a tiny checkpoint with Dream's configuration (Qwen2's weights) that copies its input one place late."""
    import torch
    from safetensors.torch import save_file
    from transformers import Qwen2Config, Qwen2ForCausalLM

    shape = {"vocab_size": 24, "hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 2, "intermediate_size": 16}  # fmt: skip
    module = Qwen2ForCausalLM(Qwen2Config(**shape, tie_word_embeddings=False))
    for weight in module.parameters():
        torch.nn.init.zeros_(weight)
    module.model.norm.weight.data.fill_(1.0)
    module.model.embed_tokens.weight.data.copy_(torch.eye(24))
    module.lm_head.weight.data.copy_(torch.eye(24))
    save_file({n: w.contiguous() for n, w in module.state_dict().items()}, folder / "model.safetensors")
    config = {"model_type": "Dream", "mask_token_id": 23, "eos_token_id": [22], "rope_theta": 1e6, **shape}
    (folder / "config.json").write_text(json.dumps(config))


def test_dreams_logits_are_shifted_to_their_position(tmp_path: Path) -> None:
    """Its row i says what it read at i; as the prediction for i + 1 that is the token before. Unshifted it would be itself."""
    import torch

    _dream(tmp_path)
    net = models.load(str(tmp_path)).model
    assert net.shift == 1
    ids = torch.tensor([[5, 7, 9, 11]])
    assert net.aligned_logits(ids).argmax(-1)[0].tolist() == [5, 5, 7, 9]
    plain = type(net)(net.module, net.mask_id, net.eos_id, shift=0)
    assert plain.aligned_logits(ids).argmax(-1)[0].tolist() == [5, 7, 9, 11]


def test_a_checkpoint_whose_weights_do_not_fit_is_refused(tmp_path: Path) -> None:
    _llada(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"n_layers": 3}))
    with pytest.raises(ModelError, match="cannot be read as a masked-diffusion model"):
        models.load(str(tmp_path))


def test_exact_canvases_name_their_tokens() -> None:
    canvas = ExactCanvas(random_chain(2, 2, 1.0, 0), 2, 1)
    assert canvas.pieces([0, 1, 2]) == ["0", "1", "▢"]


def test_the_equal_that_writes_left_to_right_solves_the_same_held_out_prompts() -> None:
    from workbench.models.tiny import write_left_to_right

    rng = np.random.default_rng(0)
    batch = tasks.draw("sort", 6, 60, rng, held=True)
    module = models.load("tiny-ar").model
    answers = write_left_to_right(module, batch.prompt, 6, 0.0, rng)
    right = [tasks.is_right("sort", p, a) for p, a in zip(batch.prompt, answers, strict=True)]
    assert np.mean(right) > 0.9
    with pytest.raises(ModelError, match="TinyMDM"):
        write_left_to_right(models.load("tiny-mdm").model, batch.prompt, 6, 0.0, rng)
