"""ZipVL: every layer keeps the fewest tokens that hold a share tau of its attention, skips the rest, and stores them at fewer bits.

He, Chen, Liu, Shao, Zhou, Zhang, Zhuang, "ZipVL: Efficient Large Vision-Language Models with Dynamic Token Sparsification and KV
Cache Compression", arXiv 2410.08584 v1 (2024). A few probe queries show where a layer looks. The smallest set of tokens that
holds the share tau of that mass attends; the others pass the layer on the residual and exist again in the next. After the prompt
the cache keeps important tokens at `bits_high` and the others at `bits_low`. Measured here, beside the dense run of the same
prompt: prefill time, divergence and agreement of the next tokens, bytes really stored.

Differs from the paper: a text-only model of 135M (the paper's are vision-language models of 7B and more; that it works on text
is the paper's own test on GSM8k), one token set shared by all heads (inferred), a few last tokens always kept (`keep_recent`),
keys quantized after the rotary embedding. No official code was found; probe counts are reported, unverified. Decoding reads the
restored numbers, so the byte account is real and a speed-up of decoding is not claimed.

| paper | here | shape |
|---|---|---|
| A' | attention of the probe queries | never held |
| a_j | `token_mass`: mass on token j, summed over probes, mean over heads | (layer, position) |
| a~_j | `token_score`: a_j over the number of probes that can see j | (layer, position) |
| tau, p, r | `tau`, tokens kept, `keep_ratio` | |
| T, U | `keep`, the rest | (layer, position) |
| b_h, b_l | `bits_high`, `bits_low` | |
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import param

from workbench import data, kernels, models
from workbench.errors import InputError, ModelError, expected
from workbench.instruments import attention, taps
from workbench.models.devices import beside
from workbench.record import Record
from workbench.system import Columns, ModelName, PictureInput, Prompt, System, knob
from workbench.systems.attention import pictures
from workbench.systems.attention import zipvl_report as report
from workbench.systems.attention.packed_cache import WIDTHS, LayerCache, compress
from workbench.systems.attention.sparse import evicted_attention, in_shape_of, rows_of, sparse_attention
from workbench.tape import NullTape, Tape, synchronize

DEFAULT_PROMPT = data.passage("play", 2800)
NEEDLE = data.needle(2600)
REFRESH = 100  # generated tokens between two compressions of the newest ones (the paper's)


def probe_positions(length: int, recent: int, random: int, rng: np.random.Generator) -> np.ndarray:
    """Return ascending positions of the probe queries: the last `recent`, and `random` of those before (all, if there are fewer)."""
    start = max(0, length - recent)
    drawn = rng.choice(start, min(random, start), replace=False)
    return np.sort(np.concatenate([drawn, np.arange(start, length)])).astype(np.int64)


def visible(length: int, probes: np.ndarray) -> np.ndarray:
    """Return nnz: for every position, how many probes can see it (stand at it or after it). (length,) int64."""
    return len(probes) - np.searchsorted(probes, np.arange(length), side="left")


def token_mass(query: Any, key: Any, probes: np.ndarray, scaling: float) -> np.ndarray:
    """Return a_j (T,): attention of the probes on every token, summed over probes, mean over heads; it sums to len(probes)."""
    scale = scaling * query.shape[-1] ** 0.5  # the kernel divides by sqrt(d)
    pooled = kernels.attention_mass((query.float() * scale).contiguous(), key.float().contiguous(), 1, 1, probes)
    return np.asarray(pooled.column_sum.mean(0).cpu().numpy(), np.float32)


def smallest_count(mass: np.ndarray, tau: float) -> int:
    """Return p: how many of the heaviest tokens hold the share tau of all mass (step 3).

    tau = 1 is the dense run: all tokens, those too whose mass is below the least fp32 number, for they still have an output.
    """
    if tau >= 1:
        return len(mass)
    held = np.cumsum(np.sort(mass.astype(np.float64))[::-1])
    return int(np.searchsorted(held, tau * held[-1] * (1 - 1e-9)) + 1)


def needed(mass: np.ndarray, tau: float, count_sink: bool) -> int:
    """Return how many tokens hold the share tau; without the sink, of what the others receive, the first one kept besides."""
    return smallest_count(mass, tau) if count_sink or len(mass) < 2 else 1 + smallest_count(mass[1:], tau)


def scores(mass: np.ndarray, seen: np.ndarray, kind: str) -> np.ndarray:
    """Return what tokens are ranked by (step 4): a_j / nnz_j ("normalised"), or a_j ("raw")."""
    return mass / np.maximum(seen, 1) if kind == "normalised" else mass


def important(score: np.ndarray, count: int, forced: int, sink: bool = False) -> np.ndarray:
    """Return T as a mask: the last `forced` tokens, then the best scores until there are `count` (lower positions among equals).

    Args:
        sink: keep the first token whatever its score.
    """
    keep = np.zeros(len(score), bool)
    keep[len(score) - forced :] = True
    score = np.where(np.arange(len(score)) == 0, np.inf, score) if sink else score
    order = np.argsort(-score, kind="stable")
    free = order[~keep[order]]
    keep[free[: max(0, count - forced)]] = True
    return keep


@dataclass
class Prefill:
    """What one prefill did: per layer the mass, the kept set and times; the cache and the last logits."""

    mass: list[np.ndarray] = field(default_factory=list)
    score: list[np.ndarray] = field(default_factory=list)
    keep: list[np.ndarray] = field(default_factory=list)
    probe_ms: list[float] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    attention_ms: list[float] = field(default_factory=list)
    seconds: float = 0.0
    cache: Any = None
    logits: Any = None


_START: dict[str, Any] = {
    "model": "smollm2-135m", "image": "none", "prompt": DEFAULT_PROMPT, "tau": 0.975, "count_sink": True, "skip": "queries", "fixed_ratio": None,
    "bits_high": 4, "bits_low": 2, "compare_on": "the dense run's own words", "new_tokens": 48, "probes_recent": 64, "keep_recent": 16,
}  # fmt: skip


_PRESETS: dict[str, dict[str, Any]] = {
    "paper": {},
    "needle": {"prompt": NEEDLE, "skip": "keys", "compare_on": "the text's own end", "new_tokens": 4},
    "fixed ratio": {"fixed_ratio": 0.5},
    "keys only": {"skip": "keys"},
    "no probes": {"probes_recent": 4096},
    "dense": {"tau": 1.0, "bits_high": 16, "bits_low": 16},
    "picture": {
        "model": "scene-reader",
        "image": "scene",
        "prompt": "auto",
        "new_tokens": 1,
        "probes_recent": 3,
        "keep_recent": 3,
    },
    "break it": {"tau": 0.6, "bits_high": 2, "bits_low": 2},
}


class ZipVL(System):
    """Dynamic token sparsification of the prompt and a mixed-precision cache, beside the dense run."""

    key = "zipvl"
    title = "ZipVL"
    year = 2024
    arxiv = "2410.08584"
    family = "attention"
    asks = "Which tokens does each layer really read, and what is lost without the rest?"
    shows = (
        "kept_tokens", "mass_curves", "attention_overview", "attention_map", "head_zoom", "token_strip", "token_readers", "cache_bytes", "patch_film",
    )  # fmt: skip
    sometimes = ("patch_film",)
    presets: ClassVar[dict[str, dict[str, Any]]] = {name: _START | changed for name, changed in _PRESETS.items()}
    notes = (
        "Reported, unverified: on LLaVA-v1.5-7B tau 0.975 keeps 52.8 % of the tokens (VQAv2 76.4, dense 76.6); on LongVA-7B prefill is "
        "2.6 times as fast. Attention is a small share of this model's work, so the saving here is bounded; the meters say by how much."
    )
    follows: ClassVar[dict[str, str]] = {"tau": "tau", "count_sink": "count_sink"}
    limits: ClassVar[dict[str, int]] = {"prompt": 12_000, "new_tokens": 128}

    model = knob(ModelName, "smollm2-135m", names=("smollm2-135m", "scene-reader"), doc="Whose attention is thinned out.")
    prompt = knob(Prompt, DEFAULT_PROMPT, doc="Text to read, or a list of token ids. By default a passage of a play.")
    tau = knob(
        param.Number, 0.975, bounds=(0.0, 1.0), step=0.005, live=True, symbol="tau",
        doc="Share of a layer's attention that the kept tokens must hold.",
    )  # fmt: skip
    count_sink = knob(
        param.Boolean,
        True,
        live=True,
        doc="Count the first token's attention towards tau; without it the first token is kept and the rest must hold tau.",
    )
    image = knob(
        PictureInput, "none", names=("none", *pictures.PICTURES),
        doc="A picture to read before the prompt; needs a vision-language model such as scene-reader, and the prompt as its question.",
    )  # fmt: skip
    fixed_ratio = knob(
        param.Number, None, allow_None=True, bounds=(0.01, 1.0), step=0.01,
        doc="Baseline: keep this share in every layer instead of asking tau.",
    )  # fmt: skip
    skip = knob(
        param.Selector, "queries", objects=["queries", "keys"],
        doc="What is left out: with queries the rest neither asks nor answers, with keys all tokens ask and only kept ones answer.",
    )  # fmt: skip
    others = knob(
        param.Selector,
        "quantize",
        objects=["quantize", "evict"],
        doc="What the cache does with the other tokens (v2 of the paper evicts).",
    )
    bits_high = knob(
        param.Selector, 4, objects=list(WIDTHS), symbol="b_h", doc="Bits of important tokens in the cache; 16 is as it is."
    )
    bits_low = knob(param.Selector, 2, objects=list(WIDTHS), symbol="b_l", doc="Bits of the other tokens in the cache.")
    probes_recent = knob(
        param.Integer,
        64,
        bounds=(1, 4096),
        unit="queries",
        doc="Probe queries at the end of the text; more than it has: every query is one.",
    )
    probes_random = knob(
        param.Integer, 64, bounds=(0, 8192), unit="queries", doc="Probe queries drawn from the rest of the text."
    )
    score = knob(
        param.Selector, "normalised", objects=["normalised", "raw"], advanced=True,
        doc="Rank tokens by mass over the probes that see them, or by mass.",
    )  # fmt: skip
    keep_recent = knob(param.Integer, 16, bounds=(1, 512), unit="tokens", advanced=True, doc="Last tokens that are always kept.")
    new_tokens = knob(
        param.Integer,
        48,
        bounds=(1, 512),
        unit="tokens",
        advanced=True,
        doc="Tokens after the prompt on which both runs are compared.",
    )

    compare_on = knob(
        param.Selector, "the dense run's own words", objects=["the dense run's own words", "the text's own end"], advanced=True,
        doc="On what both runs are compared: what the dense run writes next, or the last words of the text, held back.",
    )  # fmt: skip
    look_layer = knob(
        param.Integer, 8, bounds=(0, 255), symbol="l", advanced=True, doc="Layer whose heads can be zoomed down to single tokens."
    )

    def prepare(self) -> None:
        """Load the model and check that its attention can be tapped and the text fits."""
        self._loaded = models.load(self.model)
        if self._loaded.is_table:
            raise InputError(expected("model", "a language model with attention", "a table", "", "Use smollm2-135m"))
        ids = self._read()
        context = attention.context_of(taps.decoder(self._loaded.model)) or len(ids) + self.new_tokens
        if not 2 <= len(ids) <= context - self.new_tokens:
            room = f"2 to {context - self.new_tokens} tokens so that {self.new_tokens} more fit"
            raise InputError(expected("prompt", room, f"{len(ids)}", f"context {context}", "Change the text"))
        if max(ids) >= self._loaded.vocab_size or min(ids) < 0:
            raise InputError(expected("prompt", f"ids from 0 to {self._loaded.vocab_size - 1}", f"{min(ids)} to {max(ids)}"))
        layers = taps.decoder(self._loaded.model).config.num_hidden_layers
        able = attention.capture(self._loaded.model, [0, 0], bins=1).layers
        if len(able) != layers:
            why = f"it has attention in {len(able)} of its {layers} layers, and each must have it"
            raise ModelError(f"{type(self._loaded.model).__name__}: ZipVL cannot run on it: {why}. Choose another model.")
        if self.look_layer >= layers and self.look_layer != type(self).knobs()["look_layer"].default:
            raise InputError(expected("look_layer", f"a layer from 0 to {layers - 1}", self.look_layer))
        self._look = min(self.look_layer, layers - 1)  # the default is a middle layer of the default model
        self._held: list[int] = []
        if self.compare_on != "the dense run's own words":
            if len(ids) < self.new_tokens + 2:
                raise InputError(
                    expected("prompt", f"more than {self.new_tokens + 1} tokens, the last of which are held back", len(ids))
                )
            ids, self._held = ids[: -self.new_tokens], ids[-self.new_tokens :]
        self._ids = np.asarray(ids, np.int64)
        self._forced = min(self.keep_recent, len(ids))
        self._probes = probe_positions(len(ids), self.probes_recent, self.probes_random, np.random.default_rng(self.seed))
        self._seen = visible(len(ids), self._probes)

    def _read(self) -> list[int]:
        """Return the ids to read: of the text, or of a picture's place-holders and the question behind them."""
        self._glance: Any = None
        self._given: dict[str, Any] = {}
        if isinstance(self.image, str) and self.image == "none":
            return self._loaded.encode(self.prompt, chat=False) if isinstance(self.prompt, str) else [int(t) for t in self.prompt]
        import torch

        reader = pictures.open_reader(self._loaded)
        question = self.prompt if isinstance(self.prompt, str) and self.prompt != DEFAULT_PROMPT else "auto"
        self._shown = pictures.picture(self.image, question, self.seed)
        with torch.inference_mode():
            self._given = {"pixel_values": reader.pixels(self._shown.image)}
            self._glance = reader.glance([self._shown.image], [self._shown.question])
        return [int(t) for t in self._glance.ids[0].tolist()]

    def warm(self) -> None:
        """Load the model and compile the kernel."""
        self.prepare()

    # ---- one layer (steps 1 to 5) ------------------------------------------------------------------------------------

    def choose(self, mass: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return (scores, kept mask) of a layer from its token mass (steps 3 and 4)."""
        score = scores(mass, self._seen, self.score)
        count = needed(mass, self.tau, self.count_sink) if self.fixed_ratio is None else round(self.fixed_ratio * len(mass))
        return score, important(score, count, self._forced, sink=not self.count_sink)

    def layer(self, call: taps.Call, seen: Prefill) -> Any:
        """Return a layer's attention output with the unimportant tokens skipped; note what was seen."""
        attention.refuse_bent(call)
        if call.key.shape[3] != call.value.shape[3]:
            raise ModelError(f"layer {call.layer} has keys of {call.key.shape[3]} and values of {call.value.shape[3]} numbers")
        began = _now()
        mass = token_mass(call.query[0], call.key[0], self._probes, call.scaling)  # 1, 2: probe
        score, keep = self.choose(mass)  # 3, 4: dynamic ratio, important set
        probed = _now()
        out = sparse_attention(call, keep, self.skip)  # 5: sparse prefill
        seen.attention_ms.append((_now() - probed) * 1e3)
        seen.probe_ms.append((probed - began) * 1e3)
        seen.mass.append(mass)
        seen.score.append(score)
        seen.keep.append(keep)
        return out

    # ---- the run -----------------------------------------------------------------------------------------------------

    def prefill(self, sparse: bool) -> Prefill:
        """Return a prefill of the prompt, sparse or dense; both go through the same tap and the same kernel."""
        import torch
        from transformers import DynamicCache

        seen, view = Prefill(cache=DynamicCache()), taps.view(self._loaded.model)

        def handler(call: taps.Call) -> Any:
            if sparse:
                return self.layer(call, seen)
            began = _now()
            out = call.dense()
            seen.attention_ms.append((_now() - began) * 1e3)
            return out

        began = _now()
        text = beside(view, self._ids[None])
        try:
            with torch.inference_mode(), taps.attending(handler):
                out = view(input_ids=text, past_key_values=seen.cache, use_cache=True, logits_to_keep=1, **self._given)
        except ModelError as error:
            name = type(self._loaded.model).__name__
            raise ModelError(f"{name}: ZipVL cannot run on it: {str(error).rstrip('.')}. Choose another model.") from None
        seen.logits, seen.seconds = out.logits[0, -1].float(), _now() - began
        return seen

    def follow(self, seen: Prefill, tokens: list[int], packed: list[LayerCache] | None, tape: NullTape) -> Any:
        """Return logits (new_tokens, V) in host memory: after the prompt and after each given token but the last (step 7).

        Every 100 tokens the newest are scored by their own queries and compressed too; `packed` None leaves the cache as it is.
        """
        import torch

        view, rows = taps.view(self._loaded.model), [seen.logits[None]]
        for start in range(0, len(tokens) - 1, REFRESH):
            chunk = tokens[start : min(start + REFRESH, len(tokens) - 1)]
            tape.step(start, len(tokens), phase="comparing")
            reader = _Reader(self, packed, len(self._ids))
            with torch.inference_mode(), taps.attending(reader):
                logits = view(input_ids=beside(view, [chunk]), past_key_values=seen.cache, use_cache=True).logits
            rows.append(logits[0].float())
            if packed is not None and len(chunk) == REFRESH:
                reader.refresh(seen.cache, packed, (self.bits_high, self.bits_low))
        return torch.cat(rows).cpu()

    def continuation(self, seen: Prefill, tape: NullTape) -> list[int]:
        """Return what the dense model writes after the prompt, greedily."""
        import torch

        view, logits, tokens = taps.view(self._loaded.model), seen.logits, []
        with torch.inference_mode():
            for done in range(self.new_tokens):
                tape.step(done, self.new_tokens, phase="dense continuation")
                tokens.append(int(logits.argmax()))
                if done + 1 < self.new_tokens:
                    out = view(input_ids=beside(view, [[tokens[-1]]]), past_key_values=seen.cache, use_cache=True)
                    logits = out.logits[0, -1].float()
        return tokens

    def run(self, tape: NullTape) -> None:
        """Read the prompt densely and sparsely, compress, and compare both on the dense model's own continuation."""
        length, dense, sparse = len(self._ids), Prefill(), Prefill()
        times: dict[bool, list[float]] = {False: [], True: []}
        for turn in range(6):  # in turn, so that a drifting machine is fair to both; the first of each warms up
            tape.step(turn, 6, phase="prefill, dense and sparse in turn")
            kind = turn % 2 == 1
            seen = self.prefill(sparse=kind)
            times[kind].append(seen.seconds)
            dense, sparse = (dense, seen) if kind else (seen, sparse)
        for seen, kind in ((dense, False), (sparse, True)):
            seen.times = times[kind][1:]
            seen.seconds = float(np.median(seen.times))
        tokens = self._held or self.continuation(dense, tape)
        if (written := dense.cache.get_seq_length() - length) > 0:
            dense.cache.crop(-written)  # back to the prompt: a negative count is taken off the end
        packed = self.compress(sparse, length)
        truth = self.follow(dense, tokens, None, tape)
        logits = self.follow(sparse, tokens, packed, tape)
        pooled = attention.capture(
            self._loaded.model, self._ids, bins=min(32, length), on_layer=lambda i: tape.step(i, len(packed), phase="pooled maps"),
            readers=True, keep_heads=[self._look], embeds=None if self._glance is None else self._glance.embeds,
        )  # fmt: skip
        if isinstance(tape, Tape):
            report.write(self, tape, (dense, sparse), packed, pooled, (tokens, truth, logits))

    def compress(self, seen: Prefill, length: int) -> list[LayerCache]:
        """Return every layer's packed cache, and let the model's cache hold the restored numbers (step 6)."""
        packed = []
        for layer, keep in zip(seen.cache.layers, seen.keep):
            keys, values = (rows_of(t) for t in (layer.keys, layer.values))
            packed.append(compress(keys, values, keep, (self.bits_high, self.bits_low)))
            layer.keys, layer.values = (in_shape_of(n, t) for n, t in zip(packed[-1].numbers(), (layer.keys, layer.values)))
        return packed

    def derive(self, record: Record) -> Columns:
        """Return kept sets, ratios and bytes for the present tau, from the recorded mass."""
        return report.derive(self, record)


def _now() -> float:
    """Return seconds once the device has done what it was told: it would be measuring the launch otherwise."""
    synchronize()
    return time.perf_counter()


class _Reader:
    """Attention of the tokens after the prompt on the compressed cache; keeps their queries for the next refresh."""

    def __init__(self, system: ZipVL, packed: list[LayerCache] | None, length: int) -> None:
        self.system, self.packed, self.length = system, packed, length
        self.mass: list[np.ndarray] = []

    def __call__(self, call: taps.Call) -> Any:
        if self.packed is None:
            return call.dense()
        rows, total = call.query.shape[2], call.key.shape[2]
        if rows == REFRESH:
            query = call.query.new_zeros(call.query.shape[1], total, call.query.shape[3])
            query[:, total - rows :] = call.query[0]
            own = np.arange(total - rows, total)
            self.mass.append(token_mass(query, call.key[0], own, call.scaling)[total - rows :])
        if self.system.others == "evict":
            return evicted_attention(call, self.packed[call.layer].important)
        return call.dense()

    def refresh(self, cache: Any, packed: list[LayerCache], bits: tuple[int, int]) -> None:
        """Split the newest tokens by their own scores and compress them; `packed` then covers them too."""
        import torch

        for i, (layer, mass) in enumerate(zip(cache.layers, self.mass)):
            new = len(mass)
            keep = important(mass / np.arange(new, 0, -1), smallest_count(mass, self.system.tau), 1)
            parts = [t[:, :, -new:] for t in (layer.keys, layer.values)]
            block = compress(rows_of(parts[0]), rows_of(parts[1]), keep, bits)
            restored = [in_shape_of(numbers, part) for numbers, part in zip(block.numbers(), parts)]
            layer.keys, layer.values = (
                torch.cat([stored[:, :, :-new], newest], 2) for stored, newest in zip((layer.keys, layer.values), restored)
            )
            packed[i] = _joined(packed[i], block)


def _joined(old: LayerCache, new: LayerCache) -> LayerCache:
    """Return which tokens of both are important; the bytes of the prompt's cache stay the account."""
    return LayerCache(np.concatenate([old.important, new.important]), old.keys, old.values)
