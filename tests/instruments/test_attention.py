"""Captured attention against transformers' own eager weights, for every family, and what must be refused."""

from __future__ import annotations

import threading
import tracemalloc
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from torch.utils._python_dispatch import TorchDispatchMode

from workbench.errors import InputError, ModelError
from workbench.instruments import taps
from workbench.instruments.attention import Window, capture, verify

SMALL: dict[str, Any] = {
    "vocab_size": 60,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 256,
}
GROUPED = SMALL | {"num_key_value_heads": 2}
FAMILIES: dict[str, dict[str, Any]] = {
    "Llama": GROUPED,
    "Mistral": GROUPED | {"sliding_window": None},
    "Mixtral": GROUPED | {"num_local_experts": 2, "num_experts_per_tok": 1, "sliding_window": None},
    "Qwen2": GROUPED,
    "Qwen3": GROUPED | {"head_dim": 8},
    "Gemma": GROUPED | {"head_dim": 8},
    "Gemma2": GROUPED | {"head_dim": 8, "attn_logit_softcapping": 0.05, "sliding_window": 17},
    "Gemma3": GROUPED | {"head_dim": 8, "sliding_window": 17, "layer_types": ["sliding_attention", "full_attention"]},
    "Phi": SMALL,
    "Phi3": GROUPED | {"pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 1},
    "GPTNeoX": SMALL,
    "GPT2": {"vocab_size": 60, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 256},
    "OPT": {
        "vocab_size": 60, "hidden_size": 32, "ffn_dim": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
        "max_position_embeddings": 256, "word_embed_proj_dim": 32,
    },
}  # fmt: skip


def make(family: str, **changes: Any) -> Any:
    torch.manual_seed(0)
    words = {"Gemma3": "Gemma3TextConfig"}.get(family, f"{family}Config")
    config = getattr(transformers, words)(**(FAMILIES.get(family, GROUPED) | changes))
    name = f"{family}LMHeadModel" if family == "GPT2" else f"{family}ForCausalLM"
    return getattr(transformers, name)(config).eval()


def truth(model: Any, ids: np.ndarray) -> np.ndarray:
    """Return the model's own eager attention weights, (L, H, T, T)."""
    eager = taps.decoder(taps.eager_view(model))
    with torch.inference_mode():
        maps = eager(input_ids=torch.from_numpy(ids)[None], use_cache=False, output_attentions=True).attentions
    return np.stack([layer[0].numpy() for layer in maps])


@pytest.mark.parametrize("family", FAMILIES)
def test_pooled_mass_is_the_mean_of_the_models_own_weights(family: str) -> None:
    model, ids = make(family), np.random.default_rng(1).integers(0, 60, 50)
    seen, full = capture(model, ids, bins=7), truth(model, ids)
    edges = [b[0] for b in np.array_split(np.arange(50), 7)]
    pooled = np.add.reduceat(full, edges, axis=3)
    pooled = np.add.reduceat(pooled, edges, axis=2) / np.diff([*edges, 50])[:, None]
    np.testing.assert_allclose(seen.mass, pooled, atol=2e-5)
    np.testing.assert_allclose(seen.column_sum, full.sum(2), atol=2e-4)
    np.testing.assert_allclose(seen.mass.sum(-1), 1, atol=1e-5)
    np.testing.assert_allclose(seen.sink_share, full[..., 0].mean(-1), atol=2e-5)


def test_vision_language_model_is_read_through_its_language_model() -> None:
    torch.manual_seed(0)
    config = transformers.LlavaConfig(
        vision_config={"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 8,
                       "patch_size": 4, "model_type": "clip_vision_model"},
        text_config=GROUPED | {"model_type": "llama"},
    )  # fmt: skip
    model, ids = transformers.LlavaForConditionalGeneration(config).eval(), np.arange(2, 32)
    np.testing.assert_allclose(capture(model, ids, bins=30).mass, truth(model, ids), atol=2e-5)


def test_windows_probes_and_layers() -> None:
    model, ids = make("Llama"), np.random.default_rng(1).integers(0, 60, 40)
    full, window = truth(model, ids), Window(1, 3, 10, 30, 5, 40)
    probes = np.array([3, 17, 39])
    seen = capture(model, ids, bins=4, layers=[1], probes=probes, windows=[window])
    np.testing.assert_allclose(seen.windows[window], full[1, 3, 10:30, 5:40], atol=2e-6)
    np.testing.assert_allclose(seen.column_sum[0], full[1][:, probes].sum(1), atol=2e-5)
    assert seen.layers == [1]
    assert seen.counted == 3


def test_later_tokens_change_nothing_before_them() -> None:
    model, ids = make("Llama"), np.random.default_rng(2).integers(0, 60, 40)
    window = Window(1, 0, 0, 20, 0, 20)
    changed = ids.copy()
    changed[20:] = (changed[20:] + 7) % 60
    one, other = (capture(model, x, windows=[window]).windows[window] for x in (ids, changed))
    np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    ("family", "changes", "sentence"),
    [
        ("GptOss", {"head_dim": 8, "num_local_experts": 2, "num_experts_per_tok": 1}, "sink|cannot"),
        ("Bloom", {"vocab_size": 60, "hidden_size": 32, "n_layer": 2, "n_head": 4}, "no attention layer"),
        ("Mamba", {"vocab_size": 60, "hidden_size": 16, "num_hidden_layers": 2}, "no attention layer"),
    ],
)
def test_what_cannot_be_captured_is_refused_in_one_sentence(family: str, changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ModelError, match=sentence):
        capture(make(family, **changes), np.arange(20))


