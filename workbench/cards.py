"""The catalogue: every installed system as a card, the same on the page, in a notebook and on the command line.

What a card says comes from the system's class, from its views, and from two files that `scripts/cards.py` makes for it: a
picture of its recorded run, and what one small run needed (seconds, memory), measured in a process of its own.
"""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from html import escape
from pathlib import Path
from typing import Any

from workbench import system as systems

FOLDER = Path(__file__).parent / "recorded" / "cards"
THEMES = ("light", "dark")
#: What "runs in a class" means: one small run on a laptop is over before thirty people lose patience, and fits beside a browser.
CLASS_SECONDS, CLASS_MB = 20.0, 2000.0
READY = "ready"


@dataclass(frozen=True)
class Needs:
    """What one small run took on the machine that measured it (NaN = not measured)."""

    seconds: float = float("nan")
    memory_mb: float = float("nan")
    device: str = ""

    def __str__(self) -> str:
        if self.seconds != self.seconds:
            return "not measured"
        memory = f"{self.memory_mb / 1000:.1f} GB" if self.memory_mb >= 1000 else f"{self.memory_mb:.0f} MB"
        took = f"{self.seconds:.0f} s, {memory}" if self.seconds >= 1 else f"under 1 s, {memory}"
        return f"{took} ({self.device})" if self.device else took  # by the clock of that machine

    @property
    def in_class(self) -> bool:
        return self.seconds <= CLASS_SECONDS and self.memory_mb <= CLASS_MB


class Catalog:
    """Every system as a row. A table in a notebook, plain dicts in `.rows`.

    Each row has `name`, `title`, `year`, `arxiv`, `family`, `question`, `views`, `groups`, `models`, `seconds`, `memory_mb`,
    `needs` (the two in words), `runs_in_class`, `thumbnail` (path of a picture, or "") and `status`: "ready", or why it cannot run.

    Args:
        search: words that must all occur in what the card says.
        family, group: exact names; "" for all.
        in_class: only systems that run in a class.
    """

    def __init__(self, search: str = "", *, family: str = "", group: str = "", in_class: bool = False) -> None:
        rows = [card(entry) for entry in systems.registry().values()]
        self.rows: list[dict[str, Any]] = [r for r in rows if _fits(r, search, family, group, in_class)]

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    def __repr__(self) -> str:
        return "\n".join(f"{r['name']:<16} {r['year']}  {r['title']}  [{r['needs']}; {r['status']}]" for r in self.rows)

    def _repr_html_(self) -> str:
        cells = "".join(_cell(row) for row in self.rows)
        return f"<div style='display:grid;grid-template-columns:repeat(auto-fill,minmax(250px,1fr));gap:12px'>{cells}</div>"


def _fits(row: dict[str, Any], search: str, family: str, group: str, in_class: bool) -> bool:
    said = " ".join([row["name"], row["title"], row["question"], row["family"], str(row["year"]), *row["groups"]]).lower()
    words = all(word in said for word in search.lower().split())
    return (
        words
        and family in ("", row["family"])
        and (not group or group in row["groups"])
        and (not in_class or row["runs_in_class"])
    )


def _cell(row: dict[str, Any]) -> str:
    """Return a card for a notebook: it carries its own colours only where the host's would not do."""
    picture = data_uri(row["thumbnail"])
    image = f"<img src='{picture}' alt='' style='width:100%;border-radius:4px;background:#fff'>" if picture else ""
    status = "" if row["status"] == READY else f"<div><i>{escape(row['status'])}</i></div>"
    return (
        f"<div style='border:1px solid #8a8f9866;border-radius:8px;padding:10px;text-align:left'>{image}"
        f"<div style='font-weight:600;margin-top:6px'>{escape(row['question'] or row['title'] or row['name'])}</div>"
        f"<div>{escape(row['title'])} · {row['year'] or ''}</div>"
        f"<div style='opacity:.75'>{escape(row['family'])} · {escape(row['needs'])}</div>{status}"
        f"<code>wb.open(&quot;{escape(row['name'])}&quot;)</code></div>"
    )


