"""What a record shows outside the live page: a summary that teaches, and one file that works offline.

The file holds plotly's script once, every view that the record supports, and every step's picture in both designs. Pictures
of neighbouring steps share most of their traces, so traces are stored once and steps refer to them.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from html import escape
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from workbench import schema, theme, views
from workbench.errors import InputError, StorageError, WorkbenchError, expected

if TYPE_CHECKING:
    from workbench.record import Record

#: Larger files do not open well from a mail; the message says what made the file large.
MAX_BYTES = 20_000_000
#: Steps drawn to estimate the size of all.
SAMPLED_STEPS = 4
_PARTS = Path(__file__).parent / "assets"
HEIGHTS: dict[str, int] = {"token_tree": 460, "rejection_ladder": 380}


def record_summary(record: Record, heading: str = "div") -> str:
    """Return HTML that says what ran, what the record holds, what was measured, and the next calls to try.

    Args:
        heading: the element of the first line ("h1" where the summary opens a page of its own).
    """
    attrs = record.attrs
    versions = json.loads(attrs.get("versions", "{}") or "{}")
    made = f"seed {attrs.get('seed')} · {attrs.get('created')} · {attrs.get('device')}"
    made += "".join(f" · {k} {versions[k]}" for k in ("torch", "transformers") if k in versions)
    parts = [
        f"<{heading} style='font-size:115%;margin:0'><b>Record of {escape(str(attrs.get('system')))}</b></{heading}>",
        f"<div style='opacity:.75'>{escape(made)}</div>",
        _knobs(record),
        meters_table(record),
        _groups(record),
        _next_calls(record),
    ]
    return f"<div style='font-family:{escape(theme.SANS)};line-height:1.45;max-width:60em'>{''.join(parts)}</div>"


def _knobs(record: Record) -> str:
    shown = ", ".join(f"{k}={short(v)}" for k, v in record.knobs.items())
    return f"<div style='font-family:{escape(theme.MONO)};font-size:90%;margin:.3em 0'>{escape(shown)}</div>" if shown else ""


def short(value: Any) -> str:
    """Return a knob's value as Python spells it, cut to 48 characters."""
    text = repr(value)
    return text if len(text) <= 48 else text[:45] + "…" + text[-1]


def meters_table(record: Record) -> str:
    """Return the meters as an HTML table: value, unit, baseline, change with a word, provenance. "" without meters."""
    if "meters" not in record or "setting" in record["meters"].dims:
        return ""
    names = ("meter", "value", "baseline", "change", "provenance")
    head = "".join(f"<th scope='col' style='text-align:left;padding:2px 12px 2px 0'>{h}</th>" for h in names)
    rows = "".join(_meter_row(m) for m in meter_rows(record))
    return (
        "<div style='overflow-x:auto'><table style='border-collapse:collapse;font-variant-numeric:tabular-nums;margin:.4em 0'>"
        f"<tr>{head}</tr>{rows}</table></div>"
    )


def _meter_row(m: dict[str, Any]) -> str:
    cell = "<td style='text-align:left;padding:2px 12px 2px 0'>{}</td>"
    value = f"<b>{theme.number(m['value'])}</b> {escape(m['unit'])}"
    baseline = (
        f"{theme.number(m['baseline'])} <span style='opacity:.7'>({escape(m['baseline_name'])})</span>"
        if m["baseline"] == m["baseline"]
        else "–"
    )
    cells = (escape(m["meter"].replace("_", " ")), value, baseline, escape(change(m)[0]), theme.badge(m["provenance"]))
    return "<tr>" + "".join(cell.format(c) for c in cells) + "</tr>"


def meter_rows(record: Record) -> list[dict[str, Any]]:
    """Return every meter as a dict of plain values."""
    columns = {str(n): record.column("meters", str(n)) for n in record["meters"].variables}
    numbers = {n for n, c in columns.items() if c.dtype.kind in "if"}
    return [{n: float(v) if n in numbers else str(v) for n, v in zip(columns, row)} for row in zip(*columns.values())]


_WORDS = {"speed": ("faster", "slower"), "quality": ("better", "worse"), "cost": ("cheaper", "dearer")}


