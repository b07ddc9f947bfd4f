"""Texts that are really there, offline: plays, Python's standard library, technical English, questions.

Every corpus is a dict of named documents; `held_out(name)` splits it for good, so what the recipes trained on and
what the benchmarks measure never overlap. Sources and licences stand in `README.md` beside this file.
"""

from __future__ import annotations

import functools
import gzip
import hashlib
import re
import sysconfig
import textwrap
from pathlib import Path

from workbench.data.prompts import KINDS, Prompt, draw, needle, passage, prompts, questions

__all__ = [
    "KINDS",
    "Prompt",
    "draw",
    "held_out",
    "needle",
    "passage",
    "plays",
    "prompts",
    "questions",
    "stdlib_code",
    "technical_english",
]

SKIPPED_FOLDERS = {"site-packages", "dist-packages", "test", "tests", "idlelib", "lib2to3", "__pycache__", "encodings"}
SMALLEST_DOCUMENT = 400  # characters; shorter files are mostly re-exports


def held_out(name: str) -> bool:
    """Return whether the document of this name is kept from training (one in ten, by a stable hash)."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "little") % 10 == 0


@functools.cache
def plays() -> dict[str, str]:
    """Return the plays by title, as plain text."""
    raw = gzip.decompress((Path(__file__).parent / "plays.txt.gz").read_bytes()).decode("utf-8")
    parts = re.split(r"^=== (.+) ===\n", raw, flags=re.MULTILINE)[1:]
    return {title: body.strip() for title, body in zip(parts[::2], parts[1::2])}


@functools.cache
def stdlib_code() -> dict[str, str]:
    """Return the source of Python's standard library by path inside it (`"json/decoder.py"`), tests left out."""
    root = Path(sysconfig.get_paths()["stdlib"])
    files = [path for path in root.rglob("*.py") if SKIPPED_FOLDERS.isdisjoint(path.relative_to(root).parts)]
    texts = {path.relative_to(root).as_posix(): path.read_text("utf-8", errors="replace") for path in sorted(files)}
    return {name: text for name, text in texts.items() if len(text) >= SMALLEST_DOCUMENT}


@functools.cache
def technical_english() -> dict[str, str]:
    """Return Python's own help topics by name (`"assignment"`, `"lambda"`, ...)."""
    from pydoc_data.topics import topics

    texts = {name: textwrap.dedent(text).strip() for name, text in sorted(topics.items())}
    return {name: text for name, text in texts.items() if len(text) >= SMALLEST_DOCUMENT}
