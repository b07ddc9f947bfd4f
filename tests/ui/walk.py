"""A tiny system for the tests of the page: random walks against their exact law. It shows every kind of knob."""

from __future__ import annotations

import math
import time
from typing import Any

import numpy as np
import param

from workbench import theme as house
from workbench.errors import InputError, expected
from workbench.record import Record
from workbench.system import Branching, Columns, ModelName, Prompt, System, knob
from workbench.tape import NullTape
from workbench.views import View


class Walk(System):
    """How many random walkers are further away than a threshold, and how near is that to the normal law?"""

    key = "walk"
    title = "Random walks"
    year = 1905
    family = "tests"
    asks = "How far does a random walk get?"
    shows = ("walk_reach", "walk_length", "walk_paths")
    presets = {"small": {"walkers": 50, "length": 8}, "far": {"threshold": 6.0}}
    limits = {"walkers": 2000}

    threshold = knob(
        param.Number, 2.0, bounds=(0.0, 10.0), step=0.1, live=True, unit="steps", symbol="d", doc="Distance that counts as far."
    )
    walkers = knob(param.Integer, 200, bounds=(10, 5000), doc="Independent walkers.")
    length = knob(param.Integer, 12, bounds=(2, 400), symbol="n", unit="steps", doc="Steps of each walk.")
    pace_ms = knob(param.Number, 0.0, bounds=(0.0, 200.0), unit="ms", doc="Rest after each step.")
    law = knob(param.Selector, "fair", objects=["fair", "lazy"], doc="Whether a walker may stay where it is.")
    motto = knob(Prompt, "one step at a time", doc="Written out, one word a step.")
    model = knob(ModelName, "coin", names=("coin", "die"), doc="What draws the steps.", advanced=True)
    branching = knob(Branching, None, doc="Not used; a knob that may choose by itself.", advanced=True)
    strict = knob(param.Boolean, False, doc="Count only walkers strictly beyond.", advanced=True)

    def run(self, tape: NullTape) -> None:
        if not str(self.motto).strip():
            raise InputError(expected("motto", "at least one word", "an empty text", then="Write one"))
        if self.motto == "boom":
            raise RuntimeError("an error that nobody foresaw")
        rng = np.random.default_rng(self.seed)
        words, place = str(self.motto).split(), np.zeros(self.walkers)
        began = time.perf_counter()
        for step in range(self.length):
            place = place + self._moves(rng)
            tape.write("curve/places", curve="walker", x=np.arange(self.walkers), y=place, y_low=np.nan, y_high=np.nan, step=step)
            tape.write("text", token_id=step, piece=words[step % len(words)] + " ", generated=True, step=step, source="target")
            time.sleep(self.pace_ms / 1e3)
            tape.step(step + 1, self.length, " ".join(words[i % len(words)] for i in range(step + 1)), "walking")
        seconds = time.perf_counter() - began
        tape.write(
            "meters", meter="steps_per_second", value=self.walkers * self.length / seconds, unit="steps/s", kind="speed", better="higher",
            provenance="measured", baseline=math.nan, baseline_name="",
        )  # fmt: skip

    def _moves(self, rng: np.random.Generator) -> np.ndarray:
        return rng.choice([-1.0, 1.0] if self.law == "fair" else [-1.0, 0.0, 1.0], self.walkers)

    def derive(self, record: Record) -> Columns:
        """Return the share beyond the threshold at each step, and the meter that compares the last with the normal law."""
        place, step = record["curve/places"]["y"].values, record["curve/places"]["step"].values
        far = np.abs(place) > self.threshold
        count = int(step.max()) + 1
        share = np.array([far[step == s].mean() for s in range(count)])
        law = np.array([math.erfc(self.threshold / math.sqrt(2 * (s + 1))) for s in range(count)])
        none = np.full(count, np.nan)
        reach = {"curve": np.full(count, "walkers"), "x": np.arange(count), "y": share, "y_low": none, "y_high": none, "law": law}
        return {"curve/reach": reach} | (
            {"meters": _meters(record, float(share[-1]), float(law[-1]))} if "meters" in record else {}
        )


