"""Serve the live pages: the catalogue at `/`, each system at its own path (`/rsd`), on this machine only by default."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

import panel as pn

from widgets import controls
from widgets.bench import Bench
from widgets.gallery import Gallery
from workbench import system as systems

THREADS = 4  # sessions answered at the same time; runs have their own queue
#: A closed page keeps its session, and its run, until the next of these checks after 15 s; a reload finds it again. No
#: shorter lifetime: a browser that needs longer to connect would get a new session, whose style sheets Panel takes from its CDN.
SESSION_MS = {"unused_session_lifetime_milliseconds": 15_000, "check_unused_sessions_milliseconds": 2_000}
LOOPBACK = ("localhost", "127.0.0.1")
log = logging.getLogger("workbench.page")


def pages(names: Sequence[str] = ()) -> dict[str, Callable[[], Any]]:
    """Return a page maker for each path: "/" and one for every system that can be loaded."""
    chosen = {name: systems.get(name) for name in names} or _loadable()
    return {"/": lambda: Gallery(list(chosen) if names else None), **{key: page(cls) for key, cls in chosen.items()}}


def _loadable() -> dict[str, type[systems.System]]:
    return {key: entry.load() for key, entry in systems.registry().items() if not entry.error}


def page(system: type[systems.System]) -> Callable[[], Bench]:
    """Return the maker of a system's live page; every session gets a page of its own."""
    return lambda: Bench(system())  # Panel recognises plain functions only, not functools.partial


def serve(
    names: Sequence[str] = (),
    port: int = 5006,
    address: str = "127.0.0.1",
    show: bool = False,
    *,
    start: bool = True,
    threaded: bool = False,
) -> Any:
    """Serve the pages until interrupted, and return Panel's server.

    Args:
        names: systems to serve; every one that can be loaded by default.
        port: port to listen on; 0 takes a free one.
        address: address to listen on. Anywhere but on a loopback address only the offered models can be chosen. Only pages opened at this address (or at localhost, for a loopback address) connect.
        show: open a browser.
        start, threaded: as in `panel.serve`.
    """
    pn.config.nthreads = THREADS  # type: ignore[misc]  # a setter that its stubs do not show
    controls.any_model = address in LOOPBACK
    routes = pages(names)
    titles = dict.fromkeys(routes, "Workbench")
    options: dict[str, Any] = {"start": start, "threaded": threaded, "show": show, "title": titles, "verbose": True, **SESSION_MS}
    return pn.serve(routes, port=port, address=address, websocket_origin=origins(address, port), **options)


def origins(address: str, port: int) -> list[str]:
    """Return the hosts whose pages may open a connection to this server."""
    hosts = LOOPBACK if address in {*LOOPBACK, "::1"} else (address, *LOOPBACK)
    if address in {"0.0.0.0", "::", ""}:
        log.warning("listening on every address: any page that reaches this machine may connect")
        return ["*"]
    return [f"{host}:{port}" if port else f"{host}:*" for host in hosts]
