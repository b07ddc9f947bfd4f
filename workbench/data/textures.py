"""What the things of a ray-cast scene are painted with: sums of sinusoids through space, or photographs on faces.

Both are filtered for each pixel by how fast they turn there, so that nothing aliases.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from workbench.errors import unknown

PHOTOGRAPHS = ("brick", "gravel", "grass", "astronaut")
#: Standard deviation, in pixels, of the low-pass that every texture passes: a pixel sees a small neighbourhood, not a point.
PIXEL = 0.5


@dataclass(frozen=True)
class Texture:
    """What a thing is painted with: a base colour, and waves through space or a photograph on its faces.

    Attributes:
        base: (3,) in [0, 1]. waves: (W, 3) rad/m. phase: (W,). amplitude: (W, 3).
        photograph: a name of `PHOTOGRAPHS`, or "". scale: its pixels a metre. offset: (2,) its pixels.
    """

    base: np.ndarray
    waves: np.ndarray
    phase: np.ndarray
    amplitude: np.ndarray
    photograph: str = ""
    scale: float = 120.0
    offset: tuple[float, float] = (0.0, 0.0)


def waves(
    rng: np.random.Generator, *, finest: float = 0.12, coarsest: float = 2.5, count: int = 40, contrast: float = 0.2
) -> Texture:
    """Return a texture of `count` random sinusoids with wavelengths from `finest` to `coarsest` metres."""
    length = np.exp(rng.uniform(np.log(finest), np.log(coarsest), count))
    direction = rng.standard_normal((count, 3))
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    grey = rng.standard_normal((count, 1)) + 0.3 * rng.standard_normal((count, 3))
    amplitude = grey * contrast * np.sqrt(2 / count)
    turns = (2 * np.pi / length)[:, None] * direction
    phase = rng.uniform(0, 2 * np.pi, count)
    return Texture(rng.uniform(0.25, 0.75, 3), turns.astype(np.float32), phase.astype(np.float32), amplitude.astype(np.float32))


def picture(rng: np.random.Generator, name: str = "", scale: float = 110.0) -> Texture:
    """Return a texture that is a photograph of scikit-image, at a random offset."""
    name = name or PHOTOGRAPHS[int(rng.integers(len(PHOTOGRAPHS)))]
    if name not in PHOTOGRAPHS:
        raise unknown("photograph", name, PHOTOGRAPHS)
    x, y = rng.uniform(0, 512, 2)
    none = np.zeros((0, 3), np.float32)
    return Texture(rng.uniform(0.8, 1.0, 3), none, np.zeros(0, np.float32), none, name, scale, (float(x), float(y)))


def waved(texture: Texture, local: np.ndarray, right: np.ndarray, down: np.ndarray) -> np.ndarray:
    """Return the sum of the waves at points on a surface, each damped by how far it turns within a pixel."""
    k = texture.waves.T
    wave = local @ k
    wave += texture.phase
    np.cos(wave, out=wave)
    speed, other = right @ k, down @ k
    speed *= speed
    other *= other
    speed += other
    speed *= np.float32(-0.5 * PIXEL**2)
    wave *= np.exp(speed, out=speed)
    return texture.base.astype(np.float32) + wave @ texture.amplitude


@lru_cache(maxsize=8)
def _pyramid(name: str) -> tuple[np.ndarray, ...]:
    """Return a photograph at halving sizes, (s, s, 3) fp32 each."""
    from workbench.data.digit_scenes import photograph

    levels = [photograph(name)[:512, :512]]
    while levels[-1].shape[0] > 4:
        a = levels[-1]
        levels.append((a[::2, ::2] + a[1::2, ::2] + a[::2, 1::2] + a[1::2, 1::2]) / 4)
    return tuple(levels)


def photographed(texture: Texture, local: np.ndarray, right: np.ndarray, down: np.ndarray, normal: np.ndarray) -> np.ndarray:
    """Return a photograph's colours on the face that a point lies on, at the size that fits its distance."""
    axis = np.abs(normal).argmax(1)
    others = np.array([[2, 1], [0, 2], [0, 1]])[axis]
    rows = np.arange(len(local))[:, None]
    place = local[rows, others] * texture.scale + np.asarray(texture.offset)
    reach = np.sqrt(np.maximum((right**2).sum(1), (down**2).sum(1))) * texture.scale
    levels = _pyramid(texture.photograph)
    level = np.clip(np.log2(np.maximum(2 * PIXEL * reach, 1e-6)), 0, len(levels) - 1)
    colour = np.zeros((len(local), 3), np.float32)
    for i in range(len(levels)):
        share = np.maximum(0, 1 - np.abs(level - i)).astype(np.float32)
        used = share > 0
        if used.any():
            colour[used] += share[used, None] * _wrapped(levels[i], (place[used] + 0.5) / 2**i - 0.5)
    return colour * texture.base.astype(np.float32)


def _wrapped(image: np.ndarray, place: np.ndarray) -> np.ndarray:
    """Return an image's colours (n, 3) at (x, y) places, bilinear, repeated without end."""
    size = image.shape[0]
    low = np.floor(place)
    a, b = (place - low).astype(np.float32).T[:, :, None]
    x, y = low.astype(int).T % size
    x1, y1 = (x + 1) % size, (y + 1) % size
    return (image[y, x] * (1 - a) + image[y, x1] * a) * (1 - b) + (image[y1, x] * (1 - a) + image[y1, x1] * a) * b
