"""A system that leaves a trace of every execution, for tests of sweeps that are killed, cancelled and resumed."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import param

from workbench.errors import InputError
from workbench.record import Record
from workbench.system import Columns, ModelName, System, knob
from workbench.tape import NullTape


class Weights:
    """Stands for a loaded model: leaves a line in a file each time a process unpacks it."""

    def __init__(self, trace: str) -> None:
        self.trace, self.name = trace, "weights"

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        line(self.trace, f"unpacked {os.getpid()}")


def line(path: str, text: str) -> None:
    """Append one line; a write this short is atomic, so that several processes may share a file."""
    with open(path, "a", encoding="utf-8") as stream:
        stream.write(text + "\n")


class Slow(System):
    """Sleeps, draws one number from its seed, and says in a file that it did."""

    key, title, family, year = "slow", "Slow", "tests", 2026
    shows = ("speed_quality",)

    item = knob(param.Integer, 0, bounds=(0, 1000), doc="Which setting this is.")
    pause_s = knob(param.Number, 0.0, bounds=(0.0, 60.0), doc="How long it sleeps, in steps of 20 ms.")
    trace = knob(param.String, "", doc="File that gets a line.")
    model = knob(ModelName, "none", doc="Anything.")
    threshold = knob(param.Number, 0.5, bounds=(0.0, 1.0), live=True, doc="Counted if the draw is above.")

    def run(self, tape: NullTape) -> None:
        if self.item == 13:
            raise InputError("item: expected anything but 13, got 13. Choose another.")
        if self.item == 666 and multiprocessing.parent_process() is not None:
            os.kill(os.getpid(), signal.SIGKILL)
        steps = 1 + int(float(self.pause_s) / 0.02)
        for step in range(steps):
            tape.step(step, steps)
            time.sleep(0.02 if self.pause_s else 0)
        draw = float(np.random.default_rng([int(self.seed), int(self.item)]).random())
        for name, kind, value in (("rate", "speed", 1.0 + int(self.item)), ("share", "quality", draw)):
            tape.write(
                "meters", meter=name, value=value, unit="1", kind=kind, better="higher", provenance="measured", baseline=np.nan, baseline_name=""
            )  # fmt: skip
        if self.trace:
            line(str(self.trace), f"ran {self.item} {os.getpid()}")

    def derive(self, record: Record) -> Columns:
        """Add whether the draw is above the threshold as a second quality."""
        return {}


def lines(path: Path) -> list[list[str]]:
    """Return the words of every line written so far."""
    return [text.split() for text in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []
