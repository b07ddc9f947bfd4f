"""Ray-cast scenes whose truth is exact: colour, depth, normals, labels, forward flow and occlusion of every pixel.

Planes, boxes and spheres stand in a world of metres (x right, y down, z forward). A ray is written with z = 1 in the camera,
so the number that a cast returns *is* the depth. Textures are solid sums of sinusoids, filtered for each pixel by how fast
they turn there, so that nothing aliases, or photographs of scikit-image laid on faces. A thing may have a velocity of its own.

    shown = preset("street", seed=3)
    now, before = render(shown, shown.camera), render(shown, shown.moved_camera(0.4), time=-1.0)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from workbench.data.textures import Texture, photographed, picture, waved, waves
from workbench.errors import InputError, expected, unknown

SHAPES = ("plane", "box", "sphere")
LABELS = ("ground", "wall", "box", "sphere", "thing that moves")
CHUNK = 512  # points painted at a time: their waves stay in the cache
AWAY = 1e-9  # a hit must lie at least this far in front of the camera
LIGHT = np.array([-0.45, -0.75, -0.48])  # towards the light


@dataclass(frozen=True)
class Camera:
    """A pinhole camera.

    Attributes:
        intrinsics: (3, 3), pixels; pixel centres are whole numbers. height, width: pixels.
        rotation: (3, 3), camera to world. position: (3,), metres.
    """

    intrinsics: np.ndarray
    height: int
    width: int
    rotation: np.ndarray = field(default_factory=lambda: np.eye(3))
    position: np.ndarray = field(default_factory=lambda: np.zeros(3))

    def pixels(self) -> np.ndarray:
        """Return every pixel's (x, y), (h * w, 2) fp64, row by row."""
        y, x = np.mgrid[0 : self.height, 0 : self.width].astype(np.float64)
        return np.stack([x.ravel(), y.ravel()], 1)

    def rays(self, pixels: np.ndarray) -> np.ndarray:
        """Return world directions (n, 3) of pixels (n, 2), with depth 1 in this camera."""
        ones = np.ones((len(pixels), 1))
        return np.hstack([pixels, ones]) @ np.linalg.inv(self.intrinsics).T @ self.rotation.T

    def project(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return (pixels (n, 2), depth (n,)) of world points (n, 3); NaN pixels where a point is not in front."""
        local = (points - self.position) @ self.rotation
        with np.errstate(divide="ignore", invalid="ignore"):
            image = (local / local[:, 2:]) @ self.intrinsics.T
        return np.where(local[:, 2:] > AWAY, image[:, :2], np.nan), local[:, 2]

    def to(self, other: Camera) -> tuple[np.ndarray, np.ndarray]:
        """Return (rotation (3, 3), translation (3,)) that take this camera's points to the other's."""
        return other.rotation.T @ self.rotation, other.rotation.T @ (self.position - other.position)


def camera(height: int = 64, width: int = 160, focal: float = 120.0) -> Camera:
    """Return a camera at the origin that looks along z, its axis through the middle of the image.

    Args:
        height, width: pixels, at least 1. focal: pixels, above 0.
    """
    if min(height, width) < 1 or not focal > 0:
        raise InputError(expected("camera", "at least 1 x 1 pixels and a focal length above 0", f"{height} x {width}, {focal}"))
    k = np.array([[focal, 0, (width - 1) / 2], [0, focal, (height - 1) / 2], [0, 0, 1.0]])
    return Camera(k, height, width)


@dataclass(frozen=True)
class Thing:
    """A plane (half-space), a box or a sphere.

    Attributes:
        shape: "plane", "box" or "sphere". center: (3,) m, a point of the plane. size: (3,) m, a plane's outer normal, a box's
            half edges, a sphere's radius three times. turn: (3, 3), the thing's axes in the world. velocity: (3,) m per frame.
        label: index into `LABELS`.
    Raises:
        UnknownNameError: another shape.
    """

    shape: str
    center: np.ndarray
    size: np.ndarray
    texture: Texture
    label: int
    velocity: np.ndarray = field(default_factory=lambda: np.zeros(3))
    turn: np.ndarray = field(default_factory=lambda: np.eye(3))

    def __post_init__(self) -> None:
        if self.shape not in SHAPES:
            raise unknown("shape", self.shape, SHAPES)

    def at(self, time: float) -> np.ndarray:
        """Return the centre at a time, in frames."""
        return self.center + time * self.velocity


@dataclass(frozen=True)
class Scene:
    """Things, the camera that looks at them, and the direction in which the presets' camera (and their mover) goes."""

    name: str
    things: tuple[Thing, ...]
    camera: Camera
    direction: np.ndarray = field(default_factory=lambda: np.array([1.0, 0, 0]))

    @property
    def movers(self) -> tuple[int, ...]:
        """Indices of the things labelled as moving."""
        return tuple(i for i, thing in enumerate(self.things) if thing.label == LABELS.index("thing that moves"))

    def moving(self, metres: float) -> Scene:
        """Return the scene with its movers going `metres` a frame along the camera's direction."""
        chosen = set(self.movers)
        things = [replace(t, velocity=metres * self.direction) if i in chosen else t for i, t in enumerate(self.things)]
        return replace(self, things=tuple(things))

    def split(self) -> tuple[Scene, Scene]:
        """Return the scene without its movers, and with them alone."""
        parts = [tuple(t for i, t in enumerate(self.things) if (i in self.movers) == moving) for moving in (False, True)]
        return replace(self, things=parts[0]), replace(self, things=parts[1])

    def moved_camera(self, metres: float) -> Camera:
        """Return the camera `metres` back along its direction: where it stood in the frame before."""
        return replace(self.camera, position=self.camera.position - metres * self.direction)


@dataclass(frozen=True)
class Frame:
    """What a camera sees at a time; (h, w) arrays.

    Attributes:
        image: (h, w, 3) fp32 in [0, 1]. depth: fp64 m along the camera's axis, inf where nothing is hit. label: int8, -1 for
            nothing. thing: int16, index of the thing, -1 for nothing. normal: (h, w, 3) fp64, in the world.
        moving: bool, the thing has a velocity.
    """

    image: np.ndarray
    depth: np.ndarray
    label: np.ndarray
    thing: np.ndarray
    normal: np.ndarray
    moving: np.ndarray


# ---- geometry --------------------------------------------------------------------------------------------------------


def _span(thing: Thing, origin: np.ndarray, rays: np.ndarray, time: float) -> tuple[np.ndarray, np.ndarray]:
    """Return where rays enter and leave a thing, (n,) each in depth; enter = inf for a miss."""
    start = (origin - thing.at(time)) @ thing.turn
    x, y, z = np.ascontiguousarray((rays @ thing.turn).T)  # columns: numpy is slow along a short last axis
    if thing.shape == "plane":
        normal = thing.size / np.linalg.norm(thing.size)
        slope = x * normal[0] + y * normal[1] + z * normal[2]
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(slope < 0, -(start @ normal) / slope, np.inf), np.full(len(rays), np.inf)
    if thing.shape == "box":
        return _through_box(start, (x, y, z), thing.size)
    a, b = x * x + y * y + z * z, x * start[0] + y * start[1] + z * start[2]
    inside = b * b - a * (start @ start - thing.size[0] ** 2)
    root = np.sqrt(np.maximum(inside, 0))
    return np.where(inside >= 0, (-b - root) / a, np.inf), (-b + root) / a


def _through_box(start: np.ndarray, ray: Sequence[np.ndarray], half: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return where rays enter and leave a box in its own axes: the last of the three slabs' entries, the first of their exits."""
    enter, leave = np.full(len(ray[0]), -np.inf), np.full(len(ray[0]), np.inf)
    with np.errstate(divide="ignore", invalid="ignore"):
        for s, d, h in zip(start, ray, half):
            one, two = (-h - s) / d, (h - s) / d
            enter, leave = np.fmax(enter, np.fmin(one, two)), np.fmin(leave, np.fmax(one, two))
    return np.where(enter <= leave, enter, np.inf), leave


def spans(scene: Scene, origin: np.ndarray, rays: np.ndarray, time: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Return where each ray enters and leaves every thing: (T, n) depths, inf for a miss; hidden things are there too.

    Args:
        origin: (3,) m. rays: (n, 3), their unit is the unit of the result. time: frames.
    """
    both = [_span(thing, origin, rays, time) for thing in scene.things]
    near = np.stack([np.where(near > AWAY, near, np.inf) for near, _ in both])
    return near, np.stack([np.where(np.isfinite(n), far, np.inf) for n, (_, far) in zip(near, both)])


def cast(scene: Scene, seen_by: Camera, pixels: np.ndarray, time: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Return (depth (n,), index of the thing (n,), -1 for nothing) at any places (n, 2) of an image, exactly."""
    near, _ = spans(scene, seen_by.position, seen_by.rays(pixels), time)
    depth, thing = near[0].copy(), np.zeros(len(pixels), int)
    for index in range(1, len(near)):
        nearer = near[index] < depth
        depth[nearer], thing[nearer] = near[index][nearer], index
    return depth, np.where(np.isfinite(depth), thing, -1)


def _normal(thing: Thing, local: np.ndarray) -> np.ndarray:
    """Return outer normals (n, 3), in the thing's axes, at points on its surface."""
    if thing.shape == "plane":
        return np.broadcast_to(thing.size / np.linalg.norm(thing.size), local.shape)
    if thing.shape == "sphere":
        return local / thing.size[0]
    x, y, z = np.abs(local / thing.size).T
    face = np.where((x >= y) & (x >= z), 0, np.where(y >= z, 1, 2))
    normal = np.zeros_like(local)
    rows = np.arange(len(local))
    normal[rows, face] = np.sign(local[rows, face])
    return normal


# ---- colour ----------------------------------------------------------------------------------------------------------


def _steps(rays: np.ndarray, across: np.ndarray, depth: np.ndarray, normal: np.ndarray) -> np.ndarray:
    """Return how far the point on the surface moves (n, 3) when the ray moves by one pixel."""
    slope = rays[:, 0] * normal[:, 0] + rays[:, 1] * normal[:, 1] + rays[:, 2] * normal[:, 2]
    slope = np.where(np.abs(slope) < 1e-6, -1e-6, slope)
    return depth[:, None] * (across - rays * ((normal @ across) / slope)[:, None])


def _paint(thing: Thing, local: np.ndarray, right: np.ndarray, down: np.ndarray, normal: np.ndarray) -> np.ndarray:
    """Return colours (n, 3) fp32 before light; right and down: the surface's steps a pixel."""
    texture = thing.texture
    if texture.photograph:
        return photographed(thing.texture, local, right, down, normal)
    colour = np.empty((len(local), 3), np.float32)
    for first in range(0, len(local), CHUNK):
        part = slice(first, first + CHUNK)
        colour[part] = waved(texture, *(a[part].astype(np.float32) for a in (local, right, down)))
    return colour


def render(scene: Scene, seen_by: Camera, time: float = 0.0) -> Frame:
    """Return what a camera sees at a time.

    Args:
        seen_by: any camera, usually `scene.camera` or `scene.moved_camera(metres)`. time: frames; 0 is the scene as built.
    """
    pixels = seen_by.pixels()
    rays = seen_by.rays(pixels)
    inverse = np.linalg.inv(seen_by.intrinsics)
    right, down = (seen_by.rotation @ inverse[:, i] for i in (0, 1))
    depth, thing = cast(scene, seen_by, pixels, time)
    image, normals = np.zeros((len(pixels), 3), np.float32), np.zeros((len(pixels), 3))
    toward = LIGHT / np.linalg.norm(LIGHT)
    for index, one in enumerate(scene.things):
        rows = np.flatnonzero(thing == index)
        if not len(rows):
            continue
        world = seen_by.position + depth[rows, None] * rays[rows] - one.at(time)
        local = world @ one.turn
        normal = _normal(one, local)
        normals[rows] = out = normal @ one.turn.T
        to_right, to_down = (_steps(rays[rows], step, depth[rows], out) @ one.turn for step in (right, down))
        shade = 0.62 + 0.38 * np.maximum(0, out @ toward)
        image[rows] = _paint(one, local, to_right, to_down, normal) * shade[:, None].astype(np.float32)
    labels = np.array([t.label for t in scene.things] + [-1], np.int8)
    moves = np.array([bool(np.any(t.velocity)) for t in scene.things] + [False])
    shape = (seen_by.height, seen_by.width)
    return Frame(
        np.clip(image, 0, 1).reshape(*shape, 3), depth.reshape(shape), labels[thing].reshape(shape),
        thing.astype(np.int16).reshape(shape), normals.reshape(*shape, 3), moves[thing].reshape(shape),
    )  # fmt: skip


def flow(scene: Scene, one: Camera, time: float, other: Camera, other_time: float) -> tuple[np.ndarray, np.ndarray]:
    """Return (flow (h, w, 2) fp64 px, visible (h, w) bool) from one camera and time to another.

    The point that a pixel shows is carried along with its thing and projected; it is visible if the other camera, cast through
    exactly that place, meets the same point, inside its image. NaN where nothing is hit or the point is not in front.
    """
    pixels, rays = one.pixels(), one.rays(one.pixels())
    depth, thing = cast(scene, one, pixels, time)
    hit = np.flatnonzero(thing >= 0)
    velocity = np.stack([t.velocity for t in scene.things])[thing[hit]]
    points = one.position + depth[hit, None] * rays[hit] + (other_time - time) * velocity
    places, away = other.project(points)
    there = np.isfinite(places).all(1)
    again, same = np.full(len(hit), np.nan), np.full(len(hit), -1)
    again[there], same[there] = cast(scene, other, places[there], other_time)
    inside = (places >= 0).all(1) & (places <= [other.width - 1, other.height - 1]).all(1)
    seen = there & inside & (same == thing[hit]) & (np.abs(again - away) <= 1e-6 * np.maximum(away, 1))
    moved, visible = np.full((len(pixels), 2), np.nan), np.zeros(len(pixels), bool)
    moved[hit], visible[hit] = places - pixels[hit], seen
    shape = (one.height, one.width)
    return moved.reshape(*shape, 2), visible.reshape(shape)


# ---- scenes a teacher recognises --------------------------------------------------------------------------------------


class _Painter:
    """Draws one thing after the other from one generator, in waves or photographs."""

    def __init__(self, seed: Sequence[int], texture: str) -> None:
        if texture not in ("waves", "photograph"):
            raise unknown("texture", texture, ("waves", "photograph"))
        self.rng, self.kind = np.random.default_rng(seed), texture

    def paint(self, photograph: str = "", **how: Any) -> Texture:
        """Return the next texture."""
        return picture(self.rng, photograph) if self.kind == "photograph" else waves(self.rng, **how)

    def plane(self, point: Sequence[float], normal: Sequence[float], label: str, photograph: str = "", **how: Any) -> Thing:
        """Return a half-space."""
        return Thing("plane", np.array(point, float), np.array(normal, float), self.paint(photograph, **how), LABELS.index(label))

    def box(self, center: Sequence[float], half: Sequence[float], label: str, yaw: float = 0.0, photograph: str = "") -> Thing:
        """Return a box turned by `yaw` radians about the vertical."""
        c, s = np.cos(yaw), np.sin(yaw)
        turn = np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]])
        paint = self.paint(photograph)
        return Thing("box", np.array(center, float), np.array(half, float), paint, LABELS.index(label), turn=turn)

    def sphere(self, center: Sequence[float], radius: float, label: str, photograph: str = "") -> Thing:
        """Return a sphere."""
        return Thing("sphere", np.array(center, float), np.full(3, float(radius)), self.paint(photograph), LABELS.index(label))


