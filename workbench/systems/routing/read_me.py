"""Read-ME: a dense model cut into experts by what each kind of text excites, and a router that has chosen before the model runs.

Cai, Ro, Kim, Wang, Bejnordi, Akella, Wang, "Read-ME: Refactorizing LLMs as Router-Decoupled Mixture of Experts with System
Co-Design", NeurIPS 2024, arXiv 2410.19123. A small causal transformer reads token ids and names one expert for *all* layers, so
every queued token has its expert before any layer runs: batches can be formed by expert, experts loaded ahead, and the cache can
evict what the queue needs last (Belady's rule as far as the queue goes).

Measured here on SmolLM2-135M: mean activations by kind of text, the experts cut by them, perplexity of held-out text with the
other neurons silent (true runs), what each layer would have chosen for itself, the seconds of an expert and of copying one. The
serving side is a simulation over the routes that the router gives real requests, with those seconds; the live knobs serve the
same requests again under other rules.

Differs from the paper: no training after the cut (the paper trains a billion tokens), six kinds of text, a router of width 64 with
the paper's distillation loss (trained once, at r = 0.5), exactly round(r D) neurons an expert, and one expert counts as one unit of cache in all layers.

| paper | here | shape |
|---|---|---|
| D_i, N | kinds of text, `experts` | |
| v_i, m_i, r | means, `experts.masks`, `keep` | (layer, expert, neuron) |
| r0, e_i | `experts.permanent`, the rest of m_i | (layer, neuron) |
| G | `experts.PreGate`, router "learned" | (position, expert) |
| Q_e, F(e, t), k | `serving`: batching, policy, `cache_size` | |
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import param

from workbench import models
from workbench.data import domains
from workbench.errors import InputError, expected
from workbench.instruments import neurons, taps
from workbench.meters import Timing, interleaved, measure
from workbench.models.devices import beside
from workbench.record import Record
from workbench.system import Columns, ModelName, System, knob
from workbench.systems.routing import experts as cut
from workbench.systems.routing import read_me_report as report
from workbench.systems.routing import read_me_serving, serving
from workbench.tape import NullTape, Tape

KINDS = domains.DOMAINS + domains.OUTSIDE
ROUTERS = ("learned", "domain", "table", "random")
TRAINED = Path(models.__file__).parent / "readme" / "router.safetensors"
SIZES = (1, 4, 16, 64, 256)  # tokens of the batches that are timed
RATIOS = (0.25, 0.375, 0.5, 0.625, 0.75, 0.875)  # of the study
PROMPT, OUTPUT = (16, 64), (8, 32)  # least and most tokens of a request


@dataclass
class Reading:
    """Losses of every next token by reader, (B, T - 1) nats each; each layer's own choice (L, B, T) from the dense pass."""

    losses: dict[str, np.ndarray] = field(default_factory=dict)
    own_choice: np.ndarray = field(default_factory=lambda: np.zeros((0, 0, 0), np.int8))
    sweep: dict[tuple[str, float], np.ndarray] = field(default_factory=dict)


@dataclass
class Costs:
    """What was timed: the model and its parts by tokens of a batch, copying each expert, and the router."""

    whole: dict[int, Timing]
    dense: dict[int, Timing]
    expert: dict[int, Timing]
    copies: list[Timing]
    bytes: list[int]
    router: Timing | None


_START: dict[str, Any] = {
    "keep": 0.5, "router": "learned", "batching": "expert-aware", "policy": "belady", "cache_size": 3, "lookahead": 16, "permanent": True, "prefetch": True,
    "at_hand_first": False, "max_tokens": 64, "arrival_rate": 2.0, "loading": "bandwidth", "bandwidth": 1.0,
    "windows": 2, "study": False,
}  # fmt: skip
_PRESETS: dict[str, dict[str, Any]] = {
    "paper": {},
    "plain serving": {"batching": "fifo", "policy": "lru", "prefetch": False},
    "at hand first": {"at_hand_first": True},
    "an even router": {"router": "random"},
    "one slot": {"cache_size": 1},
    "break it": {"keep": 0.2, "arrival_rate": 40.0, "max_tokens": 16},
}


