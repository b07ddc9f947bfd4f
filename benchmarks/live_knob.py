"""How long a live knob takes from the reader's hand to the repainted page, beside the plainest way to do it with Panel.

Run `python benchmarks/live_knob.py` (Chromium needed). Both pages stand in one server and take turns, move by move:

- *bench*: the live page. From the slider's `input` event until the hero picture is repainted, and until every picture that
  the knob changes is: the page sends the hero first.
- *naive*: a Panel slider, and for every move a new `plotly.graph_objects.Figure` of the hero view alone, assigned to a
  `pn.pane.Plotly`. From the slider's new value until that one figure is drawn, plus one frame.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
from typing import Any

import numpy as np
import panel as pn
import plotly.graph_objects as go

from widgets import serve
from widgets.bench import Bench
from widgets.controls import kind
from workbench import system as systems
from workbench import views
from workbench.system import KnobInfo, System

FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]

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
  let first = null
  const start = performance.now()
  slider.value = value
  slider.dispatchEvent(new Event("input", { bubbles: true }))
  await new Promise((done, fail) => {
    const observer = new MutationObserver(() => {
      if (first === null && changed().length) first = painted().then(() => performance.now() - start)
      if (all()) { observer.disconnect(); done() }
    })
    pictures.forEach((p) => observer.observe(p, { attributes: true, attributeFilter: ["data-drawn"] }))
    setTimeout(() => fail(new Error("no picture changed")), 20000)
  })
  await painted()
  const took = performance.now() - start
  if (wait === null) await new Promise((done) => setTimeout(done, 1500))
  return [await first, took, changed()]
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


def live_knob(system: type[System]) -> KnobInfo:
    """Return the first live knob that is a slider."""
    return next(info for info in system.knobs().values() if info.live and kind(info) == "range")


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
        return naive_page(opened[0], live_knob(system))

    pn.config.nthreads = serve.THREADS
    origins = serve.origins("127.0.0.1", port)
    return pn.serve(
        {"live": live, "naive": naive}, port=port, show=False, threaded=True, websocket_origin=origins, verbose=False
    ), opened


def values(knob: KnobInfo, moves: int) -> list[float]:
    """Return slider positions that all differ from their neighbours."""
    low, high = knob.bounds or (0, 1)
    if isinstance(knob.default, int):
        return [low + i % min(3, high - low + 1) for i in range(moves)]  # the low end, where every stop changes the picture
    return [float(v) for v in low + (high - low) * (0.5 + 0.4 * np.sin(np.arange(moves) * 0.7))]


def measure(system: type[System], moves: int, port: int) -> tuple[list[float], list[float], list[float], int]:
    """Return what `_take_turns` measures, with both pages served from this process."""
    from playwright.sync_api import sync_playwright

    server, opened = serve_both(system, port)
    knob = live_knob(system)
    try:
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=FLAGS)
            live, naive = (browser.new_context(viewport={"width": 1280, "height": 1000}).new_page() for _ in range(2))
            live.goto(f"http://localhost:{port}/live")
            live.locator("figure.picture[data-drawn]").first.wait_for(timeout=300_000)
            live.locator(".badge:is([data-state=measured], [data-state=recorded])").wait_for(timeout=300_000)
            naive.goto(f"http://localhost:{port}/naive")
            naive.locator(".js-plotly-plot .main-svg").first.wait_for(timeout=60_000)
            if opened[0]._warming is not None:
                opened[0]._warming.exception(timeout=600)  # a model that loads beside the measurement would be measured too
            return _take_turns(live, naive, knob, moves)
    finally:
        server.stop()


def _take_turns(live: Any, naive: Any, knob: KnobInfo, moves: int) -> tuple[list[float], list[float], list[float], int]:
    """Return milliseconds until the hero, until every picture, and of the naive page, in turn; and how many pictures change."""
    first, *rest = values(knob, moves + 6)
    *_, wait = live.evaluate(_BENCH_MOVE, [knob.name, first, None])
    hero, ours, plain = [], [], []
    for value in rest:
        first_ms, all_ms, _ = live.evaluate(_BENCH_MOVE, [knob.name, value, wait])
        hero.append(first_ms)
        ours.append(all_ms)
        plain.append(naive.evaluate(_NAIVE_MOVE, [value]))
    return hero[5:], ours[5:], plain[5:], len(wait)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--system", default="rsd")
    parser.add_argument("--moves", type=int, default=60)
    parser.add_argument("--port", type=int, default=5098)
    options = parser.parse_args()
    system = systems.get(options.system)
    hero, ours, plain, pictures = measure(system, options.moves, options.port)
    print(f"live knob {live_knob(system).name!r} of {system.key}: input event to repaint, ms, {len(ours)} moves each, in turn")
    print(
        f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, python {platform.python_version()}, panel {pn.__version__}"
    )
    for name, times, drawn in (("bench, hero", hero, 1), ("bench, all", ours, pictures), ("naive Plotly pane", plain, 1)):
        p50, p95 = np.percentile(times, [50, 95])
        print(f"  {name:<18} p50 {p50:6.1f}   p95 {p95:6.1f}   pictures redrawn {drawn}")
    print(f"  ratio p50 {np.median(hero) / np.median(plain):.2f} (hero against the naive pane, which draws the same picture)")


if __name__ == "__main__":
    main()
