"""The matching cost of every pixel at every depth between two views."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from workbench.errors import InputError, expected
from workbench.kernels.spec import Spec, shape_error

NEAR = 1e-6  # a point must lie at least so far in front of the source camera, in the unit of the depths
SLACK = 1e-3  # pixels: a sample on the image's edge counts as inside, whatever rounding did to it


class PlaneSweep(NamedTuple):
    """A cost volume.

    Attributes:
        cost: (D, h, w) fp32, mean absolute difference over channels, in the features' unit; 0 where not valid.
        valid: (D, h, w) bool, True where the point projects into the source image and in front of its camera. A true
            cost may be 0: this mask, not the cost, says what is missing.
    """

    cost: Any
    valid: Any


class DepthSweep(NamedTuple):
    """A cost volume and each pixel's law over its depths.

    Attributes:
        cost, valid: as in `PlaneSweep`.
        probability: (D, h, w) fp32, softmax over depths of -c / temperature, where c is the pixel's cost scaled to
            [0, 1] by its own smallest and largest valid cost; a depth that is not valid counts as the largest.
        best: (h, w) int32, the depth of the smallest valid cost, the first of equals; -1 where no depth is valid.
        entropy: (h, w) fp32, of `probability`, nats; ln D where no depth is valid.
    """

    cost: Any
    valid: Any
    probability: Any
    best: Any
    entropy: Any


def plane_sweep(
    target: Any,
    source: Any,
    intrinsics: Any,
    rotation: Any,
    translation: Any,
    depths: Any,
    *,
    border: int = 0,
    temperature: float = 0.0,
    backend: str = "auto",
) -> PlaneSweep | DepthSweep:
    """Return the cost volume of fronto-parallel planes swept through the target camera's view.

    Pixel p = (x, y, 1) at depth d is the point X = d K^-1 p of the target camera; it is seen in the source image at
    K (R X + t), sampled bilinearly. Pixel centres are whole numbers (grid_sample's align_corners=True).

    Args:
        target, source: (C, h, w) floats.
        intrinsics: (3, 3), K of both cameras, in pixels of these maps. rotation: (3, 3), translation: (3,), target to
            source, in the unit of the depths.
        depths: (D,) positive.
        border: pixels at the edge, of the target and of the source, that never count as valid.
        temperature: 0 for the volume alone; above 0 the pass that fills it also leaves each pixel's softmax, arg-min
            and entropy (`DepthSweep`).
        backend: "auto", "reference", "cpu" or "cuda".

    Raises:
        InputError: shapes or values do not fit, K has no inverse. KernelError: the backend cannot run here.

    Source:
        Collins 1996, "A space-sweep approach to true multi-image matching"; L1 cost as in arXiv 2104.14540, 3.2.

    Example:
        >>> import numpy as np
        >>> image, eye = np.arange(4, dtype=np.float32).reshape(1, 2, 2), np.eye(3, dtype=np.float32)
        >>> found = plane_sweep(image, image, eye, eye, np.zeros(3, np.float32), np.ones(1, np.float32))
        >>> bool(found.valid.all()), float(found.cost.max())
        (True, 0.0)
    """
    arrays = {"target": target, "source": source, "intrinsics": intrinsics, "rotation": rotation}
    arrays |= {"translation": translation, "depths": depths}
    return SPEC.run(backend, arrays | {"border": int(border), "temperature": float(temperature)})


def projection(intrinsics: np.ndarray, rotation: np.ndarray, translation: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return H = K R K^-1 (3, 3) and K t (3,), fp64."""
    camera = intrinsics.astype(np.float64)
    return camera @ rotation.astype(np.float64) @ np.linalg.inv(camera), camera @ translation.astype(np.float64)


def _check(
    target: Any,
    source: Any,
    intrinsics: Any,
    rotation: Any,
    translation: Any,
    depths: Any,
    border: int,
    temperature: float,
) -> None:
    where = "plane_sweep"
    if target.ndim != 3 or 0 in target.shape:
        raise shape_error(where, "target", "(C, h, w), none of them 0", target)
    if source.shape != target.shape:
        raise shape_error(where, "source", f"{tuple(target.shape)} like the target", source)
    for name, array, shape in (
        ("intrinsics", intrinsics, (3, 3)),
        ("rotation", rotation, (3, 3)),
        ("translation", translation, (3,)),
    ):
        if array.shape != shape:
            raise shape_error(where, name, str(shape), array)
    if depths.ndim != 1 or (depths.size and not float(depths.min()) > 0):
        raise InputError(expected(f"{where}: depths", "(D,) positive numbers", f"shape {tuple(depths.shape)}"))
    if not np.isfinite(intrinsics).all() or np.linalg.matrix_rank(intrinsics) < 3:
        raise InputError(expected(f"{where}: intrinsics", "a camera matrix with an inverse", np.array2string(intrinsics)))
    if not 0 <= temperature < np.inf:
        raise InputError(expected(f"{where}: temperature", "0 (no softmax) or a positive number", temperature))
    if border < 0:
        raise InputError(expected(f"{where}: border", "0 or more pixels", border))


def _make(
    rng: np.random.Generator, C: int, h: int, w: int, D: int, border: int = 0, still: int = 0, law: int = 0
) -> dict[str, Any]:
    turn = 0.0 if still else 0.03
    rotation = np.array([[np.cos(turn), 0, np.sin(turn)], [0, 1, 0], [-np.sin(turn), 0, np.cos(turn)]], np.float32)
    return {
        "target": rng.standard_normal((C, h, w), dtype=np.float32),
        "source": rng.standard_normal((C, h, w), dtype=np.float32),
        "intrinsics": np.array([[w * 0.8, 0, w / 2], [0, w * 0.8, h / 2], [0, 0, 1]], np.float32),
        "rotation": rotation,
        "translation": np.array([0.0 if still else 0.31, 0.0 if still else -0.05, 0.0], np.float32),
        "depths": np.geomspace(1, 40, D).astype(np.float32),
        "border": border,
        "temperature": 0.2 * law,
    }


SPEC = Spec(
    name="plane_sweep",
    title="matching cost of every pixel at every depth, no warped volume stored",
    signature="target, source (C, h, w), K (3, 3), R (3, 3), t (3,), depths (D,) -> cost, valid (D, h, w); asked for: softmax, arg-min, entropy",
    axes={"C": "channels", "h": "rows", "w": "columns", "D": "depths"},
    arrays=dict.fromkeys(("target", "source", "intrinsics", "rotation", "translation", "depths"), "f"),
    host=("intrinsics", "rotation", "translation"),
    check=_check,
    make=_make,
    sizes=(
        {"C": 7, "h": 13, "w": 29, "D": 9},
        {"C": 1, "h": 1, "w": 1, "D": 1},
        {"C": 33, "h": 9, "w": 17, "D": 3, "border": 2},
        {"C": 3, "h": 8, "w": 8, "D": 2, "still": 1},
        {"C": 2, "h": 5, "w": 7, "D": 0},
        {"C": 2, "h": 3, "w": 7, "D": 2, "border": 2},
        {"C": 7, "h": 13, "w": 29, "D": 9, "border": 1, "law": 1},
        {"C": 1, "h": 7, "w": 1, "D": 1, "law": 1},
        {"C": 2, "h": 3, "w": 7, "D": 2, "border": 2, "law": 1},
        {"C": 2, "h": 5, "w": 7, "D": 0, "law": 1},
    ),
    bench={"C": 64, "h": 48, "w": 160, "D": 128},
    flops=lambda C, h, w, D, border=0, still=0, law=0: D * h * w * (10.0 * C + 20 + 8 * law),
    bytes=lambda C, h, w, D, border=0, still=0, law=0: 8.0 * C * h * w + (5.0 + 4 * law) * D * h * w,
    tolerance={"float32": (1e-3, 1e-3), "float16": (1e-3, 1e-3), "bfloat16": (1e-3, 1e-3)},
)
