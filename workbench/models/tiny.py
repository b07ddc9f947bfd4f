"""TinyMDM and TinyAR: one small transformer that fills masks in any order, and its equal that writes left to right.

Both speak the vocabulary of `workbench.data.parallel_tasks`. Position numbers restart at the answer, so that item j of a
prompt and token j of its answer share one; a segment embedding tells them apart. The masked model has no time input: what
the optimal predictor says of a token depends on which tokens are visible, not on how many steps are left.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import nn

from workbench.data import parallel_tasks as tasks
from workbench.errors import InputError, ModelError, expected
from workbench.models.devices import beside

#: Position numbers that the models know; the longest answer follows.
PLACES = 96
LONGEST_ANSWER = PLACES - tasks.ANSWER_AT


@dataclass(frozen=True)
class Shape:
    """Sizes of the transformer. `causal`: TinyAR."""

    causal: bool = False
    width: int = 64
    layers: int = 4
    heads: int = 4
    inner: int = 128
    vocab: int = len(tasks.VOCABULARY)
    rope_base: float = 100.0


class Block(nn.Module):
    """Attention and a SwiGLU, each behind an RMS norm."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.heads, self.causal = shape.heads, shape.causal
        self.norm_attention, self.norm_inner = nn.RMSNorm(shape.width), nn.RMSNorm(shape.width)
        self.qkv = nn.Linear(shape.width, 3 * shape.width, bias=False)
        self.out = nn.Linear(shape.width, shape.width, bias=False)
        self.up = nn.Linear(shape.width, 2 * shape.inner, bias=False)
        self.down = nn.Linear(shape.inner, shape.width, bias=False)

    def forward(self, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        """Return the block's output, (B, T, D) as it came in."""
        batch, length, width = x.shape
        qkv = self.qkv(self.norm_attention(x)).view(batch, length, 3, self.heads, -1)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)  # (B, H, T, D / H) each
        query, key = _turned(query, cos, sin), _turned(key, cos, sin)
        mixed = F.scaled_dot_product_attention(query, key, value, is_causal=self.causal)
        x = x + self.out(mixed.transpose(1, 2).reshape(batch, length, width))
        gate, up = self.up(self.norm_inner(x)).chunk(2, -1)
        return x + self.down(F.silu(gate) * up)


def _turned(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    first, second = x.chunk(2, -1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], -1)


class TinyTransformer(nn.Module):
    """The network of both models; words in and out share one table."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.words = nn.Embedding(shape.vocab, shape.width)
        self.places = nn.Embedding(PLACES, shape.width)
        self.segments = nn.Embedding(2, shape.width)
        self.blocks = nn.ModuleList(Block(shape) for _ in range(shape.layers))
        self.norm = nn.RMSNorm(shape.width)
        half = shape.width // shape.heads // 2
        angle = torch.arange(PLACES)[:, None] * shape.rope_base ** (-torch.arange(half) / half)
        self.register_buffer("cos", angle.cos(), persistent=False)
        self.register_buffer("sin", angle.sin(), persistent=False)

    def hidden(self, ids: torch.Tensor, places: torch.Tensor, segments: torch.Tensor) -> torch.Tensor:
        """Return the last hidden states (B, T, D).

        Args:
            ids: (B, T) token ids. places: (T,) position numbers below `PLACES`. segments: (T,) 0 = prompt, 1 = answer.
        """
        places, segments = places.to(ids.device), segments.to(ids.device)
        x = self.shape.width**0.5 * self.words(ids) + self.places(places) + self.segments(segments)
        cos, sin = self.get_buffer("cos")[places], self.get_buffer("sin")[places]
        for block in self.blocks:
            x = block(x, cos, sin)
        return self.norm(x)

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Return the logits (..., V) of hidden states (..., D)."""
        return F.linear(hidden, self.words.weight)


def layout(prompt: Sequence[int] | np.ndarray, length: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return (places, segments), both (P + length,), of a prompt and the answer behind it.

    Raises:
        InputError: the answer is longer than the models' position numbers reach.
    """
    if length > LONGEST_ANSWER:
        raise InputError(expected("answer", f"at most {LONGEST_ANSWER} tokens", length))
    before = tasks.positions(prompt)
    places = np.concatenate([before, tasks.ANSWER_AT + np.arange(length)])
    segments = np.r_[np.zeros(len(before), np.int64), np.ones(length, np.int64)]
    return torch.from_numpy(places), torch.from_numpy(segments)


@torch.inference_mode()
def write_left_to_right(
    module: TinyTransformer, prompts: np.ndarray, length: int, temperature: float, rng: np.random.Generator
) -> np.ndarray:
    """Return what TinyAR writes behind prompts (S, P) of one task and size: (S, length) ids, one call a token.

    Args:
        temperature: 0 takes the likeliest token.
    Raises:
        ModelError: the model fills masks instead.
    """
    if not module.shape.causal:
        raise ModelError(expected("model", "TinyAR, which writes left to right", "TinyMDM"))
    places, segments = layout(prompts[0], length)
    ids, before = beside(module, prompts), prompts.shape[1]
    for end in range(before, before + length):
        logits = module.logits(module.hidden(ids, places[:end], segments[:end])[:, -1]).double()
        logits[:, [tasks.MASK_ID, tasks.PAD_ID]] = -torch.inf
        token = logits.argmax(1)
        if temperature:
            ladder = (logits / temperature).softmax(1).cumsum(1)
            aim = beside(module, rng.random((len(ids), 1))) * ladder[:, -1:]
            token = (ladder <= aim).sum(1).clamp(max=logits.shape[1] - 1)
        ids = torch.cat([ids, token[:, None]], 1)
    return ids[:, before:].cpu().numpy()


def read(folder: Path) -> TinyTransformer:
    """Return the model of a folder with `config.json` and `model.safetensors`, ready to run.

    Raises:
        ModelError: the folder holds no such model.
    """
    try:
        shape = Shape(**json.loads((folder / "config.json").read_text())["shape"])
        module = TinyTransformer(shape)
        module.load_state_dict(load_file(folder / "model.safetensors"))
    except (OSError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise ModelError(f"{folder} holds no TinyMDM or TinyAR: {str(error).splitlines()[0]}. Make it with recipes/tiny_diffusion.py.") from error  # fmt: skip
    return module.eval().requires_grad_(False)


def config(shape: Shape) -> dict[str, object]:
    """Return what `config.json` holds."""
    return {"model_type": "workbench_tiny_ar" if shape.causal else "workbench_tiny_mdm", "shape": asdict(shape), "mask_token_id": tasks.MASK_ID, "eos_token_id": tasks.EOS_ID}  # fmt: skip
