"""How large a tree pays on this machine: measured latencies, measured acceptance, and the tree that maximises tokens/s."""

from __future__ import annotations

import json
import math
import os
import tempfile
import threading
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from workbench.errors import InputError, expected
from workbench.meters import interleaved, linear_cost, measure
from workbench.models.devices import device_of
from workbench.models.session import Session, chain_parents
from workbench.system import device_name, versions
from workbench.tape import Tape

if TYPE_CHECKING:
    from workbench.systems.speculation.rsd import RSD

#: Rows of the target's forward pass that are timed; between them the profile is interpolated.
ROWS = (1, 2, 3, 4, 5, 6, 8, 9, 12, 16)
#: Depths and widths a plan may choose.
DEPTHS, WIDTHS = range(1, 9), range(1, 5)
PILOT_PROMPT = "Write a short paragraph about how bridges carry weight, then a Python function that adds a list of numbers."


@dataclass(frozen=True)
class Profile:
    """What a plan is made from, all measured on this machine: ms by rows, ms of a draft call, acceptance by rank."""

    rows: tuple[int, ...]
    target_ms: tuple[float, ...]
    draft_ms: float
    acceptance: tuple[float, ...]  # share of visited nodes whose child of rank 1, 2, ... was accepted

    def target(self, rows: float) -> float:
        """Return the milliseconds of a target call with that many rows (interpolated)."""
        return float(np.interp(rows, self.rows, self.target_ms))


@dataclass(frozen=True)
class Plan:
    """A tree size and the speed-up the profile predicts for it."""

    depth: int
    width: int
    speedup: float


def branching(method: str, depth: int | None, width: Any) -> tuple[list[int], int]:
    """Return (branching by level, or [beam width]; depth) for a method's depth and width, 3 and 3 where both are auto."""
    if isinstance(width, (list, tuple)) and depth is not None and len(width) != depth:
        raise InputError(
            expected(
                "width", f"{depth} numbers, one for each level of depth {depth}", repr(list(width)), "", "Leave one of them out"
            )
        )
    depth = 3 if depth is None else int(depth)
    width = 3 if width is None else width
    if method == "autoregressive":
        return [], 0
    if method == "chain":
        if isinstance(width, (list, tuple)) and set(width) != {1}:
            raise InputError(
                expected("width", "1 at every level of a chain", repr(list(width)), "", "Use method='rsd-c' for a tree")
            )
        return [1] * depth, depth
    if method == "rsd-s":
        if isinstance(width, (list, tuple)):
            raise InputError(
                expected("width", "one beam width for rsd-s", repr(list(width)), "", "Use method='rsd-c' for a list")
            )
        return [int(width)], depth
    if isinstance(width, (list, tuple)):
        return [int(w) for w in width], len(width)
    return [int(width)] * depth, depth


def node_count(method: str, widths: Sequence[int], depth: int) -> int:
    """Return the largest number of nodes (without the root) a tree of this shape can have."""
    if method == "rsd-s":
        return widths[0] * depth
    return sum(math.prod(widths[: level + 1]) for level in range(depth))


def expected_tokens(acceptance: Sequence[float], depth: int, width: int) -> float:
    """Return the predicted tokens per step: 1 + sum over levels of the chance to get that deep."""
    level = min(sum(acceptance[:width]), 1.0)
    return 1 + sum(level**depth_reached for depth_reached in range(1, depth + 1))


def best_plan(profile: Profile) -> Plan:
    """Return the tree whose predicted tokens per millisecond is largest (a beam of `width` keeps width nodes a level)."""
    plain = profile.target(1)

    def speedup(depth: int, width: int) -> float:
        nodes = depth * width
        cost = depth * profile.draft_ms + profile.target(1 + nodes)
        return expected_tokens(profile.acceptance, depth, width) * plain / cost

    shapes = [(d, w) for d in DEPTHS for w in WIDTHS if 1 + d * w <= max(profile.rows)]
    depth, width = max(shapes, key=lambda s: speedup(*s))
    return Plan(depth, width, speedup(depth, width))


def latency(session: Session, rows: Sequence[int] = ROWS, turns: int = 3) -> list[float]:
    """Return the milliseconds of a forward pass for each count of rows on a session's present prefix.

    The least of `turns` calls counts, all counts of rows in turn: another program on the machine only ever adds time. More
    rows are never less work, so no count is left dearer than a larger one.
    """

    def once(count: int) -> None:
        session.forward([1] * count, [-1] * count)
        session.keep([])

    once(max(rows))  # compiles and warms up
    works: dict[str, Callable[[], None]] = {str(n): partial(once, n) for n in rows}
    least = [timing.best for timing in interleaved(works, repeats=turns, warmup=0).values()]
    return np.minimum.accumulate(least[::-1])[::-1].tolist()


_profiles: dict[str, Profile] = {}
_lock = threading.Lock()


