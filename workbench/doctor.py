"""What is here and what would be used: versions, device, thread pools, models, kernel backends, browser, and what to mend."""

from __future__ import annotations

import importlib
import platform
import shutil
import subprocess
from functools import cache
from importlib import metadata
from typing import TYPE_CHECKING, Any

from workbench import terminal
from workbench.system import device_name

if TYPE_CHECKING:
    from rich.table import Table

#: Names under which a Chromium that the browser tests can drive is installed.
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
PACKAGES = (
    "inference-workbench",
    "torch",
    "transformers",
    "numpy",
    "numba",
    "xarray",
    "zarr",
    "panel",
    "plotly",
    "dask",
    "jupyterlab",
    "cupy-cuda13x",
)


@cache
def browser() -> str:
    """Return the path of a Chromium on PATH, or ""."""
    return next(filter(None, map(shutil.which, BROWSERS)), "")


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that decide results; "" where one is not installed."""
    found = {"python": f"{platform.python_version()} on {platform.platform(terse=True)}"}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = ""
    return found


def gpu() -> str:
    """Return what drives a GPU here, or why none is used."""
    smi = shutil.which("nvidia-smi")
    if smi is None:
        return "none (no NVIDIA driver)"
    query = [smi, "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    done = subprocess.run(query, capture_output=True, text=True)
    return "; ".join(done.stdout.strip().splitlines()) if done.returncode == 0 else f"nvidia-smi failed: {done.stderr.strip()}"


def report() -> dict[str, dict[str, Any]]:
    """Return every finding by section; the section `advice` is empty where nothing needs mending."""
    from workbench import kernels, models, threads

    threads.prepare()
    importlib.import_module("torch")  # the pools are those that a run meets, torch's included, loaded in a run's order
    pools = threads.report()
    advice = list(pools.pop("advice"))
    entries = models.available()
    if not any(entry.ready for entry in entries):
        advice.append("No model is ready: `workbench models pull smollm2-135m` fetches the embedded one.")
    if not browser():
        advice.append("No Chromium on PATH: the browser tests need one, the pages open in any browser.")
    return {
        "versions": versions(),
        "device": {"processor": device_name(), "gpu": gpu()},
        "threads": pools,
        "models": {entry.name: f"{entry.status}; {entry.kind}, {entry.size_mb:.0f} MB" for entry in entries},
        "models lie in": {"folder": str(models.cache_folder())},
        "kernels": _kernels(kernels.report()),
        "browser": {"chromium": browser() or "none found"},
        "advice": {str(i): sentence for i, sentence in enumerate(advice, start=1)},
    }


def _kernels(rows: list[dict[str, str]]) -> dict[str, str]:
    found = {row["name"]: f"{row['host']} for arrays in memory, {row['gpu']} for arrays on a GPU" for row in rows}
    reasons = dict.fromkeys(row["why"] for row in rows if row["why"])
    return found | ({"why": "; ".join(reasons)} if reasons else {})


def show() -> None:
    """Print the report."""
    console = terminal.console()
    for section, findings in report().items():
        if not findings:
            continue
        console.print(f"\n{section}", style="bold")
        table = terminal.table()
        for name, value in findings.items():
            shown = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
            table.add_row(f"  {name}", shown or "not installed")
        console.print(table)


def model_table() -> Table:
    """Return the models that can be loaded by name, ready or not, as a table."""
    from workbench import models

    table = terminal.table("name", "what", "MB", "status")
    for entry in models.available():
        table.add_row(entry.name, entry.kind, f"{entry.size_mb:.0f}", entry.status)
    return table
