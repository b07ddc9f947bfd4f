"""OpenMoE: which expert takes which token, why, since when, and who is dropped when an expert is full.

Xue, Zheng, Fu, Ni, Zheng, Zhou, You, "OpenMoE: An Early Effort on Open Mixture-of-Experts Language Models", arXiv 2402.01739 (2024).
Its lasting part is the analysis: experts follow token ids rather than topics, they do so from early in the training, and under a
capacity the later tokens of a sequence lose theirs. Measured here on a small mixture trained for it (or any mixture of transformers
by name): what predicts the expert, the router at ten steps of its training, drops by position for kinds of text the model learnt
and kinds it never saw, and what drops cost in perplexity, by running the model again with the limit in place.

Differs from the paper: models of 2 M parameters instead of 650 M to 34 B, experts in every second layer, and no capacity while
training (the model is dropless; the limit is laid on afterwards). Kinds of text are plays, code, help topics and sums, and outside
them style sheets and a cipher. The least number of slots and rounding them up to even are reported from the code, unverified.

| paper | here | shape |
|---|---|---|
| h, p | router logits, `probability` | (layer, token, expert) |
| K, g | `top_k`, `weight` | (layer, token, choice) |
| C | `analysis.capacity` | slots of an expert in a group |
| B | tokens of a group: `group_size` texts | |
| N[v, i] | `analysis.counts` | (token id, expert) |
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import param

from workbench import kernels, models
from workbench.data import domains
from workbench.errors import InputError, expected
from workbench.instruments import router
from workbench.meters import interleaved
from workbench.models.devices import beside
from workbench.record import Record
from workbench.system import Columns, ModelName, Prompt, System, knob
from workbench.systems.routing import analysis
from workbench.systems.routing import openmoe_report as report
from workbench.tape import NullTape, Tape

KINDS = domains.DOMAINS + domains.OUTSIDE
CORPORA: dict[str, tuple[str, ...]] = {"all kinds": KINDS, "learnt kinds": domains.DOMAINS, **{k: (k,) for k in KINDS}}
OWN = "your text"
RANKS = 8  # candidates of a token that a record keeps, or as many as the model chooses; top_k can be moved up to as many


@dataclass(frozen=True)
class Texts:
    """Texts of one length: ids (B, T), and the kind of each."""

    ids: np.ndarray
    kind: list[str]

    @property
    def outside(self) -> np.ndarray:
        """Which texts are of a kind that the small models never saw, (B,) bool."""
        return np.isin(self.kind, domains.OUTSIDE)

    def flat(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Return token_id, position, text and kind of every token, batch-major (B * T,)."""
        count, length = self.ids.shape
        place = np.tile(np.arange(length, dtype=np.int32), count)
        text = np.repeat(np.arange(count, dtype=np.int32), length)
        return self.ids.reshape(-1), place, text, np.repeat(np.array(self.kind, object), length)


@dataclass
class Pass:
    """What the model made of the texts: loss of every next token (B, T - 1) in nats, and who was dropped (L, N, K)."""

    loss: np.ndarray
    dropped: np.ndarray | None = None


def choose(probability: np.ndarray, candidate: np.ndarray, top_k: int, rule: str) -> tuple[np.ndarray, np.ndarray]:
    """Return (expert, weight) of the first `top_k` candidates; "renormalised" weights sum to one.

    Source: section 3.1: g is p on the K largest, 0 elsewhere.
    """
    weight = probability[..., :top_k].astype(np.float32)
    if rule == "renormalised":
        weight = weight / weight.sum(-1, keepdims=True)
    return candidate[..., :top_k], weight


_START: dict[str, Any] = {
    "model": "moe-8", "text": "", "corpus": "all kinds", "capacity_factor": 1.25, "top_k": None, "order": "token", "group_size": 1,
}  # fmt: skip
_PRESETS: dict[str, dict[str, Any]] = {
    "paper": {},
    "evaluation": {"capacity_factor": 2.0},
    "16 experts": {"model": "moe-16"},
    "by priority": {"order": "priority"},
    "break it": {"capacity_factor": 0.5},
}


