"""Understand efficient machine learning by running it.

The table of contents: `catalog`, `run`, `open`, `load`, `compare`, `sweep`, and the subpackages `models`, `kernels`, `views`.
Importing this package imports none of torch, transformers, numba, panel or xarray; they load when they are first needed.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from workbench.errors import Cancelled, WorkbenchError

if TYPE_CHECKING:
    from workbench.api import catalog, compare, load, open, run, sweep
    from workbench.record import Record

__version__ = "0.1.0"
_PLACES = {
    "catalog": "workbench.api",
    "compare": "workbench.api",
    "load": "workbench.api",
    "open": "workbench.api",
    "run": "workbench.api",
    "sweep": "workbench.api",
    "Record": "workbench.record",
}
_SUBPACKAGES = {"data", "kernels", "models", "views"}
__all__ = [
    "Cancelled",
    "Record",
    "WorkbenchError",
    "catalog",
    "compare",
    "load",
    "open",
    "run",
    "sweep",
]


def __getattr__(name: str) -> Any:
    if name in _PLACES:
        return getattr(import_module(_PLACES[name]), name)
    if name in _SUBPACKAGES:
        return import_module(f"workbench.{name}")
    raise AttributeError(f"module 'workbench' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_PLACES, *_SUBPACKAGES])
