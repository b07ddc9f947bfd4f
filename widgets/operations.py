"""What a server for others needs: limits, counters, a health endpoint, a metrics page, a log, a graceful stop.

Everything hangs on the server that Panel makes: its log function counts requests, and a file for each process lets any of them
show the figures of all. Who is let in, and on what terms, stands in `doors`.
"""

from __future__ import annotations

import hmac
import json
import logging
import os
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from tornado.web import RequestHandler

log = logging.getLogger("workbench.server")
#: Seconds a stopping server waits for the run that goes on.
GRACE_S = 20.0
WRITE_EVERY_S = 2.0
#: Latencies kept for the percentiles.
KEPT = 4000
STOPPING = "The server is stopping; kept runs stay. Reload the page in a minute."


@dataclass(frozen=True)
class Limits:
    """How much work a served page accepts. Each can be set on the command line.

    Attributes:
        waiting: runs that may wait, of all visitors. each: runs of one page that may wait or go on.
        address: runs of one network address that may; a class often shares one. shelf: bytes kept from one address.
        seconds: of one run. tokens: most a knob that counts tokens may ask for. sessions: pages open at once.
    """

    waiting: int = 40
    each: int = 2
    address: int = 30
    shelf: int = 1 << 30
    seconds: float = 120.0
    tokens: int = 256
    sessions: int = 300


class Metrics:
    """What one process has done since it started."""

    def __init__(self) -> None:
        self.started = time.time()
        self.requests: Counter[str] = Counter()
        self.runs: Counter[str] = Counter()
        self.moves = 0
        self.latencies: dict[str, deque[float]] = {name: deque(maxlen=KEPT) for name in LATENCIES}
        self.stopping = False
        self.sessions: Callable[[], int] = lambda: 0
        self.queue: Callable[[], tuple[int, int]] = lambda: (0, 0)
        self._lock = threading.Lock()

    def took(self, what: str, seconds: float) -> None:
        """Count one latency (see `LATENCIES`)."""
        with self._lock:
            self.latencies[what].append(seconds * 1e3)
            self.moves += what == "move"

    def run_over(self, job: Any) -> None:
        """Count a run that ended, and log it."""
        state = "too long" if job.late else job.state
        with self._lock:
            self.runs[state] += 1
        waited = (job.began or job.ended) - job.queued
        self.took("wait", waited)
        if job.began:
            self.took("run", job.ended - job.began)
        fields = {"system": job.owner.system, "page": job.owner.page, "state": state, "waited_s": round(waited, 3)}
        log.info("run", extra={"fields": fields | {"ran_s": round(job.ended - job.began, 3) if job.began else 0}})

    def request(self, handler: RequestHandler) -> None:
        """Count a request, and log it without its query: a link holds what a visitor wrote."""
        status, seconds = handler.get_status(), handler.request.request_time()
        with self._lock:
            self.requests["websocket" if status == 101 else f"{status // 100}xx"] += 1
        if status != 101:
            self.took("request", seconds)
        fields = {"method": handler.request.method, "path": handler.request.path, "status": status, "ms": round(seconds * 1e3, 1)}
        log.info("request", extra={"fields": fields})

    def snapshot(self) -> dict[str, Any]:
        """Return everything as plain numbers."""
        running, waiting = self.queue()
        with self._lock:
            return {
                "pid": os.getpid(),
                "up_s": round(time.time() - self.started),
                "stopping": self.stopping,
                "sessions": self.sessions(),
                "running": running,
                "waiting": waiting,
                "memory_mb": round(memory_mb()),
                "moves": self.moves,
                "requests": dict(self.requests),
                "runs": dict(self.runs),
                "latencies_ms": {name: [round(v, 2) for v in values] for name, values in self.latencies.items()},
            }


#: What is timed, in the reader's words.
LATENCIES = {
    "request": "an HTTP request",
    "move": "a live knob, from the message to the answer",
    "wait": "a run in the queue",
    "run": "a run at work",
}
METRICS = Metrics()


def memory_mb() -> float:
    """Return the resident memory of this process in megabytes (NaN where the system does not say)."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6
    except (OSError, ValueError, IndexError):
        return float("nan")


class Board:
    """One file of figures for each process of a server, in a folder that all of them share."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def write(self) -> None:
        """Write this process's figures."""
        path = self.folder / f"{os.getpid()}.json"
        partial = path.with_suffix(".partial")
        try:
            partial.write_text(json.dumps(METRICS.snapshot()), encoding="utf-8")
            os.replace(partial, path)
        except OSError:
            log.warning("figures could not be written")

    def read(self) -> list[dict[str, Any]]:
        """Return the figures of every process that still lives, this one's fresh."""
        self.write()
        found = []
        for path in sorted(self.folder.glob("*.json")):
            try:
                figures = json.loads(path.read_text(encoding="utf-8"))
            except (OSError, ValueError):
                continue
            if alive(int(figures["pid"])):
                found.append(figures)
        return found

    def processes(self) -> list[int]:
        """Return the ids of the processes that have written."""
        return [int(p.stem) for p in self.folder.glob("*.json") if p.stem.isdecimal()]


def alive(pid: int) -> bool:
    """Return whether a process of that id is there."""
    try:
        os.kill(pid, 0)
        return True
    except OSError:
        return False


