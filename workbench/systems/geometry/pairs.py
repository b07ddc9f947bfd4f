"""Where two frames come from: ray-cast scenes, the Middlebury motorcycle, a reader's own pair. All leave the same `Setting`."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from workbench.data import scenes
from workbench.errors import InputError, expected
from workbench.systems.geometry.volume import Pair

SYNTHETIC = tuple(scenes.PRESETS)
FOCAL = 120.0  # px of the scenes' camera at 64 x 160
HEIGHT, WIDTH = 64, 160  # what answers while a slider moves
#: Middlebury 2014 "Motorcycle" at a quarter of its size, as scikit-image ships it: focal length, principal point, px; baseline, m.
MOTO_FOCAL, MOTO_CENTER, MOTO_SHIFT, MOTO_BASELINE = 994.978, (311.193, 254.877), 31.086, 0.193001
#: The part that a quarter-size 64 x 160 picture shows: first row, first column of the left image, of the right image.
MOTO_WINDOW = (122, 90, 58)
BOARD = ((30, 54), (62, 98))  # rows and columns at 64 x 160 of the pasted patch
RANGES = {"motorcycle": (1.8, 6.0), "pair": (1.0, 40.0)}
DEFAULT_RANGE = (1.5, 40.0)


class Setting(NamedTuple):
    """A pair and what is known of it.

    Attributes:
        pair: with the pose that the method is told. true: (h, w) m, NaN unknown. moving: (h, w) bool.
        focal_baseline: f B, px m: depth times disparity. baseline: m. pasted: the mover is a pasted patch.
        offset: px that a rectified pair's disparity lacks, z = f B / (disparity + offset); None where the camera moves freely.
        whole: (rows above, rows in all) where this is a band of a larger picture.
    """

    pair: Pair
    true: np.ndarray
    moving: np.ndarray
    focal_baseline: float
    baseline: float
    pasted: bool = False
    offset: float | None = None
    whole: tuple[int, int] | None = None


@lru_cache(maxsize=4)
def _still(name: str, texture: str, seed: int) -> tuple[scenes.Scene, scenes.Frame]:
    """Return a preset and its target frame, which no live knob changes."""
    shown = scenes.preset(name, seed, texture=texture)
    return shown, scenes.render(shown, shown.camera)


@lru_cache(maxsize=4)
def _behind(name: str, texture: str, seed: int, baseline: float) -> scenes.Frame:
    """Return what stands still as the other camera sees it: no speed changes that."""
    shown, _ = _still(name, texture, seed)
    return scenes.render(shown.split()[0], shown.moved_camera(baseline), -1.0)


def _before(name: str, texture: str, seed: int, baseline: float, speed: float) -> np.ndarray:
    """Return the other frame's image (h, w, 3): the movers, ray-cast where they were, before or behind what stands still."""
    shown, _ = _still(name, texture, seed)
    still, movers = _behind(name, texture, seed, baseline), shown.moving(speed * baseline).split()[1]
    if not movers.things:
        return still.image
    moved = scenes.render(movers, shown.moved_camera(baseline), -1.0)
    return np.where((moved.depth < still.depth)[..., None], moved.image, still.image)


def scene(name: str, texture: str, seed: int, baseline: float, speed: float) -> Setting:
    """Return a preset seen from two places `baseline` metres apart, its mover going `speed` baselines a frame the same way."""
    shown, now = _still(name, texture, seed)
    before_camera = shown.moved_camera(baseline)
    pair = Pair(
        now.image, _before(name, texture, seed, baseline, speed), shown.camera.intrinsics, *shown.camera.to(before_camera)
    )
    moving = np.isin(now.thing, shown.movers)
    return Setting(pair, now.depth.astype(np.float32), moving, FOCAL * baseline, baseline)


