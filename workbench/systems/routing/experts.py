"""Experts cut out of a dense feed-forward layer by what each kind of text excites, and the router that picks one before the model runs.

| paper | here | shape |
|---|---|---|
| v_i | mean absolute activation of a neuron on domain i | (layer, domain, D) |
| m_i, M_i | `masks`: the r D neurons of domain i with the largest v_i | (layer, domain, D) bool |
| r0, e_i | `permanent`: neurons of every mask; m_i without them | (layer, D) bool |
| G | `PreGate`: logits of the experts from token ids alone | (position, domain) |
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from workbench.errors import InputError, ModelError, expected
from workbench.models.devices import beside

WIDTH, HEADS = 64, 4  # of the pre-gating router


def masks(means: np.ndarray, ratio: float) -> np.ndarray:
    """Return m_i: for each layer and domain the round(ratio * D) neurons of largest mean activation, as bools like `means` (..., D).

    Raises:
        InputError: ratio outside (0, 1], or so small that no neuron stays.
    """
    count = round(ratio * means.shape[-1])
    if not 1 <= count <= means.shape[-1]:
        raise InputError(expected("ratio", f"a share that keeps 1 to {means.shape[-1]} neurons", ratio))
    order = np.argsort(-means, axis=-1, kind="stable")
    chosen = np.zeros(means.shape, bool)
    np.put_along_axis(chosen, order[..., :count], True, -1)
    return chosen


def permanent(chosen: np.ndarray) -> np.ndarray:
    """Return r0 (layer, D): neurons that every expert of (layer, expert, D) holds."""
    return np.asarray(chosen.all(1))


def shared_share(chosen: np.ndarray) -> np.ndarray:
    """Return intersection over union of every pair of masks, (layer, expert, expert) fp64."""
    ones = chosen.astype(np.float64)
    both = ones @ ones.transpose(0, 2, 1)
    size = ones.sum(-1)
    return both / (size[:, :, None] + size[:, None] - both)


def overlap(acts: Any, chosen: Any) -> Any:
    """Return |top(a) and m_i| for each token and expert, (T, N) fp32 tensor: top(a) is the token's own top half of |a|.

    Args:
        acts: (T, D) tensor. chosen: (N, D) bool tensor of one layer's masks.
    Source: Read-ME, eq. 3, written as a product of masks.
    """
    import torch

    half = acts.shape[-1] // 2
    top = torch.zeros_like(acts, dtype=torch.float32).scatter_(1, acts.abs().topk(half, -1).indices, 1.0)
    return top @ chosen.to(top).T


@dataclass(frozen=True)
class Extracted:
    """One expert of one feed-forward layer as a small layer of its own: gathered rows of gate and up, columns of down."""

    gate: Any
    up: Any
    down: Any
    act: Any

    @property
    def tensors(self) -> tuple[Any, Any, Any]:
        """The weights, contiguous."""
        return self.gate, self.up, self.down

    def __call__(self, x: Any) -> Any:
        """Return W_down (act(W_gate x) * W_up x) over the expert's neurons, (T, d)."""
        from torch.nn.functional import linear

        return linear(self.act(linear(x, self.gate)) * linear(x, self.up), self.down)


def extract(block: Any, chosen: np.ndarray) -> Extracted:
    """Return the expert of one layer that holds the neurons of `chosen` (D,) bool.

    Raises:
        ModelError: the layer's products have offsets, which a gathered expert would lose.
    """
    import torch

    parts = (block.gate_proj, block.up_proj, block.down_proj)
    if any(getattr(p, "bias", None) is not None for p in parts):
        raise ModelError("Feed-forward layer: expected products without offsets (bias), got some. Use a llama-type model.")
    rows = torch.from_numpy(np.flatnonzero(chosen))
    gate, up, down = (p.weight.detach() for p in parts)
    return Extracted(gate[rows].contiguous(), up[rows].contiguous(), down[:, rows].contiguous(), block.act_fn)


def distillation(logits: Any, scores: Any) -> Any:
    """Return the mean over tokens and layers of KL(softmax(logits) || softmax(scores of the layer)), the paper's loss.

    Args:
        logits: (T, N) of the router, one for all layers. scores: (T, L, N) overlaps.
    """
    law = logits.log_softmax(-1)[:, None]
    return (law.exp() * (law - scores.log_softmax(-1))).sum(-1).mean()


class PreGate:
    """The pre-gating router: token ids in, one logit an expert and position out; it never sees the language model's activations.

    Its embedding is a learnt projection of the language model's (started from its principal components), followed by one causal
    transformer layer of width 64 and a linear head.
    """

    def __init__(self, embeddings: Any, experts: int) -> None:
        """Make an untrained router on (V, d) embeddings, which it reads and never changes."""
        import torch
        from transformers import LlamaConfig, LlamaModel

        torch.manual_seed(0)
        self.experts, self.embeddings = experts, embeddings.detach().float()
        config = LlamaConfig(
            vocab_size=1, hidden_size=WIDTH, intermediate_size=2 * WIDTH, num_hidden_layers=1, num_attention_heads=HEADS,
            max_position_embeddings=8192, pad_token_id=None, bos_token_id=None, eos_token_id=None,
        )  # fmt: skip
        center = self.embeddings.mean(0)
        _, _, axes = torch.pca_lowrank(self.embeddings[:: max(1, len(self.embeddings) // 8192)] - center, q=WIDTH, niter=2)
        project = torch.nn.Linear(len(center), WIDTH)
        with torch.no_grad():
            scale = (self.embeddings @ axes).std()
            project.weight.copy_(axes.T / scale)
            project.bias.copy_(-(center @ axes) / scale)
        self.module = torch.nn.ModuleDict(
            {"project": project, "block": LlamaModel(config), "head": torch.nn.Linear(WIDTH, experts)}
        ).to(self.embeddings.device)

    def logits(self, ids: Any) -> Any:
        """Return (B, T, N) logits of (B, T) int64 ids."""
        inside = self.module["project"](self.embeddings[ids])
        return self.module["head"](self.module["block"](inputs_embeds=inside, use_cache=False).last_hidden_state)

    def choose(self, ids: np.ndarray, experts: int | None = None) -> np.ndarray:
        """Return the likeliest of the first `experts` experts for every token, (B, T) int8."""
        import torch

        with torch.inference_mode():
            logits = self.logits(beside(self.module, np.asarray(ids, np.int64)))
        return logits[..., : experts or self.experts].argmax(-1).to(torch.int8).cpu().numpy()

    def save(self, path: Path, **arrays: np.ndarray) -> None:
        """Write the router's weights (16 bits) and further arrays as safetensors."""
        import torch
        from safetensors.torch import save_file

        held = {f"router.{n}": p.detach().half().contiguous() for n, p in self.module.named_parameters()}
        save_file(held | {n: torch.from_numpy(np.ascontiguousarray(a)) for n, a in arrays.items()}, path)


def load_pregate(path: Path, embeddings: Any) -> tuple[PreGate, np.ndarray]:
    """Return the trained router and the activation means (layer, domain, D) fp32 that its experts were cut by."""
    import torch
    from safetensors.torch import load_file

    held = load_file(path)
    router = PreGate(embeddings, len(held["router.head.bias"]))
    with torch.no_grad():
        for name, parameter in router.module.named_parameters():
            parameter.copy_(held[f"router.{name}"].float())
    router.module.eval().requires_grad_(False)
    return router, held["means"].float().numpy()
