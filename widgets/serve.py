"""Serve the live pages: the catalogue at `/`, each system at its own path (`/rsd`), `/compare`, `/health` and `/metrics`.

By default for this machine's user alone. With `public` the same server is fit for a class: bounded work for each visitor,
fair turns, a metrics page behind a token, a log of JSON lines. Headers and the graceful stop hold in both.
"""

from __future__ import annotations

import atexit
import logging
import os
import re
import secrets
import shutil
import signal
import tempfile
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import panel as pn
from tornado.ioloop import IOLoop, PeriodicCallback

from widgets import controls, doors, operations, shelf, worker
from widgets.bench import Bench
from widgets.compare import Compare
from widgets.gallery import Gallery
from workbench import system as systems
from workbench.errors import InputError, expected

#: A closed page keeps its session, and its run, until the next of these checks after 15 s. A browser that needs longer to
#: connect has its page made anew.
SESSION_MS = {"unused_session_lifetime_milliseconds": 15_000, "check_unused_sessions_milliseconds": 2_000}
LOOPBACK = ("localhost", "127.0.0.1")
EVERYWHERE = ("0.0.0.0", "::", "")
MESSAGE_BYTES = 12 << 20  # most that a browser may send at once: a picture of 8 MB, as text
HOST = re.compile(r"[A-Za-z0-9*](?:[A-Za-z0-9.*_-]*[A-Za-z0-9*])?(?::([0-9]{1,5}))?")
MOST_PORT = 65535
TOKEN = "WORKBENCH_ADMIN_TOKEN"
log = logging.getLogger("workbench.server")


def pages(names: Sequence[str] = ()) -> dict[str, Callable[[], Any]]:
    """Return a page maker for each path: "/", "/compare" and one for every system that can be loaded."""
    chosen = {name: systems.get(name) for name in names} or _loadable()
    fixed: dict[str, Callable[[], Any]] = {"/": lambda: Gallery(list(chosen) if names else None), "compare": lambda: Compare()}
    return fixed | {key: page(cls) for key, cls in chosen.items()}


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
    public: bool = False,
    limits: operations.Limits | None = None,
    allow_origins: Sequence[str] = (),
    num_procs: int = 1,
    start: bool = True,
    threaded: bool = False,
    routes: dict[str, Callable[[], Any]] | None = None,
) -> Any:
    """Serve the pages until interrupted (a first Ctrl-C or SIGTERM lets the run that goes on end), and return Panel's server.

    Args:
        names: systems to serve; every one that can be loaded by default.
        port: port to listen on; 0 takes a free one, which the server returned knows (`.port`).
        address: address to listen on. Anywhere but on a loopback address only the offered models can be chosen.
        show: open a browser.
        public: for visitors: `limits` hold, `/metrics` needs a token, the log is JSON lines.
        limits: how much work is accepted; used only with `public`.
        allow_origins: hosts ("class.example.org", "10.0.0.5:5006") whose pages may connect, beside this address.
        num_procs: processes that share the port; each loads its own models and has its own queue.
        start, threaded: as in `panel.serve`.
        routes: other pages than those of the systems.
    Raises:
        InputError: an origin is no host; or public, on every address, and no origin named: a page of any site could use its
            visitors' browsers.
    """
    if public and address in EVERYWHERE and not allow_origins:
        then = "Name the host that visitors type, with --allow-origin HOST:PORT"
        raise InputError(expected("allowed origins", "at least one for a public server on every address", "none", then=then))
    _check(allow_origins)
    _limit(limits or operations.Limits(), public, address)
    routes = routes or pages(names)
    board = operations.Board(Path(tempfile.mkdtemp(prefix="workbench-figures-")))
    atexit.register(_put_away, board.folder, os.getpid())
    token = _token(public, address)
    if num_procs > 1:
        _pass_signals_on(board)
    options: dict[str, Any] = {"title": dict.fromkeys(routes, "Workbench"), "verbose": not public, "show": show, **SESSION_MS}
    options |= {"sign_sessions": True, "secret_key": secrets.token_urlsafe(32)}  # one secret for every process
    if num_procs > 1:
        options["num_procs"] = num_procs

    def made() -> Any:
        server = pn.serve(
            routes, port=port, address=address, start=False,
            extra_patterns=[("/health", operations.Health), ("/metrics", operations.MetricsPage, {"board": board, "token": token})],
            log_function=operations.METRICS.request, websocket_max_message_size=MESSAGE_BYTES, **options,
        )  # fmt: skip
        if _told_to_stop:
            raise SystemExit(0)  # Tornado starts a process that ended badly again, even while the others stop
        server._tornado._websocket_origins = set(origins(address, server.port, allow_origins))  # now the port is known
        _watch(server, board)
        log.info("listening", extra={"fields": {"address": address, "port": server.port}})
        return server

    if threaded:
        return InThread(made)
    server = made()
    if start:
        _run(server)
    return server


def _put_away(folder: Path, maker: int) -> None:
    """Remove a folder when the process ends that made it; those that it forked end before."""
    if os.getpid() == maker:
        shutil.rmtree(folder, ignore_errors=True)


