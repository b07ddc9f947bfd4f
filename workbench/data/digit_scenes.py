"""Small pictures with exact answers: coloured digits and shapes on a texture, and questions of three words.

A scene is 64 x 64 pixels, 8 x 8 patches of 8 pixels. Two to five things, all different, stand in cells of 16 pixels: a thing
fills one patch, or is doubled to four; it never straddles a patch, so "which patches does the question need" has an answer.
Digits are scikit-learn's scanned ones (one in five glyphs only in held-out scenes), textures are sinusoids or scikit-image's
photographs. The pictures are made, so every answer and every asked patch is known exactly.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np

SIDE, PATCH = 64, 8
GRID = SIDE // PATCH
CELL = 16

DIGITS = tuple("0123456789")
SHAPES = ("disc", "square", "triangle")
NAMES = DIGITS + SHAPES
COLOURS = ("red", "green", "blue", "yellow")
PLACES = ("top-left", "top-right", "bottom-left", "bottom-right")
WORDS = ("colour", "name", "place", "count", "left", "of", "yes", "no")
VOCABULARY = ("<pad>", "<image>", *NAMES, *COLOURS, *PLACES, *WORDS)
Kind = Literal["colour", "name", "place", "count", "left"]
#: What a question asks: "colour of 7", "name of red", "place of disc", "count of red", "7 left 3".
KINDS: tuple[Kind, ...] = ("colour", "name", "place", "count", "left")

_PAINT = {"red": (1.0, 0.1, 0.1), "green": (0.1, 0.9, 0.1), "blue": (0.15, 0.25, 1.0), "yellow": (1.0, 0.9, 0.1)}
_PHOTOGRAPHS = ("astronaut", "brick", "camera", "chelsea", "coffee", "coins", "grass", "gravel", "rocket")
MOST = 5  # things in a scene
DOUBLED = 0.25  # share of things that fill four patches


@dataclass(frozen=True)
class Thing:
    """A digit or shape: its name and colour, first patch (row, column), and how many patches a side (1 or 2)."""

    name: str
    colour: str
    row: int
    column: int
    size: int

    @property
    def place(self) -> str:
        """The quarter of the picture that it stands in."""
        return PLACES[2 * (self.row >= GRID // 2) + (self.column >= GRID // 2)]

    @property
    def patches(self) -> list[int]:
        """Indices of its patches, row by row over the whole picture."""
        return [(self.row + r) * GRID + self.column + c for r in range(self.size) for c in range(self.size)]


@dataclass(frozen=True)
class Scene:
    """A picture and what is in it: `image` (64, 64, 3) fp32 in [0, 1]."""

    image: np.ndarray
    things: tuple[Thing, ...]

    def coloured(self, colour: str) -> list[Thing]:
        """Return the things of this colour."""
        return [thing for thing in self.things if thing.colour == colour]


@dataclass(frozen=True)
class Question:
    """Three words, the true answer, and the things that the answer is about."""

    kind: Kind
    words: str
    answer: str
    about: tuple[Thing, ...]


@functools.cache
def glyphs(held_out: bool) -> dict[str, np.ndarray]:
    """Return for each name its glyphs (n, 8, 8) fp32 in [0, 1]; held-out ones appear in no training scene."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    test = np.arange(len(digits.target)) % 5 == 0
    images = (digits.images / 16).astype(np.float32)
    found = {str(d): images[(digits.target == d) & (test == held_out)] for d in range(10)}
    return found | {name: _shapes(name, held_out) for name in SHAPES}


def _shapes(name: str, held_out: bool) -> np.ndarray:
    """Return drawings of a shape in several sizes and places, antialiased by a grid four times as fine."""
    at = (np.arange(32) + 0.5) / 4
    y, x = np.meshgrid(at, at, indexing="ij")
    made = []
    for i, (radius, dx, dy) in enumerate((r, a, b) for r in (2.4, 2.8, 3.2, 3.6) for a in (-0.4, 0, 0.4) for b in (-0.4, 0, 0.4)):
        if (i % 5 == 0) != held_out:
            continue
        u, v = x - 4 - dx, y - 4 - dy
        inside = {
            "disc": u * u + v * v <= radius * radius,
            "square": np.maximum(abs(u), abs(v)) <= 0.86 * radius,
            "triangle": (v <= radius) & (2 * abs(u) - v <= radius),
        }[name]
        made.append(inside.reshape(8, 4, 8, 4).mean((1, 3)))
    return np.array(made, np.float32)


@functools.cache
def photograph(name: str) -> np.ndarray:
    """Return a photograph of scikit-image as (h, w, 3) fp32 in [0, 1]."""
    from skimage import color, data, util

    image = getattr(data, name)()
    image = color.gray2rgb(image) if image.ndim == 2 else image[..., :3]
    return np.asarray(util.img_as_float32(image))


