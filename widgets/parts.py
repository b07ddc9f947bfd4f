"""The pieces of a live page that the browser draws: header, controls, pictures, step scrubber.

Each is a Panel ESM component: a few params on this side, a small script in `assets/` on the other. Controls are native
inputs with the newest move winning, one in flight and the last always sent; pictures are drawn by the plotly.js that the
installed plotly package ships, because Panel bundles an older one that need not know the figures this package makes.
"""

from __future__ import annotations

import base64
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import panel as pn
import param
import plotly
from bokeh.embed.bundle import extension_dirs
from panel.custom import JSComponent

from widgets.turns import Posted

ASSETS = Path(__file__).parent / "assets"
_PLOTLY = Path(plotly.__file__).parent / "package_data"
extension_dirs["workbench-plotly"] = _PLOTLY  # any Bokeh server then serves it, `panel serve` and proxies included
_PLOTLY_URL = "static/extensions/workbench-plotly/plotly.min.js"


@cache
def asset(*names: str) -> str:
    """Return the text of files in `assets/`, joined."""
    return "\n".join((ASSETS / name).read_text(encoding="utf-8") for name in names)


def served() -> bool:
    """Return whether this code runs in a session of a web server (a page of its own, open to visitors)."""
    doc = pn.state.curdoc
    return bool(doc and doc.session_context)


def address() -> str:
    """Return the network address of the visitor whose page this is; "" where there is no server."""
    context = pn.state.curdoc.session_context if pn.state.curdoc else None
    return str(getattr(getattr(context, "request", None), "remote_ip", None) or "")


class Part(Posted, JSComponent):
    """A component that hands messages of its browser half to `on_message`."""

    bench = param.String("", doc="Which page this belongs to: several can stand in one notebook.")

    _stylesheets = [asset("parts.css")]
    __abstract = True

    def __init__(self, on_message: Callable[[dict[str, Any]], None] | None = None, **params: Any) -> None:
        super().__init__(**params)
        self._on_message = on_message

    def _handle_msg(self, data: Any) -> None:
        if isinstance(data, dict) and self._on_message is not None:
            self._on_message(data)


def send_file(part: Part, data: bytes, name: str) -> None:
    """Send a file to the browser, which saves it under the name."""
    part._send_msg({"file": base64.b64encode(data).decode("ascii"), "name": name})


class Header(Part):
    """Title, question, state of the run, theme, share, copy as Python, and the one banner for messages."""

    title = param.String("")
    year = param.Integer(0)
    arxiv = param.String("")
    question = param.String("")
    state = param.String("empty", doc="recorded, measured, running, waiting, cancelled, failed or empty")
    detail = param.String("")
    progress = param.Number(-1.0, doc="Share done, or -1 where it is unknown.")
    theme = param.String("light")
    ask_theme = param.Boolean(False, doc="Take the reader's preferred theme when the page opens.")
    whole_page = param.Boolean(False, doc="The page is ours: set its background and title.")
    light_page = param.String("#ffffff")
    dark_page = param.String("#12151a")
    message = param.String("")
    tone = param.String("note", doc="note or error")
    python = param.String("", doc="The call that makes the run.")
    command = param.String("", doc="The command line that makes it.")
    lacks = param.String("", doc="Changed knobs that an address cannot hold.")
    visitor = param.String("", doc="The key that the browser keeps for its shelf.")
    home = param.String("./", doc="Address of the catalogue.")
    compare = param.String("./compare", doc="Address of the page that compares runs.")
    search = param.String("", doc="What the address says after its path, on a page of our own.")

    _esm = asset("newest.js", "header.js")


class Controls(Part):
    """Every knob of a system as a native input, in the groups Live, Run and Advanced."""

    spec = param.List([], doc="One dict for each knob, from `controls.spec`.")
    values = param.Dict({}, doc="Present values by name.")
    presets = param.List([])
    ack = param.Integer(0, doc="Number of the last live move that has been drawn.")
    heard = param.Integer(0, doc="Number of the last setting that has been answered.")
    fresh = param.Integer(0, doc="Counts the refreshes: a refused value leaves `values` as they were, yet must be shown.")

    _esm = asset("newest.js", "controls.js")


class Picture(Part):
    """One view: its question, a caption of what to see now, the figure, and the same in words."""

    figure = param.String("", doc="plotly figure as JSON")
    drawing = param.Integer(0, doc="Number of the drawing; the page marks it when it is painted.")
    title = param.String("")
    caption = param.String("")
    reading = param.String("")
    twin = param.String("")
    empty = param.String("", doc="What to say, and what to do, when there is no figure.")
    dimmed = param.Boolean(False)
    stale = param.Boolean(False, doc="What it shows is older than the record: its redrawing is on the way.")
    lead = param.Boolean(False, doc="It is drawn before all others: the hero.")
    again = param.Integer(0, doc="Counts up to have the same figure drawn anew, after a reader has dragged a part of it away.")
    reacts = param.Boolean(False, doc="Live knobs change this picture.")
    closable = param.Boolean(False, doc="A reader may take it off the page.")
    plotly_url = param.String("")

    _esm = asset("newest.js", "picture.js")

    def __init__(self, **params: Any) -> None:
        super().__init__(plotly_url=_PLOTLY_URL if served() else "", **params)
        self.wants_words = False  # the text twin is made only for a reader who opened it

    def _handle_msg(self, data: Any) -> None:
        if isinstance(data, dict) and data.get("kind") == "plotly":  # a notebook has no server to fetch it from
            self._send_msg({"plotly": (_PLOTLY / "plotly.min.js").read_text(encoding="utf-8")})
            return
        if isinstance(data, dict) and data.get("kind") == "words":
            self.wants_words = True
        super()._handle_msg(data)


class Scrubber(Part):
    """Buttons, a slider and the arrow keys that move through the steps of a run."""

    step = param.Integer(0)
    count = param.Integer(0)
    noun = param.String("step")
    whole_page = param.Boolean(False)
    ack = param.Integer(0)

    _esm = asset("newest.js", "scrubber.js")


class Tabs(Part):
    """Buttons that choose one of several views by the question each answers."""

    labels = param.List([])
    chosen = param.Integer(0)

    _esm = (
        asset("newest.js")
        + """
export function render({ model }) {
  const root = element("div", { class: "choices", role: "group", "aria-label": "further views" })
  const show = () => root.replaceChildren(...model.labels.map((label, index) => element("button", {
    type: "button", "aria-pressed": String(index === model.chosen), onclick: () => model.send_msg({ kind: "tab", index }) }, label)))
  for (const name of ["labels", "chosen"]) model.on(name, show)
  show()
  return root
}
"""
    )