def _street(p: _Painter) -> tuple[list[Thing], Sequence[float]]:
    """A road between two rows of houses; a car crosses four metres ahead."""
    mover = "thing that moves"
    return [
        p.plane([0, 1.3, 0], [0, -1, 0], "ground", "gravel"),
        # Not bricks: from here they repeat every five pixels, and matching mistakes one for the next.
        p.plane([0, 0, 13.5], [0, 0, -1], "wall", "astronaut"),
        p.box([-7.2, -1.5, 9], [1.8, 3, 3], "wall", 0.15, "gravel"),
        p.box([7.4, -1.5, 8.5], [1.8, 3, 3.5], "wall", -0.12, "gravel"),
        p.box([4.1, 0.45, 6.8], [0.6, 0.85, 0.6], "box", 0.5, "astronaut"),
        p.sphere([-3.4, 0.65, 7.0], 0.65, "sphere", "grass"),
        p.box([0.1, 0.71, 4.35], [1.0, 0.36, 0.35], mover, 0.0, "astronaut"),
        p.box([0.0, 0.19, 4.35], [0.6, 0.24, 0.3], mover, 0.0, "astronaut"),
    ], (1.0, 0, 0)


def _corridor(p: _Painter) -> tuple[list[Thing], Sequence[float]]:
    """A corridor that the camera walks down, a cart going along in it."""
    return [
        p.plane([0, 1.2, 0], [0, -1, 0], "ground", "gravel"),
        p.plane([0, -1.4, 0], [0, 1, 0], "wall", "gravel"),
        p.plane([-1.9, 0, 0], [1, 0, 0], "wall", "brick"),
        p.plane([1.9, 0, 0], [-1, 0, 0], "wall", "brick"),
        p.plane([0, 0, 14], [0, 0, -1], "wall", "brick"),
        p.box([-1.45, 0.6, 6], [0.4, 0.6, 0.5], "box", 0.0, "grass"),
        p.sphere([1.25, 0.75, 7.5], 0.45, "sphere", "grass"),
        p.box([0.55, 0.55, 4.6], [0.6, 0.65, 0.6], "thing that moves", 0.0, "astronaut"),
    ], (0.8, 0, 0.6)


