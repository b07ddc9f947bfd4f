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
#: Most that a visitor may set a knob to whose unit is tokens; None where only this machine's user reaches the page.
max_tokens: int | None = None
#: Values of one knob that a page sweeps: a live one is replayed in milliseconds, any other runs the system for each.
MAX_LIVE_VALUES, MAX_RUN_VALUES, LIVE_VALUES, RUN_VALUES = 41, 12, 21, 5
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
    return [_one(info, system.limits.get(info.name)) for info in system.knobs().values()]


def _one(info: KnobInfo, limit: float | None) -> dict[str, Any]:
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
        "sweep": suggested(info, limit),
    }


def suggested(info: KnobInfo, limit: float | None = None) -> list[str]:
    """Return the values over which a page offers to sweep a knob, as it spells them; none for a text, a picture or a model."""
    which = kind(info)
    if which == "choice":
        return [spell(c) for c in info.choices or ()][:MAX_RUN_VALUES]
    if which == "check":
        return ["false", "true"]
    if which not in {"range", "list"} or info.name == "seed":
        return []
    low, high = info.bounds or (0, 1)
    high = min(high, limit) if limit is not None else high
    count = LIVE_VALUES if info.live else RUN_VALUES
    if which == "list" or isinstance(info.parameter, param.Integer):
        return [str(v) for v in dict.fromkeys(round(float(v)) for v in np.linspace(low, high, count))]
    step = _step(info) or 0.01
    return [
        f"{v:.6g}"
        for v in dict.fromkeys(float(low + round((v - low) / step) * step) for v in np.linspace(low, high, count))
        if v <= high
    ]


def read_values(system: System, name: str, text: Any, *, public: bool) -> list[Any]:
    """Return the values over which a knob is to be swept, from a text such as "1, 2, 4" (commas inside brackets belong to a value).

    Raises:
        InputError: fewer than two values, too many, or one that the knob does not take; nothing is left out silently.
    """
    info = system.knobs().get(name)
    if info is None or not suggested(info):
        raise InputError(expected("sweep", "a knob with a range or a choice", repr(name)[:60]))
    words = [w.strip() for w in re.split(r",(?![^\[]*\])", str(text)[:MAX_TEXT]) if w.strip()]
    most = MAX_LIVE_VALUES if info.live else MAX_RUN_VALUES
    if not 2 <= len(dict.fromkeys(words)) <= most:
        raise InputError(
            expected(f"values of {name}", f"2 to {most} different ones, with commas between", f"{len(dict.fromkeys(words))}")
        )
    values = [read(system, name, word, public=public) for word in dict.fromkeys(words)]
    for value in values:
        type(system)(**{name: value})  # says now, not in the middle of the sweep, that a value is out of range
    return values


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
    if max_tokens is not None and info.unit == "tokens":
        most = max_tokens if most is None else min(most, max_tokens)
    size = _size(info, value)
    if most is not None and size is not None and size > most:
        then = "Run it in a notebook for more"
        got = str(size) if size < 10**12 else "far more"
        raise InputError(expected(info.name, f"at most {most} on a shared page", got, then=then))


def _size(info: KnobInfo, value: Any) -> float | int | None:
    """Return what a limit counts: a number itself, the largest of a branching, the length of a text or of its token ids."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return value
    if isinstance(value, list) and kind(info) == "list":
        return max((v for v in value if isinstance(v, (int, float))), default=None)
    return len(value) if isinstance(value, (str, list)) else None


def _is_name(value: str, known: Sequence[str]) -> bool:
    return value in known or (_HUB_NAME.fullmatch(value) is not None and not os.path.exists(value))
