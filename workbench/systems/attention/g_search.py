"""G-Search and P-Sigmoid: how many picture tokens each layer keeps is searched on a few questions, nothing is trained.

Zhao, Wang, Juefei-Xu, Xia, Liu, Wang, Liang, Zhang, Metaxas, Yu, "Accelerating Multimodal Large Language Models by Searching Optimal
Vision Token Reduction", arXiv 2412.00556 (2024). Layers agree on which picture tokens matter, all but the first; so tokens may leave
for good. Scenario I (G-Search): from shallow to deep, the least count that loses no more than a tolerance. Scenario II (P-Sigmoid):
under a budget, a sigmoid over depth whose steepness and floor a Bayesian search finds. Measured here on questions with true answers,
beside every fixed schedule, ATP's trained thresholds and ZipVL's rule on the same model and questions.

Differs from the paper: a model of 0.43 M parameters on made pictures, because there the truth is known (the paper's are 7 B and more);
the sigmoid's exact form was not seen in the paper, this one contains the known baselines (reported, unverified). No public code was found.

| paper | here | shape |
|---|---|---|
| s_j | `Scores.cross`: attention of the question's tokens on picture token j, mean over heads and tokens | (questions, patch) |
| k_l, r_l | `counts`, counts / N | (layer,) |
| P, P_0, delta | `metric`, its value with all tokens, `delta` | |
| a, b, r_min | `steepness`, from the budget, `floor` | |
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import param

from workbench.meters import write_reported
from workbench.record import Record
from workbench.system import Columns, ModelName, PictureInput, System, knob
from workbench.systems.attention import pictures, schedules
from workbench.systems.attention import pictures_report as report
from workbench.tape import NullTape, Tape

METHODS = ("p-sigmoid", "g-search", "uniform", "fastv", "linear")


REPORTED = (
    ("speed without loss", 2.0, "x dense and more, LLaVA and InternVL2", "speed", "higher", 1.0, "all picture tokens"),
    ("gain over FastV", 3.4, "points and more (to 7.7), 87.5 % fewer picture tokens", "quality", "higher", 0.0, "FastV"),
)


class GSearch(System):
    """Searched token schedules on questions with known answers."""

    key = "g_search"
    title = "G-Search and P-Sigmoid"
    year = 2024
    arxiv = "2412.00556"
    family = "attention"
    asks = "How many picture tokens does each layer need before the answer suffers?"
    shows = ("patch_film", "budget_curves", "schedule", "search_trace", "rank_agreement")
    sometimes = ("search_trace",)
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "budget": {"method": "p-sigmoid", "budget": 0.25, "image": "scene", "delta": 2.0},
        "no loss": {"method": "g-search", "budget": 0.25, "image": "scene", "delta": 2.0},
        "FastV": {"method": "fastv", "budget": 0.35, "image": "scene", "delta": 2.0},
        "photograph": {"method": "p-sigmoid", "budget": 0.25, "image": "coffee", "delta": 2.0},
        "too tight": {"method": "uniform", "budget": 0.14, "image": "scene", "delta": 2.0},
    }
    notes = (
        "Reported, unverified: more than 2x faster LLaVA and InternVL2 without loss; at 87.5 % fewer picture tokens 3.4 to 7.7 points above "
        "FastV; Kendall's tau between layers above 0.7 except with the first. The pictures here are made, so that every answer is known."
    )
    follows: ClassVar[dict[str, str]] = {"budget": "budget"}
    limits: ClassVar[dict[str, int]] = {"calibration": 512, "held_out": 1000, "trials": 40}

    model = knob(ModelName, "scene-reader", names=("scene-reader",), doc="A LLaVA-type model by name.")
    image = knob(
        PictureInput,
        "scene",
        names=pictures.PICTURES,
        doc="A made scene (its answer is known), a photograph, or your own picture.",
    )
    question = knob(param.String, "auto", doc='Three words such as "colour of 7"; auto asks what the scene can answer.')
    method = knob(param.Selector, "p-sigmoid", objects=list(METHODS), doc="Who says how many tokens each layer keeps.")
    budget = knob(
        param.Number, 0.25, bounds=(0.13, 1.0), step=0.01, live=True, symbol="R",
        doc="Mean share of picture tokens over all layers (the first keeps all). Not used by g-search.",
    )  # fmt: skip
    delta = knob(
        param.Number,
        2.0,
        bounds=(0.0, 20.0),
        step=0.5,
        unit="points",
        symbol="delta",
        doc="What G-Search may lose of its metric.",
    )
    metric = knob(
        param.Selector, "right-word", objects=["right-word", "accuracy"],
        doc="What the search looks at: mean probability of the right word (geometric), or the share of right answers.",
    )  # fmt: skip
    steepness = knob(
        param.Number,
        None,
        allow_None=True,
        bounds=(0.1, 30.0),
        step=0.1,
        symbol="a",
        advanced=True,
        doc="Of the sigmoid; auto searches it.",
    )
    floor = knob(
        param.Number,
        None,
        allow_None=True,
        bounds=(0.0, 0.9),
        step=0.01,
        symbol="r_min",
        advanced=True,
        doc="Of the sigmoid; auto searches it.",
    )
    trials = knob(
        param.Integer,
        15,
        bounds=(0, 100),
        advanced=True,
        doc="Guided evaluations of the Bayesian search, after five random ones.",
    )
    calibration = knob(
        param.Integer, 200, bounds=(20, 2000), unit="questions", advanced=True, doc="Questions that the search sees."
    )
    held_out = knob(param.Integer, 300, bounds=(20, 5000), unit="questions", advanced=True, doc="Questions that it never sees.")
    compare = knob(param.Boolean, True, advanced=True, doc="Also measure every other method on the held-out questions.")
    study = knob(param.Boolean, False, advanced=True, doc="Also search both schedules at other budgets and losses (half a minute more).")  # fmt: skip

    def prepare(self) -> None:
        """Load the model, check the picture and the question."""
        self._reader = pictures.open_reader(self.model)
        self._shown = pictures.picture(self.image, self.question, self.seed)
        self._glance = self._reader.glance([self._shown.image], [self._shown.question])
        if self.method != "g-search":  # a budget or a floor that no schedule has is refused before anything is searched
            size = (self.budget, self._reader.layers, self._glance.patches)
            report.SHAPES[self.method](*size) if self.method in report.SHAPES else schedules.p_sigmoid(
                *size, 1.0, self.floor or 0.0
            )

    def warm(self) -> None:
        """Load the model."""
        self.prepare()

    # ---- the metric --------------------------------------------------------------------------------------------------

    def value(self, found: pictures.Outcome) -> float:
        """Return P of an outcome, in points: right answers, or the geometric mean of the right word's probability."""
        if self.metric == "accuracy":
            return 100 * found.accuracy
        return float(100 * np.exp(np.maximum(found.logprob, -10.0).mean()))

    def metric_of(self, counts: list[int]) -> float:
        """Return P of a schedule on the calibration questions."""
        rule, at = pictures.scheduled(counts)
        return self.value(pictures.sit(self._reader, self._calibration, rule, at=at))

    # ---- scenario I --------------------------------------------------------------------------------------------------

    def greedy(self, tape: NullTape, delta: float) -> list[int]:
        """Return G-Search's counts for a loss of `delta` points; what is settled is not computed again, every trial is written."""
        import torch

        reader, exam = self._reader, self._calibration
        with torch.inference_mode():
            state = reader.advance(exam.glance, reader.start(exam.glance), 1, lambda scores: None, at=[0])
        base = self.value(pictures.sit(reader, exam))
        settled = {"state": state}

        def metric(counts: list[int]) -> float:
            state = settled["state"]
            tape.step(state.layer, reader.layers, phase=f"layer {state.layer + 1}: {counts[state.layer]} tokens?")
            with torch.inference_mode():
                rest = _kept(reader, exam, state, counts[state.layer])
                end = reader.advance(exam.glance, rest)
                return self.value(pictures.outcome(exam, reader.finish(end), end))

        def fixed(layer: int, count: int) -> None:
            with torch.inference_mode():
                state = _kept(reader, exam, settled["state"], count)
                settled["state"] = reader.advance(exam.glance, state, layer + 1, lambda scores: None, at=[layer])

        counts, tried = schedules.g_search(metric, reader.layers, exam.glance.patches, base - delta, confirm=2, fixed=fixed)
        if isinstance(tape, Tape):
            _write_trials(tape, tried, base - delta, reader.layers)
        return counts

    # ---- scenario II -------------------------------------------------------------------------------------------------

    def fitted(self, tape: NullTape, share: float) -> tuple[float, float]:
        """Return (steepness, floor) for a mean share: given, or found by the Bayesian search on the calibration questions."""
        if self.steepness is not None and self.floor is not None:
            return self.steepness, self.floor
        layers, tokens = self._reader.layers, self._glance.patches
        done = 0

        def metric(steepness: float, floor: float) -> float:
            nonlocal done
            tape.step(done, 5 + self.trials, phase="searching the sigmoid")
            done += 1
            a = steepness if self.steepness is None else self.steepness
            return self.metric_of(schedules.p_sigmoid(share, layers, tokens, a, floor if self.floor is None else self.floor))

        most = max(0.0, (share * layers - 1) / (layers - 1))
        best, tried = schedules.bayesian(metric, most, first=5, guided=self.trials, seed=self.seed)
        if isinstance(tape, Tape):
            _write_guesses(tape, tried)
        a = best.steepness if self.steepness is None else self.steepness
        return a, best.floor if self.floor is None else self.floor

    def schedule(self, tape: NullTape) -> tuple[list[int], dict[str, float]]:
        """Return (counts of each layer, facts that `derive` needs to make those of another budget)."""
        layers, tokens = self._reader.layers, self._glance.patches
        if self.method == "g-search":
            return self.greedy(tape, self.delta), {}
        if self.method == "p-sigmoid":
            steepness, floor = self.fitted(tape, self.budget)
            return schedules.p_sigmoid(self.budget, layers, tokens, steepness, floor), {"steepness": steepness, "floor": floor}
        return report.SHAPES[self.method](self.budget, layers, tokens), {}

    def elsewhere(self, tape: NullTape, exam: pictures.Exam) -> dict[str, list[pictures.Outcome]]:
        """Return how both scenarios do on an exam at other budgets and other losses, each searched anew."""
        layers, tokens = self._reader.layers, self._glance.patches
        quiet = NullTape(lambda done, _: tape.on_step(done, tape) if tape.on_step else None, tape.cancel)  # writes nothing
        found: dict[str, list[pictures.Outcome]] = {report.FITTED: [], report.SEARCHED: []}
        for share in report.SHARES:
            if self.floor is None or self.floor * (layers - 1) < share * layers - 1:
                rule, at = pictures.scheduled(schedules.p_sigmoid(share, layers, tokens, *self.fitted(quiet, share)))
                found[report.FITTED].append(pictures.sit(self._reader, exam, rule, at=at))
        for delta in report.LOSSES:
            rule, at = pictures.scheduled(self.greedy(quiet, delta))
            found[report.SEARCHED].append(pictures.sit(self._reader, exam, rule, at=at))
        return found

    # ---- the run -----------------------------------------------------------------------------------------------------

    def run(self, tape: NullTape) -> None:
        """Find the schedule, sit the held-out exam with it and without, look at the picture, compare."""
        import torch

        reader = self._reader
        self._calibration = pictures.exam(reader, self.calibration, report.CALIBRATION_SEED)
        counts, facts = self.schedule(tape)
        exam = pictures.exam(reader, self.held_out, report.HELD_OUT_SEED)
        tape.step(0, 1, phase="held-out questions")
        rule, at = pictures.scheduled(counts)
        dense, pruned = pictures.sit(reader, exam), pictures.sit(reader, exam, rule, at=at)
        with torch.inference_mode():
            whole = reader.answer(self._glance, lambda scores: None, at=range(reader.layers))
            ours = reader.answer(self._glance, rule, at=range(reader.layers)) if at else whole
        if isinstance(tape, Tape):
            report.write_speed(tape, reader, self._glance, rule, at, own=False)
            report.write_exam(tape, dense, pruned)
            write_reported(tape, *REPORTED)
            self._write(tape, counts, facts, (whole, ours), (dense, pruned), self.elsewhere(tape, exam) if self.study else {})

    def _write(self, tape: Tape, counts: list[int], facts: dict[str, float], looks: Any, exams: Any, more: Any) -> None:
        reader, (whole, ours), (dense, pruned) = self._reader, looks, exams
        score = np.stack([s.cross[0].cpu().numpy() for s in whole[1].scores])
        keep = np.stack([s.alive[0].cpu().numpy() for s in ours[1].scores])  # the run ranks by what its own layers see
        words = reader.loaded.tokenizer.convert_ids_to_tokens
        costs = report.cost_facts(reader.text.config, reader.layers, self._glance.length - self._glance.patches)
        report.write_picture(
            tape, self._shown, score, keep, grid=self._glance.grid, said=words(int(ours[0].argmax())),
            said_dense=words(int(whole[0].argmax())), method=self.method, run_budget=float(self.budget), budget=float(self.budget),
            **costs, **facts,
        )  # fmt: skip
        for meter in report.cost_meters(costs, counts, self._glance.patches):
            report.write_meter(tape, **meter)
        report.write_schedule(tape, {"this run": counts}, reader.layers, self._glance.patches)
        self._write_comparison(tape, dense, pruned, more)
        report.write_rank_agreement(tape, self._dense_scores())

    def _dense_scores(self) -> list[Any]:
        import torch

        if not hasattr(self, "_seen"):
            part = self._calibration.part(0, 24)
            with torch.inference_mode():
                self._seen = self._reader.answer(part.glance, lambda scores: None, at=range(self._reader.layers))[1].scores
        return self._seen

    def _write_comparison(
        self, tape: Tape, dense: pictures.Outcome, pruned: pictures.Outcome, more: dict[str, list[pictures.Outcome]]
    ) -> None:
        parts = [report.points("this run", [pruned]), report.points("all picture tokens", [dense])]
        parts += [report.points(name, found) for name, found in more.items() if found]
        if self.compare:
            for name, found in report.baselines(self._reader, self.held_out, report.HELD_OUT_SEED).items():
                parts.append(report.points(name, found))
            if found := report.adaptive(self._reader, self.held_out, report.HELD_OUT_SEED):
                parts.append(report.points("trained thresholds (ATP)", found))
        tape.write("curve/accuracy", **report.joined(parts))
        tape.describe("curve/accuracy", samples=self.held_out, **report.LABELS["curve/accuracy"])

    def derive(self, record: Record) -> Columns:
        """Return schedule, kept patches and costs of the present budget; accuracy is read off the run's own curve."""
        return derive(self, record)


