"""What every test may lean on, and the plain sentence of what is skipped where something is not here."""

from __future__ import annotations

import os
import shutil
from functools import cache

import hypothesis
import pytest

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