def _walls(p: _Painter) -> tuple[list[Thing], Sequence[float]]:
    """Two walls: a board at four metres, which moves, before a wall at eight."""
    return [
        p.plane([0, 0, 8], [0, 0, -1], "wall", "brick"),
        p.box([0, 0, 4.1], [1.1, 0.65, 0.1], "thing that moves", 0.0, "astronaut"),
    ], (1.0, 0, 0)


PRESETS = {"street": _street, "corridor": _corridor, "walls": _walls}


def preset(name: str, seed: int = 0, *, texture: str = "waves", seen_by: Camera | None = None) -> Scene:
    """Return a scene by name; the seed draws its textures, the geometry stays.

    Args:
        name: "street", "corridor" or "walls". texture: "waves" or "photograph". seen_by: the camera; None: 64 x 160, f 120 px.
    """
    if name not in PRESETS:
        raise unknown("scene", name, PRESETS)
    things, direction = PRESETS[name](_Painter([seed, 21], texture))
    return Scene(name, tuple(things), seen_by or camera(), np.array(direction))


def random_scene(seed: int, *, seen_by: Camera | None = None, texture: str = "waves", movers: int = 1) -> Scene:
    """Return a scene drawn from a seed: a ground, walls, up to six boxes and spheres, some of them able to move.

    Args:
        movers: how many of the things carry the label of a moving one (they stand still until `Scene.moving`).
    """
    p = _Painter([seed, 12], texture)
    rng = p.rng
    things = [
        p.plane([0, rng.uniform(0.9, 1.8), 0], [0, -1, 0], "ground"),
        p.plane([0, 0, rng.uniform(7, 16)], [rng.uniform(-0.25, 0.25), 0, -1], "wall"),
    ]
    if rng.random() < 0.5:
        side = rng.uniform(1.8, 6)
        things += [p.plane([s * side, 0, 0], [-s, 0, 0], "wall") for s in (-1, 1)]
    for i in range(int(rng.integers(2, 7)) + movers):
        z = rng.uniform(3, 9)
        x, size = rng.uniform(-0.55, 0.55) * z, rng.uniform(0.3, 0.75, 3)
        label = "thing that moves" if i < movers else ""
        floor = things[0].center[1]
        if rng.random() < 0.65:
            things.append(p.box([x, floor - size[1], z], size.tolist(), label or "box", rng.uniform(-0.8, 0.8)))
        else:
            things.append(p.sphere([x, floor - size[0], z], size[0], label or "sphere"))
    angle = rng.uniform(0, 0.9) * rng.choice([-1, 1])
    return Scene(f"random {seed}", tuple(things), seen_by or camera(), np.array([np.cos(angle), 0, abs(np.sin(angle))]))