@lru_cache(maxsize=1)
def _motorcycle() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return (left, right (500, 741, 3) fp32 in [0, 1], depth (500, 741) fp32 m, NaN unknown)."""
    from skimage import data

    left, right, disparity = data.stereo_motorcycle()
    with np.errstate(invalid="ignore"):
        depth = np.where(np.isfinite(disparity), MOTO_FOCAL * MOTO_BASELINE / (disparity + MOTO_SHIFT), np.nan)
    return left.astype(np.float32) / 255, right.astype(np.float32) / 255, depth.astype(np.float32)


def _camera(scale: int, column: int, row: int, shift: float) -> np.ndarray:
    """Return K of a window that starts at (column, row), averaged down by `scale`; pixel centres are whole numbers."""
    x, y = MOTO_CENTER[0] + shift - column, MOTO_CENTER[1] - row
    return np.array(
        [[MOTO_FOCAL / scale, 0, (x + 0.5) / scale - 0.5], [0, MOTO_FOCAL / scale, (y + 0.5) / scale - 0.5], [0, 0, 1]]
    )


def blocks(image: np.ndarray, scale: int) -> np.ndarray:
    """Return an image with scale x scale pixels averaged into one."""
    height, width = (n // scale for n in image.shape[:2])
    cut = image[: height * scale, : width * scale]
    return cut.reshape(height, scale, width, scale, *image.shape[2:]).mean((1, 3))


def known_blocks(depth: np.ndarray, scale: int) -> np.ndarray:
    """Return the median of the known depths of scale x scale pixels, NaN where fewer than half are known.

    A mean would put the edge of a thing between it and what stands behind, and one unknown pixel would take all of them with it.
    """
    height, width = (n // scale for n in depth.shape)
    parts = (
        depth[: height * scale, : width * scale].reshape(height, scale, width, scale).swapaxes(1, 2).reshape(height, width, -1)
    )
    enough = np.isfinite(parts).mean(-1) >= 0.5
    out = np.full((height, width), np.nan, depth.dtype)
    out[enough] = np.nanmedian(parts[enough], -1)
    return out


def motorcycle(speed: float = 0.0, *, full: bool = False, paste: bool = True) -> Setting:
    """Return the real pair, with a patch of the left image as a board that goes `speed` baselines along.

    Both cameras have one focal length but principal points 31 px apart: that part of the right camera's matrix is folded into
    the rotation, K_left^-1 K_right, so that one K serves both.

    Args:
        full: all 500 x 741 pixels, else a 256 x 640 window at a quarter of its size. paste: lay the board on the right image.
    Source:
        Scharstein et al., GCPR 2014 (data); calibration as scikit-image states it.
    """
    left, right, true = _motorcycle()
    scale, (row, column, other) = (1, (0, 0, 0)) if full else (4, MOTO_WINDOW)
    if not full:
        size = (HEIGHT * scale, WIDTH * scale)
        left, true = (a[row : row + size[0], column : column + size[1]] for a in (left, true))
        left, true = blocks(left, scale), known_blocks(true, scale)
        right = blocks(right[row : row + size[0], other : other + size[1]], scale)
    k, k_right = _camera(scale, column, row, 0.0), _camera(scale, other, row, MOTO_SHIFT)
    pair = Pair(left, right, k, np.linalg.inv(k) @ k_right, np.array([-MOTO_BASELINE, 0, 0]))
    offset = float(k_right[0, 2] - k[0, 2])
    found = Setting(
        pair, true.astype(np.float32), np.zeros(true.shape, bool), k[0, 0] * MOTO_BASELINE, MOTO_BASELINE, offset=offset
    )
    return _pasted(found, speed, full) if paste else found


def _pasted(setting: Setting, speed: float, full: bool) -> Setting:
    """Return the setting with a flat copy of a patch laid on the source image, where a thing of that speed would be seen."""
    (top, bottom), (start, stop) = BOARD
    if full:
        row, column, _ = MOTO_WINDOW
        top, bottom, start, stop = 4 * top + row, 4 * bottom + row, 4 * start + column, 4 * stop + column
    pair, true = setting.pair, setting.true.copy()
    depth = float(np.nanmedian(true[top:bottom, start:stop]))
    h = pair.intrinsics @ pair.rotation @ np.linalg.inv(pair.intrinsics)
    shift = h[0, 2] + (1 - speed) * (pair.intrinsics @ pair.translation)[0] / depth  # of x, the same for a whole flat board
    source = pair.source.copy()
    width = source.shape[1]
    first, last = int(np.ceil(start + shift)), int(np.floor(stop - 1 + shift))
    columns = np.arange(max(first, 0), min(last, width - 1) + 1)
    place = columns - shift
    low = np.clip(np.floor(place).astype(int), start, stop - 2)
    part = (place - low)[None, :, None].astype(np.float32)
    rows = pair.target[top:bottom]
    source[top:bottom, columns] = rows[:, low] * (1 - part) + rows[:, low + 1] * part
    true[top:bottom, start:stop] = depth
    moving = np.zeros(true.shape, bool)
    moving[top:bottom, start:stop] = True
    return setting._replace(pair=pair._replace(source=source), true=true, moving=moving, pasted=True)


def own(left: np.ndarray, right: np.ndarray, focal: float, baseline: float) -> Setting:
    """Return a reader's rectified pair, cut and averaged down to about 64 x 160 pixels, at most 160 wide and 128 high.

    Args:
        left, right: (h, w, 3) in [0, 1] of one size, rows aligned; the right camera stands to the right.
        focal: px of the picture as given. baseline: m.
    Raises:
        InputError: two sizes, too small, or no baseline.
    """
    if left.shape != right.shape:
        sizes = " and ".join(f"{i.shape[1]} x {i.shape[0]}" for i in (left, right))
        raise InputError(expected("left and right", "two pictures of one size", sizes, then="Crop both alike"))
    scale = max(1, math.ceil(max(left.shape[1] / WIDTH, left.shape[0] / (2 * HEIGHT))))
    middle = [(n / scale - 1) / 2 for n in left.shape[1::-1]]  # of the picture as given: cutting its edges moves no camera
    left, right = (blocks(np.asarray(i, np.float32), scale) for i in (left, right))
    height, width = (n - n % 16 for n in left.shape[:2])
    if min(height, width) < 32:
        raise InputError(expected("pair", "pictures of at least 32 x 32 pixels", f"{left.shape[1]} x {left.shape[0]}"))
    left, right = left[:height, :width], right[:height, :width]
    k = np.array([[focal / scale, 0, middle[0]], [0, focal / scale, middle[1]], [0, 0, 1]])
    pair = Pair(left, right, k, np.eye(3), np.array([-float(baseline), 0, 0]))
    nothing = np.full((height, width), np.nan, np.float32)
    return Setting(pair, nothing, np.zeros((height, width), bool), k[0, 0] * baseline, float(baseline), offset=0.0)


def disturbed(setting: Setting, pose_noise_deg: float, photometric_noise: float, seed: int) -> Setting:
    """Return the setting with the told rotation off by an angle about a random axis, and Gaussian noise on the source image."""
    pair = setting.pair
    if pose_noise_deg:
        axis = np.random.default_rng([seed, 21]).standard_normal(3)
        x, y, z = np.radians(pose_noise_deg) * axis / np.linalg.norm(axis)
        skew = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
        angle = np.radians(pose_noise_deg)
        off = np.eye(3) + np.sin(angle) / angle * skew + (1 - np.cos(angle)) / angle**2 * skew @ skew
        pair = pair._replace(rotation=off @ pair.rotation)
    if photometric_noise:
        noise = np.random.default_rng([seed, 22]).standard_normal(pair.source.shape, np.float32)
        pair = pair._replace(source=np.clip(pair.source + np.float32(photometric_noise) * noise, 0, 1))
    return setting._replace(pair=pair)


def opinion(setting: Setting, sigma: float, depths: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return (depth, sigma), both (h, w) m, of the simulated teacher and its law over depths after min-max, (D, h, w).

    The last ones of a slider's size are kept: neither the mover's speed nor the fusion's knobs change what one frame says.
    """
    true = setting.true
    say = _opinion if true.size <= HEIGHT * WIDTH else _opinion.__wrapped__
    return say(true.tobytes(), true.shape, setting.whole, sigma, depths.tobytes())