def _meters(record: Record, share: float, law: float) -> dict[str, Any]:
    row = record.meter("steps_per_second")
    columns = {k: np.array([row[k], row[k]]) for k in row}
    columns["meter"] = np.array(["steps_per_second", "far_share"])
    columns["value"], columns["baseline"] = np.array([row["value"], share]), np.array([np.nan, law])
    columns["unit"], columns["kind"] = np.array(["steps/s", "share"]), np.array(["speed", "quality"])
    columns["provenance"], columns["baseline_name"] = np.array(["measured", "derived"]), np.array(["", "normal law"])
    return columns


def _reach(record: Record, *, theme: str = "light", title: str = "", step: int = 0) -> dict[str, Any]:
    d = house.design(theme)
    x, y, law = (record["curve/reach"][name].values for name in ("x", "y", "law"))
    data = [
        {"type": "scatter", "x": x, "y": law, "name": "normal law", "line": {"color": d.line("target"), "dash": "dot"}},
        {"type": "scatter", "x": x, "y": y, "name": "walkers", "mode": "lines+markers", "line": {"color": d.line("accepted")},
         "customdata": [int(s) for s in x]},
    ]  # fmt: skip
    at = {"type": "line", "x0": step, "x1": step, "y0": 0, "y1": 1, "line": {"color": d.line("selected")}}
    axes = {"xaxis": {"title": {"text": "step"}}, "yaxis": {"title": {"text": "share beyond"}, "range": [0, 1]}}
    return house.picture(data, {"shapes": [at], "height": 300, **axes}, theme=theme, title=title, revision="reach")


def _reach_caption(record: Record, *, step: int = 0) -> str:
    return f"After step {step}, {record['curve/reach']['y'].values[step]:.0%} of the walkers are beyond the threshold."


def _reach_words(record: Record) -> str:
    return "\n".join(
        f"step {int(s) + 1}: {y:.2f}" for s, y in zip(record["curve/reach"]["x"].values, record["curve/reach"]["y"].values)
    )


def _paths(record: Record, *, theme: str = "light", title: str = "", step: int = 0) -> dict[str, Any]:
    steps = record["curve/places"]["step"].values
    y = record["curve/places"]["y"].values[steps == min(step, int(steps.max()))]
    bars = {"type": "histogram", "x": y, "marker": house.solid(theme, "accepted")}
    return house.picture([bars], {"height": 220}, theme=theme, title=title, revision="paths")


def _view(name: str, group: str, question: str, draw: Any, **options: Any) -> View:
    words: dict[str, Any] = {"say": lambda record: "places", "caption": lambda record: "One bar for each distance."}
    return View(name, (group,), question, "Read it from left to right.", draw, **(words | options))


def _plane(record: Record, *, theme: str = "light", title: str = "", others: Any = ()) -> dict[str, Any]:
    runs = [*(r for _, r in others), record]
    points = [[r.meter(m)["value"] for r in runs] for m in ("steps_per_second", "far_share")]
    dots = {"type": "scatter", "mode": "markers", "x": points[0], "y": points[1], "customdata": list(range(len(runs)))}
    return house.picture([dots], {"height": 240}, theme=theme, title=title, revision="plane")


VIEWS = {
    v.name: v
    for v in (
        _view(
            "walk_reach",
            "curve/reach",
            "How many are far away?",
            _reach,
            say=_reach_words,
            caption=_reach_caption,
            steps="curve/places",
        ),
        _view("walk_paths", "curve/places", "Where are the walkers?", _paths, steps="curve/places"),
        _view("walk_length", "curve/places", "How are they spread?", _paths, steps="curve/places"),
        _view("speed_quality", "meters", "What does speed cost?", _plane),
    )
}
