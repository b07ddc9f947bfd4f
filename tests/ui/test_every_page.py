"""The page of every registered system on its recorded run: each live knob moves, each picture draws, nothing runs a model."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from playwright.sync_api import expect
from plotly.io.json import to_json_plotly as figure

from tests.ui.conftest import Live
from widgets.bench import Bench
from widgets.controls import kind
from widgets.recorded import recorded_run
from widgets.stage import PAIR, changed_groups, options_of
from workbench import system as systems
from workbench import views
from workbench.system import KnobInfo, System, plain

KEYS = sorted(key for key, entry in systems.registry().items() if not entry.error)


@pytest.fixture(scope="module")
def site(browser: Any) -> Iterator[str]:
    """The address of a server with every registered page, as `make serve` opens them."""
    from widgets import serve

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = serve.serve(port=port, threaded=True)
    yield f"http://localhost:{port}"
    server.stop()


def other_value(system: System, info: KnobInfo) -> Any:
    """Return a legal value of a live knob that is not its present one."""
    now = getattr(system, info.name)
    if kind(info) == "range":
        low, high = info.bounds or (0, 1)
        return low if now != low else high
    if kind(info) == "check":
        return not now
    return next(choice for choice in info.choices or [] if choice != now)


def move(live: Live, info: KnobInfo, value: Any) -> None:
    """Move a knob as a hand does."""
    control = live.page.locator(f"#knob-{info.name}")
    if info.advanced:
        control.evaluate("(node) => { node.closest('details').open = true }")
    if kind(info) == "range":
        live.slide(info.name, value)
    elif kind(info) == "check":
        control.set_checked(bool(value))
    else:
        control.select_option(str(value))


@pytest.mark.parametrize("key", KEYS)
def test_every_system_ships_a_recorded_run_that_its_views_draw(key: str) -> None:
    record = recorded_run(key)
    assert record is not None, f"{key} has no recorded run: its first picture would wait for a model"
    undrawn = [name for name in systems.get(key).shows if not views.get(name).draws(record)]
    assert set(undrawn) <= set(systems.get(key).sometimes)


@pytest.mark.parametrize("key", KEYS)
def test_a_live_knob_moved_there_and_back_shows_the_run_itself(key: str) -> None:
    record, cls = recorded_run(key), systems.get(key)
    assert record is not None
    system = cls(**{n: v for n, v in record.knobs.items() if n in cls.knobs()})
    first = system.rederive(record)
    for info in (k for k in cls.knobs().values() if k.live and kind(k) in {"range", "choice", "check"}):
        start = getattr(system, info.name)
        system.set(**{info.name: other_value(system, info)})
        moved = system.rederive(first)
        assert changed_groups(first, moved), f"{info.name} changes nothing"
        assert moved.knobs[info.name] == plain(getattr(system, info.name))
        system.set(**{info.name: start})
        back = system.rederive(moved)
        assert not changed_groups(first, back), f"{info.name} does not come back"
        assert back.knobs == first.knobs


def first_that_reacts(page: Bench, info: KnobInfo) -> tuple[str, int]:
    """Return the question of a picture that a live knob of the page changes, and the tab it stands under (-1: always on show)."""
    assert page.record is not None
    new = type(page.system)(**page.system.values() | {info.name: other_value(page.system, info)}).rederive(page.record)
    options = page._options()
    always = [name for name in type(page.system).shows if name not in page.stage.further]
    for name in [*always, *page.stage.further]:
        view = views.get(name)
        chosen = options_of(view, options)
        if not (view.draws(page.record) and view.draws(new)) or figure(view.spec(page.record, **chosen)) == figure(
            view.spec(new, **chosen)
        ):
            continue
        return view.question, page.stage.further.index(name) // PAIR if name in page.stage.further else -1
    pytest.fail(f"{info.name} changes no picture under any tab")


def reacts(live: Live, page: Bench, info: KnobInfo) -> None:
    """Move a live knob and see the picture drawn anew that it changes; move it back."""
    question, tab = first_that_reacts(page, info)
    if tab >= 0 and live.page.locator(".choices button").count():
        button = live.page.locator(".choices button").nth(tab)
        button.click()
        expect(button).to_have_attribute("aria-pressed", "true")  # comes with the pictures under it
    picture = live.picture(question)
    picture.locator(".js-plotly-plot").first.wait_for()
    live.settled()
    for value in (other_value(page.system, info), getattr(page.system, info.name)):
        before = str(picture.get_attribute("data-drawn"))
        move(live, info, value)
        expect(picture, f"{info.name} redraws {question!r}").not_to_have_attribute("data-drawn", before)
        live.settled()  # a move that is taken back before it is drawn changes nothing


@pytest.mark.parametrize("key", KEYS)
def test_live_knobs_and_every_picture_of_the_page(live: Live, site: str, key: str) -> None:
    system = systems.get(key)
    live.open(f"{site}/{key}", state="recorded")
    live.hero.wait_for()
    expect(live.page.locator("h1")).to_have_text(system.title)
    kept = recorded_run(key)
    assert kept is not None
    page = Bench(system(**{n: v for n, v in kept.knobs.items() if n in system.knobs()}))
    for info in (k for k in system.knobs().values() if k.live and kind(k) in {"range", "choice", "check"}):
        reacts(live, page, info)
        expect(live.page.locator(".banner[data-tone=error]")).to_be_hidden()
    tabs = live.page.locator(".choices button")
    for index in range(tabs.count()):
        tabs.nth(index).click()
        expect(tabs.nth(index)).to_have_attribute("aria-pressed", "true")
        shown = live.page.locator("figure.picture:visible")
        expect(shown.locator(".js-plotly-plot")).to_have_count(shown.count())
    expect(live.page.locator("figure.picture .empty:visible")).to_have_count(0)
    assert live.errors == []


def test_maps_travel_as_bytes_and_arrive_as_numbers(live: Live, site: str) -> None:
    """What the browser's plotly has of the hero's maps is what the view drew, gaps included."""
    kept = recorded_run("prodepth")
    assert kept is not None
    system = systems.get("prodepth")
    record = system(**{n: v for n, v in kept.knobs.items() if n in system.knobs()}).rederive(kept)
    live.open(f"{site}/prodepth", state="recorded")
    live.hero.wait_for()
    script = "(plot) => plot._fullData.filter((t) => t.type === 'heatmap').map((t) => Array.from(t.z, (row) => Array.from(row, (v) => Number.isNaN(v) ? null : v)))"
    found = live.page.locator("figure.picture .js-plotly-plot").first.evaluate(script)
    drawn = [t for t in views.get("depth_maps").spec(record)["data"] if t["type"] == "heatmap"]
    assert len(found) == len(drawn) > 2
    for z, trace in zip(found, drawn):
        np.testing.assert_allclose(np.array(z, float), np.array(trace["z"], float), rtol=1e-6)


def test_a_click_names_the_pixel_under_the_pointer(live: Live, site: str) -> None:
    """Anywhere on a map, and on the slice through the volume, whose ordinate is depth: the ring stands where the reader clicked."""
    live.open(f"{site}/prodepth", state="recorded")
    live.hero.wait_for()
    hero = live.page.locator("figure.picture .js-plotly-plot").first
    ring = "(plot) => { const t = plot.data.find((t) => t.name === 'chosen pixel' && t.x[0] >= 0); return [t.x[0], t.y[0]] }"
    live.settled()
    panel = hero.locator(".draglayer .nsewdrag").last
    panel.scroll_into_view_if_needed()
    box = panel.bounding_box()
    assert box is not None
    live.page.mouse.move(box["x"] + box["width"] * 0.25, box["y"] + box["height"] * 0.75)
    expect(hero.locator(".hoverlayer .hovertext").first).to_be_visible()
    live.page.mouse.down()
    live.page.mouse.up()
    column, row = 0.25 * 160 - 0.5, 0.75 * 64 - 0.5
    live.until(lambda: np.abs(np.subtract(hero.evaluate(ring), (column, row))).max() <= 1, "the ring is under the pointer")
    hero.evaluate(
        "(plot) => plot.emit('plotly_click', { points: [{ x: 7, y: 3.5, pointIndex: 0, data: { meta: { columns: 160, row: 20 } } }] })"
    )
    live.until(lambda: hero.evaluate(ring) == [7, 20], "the ring is where the slice was clicked")
    live.settled()
    live.page.get_by_role("button", name="What does the volume itself look like?").click()
    live.settled()
    cut = live.picture("What does the volume itself look like?")
    expect(cut.locator("figcaption")).to_contain_text("what matching chose for column 7")
    upper = cut.locator(".nsewdrag").first
    upper.scroll_into_view_if_needed()
    box = upper.bounding_box()
    live.page.mouse.move(box["x"] + box["width"] * 0.5, box["y"] + box["height"] * 0.5)
    expect(cut.locator(".hoverlayer .hovertext").first).to_be_visible()
    live.page.mouse.down()
    live.page.mouse.up()
    expect(cut.locator("figcaption")).to_contain_text(re.compile(r"Row 20, and the plane at .* m, chosen at column (79|80)"))
    assert abs(hero.evaluate(ring)[0] - 79.5) <= 1


def brightness(node: Any) -> float:
    """Return the mean of red, green and blue of a node's text, 0 to 255."""
    colour = node.evaluate("(node) => getComputedStyle(node).color")
    return sum(float(part) for part in re.findall(r"[\d.]+", colour)[:3]) / 3