def _limit(limits: operations.Limits, public: bool, address: str) -> None:
    """Set the process-wide bounds of what a visitor may ask."""
    controls.any_model = address in LOOPBACK and not public
    controls.max_tokens = limits.tokens if public else None
    doors.Gate.limit = limits.sessions if public else None
    queue, own = worker.QUEUE, worker.RunQueue()
    queue.waiting, queue.each, queue.address, queue.seconds = (
        (limits.waiting, limits.each, limits.address, limits.seconds) if public else (own.waiting, None, None, None)
    )
    shelf.max_from_address = limits.shelf if public else None
    if public:
        operations.log_as_json()


def _token(public: bool, address: str) -> str:
    """Return the token of the metrics page: the environment's, or a fresh one that the log tells; none for one's own machine."""
    if not public and address in {*LOOPBACK, "::1"}:
        return ""
    token = os.environ.get(TOKEN) or secrets.token_urlsafe(18)
    path, hint = f"/metrics?token={token}", f"set {TOKEN} to choose your own"
    if TOKEN not in os.environ and public:
        log.info("metrics", extra={"fields": {"path": path, "hint": hint}})
    elif TOKEN not in os.environ:
        log.warning("figures of this server: %s (%s)", path, hint)
    return token


def _watch(server: Any, board: operations.Board) -> None:
    """Hang headers, counters and the figures' file on a server."""
    doors.secure(server._tornado)
    metrics = operations.METRICS
    metrics.stopping = False
    metrics.sessions = lambda: len(server.get_sessions())
    metrics.queue = lambda: worker.QUEUE.depth
    if metrics.run_over not in worker.QUEUE.ended:
        worker.QUEUE.ended.append(metrics.run_over)
    board.write()
    PeriodicCallback(board.write, operations.WRITE_EVERY_S * 1e3).start()


def _run(server: Any) -> None:
    """Run a server's loop in this thread; signals stop it gracefully."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(
            number, lambda *_: server.io_loop.add_callback_from_signal(operations.stop_gracefully, server, worker.QUEUE)
        )
    server.start()
    server.io_loop.start()
    server.stop(wait=False)
    worker.leave()


class InThread:
    """A server that runs in a thread of its own until `stop()`."""

    def __init__(self, made: Callable[[], Any]) -> None:
        self._up = threading.Event()
        self._failed: Exception | None = None
        self._thread = threading.Thread(target=self._serve, args=(made,), name="workbench-server", daemon=True)
        self._thread.start()
        self._up.wait()
        if self._failed is not None:
            raise self._failed

    def _serve(self, made: Callable[[], Any]) -> None:
        loop = IOLoop()  # of this thread: Panel hangs the server on it
        try:
            self.server = made()
            self.server.start()
        except Exception as error:
            self._failed = error
            self._up.set()
        else:
            loop.add_callback(self._up.set)
            loop.start()
        finally:
            loop.close()

    def stop(self) -> None:
        """Stop the server and wait for its thread."""
        self.server.io_loop.add_callback(self._end)
        self._thread.join(10)
        worker.leave()

    def _end(self) -> None:
        self.server.stop(wait=False)
        self.server.io_loop.stop()


_told_to_stop: list[int] = []  # signals that the parent of several processes has had


def _pass_signals_on(board: operations.Board) -> None:
    """Let the parent of several processes hand its signals to them; each sets its own handlers once it runs."""

    def hand_on(number: int, _: Any) -> None:
        _told_to_stop.append(number)
        for process in board.processes():
            if process != os.getpid() and operations.alive(process):
                os.kill(process, number)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, hand_on)


def origins(address: str, port: int, more: Sequence[str] = ()) -> list[str]:
    """Return the hosts whose pages may open a connection to this server.

    Raises:
        InputError: one of `more` is no HOST or HOST:PORT.
    """
    _check(more)
    hosts = LOOPBACK if address in {*LOOPBACK, "::1"} else (address, *LOOPBACK)
    if address in EVERYWHERE:
        hosts = LOOPBACK
        if not more:
            log.warning("listening on every address: any page that reaches this machine may connect")
            return ["*"]
    own = [f"{host}:{port}" for host in hosts]
    others = [o if ":" in o else f"{o}:{port}" for o in more]
    return [*own, *(re.sub(":443$", ":80", o) for o in others)]  # a browser leaves 443 out, and Bokeh takes what has none for 80


def _check(more: Sequence[str]) -> None:
    """Raise InputError where an allowed origin is no HOST or HOST:PORT."""
    for origin in more:
        found = HOST.fullmatch(origin)
        if found is None or int(found[1] or 0) > MOST_PORT:
            raise InputError(expected("allowed origin", "HOST or HOST:PORT", repr(origin), then=_spelt(origin)))


def _spelt(origin: str) -> str:
    """Return what to write instead of an origin that is none."""
    parts = urlsplit(origin)
    plain = parts.netloc if ":" in parts.netloc else f"{parts.netloc}:{443 if parts.scheme == 'https' else 80}"
    return f"Write {plain}" if parts.netloc and HOST.fullmatch(plain) else "Write what visitors type, as class.example.org:443"