def change(m: dict[str, Any]) -> tuple[str, str]:
    """Return a meter's change against its baseline as (words, tone): ("▲ 1.83× faster", "good"); ("", "same") without a baseline.

    A quality whose bounds hold the baseline is called the same: the difference is noise.
    """
    value, baseline = float(m["value"]), float(m["baseline"])
    if not (np.isfinite(value) and np.isfinite(baseline)):
        return "", "same"
    if np.isclose(value, baseline, rtol=5e-3, atol=1e-12):
        return "= no change", "same"
    if m["kind"] == "quality" and float(m.get("low", np.nan)) <= baseline <= float(m.get("high", np.nan)):
        return "= same within noise", "same"
    up = value > baseline
    good = up == (m["better"] == "higher")
    relative = m["kind"] != "quality" and baseline > 0 and value > 0
    size = f"{theme.number(max(value / baseline, baseline / value))}×" if relative else theme.number(abs(value - baseline))
    return f"{'▲' if up else '▼'} {size} {_WORDS[m['kind']][0 if good else 1]}", "good" if good else "bad"


def _groups(record: Record) -> str:
    items = []
    runs = sorted({int(g.split("/")[1]) for g in record.groups if g.startswith("runs/")})
    if runs:
        items.append(
            f"<li><code>runs/0 … runs/{runs[-1]}</code>: every run of the sweep; <code>record.at(i)</code> is one of them</li>"
        )
    for group in (g for g in record.groups if not g.startswith("runs/")):
        doc, attrs = schema.GROUPS[schema.kind_of(group)].doc, record.tree[group].attrs
        if schema.kind_of(group) == "curve":
            doc = f"{attrs.get('y_label', 'values')} by {attrs.get('x_label', 'x')}, one or more named curves."
        sizes = " × ".join(f"{n} {d}" for d, n in record[group].sizes.items())
        items.append(f"<li><code>{escape(group)}</code> <span style='opacity:.75'>{escape(sizes)}</span>: {escape(doc)}</li>")
    return f"<div>It holds:</div><ul style='margin:.2em 0 .4em 1.2em;padding:0'>{''.join(items)}</ul>"


def _next_calls(record: Record) -> str:
    first = next(iter(record.views()), None)
    group = next((g for g in record.groups if g != "meters"), "meters")
    calls = [f'record["{group}"]  # an xarray.Dataset', 'record.html("run.html")  # all pictures in one offline file']
    if first:
        step = ", step=1" if views.get(first).steps else ""
        calls.insert(0, f'record.figure("{first}"{step})  # {views.get(first).question}')
    lines = "<br>".join(escape(c) for c in calls)
    return f"<div>Try next:</div><div style='font-family:{escape(theme.MONO)};font-size:90%;margin-left:1.2em'>{lines}</div>"


def write_html(record: Record, path: str | os.PathLike[str]) -> Path:
    """Write one self-contained page and return its path.

    Args:
        record: any record with at least one view.
        path: the file; written under a temporary name and renamed.
    Raises:
        InputError: the record has no view, or the file would be larger than `MAX_BYTES` (the sizes are in the message).
        StorageError: the folder does not exist or the disk is full; an older file of that name stays as it was.
    """
    shown = views.for_record(record)
    if not shown:
        raise InputError(expected("record", "groups that a view can draw", ", ".join(record.groups) or "none"))
    from plotly.offline import get_plotlyjs

    script = get_plotlyjs()
    refuse_large(record, shown, len(script))
    return write(Path(path), page(record, shown, f"<script>{script}</script>"))


def steps_of(record: Record, view: views.View) -> list[int]:
    """Return the steps that a view can be moved through."""
    if not view.steps:
        return []
    if view.steps == "steps" and "step" not in record.tree["steps"].data_vars:
        return list(range(len(record.column("steps", "emitted"))))
    found = np.unique(record.column(view.steps, "step"))
    return [int(s) for s in found if s >= 0]


def _frames_of(record: Record, view: views.View) -> list[int | None]:
    """Return the steps to draw; [None] for a view that has none."""
    return [*steps_of(record, view)] or [None]


