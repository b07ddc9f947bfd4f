"""Where does the time go? Milliseconds of every step, measured beside predicted."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from workbench import theme as house
from workbench.errors import InputError, expected
from workbench.views import View
from workbench.views.common import Spec, has, note, plural, revision, table, texts

if TYPE_CHECKING:
    from workbench.record import Record

#: part -> (measured columns, predicted column, meaning, pattern): the pattern tells the parts apart without colour.
PARTS = {
    "draft": (("draft_ms",), "predicted_draft_ms", "proposed", "."),
    "target": (("target_ms",), "predicted_target_ms", "target", ""),
    "verify": (("verify_ms", "kv_ms"), "", "context", "x"),
}
#: Steps beyond this many get no numbers above their bars.
MANY = 28


class Times:
    """Milliseconds of every step by part, and what plain decoding would take for the same tokens."""

    def __init__(self, record: Record) -> None:
        self.emitted = record.column("steps", "emitted")
        count = len(self.emitted)
        self.steps = record.column("steps", "step") if has(record, "steps", "step") else np.arange(count)
        self.measured = {p: self._sum(record, names) for p, (names, *_) in PARTS.items()}
        self.predicted = {
            p: record.column("steps", c) for p, (_, c, *_) in PARTS.items() if c and has(record, "steps", c)
        }  # fmt: skip
        self.plain = plain_ms(record) * self.emitted
        stacks = [sum(d.values()) for d in (self.measured, self.predicted) if d]
        tallest = np.max([np.nan_to_num(s) for s in (*stacks, self.plain)], axis=0)
        usual = float(np.percentile(tallest, 90))
        self.top = float(tallest.max()) * 1.15 or 1.0
        self.cut = 0
        if self.top > 4 * usual > 0:  # one stalled step must not flatten all others
            self.top = 1.6 * usual
            self.cut = int((tallest > self.top).sum())

    def _sum(self, record: Record, names: tuple[str, ...]) -> np.ndarray:
        present = [record.column("steps", n) for n in names if has(record, "steps", n)]
        return np.sum([np.nan_to_num(c) for c in present], axis=0)


def plain_ms(record: Record) -> float:
    """Return the measured milliseconds of one plain token from the meters' baseline, or NaN."""
    if "meters" not in record:
        return float("nan")
    rows = np.flatnonzero(texts(record, "meters", "meter") == "tokens_per_second")
    baseline = float(record.column("meters", "baseline")[rows[0]]) if len(rows) else 0.0
    return 1e3 / baseline if baseline > 0 else float("nan")


def draw(record: Record, *, step: int | None = None, theme: str = "light", title: str = "") -> Spec:
    """Return stacked bars of every step.

    Args:
        step: the step to highlight (None = none).
    """
    d, times = house.design(theme), Times(record)
    _check(times, step)
    data = [*_bars(times, theme), *_plain(times, d), *_emitted(times, d)]
    layout: Spec = {
        "showlegend": True,
        "bargap": 0.2,
        "xaxis": {"range": [float(times.steps[0]) - 0.7, float(times.steps[-1]) + 0.7], "title": {"text": "step (one call of the target)"}, "nticks": 12},
        "yaxis": {"range": [0, times.top], "title": {"text": "milliseconds"}},
        "shapes": [] if step is None else [_frame(step, d)],
    }  # fmt: skip
    if times.cut:
        layout["annotations"] = [note(f"{plural(times.cut, 'bar')} cut off above {house.number(times.top)} ms", theme, y=0.9)]
    return house.picture(data, layout, theme=theme, title=title, revision=revision(record, "step_timeline"))


def _check(times: Times, step: int | None) -> None:
    if step is not None and step not in times.steps:
        raise InputError(expected("step", f"a step from {times.steps[0]} to {times.steps[-1]}", step, "group steps"))


def _bars(times: Times, theme: str) -> list[Spec]:
    both = bool(times.predicted)
    width = 0.4 if both else 0.8
    traces = []
    for kind, parts in (("measured", times.measured), ("predicted", times.predicted)):
        base = np.zeros(len(times.steps))
        shift = 0.0 if not both else -0.21 if kind == "measured" else 0.21
        for part, ms in parts.items():
            meaning, pattern = PARTS[part][2:]
            traces.append(
                {
                    "type": "bar", "name": part if kind == "measured" else "predicted", "showlegend": kind == "measured" or part == "target",
                    "x": (times.steps + shift).tolist(), "y": ms.round(3).tolist(), "base": base.round(3).tolist(), "width": width,
                    "marker": _solid(theme, meaning, pattern) if kind == "measured" else house.hatch(theme, meaning),
                    "customdata": times.steps.tolist(),
                    "hovertemplate": f"step %{{customdata}}<br>{part}, {kind}: %{{y:.1f}} ms<extra></extra>",
                }
            )  # fmt: skip
            base = base + ms
    return traces


