"""One servable file for every system: `panel serve widgets/app.py`, then `/app?system=rsd`; without a name the catalogue.

It stands behind `jupyter-panel-proxy` and JupyterLab's preview button as it is.
"""

from __future__ import annotations

import panel as pn

from widgets.bench import Bench
from widgets.gallery import Gallery
from workbench import system as systems


def page() -> Bench | Gallery:
    """Return the page that the query asks for."""
    asked = pn.state.session_args.get("system", [b""])[0].decode(errors="replace")
    return Bench(systems.get(asked)()) if asked in systems.registry() else Gallery(app="app")


if pn.state.served:
    page().servable(title="Workbench")
