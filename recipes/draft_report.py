"""Print acceptance by depth and cost of every draft for SmolLM2, on held-out prompts of mixed kinds.

    python recipes/draft_report.py [--drafts int8 eagle lookup lookup+int8] [--prompts 20] [--json FILE]

Chains of four are drafted and verified live by the project's own loop. `tried` counts the drafts of a depth that the
verification reached, `accepted` those it took; tokens a step counts the residual or bonus token. Cost is the median time
of a draft call after the first of a step, over the median time of a plain target step.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np

from workbench import data, models
from workbench.models.drafts import open_draft, open_session
from workbench.models.session import Session
from workbench.systems.speculation.draft import Drawer, constant_branching
from workbench.systems.speculation.tree import prefill, processed_law, speculate
from workbench.systems.speculation.verify import recursive_rejection
from workbench.tape import NullTape

DEPTH = 4


class Clock:
    """A session's `forward` with a watch on it."""

    def __init__(self, session: Session) -> None:
        self.ms: list[float] = []
        self.forward = session.forward
        session.forward = self  # type: ignore[method-assign]

    def __call__(self, token_ids: Any, parents: Any, last_only: bool = False) -> np.ndarray:
        began = time.perf_counter()
        out = self.forward(token_ids, parents, last_only)
        self.ms.append((time.perf_counter() - began) * 1e3)
        return out


def decode(target: Any, draft: str, ids: list[int], tokens: int, temperature: float, seed: int) -> tuple[np.ndarray, Any, int]:
    """Return (tried, accepted) by depth (2, DEPTH), ms of the draft's calls, and steps taken for `tokens` tokens."""
    session = open_session(target, len(ids) + tokens + DEPTH)
    draft_session = open_draft(draft, target, session, ids)
    prefill(session, draft_session, ids)
    clock = Clock(draft_session)
    law = processed_law(temperature, 1.0)
    laws = (law, law if temperature else processed_law(1.0, 1.0))
    draws, uniforms = np.random.default_rng(seed).spawn(2)
    build = constant_branching([1] * DEPTH, Drawer(draws, temperature))
    counts, sequence, steps = np.zeros((2, DEPTH), int), list(ids), 0
    while len(sequence) < len(ids) + tokens and not target.eos_ids & set(sequence[len(ids) :]):
        step = speculate(session, draft_session, sequence, build, recursive_rejection, laws, uniforms, NullTape())
        for node in step.walk.tried:
            counts[0, step.tree.depths[node] - 1] += 1
        for node in step.walk.path:
            counts[1, step.tree.depths[node] - 1] += 1
        sequence += step.emitted
        steps += 1
    return counts, clock.ms, steps


def plain_ms(target: Any, ids: list[int]) -> float:
    """Return the median milliseconds of a target step of one row."""
    session = open_session(target, len(ids) + 40)
    prefill(session, None, ids)
    clock = Clock(session)
    for _ in range(24):
        session.forward([ids[-1]], [-1])
        session.keep([0])
    return float(np.median(clock.ms[4:]))


def main() -> None:
    """Print one line a draft and temperature, and the whole as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--drafts", nargs="+", default=["int8", "eagle", "lookup", "lookup+int8"])
    parser.add_argument("--target", default="smollm2-135m")
    parser.add_argument("--prompts", type=int, default=20)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--json", type=Path, help="write the table here too")
    args = parser.parse_args()
    target = models.load(args.target)
    prompts = [target.encode(p.text, chat=p.chat) for p in data.prompts(args.prompts)]
    row_ms = plain_ms(target, prompts[0])
    print(f"{args.target}: {row_ms:.1f} ms a plain step; {len(prompts)} held-out prompts, {args.tokens} tokens each")
    table = []
    for draft in args.drafts:
        for temperature in (0.0, 0.7):
            counts, ms, steps = np.zeros((2, DEPTH), int), [], 0
            for seed, ids in enumerate(prompts):
                c, m, s = decode(target, draft, ids, args.tokens, temperature, seed)
                counts, ms, steps = counts + c, ms + m[1:], steps + s
            accepted = counts[1] / np.maximum(counts[0], 1)
            survival = counts[1] / steps
            row = {
                "draft": draft, "temperature": temperature, "steps": steps,
                "accepted_of_tried_by_depth": accepted.round(3).tolist(),
                "survival_by_depth": survival.round(3).tolist(),
                "tokens_per_step": round(1 + float(survival.sum()), 3),
                "draft_ms": round(float(np.median(ms)), 2), "cost_ratio": round(float(np.median(ms)) / row_ms, 3),
            }  # fmt: skip
            table.append(row)
            print(json.dumps(row), flush=True)
    if args.json:
        args.json.write_text(json.dumps({"plain_step_ms": row_ms, "drafts": table}, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