def total(processes: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """Return the sums over processes, and percentiles over all their latencies."""
    every = list(processes)
    sums = {name: sum(p[name] for p in every) for name in ("sessions", "running", "waiting", "memory_mb", "moves")}
    counts = {name: dict(sum((Counter(p[name]) for p in every), Counter())) for name in ("requests", "runs")}
    latencies = {}
    for name in LATENCIES:
        values = [v for p in every for v in p["latencies_ms"][name]]
        if values:
            p50, p95, p99 = np.percentile(values, [50, 95, 99])
            latencies[name] = {"p50": round(p50, 1), "p95": round(p95, 1), "p99": round(p99, 1), "n": len(values)}
    return {
        "processes": len(every),
        "up_s": max((p["up_s"] for p in every), default=0),
        **sums,
        **counts,
        "latencies_ms": latencies,
    }


class Health(RequestHandler):
    """`/health`: 200 while the server takes visitors, 503 once it stops."""

    def get(self) -> None:
        from importlib.metadata import version

        running, waiting = METRICS.queue()
        self.set_status(503 if METRICS.stopping else 200)
        self.set_header("Cache-Control", "no-store")
        self.write({
            "status": "stopping" if METRICS.stopping else "ready", "version": version("inference-workbench"),
            "sessions": METRICS.sessions(), "running": running, "waiting": waiting,
        })  # fmt: skip

    head = get  # what many monitors ask; Tornado leaves the body out


class MetricsPage(RequestHandler):
    """`/metrics`: the figures of all processes, as a page or (`?format=json`) as JSON. It needs the token wherever others can reach it."""

    def initialize(self, board: Board, token: str) -> None:
        self.board, self.token = board, token

    def get(self) -> None:
        given = self.get_query_argument("token", "") or self.request.headers.get("Authorization", "").removeprefix("Bearer ")
        self.set_header("Cache-Control", "no-store")
        if self.token and not hmac.compare_digest(given.encode(), self.token.encode()):
            self.set_status(403)
            self.write("This page needs the token that the server printed when it started: /metrics?token=...")
            return
        figures = total(self.board.read())
        if self.get_query_argument("format", "") == "json":
            self.write(figures)
        else:
            self.write(metrics_html(figures))


def metrics_html(figures: dict[str, Any]) -> str:
    """Return the figures as a page that reads itself again every five seconds."""
    from workbench import theme

    def rows(pairs: Iterable[tuple[str, Any]]) -> str:
        return "".join(f"<tr><th scope=row>{escape(str(k))}</th><td>{escape(str(v))}</td></tr>" for k, v in pairs)

    now = [("pages open", figures["sessions"]), ("runs going on", figures["running"]), ("runs waiting", figures["waiting"]),
           ("memory, MB", figures["memory_mb"]), ("processes", figures["processes"]), ("up, seconds", figures["up_s"])]  # fmt: skip
    counts = [*((f"requests {k}", v) for k, v in sorted(figures["requests"].items())), ("live moves", figures["moves"]),
              *((f"runs {k}", v) for k, v in sorted(figures["runs"].items()))]  # fmt: skip
    head = (
        "<tr><th scope=col></th><th scope=col>median</th><th scope=col>95 %</th><th scope=col>99 %</th><th scope=col>n</th></tr>"
    )
    times = "".join(
        f"<tr><th scope=row>{escape(LATENCIES[k])}</th><td>{v['p50']}</td><td>{v['p95']}</td><td>{v['p99']}</td><td>{v['n']}</td></tr>"
        for k, v in figures["latencies_ms"].items()
    )
    d, n = theme.design("light"), theme.design("dark")
    style = (
        f":root{{color-scheme:light dark}}body{{font:15px {theme.SANS};margin:24px auto;max-width:760px;padding:0 16px;background:{d.background};color:{d.text}}}"
        "table{border-collapse:collapse;margin:8px 0 22px;font-variant-numeric:tabular-nums}th{font-weight:400;text-align:left;padding:3px 22px 3px 0}"
        f"td,th[scope=col]{{text-align:right;padding:3px 0 3px 22px}}@media(prefers-color-scheme:dark){{body{{background:{n.background};color:{n.text}}}}}"
    )
    return (
        f"<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'><meta http-equiv=refresh content=5>"
        f"<title>Figures of this server</title><style>{style}</style><h1>Figures of this server</h1><h2>Now</h2><table>{rows(now)}</table>"
        f"<h2>Since the start</h2><table>{rows(counts)}</table><h2>Milliseconds</h2><table>{head}{times}</table></html>"
    )


# ---- log and stop ----------------------------------------------------------------------------------------------------


class JsonLines(logging.Formatter):
    """One JSON object a line: time (UTC), level, logger, event, and the event's own fields."""

    def format(self, record: logging.LogRecord) -> str:
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z"
        line = {
            "time": stamp,
            "level": record.levelname.lower(),
            "logger": record.name,
            "pid": record.process,
            "event": record.getMessage(),
        }
        line |= getattr(record, "fields", {})
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


def log_as_json() -> None:
    """Send every log line of this process to standard error as JSON."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonLines())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.INFO)
    for noisy in ("bokeh", "tornado.access", "distributed", "panel"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    logging.getLogger("panel.util").setLevel(logging.ERROR)  # its warnings quote what an address holds


def stop_gracefully(server: Any, queue: Any, grace: float = GRACE_S) -> None:
    """End a server when the run that goes on is over: no new run, no new page, `/health` says 503, then the loop stops.

    Runs on the server's loop; the waiting happens beside it, so that open pages still hear of their run.
    """
    if METRICS.stopping:
        server.io_loop.stop()  # asked twice: at once
        return
    METRICS.stopping = True
    log.info("stopping", extra={"fields": {"grace_s": grace}})
    queue.close(STOPPING)

    def wait() -> None:
        whole = queue.finish(grace)
        log.info("stopped", extra={"fields": {"runs_cut": not whole}})
        server.io_loop.add_callback(server.io_loop.stop)

    threading.Thread(target=wait, name="workbench-stop", daemon=True).start()
