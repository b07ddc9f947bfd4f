"""Who comes into a server: every page has a session of its own, no door leads past the gate, an address holds no surprise."""

from __future__ import annotations

import asyncio
import gc
import http.client
import logging
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import hypothesis
import numpy as np
import pytest
from bokeh.util.token import generate_jwt_token, generate_session_id, get_session_id
from hypothesis import strategies as st
from tornado.httpclient import HTTPClientError, HTTPRequest
from tornado.websocket import websocket_connect

from benchmarks import _visitor
from benchmarks._visitor import Visitor
from tests.ui.walk import VIEWS, Walk
from widgets import app, doors, keeping, operations, serve, worker
from widgets.gallery import Gallery
from workbench import system as systems
from workbench import views

pytestmark = [
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]
AUTOLOAD = "/walk/autoload.js?bokeh-autoload-element=x&bokeh-app-path=/walk&bokeh-absolute-url=http://x/walk"


@pytest.fixture(scope="module")
def server() -> Iterator[Any]:
    patch = pytest.MonkeyPatch()
    patch.setattr(views, "registry", lambda: VIEWS)
    patch.setattr(systems, "registry", lambda: {"walk": systems.Entry("walk", "tests.ui.walk:Walk")})
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = serve.serve(port=port, threaded=True, routes={"/": lambda: Gallery(), "walk": serve.page(Walk), "app": app.page})
    yield server.server
    server.stop()
    patch.undo()
    gc.collect()  # the sockets that a stopped server leaves behind, while their warning is not an error


@pytest.fixture
def site(server: Any) -> tuple[str, int]:
    return "127.0.0.1", server.port


def ask(site: tuple[str, int], path: str, *, method: str = "GET", **headers: str) -> tuple[int, str]:
    connection = http.client.HTTPConnection(*site, timeout=30)
    connection.request(method, path, headers={name.replace("_", "-"): value for name, value in headers.items()})
    answer = connection.getresponse()
    text = answer.read().decode(errors="replace")
    connection.close()
    return answer.status, text


def visit(site: tuple[str, int], act: Any, *paths: str) -> Any:
    """Return what `act(*visitors)` returns, with one open page for each path."""

    async def all_of_it() -> Any:
        visitors = [await Visitor(f"http://{site[0]}:{site[1]}", path).open() for path in paths]
        try:
            return await act(*visitors)
        finally:
            for visitor in visitors:
                await visitor.close()

    return asyncio.run(all_of_it())


def forget(server: Any, token: str) -> None:
    """As the server does with a page whose browser does not come in time; another process never knew it."""
    del server._tornado._applications["/walk"]._sessions[get_session_id(token)]


async def connect(site: tuple[str, int], token: str) -> Any:
    address = f"http://{site[0]}:{site[1]}"
    request = HTTPRequest(f"{address.replace('http', 'ws')}/walk/ws", headers={"Origin": address})
    return await websocket_connect(request, subprotocols=["bokeh", token])


@pytest.mark.parametrize("path", ["/walk", AUTOLOAD])
@pytest.mark.parametrize("name", ["bokeh-session-id=evil", "bokeh-session-id=", "bokeh-token=evil", ""])
def test_an_address_or_a_header_names_no_session(site: tuple[str, int], path: str, name: str) -> None:
    before = operations.METRICS.sessions()
    headers = {} if name else {"Bokeh_Session_Id": "evil"}
    status, text = ask(site, f"{path}{'&' if '?' in path else '?'}{name}", **headers)
    assert (status, "expected no name of a session, got one. Open the page without it." in text) == (400, True)
    np.testing.assert_equal(operations.METRICS.sessions(), before)


