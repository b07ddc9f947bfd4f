"""Attention on some of the tokens, each at its own position, and a cache's tensors as rows that can be packed."""

from __future__ import annotations

from typing import Any

import numpy as np

from workbench.instruments import taps


def rows_of(tensor: Any) -> np.ndarray:
    """Return (1, K, T, d) as (T, K * d) fp32."""
    return np.ascontiguousarray(tensor[0].transpose(0, 1).reshape(tensor.shape[2], -1).float().cpu().numpy())


def in_shape_of(rows: np.ndarray, tensor: Any) -> Any:
    """Return (T, K * d) numbers in the shape, dtype and device of (1, K, T, d)."""
    import torch

    split = torch.from_numpy(rows).reshape(tensor.shape[2], tensor.shape[1], tensor.shape[3]).transpose(0, 1)
    return split[None].to(tensor).contiguous()


def sparse_attention(call: taps.Call, keep: np.ndarray, skip: str) -> Any:
    """Return (1, T, H, d): attention among the kept tokens at their own positions, zero for the others ("queries"),
    or of every query on the kept keys before it ("keys")."""
    import torch
    from torch.nn.functional import scaled_dot_product_attention

    index = torch.from_numpy(np.flatnonzero(keep)).to(call.query.device)
    key, value = call.key[:, :, index], call.value[:, :, index]
    options: dict[str, Any] = {"scale": call.scaling, "enable_gqa": key.shape[1] != call.query.shape[1]}
    out = torch.zeros_like(call.query)
    if skip == "queries":
        out[:, :, index] = scaled_dot_product_attention(call.query[:, :, index], key, value, is_causal=True, **options)
        return out.transpose(1, 2)
    for start in range(0, len(keep), 256):  # rows in blocks: no T x T mask
        rows = torch.arange(start, min(start + 256, len(keep)), device=index.device)
        allowed = index[None] <= rows[:, None]
        blind = ~allowed.any(1)
        allowed[blind, 0] = True  # softmax needs one key; the row is emptied below
        block = scaled_dot_product_attention(call.query[:, :, rows], key, value, attn_mask=allowed, **options)
        block[:, :, blind] = 0
        out[:, :, rows] = block
    return out.transpose(1, 2)


def evicted_attention(call: taps.Call, kept: np.ndarray) -> Any:
    """Return (1, rows, H, d): attention on the kept tokens of the prompt and on the new ones, causally."""
    import torch
    from torch.nn.functional import scaled_dot_product_attention

    rows, total = call.query.shape[2], call.key.shape[2]
    stays = np.ones(total, bool)
    stays[: len(kept)] = kept
    index = torch.from_numpy(np.flatnonzero(stays)).to(call.query.device)
    allowed = index[None] <= torch.arange(total - rows, total, device=index.device)[:, None]
    out = scaled_dot_product_attention(
        call.query, call.key[:, :, index], call.value[:, :, index], attn_mask=allowed, scale=call.scaling,
        enable_gqa=call.key.shape[1] != call.query.shape[1],
    )  # fmt: skip
    return out.transpose(1, 2)
