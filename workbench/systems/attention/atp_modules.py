"""The small trained parts of ATP-LLaVA: from two scores of every picture token to two thresholds, and what they keep.

Shapes: B pictures, N picture tokens on a grid. Attention spans many orders of magnitude, so scores are brought to [0, 1] on a
logarithmic scale: the largest of a picture is 1, a ten-thousandth of it or less is 0. How the paper scales them is not said in the
sources seen (some versions use the raw scores before the softmax); this is a choice of ours. On a linear scale nearly all tokens lie
at 0, soft masks leak, and what was learnt does not survive hard masks.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from workbench.errors import ModelError, expected
from workbench.instruments.vision import Scores

HIDDEN = 256
FAINT = 1e-4
SPARSITY = 3.0  # lambda_s
STRIDES = (2, 4, 8)
DROPPED, REDUNDANCY, SPATIAL, BOTH = range(4)  # why a token stays
FOLDER = Path(__file__).parents[2] / "models" / "scenes" / "atp"


def spatial_scores(grid: tuple[int, int], strides: Sequence[int] = STRIDES, sparsity: float = SPARSITY) -> torch.Tensor:
    """Return S_sp (N,): 1 - lambda_s / t^2 for the sparsest stride t whose grid has the token, -100 for tokens on none.

    Raises:
        ValueError: a stride below 2.
    """
    if min(strides) < 2:
        raise ValueError(expected("strides", "numbers of 2 or more", list(strides)))
    score = torch.full(grid, -100.0)
    for stride in sorted(strides):
        score[::stride, ::stride] = 1 - sparsity / stride**2
    return score.flatten()


def scaled(score: torch.Tensor) -> torch.Tensor:
    """Return scores (B, N) on a logarithmic scale: 1 for the largest of each picture, 0 for `FAINT` of it and less."""
    relative = score / score.amax(-1, keepdim=True).clamp_min(1e-12)
    return 1 - relative.clamp_min(FAINT).log() / float(np.log(FAINT))


class PruneModule(nn.Module):
    """Predicts theta_r and theta_s of a picture and question from the scores of the layer before."""

    def __init__(self, patches: int, hidden: int = HIDDEN) -> None:
        super().__init__()
        self.mix = nn.Linear(2 * patches, hidden)
        self.redundancy = nn.Linear(hidden, 1)
        self.spatial = nn.Linear(hidden, 1)

    def forward(self, own: torch.Tensor, cross: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return theta_r, theta_s (B, 1) in (0, 1) from scaled scores (B, N)."""
        z = torch.relu(self.mix(torch.cat([own, cross], -1)))
        return torch.sigmoid(self.redundancy(z)), torch.sigmoid(self.spatial(z))


@dataclass
class Decision:
    """What one module saw and decided: scores (B, N), thresholds (B, 1), masks (B, N): soft in [0, 1] or bool."""

    layer: int
    own: torch.Tensor
    cross: torch.Tensor
    redundancy: torch.Tensor
    spatial: torch.Tensor
    theta_r: torch.Tensor
    theta_s: torch.Tensor
    mask_r: torch.Tensor
    mask_s: torch.Tensor
    mask: torch.Tensor

    def reason(self) -> np.ndarray:
        """Return why each token stays, (B, N) int8: 0 it does not, 1 redundancy score, 2 spatial score, 3 both."""
        codes = self.mask_r.to(torch.int8) * REDUNDANCY + self.mask_s.to(torch.int8) * SPATIAL
        forced = self.mask & (codes == 0)
        return (codes * self.mask + forced * REDUNDANCY).cpu().numpy().astype(np.int8)