class OpenMoE(System):
    """Routing of a mixture of experts, and what a capacity does to it."""

    key = "openmoe"
    title = "OpenMoE"
    year = 2024
    arxiv = "2402.01739"
    family = "routing"
    asks = "Which expert takes which token, why, and who is dropped when an expert is full?"
    shows = (
        "routing_map", "routed_text", "token_card", "spikiness", "information", "drop_curve", "drop_quality", "expert_load", "expert_card",
        "router_film", "claims", "expert_transitions",
        "layer_overlap",
    )  # fmt: skip
    sometimes = ("router_film", "expert_transitions", "layer_overlap", "drop_quality")
    presets: ClassVar[dict[str, dict[str, Any]]] = {name: _START | changed for name, changed in _PRESETS.items()}
    notes = (
        "The model was trained without a capacity; the limit is laid on afterwards, so drops here say what such a limit would do to it. "
        "Reported, unverified: slots are at least 4 and even; with OpenMoE-8B drops reach 35 % on other data sets and 50 % for chat."
    )
    follows: ClassVar[dict[str, str]] = {n: n for n in ("capacity_factor", "top_k", "order", "group_size")}
    limits: ClassVar[dict[str, int]] = {"text": 20_000, "windows": 16, "length": 256}

    model = knob(
        ModelName, "moe-8", names=("moe-8", "moe-16"), doc="A mixture of experts: a name, a folder, a hub id or a module."
    )
    corpus = knob(
        param.Selector,
        "all kinds",
        objects=list(CORPORA),
        doc="Held-out text that is routed; the last two kinds the small models never saw.",
    )
    text = knob(Prompt, "", doc="Your own text instead of the corpus, or a list of token ids.")
    capacity_factor = knob(
        param.Number, 1.25, bounds=(0.25, 8.0), step=0.05, live=True, symbol="cf",
        doc="Slots of all experts together, as a multiple of the choices of a group.",
    )  # fmt: skip
    order = knob(
        param.Selector, "token", objects=["token", "random", "priority"], live=True,
        doc="Who is served first: the earlier token, a random one, or the one with the larger weight.",
    )  # fmt: skip
    top_k = knob(
        param.Integer, None, allow_None=True, bounds=(1, RANKS), live=True, symbol="K", unit="experts",
        doc="Experts of each token; auto: as many as the model's own router chooses.",
    )  # fmt: skip
    group_size = knob(
        param.Integer,
        1,
        bounds=(1, 16),
        live=True,
        symbol="B",
        unit="texts",
        doc="Texts of one kind that share an expert's slots.",
    )
    windows = knob(param.Integer, 12, bounds=(1, 64), unit="texts", advanced=True, doc="Texts of each kind.")
    length = knob(param.Integer, 128, bounds=(2, 1024), unit="tokens", advanced=True, doc="Tokens of each text.")

    def prepare(self) -> None:
        """Load the model, read the texts, and check that its routing can be read and limited as the knobs ask."""
        self._loaded = models.load(self.model)
        router.refuse(self._loaded.model)
        self._texts = self._read()
        probe = router.capture(self._loaded.model, self._texts.ids[0, :64])
        self._rule, self._model_k, self._experts, self._null = probe.rule, probe.top_k, probe.experts, probe.null
        self._k = self.top_k or probe.top_k
        report.refuse({"top_k": self._k, "experts": probe.experts, "rule": probe.rule, "model_k": probe.top_k})

    def _read(self) -> Texts:
        """Return the texts of the corpus, or the reader's own as one text."""
        own = not isinstance(self.text, str) or bool(self.text)
        if own:
            ids = self._loaded.encode(self.text, chat=False)
            if not ids:
                raise InputError(expected("text", "at least one token", 0, "", "Write a word"))
            return Texts(np.asarray([ids], np.int64), [OWN])
        encode = lambda text: self._loaded.encode(text, chat=False)  # noqa: E731
        kinds = CORPORA[self.corpus]
        rows = [domains.windows(k, encode, self.windows, self.length, seed=self.seed + 2) for k in kinds]
        return Texts(np.concatenate(rows), [k for k in kinds for _ in range(self.windows)])

    def warm(self) -> None:
        """Load the model and compile the kernel."""
        self.prepare()
        analysis.serve(np.zeros((1, 4, 1), np.int16), np.ones((1, 4, 1), np.float32), [slice(0, 4)], 1, 1.0, "token")

    # ---- the model, with and without a limit ---------------------------------------------------------------------------

    def free(self, tape: NullTape) -> tuple[router.Routing, Pass]:
        """Return the model's own routing of all texts, and its losses (no limit)."""
        losses: list[np.ndarray] = []

        def keep(start: int, logits: Any) -> None:
            tape.step(start, len(self._texts.ids), phase="reading")
            losses.append(_losses(logits, self._texts.ids[start : start + len(logits)]))

        found = router.capture(self._loaded.model, self._texts.ids, on_rows=keep)
        return found, Pass(np.concatenate(losses))

    def limited(self, tape: NullTape) -> Pass | None:
        """Return the losses with the limit inside the model, group by group; None where the routing can only be read.

        A dropped choice has weight zero: the token keeps its other choices, the shared expert and the residual (section 3.1).
        """
        import torch

        view, losses, dropped = router.view(self._loaded.model), [], []
        if not router.answerable(view):
            return None
        flat = self._texts.flat()
        for number, group in enumerate(analysis.groups_of(flat[2], flat[3], self.group_size)):
            tape.step(group.start, len(flat[0]), phase="reading under the limit")
            ids = self._texts.ids[flat[2][group.start] : flat[2][group.stop - 1] + 1]
            handler = _Limit(self, number)
            with torch.inference_mode(), router.routing(handler):
                logits = view.model(input_ids=beside(view.model, ids), use_cache=False).logits
            losses.append(_losses(logits, ids))
            dropped.append(np.stack([handler.dropped[p] for p in sorted(handler.dropped)]))
        return Pass(np.concatenate(losses), np.concatenate(dropped, 1))

    def speed(self, tape: NullTape) -> dict[str, float]:
        """Return the median seconds of one batch of texts, with the routing read and with the model alone, in turn."""
        import torch

        ids = self._texts.ids[:8]
        there = beside(self._loaded.model, ids)

        def alone() -> None:
            with torch.inference_mode():
                self._loaded.model(input_ids=there, use_cache=False)

        tape.step(0, len(self._texts.ids), phase="timing")
        found = interleaved({"read": lambda: router.capture(self._loaded.model, ids), "alone": alone}, repeats=11, warmup=2)
        return {name: timing.median / 1e3 / ids.size for name, timing in found.items()}

    def run(self, tape: NullTape) -> None:
        """Route all texts freely, then again under the limit; write what was chosen, why, and what the limit cost."""
        speed = self.speed(tape)
        found, free = self.free(tape)
        limited = self.limited(tape)
        if isinstance(tape, Tape):
            report.write(self, tape, found, free, limited, speed)

    def derive(self, record: Record) -> Columns:
        """Return choices, drops, loads and meters for the present live knobs, from the recorded candidates."""
        return report.derive(self, record)