@pytest.mark.parametrize("key", KEYS)
def test_dark_and_narrow(live: Live, site: str, key: str) -> None:
    live.page.set_viewport_size({"width": 800, "height": 900})
    live.open(f"{site}/{key}?theme=dark", state="recorded")
    live.hero.wait_for()
    expect(live.page.locator("figure.picture .js-plotly-plot .main-svg").first).to_have_css("background-color", "rgb(18, 21, 26)")
    for text in (".question", "figure.picture .title", ".knob label", "figcaption", ".meter"):
        for dark in (node for node in live.page.locator(text).all() if node.is_visible()):
            assert brightness(dark) > 110, f"{text} is dark on a dark page"
    assert live.page.evaluate("document.documentElement.scrollWidth") <= 800
    assert live.errors == []


def test_the_mouse_reaches_the_pictures(live: Live, site: str) -> None:
    """A real click on a row of the map: its expert is framed, its tokens are ringed in the text, also in the next layer; a second click lets go."""
    live.open(f"{site}/openmoe", state="recorded")
    live.hero.wait_for()
    live.settled()
    place = live.hero.locator(".nsewdrag").first.bounding_box()
    x, y = place["x"] + place["width"] / 2, place["y"] + place["height"] * 6.5 / 8  # row 6 of 8

    def click() -> None:
        live.page.mouse.move(x, y)
        expect(live.hero.locator(".hovertext").first).to_be_visible()
        live.page.mouse.down()
        live.page.mouse.up()

    click()
    expect(live.caption).to_contain_text("the tokens of expert 6 of layer 1")
    words = live.picture("Which tokens go where?")
    expect(words.locator("figcaption")).to_contain_text("Expert 6 of layer 1 takes")
    live.page.keyboard.press("ArrowRight")
    expect(live.caption).to_contain_text("In layer 3")
    expect(live.caption).to_contain_text("the tokens of expert 6 of layer 1")
    expect(words.locator("figcaption")).to_contain_text("Expert 6 of layer 1 takes")
    live.page.keyboard.press("ArrowLeft")
    live.settled()
    click()
    expect(live.caption).not_to_contain_text("the tokens of expert")
    assert live.errors == []


