"""The catalogue at `/`: every system as a card with the question it answers; one that cannot be loaded says why."""

from __future__ import annotations

from html import escape
from typing import Any

import panel as pn

from widgets.parts import asset, served
from workbench import theme as themes
from workbench.api import catalog


class Gallery(pn.viewable.Viewer):
    """Cards of the installed systems.

    Args:
        names: systems to show; all by default.
    """

    def __init__(self, names: list[str] | None = None, **params: Any) -> None:
        super().__init__(**params)
        self.rows = [row for row in catalog().rows if not names or row["name"] in names]
        style = [asset("parts.css")]
        self._page = pn.Column(
            pn.pane.HTML(html(self.rows), stylesheets=style, sizing_mode="stretch_width", margin=0),
            css_classes=["wb-page", "wb-follow"],
            stylesheets=[page_style()],
            sizing_mode="stretch_width",
            margin=0,
        )

    def __panel__(self) -> pn.Column:
        return self._page


def html(rows: list[dict[str, Any]]) -> str:
    """Return the cards as HTML."""
    count = len(rows)
    head = f"<h1>Workbench</h1><p>{count} paper{'s' if count != 1 else ''} to run, watch and change.</p>"
    return f"{head}<div class='cards'>{''.join(_card(row) for row in rows)}</div>"


def _card(row: dict[str, Any]) -> str:
    name = escape(row["name"])
    if row["status"] != "ready":
        return f"<div class='card broken'><h2>{name}</h2><p>{escape(row['status'])}</p></div>"
    question = escape(row["question"] or row["title"])
    about = f"{escape(row['title'])} · {row['year']} · {escape(row['family'])}"
    link = f"href='./{name}'" if served() else ""
    return f"<a class='card' {link}><h2>{question}</h2><p>{about}</p></a>"


def page_style() -> str:
    """Return the style of the page's frame: both designs as variables, and the layout."""
    return "\n".join([_variables("light", ":host(.wb-page)"), _variables("dark", ":host(.wb-page.wb-dark)"), asset("page.css")])


def _variables(theme: str, selector: str) -> str:
    d = themes.design(theme)
    values = {
        "page": d.background, "panel": d.raised, "ink": d.text, "soft": d.muted, "line": d.grid, "accent": d.ink("target"),
        "good": d.ink("accepted"), "bad": d.ink("rejected"), "select": d.line("selected"), "sans": themes.SANS, "mono": themes.MONO,
    }  # fmt: skip
    body = " ".join(f"--wb-{name}: {value};" for name, value in values.items())
    return f"{selector} {{ {body} color-scheme: {theme}; }}"
