"""Make the cards of the catalogue: a picture of each recorded run in both designs, and what one small run needs.

    .venv/bin/python scripts/cards.py [NAME ...] [--pictures]     (needs a Chromium; --pictures measures nothing)

The picture is the system's first view over its recorded run. The needs are those of the preset `small` (or of the defaults),
in a process of its own that has loaded nothing before: seconds of the second run, so that models and compiled kernels are
there as on a page, and the peak of its resident memory.
"""

from __future__ import annotations

import argparse
import io
import json
import shutil
import subprocess
import sys
from typing import Any

from playwright.sync_api import Browser, sync_playwright

from widgets.recorded import recorded_run
from workbench import cards, views
from workbench import system as systems
from workbench.export import steps_of

SIZE = {"width": 460, "height": 300}
MEASURE = """
import json, resource, sys, time
import workbench as wb
from workbench.system import get, device_name
cls = get(sys.argv[1])
knobs = cls.presets.get("small", {})
for turn in range(2):
    began = time.perf_counter()
    wb.run(cls.key, progress=False, **knobs)
    seconds = time.perf_counter() - began
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6
print(json.dumps({"seconds": round(seconds, 2), "memory_mb": round(peak), "device": device_name(), "preset": "small" if knobs else ""}))
"""


def picture(browser: Browser, key: str, theme: str) -> None:
    """Write a system's picture in one design."""
    from PIL import Image

    record = recorded_run(key)
    if record is None:
        print(f"{key}: no recorded run, no picture", file=sys.stderr)
        return
    view = views.get(next(name for name in systems.get(key).shows if views.get(name).draws(record)))
    steps = steps_of(record, view)
    options: dict[str, Any] = {"step": steps[len(steps) // 2]} if steps and "step" in view.options() else {}
    figure = view.figure(record, theme=theme, title=False, **options)
    figure.update_layout(width=2 * SIZE["width"], height=2 * SIZE["height"], showlegend=False)
    page = browser.new_page(viewport={"width": 2 * SIZE["width"], "height": 2 * SIZE["height"]})
    page.set_content(
        f"<style>body{{margin:0}}</style>{figure.to_html(include_plotlyjs=True, full_html=False, config={'staticPlot': True})}"
    )
    page.wait_for_selector(".main-svg")
    shot = page.locator(".js-plotly-plot").screenshot()
    page.close()
    image = Image.open(io.BytesIO(shot)).convert("RGB").resize((SIZE["width"], SIZE["height"]), Image.Resampling.LANCZOS)
    image.save(cards.thumbnail(key, theme), "WEBP", quality=82, method=6)


def measure(key: str) -> None:
    """Write what a small run of a system needs."""
    done = subprocess.run([sys.executable, "-c", MEASURE, key], capture_output=True, text=True, timeout=900)
    if done.returncode:
        print(f"{key}: not measured: {done.stderr.strip().splitlines()[-1]}", file=sys.stderr)
        return
    text = done.stdout.strip().splitlines()[-1]
    json.loads(text)
    (cards.FOLDER / f"{key}.json").write_text(text + "\n", encoding="utf-8")
    print(f"{key}: {text}")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("names", nargs="*")
    parser.add_argument("--pictures", action="store_true", help="draw the pictures only")
    options = parser.parse_args()
    names = options.names or [key for key, entry in systems.registry().items() if not entry.error]
    cards.FOLDER.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        for key in names:
            for theme in cards.THEMES:
                picture(browser, key, theme)
        browser.close()
    for key in names if not options.pictures else ():
        measure(key)


if __name__ == "__main__":
    main()
