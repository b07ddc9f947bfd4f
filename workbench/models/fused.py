"""A llama-family decoder step as one compiled function: no Python between the layers, each weight read once for few rows.

At a few rows a decoder is bound by reading its weights. The step below walks all layers inside one Numba function with the
products of `workbench.kernels` (fp32 or int8 weights) and tree attention over a committed prefix and the pending rows. The
fp32 and the int8 session can share one key-value cache: that is the int8 self-draft.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numba
import numpy as np
from numba import njit
from numba.extending import overload

from workbench.kernels import note
from workbench.kernels.int8_matmul.cpu import int8
from workbench.kernels.skinny_matmul.cpu import skinny
from workbench.kernels.tree_attention.cpu import attend
from workbench.models.mapped import Room, own_memory, room_for
from workbench.models.pace import Pace
from workbench.models.session import depths

PACE = Pace()

#: Prompts longer than this are read by the model's own forward pass: with many rows BLAS is faster.
PREFILL_ROWS = 24
_PENDING_ROWS = 320


def product(x, weight, scale, out):
    """out (R, O) = x (R, I) @ weight (O, I).T, chosen by the weight's dtype (compiled code only)."""
    raise NotImplementedError


@overload(product)
def _product(x, weight, scale, out):
    if weight.dtype == numba.int8:
        return lambda x, weight, scale, out: int8(x, weight, scale, out)
    return lambda x, weight, scale, out: skinny(x, weight, out)


@njit(cache=True, nogil=True, fastmath=True)
def _rms_norm(x, gain, eps, out):
    for r in range(x.shape[0]):
        total = np.float32(0)
        for i in range(x.shape[1]):
            total += x[r, i] * x[r, i]
        inverse = np.float32(1) / np.sqrt(total / np.float32(x.shape[1]) + np.float32(eps))
        for i in range(x.shape[1]):
            out[r, i] = x[r, i] * inverse * gain[i]


@njit(cache=True, nogil=True, fastmath=True)
def _rotate(source, cos, sin, out):
    """Rotate (N, H, d) heads by position; cos and sin are (N, d / 2)."""
    half = source.shape[2] // 2
    for n in range(source.shape[0]):
        for h in range(source.shape[1]):
            for i in range(half):
                a, b = source[n, h, i], source[n, h, i + half]
                out[n, h, i] = a * cos[n, i] - b * sin[n, i]
                out[n, h, i + half] = b * cos[n, i] + a * sin[n, i]


@njit(cache=True, nogil=True, fastmath=True)
def _silu_times(gate_up, out):
    width = out.shape[1]
    for r in range(out.shape[0]):
        for i in range(width):
            g = gate_up[r, i]
            out[r, i] = g / (np.float32(1) + np.exp(-g)) * gate_up[r, i + width]


