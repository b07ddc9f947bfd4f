"""The catalogue at `/`: every system as a card with the question it answers, its picture and its needs; searched in the browser."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import panel as pn
import param
from bokeh.embed.bundle import extension_dirs

from widgets.parts import Part, asset, served
from widgets.style import page_style
from workbench import cards
from workbench import theme as themes
from workbench.api import catalog

cards.FOLDER.mkdir(exist_ok=True)
extension_dirs["workbench-cards"] = cards.FOLDER  # any Bokeh server then serves the pictures
_PICTURES = "static/extensions/workbench-cards"


class Cards(Part):
    """The cards, their search and their filters."""

    rows = param.List([])
    theme = param.String("light")
    ask_theme = param.Boolean(False)
    whole_page = param.Boolean(False)
    light_page = param.String(themes.design("light").background)
    dark_page = param.String(themes.design("dark").background)
    compare = param.String("", doc="Address of the page that compares runs.")
    class_hint = param.String(
        f"one small run within {cards.CLASS_SECONDS:.0f} s and {cards.CLASS_MB / 1000:.0f} GB, its model at hand"
    )

    _esm = asset("newest.js", "gallery.js")


class Gallery(pn.viewable.Viewer):
    """Cards of the installed systems.

    Args:
        names: systems to show; all by default.
        app: address of a page that serves every system by `?system=`; by default each has its own path.
    """

    def __init__(self, names: list[str] | None = None, app: str = "", **params: Any) -> None:
        super().__init__(**params)
        self.rows = [row for row in catalog().rows if not names or row["name"] in names]
        asked = pn.state.session_args.get("theme", [b""])[0].decode(errors="replace") if served() else ""
        theme = asked if asked in themes.DESIGNS else "light"
        whole = served()
        self.cards = Cards(
            on_message=self._heard, rows=[_row(r, app) for r in self.rows], theme=theme, ask_theme=whole and not asked, whole_page=whole,
            compare=(f"{app}?page=compare" if app else "./compare") if whole else "", sizing_mode="stretch_width",
        )  # fmt: skip
        self._page = pn.Column(self.cards, stylesheets=[page_style()], sizing_mode="stretch_width", margin=0)
        self._wear(theme)

    def _heard(self, message: dict[str, Any]) -> None:
        if message.get("kind") == "theme" and message.get("theme") in themes.DESIGNS:
            self._wear(str(message["theme"]))

    def _wear(self, theme: str) -> None:
        self.cards.theme = theme
        self._page.css_classes = ["wb-page", "wb-column", *(["wb-dark"] if theme == "dark" else [])]

    def __panel__(self) -> pn.Column:
        return self._page


def _row(row: dict[str, Any], app: str) -> dict[str, Any]:
    """Return what the browser needs of a card."""
    loads = not row["status"].startswith("cannot be loaded")
    link = (f"{app}?system={row['name']}" if app else f"./{row['name']}") if loads and served() else ""
    said = " ".join([row["name"], row["title"], row["question"], row["family"], str(row["year"]), *row["groups"]]).lower()
    shown = ("name", "title", "year", "family", "question", "groups", "models", "needs", "runs_in_class", "status")
    pictures = {t: _address(cards.thumbnail(row["name"], t)) for t in cards.THEMES}
    return {k: row[k] for k in shown} | {"href": link, "said": said, "pictures": pictures}


def _address(path: Path) -> str:
    """Return where a browser finds a picture: on this server, or inside the page where there is none."""
    if not path.is_file():
        return ""
    return f"{_PICTURES}/{path.name}" if served() else cards.data_uri(str(path))
