"""The one decoding loop of masked-diffusion models: a round is one forward for all samples, then a rule decides.

Every sample goes at its own pace; those that are done are not forwarded any more. What a round costs is kept as four
separate things: rounds (calls one after the other), sequences (states forwarded), measured time, and what a model of a GPU
would predict. Exploration (`explore.Explorer`) is part of the loop: without it a round forwards each state once.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from workbench.errors import InputError, expected
from workbench.models.masked import Canvas
from workbench.systems.diffusion import rules
from workbench.systems.diffusion.rules import Look, Rule
from workbench.tape import NullTape

#: What a round did for a sample, as stored: index into this tuple; -1 where the sample was done.
KINDS = ("exploit", "explore", "fallback", "static", "verify")
EXPLOIT, EXPLORE, FALLBACK, STATIC, VERIFY = range(5)


@dataclass
class Decoded:
    """What a decoder wrote for S samples of n positions in at most R rounds.

    Attributes:
        start: (S, n) ids at the start. tokens: (S, n) ids at the end.
        commit_round: (S, n) int32, -1 where the position was visible from the start.
        order: (S, n) int32, place in the order of decisions within its round (explored tokens first, then by confidence).
        logprob: (S, n) float64, of the token under the law that decided it, temperature 1; NaN where given.
        explored: (S, n) bool. kind: (R, S) int8, index into `KINDS`, -1 = done. sequences: (R, S) int32.
        wall_ms: (R,) of the whole batch. rounds: (S,) int32.
        looks: looks at the samples that were asked for, one for each of their rounds.
        confident: (R, S) int32: tokens that the rule trusted in the state as it was.
        candidates: rows of every exploration of the samples asked for (see `explore.Candidate`).
    """

    start: np.ndarray
    tokens: np.ndarray
    commit_round: np.ndarray
    order: np.ndarray
    logprob: np.ndarray
    explored: np.ndarray
    kind: np.ndarray
    sequences: np.ndarray
    confident: np.ndarray
    wall_ms: np.ndarray
    rounds: np.ndarray
    looks: dict[int, list[Look]] = field(default_factory=dict)
    candidates: list[dict[str, float]] = field(default_factory=list)

    @property
    def committed(self) -> np.ndarray:
        """Tokens decided in each round, (R, S) int32."""
        steps = np.arange(len(self.kind))[:, None, None]
        return (self.commit_round[None] == steps).sum(2).astype(np.int32)

    @property
    def decided(self) -> np.ndarray:
        """Which positions the decoder had to decide, (S, n) bool."""
        return self.commit_round >= 0

    def states(self, round_: int) -> np.ndarray:
        """Return the states (S, n) before a round."""
        return np.where(self.commit_round < round_, self.tokens, self.start)

    def per_round(self, values: np.ndarray) -> np.ndarray:
        """Return the sums (R, S) of a per-position quantity (S, n) over the positions that each round decided."""
        steps = np.arange(len(self.kind))[:, None, None]
        return np.where(self.commit_round[None] == steps, values[None], 0.0).sum(2)


@dataclass(frozen=True)
class Step:
    """What one round decides for B active samples: (B, n) or (B,) arrays as in `Decoded`."""

    tokens: np.ndarray
    commit: np.ndarray
    order: np.ndarray
    logprob: np.ndarray
    explored: np.ndarray
    kind: np.ndarray
    sequences: np.ndarray
    confident: np.ndarray
    look: Look
    candidates: list[dict[str, float]] = field(default_factory=list)


class Stepper(Protocol):
    """Decides one round: `plain` here, or an explorer."""

    def __call__(self, x: np.ndarray, rows: np.ndarray) -> Step:
        """Return the decisions for states x (B, n) of the samples `rows` (B,)."""
        ...


@dataclass
class Plain:
    """One forward, then the rule: every decoder without exploration."""

    canvas: Canvas
    rule: Rule
    rng: np.random.Generator
    temperature: float = 0.0
    block_length: int | None = None
    window: int = 0

    def look(self, x: np.ndarray, rows: np.ndarray) -> Look:
        """Return what a forward of these states shows."""
        return rules.look_at(self.canvas.forward(x, rows), x == self.canvas.mask_id, self.canvas.exact)

    def __call__(self, x: np.ndarray, rows: np.ndarray) -> Step:
        """Return the round's decisions."""
        look = self.look(x, rows)
        eligible = rules.window_of(look.masked, self.block_length, self.window)
        commit, fallback = self.rule.choose(look, eligible, self.rng)
        tokens = rules.chosen_tokens(look, commit, self.temperature, self.rng)
        kind = np.where(fallback, FALLBACK, STATIC if self.rule.counted else EXPLOIT)
        confident = np.where(fallback, 0, commit.sum(1))
        return Step(
            tokens, commit, by_confidence(look, commit), rules.logprobs(look, tokens, commit), np.zeros_like(commit), kind,
            np.ones(len(x), np.int32), confident, look,
        )  # fmt: skip


def by_confidence(look: Look, commit: np.ndarray) -> np.ndarray:
    """Return the order (B, n) of the decided positions, most confident first."""
    keys = np.where(commit, -look.confidence, np.inf)
    rank = np.empty(commit.shape, np.int64)
    np.put_along_axis(rank, np.argsort(keys, axis=1, kind="stable"), np.arange(commit.shape[1])[None], axis=1)
    return rank


