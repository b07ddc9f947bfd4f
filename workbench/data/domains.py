"""Text of four visibly different kinds, and of two kinds that the small mixtures of experts were not trained on.

Every kind is on any installation: plays and a cipher of them, Python's standard library, Python's help topics, generated
arithmetic, and the style sheets inside the panel package. Documents are split for good into training and held out.
"""

from __future__ import annotations

import codecs
import functools
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from workbench.errors import unknown

DOMAINS = ("play", "code", "manual", "arithmetic")
OUTSIDE = ("cipher", "style sheet")
_HELD_TOPICS = 10  # pydoc has few, long topics: every tenth is held out, which the stable hash would do unevenly
_SUMS = 6000


@functools.cache
def text_of(domain: str, held_out: bool = True) -> str:
    """Return all text of a domain on one side of the split.

    Raises:
        UnknownNameError: no such domain.
    """
    from workbench import data

    if domain == "arithmetic":
        return _arithmetic(held_out)
    if domain == "style sheet":
        return _style_sheets(held_out)
    if domain == "cipher":
        return codecs.encode(text_of("play", held_out), "rot13")
    if domain == "manual":
        topics = data.technical_english()
        return "\n\n".join(text for i, text in enumerate(topics.values()) if (i % _HELD_TOPICS == 3) == held_out)
    if domain not in DOMAINS:
        raise unknown("domain", domain, DOMAINS + OUTSIDE)
    documents = data.plays() if domain == "play" else data.stdlib_code()
    return "\n\n".join(text for name, text in documents.items() if data.held_out(name) == held_out)


def _arithmetic(held_out: bool) -> str:
    """Return lines of right sums; training and held-out lines come from different seeds."""
    rng = np.random.default_rng([20240131, int(held_out)])
    lines = []
    for _ in range(_SUMS // (10 if held_out else 1)):
        a, b, c = (int(n) for n in rng.integers(2, 100, 3))
        kind = rng.integers(4)
        if kind == 0:
            lines.append(f"{a} + {b} = {a + b}")
        elif kind == 1:
            lines.append(f"{a + b} - {b} = {a}")
        elif kind == 2:
            lines.append(f"{a} * {b % 10} = {a * (b % 10)}")
        else:
            lines.append(f"({a} + {b}) * {c % 10} = {a + b} * {c % 10} = {(a + b) * (c % 10)}")
    return "\n".join(lines)


def _style_sheets(held_out: bool) -> str:
    """Return every second style sheet of the panel package."""
    found = find_spec("panel")
    folder = Path(str(found.origin)).parent / "dist" / "css" if found else Path()
    return "\n\n".join(path.read_text("utf-8", errors="replace") for path in sorted(folder.glob("*.css"))[int(held_out) :: 2])


def windows(domain: str, encode: object, count: int, length: int, seed: int = 0, held_out: bool = True) -> np.ndarray:
    """Return (count, length) int64 token ids: stretches of a domain, spread evenly, each starting at a line.

    Args:
        encode: a function from text to a list of token ids.
        seed: moves the stretches; the same seed gives the same windows. held_out: the side of the split.
    """
    text = text_of(domain, held_out)
    assert callable(encode)
    rng = np.random.default_rng([seed, len(text)])
    rows: list[list[int]] = []
    starts = (np.arange(count) + rng.random(count)) / count * max(1, len(text) - 12 * length)
    for start in starts.astype(int):
        begin = text.find("\n", start) + 1
        ids = list(encode(text[begin : begin + 12 * length]))
        while len(ids) < length:  # short text: go round
            ids += ids or [0]
        rows.append(ids[:length])
    return np.asarray(rows, np.int64)