@pytest.mark.parametrize(("family", "changes"), [("Mistral", {"sliding_window": 9}), ("Gemma2", {}), ("Gemma3", {})])
def test_a_window_shorter_than_the_text_and_capped_scores_are_followed(family: str, changes: dict[str, Any]) -> None:
    """Single tokens, exact rectangles, who reads whom and kept heads, all against the model's own weights."""
    model, ids = make(family, **changes), np.random.default_rng(3).integers(0, 60, 40)
    with torch.no_grad():
        for name, parameter in model.named_parameters():  # scores large enough that a cap of 0.05 bends them
            parameter.mul_(6.0 if "q_proj" in name or "k_proj" in name else 1.0)
    full, window = truth(model, ids), Window(0, 3, 10, 38, 2, 40)
    assert (full[0] == 0).sum() > 4 * 40 * 39 / 2, "the first layer of each looks back a few tokens only"
    seen = capture(model, ids, bins=40, windows=[window], readers=True, keep_heads=[0])
    np.testing.assert_allclose(seen.mass, full, atol=2e-5)
    np.testing.assert_allclose(seen.windows[window], full[0, 3, 10:38, 2:40], atol=2e-5)
    np.testing.assert_allclose(seen.readers, full.mean(1), atol=2e-5)
    query, key, log_sum = seen.heads_of[0]
    scores, cap, reach = query[3] @ key[1].T, seen.softcap_of[0], seen.window_of[0]
    scores = scores if cap is None else cap * np.tanh(scores / cap)
    far = np.arange(40)[:, None] - np.arange(40)[None]
    law = np.where((far >= 0) & (far < reach), np.exp(scores - log_sum[3][:, None]), 0.0)
    np.testing.assert_allclose(law, full[0, 3], atol=2e-5)


def test_the_tapped_model_answers_as_the_model_does_with_windows_and_caps() -> None:
    """The numbers drawn are those of the pass that gives the model's own logits, layer after layer."""
    for family in ("Gemma2", "Gemma3"):
        model, ids = (
            make(family),
            torch.from_numpy(np.random.default_rng(3).integers(0, 60, 300 if family == "Gemma3" else 40))[None],
        )
        model.config.max_position_embeddings = 512
        with torch.inference_mode(), taps.attending(lambda call: call.dense()):
            tapped = taps.view(model)(input_ids=ids, use_cache=False).logits
            torch.testing.assert_close(
                tapped, taps.eager_view(model)(input_ids=ids, use_cache=False).logits, rtol=1e-4, atol=1e-5
            )