def _kept(reader: Any, exam: pictures.Exam, state: Any, count: int) -> Any:
    """Return the run with all but the `count` best tokens gone, by the scores of the layer before."""
    from dataclasses import replace

    scores = state.scores[-1]
    keep = pictures.best(scores.cross, state.alive, count)
    return replace(state, alive=keep, kept=list(state.kept), scores=list(state.scores))


def kept_of(score: np.ndarray, counts: list[int]) -> np.ndarray:
    """Return which tokens each layer keeps, (L, N) bool, from the scores of the layer before; gone is gone."""
    keep = np.ones(score.shape, bool)
    for layer in range(1, len(counts)):
        alive = keep[layer - 1]
        order = np.argsort(-np.where(alive, score[layer - 1], -1.0), kind="stable")
        keep[layer] = False
        keep[layer, order[: counts[layer]]] = True
        keep[layer] &= alive
    return keep


def _write_trials(tape: Tape, tried: list[schedules.Trial], wanted: float, layers: int) -> None:
    """Write every trial and what the search cost: a trial of layer l runs l and what is below, the settled layers above are kept."""
    parts = [
        report.rows("passes" if good else "loses too much", [t.layer + 1 for t in some], [t.candidate for t in some])
        for good in (True, False)
        if (some := [t for t in tried if t.feasible == good])
    ]
    tape.write("curve/search", **report.joined(parts))
    tape.describe(
        "curve/search", x_label="layer", y_label="picture tokens tried", wanted=wanted, evaluations=len(tried),
        seconds=sum(t.seconds for t in tried), layer_passes=sum(layers - t.layer for t in tried), layer_passes_plain=layers * len(tried),
    )  # fmt: skip


