"""Three small networks: a single-frame teacher with its uncertainty, the auxiliary decoder of a volume, the multi-frame decoder.

All are one encoder-decoder of about 80,000 parameters at 64 x 160; they differ in what enters after the first stage. Trained by
`recipes/depth_networks.py`; the weights and their card stand in `workbench/models/depth/`.
"""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from workbench.errors import ModelError
from workbench.models.devices import beside

FOLDER = Path(__file__).parent.parent.parent / "models" / "depth"
BINS = 64  # candidates the volume's networks take
NEAREST, FARTHEST = 1.5, 40.0  # metres: their range, which is also that of the candidates
SIGMA = 20.0  # the teacher's sigmoid times this is a standard deviation, as in the released code
UNIT = 4.0  # metres of the unit in which beta counts for these networks: a teacher that errs by a third calls half of all pixels moving at 1
STAGE = 16  # channels of the first stage


class DepthNet(nn.Module):
    """An encoder-decoder from (B, 3, h, w), and a volume at half size where it takes one, to depth.

    Args:
        planes: channels of the volume that joins after the first stage; 0: none.
        doubts: also give a standard deviation.
    """

    def __init__(self, planes: int = 0, doubts: bool = False) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, STAGE, 3, 2, 1)
        self.join = nn.Conv2d(STAGE + planes, 24, 3, 1, 1)
        self.down = nn.ModuleList([nn.Conv2d(24, 32, 3, 2, 1), nn.Conv2d(32, 40, 3, 2, 1), nn.Conv2d(40, 48, 3, 2, 1)])
        self.deep = nn.Conv2d(48, 48, 3, 1, 1)
        self.up = nn.ModuleList([nn.Conv2d(88, 40, 3, 1, 1), nn.Conv2d(72, 24, 3, 1, 1), nn.Conv2d(48, 16, 3, 1, 1)])
        self.depth = nn.Conv2d(16, 1, 3, 1, 1)
        self.sigma = nn.Conv2d(16, 1, 3, 1, 1) if doubts else None

    def stage(self, image: torch.Tensor) -> torch.Tensor:
        """Return the first stage's features, (B, 16, h / 2, w / 2)."""
        return F.elu(self.first(image - 0.5))

    def forward(self, image: torch.Tensor, volume: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return (depth (B, h, w) m, sigma (B, h, w) m or None)."""
        x = self.stage(image)
        x = F.elu(self.join(x if volume is None else torch.cat([x, volume], 1)))
        kept = [x]
        for layer in self.down:
            kept.append(F.elu(layer(kept[-1])))
        x = F.elu(self.deep(kept.pop()))
        for layer, other in zip(self.up, reversed(kept)):
            x = F.elu(layer(torch.cat([F.interpolate(x, size=other.shape[-2:], mode="nearest"), other], 1)))
        size = image.shape[-2:]
        s = torch.sigmoid(F.interpolate(self.depth(x), size=size, mode="bilinear", align_corners=False))[:, 0]
        depth = 1 / (1 / FARTHEST + (1 / NEAREST - 1 / FARTHEST) * s)
        if self.sigma is None:
            return depth, None
        wide = F.interpolate(self.sigma(x) - 3, size=size, mode="bilinear", align_corners=False)[:, 0]
        return depth, torch.sigmoid(wide)


def halved(volume: np.ndarray) -> np.ndarray:
    """Return a (D, h, w) volume scaled to [0, 1] a pixel and averaged over 2 x 2: what enters a network."""
    low = volume.min(0)
    scaled = (volume - low) / (volume.max(0) - low + 1e-7)
    planes, height, width = scaled.shape
    return scaled.reshape(planes, height // 2, 2, width // 2, 2).mean((2, 4)).astype(np.float32)


class Networks:
    """The three trained networks, called with numpy arrays of one frame."""

    def __init__(self, parts: dict[str, DepthNet]) -> None:
        self.parts = {name: part.eval() for name, part in parts.items()}

    @torch.inference_mode()
    def teacher(self, image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return (depth, the sigmoid of its doubt) (h, w) of an image (h, w, 3); the standard deviation is a multiple of it."""
        part = self.parts["teacher"]
        depth, doubt = part(beside(part, _batch(image)))
        assert doubt is not None
        return depth[0].cpu().numpy(), doubt[0].cpu().numpy()

    @torch.inference_mode()
    def decode(self, which: str, image: np.ndarray, volume: np.ndarray) -> np.ndarray:
        """Return the depth (h, w) that "auxiliary" or "multi" reads from a volume (64, h, w)."""
        part = self.parts[which]
        return part(beside(part, _batch(image)), beside(part, halved(volume)[None]))[0][0].cpu().numpy()


def _batch(image: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(image.transpose(2, 0, 1), np.float32)[None]


def fresh() -> dict[str, DepthNet]:
    """Return the three networks before training."""
    return {"teacher": DepthNet(doubts=True), "auxiliary": DepthNet(BINS), "multi": DepthNet(BINS)}


@lru_cache(maxsize=1)
def load(folder: Path = FOLDER) -> Networks:
    """Return the shipped networks.

    Raises:
        ModelError: the weights are not there.
    """
    from safetensors.torch import load_file

    path = folder / "networks.safetensors"
    if not path.exists():
        raise ModelError(f"Depth networks: no weights at {path}. Train them with python recipes/depth_networks.py.")
    tensors, parts = load_file(path), fresh()
    for name, part in parts.items():
        part.load_state_dict({k.removeprefix(f"{name}."): v.float() for k, v in tensors.items() if k.startswith(f"{name}.")})
    return Networks(parts)


def facts(folder: Path = FOLDER) -> dict[str, float]:
    """Return the held-out figures that the recipe wrote."""
    return json.loads((folder / "config.json").read_text("utf-8"))
