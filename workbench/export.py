"""What a record shows outside the live page: a summary that teaches, and one file that works offline.

The file holds plotly's script once, every view that the record supports, and every step's picture in both designs. Pictures
of neighbouring steps share most of their traces, so traces are stored once and steps refer to them.
"""

from __future__ import annotations

import contextlib
import json
import os
import uuid
from collections.abc import Callable, Iterator
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from workbench import schema, theme, views
from workbench.errors import InputError, StorageError, expected

if TYPE_CHECKING:
    from workbench.record import Record

#: Larger files do not open well from a mail; the message says what made the file large.
MAX_BYTES = 20_000_000
#: Steps drawn to estimate the size of all.
SAMPLED_STEPS = 4
_PARTS = Path(__file__).parent / "assets"
HEIGHTS: dict[str, int] = {"token_tree": 460, "rejection_ladder": 380}


def record_summary(record: Record) -> str:
    """Return HTML that says what ran, what the record holds, what was measured, and the next calls to try."""
    attrs = record.attrs
    versions = json.loads(attrs.get("versions", "{}") or "{}")
    made = f"seed {attrs.get('seed')} · {attrs.get('created')} · {attrs.get('device')}"
    made += "".join(f" · {k} {versions[k]}" for k in ("torch", "transformers") if k in versions)
    parts = [
        f"<div style='font-size:115%'><b>Record of {escape(str(attrs.get('system')))}</b></div>",
        f"<div style='opacity:.75'>{escape(made)}</div>",
        _knobs(record),
        meters_table(record),
        _groups(record),
        _next_calls(record),
    ]
    return f"<div style='font-family:{escape(theme.SANS)};line-height:1.45;max-width:60em'>{''.join(parts)}</div>"


def _knobs(record: Record) -> str:
    shown = ", ".join(f"{k}={_short(v)}" for k, v in record.knobs.items())
    return f"<div style='font-family:{escape(theme.MONO)};font-size:90%;margin:.3em 0'>{escape(shown)}</div>" if shown else ""


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 48 else text[:45] + "…" + text[-1]


def meters_table(record: Record) -> str:
    """Return the meters as an HTML table: value, unit, baseline, change with a word, provenance. "" without meters."""
    if "meters" not in record or "setting" in record["meters"].dims:
        return ""
    head = "".join(
        f"<th style='text-align:left;padding:2px 12px 2px 0'>{h}</th>" for h in ("", "value", "baseline", "change", "")
    )
    rows = "".join(_meter_row(m) for m in meter_rows(record))
    return (
        f"<table style='border-collapse:collapse;font-variant-numeric:tabular-nums;margin:.4em 0'><tr>{head}</tr>{rows}</table>"
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
    _refuse_large({v.name: _estimate(record, v) for v in shown}, len(script))
    return _write(Path(path), _page(record, shown, script))


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
        sizes.append(pool.size - before + len(dumps(frames)))
    if len(sizes) == 1:
        return sizes[0]
    return int(sizes[0] + np.mean(sizes[1:]) * (len(steps) - 1))


def _refuse_large(sizes: dict[str, int], script: int) -> None:
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


def _page(record: Record, shown: list[views.View], script: str) -> Iterator[str]:
    """Yield the page in parts."""
    pool = Pool()
    pictures: dict[str, dict[str, Any]] = {}
    for view in shown:
        steps = _frames_of(record, view)
        pictures[view.name] = {
            "steps": steps_of(record, view),
            "frames": {d: [_frame(pool, record, view, s, d) for s in steps] for d in theme.DESIGNS},
            "captions": [_quiet(view.describe, record, s) for s in steps],
        }
    every = sorted({s for p in pictures.values() for s in p["steps"]})
    head, foot = (_PARTS / "export.html").read_text(encoding="utf-8").split("<!-- PICTURES -->")
    title = f"{record.attrs.get('system')}, seed {record.attrs.get('seed')}"
    yield (
        head.replace("{{TITLE}}", escape(title))
        .replace("{{SUMMARY}}", record_summary(record))
        .replace("{{VARIABLES}}", _variables())
    )
    yield from (_section(view, record) for view in shown)
    before, after = foot.split("{{PLOTLY}}")
    yield before
    yield script
    things = "[" + ",".join(pool.index) + "]"
    yield after.replace("{{STEPS}}", dumps(every)).replace("{{PICTURES}}", dumps(pictures)).replace("{{POOL}}", things)


def _quiet(function: Callable[..., str], record: Record, step: int | None) -> str:
    return function(record) if step is None else function(record, step=step)


def _section(view: views.View, record: Record) -> str:
    height = view.spec(record, title=False)["layout"].get("height") or HEIGHTS.get(view.name) or 340
    return (
        f"<section><h2>{escape(view.question)}</h2><div class='picture' id='{view.name}' style='height:{height}px'></div>"
        f"<p class='caption' id='{view.name}-caption'></p>"
        f"<details><summary>How to read it</summary><p>{escape(view.reading)}</p></details></section>"
    )


def _variables() -> str:
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


def _write(path: Path, parts: Iterator[str]) -> Path:
    partial = path.with_name(
        f".{path.name}.{uuid.uuid4().hex}.partial"
    )  # not mkstemp: the page is to be shared, with a file's usual rights
    try:
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
