"""A server for others: fair and bounded turns, counters, health, headers, and a stop that loses nothing."""

from __future__ import annotations

import asyncio
import http.client
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast
from unittest.mock import Mock

import numpy as np
import pytest
from bokeh.server.util import check_allowlist
from tornado.httpclient import AsyncHTTPClient, HTTPClientError, HTTPRequest
from tornado.httputil import HTTPHeaders, HTTPServerRequest
from tornado.websocket import websocket_connect

from benchmarks._visitor import Visitor
from widgets import doors, operations, running, serve, worker
from widgets.recorded import recorded_run
from widgets.shelf import new_key
from widgets.worker import Job, Owner, RunQueue
from workbench import cli, views
from workbench import system as systems
from workbench.errors import Cancelled, InputError, WorkbenchError
from workbench.record import Record

pytestmark = [
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]


class Held:
    """Runs that go on until they are let go, and the order in which they began."""

    def __init__(self, queue: RunQueue) -> None:
        self.queue, self.began, self.gate = queue, [], threading.Event()
        self.states: dict[str, list[tuple[str, int]]] = {}

    def ask(self, name: str, owner: str, address: str = "") -> Job:
        def work(job: Job) -> str:
            self.began.append(name)
            while not self.gate.wait(0.01):
                if job.cancelled.is_set():
                    raise Cancelled("stopped")
            return name

        self.states[name] = []
        return self.queue.submit(work, lambda job: self.states[name].append((job.state, job.place)), Owner(owner, address))


def until(holds: Callable[[], bool], seconds: float = 10.0) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.01)


def test_turns_are_fair_between_visitors_and_places_are_true() -> None:
    held = Held(RunQueue())
    held.ask("first", "ann")
    until(lambda: held.began == ["first"])
    for name, owner in (("ann 2", "ann"), ("ann 3", "ann"), ("bob 1", "bob"), ("eve 1", "eve"), ("bob 2", "bob")):
        held.ask(name, owner)
    last = {name: places[-1] for name, places in held.states.items()}
    assert [last[n] for n in ("bob 1", "eve 1", "ann 2", "bob 2", "ann 3")] == [("waiting", i) for i in range(1, 6)]
    held.gate.set()
    until(lambda: len(held.began) == 6)
    assert held.began == ["first", "bob 1", "eve 1", "ann 2", "bob 2", "ann 3"]


def test_the_queue_is_bounded_for_all_and_for_each() -> None:
    held = Held(RunQueue(waiting=2, each=2))
    held.ask("a", "ann")
    until(lambda: held.began == ["a"])
    held.ask("b", "ann")
    with pytest.raises(WorkbenchError, match="You have 2 runs waiting or running"):
        held.ask("c", "ann")
    held.ask("d", "bob")
    with pytest.raises(WorkbenchError, match="The machine is busy: 2 runs wait already"):
        held.ask("e", "eve")
    held.gate.set()


def test_a_visitor_with_many_pages_is_bounded_by_their_address() -> None:
    held = Held(RunQueue(waiting=20, each=2, address=3))
    for page in ("a", "b", "c"):
        held.ask(page, page, "10.0.0.1")
    with pytest.raises(WorkbenchError, match="3 runs from your network wait or go on"):
        held.ask("d", "d", "10.0.0.1")
    held.ask("e", "e", "10.0.0.2")
    for page in "fghi":
        held.ask(page, page)  # no server, no address
    held.gate.set()


def test_a_page_keeps_no_more_runs_than_its_share_of_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    shipped = recorded_run("rsd")
    assert shipped is not None
    runs = [running.Run(i, shipped, {}) for i in range(1, 40)]
    assert [r.number for r in running._recent(runs)] == list(range(16, 40))
    monkeypatch.setattr(running, "MAX_HISTORY_BYTES", 3 * sum(shipped[g].nbytes for g in shipped.groups))
    assert [r.number for r in running._recent(runs)] == [37, 38, 39]
    monkeypatch.setattr(running, "MAX_HISTORY_BYTES", 1)
    assert [r.number for r in running._recent(runs)] == [39]


