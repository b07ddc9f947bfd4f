"""A system of a few lines for tests of everything that is generic: knobs, command line, sweep, page."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import param

from workbench.errors import InputError
from workbench.record import Record
from workbench.system import Branching, Columns, ModelName, Prompt, System, knob
from workbench.tape import NullTape


class Toy(System):
    """Counts `steps` random draws; a live knob says how many lie above a threshold."""

    key = "toy"
    title = "A toy"
    year = 2026
    arxiv = "0000.00000"
    family = "tests"
    asks = "How many draws exceed the threshold?"
    presets: ClassVar[dict[str, dict[str, Any]]] = {"small": {"steps": 2}}

    prompt = knob(Prompt, "café ␣ 🙂", doc="Any text.")
    model = knob(ModelName, "none", doc="A model.")
    steps = knob(param.Integer, 5, bounds=(1, 50), unit="draws", doc="How many draws.")
    scale = knob(param.Number, 1.0, bounds=(0.0, 2.0), doc="Width of the law.")
    mode = knob(param.Selector, "plain", objects=["plain", "fails", "breaks", "extra"], doc="What happens.")
    width = knob(Branching, None, bounds=(1, 8), doc="Widths by level.")
    loud = knob(param.Boolean, False, doc="Prints.")
    threshold = knob(param.Number, 0.5, bounds=(0.0, 1.0), live=True, doc="Draws above it count.")

    def run(self, tape: NullTape) -> None:
        if self.mode == "fails":
            raise InputError("mode: expected anything but 'fails', got 'fails'. Choose 'plain'.")
        if self.mode == "breaks":
            raise ZeroDivisionError("a bug")
        if self.loud:
            print("this line must not reach stdout")
        generator = np.random.default_rng(self.seed)
        for step in range(self.steps):
            tape.write(
                "curve/draws", curve="draws", x=float(step), y=generator.random() * self.scale, y_low=np.nan, y_high=np.nan
            )
            tape.step(step + 1, self.steps, text="." * step, phase="drawing")
        _meter(tape, "draws_per_call", float(self.steps), "draw/call", "speed", 1.0)
        _meter(tape, "worst", np.nan, "", "quality", np.nan)
        if self.mode == "extra":
            _meter(tape, "extra", 7.0, "thing", "cost", np.nan)

    def derive(self, record: Record) -> Columns:
        above = np.mean(record.column("curve/draws", "y") > self.threshold)
        columns = {"curve": "above", "x": [0.0], "y": [above], "y_low": [np.nan], "y_high": [np.nan]}
        return {"curve/above": {k: np.array([v] if isinstance(v, str) else v) for k, v in columns.items()}}


def _meter(tape: NullTape, name: str, value: float, unit: str, kind: str, baseline: float) -> None:
    tape.write(
        "meters",
        meter=name,
        value=value,
        unit=unit,
        kind=kind,
        better="higher",
        provenance="measured",
        baseline=baseline,
        baseline_name="one draw",
        low=np.nan,
        high=np.nan,
        samples=1,
    )
