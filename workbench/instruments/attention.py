"""Where attention goes, for any causal language model of transformers and any length, without a T x T array.

Queries and keys are taken as the model itself made them, each layer is pooled by `kernels.attention_mass` and forgotten. Before
a model is measured for the first time, a short text is captured exactly and compared with transformers' own eager attention:
sliding windows and soft caps are followed, and a model that does something else between scores and weights (learned sinks,
position biases) is refused, not drawn wrongly.
"""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from workbench import kernels
from workbench.errors import InputError, ModelError, expected
from workbench.instruments import taps
from workbench.models.devices import beside, device_of

log = logging.getLogger(__name__)

CHECKED_TOKENS = 24
WINDOW = 512  # most rows or columns of an exact window
_TOLERANCE = {"float32": 2e-5, "float64": 2e-5, "bfloat16": 2e-2, "float16": 4e-3}
_GPU_TOLERANCE = 1e-3  # fused fp32 attention sums otherwise there: 1.2e-4 on an H200; a scale that is off by 0.1 % gives 4e-2


@dataclass(frozen=True)
class Window:
    """A rectangle of exact attention: queries `first_query` to `last_query` (not included), keys likewise, of one head."""

    layer: int
    head: int
    first_query: int
    last_query: int
    first_key: int
    last_key: int


@dataclass
class Attention:
    """Pooled attention of one text.

    Attributes:
        length: tokens T. layers: indices of the captured layers (L of them). heads: query heads H.
        mass: (L, H, B, B) fp32, mean probability that the queries of a bin put on the keys of a bin; rows sum to 1.
        column_sum: (L, H, T) fp32, probability that each key receives, summed over the queries (or probes) counted.
        counted: number of queries counted in `column_sum`.
        windows: exact probabilities, (queries, keys) fp32 for each window asked for.
        readers: (L, B, T) fp32, mean over heads of the probability that the queries of a bin put on each single key; empty
            unless asked for.
        heads_of: layer -> (query (H, T, d), key (K, T, d), log-sum-exp of each query's scores (H, T)), fp32, scaled so
            that exp(query . key - lse) is the probability (query . key bent by the layer's soft cap first, if it has one);
            for the layers of `keep_heads`.
        window_of, softcap_of: layer -> keys that a query sees, and bound of the scores (None: all its past, none).
    """

    length: int
    layers: list[int] = field(default_factory=list)
    heads: int = 0
    mass: np.ndarray = field(default_factory=lambda: np.zeros(0))
    column_sum: np.ndarray = field(default_factory=lambda: np.zeros(0))
    counted: int = 0
    windows: dict[Window, np.ndarray] = field(default_factory=dict)
    readers: np.ndarray = field(default_factory=lambda: np.zeros(0))
    heads_of: dict[int, tuple[np.ndarray, np.ndarray, np.ndarray]] = field(default_factory=dict)
    window_of: dict[int, int | None] = field(default_factory=dict)
    softcap_of: dict[int, float | None] = field(default_factory=dict)

    @property
    def sink_share(self) -> np.ndarray:
        """(L, H) share of all probability that the first token receives."""
        return self.column_sum[:, :, 0] / self.counted


def capture(
    model: Any,
    token_ids: Sequence[int] | np.ndarray,
    *,
    bins: int = 64,
    layers: Sequence[int] | None = None,
    probes: np.ndarray | None = None,
    windows: Sequence[Window] = (),
    on_layer: Callable[[int], None] | None = None,
    readers: bool = False,
    keep_heads: Sequence[int] = (),
    embeds: Any = None,
) -> Attention:
    """Return the pooled attention of a text; memory grows linearly with its length.

    Args:
        model: a transformers causal language model (or vision-language model, whose text is read).
        token_ids: 2 or more ids, at most the model's context.
        bins: bins of queries and of keys (`numpy.array_split`); at most T.
        layers: layers to pool; all by default. The others run, unrecorded.
        probes: positions of the queries to count; all by default.
        windows: exact rectangles, at most 512 x 512 each.
        on_layer: called with each layer's index; may raise to stop.
        readers: also note who looks at every single token.
        keep_heads: layers whose queries and keys are kept, so that any part of any of their heads can be drawn exactly.
        embeds: (1, T, d), what stands in the place of the ids' own embeddings (a picture's tokens).

    Raises:
        InputError: an empty text, one token, too many tokens, or a window outside the text.
        ModelError: the model's attention cannot be captured; the sentence says why.
    """
    ids = _checked_ids(model, token_ids)
    _check_windows(model, windows, len(ids))
    verify(model)
    pool = _Pool(len(ids), min(bins, len(ids)), None if layers is None else set(layers), probes, windows, on_layer)
    pool.with_readers, pool.kept = readers, set(keep_heads)
    return _capture(model, ids, pool, embeds)


