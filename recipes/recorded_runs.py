"""Make the recorded runs that pages show at once, before any model is loaded.

    python recipes/recorded_runs.py            # all systems below
    python recipes/recorded_runs.py rsd

Each is an ordinary run of the system with the knobs given here, saved under `workbench/recorded/`.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import workbench as wb

FOLDER = Path(__file__).parent.parent / "workbench" / "recorded"
#: Settings in which the picture has something to say: drafts that are rejected, siblings that save a step.
RUNS: dict[str, dict[str, Any]] = {
    "rsd": {
        "prompt": "Explain in simple words why the sky is blue, and why sunsets are red.",
        "method": "rsd-s",
        "draft": "eagle",
        "depth": 3,
        "width": 2,
        "temperature": 0.7,
        "max_new_tokens": 64,
        "seed": 1,
        "study": True,
    },
    "zipvl": {},
    "g_search": {"study": True},
    "atp_llava": {},
    "prodepth": {},
    "openmoe": {},
    "read_me": {"study": True, "windows": 4},
    "parallelbench": {"seed": 2},
    "bits_to_rounds": {"seed": 1},
}


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    for name in sys.argv[1:] or RUNS:
        start = time.perf_counter()
        path = wb.run(name, **RUNS[name]).save(FOLDER / f"{name}.zarr.zip")
        print(f"{path}: {path.stat().st_size / 1e3:.0f} kB in {time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