def _solid(theme: str, meaning: str, pattern: str) -> Spec:
    d = house.design(theme)
    marker = house.solid(theme, meaning)
    dots = {"shape": pattern, "fgcolor": d.background, "size": 5, "solidity": 0.3, "fillmode": "overlay"}
    return marker | {"pattern": dots} if pattern else marker


def _plain(times: Times, d: house.Design) -> list[Spec]:
    """Return a tick over each step: what plain decoding takes for the same tokens."""
    if not np.isfinite(times.plain).all():
        return []
    x = np.stack([times.steps - 0.45, times.steps + 0.45, np.full(len(times.steps), np.nan)], 1).ravel().tolist()
    y = np.stack([times.plain, times.plain, np.full(len(times.plain), np.nan)], 1).ravel().tolist()
    return [
        {
            "type": "scatter", "mode": "lines", "name": "plain, same tokens", "x": [None if v != v else v for v in x],
            "y": [None if v != v else round(v, 2) for v in y], "line": {"color": d.text, "width": 2.5},
            "hovertemplate": "plain decoding, same tokens: %{y:.3~g} ms<extra></extra>",
        }
    ]  # fmt: skip


def _emitted(times: Times, d: house.Design) -> list[Spec]:
    if len(times.steps) > MANY:
        return []
    return [
        {
            "type": "scatter", "mode": "text", "name": "tokens written", "showlegend": False, "hoverinfo": "skip",
            "x": times.steps.tolist(), "y": [times.top * 0.985] * len(times.steps),
            "text": [f"<b>{n}</b>" for n in times.emitted.tolist()], "textposition": "bottom center",
            "textfont": {"size": 12, "color": d.muted},
        }
    ]  # fmt: skip


def _frame(step: int, d: house.Design) -> Spec:
    return {
        "type": "rect", "xref": "x", "yref": "paper", "x0": step - 0.5, "x1": step + 0.5, "y0": 0, "y1": 1, "layer": "below",
        "fillcolor": d.fill("selected", 0.15), "line": {"color": d.line("selected"), "width": 2},
    }  # fmt: skip


def caption(record: Record, *, step: int | None = None) -> str:
    """Return where the time goes, in one sentence."""
    times = Times(record)
    _check(times, step)
    rows = slice(None) if step is None else np.flatnonzero(times.steps == step)
    parts = {p: float(np.mean(ms[rows])) for p, ms in times.measured.items()}
    whole = sum(parts.values())
    words = ", ".join(f"{p} {house.number(ms)} ms" for p, ms in parts.items())
    tokens = int(times.emitted[rows].sum())
    lead = (
        f"Step {step} takes {house.number(whole)} ms" if step is not None else f"A step takes {house.number(whole)} ms on average"
    )
    plain = float(np.sum(times.plain[rows])) / len(times.emitted[rows])
    versus = f"; plain decoding takes {house.number(plain)} ms for the same tokens" if plain == plain else ""
    return f"{lead} ({words}) and writes {plural(tokens, 'token')}{'' if step is not None else ' in all'}{versus}."


def say(record: Record, *, step: int | None = None) -> str:
    """Return the sentence and the milliseconds of every step as a table."""
    times = Times(record)
    head = ["step", *times.measured, *(f"{p} (predicted)" for p in times.predicted), "written"]
    stacks = [*times.measured.values(), *times.predicted.values()]
    rows = [
        [str(int(s)), *(house.number(float(ms[i])) for ms in stacks), str(int(times.emitted[i]))]
        for i, s in enumerate(times.steps)
    ]
    return caption(record, step=step) + "\n\n" + table(head, rows)


VIEW = View(
    name="step_timeline",
    groups=("steps",),
    question="Where does the time of a step go?",
    reading=(
        "One bar a step: dotted light blue is drafting, dark blue the target's forward pass, grey the walk and keeping the cache. "
        "Hatched bars beside it are predicted by the chosen latency model. The black tick is what plain decoding takes for the same "
        "tokens: a bar below its tick is a gain. The number is how many tokens the step wrote."
    ),
    draw=draw,
    say=say,
    caption=caption,
    steps="steps",
)
