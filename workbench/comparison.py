"""Records side by side: the knobs that differ, the meters with their changes, the pictures on one scale."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

from workbench import hosts, views
from workbench import theme as house
from workbench.errors import InputError, expected, unknown
from workbench.export import change, meter_rows
from workbench.record import Record
from workbench.views.common import Spec, table

if TYPE_CHECKING:
    import plotly.graph_objects as go

_AXIS = re.compile(r"^([xy])axis(\d*)$")
_REFERENCE = re.compile(r"^([xy])(\d*)( domain)?$")
#: Share of the width between two pictures, and of the height of one picture between two in a stack.
GAP, STACK_GAP = 0.09, 0.42
#: Runs of a sweep that one picture holds; the others are asked for by number (`setting=`).
MOST = 4


class Comparison:
    """Two or more records side by side.

    `.knobs` and `.meters` are lists of rows, `.views` the pictures that all records support, `.figure(view)` draws them in
    one figure on shared scales. The first record is what the others are compared with.
    """

    def __init__(self, records: Sequence[Record], names: Sequence[str] | None = None) -> None:
        self.records, self._names = list(records), list(names) if names is not None else None
        if len(self.records) < 2:
            raise InputError(
                expected("compare", "at least two records", len(self.records), "", "Run the system again with another knob")
            )
        wrong = [r for r in self.records if not isinstance(r, Record)]
        if wrong:
            raise InputError(expected("compare", "records", type(wrong[0]).__name__, "", "Load a file with workbench.load(path)"))
        if any(r.settings() for r in self.records):
            raise InputError(expected("compare", "records of single runs", "a sweep", "", "Take its runs with record.at(i)"))

    @property
    def labels(self) -> list[str]:
        """A short name of each record: the one it was given, the first knobs that differ, else its number and system."""
        if self._names is not None:
            return [f"{i + 1}: {n}" if self._names.count(n) > 1 else n for i, n in enumerate(self._names)]
        rows = self.knobs[:2]
        names = [", ".join(f"{r['knob']} {_short(r['values'][i])}" for r in rows) for i in range(len(self.records))]
        if not rows or len(set(names)) < len(names):
            return [f"{i + 1}: {n or r.attrs.get('system')}" for i, (n, r) in enumerate(zip(names, self.records))]
        return names

    @property
    def knobs(self) -> list[dict[str, Any]]:
        """The knobs that differ: rows of `knob` and `values` (one a record; None = the record has no such knob)."""
        every = [{"system": r.attrs.get("system"), "seed": r.attrs.get("seed")} | r.knobs for r in self.records]
        names = dict.fromkeys(n for k in every for n in k)
        rows = [{"knob": n, "values": [k.get(n) for k in every]} for n in names]
        return [r for r in rows if any(v != r["values"][0] for v in r["values"])]

    @property
    def meters(self) -> list[dict[str, Any]]:
        """The meters: rows of `meter`, `unit`, `values` (NaN = not measured), `provenances` and `changes` against the first record.

        A meter that two records measure in different units has a row for each unit: such numbers are not compared.
        """
        tables = [{(m["meter"], m["unit"]): m for m in meter_rows(r)} if "meters" in r else {} for r in self.records]
        out = []
        for key in sorted(every := dict.fromkeys(k for t in tables for k in t), key=_first_of([n for n, _ in every])):
            known = next(t[key] for t in tables if key in t)
            values = [t[key]["value"] if key in t else float("nan") for t in tables]
            changes = ["", *(change(known | {"value": v, "baseline": values[0]})[0] for v in values[1:])]
            how = [str(t[key]["provenance"]) if key in t else "" for t in tables]
            out.append({"meter": key[0], "unit": key[1], "values": values, "provenances": how, "changes": changes})
        return out

    @property
    def views(self) -> list[str]:
        """Names of the views that can draw every record."""
        first, *rest = (r.views() for r in self.records)
        return [name for name in first if all(name in other for other in rest)]

    def figure(self, view: str, *, theme: str = "light", **options: Any) -> go.Figure:
        """Return the records' pictures side by side in one figure, on shared scales.

        Args:
            view: a name from `.views`.
            theme: "light" or "dark".
            options: the view's own (`step=3`). A list gives each record its own value.
        Raises:
            UnknownNameError: not a view that every record supports.
        """
        import plotly.graph_objects as go

        spec = self.spec(view, theme=theme, **options)
        hosts.keep_pictures()
        return go.Figure(spec["data"], spec["layout"], _validate=False)

    def spec(self, view: str, *, theme: str = "light", title: bool = True, **options: Any) -> Spec:
        """Return the same as a plain dict, what a page sends on a slider's path; without `title` the question is the page's."""
        if view not in self.views:
            raise unknown("view of every record", view, self.views)
        specs = [
            views.get(view).spec(
                r, theme=theme, title=False, **{k: v[i] if isinstance(v, list) else v for k, v in options.items()}
            )
            for i, r in enumerate(self.records)
        ]
        return beside(specs, self.labels, theme, views.get(view).question if title else "", stacked=views.get(view).wide)

    def text(self, view: str, **options: Any) -> str:
        """Return the view's words for each record under its label; options as in `figure`."""
        found = views.get(view)
        parts = []
        for i, (label, record) in enumerate(zip(self.labels, self.records)):
            own = {k: v[i] if isinstance(v, list) else v for k, v in options.items()}
            parts.append(f"{label}:\n{found.text(record, **own)}")
        return "\n\n".join(parts)

    def __repr__(self) -> str:
        width = len(self.records)
        parts = [f"<Comparison of {width} records>"]
        if self.knobs:
            parts.append(table(["knob", *self._heads()], [[r["knob"], *map(_short, r["values"])] for r in self.knobs]))
        if self.meters:
            parts.append(table(["meter", *self._heads()], [[r["meter"], *_cells(r)] for r in self.meters]))
        return "\n\n".join(parts)

    def _heads(self) -> list[str]:
        return [str(i + 1) for i in range(len(self.records))]

    def _repr_html_(self) -> str:
        heads = ["", *(escape(label) for label in self.labels)]
        knobs = [[escape(r["knob"]), *(escape(_short(v)) for v in r["values"])] for r in self.knobs]
        meters = [[escape(f"{r['meter'].replace('_', ' ')} ({r['unit']})"), *map(escape, _cells(r))] for r in self.meters]
        same = "<div>All knobs are the same.</div>" if not knobs else ""
        return (
            f"<div style='font-family:{escape(house.SANS)};line-height:1.45'><div><b>{len(self.records)} records side by side</b></div>"
            f"{same}{_html_table(['knob', *heads[1:]], knobs) if knobs else ''}{_html_table(['meter', *heads[1:]], meters)}"
            f"<div style='opacity:.75'>Views: {', '.join(self.views)}. Draw one with <code>.figure(name)</code>.</div></div>"
        )