class _Limit:
    """Answers each router with the choices that find a slot."""

    def __init__(self, system: OpenMoE, group: int) -> None:
        self.system, self.group = system, group
        self.dropped: dict[int, np.ndarray] = {}

    def __call__(self, seen: router.Seen) -> tuple[Any, Any]:
        import torch

        system = self.system
        expert, weight = ranked(seen.logits.cpu().numpy(), seen.expert.cpu().numpy(), seen.weight.cpu().numpy(), system)
        real = seen.logits.shape[1] - system._null
        most = analysis.capacity(len(expert), real, system._k, system.capacity_factor)
        seed = system.seed + 7919 * len(self.dropped) + self.group
        slot = kernels.expert_dispatch(expert, weight, seen.logits.shape[1], most, system.order, seed).slot
        dropped = (slot < 0) & (expert < real)
        self.dropped[seen.place] = dropped
        kept = np.where(dropped, np.float32(0), weight)
        device = seen.expert.device
        return torch.from_numpy(expert.astype(np.int64)).to(device), torch.from_numpy(kept).to(device)


def ranked(logits: np.ndarray, expert: np.ndarray, weight: np.ndarray, system: OpenMoE) -> tuple[np.ndarray, np.ndarray]:
    """Return (expert, weight) of one layer's tokens under the present top_k, heaviest first."""
    if system._k == system._model_k:
        order = np.argsort(-weight, axis=1, kind="stable")
        return np.take_along_axis(expert, order, 1), np.take_along_axis(weight, order, 1)
    probability = analysis.softmax(logits)
    best = np.argsort(-probability, axis=1, kind="stable")[:, : system._k]
    return choose(np.take_along_axis(probability, best, 1), best, system._k, system._rule)


def _losses(logits: Any, ids: np.ndarray) -> np.ndarray:
    """Return -log p of every next token, (B, T - 1) nats."""
    import torch

    law = logits[:, :-1].float().log_softmax(-1)
    return -law.gather(2, torch.from_numpy(ids[:, 1:]).to(law.device)[..., None])[..., 0].cpu().numpy()
