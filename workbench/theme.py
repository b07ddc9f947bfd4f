"""One meaning, one colour, everywhere: the palette, both designs, type, and how a token is written.

Colours are Okabe and Ito's, which readers with a colour-vision deficiency tell apart; every meaning carries a second mark
(border, cross, dash, hatch), so that no picture depends on colour. Nothing here imports plotly: templates are plain dicts.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from html import escape
from typing import Any

from workbench.errors import unknown

SANS = 'system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif'
MONO = 'ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", "Liberation Mono", monospace'
#: Least contrast to the background: text, and marks (WCAG 2.2, 1.4.3 and 1.4.11).
TEXT_CONTRAST, MARK_CONTRAST = 4.5, 3.0
#: Opacity of what was estimated or predicted rather than measured.
ESTIMATED_OPACITY = 0.45


@dataclass(frozen=True)
class Meaning:
    """A colour, and the second mark that says the same without colour."""

    name: str
    colour: str
    mark: str


#: What the colours mean. A view names the meaning, never the colour.
MEANINGS: dict[str, Meaning] = {
    m.name: m
    for m in (
        Meaning("accepted", "#009E73", "solid border"),
        Meaning("rejected", "#D55E00", "cross"),
        Meaning("chosen", "#E69F00", "double border"),
        Meaning("proposed", "#56B4E9", "dashed border"),
        Meaning("target", "#0072B2", "none"),
        Meaning("selected", "#CC79A7", "ring"),
        Meaning("context", "#8A8F98", "dotted border"),
    )
}


@dataclass(frozen=True)
class Design:
    """One of the two designs: surfaces and inks as hex colours."""

    name: str
    background: str
    raised: str
    text: str
    muted: str
    grid: str

    def fill(self, meaning: str, opacity: float = 1.0) -> str:
        """Return a meaning's own colour, as rgba where it is see-through."""
        colour = MEANINGS[meaning].colour
        return colour if opacity >= 1 else _rgba(colour, opacity)

    def line(self, meaning: str) -> str:
        """Return the meaning's colour, shifted until a mark in it stands out from the background."""
        return readable(MEANINGS[meaning].colour, self.background, MARK_CONTRAST)

    def ink(self, meaning: str) -> str:
        """Return the meaning's colour, shifted until text in it is readable on both surfaces."""
        first = readable(MEANINGS[meaning].colour, self.background, TEXT_CONTRAST)
        return readable(first, self.raised, TEXT_CONTRAST)


DESIGNS: dict[str, Design] = {
    d.name: d
    for d in (
        Design("light", "#ffffff", "#f5f6f8", "#1b1f24", "#5a626d", "#e6e8ec"),
        Design("dark", "#12151a", "#1b2027", "#e8eaed", "#a0a8b3", "#2a3039"),
    )
}


def design(theme: str) -> Design:
    """Return the design of a theme ("light" or "dark"); another name is an error."""
    if theme not in DESIGNS:
        raise unknown("theme", theme, DESIGNS)
    return DESIGNS[theme]


def channels(colour: str) -> tuple[int, int, int]:
    """Return red, green and blue (0..255) of a "#rrggbb" colour."""
    return int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16)


def _rgba(colour: str, opacity: float) -> str:
    red, green, blue = channels(colour)
    return f"rgba({red},{green},{blue},{opacity:g})"


def luminance(colour: str) -> float:
    """Return the relative luminance (0..1) of a "#rrggbb" colour (WCAG 2.2)."""
    linear = [c / 255 / 12.92 if c / 255 <= 0.04045 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in channels(colour)]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    """Return the contrast ratio (1..21) of two "#rrggbb" colours (WCAG 2.2)."""
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def mix(one: str, other: str, share: float) -> str:
    """Return the colour with `share` (0..1) of `other` in it."""
    return "#" + "".join(f"{round(a + (b - a) * share):02x}" for a, b in zip(channels(one), channels(other)))


@cache
def readable(colour: str, background: str, ratio: float) -> str:
    """Return the colour nearest to `colour` that has the contrast `ratio` to `background`."""
    goal = "#000000" if luminance(background) > 0.18 else "#ffffff"
    shades = (mix(colour, goal, share / 50) for share in range(51))
    return next((shade for shade in shades if contrast(shade, background) >= ratio), goal)


@cache
def template(theme: str) -> dict[str, Any]:
    """Return a plotly template: type, surfaces, a light grid. A plain dict, shared: do not change it."""
    d = design(theme)
    axis = {
        "gridcolor": d.grid,
        "linecolor": d.muted,
        "tickcolor": d.muted,
        "zeroline": False,
        "automargin": True,
        "title": {"font": {"size": 13, "color": d.muted}, "standoff": 8},
        "tickfont": {"size": 12, "color": d.muted},
    }
    layout = {
        "font": {"family": SANS, "size": 13, "color": d.text},
        "paper_bgcolor": d.background,
        "plot_bgcolor": d.background,
        "title": {"font": {"size": 16, "color": d.text}, "x": 0, "xanchor": "left", "xref": "paper", "yref": "container"},
        "xaxis": axis,
        "yaxis": axis,
        "legend": {
            "orientation": "h", "x": 0, "xanchor": "left", "y": 1.0, "yanchor": "bottom",
            "font": {"size": 12, "color": d.text}, "bgcolor": "rgba(0,0,0,0)", "itemsizing": "trace",
        },
        "hoverlabel": {"font": {"family": MONO, "size": 12, "color": d.text}, "bgcolor": d.raised, "bordercolor": d.muted, "align": "left"},
        "annotationdefaults": {"font": {"size": 12, "color": d.text}, "showarrow": False},
        "hovermode": "closest",
        "barmode": "overlay",
    }  # fmt: skip
    return {"layout": layout}


def picture(
    data: Sequence[dict[str, Any]], layout: dict[str, Any], *, theme: str, title: str = "", revision: str = ""
) -> dict[str, Any]:
    """Return a plotly figure as a plain dict in the house design.

    Args:
        data, layout: the view's own traces and layout.
        title: the question at the top; "" leaves it to the page, and its room to the picture.
        revision: names the run, so that a reader's zoom survives a step.
    """
    margin = {"l": 12, "r": 16, "t": 44 if title else 12, "b": 12, "pad": 0} | layout.get("margin", {})
    if (
        layout.get("showlegend") and layout.get("legend", {}).get("orientation") != "v"
    ):  # beside the picture it needs no room above
        margin["t"] += 4 + 19 * _legend_rows([str(t["name"]) for t in data if t.get("showlegend", True) and t.get("name")])
    heading = {"title": {"text": escape(title, quote=False), "y": 0.985, "yanchor": "top"}} if title else {}
    shared = {"template": template(theme), "margin": margin, "uirevision": revision or True, "showlegend": False}
    return {"data": list(data), "layout": shared | heading | {k: v for k, v in layout.items() if k != "margin"}}


def _legend_rows(names: Sequence[str], pixels: int = 530) -> int:
    """Return how many rows plotly needs for a horizontal legend: one, or columns as wide as the longest name."""
    sizes = [44 + 6.6 * width(name) for name in names]
    if not sizes or sum(sizes) <= pixels:
        return 1
    return -(-len(sizes) // max(1, int(pixels / max(sizes))))


def hatch(theme: str, meaning: str) -> dict[str, Any]:
    """Return the marker of a bar that was estimated or predicted: the colour at 45 % under a diagonal hatch."""
    d = design(theme)
    return {
        "color": d.fill(meaning, ESTIMATED_OPACITY),
        "line": {"color": d.line(meaning), "width": 1},
        "pattern": {"shape": "/", "fgcolor": d.line(meaning), "size": 5, "solidity": 0.25, "fillmode": "overlay"},
    }


def solid(theme: str, meaning: str) -> dict[str, Any]:
    """Return the marker of a measured bar."""
    d = design(theme)
    return {"color": d.fill(meaning), "line": {"color": d.line(meaning), "width": 1}}


def is_estimate(name: str) -> bool:
    """Return whether a curve's name says that its values were not measured."""
    return any(word in name.lower() for word in ("estimated", "predicted", "ideal"))


_BADGES = {"measured": "accepted", "derived": "context", "estimated": "chosen", "predicted": "chosen", "reported": "context"}


def badge(provenance: str) -> str:
    """Return a small HTML badge that says how a number came about. Readable in both designs."""
    colour = MEANINGS[_BADGES.get(provenance, "context")].colour
    border = "solid" if provenance == "measured" else "dashed"
    stripes = f"background:repeating-linear-gradient(135deg,{colour}44 0 3px,transparent 3px 6px);"
    style = f"border:1px {border} {colour};border-radius:9px;padding:0 6px;font-size:85%;white-space:nowrap;"
    style += stripes if provenance in {"estimated", "predicted"} else ""
    return f'<span class="wb-badge" style="{style}">{escape(provenance)}</span>'


_VISIBLE = {" ": "␣", "\n": "↵", "\t": "→", "\r": "␍", "\u00a0": "⍽"}
_ISOLATE, _END = "\u2068", "\u2069"


@cache
def token(piece: str, limit: int = 14) -> str:
    """Return a token as a reader can see it.

    White space becomes ␣ ↵ →; control, zero-width and direction-changing characters are escaped, so that no token can
    disturb its neighbours; long pieces are cut with an ellipsis; right-to-left pieces are isolated. "" becomes ∅.

    Args:
        piece: text of the token.
        limit: most characters to show.
    """
    shown = "".join(
        _VISIBLE.get(c) or (_escaped(c) if unicodedata.category(c) in {"Cc", "Cf", "Cs", "Co", "Cn"} else c) for c in piece
    )
    if len(shown) > limit:
        shown = shown[: limit - 1] + "…"
    if any(unicodedata.bidirectional(c) in {"R", "AL", "AN"} for c in shown):
        return f"{_ISOLATE}{shown}{_END}"
    return shown or "∅"


def _escaped(character: str) -> str:
    code = ord(character)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


@cache
def label(piece: str, limit: int = 14) -> str:
    """Return a token fit for a plotly text or hover, where `<` and `&` would be read as markup."""
    return escape(token(piece, limit), quote=False)


def quoted(piece: str, limit: int = 24) -> str:
    """Return a token in a sentence, where a comma or a full stop would otherwise be read as the sentence's own."""
    return f"“{token(piece, limit)}”"


@cache
def width(text: str) -> int:
    """Return how many columns a text takes in a monospaced grid (wide East Asian characters take two)."""
    marks = {"Mn", "Me", "Cf"}
    return sum(0 if unicodedata.category(c) in marks else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


def number(value: float, digits: int = 3) -> str:
    """Return a number with three significant digits, without an exponent where a reader would write none."""
    if value != value:
        return "–"
    if value and not 1e-4 <= abs(value) < 1e6:
        return f"{value:.{digits - 1}e}"
    text = f"{value:#.{digits}g}" if abs(value) < 10 ** (digits - 1) else f"{value:,.0f}"
    return text.rstrip(".")