class ReadMe(System):
    """A dense model as a mixture with a router in front, and what serving gains by knowing the experts ahead."""

    key = "read_me"
    title = "Read-ME"
    year = 2024
    arxiv = "2410.19123"
    family = "routing"
    asks = (
        "If the experts of all layers are known before the model runs, what can serving do with that, and what did the cut cost?"
    )
    shows = (
        "cache_timeline", "hit_rates", "serving_latency", "expert_perplexity", "keep_curve", "mask_overlap", "layer_choice", "routed_text",
        "routing_map", "load_times", "expert_load", "spikiness", "expert_card", "claims",
    )  # fmt: skip
    sometimes = ("keep_curve",)
    presets: ClassVar[dict[str, dict[str, Any]]] = {name: _START | changed for name, changed in _PRESETS.items()}
    limits: ClassVar[dict[str, int]] = {"requests": 96, "windows": 4, "length": 128}
    notes = (
        "Serving is simulated: routes are the router's own on real text, seconds of computing and copying are measured here, arrivals are drawn. "
        "Reported, unverified: hit rates of 33.9 to 83.5 % (LRU) and 44.2 to 88.0 % (Belady) at 2 to 5 experts in the cache. That LRU row is nearly k/6, "
        "what an even draw among six experts gives without any locality, and the Belady row is what knowing the next one to three such draws adds: the figures "
        "describe that stream, not text. The paper's quality needs a billion tokens of training after the cut, which is not done here."
    )

    model = knob(ModelName, "smollm2-135m", names=("smollm2-135m",), doc="A dense model with gated feed-forward layers, by name.")
    experts = knob(
        param.Integer, len(KINDS), bounds=(2, len(KINDS)), symbol="N", unit="experts", doc="Kinds of text, one expert each."
    )
    keep = knob(
        param.Number, 0.5, bounds=(0.05, 1.0), step=0.05, symbol="r",
        doc="Share of the neurons of every feed-forward layer that an expert keeps.",
    )  # fmt: skip
    router = knob(
        param.Selector, "learned", objects=list(ROUTERS), live=True,
        doc="Who names the expert: the trained router, the text's true kind, a table of token ids, or chance.",
    )  # fmt: skip
    cache_size = knob(
        param.Integer, 3, bounds=(1, len(KINDS)), live=True, symbol="k", unit="experts", doc="Experts that fit in fast memory."
    )
    policy = knob(
        param.Selector, "belady", objects=list(serving.POLICIES), live=True,
        doc="Who leaves a full cache: used longest ago, least often, needed last by what the queue tells, or anyone.",
    )  # fmt: skip
    lookahead = knob(
        param.Integer, 16, allow_None=True, bounds=(0, serving.MOST_AHEAD), live=True, unit="uses",
        doc="How many uses of experts ahead Belady may look; never beyond the tokens in the queue. 0 is LRU; auto: all that the queue tells.",
    )  # fmt: skip
    batching = knob(
        param.Selector, "expert-aware", objects=list(serving.BATCHINGS), live=True,
        doc="Who comes into a batch: requests in order, those that generate first, new ones first, or the expert with most tokens.",
    )  # fmt: skip
    max_tokens = knob(param.Integer, 64, bounds=(16, 256), live=True, unit="tokens", doc="Room of a batch.")
    permanent = knob(
        param.Boolean, True, live=True,
        doc="Neurons that all experts share stay at hand; off: each load brings them again, and a place in the cache holds them too.",
    )  # fmt: skip
    prefetch = knob(param.Boolean, True, live=True, doc="Load the next layer's part of an expert while this layer computes.")
    at_hand_first = knob(
        param.Boolean, False, live=True,
        doc="Within a batch, use the experts at hand before those that must be loaded: the result is the same, and it is free.",
    )  # fmt: skip
    arrival_rate = knob(
        param.Number,
        2.0,
        bounds=(0.5, 50.0),
        step=0.5,
        live=True,
        unit="requests/s",
        doc="Requests that arrive, mean (gaps are exponential).",
    )
    bandwidth = knob(
        param.Number, 1.0, bounds=(0.1, 50.0), step=0.1, live=True, unit="GB/s",
        doc="Of the store that experts are loaded from: about 1 for a fast disk, 25 for the path to a GPU.",
    )  # fmt: skip
    loading = knob(
        param.Selector, "bandwidth", objects=["bandwidth", "measured copy"], live=True,
        doc="Seconds of a load: bytes over the bandwidth, or what copying the expert in memory took here.",
    )  # fmt: skip
    requests = knob(param.Integer, 48, bounds=(4, 256), unit="requests", advanced=True, doc="Requests that are served.")
    windows = knob(
        param.Integer, 2, bounds=(1, 16), unit="texts", advanced=True, doc="Held-out texts of each kind that are read."
    )
    length = knob(param.Integer, 128, bounds=(8, 1024), unit="tokens", advanced=True, doc="Tokens of each text.")
    study = knob(param.Boolean, False, advanced=True, doc="Also read with each single expert, and at other shares of neurons.")

    # ---- before a run ----------------------------------------------------------------------------------------------------

    def prepare(self) -> None:
        """Load the model and the router, cut the experts, read the texts; refuse what does not fit together."""
        self._loaded = models.load(self.model)
        blocks = neurons.feed_forward(self._loaded.model)
        if self.cache_size > self.experts:
            raise InputError(expected("cache_size", f"1 to {self.experts} (the number of experts)", self.cache_size))
        count = round(self.keep * blocks[0].down_proj.in_features)
        if count < 1:
            raise InputError(expected("keep", "a share that keeps at least one neuron", self.keep))
        self._kinds = KINDS[: self.experts]
        self._gate: cut.PreGate | None = None
        self._means: np.ndarray | None = None
        if self._loaded.name == "smollm2-135m":
            self._gate, means = cut.load_pregate(TRAINED, self._loaded.model.get_input_embeddings().weight)
            self._means = means[:, : self.experts]
        elif self.router == "learned":
            others = ", ".join(repr(r) for r in ROUTERS[1:])
            then = "recipes/read_me_router.py shows how one is trained"
            raise InputError(expected("router", f"{others} for a model without a trained router", "'learned'", then=then))
        self._texts, self._seen = self._windows(self.windows, self.length, self.seed + 3), np.zeros(0, np.int8)

    def _windows(self, count: int, length: int, seed: int, held_out: bool = True) -> np.ndarray:
        """Return (kinds, count, length) token ids."""
        encode = lambda text: self._loaded.encode(text, chat=False)  # noqa: E731
        return np.stack([domains.windows(k, encode, count, length, seed=seed, held_out=held_out) for k in self._kinds])

    def warm(self) -> None:
        """Load the model and compile the simulation."""
        self.prepare()
        one = np.ones(1, np.int64)
        asked = serving.Requests(np.zeros((1, 1), np.int64), one, one, np.ones(1))
        machine = serving.Machine(np.arange(1, 3), np.ones(2), np.ones(2), np.ones(1), 1)
        served = serving.serve(asked, machine, serving.Rules(cache_size=1), keep_plans=True)
        serving.replay(served, serving.Rules(cache_size=1), 1)
        for batch in (None, served.use_batch):
            serving.most_hits(served.use_expert, 1, 1, batch)

    # ---- step B: experts -------------------------------------------------------------------------------------------------

    def measured_means(self, tape: NullTape) -> np.ndarray:
        """Return v_i, (L, N, D): shipped for SmolLM2, measured on training-side text for any other model."""
        if self._means is not None:
            return self._means
        rows = self._windows(self.windows, self.length, self.seed + 1, held_out=False)
        tell = lambda i: tape.step(i, len(rows), phase="activations")  # noqa: E731
        return np.stack([neurons.activation_means(self._loaded.model, r, tell) for r in rows], 1)

    # ---- step C: routers, all of them from token ids or from nothing ------------------------------------------------------------

    def choices(self, ids: np.ndarray, kind: np.ndarray) -> dict[str, np.ndarray]:
        """Return each router's expert for every token of (B, T) ids, int8; `kind` (B,) is the true kind of each text."""
        rng = np.random.default_rng([self.seed, ids.size])
        found = {
            "domain": np.broadcast_to(kind[:, None], ids.shape).astype(np.int8),
            "table": self._table()[ids],
            "random": rng.integers(0, self.experts, ids.shape).astype(np.int8),
        }
        return ({"learned": self._gate.choose(ids, self.experts)} if self._gate is not None else {}) | found

    def _table(self) -> np.ndarray:
        """Return the kind of training text in which each token id is relatively most common, (V,) int8; unseen ids get kind 0."""
        if not self._seen.size:
            rows = self._windows(24, 256, self.seed + 2, held_out=False).reshape(self.experts, -1)
            seen = np.stack([np.bincount(r, minlength=self._loaded.vocab_size) for r in rows])
            self._seen = seen.argmax(0).astype(np.int8)
        return self._seen

    # ---- reading with experts ---------------------------------------------------------------------------------------------------

    def read(
        self, ids: np.ndarray, mask: Any | None, choice: np.ndarray | None, watch: Callable[[int, int, Any], None] | None = None
    ) -> np.ndarray:
        """Return the loss of every next token, (B, T - 1) nats, with each token's neurons outside its expert silent.

        Args:
            mask: (L, N, D) fp32 tensor of 0 and 1, or None for the dense model. choice: (B, T) expert of each token.
            watch: called with (text, layer, activations (1, T, D)) of the dense pass.
        """
        import torch

        view, losses = neurons.view(self._loaded.model), []
        for i, row in enumerate(ids):
            chosen = None if choice is None else torch.from_numpy(choice[i].astype(np.int64))

            def handler(layer: int, acts: Any, i: int = i, chosen: Any = chosen) -> Any:
                if watch is not None:
                    watch(i, layer, acts)
                return None if mask is None else acts * mask[layer].to(acts)[chosen]

            with torch.inference_mode(), neurons.watching(handler):
                logits = view(input_ids=beside(view, row[None]), use_cache=False).logits[0, :-1].float()
            law = logits.log_softmax(-1)
            losses.append(-law.gather(1, torch.from_numpy(row[1:])[:, None].to(law.device))[:, 0].cpu().numpy())
        return np.stack(losses)

    def read_all(self, tape: NullTape, means: np.ndarray) -> Reading:
        """Read the held-out texts with the dense model, with every router's experts, and with neurons drawn at random."""
        import torch

        chosen = cut.masks(means, self.keep)
        mask, bools = torch.from_numpy(chosen.astype(np.float32)), torch.from_numpy(chosen)
        ids = self._texts.reshape(-1, self.length)
        kind = np.repeat(np.arange(self.experts), self.windows)
        found = Reading(own_choice=np.zeros((len(means), *ids.shape), np.int8))

        def watch(text: int, layer: int, acts: Any) -> None:
            found.own_choice[layer, text] = cut.overlap(acts[0], bools[layer]).argmax(-1).cpu().numpy()

        plans: dict[str, tuple[Any, np.ndarray]] = {n: (mask, c) for n, c in self.choices(ids, kind).items()}
        plans["another kind's"] = (mask, plans["domain"][1] * 0 + ((kind + 1) % self.experts)[:, None].astype(np.int8))
        plans["random neurons"] = (self._random_mask(chosen), np.zeros(ids.shape, np.int8))
        if self.study:
            plans |= {f"only {k}": (mask, np.full(ids.shape, i, np.int8)) for i, k in enumerate(self._kinds)}
        total = len(plans) + 1
        tape.step(0, total, phase="the dense model reads")
        found.losses["dense"] = self.read(ids, None, None, watch)
        for number, (name, (held, choice)) in enumerate(plans.items(), 1):
            tape.step(number, total, phase=f"reading: {name}")
            found.losses[name] = self.read(ids, held, choice)
        if self.study:
            self._sweep(tape, means, found, ids[:: self.windows], kind[:: self.windows])
        return found

    def _random_mask(self, chosen: np.ndarray) -> Any:
        """Return (L, 1, D): in every layer as many neurons as an expert keeps, drawn at random."""
        import torch

        rng = np.random.default_rng([self.seed, 7])
        order = rng.permuted(np.tile(np.arange(chosen.shape[-1]), (len(chosen), 1)), axis=1)
        return torch.from_numpy((order < chosen[:, 0].sum(-1, keepdims=True)).astype(np.float32)[:, None])

    def _sweep(self, tape: NullTape, means: np.ndarray, found: Reading, ids: np.ndarray, kind: np.ndarray) -> None:
        """Read one text of each kind at other shares of neurons: its own kind's expert, and random neurons."""
        import torch

        own = np.broadcast_to(kind[:, None], ids.shape)
        for number, ratio in enumerate(RATIOS):
            tape.step(number, len(RATIOS), phase=f"keeping {ratio:.0%}")
            chosen = cut.masks(means, ratio)
            found.sweep["own kind's expert", ratio] = self.read(ids, torch.from_numpy(chosen.astype(np.float32)), own)
            found.sweep["random neurons", ratio] = self.read(ids, self._random_mask(chosen), own * 0)
        found.sweep["own kind's expert", 1.0] = found.losses["dense"][:: self.windows]

    # ---- what a batch and a load cost here ------------------------------------------------------------------------------------------

    def time_parts(self, tape: NullTape, means: np.ndarray) -> Costs:
        """Time the model, its feed-forward layers and one extracted expert on batches of several sizes; copying each expert; the router."""
        import torch

        model, chosen = self._loaded.model, cut.masks(means, self.keep)
        blocks = neurons.feed_forward(model)
        one = [cut.extract(block, m[0]) for block, m in zip(blocks, chosen)]
        base, head, width = taps.decoder(model), model.get_output_embeddings(), blocks[0].gate_proj.in_features
        found: dict[str, dict[int, Timing]] = {"whole": {}, "dense": {}, "expert": {}}
        for number, size in enumerate(SIZES):
            tape.step(number, len(SIZES), phase=f"timing batches of {size}")
            ids, drawn = beside(model, np.resize(self._texts, (1, size))), torch.randn(size, width)
            inputs = [drawn.to(block.gate_proj.weight) for block in blocks]  # beside each layer's own weights

            def whole(ids: Any = ids) -> None:
                head(base(input_ids=ids, use_cache=False).last_hidden_state[:, -1:])

            def dense(inputs: list[Any] = inputs) -> None:
                for block, x in zip(blocks, inputs):
                    block(x)

            def expert(inputs: list[Any] = inputs) -> None:
                for part, x in zip(one, inputs):
                    part(x)

            with torch.inference_mode():
                for name, timing in interleaved(
                    {"whole": whole, "dense": dense, "expert": expert}, repeats=7 if size < 64 else 3
                ).items():
                    found[name][size] = timing
        copies, sizes = self._time_copies(tape, blocks, chosen)
        gate, row = self._gate, np.resize(self._texts, (1, 256))
        router = None if gate is None else measure(lambda: gate.choose(row), repeats=5)
        return Costs(found["whole"], found["dense"], found["expert"], copies, sizes, router)

    def _time_copies(self, tape: NullTape, blocks: list[Any], chosen: np.ndarray) -> tuple[list[Timing], list[int]]:
        """Time copying each expert's own part (without what all share) from one place in memory to another, all layers."""
        import torch

        own, copies, sizes = chosen & ~cut.permanent(chosen)[:, None], [], []
        for expert in range(chosen.shape[1]):
            tape.step(expert, chosen.shape[1], phase="timing loads")
            store = [t for block, m in zip(blocks, own[:, expert]) for t in cut.extract(block, m).tensors]
            slot = [torch.empty_like(t) for t in store]

            def copy(store: list[Any] = store, slot: list[Any] = slot) -> None:
                for into, source in zip(slot, store):
                    into.copy_(source)

            copies.append(measure(copy, repeats=7, warmup=2))
            sizes.append(sum(t.numel() * t.element_size() for t in store))
        return copies, sizes

    # ---- the run ------------------------------------------------------------------------------------------------------------------

    def asked(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Return the requests: ids (R, T), kind (R,), prompt (R,), output (R,), gap (R,), drawn from held-out text by the seed."""
        rng = np.random.default_rng([self.seed, 11])
        each = -(-self.requests // self.experts)
        ids = self._windows(each, PROMPT[1] + OUTPUT[1], self.seed + 4)
        order = rng.permutation(each * self.experts)[: self.requests]
        prompt, output = (rng.integers(low, high + 1, self.requests) for low, high in (PROMPT, OUTPUT))
        return ids.reshape(-1, ids.shape[-1])[order], order // each, prompt, output, rng.exponential(1.0, self.requests)

    def run(self, tape: NullTape) -> None:
        """Cut, read, time; route the requests; what is served how follows in `derive`."""
        means = self.measured_means(tape)
        reading = self.read_all(tape, means)
        costs = self.time_parts(tape, means)
        if isinstance(tape, Tape):
            report.write(self, tape, means, reading, costs)

    def derive(self, record: Record) -> Columns:
        """Serve the recorded requests under the present live knobs."""
        return read_me_serving.derive(self, record)
