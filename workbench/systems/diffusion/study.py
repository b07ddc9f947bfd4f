"""Accuracy against tokens a round for every rule on the same prompts, the ideal curve beside it, and what an oracle would save."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from workbench import models
from workbench.data import parallel_tasks as tasks
from workbench.meters import wilson
from workbench.models.masked import TinyCanvas
from workbench.systems.diffusion import laws
from workbench.systems.diffusion.decode import Plain, decode
from workbench.systems.diffusion.problems import Problem
from workbench.systems.diffusion.report import REPORTED, joined, rows, tokens_a_round
from workbench.systems.diffusion.rules import Rule

GAMMAS = (0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 0.99, 1.0)
FACTORS = (0.1, 0.25, 0.5, 0.75, 1.0, 1.4, 1.9)
BOUNDS = (0.02, 0.1, 0.3, 0.7, 1.5, 3.0)
#: Name of the curve -> the knob that moves along it.
KNOB_OF = {"static": "k", "random": "k", "margin": "k", "entropy": "k", "threshold": "gamma", "factor": "factor", "entropy-bounded": "entropy_bound"}  # fmt: skip
LABELS = {"x_label": "tokens a round", "y_label": "right answers, %"}
Step = Callable[[int, int, str], None]


def affordable(hidden: int) -> int:
    """Return how many samples of so many hidden tokens a study decodes at each setting: long answers take more rounds."""
    return max(50, min(400, 2000 // max(1, hidden)))


def settings(hidden: int) -> list[Rule]:
    """Return every rule at every setting that is compared, for answers of `hidden` tokens."""
    counts = sorted({k for k in (1, 2, 3, 4, 6, 8, 12, 16, 24, 32) if k <= hidden} | {hidden})
    counted = [Rule(name, k=k) for name in ("static", "random", "margin", "entropy") for k in counts]
    trusting = [Rule("threshold", gamma=g) for g in GAMMAS] + [Rule("factor", factor=f) for f in FACTORS]
    return counted + trusting + [Rule("entropy-bounded", bound=b) for b in BOUNDS]


def setting_of(rule: Rule) -> float:
    """Return the value of the knob that a rule's curve is swept over."""
    return float(
        {"k": rule.k, "gamma": rule.gamma, "factor": rule.factor, "entropy_bound": rule.bound}.get(KNOB_OF.get(rule.name, "k"), 0)
    )


def compare(
    problem: Problem, temperature: float, block_length: int | None, seed: int, step: Step
) -> dict[str, dict[str, np.ndarray]]:
    """Return the groups `curve/rules` and `curve/oracle`: every rule at every setting, on the same prompts.

    Speed is the mean over samples of decided tokens over rounds; accuracy in per cent with Wilson's 95 % interval.
    """
    found: dict[str, list[tuple[float, float, float, float, float]]] = {}
    threshold_right, threshold_rounds = [], []
    every = settings(problem.hidden)
    for i, rule in enumerate(every):
        step(i, len(every), f"comparing rules: {rule.name}")
        out = decode(
            problem.canvas,
            problem.start,
            Plain(problem.canvas, rule, np.random.default_rng([seed, i]), temperature, block_length),
        )
        right = problem.right(out.tokens)
        low, high = wilson(int(right.sum()), len(right))
        point = (float(tokens_a_round(out).mean()), 100 * float(right.mean()), 100 * low, 100 * high, setting_of(rule))
        found.setdefault(rule.name, []).append(point)
        if rule.name == "threshold":
            threshold_right.append(right)
            threshold_rounds.append(out.rounds)
    parts = [rows(name, *np.array(points).T) for name, points in found.items()]
    parts += left_to_right(problem, temperature, seed)
    parts += ideal_curves(problem, temperature) + reported_curves(problem.task)
    return {
        "curve/rules": joined(parts),
        "curve/oracle": oracle(problem, np.array(threshold_right), np.array(threshold_rounds)),
    }