@pytest.mark.parametrize(
    ("path", "status"),
    [("/walk?motto=Why?", 200), ("/walk?motto=a#b?", 200), ("/walk??&=&=1", 200), ("/walk?step=" + "9" * 5000, 400), ("/walk?step=" + "9" * 3900, 200),
     ("/?theme=%ff", 400), ("/walk?%ff=1", 400), ("/walk?motto=%c3%9f", 200), ("/static/js/%00", 404), ("/walk/ws", 403)],
)  # fmt: skip
def test_an_odd_address_gets_a_page_or_a_sentence(site: tuple[str, int], path: str, status: int) -> None:
    answer, text = ask(site, path)
    assert (answer, "Traceback" in text) == (status, False)


def test_an_odd_host_or_method_is_refused(site: tuple[str, int]) -> None:
    for host in ("[::1]:5006", "a:b:c", "::1"):
        assert ask(site, "/walk", Host=host)[0] == 400
    assert ask(site, AUTOLOAD, method="OPTIONS")[0] == 405
    assert ask(site, AUTOLOAD, method="OPTIONS", Origin="http://class.example")[0] == 200


def test_a_question_mark_in_a_link_reaches_its_knob(site: tuple[str, int]) -> None:
    async def look(page: Visitor) -> str:
        return str(page.part("Header")["python"])

    for path in ("walk?motto=Why?&threshold=3.5", "walk?motto=%57hy%3F&threshold=3.5"):
        assert "threshold=3.5, motto='Why?'" in visit(site, look, path)


def test_one_address_for_every_page_brings_each_page_back(site: tuple[str, int]) -> None:
    """As Binder and `panel serve` do: the address that a page writes, and every link on it, lead where they say."""

    async def look(page: Visitor) -> tuple[str, str, str, str]:
        await page.send("Header", {"kind": "theme", "theme": "dark"})
        await page.until(lambda: "theme=dark" in page.part("Header").get("search", ""), "the theme in the address")
        header = page.part("Header")
        return header["search"], header["python"], header["home"], header["compare"]

    search, call, home, compare = visit(site, look, "app?system=walk&length=5&group=7")
    np.testing.assert_equal(
        dict(parse_qsl(search.removeprefix("?"))), {"system": "walk", "length": "5", "group": "7", "theme": "dark"}
    )
    again, same, *_ = visit(site, look, f"app{search}")
    assert (again, same) == (search, call)

    async def kinds(*pages: Visitor) -> list[Any]:
        cards, runs = (page.part(name) for page, name in zip(pages, ("Cards", "List")))
        return [cards["rows"][0]["href"], cards["compare"], runs["app"]]

    assert visit(site, kinds, home, compare) == ["app?system=walk", "app?page=compare", "app"]


_PIECES = st.sampled_from(
    ["motto=", "step=", "theme=", "threshold=", "kept=", "&", "=", "?", "#", "%", "%00", "%ff", "%25", "%0d%0a", "+", ";", "9" * 300, "-1", "1e999", "nan",
     "bokeh-", "session-id=", "token=", "autoload-element=", "[", "{", "'", '"', "<script>", "\\", "a", "/", ".."]
)  # fmt: skip


@hypothesis.given(
    door=st.sampled_from(["/walk", "/", "/walk/autoload.js", "/health", "/metrics", "/static/js/"]),
    pieces=st.lists(_PIECES, max_size=8),
)
def test_any_address_gets_an_answer_and_no_error(server: Any, door: str, pieces: list[str]) -> None:
    status, text = ask(("127.0.0.1", server.port), f"{door}?{''.join(pieces)}")
    assert status in {200, 400, 403, 404}
    assert "Traceback" not in text


def test_what_fails_inside_is_logged_without_what_the_visitor_wrote(
    site: tuple[str, int], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: Any) -> Any:
        raise RuntimeError("inside")

    monkeypatch.setattr(operations.MetricsPage, "get", fail)
    caplog.set_level(logging.INFO)
    status, text = ask(site, "/metrics?token=mysecret")
    assert (status, "mysecret" in text, "mysecret" in caplog.text) == (500, False, False)
    assert [r.fields for r in caplog.records if r.msg == "a request failed inside"] == [{"method": "GET", "path": "/metrics"}]  # type: ignore[attr-defined]


