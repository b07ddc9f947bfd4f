"""The run that a system ships so that its page has a picture before any model is loaded."""

from __future__ import annotations

import logging
from functools import cache
from importlib.resources import as_file, files

from workbench.errors import WorkbenchError
from workbench.record import Record

log = logging.getLogger("workbench.page")


def ships_run(key: str) -> bool:
    """Return whether a system ships a recorded run, without reading it."""
    return (files("workbench") / "recorded" / f"{key}.zarr.zip").is_file()


@cache
def recorded_run(key: str) -> Record | None:
    """Return the recorded run shipped for a system, or None. Read once a process; nobody writes to its arrays."""
    place = files("workbench") / "recorded" / f"{key}.zarr.zip"
    if not place.is_file():
        return None
    try:
        with as_file(place) as path:
            return Record.load(path)
    except WorkbenchError as error:
        log.warning("the recorded run of %s cannot be shown: %s", key, error)
        return None