class Pool:
    """JSON of things that recur, each stored once."""

    def __init__(self) -> None:
        self.index: dict[str, int] = {}

    def add(self, thing: Any) -> int:
        """Return the place of a thing's JSON."""
        return self.index.setdefault(dumps(thing), len(self.index))

    @property
    def size(self) -> int:
        """Bytes of everything stored."""
        return sum(len(k.encode()) + 1 for k in self.index)


def dumps(thing: Any) -> str:
    """Return compact JSON that is safe inside a script element; NaN becomes null."""
    text = json.dumps(thing, ensure_ascii=False, separators=(",", ":"), default=_plain, allow_nan=True)
    if "NaN" in text or "Infinity" in text:
        text = json.dumps(_finite(thing), ensure_ascii=False, separators=(",", ":"), default=_plain, allow_nan=False)
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def _plain(value: Any) -> Any:
    return _finite(value.tolist()) if isinstance(value, (np.ndarray, np.generic)) else str(value)


def _finite(thing: Any) -> Any:
    if isinstance(thing, dict):
        return {k: _finite(v) for k, v in thing.items()}
    if isinstance(thing, (list, tuple)):
        return [_finite(v) for v in thing]
    if isinstance(thing, (np.ndarray, np.generic)):
        return _finite(thing.tolist())
    return None if isinstance(thing, float) and not np.isfinite(thing) else thing


def _frame(pool: Pool, record: Record, view: views.View, step: int | None, design: str) -> list[Any]:
    """Return [trace places, {layout key: place}] of one picture."""
    where = {} if step is None else {"step": step}
    spec = view.spec(record, theme=design, title=False, **where)
    return [[pool.add(t) for t in spec["data"]], {k: pool.add(v) for k, v in spec["layout"].items()}]


def _estimate(record: Record, view: views.View) -> int:
    """Return about how many bytes a view takes, from a few of its steps: what they share plus what each adds."""
    steps = _frames_of(record, view)
    picks = [steps[i] for i in np.unique(np.linspace(0, len(steps) - 1, SAMPLED_STEPS).astype(int))]
    pool, sizes = Pool(), []
    for step in picks:
        before = pool.size
        frames = [_frame(pool, record, view, step, design) for design in theme.DESIGNS]
        words = [pool.add(_said(view, record, step)), _said(view, record, step, view.describe)]
        sizes.append(pool.size - before + len(dumps([frames, words])))
    if len(sizes) == 1:
        return sizes[0]
    return int(sizes[0] + np.mean(sizes[1:]) * (len(steps) - 1))


def refuse_large(record: Record, shown: list[views.View], script: int) -> None:
    """Refuse a page that would be larger than `MAX_BYTES`, plotly's own bytes included; the sizes are in the message."""
    sizes = {v.name: _estimate(record, v) for v in shown}
    total = sum(sizes.values()) + script
    if total <= MAX_BYTES:
        return
    parts = ", ".join(f"{n} {b / 1e6:.1f} MB" for n, b in sorted(sizes.items(), key=lambda i: -i[1])[:4])
    raise InputError(
        expected(
            "offline page",
            f"at most {MAX_BYTES / 1e6:.0f} MB",
            f"about {total / 1e6:.1f} MB",
            f"{parts}, plotly {script / 1e6:.1f} MB",
        )
        + " Make a shorter run (fewer tokens), or save the record itself with record.save()."
    )


def page(record: Record, shown: list[views.View], plotly: str, back: str = "") -> Iterator[str]:
    """Yield the page of a record in parts.

    Args:
        shown: the views to draw, from the first to the last.
        plotly: the element that brings plotly's script.
        back: HTML above everything (a site's link to its index).
    """
    pool = Pool()
    pictures: dict[str, dict[str, Any]] = {}
    for view in shown:
        steps = _frames_of(record, view)
        pictures[view.name] = {
            "steps": steps_of(record, view),
            "frames": {d: [_frame(pool, record, view, s, d) for s in steps] for d in theme.DESIGNS},
            "captions": [_said(view, record, s, view.describe) for s in steps],
            "words": [pool.add(_said(view, record, s)) for s in steps],
        }
    every = sorted({s for p in pictures.values() for s in p["steps"]})
    yield from fill(
        "export.html",
        {
            "VARIABLES": variables(),
            "BACK": back,
            "TITLE": escape(f"{record.attrs.get('system')}, seed {record.attrs.get('seed')}"),
            "SUMMARY": record_summary(record, "h1"),
            "SECTIONS": "".join(_section(view, record) for view in shown),
            "PLOTLY": plotly,
            "STEPS": dumps(every),
            "PICTURES": dumps(pictures),
            "POOL": "[" + ",".join(pool.index) + "]",
        },
    )