def _checked_ids(model: Any, token_ids: Sequence[int] | np.ndarray) -> np.ndarray:
    ids = np.asarray(token_ids, dtype=np.int64)
    if ids.ndim != 1 or ids.size < 2:
        raise InputError(expected("text", "at least two tokens", f"{ids.size}", "", "Write a sentence"))
    context = context_of(taps.decoder(model))
    if context and ids.size > context:
        raise InputError(expected("text", f"at most {context} tokens (the model's context)", str(ids.size), "", "Shorten it"))
    return ids


def context_of(inner: Any) -> int | None:
    """Return how many tokens a decoder reads at most; None where its configuration names no bound."""
    context = getattr(inner.config, "max_position_embeddings", None)
    return int(context) if isinstance(context, int) and context > 0 else None


def _check_windows(model: Any, windows: Sequence[Window], length: int) -> None:
    for w in windows:
        inside = 0 <= w.first_query < w.last_query <= length and 0 <= w.first_key < w.last_key <= length
        if not inside or w.last_query - w.first_query > WINDOW or w.last_key - w.first_key > WINDOW:
            raise InputError(expected("window", f"a rectangle inside 0..{length}, at most {WINDOW} a side", str(w)))


_verified: weakref.WeakKeyDictionary[Any, str] = weakref.WeakKeyDictionary()


def verify(model: Any) -> None:
    """Compare the captured attention of a short text with the model's own eager attention; once for each model.

    Raises:
        ModelError: they differ, or the model cannot be captured.
    """
    if model not in _verified:
        _verified[model] = _why_not(model)
    if _verified[model]:
        raise ModelError(f"{type(model).__name__}: its attention cannot be captured: {_verified[model]}. Choose another model.")


def _why_not(model: Any) -> str:
    """Return why a model cannot be captured, or ""."""
    import torch

    inner = taps.decoder(model)
    if getattr(inner.config, "is_encoder_decoder", False):
        return "it reads with one stack and writes with another, and a text alone has no attention of the second"
    ids = np.random.default_rng(0).integers(0, int(inner.config.vocab_size), min(CHECKED_TOKENS, context_of(inner) or 64))
    try:
        seen = _capture(model, ids, _Pool(len(ids), len(ids), None, None, (), None))
        eager = taps.decoder(taps.eager_view(model))
        with torch.inference_mode():
            maps = eager(input_ids=beside(eager, ids[None]), use_cache=False, output_attentions=True).attentions
    except ModelError as error:
        return str(error).rstrip(".")
    except MemoryError:
        raise  # says nothing of the model
    except Exception as error:  # a class that goes its own way: whatever it stumbles over, it cannot be followed
        log.warning("attention of %s", type(model).__name__, exc_info=True)
        return f"its forward pass cannot be followed ({type(error).__name__})"
    if not maps or len(maps) != len(seen.layers):
        return "it does not return attention weights to compare with"
    truth = np.stack([layer[0].float().cpu().numpy() for layer in maps])
    allowed = _TOLERANCE.get(str(next(model.parameters()).dtype).removeprefix("torch."), 2e-5)
    allowed = allowed if device_of(model).type == "cpu" else max(allowed, _GPU_TOLERANCE)
    difference = float(np.abs(truth - seen.mass).max())
    return "" if difference <= allowed else f"its own weights differ from the captured ones by {difference:.1e}"


class _Pool:
    """Pools every attention call of one forward pass."""

    def __init__(self, length: int, bins: int, layers: Any, probes: Any, windows: Any, on_layer: Any) -> None:
        self.bins, self.layers, self.probes, self.on_layer = bins, layers, probes, on_layer
        self.asked = list(windows)
        self.out = Attention(length, counted=length if probes is None else len(probes))
        self.mass: list[np.ndarray] = []
        self.columns: list[np.ndarray] = []
        self.received: list[np.ndarray] = []
        self.with_readers, self.kept = False, set[int]()
        self.calls = 0

    def __call__(self, call: taps.Call) -> Any:
        layer = call.layer if call.layer >= 0 else self.calls
        self.calls += 1
        refuse(call)
        if self.on_layer is not None:
            self.on_layer(layer)
        if self.layers is None or layer in self.layers:
            self._pool(layer, call)
        return call.dense()

    def _pool(self, layer: int, call: taps.Call) -> None:
        scale = call.scaling * call.query.shape[-1] ** 0.5  # the kernel divides by sqrt(d)
        q, k = (call.query[0].float() * scale).contiguous(), call.key[0].float().contiguous()
        shape: dict[str, Any] = {"window": call.window, "softcap": call.softcap}
        self.out.window_of[layer], self.out.softcap_of[layer] = call.window, call.softcap
        pooled = kernels.attention_mass(q, k, self.bins, self.bins, self.probes, **shape)
        self.mass.append(pooled.mass.cpu().numpy())
        self.columns.append(pooled.column_sum.cpu().numpy())
        self.out.layers.append(layer)
        if self.with_readers:
            single = kernels.attention_mass(q, k, self.bins, k.shape[1], **shape)
            self.received.append(single.mass.mean(0).cpu().numpy())
        if layer in self.kept:
            self.out.heads_of[layer] = ((q / q.shape[-1] ** 0.5).cpu().numpy(), k.cpu().numpy(), log_sums(q, k, **shape))
        for window in self.asked:
            if window.layer == layer:
                self.out.windows[window] = exact(q, k, window, call)


