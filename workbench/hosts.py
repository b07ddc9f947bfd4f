"""Where this code runs (a server, Jupyter, VS Code, Colab, a plain Python), and pictures that outlive the notebook's kernel.

JupyterLab draws a plotly figure from its own MIME type, which `nbconvert` does not know: a notebook turned into HTML would
show only text. In a Jupyter kernel a figure of ours therefore carries an HTML twin too, and plotly's script is put into the
notebook once, packed, because Jupyter's server cuts messages above about 3 MB.
"""

from __future__ import annotations

import base64
import gzip
import os
import sys
import uuid
from dataclasses import dataclass
from functools import cache
from typing import Any

from workbench.errors import unknown

#: plotly's default in a Jupyter kernel; another one was chosen by somebody and stays.
PLAIN_JUPYTER = "plotly_mimetype"


@dataclass(frozen=True)
class Host:
    """A place to open a page from.

    Attributes:
        name: server, jupyter, vscode, colab or terminal.
        live: the page itself is shown; otherwise its twin of ipywidgets.
        says: one sentence of what was chosen and what else there is.
    """

    name: str
    live: bool
    says: str


HOSTS: dict[str, Host] = {
    h.name: h
    for h in (
        Host("server", True, ""),
        Host("jupyter", True, "Jupyter: the live page. With host='vscode' a lighter one of ipywidgets."),
        Host("vscode", False, "VS Code: the same knobs as ipywidgets, one picture at a time. host='jupyter' tries the live page."),
        Host("colab", False, "Colab: the same knobs as ipywidgets, one picture at a time. The live page needs JupyterLab."),
        Host("terminal", True, "No notebook here: .show() opens the live page in a browser, as `workbench serve {key}` does."),
    )
}  # fmt: skip


def get(name: str) -> Host:
    """Return a host by name; "auto" is where this code runs."""
    if name == "auto":
        return HOSTS[detect()]
    if name not in HOSTS:
        raise unknown("host", name, ["auto", *HOSTS])
    return HOSTS[name]


def detect() -> str:
    """Return the name of the place this code runs in."""
    panel = sys.modules.get("panel")
    if panel is not None and panel.state.curdoc is not None and panel.state.curdoc.session_context is not None:
        return "server"
    shell = _shell()
    if shell is None or not hasattr(shell, "kernel"):
        return "terminal"
    if "COLAB_NOTEBOOK_ID" in os.environ or "google.colab" in sys.modules:
        return "colab"
    return "vscode" if "VSCODE_PID" in os.environ or "__vsc_ipynb_file__" in shell.user_ns else "jupyter"


def _shell() -> Any:
    """Return IPython's shell, or None where there is none. Nothing is imported for it."""
    ipython = sys.modules.get("IPython")
    return ipython.get_ipython() if ipython is not None else None


def keep_pictures() -> None:
    """In a Jupyter kernel, let every figure carry a twin that `nbconvert` keeps. Elsewhere nothing happens."""
    if _shell() is not None:
        _keep_pictures()


@cache
def _keep_pictures() -> None:
    import plotly.io as pio

    if pio.renderers.default == PLAIN_JUPYTER and detect() == "jupyter":
        pio.renderers["workbench"] = _kept()
        pio.renderers.default = "workbench"


def bundle(figure: Any) -> dict[str, Any]:
    """Return a figure in every form that this host may show: what plotly chose for it, and its name in words."""
    keep_pictures()
    return {"text/plain": "a plotly figure", **figure._repr_mimebundle_(validate=False)}


def _kept() -> Any:
    """Return a renderer for plotly: its own for Jupyter, and the same picture as HTML."""
    from plotly.io.base_renderers import PlotlyRenderer

    from workbench.export import dumps

    class Kept(PlotlyRenderer):
        def activate(self) -> None:
            load_plotly()

        def to_mimebundle(self, fig_dict: dict[str, Any]) -> dict[str, Any]:
            bundle = super().to_mimebundle(fig_dict)
            figure = {k: fig_dict[k] for k in ("data", "layout")}
            return bundle | {"text/html": picture(dumps(figure), fig_dict["layout"].get("height") or 450)}

    return Kept()


@cache
def load_plotly() -> None:
    """Put plotly's script into the notebook, once a kernel."""
    from IPython.display import display_html

    display_html(loader(), raw=True)


def picture(figure: str, height: float) -> str:
    """Return a figure (its JSON) as HTML for a page that holds `loader()`."""
    name = f"workbench-{uuid.uuid4().hex}"
    return (
        f'<div id="{name}" style="min-height:{height:g}px"></div><script>(async () => {{ const place = document.getElementById("{name}"); '
        f"if (!window.workbenchPlotly) {{ place.textContent = 'This picture is drawn by a script beside the first one of the notebook. Run all cells again.'; return }} "
        f"const figure = {figure}; (await window.workbenchPlotly()).newPlot(place, figure.data, figure.layout, "
        "{responsive: true, displaylogo: false}) })()</script>"
    )


@cache
def loader() -> str:
    """Return the script that unpacks plotly when the first picture asks for it. No network; require.js does not disturb it."""
    from plotly.offline import get_plotlyjs

    code = "(function () { var define, module, exports;" + get_plotlyjs() + "\n}).call(window)"
    packed = base64.b64encode(gzip.compress(code.encode(), 9, mtime=0)).decode("ascii")
    return (
        "<script>window.workbenchPlotly ??= (() => { let loading; return () => loading ??= (async () => { "
        f'const bytes = Uint8Array.from(atob("{packed}"), (c) => c.charCodeAt(0)); '
        'const text = new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).text(); '
        "(0, eval)(await text); return window.Plotly })() })()</script>"
    )