class _Settings(Comparison):
    """Runs of one sweep: one of them may stand alone, and their labels are the knobs that were varied."""

    def __init__(self, records: Sequence[Record], labels: Sequence[str]) -> None:
        self.records, self._names = list(records), list(labels)


def of_settings(record: Record, view: str) -> Comparison:
    """Return the first `MOST` runs of a sweep that a view can draw, side by side.

    Raises:
        RecordError: the view can draw none of them.
    """
    from workbench.views.speed_quality import setting_labels

    names, kept = setting_labels(record), []
    for index in record.settings():
        one = record.at(index)
        if views.get(view).draws(one):
            kept.append((one, names[index]))
        if len(kept) == MOST:
            break
    if not kept:
        views.get(view).require(record.at(record.settings()[0]))
    return _Settings([one for one, _ in kept], [name for _, name in kept])


def _first_of(names: Sequence[str]) -> Callable[[tuple[str, str]], int]:
    """Return a sorting key that brings rows of one meter together, where the first of them stands."""
    return lambda key: names.index(key[0])


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 28 else text[:27] + "…"


def _cells(row: dict[str, Any]) -> list[str]:
    """Return each record's cell: the number, how it was come by, and the change against the first."""
    cells = zip(row["values"], row["provenances"], row["changes"], strict=True)
    return [house.number(v) + (f", {p}" if v == v else "") + (f" ({c})" if c else "") for v, p, c in cells]


def _html_table(head: list[str], rows: list[list[str]]) -> str:
    cell = "<{0} style='text-align:left;padding:2px 14px 2px 0'>{1}</{0}>"
    lines = ["".join(cell.format("th", h) for h in head), *("".join(cell.format("td", c) for c in r) for r in rows)]
    body = "".join(f"<tr>{line}</tr>" for line in lines)
    return f"<table style='border-collapse:collapse;font-variant-numeric:tabular-nums;margin:.4em 0'>{body}</table>"


def beside(specs: list[Spec], labels: list[str], theme: str, title: str = "", stacked: bool = False) -> Spec:
    """Return one plain figure with the given ones side by side (or one under the other), same axes on the same range.

    Every axis of figure i is renumbered by a fixed offset and squeezed into cell i; ranges become the union over figures.
    """
    per = max(len(_axes(s, "x")) for s in specs), max(len(_axes(s, "y")) for s in specs)
    layout = {k: v for k, v in specs[0]["layout"].items() if not _AXIS.match(k)} | {"shapes": [], "annotations": []}
    data = []
    for i, (spec, label) in enumerate(zip(specs, labels)):
        cell = _Cell(i, per, specs, stacked)
        data += [cell.trace(t) for t in spec["data"]]
        layout |= cell.axes(spec["layout"])
        layout["shapes"] += [cell.mark(s, ("x0", "x1"), ("y0", "y1")) for s in spec["layout"].get("shapes", ())]
        layout["annotations"] += [cell.mark(a, ("x",), ("y",)) for a in spec["layout"].get("annotations", ())]
        layout["annotations"].append(cell.heading(label, theme, _headroom(spec)))
    margin = layout["margin"] | {"t": layout["margin"]["t"] + (58 if title else 28)}
    heights = [s["layout"].get("height", 360) for s in specs]
    whole = {"height": sum(heights) + 30 * len(specs)} if stacked else {"height": max(heights) + 60}
    heading = {"title": {"text": escape(title, quote=False), "y": 0.995, "yanchor": "top"}} if title else {}
    head = heading | {"margin": margin}
    return {"data": data, "layout": layout | head | whole}


