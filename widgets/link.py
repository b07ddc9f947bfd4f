"""The state of a page as a link, and as the call that makes the same run."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from urllib.parse import parse_qsl, urlencode

from widgets import controls
from workbench.errors import WorkbenchError
from workbench.system import OWN_PICTURE, System, plain

MAX_LINK = 1500  # characters; longer texts stay out of the address, and the page says so nowhere but in the call


def query(system: System, extra: Mapping[str, str]) -> str:
    """Return the query string that brings this page back: knobs that differ from their defaults, and `extra`."""
    pairs = {n: controls.spell(v) for n, v in system.values().items() if v != plain(system.knobs()[n].default)}
    pairs = {n: v for n, v in pairs.items() if len(v) <= MAX_LINK and not v.startswith(OWN_PICTURE)}
    text = urlencode(pairs | {k: v for k, v in extra.items() if v})
    return f"?{text}" if text else ""


def restore(system: System, search: str, *, public: bool) -> tuple[dict[str, str], list[str]]:
    """Set the knobs a link holds; return its other keys, and a sentence for every value that could not be used."""
    other: dict[str, str] = {}
    notes: list[str] = []
    for name, text in parse_qsl(search.lstrip("?")):
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
    return any(name in system.knob_names() for name, _ in parse_qsl(search.lstrip("?")))


def command(system: System) -> str:
    """Return the command line that makes this run, with the knobs that differ from their defaults."""
    changed = {n: v for n, v in system.values().items() if v != plain(system.knobs()[n].default)}
    own = [n for n, v in changed.items() if str(v).startswith(OWN_PICTURE)]
    options = [f"--{n.replace('_', '-')} {shlex.quote(controls.spell(v))}" for n, v in changed.items() if n not in own]
    remark = [f"# {n}: a picture of your own has no spelling here; use the Python call" for n in own]
    return "\n".join([*remark, " ".join(["workbench run", system.key, *options, "--out run.zarr.zip"])])


def python(system: System) -> str:
    """Return the call that makes this run, with the knobs that differ from their defaults."""
    changed = {n: v for n, v in system.values().items() if v != plain(system.knobs()[n].default)}
    own = [n for n, v in changed.items() if str(v).startswith(OWN_PICTURE)]
    arguments = "".join(f", {name}={name if name in own else repr(value)}" for name, value in changed.items())
    lines = [f"{name} = ...  # your own picture: an (h, w, 3) array of numbers in [0, 1]" for name in own]
    return "\n".join(["import workbench as wb", "", *lines, f'record = wb.run("{system.key}"{arguments})'])
