"""The line of acts of a page: order, one at a time, and what changes is handed over together."""

from __future__ import annotations

import threading
import time
from collections.abc import Awaitable, Callable
from types import SimpleNamespace

from bokeh.document import Document
from tornado.ioloop import IOLoop

from tests.ui import walk
from tests.ui.conftest import Live
from widgets import turns
from widgets.bench import Bench
from widgets.turns import Turns, later


def test_without_a_session_an_act_is_done_at_once_and_what_it_asks_for_after_it() -> None:
    line, done = Turns(), []
    line.add(lambda: (line.add(lambda: done.append("asked by the first")), done.append("first")))
    assert done == ["first", "asked by the first"]


def test_acts_of_many_threads_never_overlap() -> None:
    line, inside, seen = Turns(), [0], []

    def act() -> None:
        inside[0] += 1
        time.sleep(0.001)
        seen.append(inside[0])
        inside[0] -= 1

    threads = [threading.Thread(target=lambda: [line.add(act) for _ in range(10)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == [1] * 40


def test_an_act_that_fails_does_not_end_the_line() -> None:
    line, done = Turns(), []
    try:
        line.add(lambda: 1 / 0)
    except ZeroDivisionError:
        done.append("told")
    line.add(lambda: done.append("next"))
    assert done == ["told", "next"]


def test_later_waits_for_the_end_of_the_act_on_this_thread() -> None:
    done: list[str] = []
    later(lambda: done.append("at once"))
    assert done == ["at once"]
    turns._here.news = []
    try:
        later(lambda: done.append("waits"))
        assert done == ["at once"]
        assert len(turns._here.news) == 1
    finally:
        turns._here.news = None


def test_in_a_session_acts_are_done_on_threads_and_handed_over_on_the_loop() -> None:
    loop, document = IOLoop(make_current=False), Document()
    ticking = threading.Thread(target=loop.start)

    class Session:
        destroyed = False
        server_context = SimpleNamespace(application_context=SimpleNamespace(io_loop=loop))

        async def with_locked_document(self, func: Callable[[Document], Awaitable[None]]) -> None:
            assert threading.current_thread() is ticking
            await func(document)

    session = Session()
    document._session_context = lambda: session  # type: ignore[assignment, return-value]
    line, done, told, over = Turns(document), [], [], threading.Event()

    def act(number: int) -> None:
        assert threading.current_thread() is not ticking
        done.append(number)
        later(lambda: told.append((number, threading.current_thread() is ticking)))
        if number == 39:
            later(over.set)

    ticking.start()
    for number in range(40):
        line.add(lambda number=number: act(number))  # type: ignore[misc]
    assert over.wait(20)
    line.add(lambda: 1 / 0)  # goes to the log; the line lives on
    line.close()
    line.add(lambda: done.append(-1))
    loop.add_callback(loop.stop)
    ticking.join()
    loop.close()
    assert done == list(range(40))
    assert told == [(number, True) for number in range(40)]


def test_no_part_takes_back_what_it_was_given() -> None:
    """Panel listens to the parts' models; what an act sets would come back 50 ms later, over newer values."""
    page = Bench(walk.Walk())._page.get_root()
    parts = [model for model in page.references() if "esm" in model.properties()]
    assert len(parts) > 8
    assert [model for model in parts if model._callbacks or model.data._callbacks] == []


def test_what_a_reader_does_in_a_burst_arrives_in_order(live: Live, site: str) -> None:
    """Twenty moves and their takings-back within one turn of the browser: the last one stands, on both sides."""
    live.open(f"{site}/walk")
    script = """(node) => { for (let i = 0; i < 20; i++) { node.value = i % 10
        node.dispatchEvent(new Event("change", {bubbles: true})) ; node.dispatchEvent(new Event("dblclick", {bubbles: true})) } }"""
    for _ in range(3):
        live.page.locator("#knob-threshold").evaluate(script)
        live.page.locator("#knob-motto").fill("one more")
        live.page.locator("#knob-motto").press("Enter")
        live.page.locator(".banner").wait_for(state="hidden")
        live.page.wait_for_function("() => !location.search.includes('threshold') && location.search.includes('motto')")
        assert live.page.locator("#knob-threshold").input_value() == "2"
        live.page.get_by_label("reset Motto").click()
        live.page.wait_for_function("() => !location.search.includes('motto')")
    assert live.errors == []


def test_what_a_reader_is_typing_survives_a_refresh(live: Live, site: str) -> None:
    live.open(f"{site}/walk")
    for name, text in (("motto", "half a thou"), ("length", None)):
        box = live.page.get_by_label("Length as a number") if text is None else live.page.locator(f"#knob-{name}")
        box.fill(text or "14")
        live.page.locator("#knob-threshold").evaluate(
            "(node) => { node.value = 7; node.dispatchEvent(new Event('change', {bubbles: true})) }"
        )
        live.page.wait_for_function("() => location.search.includes('threshold=7')")
        assert box.input_value() == (text or "14")
        live.page.locator("#knob-threshold").evaluate("(node) => node.dispatchEvent(new Event('dblclick', {bubbles: true}))")
        live.page.wait_for_function("() => !location.search.includes('threshold=7')")
        box.press("Enter")
        live.page.wait_for_function(f"() => location.search.includes('{name}=')")
    assert live.errors == []
