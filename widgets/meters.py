"""The meters of a run as a reader sees them: a big number, its unit, its baseline, the change in a word, where it is from."""

from __future__ import annotations

import math
from html import escape
from typing import Any

from widgets.parts import asset
from workbench.export import change
from workbench.record import Record
from workbench.theme import number


def rows(record: Record) -> list[dict[str, Any]]:
    """Return the meters as dicts, the first speed and the first quality in front."""
    if "meters" not in record:
        return []
    names = record.variables("meters")
    table = [dict(zip(names, values)) for values in zip(*(record.column("meters", n).tolist() for n in names))]
    front = [next((r for r in table if r["kind"] == kind), None) for kind in ("speed", "quality")]
    first = [r for r in front if r is not None]
    return first + [r for r in table if r not in first]


def html(record: Record | None) -> str:
    """Return the meters of a record as HTML; empty without one."""
    table = rows(record) if record is not None else []
    if not table:
        return ""
    cards = "".join(_card(row) for row in table[:2])
    rest = "".join(_line(row) for row in table[2:])
    return f"<div class='meters'>{cards}{f'<table class=rest>{rest}</table>' if rest else ''}</div>"


def _name(row: dict[str, Any]) -> str:
    return escape(str(row["meter"]).replace("_", " "))


def badge(provenance: str) -> str:
    """Return how a number was come by, as its mark."""
    word = escape(provenance)
    return f"<span class='provenance {word}'>{word}</span>"


def _unit(row: dict[str, Any]) -> str:
    unit = str(row["unit"])
    return f" <small>{escape(unit)}</small>" if unit not in {"", "1"} else ""


def _card(row: dict[str, Any]) -> str:
    text, tone = change(row)
    base = float(row["baseline"])
    beside = "" if math.isnan(base) else f"{escape(str(row['baseline_name']))} {number(base)}{_unit(row)}"
    spread = _spread(row)
    return (
        f"<div class='meter' data-meter='{escape(str(row['meter']))}'><div class='kind'><span>{_name(row)}</span>{badge(str(row['provenance']))}</div>"
        f"<div class='value'>{number(float(row['value']))}{_unit(row)}</div>{spread}"
        f"<div class='change {tone}'>{text}</div><div class='baseline'>{beside}</div></div>"
    )


def _spread(row: dict[str, Any]) -> str:
    """Return the bounds of the value itself, under it: beside the baseline they would be taken for the baseline's."""
    low, high = float(row.get("low", math.nan)), float(row.get("high", math.nan))
    return "" if math.isnan(low) or math.isnan(high) else f"<div class='spread'>between {number(low)} and {number(high)}</div>"


def _line(row: dict[str, Any]) -> str:
    text, tone = change(row)
    return (
        f"<tr><td>{_name(row)}<br>{badge(str(row['provenance']))}</td><td class='num'><b>{number(float(row['value']))}</b>{_unit(row)}"
        f"<br><small class='change {tone}'>{text}</small></td></tr>"
    )


def growing(text: str) -> str:
    """Return the text that a run has written so far as HTML."""
    return f"<div class='growing' aria-live='off'>{escape(text[-4000:])}</div>" if text else ""


STYLE = asset("parts.css")