def fill(template: str, parts: Mapping[str, str]) -> Iterator[str]:
    """Yield a template of ours with its `{{NAME}}`s filled, in one pass: what a record says is never read as a name."""
    text = (_PARTS / template).read_text(encoding="utf-8")
    for index, piece in enumerate(re.split(r"\{\{([A-Z]+)\}\}", text)):
        yield parts[piece] if index % 2 else piece


def _said(view: views.View, record: Record, step: int | None, function: Callable[..., str] | None = None) -> str:
    """Return what a view shows at a step, in words (or what another of its functions says)."""
    say = function or view.text
    return say(record) if step is None else say(record, step=step)


def _section(view: views.View, record: Record) -> str:
    name, question = view.name, escape(view.question)
    height = view.spec(record, title=False)["layout"].get("height") or HEIGHTS.get(name) or 340
    save = "".join(
        f"<button class='save' data-view='{name}' data-format='{f}' aria-label='save as {f.upper()}: {question}'>{f.upper()}</button>"
        for f in ("png", "svg")
    )
    return (
        f"<section aria-labelledby='{name}-title'><div class='head'><h2 id='{name}-title'>{question}</h2><div>{save}</div></div>"
        f"<div class='frame' role='group' aria-label='{question}'>"
        f"<div class='picture' id='{name}' role='img' aria-labelledby='{name}-title' aria-describedby='{name}-caption' "
        f"style='height:{height}px'></div></div><p class='caption' id='{name}-caption'></p>"
        f"<details><summary>In words, and how to read it</summary><p>{escape(view.reading)}</p>"
        f"<pre id='{name}-words' tabindex='0' aria-label='in words: {question}'></pre></details></section>"
    )


def variables() -> str:
    """Return both designs as CSS variables."""
    rules = []
    for d in theme.DESIGNS.values():
        names = {
            "background": d.background,
            "raised": d.raised,
            "text": d.text,
            "muted": d.muted,
            "grid": d.grid,
            "accent": d.ink("target"),
        }
        rules.append(f"[data-theme={d.name}]{{" + "".join(f"--{k}:{v};" for k, v in names.items()) + f"color-scheme:{d.name}}}")
    return "".join(rules)


IMAGES = ("png", "svg", "pdf", "jpg", "jpeg", "webp")


def write_image(figure: Any, path: Path, *, width: int, height: int, scale: float) -> Path:
    """Write a plotly figure as a picture file; see `Record.image`."""
    kind = path.suffix.lower().lstrip(".")
    if kind not in IMAGES:
        raise InputError(expected("path", "a name that ends in " + ", ".join(f".{k}" for k in IMAGES), repr(path.name)))
    if find_spec("kaleido") is None:
        raise InputError(
            "A picture file is drawn by kaleido, which is not installed. Install it (the extra `images`), or press PNG or SVG on the "
            "live page or in the file that record.html() writes."
        )
    try:
        data = figure.to_image(format=kind, width=width, height=height, scale=scale)
    except Exception as error:  # kaleido and its browser have no common error
        raise WorkbenchError(
            f"Drawing {path.name!r} failed ({type(error).__name__}). kaleido needs a Chromium or Chrome: `workbench doctor` looks for one."
        ) from error
    return write(path, data)


def write(path: Path, parts: Iterable[str] | bytes) -> Path:
    """Write a file under a temporary name, rename it, and return its path."""
    partial = path.with_name(
        f".{path.name}.{uuid.uuid4().hex}.partial"
    )  # not mkstemp: the page is to be shared, with a file's usual rights
    try:
        if isinstance(parts, bytes):
            partial.write_bytes(parts)
        else:
            with open(partial, "x", encoding="utf-8") as stream:
                stream.writelines(parts)
        os.replace(partial, path)
    except OSError as error:
        raise StorageError(
            f"Writing {str(path)!r} failed: {error.strerror or error}. Choose another folder or free some space."
        ) from error
    finally:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
    return path