def test_two_visitors_of_one_address_have_a_page_each(site: tuple[str, int]) -> None:
    async def move(ann: Visitor, bob: Visitor) -> list[Any]:
        await bob.send("Controls", {"kind": "settle", "values": {"threshold": 3.5, "motto": "a secret"}, "seq": 1})
        await bob.until(lambda: bob.part("Controls").get("heard") == 1, "the answer to a move")
        return [visitor.part("Header")["python"] for visitor in (ann, bob)]

    ann, bob = visit(site, move, "walk", "walk")
    assert ("a secret" in ann, "a secret" in bob) == (False, True)


def test_a_browser_that_changes_its_key_gets_no_more_turns(
    site: tuple[str, int], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("WORKBENCH_DATA", str(tmp_path))
    monkeypatch.setattr(worker.QUEUE, "each", 2)
    hold, held = threading.Event(), []
    monkeypatch.setattr(keeping, "file_of", lambda *_: (hold.wait(20), b"")[1])

    async def churn(page: Visitor) -> None:
        await page.until(lambda: page.part("Header").get("state") == "measured", "the first run")
        for number in range(6):
            await page.send("Header", {"kind": "hello", "visitor": f"{number:032x}"})
            await page.send("Header", {"kind": "download", "what": "page"})
        await page.until(lambda: "the most for one page" in page.part("Header").get("message", ""), "a refusal")
        held.append((sum(worker.QUEUE.depth), page.part("Header")["visitor"]))

    try:
        visit(site, churn, "walk")
    finally:
        hold.set()
    assert held == [(2, f"{0:032x}")]


def test_a_socket_needs_a_token_that_this_server_has_written(site: tuple[str, int]) -> None:
    own = generate_jwt_token(generate_session_id(), extra_payload={"headers": {}, "cookies": {}, "arguments": {}})
    before = operations.METRICS.sessions()
    for token in (own, f"{own}.c2lnbmVk", "x", "..."):
        with pytest.raises(HTTPClientError, match="403"):
            asyncio.run(connect(site, token))
    np.testing.assert_equal(operations.METRICS.sessions(), before)


@pytest.mark.parametrize("path", ["/walk", AUTOLOAD, "/"])
def test_no_door_leads_past_a_full_house(site: tuple[str, int], monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    before = operations.METRICS.sessions()
    monkeypatch.setattr(doors.Gate, "limit", 0)
    assert ask(site, path) == (503, "0 pages are open here already. Try again in a minute.")
    np.testing.assert_equal(operations.METRICS.sessions(), before)


def test_a_page_that_is_open_may_connect_to_a_full_house_and_no_other(
    server: Any, site: tuple[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = (ask(site, "/walk")[1].split('"token":"')[1].split('"')[0] for _ in range(2))
    monkeypatch.setattr(doors.Gate, "limit", 0)

    async def both() -> None:
        welcome = await connect(site, first)
        welcome.close()
        while await welcome.read_message() is not None:
            pass
        forget(server, second)
        with pytest.raises(HTTPClientError, match="503"):
            await connect(site, second)

    asyncio.run(both())


def test_a_page_whose_session_is_elsewhere_is_made_anew_as_its_address_asked(
    server: Any, site: tuple[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = websocket_connect

    def elsewhere(request: Any, subprotocols: list[str], **options: Any) -> Any:
        forget(server, subprotocols[1])
        return opened(request, subprotocols=subprotocols, **options)

    async def look(page: Visitor) -> tuple[str, list[str]]:
        return page.part("Header")["python"], page.documents

    known, here = visit(site, look, "walk?threshold=3.5&motto=a%3Fb+c")
    monkeypatch.setattr(_visitor, "websocket_connect", elsewhere)
    call, there = visit(site, look, "walk?threshold=3.5&motto=a%3Fb+c")
    assert call == known
    assert "threshold=3.5, motto='a?b c'" in call
    for text in (*here, *there):
        assert "https://cdn" not in text
        assert "static/extensions/panel/" in text
