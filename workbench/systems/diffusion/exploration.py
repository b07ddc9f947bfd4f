"""What a run of bits-to-rounds writes and replays: the scatter of rounds over information, candidates, sweeps, the cost knee."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from workbench.data import parallel_tasks as tasks
from workbench.meters import interleaved
from workbench.record import Record
from workbench.systems.diffusion import bounds, problems, report
from workbench.systems.diffusion.decode import FALLBACK, Decoded, Information, Plain, information
from workbench.systems.diffusion.problems import Problem
from workbench.systems.diffusion.rules import Rule
from workbench.tape import NullTape, Tape

if TYPE_CHECKING:
    from workbench.systems.diffusion.bits_to_rounds import BitsToRounds

FACTORS = (0.1, 0.4, 1.0, 1.4, 1.9)
CANDIDATES = (1, 2, 4, 8)
KNEE = (1, 2, 3, 4, 6, 8, 12, 16)
SHORTER = 30  # samples of each shorter size in the scatter
SWEPT = 48  # samples of each setting of the sweep


def first_of(out: Decoded, count: int) -> Decoded:
    """Return the first samples of a batch."""
    rows = {n: getattr(out, n)[:count] for n in ("start", "tokens", "commit_round", "order", "logprob", "explored", "rounds")}
    columns = {n: getattr(out, n)[:, :count] for n in ("kind", "sequences", "confident")}
    return Decoded(**rows, **columns, wall_ms=out.wall_ms, looks=out.looks, candidates=out.candidates)


# ---- rounds over information -----------------------------------------------------------------------------------------


def corrected_bound(out: Decoded, told: Information, n: int, factor: float) -> np.ndarray:
    """Return each sample's least number of rounds (S,), fallback rounds counted by themselves."""
    fell = out.kind == FALLBACK
    return bounds.corrected(
        told.total, told.marginal.sum(0), fell.sum(0), (told.joint * fell).sum(0), (told.marginal * fell).sum(0), n, factor
    )


Runs = dict[str, tuple[Decoded, Information]]


def smaller(system: BitsToRounds, name: str) -> list[tuple[Problem, Runs]]:
    """Return the same decoders on shorter exercises, so that texts of less information stand in the scatter."""
    problem = system._problem
    found: list[tuple[Problem, Runs]] = []
    for size in range(1, problem.size) if problem.task else ():
        if tasks.answer_length(problem.task, size) < 2:
            continue
        part = problems.make(system.model, problem.task, size, SHORTER, system.seed)
        ours = system.decode(NullTape(), system.stepper(problem=part), part)
        theirs = system.decode(NullTape(), system.rival(part), part)
        found.append(
            (part, {system.rule: (ours, information(part.canvas, ours)), name: (theirs, information(part.canvas, theirs))})
        )
    return found


def write_scatter(tape: Tape, system: BitsToRounds, parts: list[tuple[Problem, Runs]]) -> None:
    """Write one point a sample: information of the text, rounds it took; `y_low` is the corrected bound of the factor rule."""
    bounded = system.factor <= 1 and system.base_rule().name == "factor"
    rows = []
    for name in parts[0][1]:
        for problem, runs in parts:
            out, told = runs[name]
            n = system.largest_set(problem.hidden)
            least = corrected_bound(out, told, n, system.factor) if bounded else np.full(len(out.rounds), np.nan)
            rows.append(report.rows(name, told.total, out.rounds, least, setting=problem.size))
    tape.write("curve/rounds", **report.joined(rows))
    exact = bool(parts[0][0].canvas.exact)
    tape.describe("curve/rounds", x_label="information of the text, -ln p (nat)", y_label="rounds", exact=exact, rule=system.rule)