def left_to_right(problem: Problem, temperature: float, seed: int) -> list[dict[str, np.ndarray]]:
    """Return the point of TinyAR, the equal of TinyMDM that writes one token a call from left to right, on the same prompts."""
    if not isinstance(problem.canvas, TinyCanvas):
        return []
    from workbench.models.tiny import write_left_to_right

    length, rng = problem.canvas.length - 1, np.random.default_rng([seed, 99])
    answers = write_left_to_right(models.load("tiny-ar").model, problem.prompts, length, temperature, rng)
    right = problem.right(answers)
    low, high = wilson(int(right.sum()), len(right))
    return [rows("TinyAR, left to right", 1.0, 100 * float(right.mean()), 100 * low, 100 * high)]


def ideal_curves(problem: Problem, temperature: float) -> list[dict[str, np.ndarray]]:
    """Return the closed accuracy of a model with exact marginals, k tokens a round in any order, at temperature 1."""
    n = problem.hidden
    if problem.task not in laws.CLOSED or temperature != 1.0:
        return []
    k = np.arange(1, n + 1)
    speed = np.array([n / len(laws.sizes_of(n, int(x))) for x in k])
    share = np.array([100 * laws.ideal_accuracy(problem.task, problem.size, int(x)) for x in k])
    return [rows("ideal (closed form)", speed, share, setting=k)]


def reported_curves(task: str) -> list[dict[str, np.ndarray]]:
    """Return the published points of LLaDA 1.5 on the same task, lists of 3 to 6 names: reported, unverified."""
    if task not in REPORTED:
        return []
    x, y = np.array(REPORTED[task]).T
    return [rows("LLaDA 1.5, threshold (reported)", x, y, setting=np.array([1.0, 0.9, 0.8, 0.7, 0.6, 0.5]))]


def oracle(problem: Problem, right: np.ndarray, rounds: np.ndarray) -> dict[str, np.ndarray]:
    """Return one threshold for all prompts against the best threshold for each prompt, which no decoder can know.

    Args:
        right: (G, S) bool for each of `GAMMAS`. rounds: (G, S).
    """
    speed = (problem.hidden / rounds).mean(1)
    ends = np.array([wilson(int(r.sum()), r.size) for r in right])
    one = rows("one threshold for all", speed, 100 * right.mean(1), 100 * ends[:, 0], 100 * ends[:, 1], GAMMAS)
    lavish = np.where(right, rounds, np.inf)
    solved = np.isfinite(lavish).any(0)
    best = np.where(solved, np.min(lavish, 0, initial=np.inf), rounds.max(0))
    low, high = wilson(int(solved.sum()), solved.size)
    each = rows(
        "best threshold for each prompt", float((problem.hidden / best).mean()), 100 * float(solved.mean()), 100 * low, 100 * high
    )
    return joined([one, each])


def lost_bits(entropies: np.ndarray, schedule: list[list[int]]) -> dict[str, dict[str, np.ndarray]]:
    """Return `curve/lost`: bits that each step of a schedule loses, and the least that any schedule of T steps loses."""
    lost = laws.step_losses(entropies, schedule)
    length = sum(len(group) for group in schedule)
    steps = rows("this schedule", np.arange(1, len(lost) + 1), np.maximum(lost, 0.0), setting=[len(g) for g in schedule])
    per_token, before = [], 0
    for t, group in enumerate(schedule):
        per_token += [(i + 1, entropies[before | 1 << i] - entropies[before], t + 1) for i in group]
        before |= laws.bitmask(group)
    place, alone, step = np.array(per_token).T
    tokens = rows("entropy of each token when it is decided", place, alone, setting=step)
    best = rows("least of any schedule", np.arange(1, length + 1), np.maximum(_best(entropies, length), 0.0))
    return {"curve/lost": joined([steps, tokens, best])}


_BEST: dict[bytes, np.ndarray] = {}


def _best(entropies: np.ndarray, length: int) -> np.ndarray:
    """Return `laws.best_losses`, kept for a slider: the same law is asked again and again."""
    key = entropies.tobytes()
    if key not in _BEST:
        _BEST[key] = laws.best_losses(entropies, length)
    return _BEST[key]


__all__ = ["FACTORS", "GAMMAS", "KNOB_OF", "LABELS", "compare", "lost_bits", "setting_of", "settings", "tasks"]
