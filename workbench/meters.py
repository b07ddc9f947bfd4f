"""What a run costs and what it is worth: timing with a synchronised device, FLOPs and bytes, intervals, rows of `meters`."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from workbench.errors import InputError, expected
from workbench.tape import NullTape, synchronize


@dataclass(frozen=True)
class Timing:
    """Milliseconds of repeated calls: median, 10th and 90th percentile, how many were counted, and the least of them."""

    median: float
    p10: float
    p90: float
    count: int
    best: float

    def __str__(self) -> str:
        return f"{self.median:.3g} ms (p10 {self.p10:.3g}, p90 {self.p90:.3g}, n {self.count})"


def summarize(milliseconds: list[float]) -> Timing:
    """Return median and spread of measured milliseconds."""
    p10, median, p90 = np.percentile(milliseconds, [10, 50, 90])
    return Timing(float(median), float(p10), float(p90), len(milliseconds), min(milliseconds))


def measure(work: Callable[[], Any], *, repeats: int = 5, warmup: int = 1, budget_s: float = math.inf) -> Timing:
    """Return the timing of calls of `work`, device-synchronised, after `warmup` calls that do not count.

    Args:
        repeats: how many calls to count; fewer (at least one) when `budget_s` seconds are used up.
    """
    for _ in range(warmup):
        work()
    times: list[float] = []
    began = time.perf_counter()
    while len(times) < repeats and (not times or time.perf_counter() - began < budget_s):
        synchronize()
        start = time.perf_counter()
        work()
        synchronize()
        times.append((time.perf_counter() - start) * 1e3)
    return summarize(times)


def interleaved(works: Mapping[str, Callable[[], Any]], *, repeats: int = 5, warmup: int = 1) -> dict[str, Timing]:
    """Return timings of several works measured in turn, A B C A B C ..., so that a drifting machine is fair to all."""
    times: dict[str, list[float]] = {name: [] for name in works}
    for turn in range(warmup + repeats):
        for name, work in works.items():
            once = measure(work, repeats=1, warmup=0).median
            if turn >= warmup:
                times[name].append(once)
    return {name: summarize(values) for name, values in times.items()}


def linear_cost(model: Any) -> tuple[int, int]:
    """Return (bytes read by one step, FLOPs of one row) of a module's linear layers."""
    import torch

    weights = [m.weight for m in model.modules() if isinstance(m, torch.nn.Linear)]
    return sum(w.numel() * w.element_size() for w in weights), sum(2 * w.numel() for w in weights)


def wilson(successes: int, trials: int, z: float = 1.96) -> tuple[float, float]:
    """Return the Wilson score interval of a share (95 % for z = 1.96); (nan, nan) for no trials."""
    if trials == 0:
        return math.nan, math.nan
    share, z2 = successes / trials, z * z
    center = (share + z2 / (2 * trials)) / (1 + z2 / trials)
    half = z * math.sqrt(share * (1 - share) / trials + z2 / (4 * trials**2)) / (1 + z2 / trials)
    return center - half, center + half


def write_meter(
    tape: NullTape,
    name: str,
    value: float,
    unit: str,
    *,
    kind: str,
    better: str,
    provenance: str = "measured",
    baseline: float = math.nan,
    baseline_name: str = "",
    spread: tuple[float, float] = (math.nan, math.nan),
    samples: int = 0,
) -> None:
    """Write one row of the group `meters`.

    Args:
        kind: speed, quality or cost. better: higher or lower. provenance: see the schema.
        baseline: the same figure for `baseline_name`, measured in the same run; NaN for none.
        spread: 10th and 90th percentile, or a confidence interval. samples: measurements behind the value.
    """
    if kind not in {"speed", "quality", "cost"} or better not in {"higher", "lower"}:
        raise InputError(expected(f"meter {name!r}", "kind speed/quality/cost and better higher/lower", f"{kind}, {better}"))
    tape.write(
        "meters",
        meter=name,
        value=float(value),
        unit=unit,
        kind=kind,
        better=better,
        provenance=provenance,
        baseline=float(baseline),
        baseline_name=baseline_name,
        low=float(spread[0]),
        high=float(spread[1]),
        samples=int(samples),
    )


def write_reported(tape: NullTape, *rows: tuple[str, float, str, str, str, float, str]) -> None:
    """Write figures that a paper reports beside the run's own; nobody here has verified them.

    Args:
        rows: (name, value, unit with the model it is of, kind, better, baseline, what the baseline is), as for `write_meter`.
    """
    for name, value, unit, kind, better, baseline, versus in rows:
        how: dict[str, Any] = {"kind": kind, "better": better, "baseline": baseline, "baseline_name": versus}
        write_meter(tape, f"{name}, in the paper", value, unit, provenance="reported", **how)