def live_bounds(system: BitsToRounds, record: Record) -> dict[str, dict[str, np.ndarray]]:
    """Return `curve/bounds`: the theorem's two lines and the threshold's, for the present f, gamma, block and window."""
    x = record.column("curve/rounds", "x")
    end = float(np.max(x, initial=1.0)) * 1.05
    nats, n = np.linspace(0, end, 25), system.largest_set(int(record.group_attrs("unmasking").get("hidden", 1)))
    joint, marginal = float(bounds.joint_budget(n, system.factor)), system.factor
    parts = [
        report.rows("joint bound", nats, nats / joint if joint > 0 else np.nan, setting=joint),
        report.rows("marginal bound", nats, nats / marginal, setting=marginal),
    ]
    fixed = float(bounds.threshold_joint_budget(n, system.gamma))
    if np.isfinite(fixed) and fixed > 0:
        parts.append(report.rows("threshold's bound (our extension)", nats, nats / fixed, setting=fixed))
    committed = record.column("rounds", "committed")
    allowed = bounds.threshold_marginal_budget(committed, system.gamma)
    parts.append(report.rows("threshold's budget by round", np.arange(1, len(committed) + 1), allowed, setting=system.gamma))
    for name, value in (("f", system.factor), ("trigger", system.trigger), ("explore weight", system.explore_weight)):
        parts.append(report.rows(name, [n], [value], setting=value))
    return {"curve/bounds": report.joined(parts)}


# ---- candidates ------------------------------------------------------------------------------------------------------


def write_candidates(tape: Tape, problem: Problem, out: Decoded) -> None:
    """Write every candidate of the first sample's exploring rounds."""
    mine = [c for c in out.candidates if c["sample"] == 0]
    if not mine:
        return
    column = lambda name: np.array([c[name] for c in mine])  # noqa: E731
    token = column("token").astype(int)
    pieces = ["the state itself" if t < 0 else problem.canvas.pieces([t])[0] for t in token]
    tape.write(
        "candidates", step=column("round"), place=column("place"), piece=np.array(pieces, dtype=object), logprob=column("logprob"),
        unlocked=column("unlocked"), won=column("won").astype(bool),
    )  # fmt: skip


def live_winners(record: Record, weight: float) -> dict[str, np.ndarray]:
    """Return the candidates with those marked that would win under another weight of log p.

    A candidate that was void (its token no longer the arg-max in the state itself) has lost under every weight; which ones
    were is not recorded, so a candidate that beats the recorded winner only now is a guess.
    """
    columns = {n: record.column("candidates", n) for n in record.variables("candidates")}
    worth = columns["unlocked"] + np.where(columns["place"] >= 0, 1 + weight * columns["logprob"], 0.0)
    worth = np.where(columns["place"] < 0, np.maximum(worth, 1.0), worth)
    wins = np.zeros(len(worth), bool)
    for step in np.unique(columns["step"]):
        among = np.flatnonzero(columns["step"] == step)
        wins[among[np.argmax(np.round(worth[among], 6))]] = True
    return columns | {"wins": wins}


# ---- sweeps and costs ------------------------------------------------------------------------------------------------


def write_study(system: BitsToRounds, tape: Tape, quiet: NullTape, told: Problem) -> None:
    """Write rounds, sequences and accuracy over f for several K, and the measured time of a round with K states."""
    small = told.first(min(len(told.start), SWEPT))
    settings = [(k, f) for k in CANDIDATES for f in FACTORS]
    for i, (k, f) in enumerate(settings):
        quiet.step(i, len(settings), phase=f"sweep: K = {k}, f = {f:g}")
        out = system.decode(NullTape(quiet.on_step, quiet.cancel), _explorer(system, k, f), small, phase="sweep")
        name = "factor rule" if k == 1 else f"exploring, K = {k}"
        right = 100 * float(small.right(out.tokens).mean())
        tape.write("curve/sweep", **report.rows(name, f, float(out.rounds.mean()), setting=k))
        tape.write("curve/sweep_sequences", **report.rows(name, f, float(out.sequences.sum(0).mean()), setting=k))
        tape.write("curve/sweep_accuracy", **report.rows(name, f, right, setting=k))
    labels = {"rounds": "curve/sweep", "sequences": "curve/sweep_sequences", "right answers, %": "curve/sweep_accuracy"}
    for label, group in labels.items():
        tape.describe(group, x_label="factor f", y_label=label, samples=len(small.start), judged=small.judge is not None)
    write_knee(system, tape, quiet)


def _explorer(system: BitsToRounds, k: int, f: float) -> Plain:
    rule = Rule("factor", factor=f, compat=system.compat)
    return system.stepper(explores=True, rule=rule, candidates=k)


