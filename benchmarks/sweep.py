"""How a sweep scales from one to two workers on this machine.

Run `python benchmarks/sweep.py`. The same grid of recursive speculative decoding on the shipped lab pair is swept by one and
by two worker processes (each with one numeric thread), in turn, on workers that stand already; and once in threads of this
process, one run at a time. The records must be the same. The ratio is bounded by the processors that this machine gives.
"""

from __future__ import annotations

import argparse
import logging
import platform
import time
from typing import Any

import numpy as np

import workbench as wb
from workbench import threads
from workbench.record import Record

GRID = {"depth": [1, 2, 3], "width": [1, 2, 3]}
SHARED: dict[str, Any] = {"target": "lab-target", "draft": "lab-draft", "max_new_tokens": 48, "temperature": 0.7}


def timed(client: Any, grid: dict[str, Any], shared: dict[str, Any]) -> tuple[float, Record]:
    """Return seconds and record of one sweep."""
    began = time.perf_counter()
    record = wb.sweep("rsd", grid, client, progress=False, **shared)
    return time.perf_counter() - began, record


def main() -> None:
    """Print the table."""
    from distributed import Client, LocalCluster

    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=2)
    rounds = parser.parse_args().rounds
    seconds: dict[str, list[float]] = {"1 process": [], "2 processes": [], "threads, one at a time": []}
    records = {}
    options = {"threads_per_worker": 1, "dashboard_address": "127.0.0.1:0", "silence_logs": logging.ERROR}
    with LocalCluster(n_workers=1, **options) as a, LocalCluster(n_workers=2, **options) as b, Client(a) as one, Client(b) as two:
        places = {"1 process": one, "2 processes": two, "threads, one at a time": None}
        for round_ in range(rounds + 1):
            for name, client in places.items():
                took, records[name] = timed(client, GRID, SHARED)
                if round_:  # the first round loads models and compiles kernels in every process
                    seconds[name].append(took)
    print(
        f"sweep of rsd, {len(GRID['depth']) * len(GRID['width'])} settings; {threads.available()} processors, {platform.machine()}"
    )
    for name, values in seconds.items():
        print(f"  {name:<24} {np.median(values):6.2f} s (median of {len(values)})")
    ratio = np.median(seconds["1 process"]) / np.median(seconds["2 processes"])
    print(f"  2 workers against 1: {ratio:.2f} times as fast")
    texts = [[r.at(i)["text"]["token_id"].values.tolist() for i in range(9)] for r in records.values()]
    print(f"  the same tokens everywhere: {'yes' if all(t == texts[0] for t in texts) else 'NO'}")


if __name__ == "__main__":
    main()