def test_a_token_is_dragged_to_another_step(live: Live, site: str) -> None:
    """A real mouse takes position 1 from the first bar to the last one: the knob says so, and the bits are counted anew."""
    live.open(f"{site}/parallelbench", state="recorded")
    live.hero.wait_for()
    live.page.locator(".choices button", has_text="Which step loses how many bits?").click()
    picture = live.picture("Which step loses how many bits?")
    picture.locator(".annotation").first.wait_for()
    live.settled()
    before = picture.locator("figcaption").inner_text()
    labels = picture.locator(".annotation")
    texts = [text.strip() for text in labels.all_text_contents()]
    start = labels.nth(texts.index("1")).bounding_box()
    goal = labels.nth(texts.index(str(len(texts)))).bounding_box()
    live.page.mouse.move(start["x"] + start["width"] / 2, start["y"] + start["height"] / 2)
    live.page.mouse.down()
    live.page.mouse.move(goal["x"] + goal["width"] / 2, start["y"] + start["height"] / 2, steps=8)
    live.page.mouse.up()
    expect(picture.locator("figcaption")).not_to_have_text(before)
    schedule = live.page.locator("#knob-schedule").input_value()
    assert schedule.split(" | ")[-1].split()[0] == "1", schedule
    assert "1" not in schedule.split(" | ")[0].split()
    assert live.errors == []