def write_knee(system: BitsToRounds, tape: Tape, quiet: NullTape) -> None:
    """Write the measured time of one round with K states of one sample, over that of one state."""
    problem = system._problem
    quiet.step(0, 1, phase="timing a round")
    rows = np.zeros(max(KNEE), np.int64)
    states = np.repeat(problem.start[:1], max(KNEE), 0)
    looker = system.stepper(explores=False)
    works: dict[str, Callable[[], Any]] = {str(k): partial(looker.look, states[:k], rows[:k]) for k in KNEE}
    timings = interleaved(works, repeats=9, warmup=2)
    one = timings["1"].median
    median, p10, p90 = (np.array([getattr(timings[str(k)], part) for k in KNEE]) / one for part in ("median", "p10", "p90"))
    tape.write("curve/knee", **report.rows("measured here", np.array(KNEE), median, p10, p90, one))
    tape.describe("curve/knee", x_label="states in one round, K", y_label="time of the round, over that of one state", one_ms=one, tokens=problem.canvas.prefix + problem.canvas.length)  # fmt: skip


def live_costs(system: BitsToRounds, record: Record) -> dict[str, dict[str, np.ndarray]]:
    """Return `curve/roofline`: predicted time of a round over K on the chosen machine, whole sequence and cached window."""
    if "curve/knee" not in record:
        return {}
    tokens = int(record.group_attrs("curve/knee")["tokens"])
    k = np.arange(1, max(KNEE) + 1)
    window = min(tokens, system.block_length * (1 + system.window))
    parts = []
    for name, length in (("whole sequence", 320), (f"window of {window} tokens, the rest cached", window)):
        ratio = bounds.round_ms(k, length, system.machine) / bounds.round_ms(1, length, system.machine)
        parts.append(
            report.rows(f"predicted, {system.machine}: {name}", k, ratio, setting=bounds.free_sequences(length, system.machine))
        )
    parts.append(report.rows("K", [system.candidates], [1.0], setting=system.candidates))
    return {"curve/roofline": report.joined(parts)}


def live_meters(system: BitsToRounds, record: Record) -> dict[str, float]:
    """Return estimated meters for moved knobs: rounds and accuracy off the run's sweep over f and K; unchanged where it has none."""
    if "curve/sweep" not in record or system.rule not in {"ete", "factor"}:
        return {name: float(record.meter(name)["value"]) for name in ("tokens a round", "rounds") if name in _meter_names(record)}
    k = system.candidates if system.rule == "ete" else 1
    attrs = record.group_attrs("unmasking")
    was = (int(attrs["run_candidates"]) if system.rule == "ete" else 1, float(attrs["run_factor"]))
    now, then = _swept(record, "curve/sweep", k, system.factor), _swept(record, "curve/sweep", *was)
    measured = report.moved_meters(record, None)
    values = dict(zip((str(n) for n in measured["meter"]), measured["value"].tolist(), strict=True))
    share = now / then if then > 0 else 1.0
    found = {
        "rounds": values["rounds"] * share,
        "tokens a round": values["tokens a round"] / share,
        "GPU time": values["GPU time"] * share,
    }
    sequences = _swept(record, "curve/sweep_sequences", k, system.factor) / max(
        _swept(record, "curve/sweep_sequences", *was), 1e-9
    )
    found |= {
        "sequences forwarded": values["sequences forwarded"] * sequences,
        "measured time": values["measured time"] * sequences,
    }
    if "right answers" in values:
        shift = _swept(record, "curve/sweep_accuracy", k, system.factor) - _swept(record, "curve/sweep_accuracy", *was)
        found["right answers"] = float(np.clip(values["right answers"] + shift, 0, 100))
    return found


def _meter_names(record: Record) -> list[str]:
    return [str(n) for n in record.column("meters", "meter")]


def _swept(record: Record, group: str, k: int, factor: float) -> float:
    """Return the sweep's value between its points, in f and in log K."""
    x, y, setting = (record.column(group, n) for n in ("x", "y", "setting"))
    known = np.unique(setting)
    at = [float(np.interp(factor, x[setting == one], y[setting == one])) for one in known]
    return float(np.interp(np.log(k), np.log(known), at))
