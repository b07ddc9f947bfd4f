"""What a run of a parallel decoder writes: the film of one sample, its rounds, its baseline, the four meters of cost."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

import numpy as np

from workbench.data import parallel_tasks as tasks
from workbench.meters import wilson, write_meter
from workbench.record import Record
from workbench.systems.diffusion import bounds
from workbench.systems.diffusion.decode import KINDS, Decoded, Information
from workbench.systems.diffusion.problems import Problem
from workbench.systems.diffusion.replay import Trace, replay
from workbench.systems.diffusion.rules import Rule
from workbench.tape import Tape

FILM = ("confidence", "entropy", "margin", "top1")
#: Tables of LLaDA 1.5 with the confidence threshold 1.0, 0.9, ..., 0.5: (tokens a step, accuracy %). Read off the
#: benchmark's result files by others; the order of gamma is inferred from the rising speed. Reported, unverified.
REPORTED = {
    "copy": ((1.50, 99), (5.81, 100), (7.50, 100), (10.2, 100), (11.2, 100), (13.4, 100)),
    "shuffle": ((1.32, 100), (3.05, 96), (3.50, 74), (4.06, 40), (4.81, 17), (6.55, 9)),
    "replace_random": ((1.34, 100), (4.22, 99), (6.44, 90), (8.43, 74), (10.0, 61), (12.7, 44)),
    "replace_index": ((1.26, 92), (4.02, 87), (6.12, 78), (7.55, 74), (8.49, 66), (10.4, 60)),
}


def rows(name: str, x: Any, y: Any, low: Any = np.nan, high: Any = np.nan, setting: Any = np.nan) -> dict[str, np.ndarray]:
    """Return one named curve as columns."""
    x = np.atleast_1d(np.asarray(x, float))
    full = [np.broadcast_to(np.asarray(v, float), x.shape).copy() for v in (y, low, high, setting)]
    names = np.full(len(x), name, dtype=object)
    return {"curve": names, "x": x, "y": full[0], "y_low": full[1], "y_high": full[2], "setting": full[3]}


def joined(parts: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Return several curves in one group."""
    names = np.array([str(v) for p in parts for v in p["curve"]])
    return {k: np.concatenate([p[k] for p in parts]) for k in parts[0]} | {"curve": names}


# ---- the film of one sample ------------------------------------------------------------------------------------------


def write_film(tape: Tape, problem: Problem, out: Decoded, group: str = "unmasking") -> None:
    """Write what every round of the first sample saw and decided."""
    looks = out.looks[0]
    stacked = {n: np.concatenate([getattr(look, n) for look in looks]) for n in FILM}
    tokens, canvas = out.tokens[0], problem.canvas
    tape.write(
        group,
        confidence=stacked["confidence"].astype(np.float32),
        entropy=stacked["entropy"].astype(np.float32),
        margin=stacked["margin"].astype(np.float32),
        top1=stacked["top1"].astype(np.int32),
        commit_round=out.commit_round[0],
        token_id=tokens.astype(np.int32),
        piece=np.array(canvas.pieces(tokens), dtype=object),
        information=(-out.logprob[0]).astype(np.float32),
        explored=out.explored[0],
        right=right_so_far(problem, out),
    )
    pieces = [*problem.prompt_pieces, *canvas.pieces(tokens)]
    tape.describe(group, pieces=canvas.pieces(np.unique(stacked["top1"][stacked["top1"] >= 0])), answer=" ".join(pieces))


def right_so_far(problem: Problem, out: Decoded) -> np.ndarray:
    """Return, for each position of the first sample, whether its round left a state from which a right answer can be reached.

    True where nothing can be wrong (real text).
    """
    rounds = int(out.rounds[0])
    states = np.stack([out.states(r + 1)[0] for r in range(rounds)]) if rounds else out.tokens[:1]
    if problem.table is not None:
        possible = np.isfinite(problem.table.log_evidence(states))
    elif problem.task:
        possible = np.array([tasks.can_be_right(problem.task, problem.prompts[0], state) for state in states])
    else:
        return np.ones(out.tokens.shape[1], bool)
    return np.where(out.commit_round[0] >= 0, possible[np.maximum(out.commit_round[0], 0)], True)