def refuse(call: taps.Call) -> None:
    """Raise `ModelError` for an attention layer that is not causal softmax attention over one text."""
    length = call.key.shape[2]
    for name, what in (
        ("s_aux", "has a learned sink"),
        ("position_bias", "adds a position bias"),
    ):
        if call.options.get(name) is not None:
            raise ModelError(f"layer {call.layer} {what}")
    if call.query.shape[2] != length:
        raise ModelError(f"layer {call.layer} reads {length} keys for {call.query.shape[2]} queries")
    if call.mask is not None:
        import torch

        causal = torch.ones(length, length, dtype=torch.bool).tril() if length <= 4096 else None
        if causal is not None and call.window is not None:
            causal = causal.triu(1 - call.window)
        allowed = call.mask[0, 0] if call.mask.dtype == torch.bool else call.mask[0, 0] == 0
        if causal is None or not torch.equal(allowed.cpu(), causal):
            raise ModelError(f"layer {call.layer} has a mask that is not plain causal")


def refuse_bent(call: taps.Call) -> None:
    """Raise `ModelError` for an attention layer that sees only a part of the past or caps its scores, too."""
    refuse(call)
    if call.softcap is not None:
        raise ModelError(f"layer {call.layer} caps its scores")
    if not call.plain:
        raise ModelError(f"layer {call.layer} looks back {call.window} tokens only and the text has {call.key.shape[2]}")


def _scores(q: Any, k: Any, at: Any, window: int | None, softcap: float | None) -> Any:
    """Return scores (..., queries, keys) of queries at the places `at`; -inf for keys that they do not see."""
    import torch

    scores = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    places, reach = torch.arange(k.shape[-2], device=q.device)[None], window or k.shape[-2]
    at = at.to(q.device)[:, None]
    return scores.masked_fill((places > at) | (places <= at - reach), -torch.inf)


def exact(q: Any, k: Any, window: Window, call: taps.Call) -> np.ndarray:
    """Return the exact probabilities in a window: (queries, keys) fp32. Rows see more than it, so they need not sum to 1."""
    import torch

    heads_per_key = q.shape[0] // k.shape[0]
    rows = torch.arange(window.first_query, window.last_query)
    keys = k[window.head // heads_per_key, : window.last_query]
    scores = _scores(q[window.head, rows], keys, rows, call.window, call.softcap)
    probs = scores.softmax(-1)[:, window.first_key : window.last_key].cpu().numpy()
    wide = np.zeros((len(rows), window.last_key - window.first_key), np.float32)  # keys after the last query: nothing
    wide[:, : probs.shape[1]] = probs
    return wide


def log_sums(q: Any, k: Any, window: int | None = None, softcap: float | None = None) -> np.ndarray:
    """Return the log-sum-exp of every query's scores of the keys that it sees, (H, T) fp32, in blocks of rows."""
    import torch

    key = k.repeat_interleave(q.shape[0] // k.shape[0], 0)
    sums = torch.empty(q.shape[:2])
    for start in range(0, q.shape[1], 256):
        rows = torch.arange(start, min(start + 256, q.shape[1]))
        scores = _scores(q[:, rows], key[:, : rows[-1] + 1], rows, window, softcap)
        sums[:, rows] = scores.logsumexp(-1).cpu()
    return sums.numpy()


def _capture(model: Any, ids: np.ndarray, pool: _Pool, embeds: Any = None) -> Attention:
    import torch

    inner = taps.decoder(taps.view(model))
    given = {"input_ids": beside(inner, ids[None])} if embeds is None else {"inputs_embeds": embeds}
    with torch.inference_mode(), taps.attending(pool):
        inner(**given, use_cache=False)
    if not pool.mass:
        none = "no attention layer ran: it has none, or computes it in code of its own"
        reason = none if not pool.calls else f"none of the layers {sorted(pool.layers or ())} exists"
        raise ModelError(reason)
    pool.out.mass, pool.out.column_sum = np.stack(pool.mass), np.stack(pool.columns)
    pool.out.readers = np.stack(pool.received) if pool.received else pool.out.readers
    pool.out.heads = pool.out.mass.shape[1]
    return pool.out