def _texture(rng: np.random.Generator) -> np.ndarray:
    """Return a dark background: a tinted sinusoid, or a darkened piece of a photograph."""
    tint = rng.uniform(0.8, 1.2, 3).astype(np.float32)
    if rng.random() < 0.5:
        photo = photograph(_PHOTOGRAPHS[rng.integers(len(_PHOTOGRAPHS))])
        top, left = (int(rng.integers(0, size - SIDE)) for size in photo.shape[:2])
        grey = 0.12 + 0.33 * photo[top : top + SIDE, left : left + SIDE].mean(-1)
    else:
        y, x = np.mgrid[0:SIDE, 0:SIDE].astype(np.float32) / SIDE
        wave = np.sin(2 * np.pi * (rng.uniform(-6, 6) * x + rng.uniform(-6, 6) * y) + rng.uniform(0, 6.3))
        grey = rng.uniform(0.15, 0.45) + rng.uniform(0.03, 0.12) * wave
    return (grey[..., None] * tint).astype(np.float32)


def scene(
    rng: np.random.Generator,
    *,
    held_out: bool = True,
    count: tuple[str, int] | None = None,
    most: int = MOST,
    doubled: float = DOUBLED,
) -> Scene:
    """Return a random scene.

    Args:
        rng: decides everything.
        held_out: draw the held-out glyphs, which no training scene has.
        count: (colour, n): exactly n things of this colour; by default colours fall freely.
        most: largest number of things (2 to 5). doubled: share of things of four patches.
    """
    wanted = 0 if count is None else count[1]
    number = max(int(rng.integers(2, most + 1)), wanted)
    names = rng.choice(len(NAMES), number, replace=False)
    free = [c for c in COLOURS if count is None or c != count[0]]
    colours = [free[rng.integers(len(free))] for _ in range(number - wanted)] + [count[0] if count else ""] * wanted
    cells = rng.choice((SIDE // CELL) ** 2, number, replace=False)
    image, things = _texture(rng), []
    for name, colour, cell in zip(names, colours, cells, strict=True):
        size = 2 if rng.random() < doubled else 1
        row, column = 2 * (int(cell) // 4), 2 * (int(cell) % 4)
        if size == 1:
            row, column = row + int(rng.integers(2)), column + int(rng.integers(2))
        thing = Thing(NAMES[name], colour, row, column, size)
        _paint(image, thing, rng, held_out)
        things.append(thing)
    image += rng.normal(0, 0.04, image.shape).astype(np.float32)
    return Scene(np.clip(image, 0, 1), tuple(things))


def _paint(image: np.ndarray, thing: Thing, rng: np.random.Generator, held_out: bool) -> None:
    bank = glyphs(held_out)[thing.name]
    cover = np.kron(bank[rng.integers(len(bank))], np.ones((thing.size, thing.size), np.float32))[..., None]
    paint = np.float32(rng.uniform(0.7, 1.0)) * np.array(_PAINT[thing.colour], np.float32)
    rows = slice(thing.row * PATCH, (thing.row + thing.size) * PATCH)
    columns = slice(thing.column * PATCH, (thing.column + thing.size) * PATCH)
    image[rows, columns] = image[rows, columns] * (1 - cover) + paint * cover


def ask(found: Scene, kind: Kind, rng: np.random.Generator, colour: str = "") -> Question | None:
    """Return a question about a scene, or None where the kind cannot be asked (no colour that only one thing has, ...).

    Args:
        colour: of a count question; by default any.
    """
    things = found.things
    if kind in ("colour", "place"):
        thing = things[rng.integers(len(things))]
        return Question(kind, f"{kind} of {thing.name}", getattr(thing, kind), (thing,))
    if kind == "name":
        single = [t for t in things if len(found.coloured(t.colour)) == 1]
        if not single:
            return None
        thing = single[rng.integers(len(single))]
        return Question(kind, f"name of {thing.colour}", thing.name, (thing,))
    if kind == "count":
        colour = colour or COLOURS[rng.integers(len(COLOURS))]
        about = tuple(found.coloured(colour))
        return Question(kind, f"count of {colour}", str(len(about)), about)
    pairs = [(a, b) for a in things for b in things if a.column // 2 != b.column // 2]
    if not pairs:
        return None
    a, b = pairs[rng.integers(len(pairs))]
    return Question(kind, f"{a.name} left {b.name}", "yes" if a.column < b.column else "no", (a, b))


def examples(
    seed: int, number: int, *, kinds: tuple[Kind, ...] = KINDS, held_out: bool = True
) -> Iterator[tuple[Scene, Question]]:
    """Yield (scene, question), one question a scene, kinds in turn, answers balanced: for counts the number is drawn first."""
    rng = np.random.default_rng(seed)
    made = 0
    while made < number:
        kind = kinds[made % len(kinds)]
        colour, wanted = COLOURS[rng.integers(4)], int(rng.integers(0, 5))
        found = scene(rng, held_out=held_out, count=(colour, wanted) if kind == "count" else None)
        question = ask(found, kind, rng, colour if kind == "count" else "")
        if question is not None:
            made += 1
            yield found, question
