"""A real Chromium on a page served in this process: fixtures that wait for what is on the page, never for a time."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.ui import walk

SLOW_MS = 20_000  # a patience, not a pause: what is waited for usually comes within a second


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "tests/ui" in str(item.path):
            item.add_marker(pytest.mark.ui)
            # Panel and Bokeh leave sockets and loops to the garbage collector when a server stops.
            item.add_marker(pytest.mark.filterwarnings("ignore::ResourceWarning"))
            item.add_marker(pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"))
            item.add_marker(pytest.mark.filterwarnings("ignore::DeprecationWarning"))


@pytest.fixture(scope="module")
def site(browser: Any) -> Iterator[str]:
    """The address of a server with the page of the tests' own system, and a catalogue."""
    from widgets import app, serve
    from widgets.compare import Compare
    from widgets.gallery import Gallery
    from workbench import views

    patch = pytest.MonkeyPatch()
    shown = walk.VIEWS | {"knob_curve": views.get("knob_curve")}
    patch.setattr(views, "registry", lambda: shown)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    routes: dict[str, Any] = {
        "/": lambda: Gallery(),
        "compare": lambda: Compare(),
        "app": app.page,
        "walk": serve.page(walk.Walk),
    }
    server = serve.serve(port=port, threaded=True, routes=routes)
    yield f"http://localhost:{port}"
    server.stop()
    patch.undo()


#: No knob waits for its answer and no picture for its drawing. The parts of a page stand in shadow roots.
_SETTLED = """() => {
  const busy = (node) => [...node.querySelectorAll("*")].some((child) =>
    (child.getAttribute("aria-busy") === "true" && child.checkVisibility()) || (child.shadowRoot && busy(child.shadowRoot)))
  return !busy(document)
}"""


class Live:
    """A page in the browser, with the questions that the tests ask of it."""

    def __init__(self, context: Any) -> None:
        self.errors: list[str] = []
        self.page = context.new_page()
        self.page.set_default_timeout(SLOW_MS)
        self.page.on("console", lambda message: self.errors.append(message.text) if message.type == "error" else None)
        self.page.on("requestfailed", lambda request: self.errors.append(f"not loaded: {request.url}"))
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))

    def open(self, address: str, *, state: str = "measured") -> Live:
        self.page.goto(address)
        self.state(state)
        return self

    def state(self, name: str) -> None:
        """Wait until the page says that it stands so, with its picture drawn where a run is through."""
        self.page.locator(f".badge[data-state={name}]").wait_for()
        if name == "measured":
            self.hero.wait_for()

    @property
    def badge(self) -> Any:
        return self.page.locator(".badge")

    @property
    def hero(self) -> Any:
        return self.page.locator("figure.picture[data-drawn]").first

    @property
    def caption(self) -> Any:
        return self.page.locator("figure.picture figcaption").first

    def picture(self, question: str) -> Any:
        return self.page.locator("figure.picture", has=self.page.get_by_role("heading", name=question))

    def drawn(self) -> str:
        return str(self.hero.get_attribute("data-drawn"))

    def settled(self) -> None:
        """Wait until the page has answered every knob and every picture on show is that of its record."""
        self.page.wait_for_function(_SETTLED)

    def until(self, holds: Callable[[], bool], what: str) -> None:
        """Wait until something holds that only Python can tell."""
        for _ in range(SLOW_MS // 50):
            if holds():
                return
            self.page.wait_for_timeout(50)
        pytest.fail(f"waited {SLOW_MS} ms: {what}")

    def slide(self, name: str, value: float, *, release: bool = False) -> None:
        """Move a slider as a hand does: `input` events on the way, `change` when it lets go."""
        events = ["input", "change"] if release else ["input"]
        script = "(node, [value, events]) => { node.value = value; events.forEach((e) => node.dispatchEvent(new Event(e, {bubbles: true}))) }"
        self.page.locator(f"#knob-{name}").evaluate(script, [str(value), events])

    def write(self, name: str, text: str) -> None:
        """Type into a knob and leave it with Enter."""
        self.page.locator(f"#knob-{name}").fill(text)
        self.page.locator(f"#knob-{name}").press("Enter")

    def curve(self) -> list[float]:
        """Return the ordinates of the hero's second trace, as the browser holds them."""
        return list(
            self.page.locator("figure.picture .js-plotly-plot").first.evaluate("(plot) => Array.from(plot._fullData[1].y)")
        )


@pytest.fixture
def live(browser: Any, site: str) -> Iterator[Live]:
    from playwright.sync_api import expect

    expect.set_options(timeout=SLOW_MS)
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    yield Live(context)
    context.close()
