"""One servable file for every page: `panel serve widgets/app.py`, then `/app?system=rsd` or `/app?page=compare`; else the catalogue.

It stands behind `jupyter-panel-proxy` and JupyterLab's preview button as it is.
"""

from __future__ import annotations

import panel as pn

from widgets.bench import Bench
from widgets.compare import Compare
from widgets.gallery import Gallery
from workbench import system as systems

HERE = "app"  # this file's own address, from the pages that it serves


def page() -> Bench | Compare | Gallery:
    """Return the page that the query asks for."""
    system, other = (pn.state.session_args.get(name, [b""])[0].decode(errors="replace") for name in ("system", "page"))
    if system in systems.registry():
        return Bench(systems.get(system)(), app=HERE)
    return Compare(app=HERE) if other == "compare" else Gallery(app=HERE)


if pn.state.served:
    page().servable(title="Workbench")
