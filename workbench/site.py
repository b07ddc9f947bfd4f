"""A folder of records as a static site: an index with a card for each run and a page for each. No server, no network.

plotly's script stands in the folder once, so a site of many runs stays small. The site is made under a temporary name and
renamed when it is whole.
"""

from __future__ import annotations

import os
import re
import shutil
import uuid
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from workbench import export, theme, views
from workbench import system as systems
from workbench.errors import InputError, StorageError, WorkbenchError, expected
from workbench.record import Record

PLOTLY, INDEX = "plotly.min.js", "index.html"
_SCRIPT = f'<script src="{PLOTLY}"></script>'
#: A folder that holds this line in its index was made here, and may be made again.
MARK = '<meta name="generator" content="workbench export">'
#: Bytes of the small picture of a card, in both designs; a larger one is left to the run's own page.
MAX_THUMBNAIL = 600_000
_SMALL: dict[str, Any] = {"height": 200, "showlegend": False, "margin": {"l": 44, "r": 8, "t": 8, "b": 34}}


@dataclass(frozen=True)
class Site:
    """What was written: the index, the pages by the record's file, and a sentence for each file that has none."""

    index: Path
    pages: dict[str, str]
    left_out: dict[str, str]


def write_site(folder: str | os.PathLike[str], out: str | os.PathLike[str]) -> Site:
    """Write a static site of every record in a folder, and return what was written.

    Args:
        folder: where `*.zarr.zip` files lie (not those in folders below it).
        out: the folder to make. One that holds an earlier site of ours is replaced; any other that is not empty is refused.
    Raises:
        InputError: no record there that can be shown, or `out` holds something else.
        StorageError: a folder cannot be read or written; an earlier site stays as it was.
    """
    source, target = Path(folder), Path(out)
    files = _files(source)
    _refuse_foreign(target)
    partial = target.with_name(f".{target.name}.{uuid.uuid4().hex}.partial")
    try:
        partial.mkdir()
        site = _fill(partial, source, files, target)
        _replace(partial, target)
    except OSError as error:
        raise StorageError(
            f"Writing the site {str(target)!r} failed: {error.strerror or error}. Choose another folder or free some space."
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return site


def _files(source: Path) -> list[Path]:
    try:
        files = sorted(f for f in source.iterdir() if f.name.endswith(".zarr.zip") and not f.name.startswith("."))
    except OSError as error:
        raise StorageError(f"Reading the folder {str(source)!r} failed: {error.strerror or error}. Check the path.") from error
    if not files:
        then = "Save some there with record.save() or `workbench run --out`"
        raise InputError(expected(f"folder {str(source)!r}", "records (*.zarr.zip)", "none", then=then))
    return files


def _refuse_foreign(target: Path) -> None:
    """Refuse to replace what is not an earlier site."""
    if not target.exists():
        return
    ours = target.is_dir() and (not any(target.iterdir()) or MARK in _head(target / INDEX))
    if not ours:
        raise InputError(
            expected("site", "a new folder, or one with an earlier site", f"{str(target)!r}, which holds other files")
        )


def _head(index: Path) -> str:
    try:
        return index.read_text(encoding="utf-8", errors="replace")[:2000]
    except OSError:
        return ""


def _replace(partial: Path, target: Path) -> None:
    old = target.with_name(f".{target.name}.{uuid.uuid4().hex}.old")
    if target.exists():
        os.replace(target, old)
    os.replace(partial, target)
    shutil.rmtree(old, ignore_errors=True)


def _fill(place: Path, source: Path, files: list[Path], target: Path) -> Site:
    """Write plotly, the pages and the index into a folder."""
    from plotly.offline import get_plotlyjs

    script = get_plotlyjs()
    (place / PLOTLY).write_text(script, encoding="utf-8")
    cards: list[str] = []
    pictures: dict[str, Any] = {}
    pages: dict[str, str] = {}
    left_out: dict[str, str] = {}
    for file in files:
        try:
            record = Record.load(file)
            shown = _views(record, len(script))
        except WorkbenchError as error:
            left_out[file.name] = str(error)
            continue
        name = _page_name(file, set(pages.values()))
        export.write(place / name, export.page(record, shown, _SCRIPT, f'<p><a href="{INDEX}">all runs</a></p>'))
        pages[file.name] = name
        cards.append(_card(record, file, name))
        pictures |= _thumbnail(record, f"picture-{len(cards)}")
    if not pages:
        reasons = "; ".join(f"{n}: {e}" for n, e in list(left_out.items())[:3])
        raise InputError(expected(f"folder {str(source)!r}", "a record that can be shown", reasons))
    parts = {
        "MARK": MARK, "VARIABLES": export.variables(), "TITLE": escape(source.resolve().name), "COUNT": _count(len(cards)),
        "CARDS": "".join(cards), "LEFT": _left(left_out), "PLOTLY": _SCRIPT, "PICTURES": export.dumps(pictures),
    }  # fmt: skip
    export.write(place / INDEX, export.fill("site.html", parts))
    return Site(target / INDEX, pages, left_out)


def _count(number: int) -> str:
    return f"{number} run{'s' if number != 1 else ''}"


def _page_name(file: Path, taken: set[str]) -> str:
    """Return a name for a record's page that any web server takes and no other page has."""
    stem = re.sub(r"[^a-z0-9]+", "-", file.name.removesuffix(".zarr.zip").lower()).strip("-") or "run"
    names = [f"{stem}.html", *(f"{stem}-{i}.html" for i in range(2, len(taken) + 3))]
    return next(n for n in names if n not in taken and n != INDEX)


def _views(record: Record, script: int) -> list[views.View]:
    """Return what a record's page shows; one without pictures, or whose page would be too large, is refused."""
    shown = views.for_record(record)
    if not shown:
        raise InputError(expected("record", "groups that a view can draw", ", ".join(record.groups) or "none"))
    export.refuse_large(record, shown, script)
    return shown


def _system(record: Record) -> type[systems.System] | None:
    try:
        return systems.get(str(record.attrs.get("system")))
    except WorkbenchError:
        return None  # a record outlives the system that made it


def _hero(record: Record) -> views.View:
    cls, drawn = _system(record), views.for_record(record)
    ranked = [v for name in (cls.shows if cls else ()) for v in drawn if v.name == name]
    return (ranked or drawn)[0]


def _thumbnail(record: Record, key: str) -> dict[str, Any]:
    """Return the small picture of a card in both designs, at a step in the middle; none where it would be large."""
    view = _hero(record)
    steps = export.steps_of(record, view)
    where = {"step": steps[len(steps) // 2]} if steps else {}
    specs = {}
    for design in theme.DESIGNS:
        spec = view.spec(record, theme=design, title=False, **where)
        layout = {k: v for k, v in spec["layout"].items() if k not in {"width", "updatemenus", "sliders"}}
        specs[design] = {"data": spec["data"], "layout": layout | _SMALL}
    return {key: specs} if len(export.dumps(specs)) <= MAX_THUMBNAIL else {}


def _card(record: Record, file: Path, page: str) -> str:
    """Return a run as a card: what it asks, its small picture, its first figures, the knobs that are not the paper's."""
    cls, attrs = _system(record), record.attrs
    title = cls.title if cls else str(attrs.get("system"))
    meters = export.meter_rows(record)[:3] if "meters" in record and not record.settings() else []
    rows = "".join(
        f"<li>{escape(m['meter'].replace('_', ' '))}: <b>{theme.number(m['value'])}</b> {escape(m['unit'])} "
        f"<span>{escape(export.change(m)[0])}</span> {theme.badge(m['provenance'])}</li>"
        for m in meters
    )
    about = f"{attrs.get('system')} · seed {attrs.get('seed')} · {attrs.get('created')} · {file.name}"
    return (
        f"<article><h2><a href='{page}'>{escape(_hero(record).question)}</a></h2><p>{escape(title)}</p>"
        f"<div class='small' role='img' aria-label='small picture of this run'></div>"
        f"<p class='knobs'>{escape(_changed(record, cls))}</p><ul>{rows}</ul><p class='about'>{escape(about)}</p></article>"
    )


def _changed(record: Record, cls: type[systems.System] | None) -> str:
    """Return the knobs that differ from their defaults; all of them where the system is not installed."""
    defaults = {n: systems.plain(k.default) for n, k in cls.knobs().items()} if cls else {}
    changed = {n: v for n, v in record.knobs.items() if n not in defaults or v != defaults[n]}
    return ", ".join(f"{n}={export.short(v)}" for n, v in changed.items()) or "every knob at its default"


def _left(left_out: dict[str, str]) -> str:
    if not left_out:
        return ""
    rows = "".join(f"<li><code>{escape(n)}</code>: {escape(e)}</li>" for n, e in left_out.items())
    return f"<section><h2>Not shown</h2><ul>{rows}</ul></section>"
