"""From a knob's declaration to its control, and from what a browser or a link sent back to a checked value."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import param

from workbench.errors import InputError, expected
from workbench.system import Branching, KnobInfo, ModelName, PictureInput, Prompt, System, plain

MAX_STOPS = 10_000  # a whole-number range with more stops is typed, not dragged
MAX_TEXT = 8_000  # characters a visitor may send as one text
#: Whether a visitor may name any model of the hub. `serve` forbids it where others than this machine's user reach the page:
#: a model by name is a download and memory without a bound.
any_model = True
_HUB_NAME = re.compile(r"[\w][\w.-]*(/[\w][\w.-]*)?")


def kind(info: KnobInfo) -> str:
    """Return which control a knob gets: check, choice, picture, list, text, line, number or range."""
    knob = info.parameter
    if isinstance(knob, param.Boolean):
        return "check"
    if isinstance(knob, param.Selector):
        return "choice"
    if isinstance(knob, PictureInput):
        return "picture"
    if isinstance(knob, Branching):
        return "list"
    if isinstance(knob, Prompt):
        return "text"
    if not isinstance(knob, param.Number):
        return "line"
    return "range" if _draggable(info) else "number"


def _draggable(info: KnobInfo) -> bool:
    low, high = info.bounds or (None, None)
    if low is None or high is None or not math.isfinite(high - low):
        return False
    return not isinstance(info.parameter, param.Integer) or high - low <= MAX_STOPS


def spec(system: type[System]) -> list[dict[str, Any]]:
    """Return one plain dict for each knob: all that the browser needs to draw its control."""
    return [_one(info) for info in system.knobs().values()]


def _one(info: KnobInfo) -> dict[str, Any]:
    low, high = info.bounds or (None, None)
    nullable = bool(getattr(info.parameter, "allow_None", False)) or info.default is None
    choices = info.choices or list(getattr(info.parameter, "names", ()))
    return {
        "name": info.name,
        "kind": kind(info),
        "label": info.label,
        "symbol": info.symbol,
        "unit": info.unit,
        "doc": info.doc,
        "live": info.live,
        "advanced": info.advanced,
        "min": low,
        "max": high,
        "step": _step(info),
        "default": spell(info.default) if kind(info) == "choice" else plain(info.default),
        "default_text": spell(info.default),
        "choices": [spell(c) for c in choices],
        "nullable": nullable,
    }


def _step(info: KnobInfo) -> float | int | None:
    if isinstance(info.parameter, param.Integer):
        return 1
    if getattr(info.parameter, "step", None):
        return info.parameter.step
    if kind(info) != "range":
        return None
    low, high = info.bounds  # type: ignore[misc]
    return float(f"{(high - low) / 100:.1g}")


def spell(value: Any) -> str:
    """Return a value as a link, a command line or a control spells it; `KnobInfo.parse` reads it back."""
    value = plain(value)
    if value is None:
        return "auto"
    return ("true" if value else "false") if isinstance(value, bool) else str(value)


def shown(system: System) -> dict[str, Any]:
    """Return the present values as the controls show them."""
    values = system.values()
    return {n: spell(v) if kind(i) == "choice" else v for n, v in values.items() for i in [system.knobs()[n]]}


def read(system: System, name: str, raw: Any, *, public: bool) -> Any:
    """Return the value that a control or a link sent for a knob, checked for what a visitor may ask.

    Args:
        system: whose knob it is; a mapping `limits` on it says how far a served page may go (`{knob: greatest value}`).
        name: knob.
        raw: number, text, boolean, list or None, straight from the browser.
        public: the page is served over a network: texts, paths and sizes are limited.
    Raises:
        InputError: the value cannot be read, or a visitor may not ask for it.
    """
    info = system.knobs().get(name)
    if info is None:
        raise InputError(expected("knob", "one of " + ", ".join(system.knobs()), repr(name)))
    value = _parse(info, raw)
    if public:
        _admit(info, value, getattr(system, "limits", {}))
    return value


def _parse(info: KnobInfo, raw: Any) -> Any:
    if not isinstance(raw, str):
        return int(raw) if isinstance(info.parameter, param.Integer) and isinstance(raw, float) and raw.is_integer() else raw
    text = raw.strip()
    if kind(info) == "list":
        return info.parse(f"[{text}]" if "," in text and not text.startswith("[") else text or "auto")
    if kind(info) in {"text", "line"} and not isinstance(info.parameter, ModelName):
        return info.parse(raw)
    return info.parse(text)


def _admit(info: KnobInfo, value: Any, limits: Mapping[str, Any]) -> None:
    if isinstance(value, (str, list)) and len(value) > MAX_TEXT:
        raise InputError(expected(info.name, f"at most {MAX_TEXT} characters on a shared page", f"{len(value)}"))
    if isinstance(info.parameter, ModelName) and isinstance(value, str) and not _is_name(value, info.parameter.names):
        then = "Files on the server are not opened from a page"
        raise InputError(expected(info.name, "the name of a model, such as 'org/model'", repr(value[:80]), then=then))
    if not any_model and isinstance(info.parameter, ModelName) and value not in info.parameter.names:
        offered, then = "one of " + ", ".join(info.parameter.names), "Run it in a notebook for other models"
        raise InputError(expected(info.name, offered, repr(value)[:80], then=then))
    most = limits.get(info.name)
    size = float(np.max(value)) if isinstance(value, (int, float, list)) and np.size(value) else None
    if isinstance(value, str) and most is not None:
        size = float(len(value))
    if most is not None and size is not None and size > most:
        then = "Run it in a notebook for more"
        raise InputError(expected(info.name, f"at most {most} on a shared page", f"{size:g}", then=then))


def _is_name(value: str, known: Sequence[str]) -> bool:
    return value in known or (_HUB_NAME.fullmatch(value) is not None and not os.path.exists(value))