class Pruner:
    """The modules of one budget as a rule for `VisionReader.advance`.

    Args:
        modules: one for each layer in `after`. after: layers (0-based) behind which they stand. grid: of the patches.
        temperature: T of the soft masks; None: hard masks.
        offset_r, offset_s: added to the thresholds.
        use: "both" scores, "redundancy" or "spatial" alone (the ablation).
        at_least: tokens that stay whatever the thresholds say (the best by redundancy score).
    """

    def __init__(
        self,
        modules: Sequence[PruneModule],
        after: Sequence[int],
        grid: tuple[int, int],
        *,
        temperature: float | None = None,
        offset_r: float = 0.0,
        offset_s: float = 0.0,
        use: str = "both",
        strides: Sequence[int] = STRIDES,
        sparsity: float = SPARSITY,
        at_least: int = 1,
    ) -> None:
        self.modules, self.after, self.temperature = dict(zip(after, modules, strict=True)), list(after), temperature
        self.offsets, self.use, self.at_least = (offset_r, offset_s), use, at_least
        self.spatial = spatial_scores(grid, strides, sparsity)
        self.decisions: list[Decision] = []

    def __call__(self, scores: Scores) -> Any:
        own, cross = scaled(scores.own), scaled(scores.cross)
        theta_r, theta_s = self.modules[scores.layer](own, cross)
        theta_r, theta_s = theta_r + self.offsets[0], theta_s + self.offsets[1]
        redundancy, spatial = (own + cross) / 2, self.spatial.to(own.device).expand_as(own)
        mask_r, mask_s = self._pass(redundancy - theta_r), self._pass(spatial - theta_s)
        if self.use != "both":
            mask_r, mask_s = (
                (mask_r, torch.zeros_like(mask_s)) if self.use == "redundancy" else (torch.zeros_like(mask_r), mask_s)
            )
        mask = torch.maximum(mask_r, mask_s) if self.temperature else mask_r | mask_s
        if self.temperature is None:
            mask = self._some(mask & scores.alive, redundancy, scores.alive)
        self.decisions.append(Decision(scores.layer, own, cross, redundancy, spatial, theta_r, theta_s, mask_r, mask_s, mask))
        return mask

    def _pass(self, margin: torch.Tensor) -> torch.Tensor:
        return margin > 0 if self.temperature is None else torch.sigmoid(self.temperature * margin)

    def _some(self, mask: torch.Tensor, score: torch.Tensor, alive: torch.Tensor) -> torch.Tensor:
        if not self.at_least:
            return mask
        order = (score.masked_fill(~alive, -1.0) + mask * 2).argsort(dim=-1, descending=True, stable=True)
        forced = torch.zeros_like(mask).scatter(1, order[:, : self.at_least], True) & alive
        return mask | forced


def objective(
    kept: Sequence[torch.Tensor], after: Sequence[int], patches: int, wanted: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return (L_atp, L_target) of soft counts.

    Args:
        kept: soft number of picture tokens that each decoder layer sees, (B,) each.
        after: layers (0-based) behind which the modules stand; L_atp weighs layer l (1-based) by l.
        wanted: mean share of picture tokens over all layers.

    Source:
        arXiv 2412.00447, budget loss. "Mean over all decoder layers" and the division by N are choices of ours.
    """
    later = [(kept[layer + 1] / patches) * (layer + 1) for layer in after]
    share = torch.stack(list(kept)).mean(0) / patches
    return torch.stack(later).sum(0).mean(), (share.mean() - wanted).abs()


@dataclass(frozen=True)
class Trained:
    """The modules of one budget, and the layers (0-based) behind which they stand."""

    budget: float
    after: tuple[int, ...]
    modules: tuple[PruneModule, ...]


@functools.cache
def trained(device: Any = "cpu") -> dict[float, Trained]:
    """Return budget -> modules on a device, as shipped for the scene reader, the most generous budget first.

    Two full layers are a quarter of eight, so budgets above that have their modules behind layers 2 to 4, where the question has
    begun to look at what it asks for; tighter ones behind layers 1 to 3.

    Raises:
        ModelError: they are not there.
    """
    from safetensors.torch import load_file

    if not (FOLDER / "modules.safetensors").exists():
        raise ModelError(f"The trained modules are not in {FOLDER}. Run python recipes/atp_modules.py.")
    facts = json.loads((FOLDER / "config.json").read_text("utf-8"))
    tensors = load_file(FOLDER / "modules.safetensors")
    ladder: dict[float, Trained] = {}
    for budget, after in zip(facts["budgets"], facts["after"], strict=True):
        modules = []
        for i in range(len(after)):
            module = PruneModule(facts["patches"], facts["hidden"])
            start = f"{budget:g}.{i}."
            module.load_state_dict({k.removeprefix(start): v.float() for k, v in tensors.items() if k.startswith(start)})
            modules.append(module.eval().requires_grad_(False).to(device))
        ladder[budget] = Trained(budget, tuple(after), tuple(modules))
    return ladder
