"""From Bits to Rounds: a decoder that decides only what it trusts needs rounds in proportion to the text's information.

Fu, Huang, Adams, Wang, Srinivasan, Jiao, "From Bits to Rounds: Parallel Decoding with Exploration for Diffusion Language
Models", arXiv 2511.21103 (2025). A round of the factor rule reveals at most a fixed number of nats (theorem 3.2), so
rounds >= information / budget; deciding an uncertain token on purpose breaks that limit by setting off a cascade. Measured
here: rounds, sequences, time and right answers of the rule with and without exploration on the same prompts, the information
of every round beside its budget, and what one more candidate costs on this machine.

Differs from the paper: no code or pseudocode was found; the theorem is derived and tested here, **explore-then-exploit is our
reconstruction** and every choice of it is listed in `explore.py`. On trained models the joint information is an estimate (the
round's tokens revealed one by one, most confident first), because such a model has no single joint law.

| paper | here | shape |
|---|---|---|
| A_r, C_r | positions of round r, all before it: `commit_round` | |
| I_r joint, marginal | `information_joint`, `information_marginal` | (R,) nat |
| f, gamma | `factor`, `gamma` | |
| n | largest set: `block_length`, or the tokens to decide | |
| K, W | `candidates`, `window` | |
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import param

from workbench.data import parallel_tasks as tasks
from workbench.errors import InputError, expected
from workbench.meters import write_meter
from workbench.record import Record
from workbench.system import Columns, ModelName, System, knob
from workbench.systems.diffusion import exploration, explore, problems, report
from workbench.systems.diffusion.bounds import MACHINES
from workbench.systems.diffusion.decode import Decoded, Plain, decode, information
from workbench.systems.diffusion.explore import Explorer
from workbench.systems.diffusion.problems import Problem, warm_up
from workbench.systems.diffusion.rules import RULES, Rule
from workbench.tape import NullTape, Tape

LIVE = ("factor", "gamma", "block_length", "window", "candidates", "trigger", "explore_weight")
SAMPLES_TOLD = 100  # samples whose information is computed


#: What all presets set, so that each is its own point whatever was tried before.
_TINY: dict[str, Any] = {"model": "tiny-mdm", "factor": 1.0, "num_samples": 200, "length": 96, "study": True}


class BitsToRounds(System):
    """The bits-to-rounds bounds and explore-then-exploit, on exact laws and on a trained model."""

    key = "bits_to_rounds"
    title = "From Bits to Rounds"
    year = 2025
    arxiv = "2511.21103"
    family = "diffusion"
    asks = "How few rounds can a text be written in, and what breaks the limit?"
    shows = ("commit_film", "bits_rounds", "commit_map", "ledger", "explored", "fewer_rounds", "cost_knee")
    sometimes = ("bits_rounds", "explored", "fewer_rounds", "cost_knee")
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "a story": _TINY | {"task": "sentences", "items": 4, "rule": "ete", "candidates": 4, "temperature": 1.0},
        "sums": _TINY | {"task": "arithmetic", "items": 8, "rule": "ete", "candidates": 4, "temperature": 0.0},
        "no exploring": _TINY | {"task": "sentences", "items": 4, "rule": "factor", "candidates": 1, "temperature": 1.0},
        "exact law": _TINY | {"model": "joint-soft", "rule": "ete", "factor": 0.9, "candidates": 4, "temperature": 1.0},
        "real text, exact": _TINY
        | {"model": "plays-chain", "rule": "ete", "candidates": 4, "temperature": 1.0, "num_samples": 8, "study": False},
    }
    notes = (
        "Published are the theorem and the ingredients of the decoder, no pseudocode and, in the abstract, no numbers: the decoder here "
        "is our reconstruction. Explored tokens are the likeliest ones also where others are drawn, so exploring trades variety for "
        "rounds: more right answers with it at temperature 1 are no free gain. Reported, unverified: exploring is almost free in one regime. A later paper (arXiv 2603.22248) "
        "proves confidence-based decoding efficient under another assumption, a rule on cumulative entropy; that is no contradiction."
    )
    follows: ClassVar[dict[str, str]] = {name: name for name in LIVE}
    limits: ClassVar[dict[str, int]] = {"num_samples": 1000, "length": 256, "candidates": 16}

    model = knob(ModelName, "tiny-mdm", names=problems.NAMES, doc="The small trained model, a task's exact law (ideal), a joint law, or the plays' chain.")  # fmt: skip
    task = knob(param.Selector, "sentences", objects=list(tasks.TASKS), doc="What the answer is.")
    items = knob(param.Integer, 4, bounds=(1, 16), symbol="n", unit="items", doc="Items of a list, steps of a chain of sums, or sentences (at most 4).")  # fmt: skip
    rule = knob(param.Selector, "ete", objects=["ete", *RULES], doc="The decoder: ete is the factor rule plus exploration (our reconstruction); the others decide as in ParallelBench.")  # fmt: skip
    factor = knob(param.Number, 1.0, bounds=(0.1, 2.0), step=0.05, live=True, symbol="f", doc="Budget of the factor rule; above 1 the theorem says nothing.")  # fmt: skip
    candidates = knob(param.Integer, 4, bounds=(1, 16), live=True, symbol="K", unit="states", doc="States that an exploring round forwards in one batch; 1 explores nothing.")  # fmt: skip
    trigger = knob(param.Integer, 2, bounds=(1, 4), live=True, symbol="m", unit="tokens", doc="Explore after a round that trusted fewer tokens than this.")  # fmt: skip
    explore_weight = knob(param.Number, 0.5, bounds=(0.0, 2.0), step=0.05, live=True, symbol="λ", doc="What an explored token's log-probability counts against the tokens it unlocks.")  # fmt: skip
    block_length = knob(param.Integer, 8, bounds=(1, 128), live=True, symbol="B", unit="tokens", doc="Blocks that are filled one after the other; n of the bound.")  # fmt: skip
    window = knob(param.Integer, 1, bounds=(0, 8), live=True, symbol="W", unit="blocks", doc="Later blocks in which trusted tokens may be decided already.")  # fmt: skip
    gamma = knob(param.Number, 0.9, bounds=(0.5, 1.0), step=0.01, live=True, symbol="γ", doc="The threshold rule, and the budget of one in the ledger.")  # fmt: skip
    temperature = knob(param.Number, 1.0, bounds=(0.0, 2.0), step=0.05, symbol="τ", doc="0 takes the likeliest token, 1 draws from the law.")  # fmt: skip
    num_samples = knob(param.Integer, 200, bounds=(1, 1_000_000), doc="Prompts to decode; on a table model, draws of one law (group samples).")  # fmt: skip
    k = knob(param.Integer, 1, bounds=(1, 64), unit="tokens", advanced=True, doc="Tokens a round of the counted rules.")
    entropy_bound = knob(param.Number, 0.5, bounds=(0.0, 20.0), step=0.05, unit="nat", advanced=True, doc="Of the entropy-bounded rule.")  # fmt: skip
    compat = knob(param.Boolean, False, advanced=True, doc="The factor rule as released: off by one where only the last candidate fails.")  # fmt: skip
    explore_score = knob(param.Selector, "entropy", objects=list(explore.SCORES), advanced=True, doc="Which positions are explored first (our reconstruction).")  # fmt: skip
    study = knob(param.Boolean, True, advanced=True, doc="Also sweep f and K, and time one round with more candidates.")
    text = knob(param.String, problems.DEFAULT_TEXT, advanced=True, doc="What comes before, for plays-chain and checkpoints with a tokenizer.")  # fmt: skip
    length = knob(param.Integer, 64, bounds=(2, 1024), unit="tokens", advanced=True, doc="Positions to fill there.")
    machine = knob(param.Selector, "H100 (bf16)", objects=list(MACHINES), live=True, doc="Predicted times are for an 8 B model on this machine.")  # fmt: skip

    def prepare(self) -> None:
        """Load the model and draw the exercises; check the knobs against each other."""
        self._problem = problems.make(
            self.model, self.task, self.items, self.num_samples, self.seed, text=self.text, length=self.length
        )
        problems.lots(self._problem)
        if self.compat and self.rule not in {"factor", "ete"}:
            raise InputError(
                expected("compat", "off with every rule but factor and ete", f"on with {self.rule}", then="Set rule='factor'")
            )

    def warm(self) -> None:
        """Load the model and compile the statistics."""
        self.prepare()
        self.decode(NullTape(), self.stepper(), self._problem.first(2))

    def largest_set(self, hidden: int) -> int:
        """Return the most tokens that a round may decide of so many: n of the bounds."""
        return min(hidden, self.block_length * (1 + self.window))

    def base_rule(self) -> Rule:
        """Return the rule that the decoder exploits with."""
        name = "factor" if self.rule == "ete" else self.rule
        return Rule(name, self.k, self.gamma, self.factor, self.entropy_bound, self.compat)

    def stepper(self, *, explores: bool | None = None, problem: Problem | None = None, lot: int = 0, **changes: Any) -> Plain:
        """Return what decides a round: with exploration for "ete", plain else; `changes` are fields of the explorer."""
        problem, rng = problem or self._problem, np.random.default_rng([self.seed, 1, lot])
        shared = {"temperature": self.temperature, "block_length": self.block_length, "window": self.window}
        rule = changes.pop("rule", self.base_rule())
        if not (self.rule == "ete" if explores is None else explores):
            return Plain(problem.canvas, rule, rng, **shared)
        chosen = {"candidates": self.candidates, "trigger": self.trigger, "explore_weight": self.explore_weight}
        return Explorer(problem.canvas, rule, rng, **shared, **(chosen | changes), position_score=self.explore_score)

    def rival(self, problem: Problem) -> Plain:
        """Return the baseline: the rule without exploration, or one token a round where there is none to leave out."""
        changes: dict[str, Any] = {} if self.rule == "ete" else {"rule": Rule("static", 1)}
        return self.stepper(explores=False, problem=problem, **changes)

    def decode(self, tape: NullTape, stepper: Plain, problem: Problem | None = None, phase: str = "") -> Decoded:
        """Return what a stepper writes."""
        problem = problem or self._problem
        return decode(problem.canvas, problem.start, stepper, tape=tape, keep=(0,), phase=phase)

    def run(self, tape: NullTape) -> None:
        """Decode all prompts with the decoder and with its rule alone; account for every round's information."""
        quiet, (problem, *others) = NullTape(tape.on_step, tape.cancel), problems.lots(self._problem)
        warm_up(problem)
        out = self.decode(quiet, self.stepper(), problem, phase="decoding")
        told = problem.first(min(len(problem.start), SAMPLES_TOLD))
        name = f"{self.base_rule().name} rule alone" if self.rule == "ete" else "one token a round"
        base = self.decode(quiet, self.rival(told), told, phase="baseline")
        if not isinstance(tape, Tape):
            return
        if problem.table is not None:
            tape.write("samples", token_id=out.tokens.astype(np.int32))
            for i, lot in enumerate(others):
                more = self.decode(quiet, self.stepper(lot=i + 1), lot, phase=f"drawing, {i + 2} of {len(others) + 1}")
                tape.write("samples", token_id=more.tokens.astype(np.int32))
        self._write(tape, out, base, told, name)
        if self.study:
            exploration.write_study(self, tape, quiet, told)

    def _write(self, tape: Tape, out: Decoded, base: Decoded, told: Problem, name: str) -> None:
        problem, part = self._problem, exploration.first_of(out, len(told.start))
        ours, theirs = (information(problem.canvas, run, each=not problem.canvas.exact) for run in (part, base))
        report.write_film(tape, problem, out)
        report.write_film(tape, told, base, "film/baseline")
        report.write_rounds(tape, part, ours, report.budgets(self.base_rule(), out.committed[:, 0]))
        report.write_text(tape, problem, out)
        exploration.write_candidates(tape, problem, out)
        live = {f"run_{n}": getattr(self, n) for n in (*LIVE, "machine")}
        tape.describe(
            "unmasking", task=problem.task, model=problem.name, rule=self.rule, baseline=name, prompt=problem.prompt_text,
            block_length=self.block_length, hidden=problem.hidden, **live,
        )  # fmt: skip
        parts = [(told, {self.rule: (part, ours), name: (base, theirs)})]
        exploration.write_scatter(tape, self, parts + (exploration.smaller(self, name) if self.study else []))
        read = problem.canvas.prefix + problem.canvas.length
        report.write_costs(tape, out, base, read, self.machine, name)
        if problem.judge is not None:
            report.write_quality(tape, problem, out, base, name)
        write_meter(
            tape, "information", float(ours.total.mean()), "nat", kind="quality", better="lower", samples=len(told.start),
            provenance="derived" if ours.exact else "estimated", baseline=float(theirs.total.mean()), baseline_name=name,
        )  # fmt: skip
        report.remember_meters(tape)

    def derive(self, record: Record) -> Columns:
        """Return film, bounds and costs for the present live knobs."""
        attrs = record.group_attrs("unmasking")
        moved = [n for n in LIVE if attrs.get(f"run_{n}") != getattr(self, n)]
        idle = ("candidates", "trigger", "explore_weight") if self.rule != "ete" else ()
        used = {n for n in moved if n not in idle and (n != "gamma" or self.rule == "threshold")}
        name = "factor" if attrs.get("rule") == "ete" else str(attrs.get("rule", "factor"))
        rule = Rule(name, self.k, self.gamma, self.factor, self.entropy_bound, self.compat)
        same = not used & {"factor", "gamma", "block_length", "window"}
        groups = report.replayed(record, rule, self.block_length, self.window, same, self.seed)
        groups |= exploration.live_bounds(self, record)
        groups |= exploration.live_costs(self, record)
        if "candidates" in record:
            groups["candidates"] = exploration.live_winners(record, self.explore_weight)
        groups["meters"] = report.moved_meters(record, exploration.live_meters(self, record) if used else None)
        return groups