def write_rounds(
    tape: Tape, out: Decoded, told: Information, budgets: tuple[np.ndarray, np.ndarray], group: str = "rounds"
) -> None:
    """Write the rounds of the first sample."""
    count = int(out.rounds[0])
    tape.write(
        group,
        kind=np.array([KINDS[k] for k in out.kind[:count, 0]], dtype=object),
        sequences=out.sequences[:count, 0].astype(np.int32),
        committed=out.committed[:count, 0],
        information_marginal=told.marginal[:count, 0],
        information_joint=told.joint[:count, 0],
        budget_marginal=budgets[0][:count],
        budget_joint=budgets[1][:count],
        wall_ms=out.wall_ms[:count],
        confident=out.confident[:count, 0].astype(np.int32),
    )
    tape.describe(group, exact=bool(told.exact), samples_in_a_call=int(out.start.shape[0]))


def budgets(rule: Rule, committed: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the most (marginal, joint) nats that a trusting round of these sizes reveals; NaN where no bound is known."""
    if rule.name == "factor":
        return bounds.marginal_budget(committed, rule.factor), bounds.joint_budget(committed, rule.factor)
    if rule.name == "threshold":
        return bounds.threshold_marginal_budget(committed, rule.gamma), bounds.threshold_joint_budget(committed, rule.gamma)
    return np.full(len(committed), np.nan), np.full(len(committed), np.nan)


def write_text(tape: Tape, problem: Problem, out: Decoded) -> None:
    """Write prompt and answer of the first sample in reading order."""
    prompt, tokens = problem.prompts[0], out.tokens[0]
    given = out.commit_round[0] < 0
    tape.write(
        "text",
        token_id=np.r_[prompt, tokens].astype(np.int32),
        piece=np.array([*problem.prompt_pieces, *problem.canvas.pieces(tokens)], dtype=object),
        generated=np.r_[np.zeros(len(prompt), bool), ~given],
        step=np.r_[np.full(len(prompt), -1), out.commit_round[0]].astype(np.int32),
        source=np.array(["prompt"] * len(prompt) + ["prompt" if g else "unmasked" for g in given], dtype=object),
    )
    tape.describe("text", words=" " if problem.task or problem.table is not None else "")


# ---- why a round broke -----------------------------------------------------------------------------------------------

MOST_TOKENS, MOST_COMBINATIONS = 8, 12


def write_parallel(tape: Tape, problem: Problem, out: Decoded, task_law: Any = None) -> None:
    """Write the marginals of every round of the first sample that decided several tokens, and what they can combine to."""
    table = task_law if task_law is not None else problem.table
    for round_, look in enumerate(out.looks[0]):
        places = np.flatnonzero(out.commit_round[0] == round_)
        if not len(places):
            continue
        logits = look.laws[0, places].astype(np.float64)
        law = np.exp(logits - logits.max(1, keepdims=True))
        law /= law.sum(1, keepdims=True)
        drawn = out.tokens[0, places]
        top = [np.argsort(-row, kind="stable")[:MOST_TOKENS] for row in law]
        top = [t if token in t else np.r_[t[:-1], token] for t, token in zip(top, drawn, strict=True)]
        for i, place in enumerate(places):
            good = top[i][law[i, top[i]] > 1e-4]
            tape.write(
                "parallel", step=round_, kind="marginal", place=int(place), piece=np.array(problem.canvas.pieces(good), dtype=object),
                probability=law[i, good], joint=np.nan, drawn=good == drawn[i],
            )  # fmt: skip
        _write_combinations(tape, problem, out, round_, places, law, top, table)


def _write_combinations(tape: Tape, problem: Problem, out: Decoded, round_: int, places: np.ndarray, law: np.ndarray, top: list[np.ndarray], table: Any) -> None:  # fmt: skip
    """Write the likeliest combinations of the marginals, and how likely each truly is."""
    drawn = tuple(int(t) for t in out.tokens[0, places])
    each = [t[: max(2, round(2000 ** (1 / len(places))))] for t in top]
    found = {tuple(int(t) for t in c) for c in product(*each)} if len(places) <= 10 else set()
    found.add(drawn)
    weigh = {c: float(np.prod([law[i, t] for i, t in enumerate(c)])) for c in found}
    best = sorted(weigh, key=lambda c: -weigh[c])[:MOST_COMBINATIONS]
    if drawn not in best:
        best[-1] = drawn
    state = out.states(round_)[0]
    true = np.full(len(best), np.nan)
    if table is not None:
        base = np.where(state == problem.canvas.mask_id, table.mask_id, state)[: table.length]
        filled = np.repeat(base[None], len(best), 0)
        filled[:, places] = np.array(best)
        before = table.log_evidence(base[None])[0]
        true = np.exp(table.log_evidence(filled) - before) if np.isfinite(before) else np.zeros(len(best))
    tape.write(
        "parallel", step=round_, kind="combination", place=np.arange(len(best)),
        piece=np.array([" ".join(problem.canvas.pieces(c)) for c in best], dtype=object), probability=np.array([weigh[c] for c in best]),
        joint=true, drawn=np.array([c == drawn for c in best]),
    )  # fmt: skip


# ---- meters ----------------------------------------------------------------------------------------------------------


def tokens_a_round(out: Decoded) -> np.ndarray:
    """Return decided tokens per round of each sample."""
    return out.decided.sum(1) / np.maximum(out.rounds, 1)


def predicted_ms(out: Decoded, tokens: int, machine: str) -> np.ndarray:
    """Return the predicted milliseconds (S,) of each sample decoded alone on a machine, for a model of LLaDA's size."""
    return np.where(out.kind >= 0, bounds.round_ms(np.maximum(out.sequences, 1), tokens, machine), 0.0).sum(0)


def write_costs(tape: Tape, out: Decoded, base: Decoded, tokens: int, machine: str, base_name: str) -> None:
    """Write the four meters of cost, always together: rounds, sequences, measured time, predicted GPU time."""
    n, ours, theirs = len(out.start), tokens_a_round(out), tokens_a_round(base)
    share: dict[str, Any] = {"baseline_name": base_name, "samples": n}
    write_meter(tape, "tokens a round", float(ours.mean()), "tokens", kind="speed", better="higher", baseline=float(theirs.mean()), spread=_spread(ours), **share)  # fmt: skip
    write_meter(tape, "rounds", float(out.rounds.mean()), "rounds", kind="cost", better="lower", baseline=float(base.rounds.mean()), spread=_spread(out.rounds), **share)  # fmt: skip
    write_meter(
        tape, "sequences forwarded", float(out.sequences.sum(0).mean()), "sequences", kind="cost", better="lower",
        baseline=float(base.sequences.sum(0).mean()), spread=_spread(out.sequences.sum(0)), **share,
    )  # fmt: skip
    write_meter(
        tape, "measured time", float(out.wall_ms.sum() / n), "ms a sample", kind="cost", better="lower",
        baseline=float(base.wall_ms.sum() / n), **share,
    )  # fmt: skip
    write_meter(
        tape, "GPU time", float(predicted_ms(out, tokens, machine).mean()), "ms a sample", kind="cost", better="lower", provenance="predicted",
        baseline=float(predicted_ms(base, tokens, machine).mean()), **share,
    )  # fmt: skip


def _spread(values: np.ndarray) -> tuple[float, float]:
    return (float(np.percentile(values, 10)), float(np.percentile(values, 90))) if len(values) else (math.nan, math.nan)


def write_quality(tape: Tape, problem: Problem, out: Decoded, base: Decoded, base_name: str) -> None:
    """Write the share of right answers with Wilson's interval."""
    right, count = problem.right(out.tokens), len(out.tokens)
    low, high = wilson(int(right.sum()), count)
    write_meter(
        tape, "right answers", 100 * float(right.mean()), "%", kind="quality", better="higher", baseline=100 * float(problem.right(base.tokens).mean()),
        baseline_name=base_name, spread=(100 * low, 100 * high), samples=count,
    )  # fmt: skip


_MOVED = ("value", "low", "high", "provenance")


def remember_meters(tape: Tape) -> None:
    """Keep the measured meters in the group's attributes, so that a live knob can go and come back."""
    columns = tape.columns()["meters"]
    tape.describe("meters", measured=json.dumps({n: columns[n].tolist() for n in _MOVED}))


def moved_meters(record: Record, estimates: Mapping[str, float] | None) -> dict[str, np.ndarray]:
    """Return the meters with these values estimated instead of measured; None brings back what the run measured."""
    columns = {n: record.column("meters", n).copy() for n in record.variables("meters")}
    kept = json.loads(str(record.group_attrs("meters")["measured"]))
    columns |= {n: np.array(kept[n], columns[n].dtype if n != "provenance" else object) for n in _MOVED}
    for i, name in enumerate(columns["meter"].tolist()):
        if estimates and str(name) in estimates:
            columns["value"][i] = estimates[str(name)]
            columns["low"][i] = columns["high"][i] = np.nan
            columns["provenance"][i] = "estimated"
    return columns


def estimates(record: Record, speed: float, accuracy: float) -> dict[str, float]:
    """Return what all meters would be at another speed (tokens a round) and accuracy (%), costs in proportion to rounds."""
    kept = json.loads(str(record.group_attrs("meters")["measured"]))
    now = dict(zip((str(n) for n in record.column("meters", "meter")), kept["value"], strict=True))
    ratio = now["tokens a round"] / speed if speed > 0 else math.nan
    costs = {n: now[n] * ratio for n in ("rounds", "sequences forwarded", "measured time", "GPU time") if n in now}
    return costs | {"tokens a round": speed, "right answers": accuracy}


# ---- live: the film of another setting -------------------------------------------------------------------------------


def trace_of(record: Record) -> Trace:
    """Return the recorded looks of the sample on show."""
    column = lambda name: record.column("unmasking", name)  # noqa: E731
    confidence = column("confidence").astype(np.float64)
    margin = column("margin").astype(np.float64)
    return Trace(
        confidence, column("entropy").astype(np.float64), margin, column("top1"), column("commit_round"), column("explored")
    )


def replayed(
    record: Record, rule: Rule, block_length: int | None, window: int, same: bool, seed: int
) -> dict[str, dict[str, np.ndarray]]:
    """Return the groups `film/shown` and `text` for a rule: the recorded run where it is the same, else its replay."""
    trace = trace_of(record)
    film = {name: record.column("unmasking", name) for name in record.variables("unmasking")}
    steps, estimated = trace.commit_round, np.zeros(len(trace.commit_round), bool)
    if not same and len(trace.confidence):
        again = replay(trace, rule, block_length, window, seed)
        steps, estimated = again.commit_round, again.estimated
        film |= {name: film[name][again.source] for name in FILM}
        film |= {name: _hidden_only(film[name], steps) for name in FILM}
    film |= {"commit_round": steps.astype(np.int32), "estimated": estimated}
    text = {name: record.column("text", name) for name in record.variables("text")}
    step = text["step"].copy()
    step[len(step) - len(steps) :] = steps
    return {"film/shown": film, "text": text | {"step": step}}


def _hidden_only(values: np.ndarray, commit: np.ndarray) -> np.ndarray:
    """Blank what a replay's rounds would not have looked at."""
    hidden = commit[None] >= np.arange(len(values))[:, None]
    return np.where(hidden, values, -1 if values.dtype.kind == "i" else np.nan).astype(values.dtype)