def decode(
    canvas: Canvas,
    start: np.ndarray,
    stepper: Stepper,
    *,
    tape: NullTape | None = None,
    keep: tuple[int, ...] = (),
    phase: str = "",
) -> Decoded:
    """Return what the stepper writes into the masks of `start`.

    Args:
        start: (S, n) ids, `canvas.mask_id` where hidden; a sample without masks is done at once.
        keep: samples whose looks are kept (all rounds).
        tape: asked to stop or to report at every round.
    Raises:
        InputError: the states do not fit the canvas. Cancelled: the owner asked to stop.
    """
    _check(canvas, start)
    x, tape = start.copy(), tape or NullTape()
    samples, _length = x.shape
    none = np.zeros((0, samples), np.int32)
    out = Decoded(
        start, x, np.full(x.shape, -1, np.int32), np.zeros(x.shape, np.int32), np.full(x.shape, np.nan), np.zeros(x.shape, bool),
        none, none, none, np.zeros(0), np.zeros(samples, np.int32), {s: [] for s in keep},
    )  # fmt: skip
    columns: dict[str, list[np.ndarray]] = {"kind": [], "sequences": [], "confident": []}
    times: list[float] = []
    hidden = int((x == canvas.mask_id).sum())
    left = hidden
    while left:
        rows = np.flatnonzero((x == canvas.mask_id).any(1))
        began = time.perf_counter()
        step = stepper(x[rows], rows)
        times.append((time.perf_counter() - began) * 1e3)
        _apply(out, x, rows, step, len(times) - 1)
        for name, column in columns.items():
            full = np.full(samples, -1 if name == "kind" else 0, np.int32)
            full[rows] = getattr(step, name)
            column.append(full)
        for sample in keep:
            if (where := np.flatnonzero(rows == sample)).size:
                out.looks[sample].append(step.look.part(where))
        out.candidates += [{**c, "round": len(times) - 1, "sample": int(rows[int(c["row"])])} for c in step.candidates]
        left = int((x == canvas.mask_id).sum())
        tape.step(hidden - left, hidden, phase=phase)
    if times:
        out.kind = np.stack(columns["kind"]).astype(np.int8)
        out.sequences, out.confident = np.stack(columns["sequences"]), np.stack(columns["confident"])
    out.wall_ms = np.array(times)
    out.rounds = (out.kind >= 0).sum(0).astype(np.int32)
    return out


def _check(canvas: Canvas, start: np.ndarray) -> None:
    if start.ndim != 2 or start.shape[1] != canvas.length or len(start) > canvas.samples:
        raise InputError(expected("start", f"up to {canvas.samples} states of {canvas.length} positions", start.shape))
    known = (start == canvas.mask_id) | ((start >= 0) & (start < canvas.vocab_size))
    if not known.all():
        raise InputError(
            expected("start", f"ids below {canvas.vocab_size} or the mask ({canvas.mask_id})", int(start[~known][0]))
        )


def _apply(out: Decoded, x: np.ndarray, rows: np.ndarray, step: Step, round_: int) -> None:
    at = np.nonzero(step.commit)
    where = (rows[at[0]], at[1])
    x[where] = step.tokens[at]
    out.commit_round[where] = round_
    out.order[where], out.logprob[where], out.explored[where] = step.order[at], step.logprob[at], step.explored[at]


# ---- information -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Information:
    """What the rounds revealed, nats.

    Attributes:
        marginal, joint: (R, S); joint is the exact conditional information where the canvas is exact, else an estimate:
            the round's tokens revealed one by one, most confident first.
        per_token: (S, n): -log p of each token when revealed one by one in that order; sums to `total`.
        total: (S,): -log p of the text. exact: whether `joint` is.
    """

    marginal: np.ndarray
    joint: np.ndarray
    per_token: np.ndarray
    total: np.ndarray
    exact: bool


def information(canvas: Canvas, out: Decoded, batch: int = 256, *, each: bool = True) -> Information:
    """Return the information that each round revealed; on trained models this costs one forward for every token.

    Args:
        each: also tell every token's own share where the canvas is exact (elsewhere it is needed anyway).
    """
    marginal = out.per_round(-np.nan_to_num(out.logprob))
    per_token = _one_by_one(canvas, out, batch) if each or not canvas.exact else np.full(out.tokens.shape, np.nan)
    if not canvas.exact:
        joint = out.per_round(np.nan_to_num(per_token))
        return Information(marginal, joint, per_token, joint.sum(0), False)
    rows = np.arange(len(out.start))
    before = [canvas.log_evidence(out.states(r), rows) for r in range(len(out.kind) + 1)]
    joint = -np.diff(np.stack(before), axis=0) if len(out.kind) else np.zeros((0, len(rows)))
    return Information(marginal, joint, per_token, before[0] - before[-1], True)


def _one_by_one(canvas: Canvas, out: Decoded, batch: int) -> np.ndarray:
    """Return -log p (S, n) of every decided token given all decided before it and, of its round, those before it in order."""
    sample, position = np.nonzero(out.decided)
    found = np.full(out.tokens.shape, np.nan)
    for part in range(0, len(sample), batch):
        s, i = sample[part : part + batch], position[part : part + batch]
        round_, order = out.commit_round[s, i][:, None], out.order[s, i][:, None]
        earlier = (out.commit_round[s] < round_) | ((out.commit_round[s] == round_) & (out.order[s] < order))
        states = np.where(earlier, out.tokens[s], out.start[s])
        here = np.arange(len(s))
        logits = canvas.forward(states, s)[here, i].astype(np.float64)
        peak = logits.max(1)
        total = peak + np.log(np.exp(logits - peak[:, None]).sum(1))
        found[s, i] = total - logits[here, out.tokens[s, i]]
    return found
