"""What every test may lean on, and the plain sentence of what is skipped where something is not here."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import hypothesis
import pytest

from benchmarks._browser import FLAGS
from workbench import system as systems

# No deadline: how fast an example runs says only how busy the machine is.
hypothesis.settings.register_profile("workbench", deadline=None, max_examples=30)
hypothesis.settings.register_profile("nightly", deadline=None, max_examples=200)
hypothesis.settings.load_profile("nightly" if os.environ.get("WORKBENCH_FUZZ") == "nightly" else "workbench")

CI = os.environ.get("CI") == "true"  # there, nothing may be skipped for want of a model or a browser
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


@cache
def _missing(marker: str) -> str:
    """Return why tests with this marker cannot run here, or ""."""
    if marker == "model":
        from workbench import models

        ready = {entry.name for entry in models.available() if entry.ready}
        return "" if "smollm2-135m" in ready else "The embedded model is not here: `make model` fetches it."
    if marker == "ui":
        return "" if any(map(shutil.which, BROWSERS)) else "No Chromium on PATH: put one there to run the browser tests."
    if shutil.which("nvidia-smi") is None:
        return "No NVIDIA GPU here: `make gpu-test` runs these where there is one."
    return ""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        for marker in ("model", "ui", "gpu"):
            if item.get_closest_marker(marker) and (marker == "gpu" or not CI) and (reason := _missing(marker)):
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> type[systems.System]:
    """Register the toy system beside the real ones."""
    from tests.toy import Toy

    entries = {**systems.registry(), "toy": systems.Entry("toy", "tests.toy:Toy")}
    monkeypatch.setattr(systems, "registry", lambda: entries)
    return Toy


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A Chromium for the tests of one file. Playwright's loop ends with it: tests of other files run loops of their own."""
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        pytest.fail("No Chromium on PATH: put one there to run the browser tests.")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield chromium
        chromium.close()


@pytest.fixture
def offline(browser: Any) -> Iterator[Any]:
    """Open a file in a tab of its own: `offline(path)` returns the tab, `offline.problems` what it said or asked a network for."""
    context = browser.new_context(viewport={"width": 1100, "height": 850}, color_scheme="light")
    yield Offline(context)
    context.close()


class Offline:
    """See the fixture."""

    def __init__(self, context: Any) -> None:
        self.problems: list[str] = []
        self.tab = context.new_page()
        self.tab.on("console", lambda m: self.problems.append(m.text))
        self.tab.on("pageerror", lambda e: self.problems.append(str(e)))
        self.tab.on("dialog", lambda d: self.problems.append(d.message))
        self.tab.on("request", lambda r: None if r.url.startswith(("file:", "data:", "blob:")) else self.problems.append(r.url))

    def __call__(self, page: Path, design: str = "light") -> Any:
        self.tab.emulate_media(color_scheme=design)
        self.tab.goto(page.as_uri())
        return self.tab