def _write_guesses(tape: Tape, tried: list[schedules.Guess]) -> None:
    parts = [
        report.rows(
            "at random" if random else "guided", [g.steepness for g in some], [g.floor for g in some], [g.metric for g in some]
        )
        for random in (True, False)
        if (some := [g for g in tried if g.random == random])
    ]
    tape.write("curve/search", **report.joined(parts))
    best = max(g.metric for g in tried)
    tape.describe("curve/search", x_label="steepness a", y_label="floor r_min", best=best, evaluations=len(tried))


def derive(system: GSearch, record: Record) -> Columns:
    """Return what another budget makes of the recorded scores (numpy only; a slider waits for it)."""
    if "patches" not in record:
        return {}
    facts = dict(record.group_attrs("patches"))
    if facts["method"] == "g-search" or abs(system.budget - facts["run_budget"]) < 1e-9:
        return {}
    score = record.column("patches", "score")
    layers, tokens = score.shape
    if facts["method"] == "p-sigmoid":
        facts["floor_now"] = min(facts["floor"], max(0.0, (system.budget * layers - 1) / (layers - 1)))
        counts = schedules.p_sigmoid(system.budget, layers, tokens, facts["steepness"], facts["floor_now"])
    else:
        counts = report.SHAPES[facts["method"]](system.budget, layers, tokens)
    patches = {name: record.column("patches", name) for name in record.variables("patches")} | {"keep": kept_of(score, counts)}
    lines = {name: record.column("curve/schedule", name).copy() for name in record.variables("curve/schedule")}
    lines["y"][lines["curve"].astype(str) == "this run"] = counts
    groups = {"patches": patches, "curve/schedule": lines, "meters": _meters(record, counts, facts)}
    labels = dict(record.group_attrs("curve/schedule")) | {n: facts[n] for n in ("floor", "floor_now") if n in facts}
    return {**groups, "attrs": {"patches": facts | {"budget": float(system.budget)}, "curve/schedule": labels}}  # type: ignore[dict-item]


def _meters(record: Record, counts: list[int], facts: dict[str, Any]) -> dict[str, np.ndarray]:
    """Return the meters of these counts; accuracy is read off the measured curve of this run: estimated."""
    costs = report.cost_meters(facts, counts, record.column("patches", "score").shape[1])
    known = ("this run", "same share in every layer")
    return report.replayed_meters(record, costs, report.read_off(record, costs[0]["value"], known))
