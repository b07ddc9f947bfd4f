"""The state of a page as a link, and as the call that makes the same run."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qsl, urlencode

import numpy as np

from widgets import controls
from widgets.recorded import recorded_run
from workbench.errors import WorkbenchError
from workbench.system import OWN_PICTURE, System, plain

MAX_LINK = 1500  # characters; longer texts stay out of the address


def changed(system: System) -> dict[str, Any]:
    """Return the knobs that differ from their defaults."""
    return {n: v for n, v in system.values().items() if v != plain(system.knobs()[n].default)}


def unspelt(system: System) -> dict[str, str]:
    """Return what the changed knobs hold that no text names: a picture of the reader's own, a model passed as an object."""
    found = {}
    for name, value in changed(system).items():
        held = getattr(system, name)
        if str(value).startswith(OWN_PICTURE):
            found[name] = "your own picture: an (h, w, 3) array of numbers in [0, 1]"
        elif not isinstance(held, (str, bool, int, float, list, tuple, type(None), np.generic)):
            found[name] = f"the object that you passed ({type(held).__name__}); its name, if it has one, may not load it"
    return found


def left_out(system: System) -> list[str]:
    """Return the changed knobs that an address cannot hold: long texts, and what no text names."""
    held = unspelt(system)
    return [n for n, v in changed(system).items() if n in held or len(controls.spell(v)) > MAX_LINK]


def query(system: System, extra: Mapping[str, str]) -> str:
    """Return the query string that brings this page back: knobs that differ from their defaults, and `extra`."""
    left = left_out(system)
    pairs = {n: controls.spell(v) for n, v in changed(system).items() if n not in left}
    kept = recorded_run(system.key)
    if not pairs and kept is not None and any(kept.knobs.get(n, v) != v for n, v in system.values().items()):
        pairs = {"seed": str(system.seed)}  # an address without a knob opens on the knobs of the recorded run
    text = urlencode(pairs | {k: v for k, v in extra.items() if v})
    return f"?{text}" if text else ""


def restore(system: System, search: str, *, public: bool) -> tuple[dict[str, str], list[str]]:
    """Set the knobs a link holds; return its other keys, and a sentence for every value that could not be used."""
    other: dict[str, str] = {}
    notes: list[str] = []
    for name, text in parse_qsl(search.lstrip("?"), keep_blank_values=True):
        if name not in system.knob_names():
            other[name] = text
            continue
        try:
            system.set(**{name: controls.read(system, name, text, public=public)})
        except WorkbenchError as error:
            notes.append(str(error))
    return other, notes


def names_knob(system: System, search: str) -> bool:
    """Return whether a link holds any knob (one that only names a theme or a step does not)."""
    return any(name in system.knob_names() for name, _ in parse_qsl(search.lstrip("?"), keep_blank_values=True))


def command(system: System) -> str:
    """Return the command line that makes this run, with the knobs that differ from their defaults."""
    moved, own = changed(system), unspelt(system)
    options = [_option(n, controls.spell(v)) for n, v in moved.items() if n not in own]
    remark = [f"# {n}: {what.split(':')[0].split(';')[0]} has no spelling here; use the Python call" for n, what in own.items()]
    return "\n".join([*remark, " ".join(["workbench run", system.key, *options, "--out run.zarr.zip"])])


def _option(name: str, text: str) -> str:
    """Return `--knob value`, or `--knob=value` where the value could be taken for an option of its own."""
    return f"--{name.replace('_', '-')}{'=' if text.startswith('-') else ' '}{shlex.quote(text)}"


def python(system: System) -> str:
    """Return the call that makes this run, with the knobs that differ from their defaults."""
    moved, own = changed(system), unspelt(system)
    arguments = "".join(f", {name}={name if name in own else repr(value)}" for name, value in moved.items())
    lines = [f"{name} = ...  # {what}" for name, what in own.items()]
    return "\n".join(["import workbench as wb", "", *lines, f'record = wb.run("{system.key}"{arguments})'])
