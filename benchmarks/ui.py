"""How fast every page is: until something is painted, until the first picture, and from a moved knob to the repainted page.

Run `python benchmarks/ui.py` (Chromium needed), or `--system rsd` for one page.

*Opening* is measured on `workbench serve`, from the start of the navigation: *paint* is the browser's first contentful paint,
*picture* the moment at which the hero picture stands. *Cold* is the first page of a server that has just started, in a browser
that has never been there; *warm* is the same page once more.

*Moving* is measured from the slider's `input` event until the frame that shows the new hero picture (and until every picture
that the knob changes is there: the page sends the hero first), move by move in turn with the plainest way to do it with Panel:

- *naive*: a Panel slider, and for every move a new `plotly.graph_objects.Figure` of the hero view alone, assigned to a
  `pn.pane.Plotly`. From the slider's new value until that one figure is drawn, plus one frame.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import socket
import subprocess
import sys
import time
from typing import Any
from urllib.request import urlopen

import numpy as np
import panel as pn
import plotly.graph_objects as go
from _browser import FLAGS

from widgets import serve, worker
from widgets.bench import Bench
from widgets.controls import kind
from workbench import system as systems
from workbench import views
from workbench.system import KnobInfo, System

#: Collects every picture below a node, through shadow roots.
_SEEK = """
const seek = (selector, node = document, out = []) => {
  node.querySelectorAll("*").forEach((child) => {
    if (child.matches(selector)) out.push(child)
    if (child.shadowRoot) seek(selector, child.shadowRoot, out)
  })
  return out
}
// After the frame: a task posted from the frame's callback runs when that frame has been painted.
const painted = () => new Promise((done) => requestAnimationFrame(() => {
  const channel = new MessageChannel(); channel.port1.onmessage = done; channel.port2.postMessage(0)
}))
"""
_BENCH_MOVE = (
    "async ([knob, value, wait]) => {"
    + _SEEK
    + """
  const slider = seek(`#knob-${knob}`)[0], pictures = seek("figure.picture")
  const before = pictures.map((p) => p.dataset.drawn), changed = () => pictures.flatMap((p, i) => p.dataset.drawn === before[i] ? [] : [i])
  const all = () => wait === null ? changed().length > 0 : wait.every((i) => pictures[i].dataset.drawn !== before[i])
  let first = null, last = null, seen = 0
  const start = performance.now(), since = () => performance.now() - start
  slider.value = value
  slider.dispatchEvent(new Event("input", { bubbles: true }))
  await new Promise((done) => {
    const observer = new MutationObserver(() => {
      if (changed().length > seen) {
        seen = changed().length
        last = painted().then(since)
        first ??= last
      }
      if (all()) { observer.disconnect(); done() }
    })
    pictures.forEach((p) => observer.observe(p, { attributes: true, attributeFilter: ["data-drawn"] }))
    setTimeout(() => { observer.disconnect(); done() }, 3000) // a picture that this move leaves as it was
  })
  const took = [await first, await last]
  if (wait === null) await new Promise((done) => setTimeout(done, 1500))
  return [...took, changed()]
}"""
)
_NAIVE_MOVE = (
    "async ([value]) => {"
    + _SEEK
    + """
  const plot = seek(".js-plotly-plot")[0], model = [...Bokeh.documents[0]._all_models.values()].find((m) => m.type.endsWith("Slider"))
  const drawn = new Promise((done) => plot.once("plotly_afterplot", done))
  const start = performance.now()
  model.value = value
  await drawn
  await painted()
  return performance.now() - start
}"""
)


def live_knob(system: type[System]) -> KnobInfo | None:
    """Return the first live knob that is a slider."""
    return next((info for info in system.knobs().values() if info.live and kind(info) == "range"), None)


def naive_page(bench: Bench, knob: KnobInfo) -> pn.Column:
    """Return a page as one would write it first: a slider, a pane, a new figure for every value."""
    system, record = bench.system, bench.record
    assert record is not None
    view = views.get(next(name for name in system.shows if views.get(name).draws(record)))

    def figure(value: float) -> go.Figure:
        system.set(**{knob.name: value})
        return go.Figure(view.spec(system.rederive(record)))

    low, high = knob.bounds or (0, 1)
    whole = isinstance(getattr(system, knob.name), int)
    slider = (pn.widgets.IntSlider if whole else pn.widgets.FloatSlider)(
        start=low, end=high, value=getattr(system, knob.name), label=knob.label
    )
    pane = pn.pane.Plotly(figure(slider.value), sizing_mode="stretch_width", height=360)
    slider.param.watch(lambda event: setattr(pane, "object", figure(event.new)), "value")
    return pn.Column(slider, pane, sizing_mode="stretch_width")


def serve_both(system: type[System], port: int) -> tuple[Any, list[Bench]]:
    """Start both pages on a thread; return the server and the list that collects the live pages."""
    opened: list[Bench] = []

    def live() -> Bench:
        opened.append(Bench(system()))
        return opened[-1]

    def naive() -> pn.Column:
        pn.extension("plotly")
        knob = live_knob(system)
        assert knob is not None
        return naive_page(opened[0], knob)

    origins = serve.origins("127.0.0.1", port)
    return pn.serve(
        {"live": live, "naive": naive}, port=port, show=False, threaded=True, websocket_origin=origins, verbose=False
    ), opened


def values(knob: KnobInfo, moves: int) -> list[float]:
    """Return slider positions that all differ from their neighbours."""
    low, high = knob.bounds or (0, 1)
    if isinstance(knob.default, int):
        return [low + i % min(3, high - low + 1) for i in range(moves)]  # the low end, where every stop changes the picture
    return [float(v) for v in low + (high - low) * ((0.13 + 0.618 * np.arange(moves)) % 1)]  # far from the one before


def measure(system: type[System], moves: int, browser: Any) -> tuple[list[float], list[float], list[float], int] | None:
    """Return what `_take_turns` measures, with both pages served from this process; None where no live knob is a slider."""
    knob, port = live_knob(system), free_port()
    if knob is None:
        return None
    server, _ = serve_both(system, port)
    contexts = [browser.new_context(viewport={"width": 1280, "height": 1000}) for _ in range(2)]
    try:
        live, naive = (context.new_page() for context in contexts)
        live.goto(f"http://localhost:{port}/live")
        live.locator("figure.picture[data-drawn]").first.wait_for(timeout=60_000)
        live.locator(".badge:is([data-state=measured], [data-state=recorded])").wait_for(timeout=60_000)
        naive.goto(f"http://localhost:{port}/naive")
        naive.locator(".js-plotly-plot .main-svg").first.wait_for(timeout=60_000)
        live.wait_for_timeout(3000)  # the pictures further down are drawn too, and belong to no move
        return _take_turns(live, naive, knob, moves)
    finally:
        for context in contexts:
            context.close()
        server.stop()


def _take_turns(live: Any, naive: Any, knob: KnobInfo, moves: int) -> tuple[list[float], list[float], list[float], int]:
    """Return milliseconds until the hero, until every picture, and of the naive page, in turn; and how many pictures change."""
    positions = values(knob, moves + 8)
    seen = [set(live.evaluate(_BENCH_MOVE, [knob.name, value, None])[2]) for value in positions[:3]]
    wait = sorted(seen[1] & seen[2] or seen[1])  # those that every move changes: the first leaves the run as it was recorded
    hero, ours, plain = [], [], []
    for value in positions[3:]:
        first_ms, all_ms, changed = live.evaluate(_BENCH_MOVE, [knob.name, value, wait])
        if changed:  # else this value shows what the one before it showed
            hero.append(first_ms)
            ours.append(all_ms)
        plain.append(naive.evaluate(_NAIVE_MOVE, [value]))
    return hero[5:], ours[5:], plain[5:], len(wait)


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def opened_once(browser: Any, path: str) -> list[float]:
    """Return seconds to the first paint and to the first picture, cold, then the same warm (no picture: NaN)."""
    port = free_port()
    command = [sys.executable, "-m", "workbench", "serve", "--no-show", "--port", str(port)]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    context = browser.new_context(viewport={"width": 1280, "height": 1000})
    try:
        _healthy(f"http://127.0.0.1:{port}/health")
        page = context.new_page()
        times: list[float] = []
        for _ in range(2):
            page.goto(f"http://localhost:{port}/{path}", wait_until="commit")
            times += page.evaluate(_OPENED, 60_000)
        return times
    finally:
        context.close()
        process.terminate()
        process.wait(60)


def _healthy(address: str) -> None:
    for _ in range(600):
        try:
            with urlopen(address, timeout=5):
                return
        except OSError:
            time.sleep(0.1)
    raise SystemExit("the server did not start")


#: Seconds to the first contentful paint, and to the first picture: a plot that is drawn, or the gallery's first thumbnail.
_OPENED = (
    "async (patience) => {"
    + _SEEK
    + """
  const paint = await new Promise((done) => new PerformanceObserver((list, observer) => {
    const found = list.getEntriesByName("first-contentful-paint")[0]
    if (found) { observer.disconnect(); done(found.startTime) }
  }).observe({ type: "paint", buffered: true }))
  const there = () => seek("figure.picture[data-drawn], .card img, .run-row").length > 0
  while (!there() && performance.now() < patience) await painted()
  await painted()
  return [paint / 1000, there() ? performance.now() / 1000 : NaN]
}"""
)


def openings(browser: Any, keys: list[str], rounds: int) -> None:
    """Print how long every page takes to open."""
    print(f"opening, seconds (median of {rounds})      cold: paint  picture    warm: paint  picture")
    for path in ["", "compare", *keys]:
        times = np.median([opened_once(browser, path) for _ in range(rounds)], axis=0)
        print(f"  /{path:<36} {times[0]:>10.2f} {times[1]:>8.2f} {times[2]:>14.2f} {times[3]:>8.2f}", flush=True)


def movings(browser: Any, keys: list[str], moves: int) -> None:
    """Print how long a live knob takes on every page, beside the naive pane."""
    print(
        f"moving, ms (p50 / p95 of {moves} moves)        hero              all pictures      naive pane        naive / hero (p50)"
    )
    for key in keys:
        system = systems.get(key)
        found = measure(system, moves, browser)
        if found is None:
            print(f"  {key}: no live knob that is a slider")
            continue
        cells = [f"{np.median(t):>7.0f} / {np.percentile(t, 95):<7.0f}" for t in found[:3]]
        knob = live_knob(system)
        assert knob is not None
        name = f"{key} ({knob.name}, {found[3]} pictures)"
        print(f"  {name:<36} {' '.join(cells)} {np.median(found[2]) / np.median(found[0]):>8.1f}", flush=True)


def main() -> None:
    """Print the tables."""
    from playwright.sync_api import sync_playwright

    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--system", nargs="+", default=[k for k, e in systems.registry().items() if not e.error])
    parser.add_argument("--moves", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=1, help="times that every page is opened cold and warm")
    parser.add_argument("--only", choices=["opening", "moving"], default=None)
    options = parser.parse_args()
    # A live knob replays a recorded run: no model is needed, and one that loads beside the measurement would be measured too.
    worker.warm = lambda system: None
    machine = f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores"
    print(f"{machine}, python {platform.python_version()}, panel {pn.__version__}, browser without a GPU on the same cores")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=FLAGS)
        if options.only != "moving":
            openings(browser, options.system, options.rounds)
        if options.only != "opening":
            movings(browser, options.system, options.moves)
        browser.close()


if __name__ == "__main__":
    main()