def test_a_run_that_takes_too_long_is_stopped_with_a_sentence() -> None:
    held = Held(RunQueue(seconds=0.1))
    job = held.ask("long", "ann")
    until(lambda: job.state == "failed")
    assert str(job.error).startswith("The run took longer than 0.1 s, the most on a shared page.")
    assert job.late


def test_a_closed_queue_finishes_what_runs_and_refuses_the_rest() -> None:
    held = Held(RunQueue())
    running = held.ask("a", "ann")
    until(lambda: held.began == ["a"])
    waiting = held.ask("b", "bob")
    held.queue.close("The server is stopping.")
    assert waiting.state == "cancelled"
    with pytest.raises(WorkbenchError, match="stopping"):
        held.ask("c", "eve")
    threading.Timer(0.1, held.gate.set).start()
    assert held.queue.finish(5.0)
    assert running.state == "done"


def test_figures_of_several_processes_are_added_and_their_latencies_pooled(tmp_path: Path) -> None:
    board = operations.Board(tmp_path)
    board.write()
    other = json.loads((tmp_path / f"{os.getpid()}.json").read_text()) | {"pid": os.getppid(), "moves": 5, "runs": {"done": 2}}
    other["latencies_ms"] = {name: [] for name in operations.LATENCIES} | {"move": list(range(1, 101))}
    (tmp_path / f"{os.getppid()}.json").write_text(json.dumps(other))
    dead = dict(other, pid=2**22 + 1, moves=1000)
    (tmp_path / "4194305.json").write_text(json.dumps(dead))
    figures = operations.total([f for f in board.read() if f["pid"] == os.getppid()])
    np.testing.assert_equal(figures["moves"], 5)
    np.testing.assert_allclose(figures["latencies_ms"]["move"]["p95"], 95.05, atol=0.06)
    np.testing.assert_equal(operations.total(board.read())["processes"], 2)
    assert "Figures of this server" in operations.metrics_html(operations.total(board.read()))


def test_log_lines_are_json_objects_that_say_who_and_hold_no_query(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="workbench.server")
    request = HTTPServerRequest("GET", "/rsd?prompt=my+secret", headers=HTTPHeaders(), connection=Mock(context=None))
    metrics = operations.Metrics()
    metrics.request(Mock(request=request, get_status=lambda: 200))
    job = Job(lambda _: None, lambda _: None, Owner("ab12", "10.0.0.1", "rsd"), state="done", queued=1.0, began=3.0, ended=7.0)
    metrics.run_over(job)
    texts = [operations.JsonLines().format(record) for record in caplog.records]
    asked, ran = map(json.loads, texts)
    assert (asked["event"], asked["path"], asked["status"], asked["level"]) == ("request", "/rsd", 200, "info")
    assert ran | {"event": "run", "system": "rsd", "page": "ab12", "state": "done", "waited_s": 2.0, "ran_s": 4.0} == ran
    assert ran["time"].endswith("Z")
    assert "secret" not in "".join(texts)


def test_a_public_server_on_every_address_must_name_its_origins() -> None:
    with pytest.raises(InputError, match="--allow-origin"):
        serve.serve(address="0.0.0.0", public=True)
    assert serve.origins("0.0.0.0", 80, ["class.example.org", "10.0.0.5:8000"])[-2:] == ["class.example.org:80", "10.0.0.5:8000"]
    assert "*" not in serve.origins("127.0.0.1", 5006)