@njit(cache=True, nogil=True)
def decoder_step(
    x, cos, sin, k_prefix, v_prefix, prefix_len, k_tree, v_tree, first, parents,
    wqkv, sqkv, wo, so, wgu, sgu, wd, sd, norm1, norm2, norm, head, shead, eps, heads, last_only, hidden, logits,
):  # fmt: skip
    """Run all layers on rows `first .. first + N` of the pending tree; x (N, D) embeddings, overwritten."""
    layers, kv_heads, dim = k_tree.shape[0], k_tree.shape[2], k_tree.shape[3]
    rows, width = x.shape
    normed = np.empty((rows, width), np.float32)
    qkv = np.empty((rows, wqkv.shape[1]), np.float32)
    q = np.empty((rows, heads, dim), np.float32)
    mixed = np.empty((rows, heads, dim), np.float32)
    lse = np.empty((rows, heads), np.float32)
    added = np.empty((rows, width), np.float32)
    gate_up = np.empty((rows, wgu.shape[1]), np.float32)
    inner = np.empty((rows, wgu.shape[1] // 2), np.float32)
    for layer in range(layers):
        _rms_norm(x, norm1[layer], eps, normed)
        product(normed, wqkv[layer], sqkv[layer], qkv)
        qkv_heads = qkv.reshape(rows, heads + 2 * kv_heads, dim)
        _rotate(qkv_heads[:, :heads], cos, sin, q)
        _rotate(qkv_heads[:, heads : heads + kv_heads], cos, sin, k_tree[layer, first : first + rows])
        v_tree[layer, first : first + rows] = qkv_heads[:, heads + kv_heads :]
        attend(
            q, k_prefix[layer], v_prefix[layer], prefix_len,
            k_tree[layer, : first + rows], v_tree[layer, : first + rows], parents[: first + rows], mixed, lse,
        )  # fmt: skip
        product(mixed.reshape(rows, heads * dim), wo[layer], so[layer], added)
        x += added
        _rms_norm(x, norm2[layer], eps, normed)
        product(normed, wgu[layer], sgu[layer], gate_up)
        _silu_times(gate_up, inner)
        product(inner, wd[layer], sd[layer], added)
        x += added
    _rms_norm(x, norm, eps, hidden)
    if last_only:
        product(hidden[rows - 1 :], head, shead, logits)
    else:
        product(hidden, head, shead, logits)


@dataclass
class Weights:
    """One model's weights, stacked by layer: fp32 (L, out, in), or int8 with one scale for each output row."""

    name: str
    matrices: dict[str, np.ndarray]  # qkv, o, gate_up, down: (L, out, in); head: (V, D)
    scales: dict[str, np.ndarray]  # same keys: (L, out) and (V,); empty rows for fp32
    norms: dict[str, np.ndarray]
    embedding: np.ndarray  # (V, D) fp32
    inverse_frequency: np.ndarray  # (d / 2,)
    rope_scale: float
    eps: float
    heads: int
    kv_heads: int
    head_dim: int
    context: int
    module: Any  # the Hugging Face module, for prompts

    @property
    def bytes_per_step(self) -> int:
        """Bytes of weights one step reads (the embedding's rows are negligible)."""
        return sum(m.nbytes for m in self.matrices.values()) + sum(s.nbytes for s in self.scales.values())

    def arguments(self) -> tuple[Any, ...]:
        """Return the weights in the order `decoder_step` takes them."""
        m, s, n = self.matrices, self.scales, self.norms
        return (
            m["qkv"], s["qkv"], m["o"], s["o"], m["gate_up"], s["gate_up"], m["down"], s["down"],
            n["attention"], n["mlp"], n["final"], m["head"], s["head"], self.eps, self.heads,
        )  # fmt: skip


def why_not(model: Any) -> str:
    """Return why a model cannot take the fused step, or "" if it can."""
    import torch

    if type(model).__name__ not in {"LlamaForCausalLM", "MistralForCausalLM"}:
        return f"the fused step knows the llama layer, not {type(model).__name__}"
    config = model.config
    if getattr(config, "sliding_window", None):
        return "its attention has a sliding window"
    if getattr(config, "attention_bias", False) or getattr(config, "mlp_bias", False):
        return "its linear layers have biases"
    if config.hidden_act != "silu":
        return f"its activation is {config.hidden_act}, not silu"
    for weight in model.parameters():
        if weight.device.type != "cpu" or weight.dtype != torch.float32:
            return f"its weights are {weight.dtype} on {weight.device}, the fused step runs fp32 on the CPU"
    if config.rope_parameters.get("rope_type", "default") not in {"default", "llama3", "linear"}:
        return f"its rotary embedding is of type {config.rope_parameters['rope_type']}"
    return ""


_packed: weakref.WeakKeyDictionary[Any, dict[str, Weights]] = weakref.WeakKeyDictionary()
_lock = threading.Lock()


def weights_of(model: Any, name: str, dtype: str = "float32") -> Weights:
    """Return a model's stacked weights, made once for each model and dtype ("float32" or "int8")."""
    with _lock:
        made = _packed.setdefault(model, {})
        if "float32" not in made:
            made["float32"] = _stack(model, name, room_for(model, name, "float32"))
        if dtype not in made:
            made[dtype] = quantize(made["float32"], room_for(model, name, dtype))
        return made[dtype]


def _stack(model: Any, name: str, room: Room) -> Weights:
    """Stack the layers' matrices and let the module's parameters point into the stacks: one copy in memory, same values."""
    layers, config = model.model.layers, model.config
    groups = {
        "qkv": [[lay.self_attn.q_proj, lay.self_attn.k_proj, lay.self_attn.v_proj] for lay in layers],
        "o": [[lay.self_attn.o_proj] for lay in layers],
        "gate_up": [[lay.mlp.gate_proj, lay.mlp.up_proj] for lay in layers],
        "down": [[lay.mlp.down_proj] for lay in layers],
    }
    matrices = {key: _stack_group(key, rows, room) for key, rows in groups.items()}
    matrices["head"] = model.lm_head.weight.detach().numpy()
    none = {k: np.ones((len(layers), 1) if k != "head" else 1, np.float32) for k in matrices}
    norms = {
        "attention": np.stack([lay.input_layernorm.weight.detach().numpy() for lay in layers]),
        "mlp": np.stack([lay.post_attention_layernorm.weight.detach().numpy() for lay in layers]),
        "final": model.model.norm.weight.detach().numpy().copy(),
    }
    rotary = model.model.rotary_emb
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return Weights(
        name, matrices, none, norms, model.model.embed_tokens.weight.detach().numpy(),
        rotary.inv_freq.float().numpy().copy(), float(rotary.attention_scaling), float(config.rms_norm_eps),
        config.num_attention_heads, config.num_key_value_heads, head_dim, config.max_position_embeddings, model,
    )  # fmt: skip


def _stack_group(key: str, rows: list[list[Any]], room: Room) -> np.ndarray:
    import torch

    parts = [[linear.weight.detach().numpy() for linear in linears] for linears in rows]

    def fill(out: np.ndarray) -> None:
        for i, layer in enumerate(parts):
            np.concatenate(layer, out=out[i])

    shape = (len(parts), sum(len(part) for part in parts[0]), parts[0][0].shape[1])
    stacked = room(key, shape, np.float32, fill)
    for i, linears in enumerate(rows):
        start = 0
        for linear in linears:
            end = start + linear.weight.shape[0]
            linear.weight.data = torch.from_numpy(stacked[i, start:end])
            start = end
    return stacked


def quantize(full: Weights, room: Room = own_memory) -> Weights:
    """Return the int8 twin: weight = scale[row] * int8, scale = largest magnitude of the row / 127."""
    matrices, scales = {}, {}
    for key, weight in full.matrices.items():
        scale = np.abs(weight).max(-1).astype(np.float32) / np.float32(127)
        scale[scale == 0] = 1

        def fill(out: np.ndarray, weight: np.ndarray = weight, scale: np.ndarray = scale) -> None:
            for i in range(len(weight)):  # row by row: no second fp32 copy of the model in memory
                np.rint(weight[i] / scale[i][..., None], out=out[i], casting="unsafe")

        matrices[key] = room(key, weight.shape, np.int8, fill)
        scales[key] = scale
    fields = vars(full) | {"name": f"{full.name} int8", "matrices": matrices, "scales": scales}
    return Weights(**fields)


@dataclass
class Prefix:
    """Committed keys and values, (L, capacity, K, d) each, and how many rows are in use; shared by the sessions of a run."""

    keys: np.ndarray
    values: np.ndarray
    length: int = 0


class FusedSession:
    """Session of a llama-family model on the CPU through the fused step."""

    def __init__(self, weights: Weights, capacity: int, prefix: Prefix | None = None) -> None:
        layers, shape = len(weights.matrices["qkv"]), (weights.kv_heads, weights.head_dim)
        self.weights = weights
        self.owns_prefix = prefix is None
        rows = (layers, max(1, capacity), *shape)
        self.prefix = prefix or Prefix(np.zeros(rows, np.float32), np.zeros(rows, np.float32))
        self.vocab_size = len(weights.matrices["head"])
        self.context = weights.context
        self.hidden = np.zeros((0, weights.embedding.shape[1]), np.float32)
        self._keys, self._values = (np.zeros((layers, _PENDING_ROWS, *shape), np.float32) for _ in range(2))
        self._parents = np.zeros(0, np.int64)

    @property
    def length(self) -> int:
        return self.prefix.length

    def fork(self, dtype: str = "int8") -> FusedSession:
        """Return a session with other weights on this session's committed cache; its own `keep` only drops its rows."""
        return FusedSession(weights_of(self.weights.module, self.weights.name, dtype), 0, self.prefix)

    def forward(self, token_ids: Any, parents: Any, last_only: bool = False) -> np.ndarray:
        ids = np.asarray(token_ids, dtype=np.int64)
        first = len(self._parents)
        int8_weights = self.weights.matrices["qkv"].dtype == np.int8
        for name in ("int8_matmul" if int8_weights else "skinny_matmul", "tree_attention"):
            note(name, "cpu", "inside the fused decoder step")
        self._parents = np.concatenate([self._parents, np.asarray(parents, dtype=np.int64)])
        self._reserve(len(self._parents))
        if len(ids) > PREFILL_ROWS and first == 0 and self.length == 0 and last_only:
            return self._read_prompt(ids)
        return self._rows(ids, first, last_only)

    def _rows(self, ids: np.ndarray, first: int, last_only: bool) -> np.ndarray:
        w = self.weights
        angle = np.outer(self.length + depths(self._parents)[first:], w.inverse_frequency)
        cos, sin = ((f(angle) * w.rope_scale).astype(np.float32) for f in (np.cos, np.sin))
        hidden = np.empty((len(ids), w.embedding.shape[1]), np.float32)
        logits = np.empty((1 if last_only else len(ids), self.vocab_size), np.float32)
        with PACE.call(w.name, len(ids)):
            decoder_step(
                w.embedding[ids], cos, sin, self.prefix.keys, self.prefix.values, self.length, self._keys, self._values,
                first, self._parents, *w.arguments(), last_only, hidden, logits,  # type: ignore[call-arg]
            )  # fmt: skip
        self.hidden = hidden if first == 0 else np.concatenate([self.hidden, hidden])
        return logits

    def _read_prompt(self, ids: np.ndarray) -> np.ndarray:
        """Read a long prompt through the model's own forward pass and take over its keys and values."""
        import torch
        from transformers import DynamicCache

        cache, module = DynamicCache(), self.weights.module
        with torch.inference_mode():
            out = module.model(input_ids=torch.from_numpy(ids)[None], past_key_values=cache, use_cache=True)
            logits = module.lm_head(out.last_hidden_state[:, -1:])
        for i, layer in enumerate(cache.layers):
            stored: Any = layer
            self._keys[i, : len(ids)] = stored.keys[0].transpose(0, 1).numpy()
            self._values[i, : len(ids)] = stored.values[0].transpose(0, 1).numpy()
        self.hidden = out.last_hidden_state[0].numpy()
        return logits[0].numpy()

    def _reserve(self, rows: int) -> None:
        have = self._keys.shape[1]
        if rows > have:
            grow = ((0, 0), (0, max(rows, 2 * have) - have), (0, 0), (0, 0))
            self._keys, self._values = np.pad(self._keys, grow), np.pad(self._values, grow)

    def keep(self, rows: Sequence[int]) -> None:
        rows = list(rows)
        if self.owns_prefix and rows:
            start, end = self.length, self.length + len(rows)
            self._reserve_prefix(end)
            self.prefix.keys[:, start:end] = self._keys[:, rows]
            self.prefix.values[:, start:end] = self._values[:, rows]
            self.prefix.length = end
        self._parents = np.zeros(0, np.int64)

    def _reserve_prefix(self, rows: int) -> None:
        have = self.prefix.keys.shape[1]
        if rows > have:
            grow = ((0, 0), (0, max(rows, 2 * have) - have), (0, 0), (0, 0))
            self.prefix.keys, self.prefix.values = np.pad(self.prefix.keys, grow), np.pad(self.prefix.values, grow)

    def rewind(self, length: int) -> None:
        if self.owns_prefix:
            self.prefix.length = min(self.prefix.length, length)
        self._parents = np.zeros(0, np.int64)