def data_uri(path: str) -> str:
    """Return a picture as an address that holds it; "" without one."""
    if not path:
        return ""
    return "data:image/webp;base64," + base64.b64encode(Path(path).read_bytes()).decode("ascii")


def card(entry: systems.Entry) -> dict[str, Any]:
    """Return a system's row; one that cannot be loaded says why."""
    if entry.error:
        blank: dict[str, Any] = dict.fromkeys(("title", "arxiv", "family", "question", "thumbnail", "needs"), "")
        lists: dict[str, Any] = {"views": [], "groups": [], "models": []}
        numbers = {"year": 0, "seconds": float("nan"), "memory_mb": float("nan"), "runs_in_class": False}
        return blank | lists | numbers | {"name": entry.key, "status": f"cannot be loaded: {entry.error}"}
    cls, found = entry.load(), needs(entry.key)
    reason = cannot_run(cls, found)
    return {
        "name": cls.key,
        "title": cls.title,
        "year": cls.year,
        "arxiv": cls.arxiv,
        "family": cls.family,
        "question": cls.asks,
        "views": list(cls.shows),
        "groups": _groups(cls),
        "models": _models(cls),
        "seconds": found.seconds,
        "memory_mb": found.memory_mb,
        "needs": str(found),
        "runs_in_class": found.in_class and not reason,
        "thumbnail": str(path) if (path := thumbnail(cls.key)).is_file() else "",
        "status": reason or READY,
    }


def thumbnail(key: str, theme: str = "light") -> Path:
    """Return where a system's picture lies, whether or not it has been made."""
    return FOLDER / f"{key}.{theme}.webp"


def needs(key: str) -> Needs:
    """Return what a small run of a system took when it was measured."""
    try:
        found = json.loads((FOLDER / f"{key}.json").read_text(encoding="utf-8"))
        return Needs(float(found["seconds"]), float(found["memory_mb"]), str(found["device"]))
    except (OSError, ValueError, KeyError, TypeError):
        return Needs()


def _groups(cls: type[systems.System]) -> list[str]:
    """Return the kinds of groups that a system's views draw."""
    from workbench import schema, views

    known = views.registry()
    kinds = {schema.kind_of(g) for name in cls.shows if name in known for g in known[name].groups}
    return sorted(kinds - {"meters"})


def _models(cls: type[systems.System]) -> list[str]:
    """Return the names of the models that a system uses unless told otherwise."""
    knobs = cls.knobs().values()
    named = [str(k.default) for k in knobs if isinstance(k.parameter, systems.ModelName) and isinstance(k.default, str)]
    return list(dict.fromkeys(n for n in named if n not in {"", "none"}))


def cannot_run(cls: type[systems.System], found: Needs) -> str:
    """Return why a system cannot run on this machine, with what to do; "" if it can."""
    lacking = _not_ready()
    for name in _models(cls):
        if name in lacking:
            return f"its recorded run is shown; to run it, {lacking[name]}"
    have = memory_mb()
    if found.memory_mb > have:
        return f"its recorded run is shown; a run needs {found.memory_mb:.0f} MB of memory, this machine has {have:.0f}"
    return ""


def _not_ready() -> dict[str, str]:
    """Return the models that could be had by name but are not here, each with what to do."""
    from workbench import models

    return {e.name: f"fetch its model first: {e.status}" for e in models.available() if not e.ready}


@cache
def memory_mb() -> float:
    """Return the memory that this process may use, in megabytes: the machine's, cut to a container's limit."""
    whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e6 if hasattr(os, "sysconf") else float("inf")
    try:
        return min(whole, int(Path("/sys/fs/cgroup/memory.max").read_text()) / 1e6)
    except (OSError, ValueError):  # no cgroup v2, or "max"
        return whole


__all__ = ["Catalog", "Needs", "card", "data_uri", "memory_mb", "needs", "thumbnail"]