@pytest.mark.parametrize(
    ("origin", "advice"),
    [("https://class.example.org", "Write class.example.org:443."), ("http://10.0.0.5:8000/x", "Write 10.0.0.5:8000."), ("a b", "Write what visitors type"),
     ("host:99999", "Write what"), ("", "Write what"), ("[::1]:5006", "Write what")],
)  # fmt: skip
def test_an_origin_that_is_no_host_is_refused(origin: str, advice: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(InputError, match="expected HOST or HOST:PORT") as error:
        serve.origins("127.0.0.1", 5006, [origin])
    assert advice in str(error.value)
    np.testing.assert_equal(cli.call(["serve", "--no-show", "--allow-origin", origin]), 2)
    assert advice in capsys.readouterr().err.replace("\n", " ")


def test_a_browser_leaves_the_port_of_https_out() -> None:
    assert check_allowlist("class.example.org", serve.origins("127.0.0.1", 5006, ["class.example.org:443"]))
    assert not check_allowlist("other.example.org", serve.origins("127.0.0.1", 5006, ["class.example.org:443"]))


def test_a_free_port_is_taken_and_its_own_pages_may_connect() -> None:
    server = serve.serve(
        port=0, threaded=True, routes={"/": lambda: "none", "x": lambda: "none"}, allow_origins=["class.example"]
    )
    port = server.server.port
    assert port > 0
    for host in ("127.0.0.1", "localhost", "class.example"):
        assert asyncio.run(answer_of(port, f"http://{host}:{port}")) == 101
    assert asyncio.run(answer_of(port, "http://127.0.0.1:1")) == 403
    server.stop()


async def answer_of(port: int, origin: str) -> int:
    """Return the status that a page's socket gets when it comes from an origin."""
    page = await AsyncHTTPClient().fetch(f"http://127.0.0.1:{port}/x")
    token = page.body.decode().split('"token":"')[1].split('"')[0]
    request = HTTPRequest(f"ws://127.0.0.1:{port}/x/ws", headers={"Origin": origin})
    try:
        socket = await websocket_connect(request, subprotocols=["bokeh", token])
    except HTTPClientError as error:
        return int(error.code)
    socket.close()
    while await socket.read_message() is not None:
        pass
    return 101


@pytest.mark.parametrize(
    ("public", "address", "needed"), [(False, "127.0.0.1", False), (True, "127.0.0.1", True), (False, "0.0.0.0", True), (False, "10.1.2.3", True)]
)  # fmt: skip
def test_figures_that_others_can_reach_need_a_token(
    public: bool, address: str, needed: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delenv(serve.TOKEN, raising=False)
    token = serve._token(public, address)
    assert bool(token) == needed
    assert not needed or public or token in caplog.text
    monkeypatch.setenv(serve.TOKEN, "mine")
    assert serve._token(public, address) == ("mine" if needed else "")


@pytest.fixture(scope="module")
def site() -> Iterator[tuple[str, int]]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    from widgets.gallery import Gallery

    server = serve.serve(port=port, threaded=True, routes={"/": lambda: Gallery()})
    yield "127.0.0.1", port
    server.stop()


def ask(site: tuple[str, int], path: str, *, method: str = "GET", **headers: str) -> tuple[http.client.HTTPResponse, str]:
    connection = http.client.HTTPConnection(*site, timeout=30)
    connection.request(method, path, headers=headers)
    answer = connection.getresponse()
    text = answer.read().decode(errors="replace")
    connection.close()
    return answer, text


@pytest.mark.parametrize("path", ["/", "/health", "/metrics", "/static/js/bokeh.min.js", "/nowhere", "/static/../../etc/passwd"])
def test_every_answer_carries_the_headers(site: tuple[str, int], path: str) -> None:
    answer, text = ask(site, path)
    policy = answer.headers["Content-Security-Policy"]
    for part in ("default-src 'self'", "object-src 'none'", "frame-ancestors 'self'", "base-uri 'self'"):
        assert part in policy
    scripts = next(p for p in policy.split(";") if "script-src" in p)
    assert "unsafe-inline" not in scripts
    assert " *" not in policy
    assert "http:" not in policy
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["Referrer-Policy"] == "same-origin"
    assert answer.headers["X-Frame-Options"] == "SAMEORIGIN"
    assert "ornado" not in answer.headers["Server"]
    assert "Traceback" not in text
    assert "root:" not in text


def test_inline_scripts_carry_the_number_of_their_own_answer(site: tuple[str, int]) -> None:
    first, text = ask(site, "/")
    second, _ = ask(site, "/")
    number = first.headers["Content-Security-Policy"].split("'nonce-")[1].split("'")[0]
    assert f'<script nonce="{number}"' in text
    assert text.count("<script") == text.count(f'<script nonce="{number}"')
    assert number not in second.headers["Content-Security-Policy"]


def test_health_says_ready_and_then_stopping(site: tuple[str, int], monkeypatch: pytest.MonkeyPatch) -> None:
    answer, text = ask(site, "/health")
    assert (answer.status, json.loads(text)["status"]) == (200, "ready")
    assert ask(site, "/health", method="HEAD")[0].status == 200
    monkeypatch.setattr(operations.METRICS, "stopping", True)
    answer, text = ask(site, "/health")
    assert (answer.status, json.loads(text)["status"]) == (503, "stopping")
    answer, text = ask(site, "/")
    assert (answer.status, text) == (503, operations.STOPPING)


def test_too_many_pages_are_refused_with_a_sentence(site: tuple[str, int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doors.Gate, "limit", 0)
    answer, text = ask(site, "/")
    assert answer.status == 503
    assert text == "0 pages are open here already. Try again in a minute."


def test_a_page_of_another_origin_may_not_connect(site: tuple[str, int]) -> None:
    upgrade = {
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
        "Sec-WebSocket-Version": "13",
    }
    answer, _ = ask(site, "/ws", Origin="http://evil.example", **upgrade)
    assert answer.status == 403


def served(*options: str, **variables: str) -> tuple[subprocess.Popen[str], int]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "workbench", "serve", "rsd", "--port", str(port), "--no-show", *options]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=os.environ | variables)

    def ready() -> bool:
        assert process.poll() is None, process.stderr.read() if process.stderr else ""
        try:
            return ask(("127.0.0.1", port), "/health")[0].status == 200
        except OSError:
            return False

    until(ready, 60)
    return process, port


async def loads(address: str, path: str, times: int) -> list[tuple[str, str]]:
    """Return what as many loads of a page say of their knobs, and the documents they were given."""
    found = []
    for _ in range(times):
        visitor = await Visitor(address, path).open(ready=False)
        found.append((visitor.part("Header")["python"], visitor.documents[0]))
        await visitor.close()
    return found


class Slow:
    """A system whose model takes a moment to load, and a moment more to put away."""

    loaded = False

    def warm(self) -> Any:
        time.sleep(0.3)
        self.loaded = True
        return self

    def __del__(self) -> None:
        time.sleep(0.3)
        FREED.append(self.loaded)


FREED: list[bool] = []


def test_a_server_that_ends_waits_for_a_model_that_loads() -> None:
    """A thread that is inside torch, even only to free what it loaded, must not see the interpreter go: the process would abort."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = serve.serve(port=port, threaded=True, routes={"/": lambda: "none"})
    with pytest.raises(OSError, match="in use"):
        serve.serve(port=port, threaded=True, routes={"/": lambda: "none"})
    loading = worker.warm(cast(Any, Slow()))
    server.stop()
    assert loading is not None
    assert loading.done()
    assert FREED == [True]


def test_a_public_server_asks_for_its_token_logs_json_and_stops_when_told(tmp_path: Path) -> None:
    process, port = served("--public", WORKBENCH_ADMIN_TOKEN="secret", WORKBENCH_DATA=str(tmp_path), TMPDIR=str(tmp_path))
    place = ("127.0.0.1", port)
    assert ask(place, "/metrics")[0].status == 403
    assert ask(place, "/metrics?token=wrong")[0].status == 403
    answer, text = ask(place, "/metrics?format=json", Authorization="Bearer secret")
    assert answer.status == 200
    assert json.loads(text)["requests"]["2xx"] >= 1
    assert ask(place, "/rsd?prompt=mine")[0].status == 200
    process.send_signal(signal.SIGTERM)
    _, log = process.communicate(timeout=60)
    np.testing.assert_equal(process.returncode, 0)
    lines: list[dict[str, Any]] = [json.loads(line) for line in log.splitlines() if line.startswith("{")]
    assert {"request", "stopping", "stopped"} <= {line["event"] for line in lines}
    assert "mine" not in log
    assert "secret" not in log
    assert not list(tmp_path.glob("workbench-figures-*"))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs processes that share a socket")
def test_several_processes_share_the_port_and_stop_together(tmp_path: Path) -> None:
    process, port = served("--num-procs", "2", WORKBENCH_DATA=str(tmp_path), TMPDIR=str(tmp_path))
    place = ("127.0.0.1", port)
    until(lambda: json.loads(ask(place, "/metrics?format=json")[1])["processes"] == 2, 60)
    np.testing.assert_equal(len(list(tmp_path.glob("workbench-figures-*"))), 1)
    for call, document in asyncio.run(loads(f"http://127.0.0.1:{port}", "rsd?seed=7", 6)):  # half of the sockets meet the other
        assert call.endswith('wb.run("rsd", seed=7)')
        assert "https://cdn" not in document
    child = next(int(task) for task in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split())
    os.kill(child, signal.SIGSTOP)
    process.send_signal(signal.SIGTERM)
    os.kill(child, signal.SIGKILL)  # a process that ends badly while the server stops is not started again
    process.communicate(timeout=60)
    np.testing.assert_equal(process.returncode, 0)
    assert not list(tmp_path.glob("workbench-figures-*"))
    with pytest.raises(ConnectionRefusedError):
        ask(place, "/health")


def test_a_killed_server_comes_back_with_everything_that_was_kept(tmp_path: Path) -> None:
    """SIGKILL while a run is being kept: after a restart every kept run is listed, whole, and opens on its page."""
    key = new_key()

    async def hello(address: str, path: str, part: str) -> Visitor:
        visitor = await Visitor(address, path).open()
        await visitor.send(part, {"kind": "hello", "visitor": key})
        await visitor.until(lambda: visitor.part(part).get("visitor") == key, "the answer to hello")
        return visitor

    async def keep_and_kill(address: str, process: subprocess.Popen[str]) -> None:
        visitor = await hello(address, "rsd", "Header")
        for name in ("first", "second"):
            await visitor.send("Header", {"kind": "keep", "name": name, "note": "a note"})
            await visitor.until(lambda name=name: f"“{name}”" in visitor.part("Header").get("message", ""), "the answer to keep")
        for _ in range(5):
            await visitor.send("Header", {"kind": "keep", "name": "cut"})
        await visitor.until(lambda: "“cut”" in visitor.part("Header").get("message", ""), "the first of five")
        process.kill()
        await visitor.close()

    async def look_again(address: str) -> list[dict[str, Any]]:
        visitor = await hello(address, "compare", "List")
        await visitor.until(lambda: any(r["own"] for r in visitor.part("List").get("runs", ())), "the shelf")
        own = [run for run in visitor.part("List")["runs"] if run["own"]]
        await visitor.close()
        first = next(run for run in own if run["name"] == "first")
        opened = await hello(address, f"rsd?kept={first['key']}", "Header")
        await opened.until(lambda: "kept as “first”" in opened.part("Header").get("detail", ""), "the kept run")
        assert opened.part("Picture", title=views.get(systems.get("rsd").shows[0]).question)["figure"]
        await opened.close()
        return own

    process, port = served(WORKBENCH_DATA=str(tmp_path))
    asyncio.run(keep_and_kill(f"http://127.0.0.1:{port}", process))
    process.communicate(timeout=60)
    np.testing.assert_equal(process.returncode, -signal.SIGKILL)
    process, port = served(WORKBENCH_DATA=str(tmp_path))
    try:
        own = asyncio.run(look_again(f"http://127.0.0.1:{port}"))
    finally:
        process.terminate()
        process.communicate(timeout=60)
    names = [run["name"] for run in own]
    assert {"first", "second"} <= set(names)
    assert names.count("cut") >= 1, "an answered keep was lost"
    shipped = recorded_run("rsd")
    assert shipped is not None
    place = tmp_path / "runs" / key
    for run in own:
        found = Record.load(place / f"{run['key']}.zarr.zip")
        assert found.groups == shipped.groups
        np.testing.assert_equal(found["text"]["token_id"].values, shipped["text"]["token_id"].values)