def choose(loaded: Any, draft: Any, temperature: float) -> Plan:
    """Return the plan for a target and draft on this machine.

    The profile behind it is measured once (about two seconds) and kept in the user's cache, so that one machine keeps giving
    one answer: a seed then fixes the run.
    """
    names = f"{loaded.name}|{getattr(draft, 'name', draft)}|{'greedy' if temperature == 0 else 'sampled'}"
    key = "|".join([names, device_name(), versions()["numba"]])
    if (place := device_of(loaded.model)).type != "cpu":  # a machine with a GPU has both, at different speeds
        key += f"|{place}"
    with _lock:
        if key not in _profiles:
            stored = _read_cache().get(key)
            _profiles[key] = _from_json(stored) if stored else profile(loaded, draft, temperature)
            if not stored:
                _write_cache(key, _profiles[key])
    return best_plan(_profiles[key])


def profile(loaded: Any, draft: Any, temperature: float) -> Profile:
    """Measure latencies by rows and, in a short pilot decode, acceptance by sibling rank."""
    from workbench.systems.speculation.rsd import RSD

    pilot = RSD(
        prompt=PILOT_PROMPT, target=loaded, draft=draft, method="rsd-s", depth=3, width=3, max_new_tokens=24,
        temperature=0.0 if temperature == 0 else 0.7,
    )  # fmt: skip
    record = pilot.record()
    visited, rank = record.column("tree", "visited"), record.column("tree", "sibling_rank")
    accepted = record.column("tree", "accepted")
    nodes = max(int((visited & (rank == 0)).sum()), 1)
    shares = tuple(float((accepted & (rank == r)).sum() / nodes) for r in range(max(WIDTHS)))
    group = record["curve/latency"]
    measured = group["curve"].values == "measured"
    return Profile(
        tuple(int(v) for v in group["x"].values[measured]),
        tuple(float(v) for v in group["y"].values[measured]),
        float(group.attrs["draft_ms"]),
        shares,
    )


def _from_json(stored: dict[str, Any]) -> Profile:
    return Profile(tuple(stored["rows"]), tuple(stored["target_ms"]), stored["draft_ms"], tuple(stored["acceptance"]))


def _cache_file() -> Path:
    from platformdirs import user_cache_path

    root = os.environ.get("WORKBENCH_CACHE")
    return (Path(root) if root else user_cache_path("workbench")) / "latency_profiles.json"


def _read_cache() -> dict[str, Any]:
    try:
        return json.loads(_cache_file().read_text())
    except (OSError, ValueError):  # a missing or damaged cache is measured again
        return {}


def _write_cache(key: str, value: Profile) -> None:
    path = _cache_file()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, partial = tempfile.mkstemp(dir=path.parent, suffix=".partial")
        with os.fdopen(handle, "w") as stream:
            json.dump(_read_cache() | {key: asdict(value)}, stream, indent=1)
        os.replace(partial, path)
    except OSError:  # a read-only home: the profile lives as long as the process
        return


def write_latency(system: RSD, tape: Tape) -> None:
    """Write `curve/latency`: measured milliseconds by rows, the memory-bound ideal, and what one draft call takes."""
    session, draft = system._session, system._draft
    times = latency(session)
    ideal = times[0]
    draft_ms = draft_call_ms(session, draft, system._prompt) if draft is not None else 0.0
    tape.write(
        "curve/latency",
        curve=["measured"] * len(ROWS) + ["memory-bound ideal"] * len(ROWS),
        x=[*ROWS, *ROWS],
        y=[*times, *([ideal] * len(ROWS))],
        y_low=[np.nan] * (2 * len(ROWS)),
        y_high=[np.nan] * (2 * len(ROWS)),
    )
    size = weight_bytes(session)
    tape.describe(
        "curve/latency", x_label="rows verified in one target call", y_label="ms", draft_ms=draft_ms, target_ms=ideal,
        target_bytes=float(size), draft_bytes=float(weight_bytes(draft)),
        target_flops_per_row=float(size / 2),  # 2 FLOPs for each fp32 weight of 4 bytes
    )  # fmt: skip


def weight_bytes(session: Session | None) -> int:
    """Return the bytes of weights that one step of a session reads; 0 for a draft without a model (prompt lookup)."""
    inner = getattr(session, "draft", session)
    stacked = getattr(inner, "weights", None)
    if stacked is not None:
        return int(getattr(stacked, "bytes_per_step", 0))
    module = getattr(inner, "model", None)
    return linear_cost(module)[0] if module is not None else 0


def draft_call_ms(target: Session, draft: Session, prompt: Sequence[int]) -> float:
    """Return the least milliseconds of a draft call with one row (as `latency` does for the target)."""
    sequence = list(prompt)[: target.length + 1] or [0]
    if draft.length < target.length or target.length >= len(sequence):
        sequence = sequence[-1:]

    def once() -> None:
        draft.forward(sequence[-1:], chain_parents(1), last_only=True)
        draft.keep([])

    return measure(once, repeats=5, warmup=1, budget_s=0.5).best