@lru_cache(maxsize=4)
def _opinion(
    true: bytes, shape: tuple[int, int], whole: tuple[int, int] | None, sigma: float, depths: bytes
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    from workbench.systems.geometry import fusion

    depth, spread = teacher(np.frombuffer(true, np.float32).reshape(shape), sigma, whole)
    return depth, spread, fusion.min_max(fusion.single_law(np.frombuffer(depths, np.float32), depth, spread))


def teacher(true: np.ndarray, sigma: float, whole: tuple[int, int] | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Return (depth, sigma), both (h, w) m, of the *simulated* single-frame teacher: the truth with a smooth bias of 12 %.

    Args:
        true: m; unknown pixels take the nearest known depth. sigma: hundredths of the depth (20 is a fifth).
        whole: (rows above, rows in all) of a band: the bias is one wave over the whole picture.
    """
    filled = nearest_known(true)
    above, height = whole or (0, true.shape[0])
    y, x = np.ogrid[above : above + true.shape[0], : true.shape[1]]
    biased = filled * (1 + 0.12 * np.sin(2 * np.pi * (2 * x / true.shape[1] + 1.6 * y / height)))
    return biased.astype(np.float32), (sigma / 100 * biased).astype(np.float32)


def nearest_known(values: np.ndarray) -> np.ndarray:
    """Return an image with NaN replaced by the nearest finite value."""
    unknown = ~np.isfinite(values)
    if not unknown.any():
        return values
    from scipy.ndimage import distance_transform_edt

    place = distance_transform_edt(unknown, return_distances=False, return_indices=True)
    return values[tuple(place)]
