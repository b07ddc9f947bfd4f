"""ATP-LLaVA: small trained modules between layers set two thresholds for each picture and question, and drop what passes neither.

Ye, Gan, Ge, Zhang, Tang, "ATP-LLaVA: Adaptive Token Pruning for Large Vision Language Models", arXiv 2412.00447 (2024). A token stays
if it is looked at enough (by the picture's own tokens and by the question) or if it lies on a grid that keeps the picture's layout.
Measured here on questions with true answers: accuracy, tokens and multiply-adds beside fixed schedules of the same budget.

Differs from the paper: a frozen reader of 0.43 M parameters on made pictures, only the modules are trained (the paper tunes the
language model too); how scores are brought to [0, 1], what a strided grid's score is, and over what the budget is averaged were not
said in the sources seen: ours are choices (reconstruction, unverified). No official code was found.

| paper | here | shape |
|---|---|---|
| S_self, S_cross, S_red | `own`, `cross`, their mean | (questions, patch) |
| S_sp, lambda_s | `spatial_scores`, 3 | (patch,) |
| theta_r, theta_s | thresholds of a module, plus the offsets of the knobs | (questions, 1) |
| M_r, M_s, M = max | `mask_r`, `mask_s`, `mask` | (questions, patch) |
| N_target | `budget`, as a mean share over all decoder layers | |
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar

import numpy as np
import param

from workbench.errors import InputError, expected
from workbench.meters import write_reported
from workbench.record import Record
from workbench.system import Columns, ModelName, PictureInput, System, knob
from workbench.systems.attention import pictures
from workbench.systems.attention import pictures_report as report
from workbench.tape import NullTape, Tape

BUDGETS = (0.5, 0.35, 0.28, 0.25, 0.2)
OFFSETS = (-0.3, -0.2, -0.1, -0.05, 0.0, 0.05, 0.1, 0.2, 0.3)
USES = ("both", "redundancy", "spatial")


REPORTED = (
    ("kept share", 144 / 576, "of picture tokens, LLaVA-1.5-7B", "cost", "lower", 1.0, "all picture tokens"),
    ("score", 0.981, "of the score with all tokens, LLaVA-1.5-7B", "quality", "higher", 1.0, "all picture tokens"),
)


class ATP(System):
    """Thresholds learnt for each picture and question."""

    key = "atp_llava"
    title = "ATP-LLaVA"
    year = 2024
    arxiv = "2412.00447"
    family = "attention"
    asks = "Can a picture and its question say by themselves how many tokens they need?"
    shows = ("patch_film", "budget_curves", "thresholds", "kept_by_kind", "schedule")
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        name: {"budget": 0.28, "theta_r_offset": 0.0, "theta_s_offset": 0.0, "use": "both", "image": "scene"} | changed
        for name, changed in (
            ("trained", {}),
            ("tight", {"budget": 0.2}),
            ("no grid", {"use": "redundancy"}),
            ("grid only", {"use": "spatial"}),
            ("photograph", {"image": "astronaut"}),
            ("break it", {"theta_r_offset": 0.5, "theta_s_offset": 0.5}),
        )
    }
    notes = (
        "Reported, unverified: on LLaVA-1.5-7B 576 tokens become 144 on average at 98.1 % of the score, CUDA time -38.4 %, FLOPs -78.1 %. Here "
        "a question costs more Python than arithmetic, so fewer multiply-adds are not yet fewer milliseconds."
    )
    follows: ClassVar[dict[str, str]] = {"theta_r_offset": "theta_r_offset", "theta_s_offset": "theta_s_offset"}
    limits: ClassVar[dict[str, int]] = {"held_out": 1000}

    model = knob(ModelName, "scene-reader", names=("scene-reader",), doc="The model that the modules were trained for.")
    image = knob(
        PictureInput,
        "scene",
        names=pictures.PICTURES,
        doc="A made scene (its answer is known), a photograph, or your own picture.",
    )
    question = knob(param.String, "auto", doc='Three words such as "colour of 7"; auto asks what the scene can answer.')
    budget = knob(
        param.Selector, 0.28, objects=list(BUDGETS), symbol="N_target",
        doc="Mean share of picture tokens over all layers that the modules were trained for.",
    )  # fmt: skip
    theta_r_offset = knob(
        param.Number,
        0.0,
        bounds=(-0.5, 0.5),
        step=0.01,
        live=True,
        symbol="theta_r",
        doc="Added to every threshold of the redundancy score.",
    )
    theta_s_offset = knob(
        param.Number,
        0.0,
        bounds=(-0.5, 0.5),
        step=0.01,
        live=True,
        symbol="theta_s",
        doc="Added to every threshold of the spatial score.",
    )
    use = knob(param.Selector, "both", objects=list(USES), doc="Which score may keep a token (the paper's ablation).")
    held_out = knob(param.Integer, 300, bounds=(20, 5000), unit="questions", advanced=True, doc="Questions of the exam.")
    compare = knob(param.Boolean, True, advanced=True, doc="Also measure every other method on the same questions.")

    def prepare(self) -> None:
        """Load the model and its modules, check the picture and the question."""
        from workbench.systems.attention import atp_modules as atp

        self._reader = pictures.open_reader(self.model)
        if self._reader.loaded.name != "scene-reader":
            then = "Train modules for it with recipes/atp_modules.py, or use g_search, which trains nothing"
            raise InputError(
                expected("model", "scene-reader, for which modules were trained", repr(self._reader.loaded.name), "", then)
            )
        self._trained = atp.trained(self._reader.device)[self.budget]
        self._shown = pictures.picture(self.image, self.question, self.seed)
        self._glance = self._reader.glance([self._shown.image], [self._shown.question])

    def warm(self) -> None:
        """Load the model."""
        self.prepare()

    def rule(self, offset: float = 0.0) -> Any:
        """Return the modules as a rule, with the offsets of the knobs and another one on both."""
        from workbench.systems.attention import atp_modules as atp

        return atp.Pruner(
            self._trained.modules, self._trained.after, self._glance.grid, offset_r=self.theta_r_offset + offset,
            offset_s=self.theta_s_offset + offset, use=self.use,
        )  # fmt: skip

    def run(self, tape: NullTape) -> None:
        """Sit the exam with the modules and without, look at the picture, sweep the offset, compare."""
        import torch

        reader, after = self._reader, self._trained.after
        exam = pictures.exam(reader, self.held_out, report.HELD_OUT_SEED)
        tape.step(0, 2 + len(OFFSETS), phase="held-out questions")
        rule, single = self.rule(), self.rule()
        dense, pruned = pictures.sit(reader, exam), pictures.sit(reader, exam, rule, at=after, own=True)
        with torch.inference_mode():
            whole = reader.answer(self._glance, lambda scores: None, at=range(reader.layers))
            ours = reader.answer(self._glance, single, at=after, own=True)
        swept = []
        for i, offset in enumerate(OFFSETS):
            tape.step(1 + i, 2 + len(OFFSETS), phase="other thresholds")
            swept.append(pictures.sit(reader, exam, self.rule(offset), at=after, own=True))
        if isinstance(tape, Tape):
            report.write_speed(tape, reader, self._glance, self.rule(), after, own=True)
            report.write_exam(tape, dense, pruned)
            write_reported(tape, *REPORTED)
            self._write_picture(tape, whole, ours, single)
            self._write_exam(tape, exam, rule, pruned)
            self._write_comparison(tape, dense, pruned, swept)

    def _write_picture(self, tape: Tape, whole: Any, ours: Any, rule: Any) -> None:
        reader, after = self._reader, self._trained.after
        words = reader.loaded.tokenizer.convert_ids_to_tokens
        layers, patches = reader.layers, self._glance.patches
        keep, reason = np.ones((layers, patches), bool), np.zeros((layers, patches), np.int8)
        for decision in rule.decisions:
            keep[decision.layer + 1 :] = decision.mask[0].cpu().numpy()
            reason[decision.layer + 1 :] = decision.reason()[0]
        report.write_picture(
            tape, self._shown, np.stack([s.cross[0].cpu().numpy() for s in whole[1].scores]), keep, reason=reason,
            grid=self._glance.grid, said=words(int(ours[0].argmax())), said_dense=words(int(whole[0].argmax())), run_budget=0.0, budget=0.0,
            run_r=float(self.theta_r_offset), run_s=float(self.theta_s_offset), use=self.use,
            **report.cost_facts(reader.text.config, layers, self._glance.length - patches),
        )  # fmt: skip
        tape.write(
            "thresholds/picture", layer=np.array(after, np.int32), **_thresholds(rule),
        )  # fmt: skip

    def _write_exam(self, tape: Tape, exam: pictures.Exam, rule: Any, pruned: pictures.Outcome) -> None:
        tape.write(
            "thresholds/exam", layer=np.array(self._trained.after, np.int32), **_thresholds(rule), kind=exam.kinds.astype(str), right=pruned.right,
            kept=pruned.kept.mean(0).astype(np.float32),
        )  # fmt: skip
        for meter in report.cost_meters(dict(tape.attrs["patches"]), pruned.kept, self._glance.patches):
            report.write_meter(tape, **meter)

    def _write_comparison(
        self, tape: Tape, dense: pictures.Outcome, pruned: pictures.Outcome, swept: list[pictures.Outcome]
    ) -> None:
        parts = [
            report.points("this run", [pruned]),
            report.points("all picture tokens", [dense]),
            report.points("these thresholds, moved together", swept),
        ]
        if self.compare:
            parts += [
                report.points(name, found)
                for name, found in report.baselines(self._reader, self.held_out, report.HELD_OUT_SEED).items()
            ]
            parts.append(
                report.points("trained thresholds (ATP)", report.adaptive(self._reader, self.held_out, report.HELD_OUT_SEED))
            )
        tape.write("curve/accuracy", **report.joined(parts))
        tape.describe("curve/accuracy", samples=self.held_out, **report.LABELS["curve/accuracy"])
        report.write_schedule(tape, {"this run": pruned.counts}, self._reader.layers, self._glance.patches)

    def derive(self, record: Record) -> Columns:
        """Return kept patches, counts and costs under other offsets, from the recorded scores and thresholds."""
        return derive(self, record)


def _thresholds(rule: Any) -> dict[str, np.ndarray]:
    """Return what the modules saw and asked, as columns of the group `thresholds`."""
    made = rule.decisions
    return {
        "theta_r": _stacked(d.theta_r[:, 0] for d in made), "theta_s": _stacked(d.theta_s[:, 0] for d in made),
        "redundancy": _stacked(d.redundancy for d in made), "spatial": _stacked(d.spatial[0] for d in made),
    }  # fmt: skip


def _stacked(tensors: Iterable[Any]) -> np.ndarray:
    return np.stack([t.cpu().numpy() for t in tensors])


def masks(group: dict[str, np.ndarray], offset_r: float, offset_s: float, use: str) -> tuple[np.ndarray, np.ndarray]:
    """Return (redundancy, spatial) masks of every module, (M, B, N) bool, for thresholds moved by the offsets."""
    theta_r, theta_s = group["theta_r"][..., None] + offset_r, group["theta_s"][..., None] + offset_s
    mask_r, mask_s = (
        group["redundancy"] > theta_r,
        np.broadcast_to(group["spatial"][:, None] > theta_s, group["redundancy"].shape),
    )
    return mask_r & (use != "spatial"), mask_s & (use != "redundancy")


def survivors(group: dict[str, np.ndarray], offset_r: float, offset_s: float, use: str) -> tuple[np.ndarray, np.ndarray]:
    """Return (keep, reason codes) behind every module; what is gone stays gone, at least one token stays."""
    mask_r, mask_s = masks(group, offset_r, offset_s, use)
    keep, alive = [], np.ones(mask_r.shape[1:], bool)
    for i in range(len(mask_r)):
        now = (mask_r[i] | mask_s[i]) & alive
        score = np.where(alive, group["redundancy"][i], -1.0)
        none = ~now.any(-1)
        now |= none[..., None] & (score == score.max(-1, keepdims=True))
        keep.append(now)
        alive = now
    kept = np.stack(keep)
    codes = mask_r * 1 + mask_s * 2
    return kept, np.where(kept, np.maximum(codes, 1), 0).astype(np.int8)


def derive(system: ATP, record: Record) -> Columns:
    """Return what other offsets make of recorded scores (numpy only). Exact behind the first module, later ones are estimated:
    with other tokens gone their scores would differ."""
    if "thresholds/picture" not in record or "patches" not in record:
        return {}
    facts = dict(record.group_attrs("patches"))
    moved = (system.theta_r_offset - facts["run_r"], system.theta_s_offset - facts["run_s"])
    if not any(abs(m) > 1e-9 for m in moved):
        return {}
    one, many = (
        {n: record.column(f"thresholds/{g}", n) for n in ("layer", "theta_r", "theta_s", "redundancy", "spatial")}
        for g in ("picture", "exam")
    )
    old = {n: record.column("patches", n) for n in record.variables("patches")}
    keep, reason = old["keep"].copy(), old["reason"].copy()
    kept, codes = survivors(one, *moved, facts["use"])
    counts = np.full(len(keep), float(keep.shape[1]))
    per_question = survivors(many, *moved, facts["use"])[0].sum(-1)
    tokens = np.full((len(keep), per_question.shape[1]), keep.shape[1])
    for i, layer in enumerate(one["layer"]):
        keep[layer + 1 :], reason[layer + 1 :] = kept[i, 0], codes[i, 0]
        tokens[layer + 1 :] = per_question[i]
        counts[layer + 1 :] = per_question[i].mean()
    lines = {n: record.column("curve/schedule", n).copy() for n in record.variables("curve/schedule")}
    lines["y"][lines["curve"].astype(str) == "this run"] = counts
    exam = {n: record.column("thresholds/exam", n) for n in record.variables("thresholds/exam")}
    exam |= {
        "theta_r": exam["theta_r"] + moved[0],
        "theta_s": exam["theta_s"] + moved[1],
        "kept": tokens.mean(0).astype(np.float32),
    }
    costs = report.cost_meters(facts, tokens, keep.shape[1])
    groups = {
        "patches": old | {"keep": keep, "reason": reason}, "curve/schedule": lines, "thresholds/exam": exam,
        "meters": report.replayed_meters(record, costs, report.read_off(record, costs[0]["value"], ("these thresholds, moved together", "this run"))),
    }  # fmt: skip
    return {**groups, "attrs": {"patches": facts | {"budget": 1.0}}}  # type: ignore[dict-item]
