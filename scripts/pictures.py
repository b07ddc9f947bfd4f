"""Draw the still pictures in docs/pictures: what the notebooks show on a code host, and the pages in the README.

.venv/bin/python scripts/pictures.py              (needs the embedded model and a Chromium)
.venv/bin/python scripts/pictures.py g_search page    only those of one paper, and the page
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from playwright.sync_api import Browser, sync_playwright

import workbench as wb
from widgets.shelf import Shelf, new_key
from workbench import data

FOLDER = Path(__file__).resolve().parent.parent / "docs" / "pictures"
PICTURE_NAMES = {"patch_film": "atp_film"}  # two papers draw this view
RECORDED = Path(wb.__file__).parent / "recorded"
PORT = 5917
#: view -> options, drawn from the run of notebooks/rsd.py
VIEWS: dict[str, dict[str, Any]] = {"text_strip": {}, "token_tree": {"step": 2}}
DRAWN = """() => {const f = r => [...r.querySelectorAll('*')].some(e => (e.classList && e.classList.contains('js-plotly-plot'))
             || (e.shadowRoot && f(e.shadowRoot))); return f(document)}"""


POEM: dict[str, Any] = {
    "prompt": "Write a short poem about rain.",
    "depth": 3,
    "width": 3,
    "temperature": 0.7,
    "max_new_tokens": 32,
}


def rsd() -> dict[str, Any]:
    """Return the figures of notebooks/rsd.py and the start notebook."""
    run = wb.run("rsd", **POEM, seed=1)
    rng = np.random.default_rng(0)
    target, draft = (wb.models.TableLM(rng.dirichlet(np.ones(4), size=4)) for _ in range(2))
    table = {"target": target, "draft": draft, "prompt": [0], "max_new_tokens": 2, "temperature": 1.0, "depth": 2, "width": 3}
    law = wb.run("rsd", **table, num_samples=2000, seed=7)
    figures = {name: run.figure(name, **options) for name, options in VIEWS.items()}
    once = wb.run("rsd", **table | {"max_new_tokens": 40}, seed=3)
    tree = once["tree"]
    rejected = tree["step"].values[tree["visited"].values & ~tree["accepted"].values]
    figures["rejection_ladder"] = once.figure("rejection_ladder", step=int(rejected[0]))
    return figures | {"lossless_monitor": law.figure("lossless_monitor")}


def zipvl() -> dict[str, Any]:
    """Return the figures of notebooks/zipvl.py."""
    read = wb.run("zipvl", prompt=data.passage("play", 1500), new_tokens=16)
    return {name: read.figure(name) for name in ("kept_tokens", "mass_curves")}


def recorded(name: str, views: tuple[str, ...]) -> dict[str, Any]:
    """Return figures of a shipped run: the notebook of that paper computes them again, with fewer questions."""
    run = wb.load(RECORDED / f"{name}.zarr.zip")
    return {view: run.figure(view) for view in views}


def bits_to_rounds() -> dict[str, Any]:
    """Return the figures of notebooks/bits_to_rounds.py, and the film of its story at a round in the middle."""
    run = wb.load(RECORDED / "bits_to_rounds.zarr.zip")
    return recorded("bits_to_rounds", ("commit_map", "bits_rounds")) | {"commit_film_story": run.figure("commit_film", step=6)}


PAPERS: dict[str, Callable[[], dict[str, Any]]] = {
    "rsd": rsd,
    "zipvl": zipvl,
    "g_search": lambda: recorded("g_search", ("patch_film", "budget_curves")),
    "parallelbench": lambda: recorded("parallelbench", ("commit_film", "why_broke", "tokens_accuracy")),
    "bits_to_rounds": bits_to_rounds,
    "prodepth": lambda: recorded("prodepth", ("depth_maps", "cost_curve", "movers_found", "ghost_speed")),
    "openmoe": lambda: recorded("openmoe", ("routing_map", "spikiness", "drop_curve")),
    "read_me": lambda: recorded("read_me", ("cache_timeline", "hit_rates", "keep_curve")),
    "atp_llava": lambda: {PICTURE_NAMES.get(n, n): f for n, f in recorded("atp_llava", ("patch_film", "kept_by_kind")).items()},
}


def draw(browser: Browser, name: str, figure: Any) -> None:
    """Write one figure as docs/pictures/<name>.png."""
    page = browser.new_page(viewport={"width": 900, "height": 460})
    page.set_content(figure.to_html(include_plotlyjs=True, full_html=True, config={"displayModeBar": False}))
    page.wait_for_selector(".main-svg")
    page.locator(".js-plotly-plot").screenshot(path=FOLDER / f"{name}.png")
    page.close()


#: Pictures of pages -> path, and the size of the window.
PAGES: dict[str, tuple[str, int, int]] = {
    "page": ("rsd", 1280, 900),
    "gallery": ("", 1280, 860),
    "compare": ("compare", 1280, 900),
}


def shoot_pages(browser: Browser, names: list[str]) -> None:
    """Write live pages as docs/pictures/<name>.png, from a server with a shelf of its own."""
    with tempfile.TemporaryDirectory(prefix="workbench-") as shelf:
        os.environ["WORKBENCH_DATA"] = shelf
        visitor = new_key()
        if "compare" in names:
            for name, method in (("plain decoding", "autoregressive"), ("a tree of drafts", "rsd-s")):
                Shelf(visitor).keep(wb.run("rsd", **POEM, method=method, seed=1), name)
        server = subprocess.Popen([sys.executable, "-m", "workbench", "serve", "--port", str(PORT), "--no-show"])
        try:
            _wait(f"http://127.0.0.1:{PORT}/")
            for name in names:
                shoot(browser, name, visitor)
        finally:
            server.terminate()
            server.wait()


def shoot(browser: Browser, name: str, visitor: str) -> None:
    path, width, height = PAGES[name]
    page = browser.new_page(viewport={"width": width, "height": height})
    page.add_init_script(f"localStorage.setItem('workbench-visitor', '{visitor}')")
    page.goto(f"http://127.0.0.1:{PORT}/{path}")
    if name == "compare":
        for run in ("plain decoding", "a tree of drafts"):
            page.get_by_label(f"compare {run}").check()
    if name != "gallery":
        page.wait_for_function(DRAWN, timeout=120_000)
    page.wait_for_timeout(4000)  # fonts, pictures and the last relayout
    page.screenshot(path=FOLDER / f"{name}.png")
    page.close()


def _wait(url: str) -> None:
    for _ in range(120):
        try:
            urllib.request.urlopen(url, timeout=5).close()
            return
        except OSError:
            time.sleep(1)
    raise SystemExit(f"{url} does not answer")


def main() -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    wanted = sys.argv[1:] or [*PAPERS, *PAGES]
    figures = {name: figure for paper in PAPERS if paper in wanted for name, figure in PAPERS[paper]().items()}
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        for name, figure in figures.items():
            draw(browser, name, figure)
        if pages := [name for name in PAGES if name in wanted]:
            shoot_pages(browser, pages)
        browser.close()


if __name__ == "__main__":
    main()
