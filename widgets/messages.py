"""What the browser half of a page may say, and in what form. A message in any other form is not ours and is not acted on."""

from __future__ import annotations

from typing import Any

_PLACE: dict[str, type] = {"place": str}
_KEY: dict[str, type] = {"key": str}
_INDEX: dict[str, type] = {"index": int}
#: kind -> the fields it must have. Fields that may be missing stand in `_MAY`.
_MUST: dict[str, dict[str, type]] = {
    "live": {"values": dict}, "settle": {"values": dict}, "preset": {"name": str}, "theme": {"theme": str}, "step": {"step": int},
    "click": _PLACE, "drag": {"place": str, "name": str}, "zoom": {}, "words": {}, "tab": _INDEX, "sweep": {"knob": str, "values": str}, "close": {}, "hello": {}, "keep": {},
    "download": {}, "run": {}, "cancel": {}, "painted": {}, "dismiss": {}, "choose": {"keys": list}, "rename": _KEY, "delete": _KEY,
    "upload": {"index": int, "count": int},
}  # fmt: skip
_MAY: dict[str, type] = {
    "seq": int, "visitor": str, "name": str, "note": str, "what": str, "data": str, "x": list, "y": list, "key": str, "place": str,
}  # fmt: skip


def well_formed(message: dict[str, Any]) -> bool:
    """Return whether a message is one that the scripts of a page send. The `x` and `y` of a click or a drag may also be a point."""
    kind = message.get("kind")
    if not isinstance(kind, str) or kind not in _MUST:
        return False
    point = {"x", "y"} if kind in {"click", "drag"} else set()
    there = all(isinstance(message.get(name), form) for name, form in _MUST[kind].items())
    return there and all(
        message.get(name) is None or isinstance(message[name], form) for name, form in _MAY.items() if name not in point
    )


#: What a page says where more is asked of it than it answers in time.
TOO_MUCH = "This page was asked for more than it can do at once. Wait a moment, then try again."


def size_of(message: dict[str, Any]) -> int:
    """Return about how many bytes a message holds: of its texts, and of those one level down (a knob's value may be a picture)."""
    values = message.get("values")
    texts = [*message.values(), *(values.values() if isinstance(values, dict) else ())]
    return sum(len(v) for v in texts if isinstance(v, str))