def _headroom(spec: Spec) -> int:
    """Return the pixels above a picture that its own remarks and legend take."""
    return int(spec["layout"]["margin"]["t"]) - 8


def _axes(spec: Spec, letter: str) -> list[str]:
    return [k for k in spec["layout"] if (m := _AXIS.match(k)) and m[1] == letter] or [f"{letter}axis"]


class _Cell:
    """Where one figure goes: new axis numbers, and its part of the width or height."""

    def __init__(self, index: int, per: tuple[int, int], specs: list[Spec], stacked: bool) -> None:
        self.index, self.specs = index, specs
        self.offset = {"x": index * per[0], "y": index * per[1]}
        count, gap = len(specs), STACK_GAP / len(specs) if stacked else GAP
        share = (1 + gap) / count - gap
        place = (count - 1 - index if stacked else index) * (share + gap)
        self.part = {"x": (0.0, 1.0), "y": (0.0, 1.0)} | {"y" if stacked else "x": (place, share)}

    def number(self, letter: str, number: str) -> str:
        n = int(number or 1) + self.offset[letter]
        return f"{letter}{n if n > 1 else ''}"

    def reference(self, ref: str) -> str:
        m = _REFERENCE.match(ref)
        return ref if m is None else self.number(m[1], m[2]) + (m[3] or "")

    def within(self, letter: str, value: float) -> float:
        """Return where a place of the figure's own paper lies on the whole paper."""
        start, share = self.part[letter]
        return start + value * share

    def trace(self, trace: Spec) -> Spec:
        axes = {f"{letter}axis": self.reference(trace.get(f"{letter}axis", letter)) for letter in "xy"}
        if trace["type"] == "image":  # has no place in a legend
            return trace | axes
        hidden = {"showlegend": False} if self.index else {}
        return trace | axes | hidden | {"legendgroup": str(trace.get("legendgroup", trace.get("name", "")))}

    def axes(self, layout: Spec) -> Spec:
        out: Spec = {}
        for letter, other in ("xy", "yx"):
            for key in _axes({"layout": layout}, letter):
                axis, number = dict(layout.get(key, {})), key[5:]
                axis["domain"] = [self.within(letter, v) for v in axis.get("domain", (0.0, 1.0))]
                axis["anchor"] = self.reference(axis.get("anchor", other + number))
                axis |= {k: self.reference(axis[k]) for k in ("matches", "scaleanchor") if k in axis}
                span = self._range(key)
                if not span and self.index and key in self.specs[0]["layout"] and not {"matches", "scaleanchor"} & axis.keys():
                    axis["matches"] = f"{letter}{number}"  # plotly finds the range: the same as in the first cell
                out[self.number(letter, number).replace(letter, f"{letter}axis", 1)] = axis | span
        return out

    def _range(self, key: str) -> Spec:
        """Return the union of an axis' ranges over all figures, in the direction of the first."""
        ranges = [r for s in self.specs if (r := s["layout"].get(key, {}).get("range"))]
        if not ranges:
            return {}
        low, high = min(min(r) for r in ranges), max(max(r) for r in ranges)
        return {"range": [high, low] if ranges[0][0] > ranges[0][1] else [low, high]}

    def mark(self, mark: Spec, xs: tuple[str, ...], ys: tuple[str, ...]) -> Spec:
        """Return a shape or annotation with its new references; what was placed on the paper moves into the cell."""
        out: Spec = {}
        for letter, keys in (("x", xs), ("y", ys)):
            reference = mark.get(f"{letter}ref", letter)
            out[f"{letter}ref"] = self.reference(reference)
            if reference == "paper":
                out |= {k: self.within(letter, mark[k]) for k in keys if k in mark}
        return mark | out

    def heading(self, label: str, theme: str, headroom: int) -> Spec:
        return {
            "text": f"<b>{escape(label)}</b>", "xref": "paper", "yref": "paper", "x": self.within("x", 0), "y": self.within("y", 1),
            "xanchor": "left", "yanchor": "bottom", "yshift": headroom, "showarrow": False,
            "font": {"size": 14, "color": house.design(theme).text},
        }  # fmt: skip