def test_a_window_is_a_number_and_no_square_of_the_length() -> None:
    seen: list[Any] = []

    def handler(call: taps.Call) -> Any:
        seen.append((call.mask, call.window))
        return call.dense()

    with torch.inference_mode(), taps.attending(handler):
        taps.view(make("Gemma3"))(input_ids=torch.arange(40)[None], use_cache=False)
    assert seen == [(None, 17), (None, None)]
    with torch.inference_mode(), taps.attending(handler):  # padding needs its mask: it is made, and refused by the capture
        taps.view(make("Gemma3"))(
            input_ids=torch.arange(40)[None], attention_mask=torch.tensor([[0] * 3 + [1] * 37]), use_cache=False
        )
    assert seen[2][0].shape == (1, 1, 40, 40)


def test_two_captures_at_once_do_not_meet() -> None:
    model = make("Llama")
    texts = [np.random.default_rng(seed).integers(0, 60, 60 + 10 * seed) for seed in range(4)]
    alone = [capture(model, ids, bins=6) for ids in texts]
    gate, found = threading.Barrier(4), [None] * 4

    def work(i: int) -> None:
        found[i] = capture(model, texts[i], bins=6, on_layer=lambda layer: gate.wait(20))  # all stand in the same layer

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for one, other in zip(alone, found, strict=True):
        np.testing.assert_array_equal(one.mass, other.mass)
        np.testing.assert_array_equal(one.column_sum, other.column_sum)


@pytest.mark.parametrize("ids", [[], [3]])
def test_too_short_a_text(ids: list[int]) -> None:
    with pytest.raises(InputError, match="at least two tokens"):
        capture(make("Llama"), ids)


def test_past_the_context_and_windows_outside() -> None:
    model = make("Llama")
    with pytest.raises(InputError, match="at most 256 tokens"):
        capture(model, np.zeros(300, int))
    with pytest.raises(InputError, match="a rectangle inside"):
        capture(model, np.arange(10), windows=[Window(0, 0, 0, 11, 0, 4)])


def test_the_shared_model_is_left_as_it_is_and_threads_do_not_see_each_other() -> None:
    model, ids = make("Llama"), torch.arange(12)[None]
    before = model.config._attn_implementation
    verify(model)
    seen: list[int] = []

    def other() -> None:
        with torch.inference_mode():
            taps.view(model)(input_ids=ids)

    def handler(call: taps.Call) -> Any:
        seen.append(call.layer)
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
        return call.dense()

    with torch.inference_mode(), taps.attending(handler):
        tapped = taps.view(model)(input_ids=ids).logits
    assert seen == [0, 1]
    assert model.config._attn_implementation == before != taps.NAME
    with torch.inference_mode():
        torch.testing.assert_close(tapped, model(input_ids=ids).logits)


class Largest(TorchDispatchMode):
    """Notes the number of elements of the largest tensor that any operation makes."""

    size = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for tensor in made if isinstance(made, (tuple, list)) else [made]:
            if isinstance(tensor, torch.Tensor):
                self.size = max(self.size, tensor.numel())
        return made


@pytest.mark.parametrize("family", ["Llama", "Gemma3", "GPTNeoX"])
def test_no_tensor_is_a_square_of_the_length(family: str) -> None:
    model = make(family, max_position_embeddings=4096)
    verify(model)
    with Largest() as largest:
        capture(model, np.arange(3000) % 60, bins=16, readers=True, keep_heads=[0])
    assert 0 < largest.size < 3000**2 / 2


def test_memory_grows_with_the_length_not_with_its_square() -> None:
    model = make("Llama", max_position_embeddings=8192)
    verify(model)
    peaks = []
    for length in (1024, 4096):
        tracemalloc.start()
        capture(model, np.arange(length) % 60, bins=16)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 6 * peaks[0]
