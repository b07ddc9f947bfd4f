"""Stand between a Hugging Face model and its attention function, for one call and for one caller.

transformers lets a configuration name the attention function, so the tap is one more name. Setting it on a shared model would
change the model for everybody; a *view* has the same weights behind modules and configurations of its own.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from itertools import chain
from typing import Any

from workbench.errors import ModelError, expected
from workbench.models.devices import made_once

NAME = "workbench_tap"
ROWS = 256  # query rows in flight where a layer's attention is not one call of torch


@dataclass
class Call:
    """One attention layer's call.

    Attributes:
        layer: index of the layer. module: the attention module.
        query: (1, H, T, d) tensor, after the position embedding. key, value: (1, K, S, d), S >= T with a cache.
        mask: what the model built (None: plain causal, over the last `window` keys). scaling: factor of the scores.
        options: what the model passes besides (sliding_window, softcap, ...).
        window: keys that a query sees, itself included (None: its whole past).
    """

    layer: int
    module: Any
    query: Any
    key: Any
    value: Any
    mask: Any
    scaling: float
    options: dict[str, Any]
    window: int | None = None

    @property
    def softcap(self) -> float | None:
        """Where scores are bent to stay below this in size, the bound; else None."""
        cap = self.options.get("softcap")
        return None if cap is None else float(cap)

    @property
    def plain(self) -> bool:
        """Whether a query sees its whole past, by scores as they are."""
        return self.softcap is None and (self.window is None or self.window >= self.key.shape[2])

    def dense(self) -> Any:
        """Return what the model's usual kernel computes: (1, T, H, d)."""
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

        if not self.plain:
            return _in_blocks(self)
        return sdpa_attention_forward(
            self.module, self.query, self.key, self.value, self.mask, scaling=self.scaling, **self.options
        )[0]


Handler = Callable[[Call], Any]
_handler: ContextVar[Handler | None] = ContextVar("attention handler", default=None)


def _in_blocks(call: Call) -> Any:
    """Return (B, T, H, d): attention in blocks of rows, so that a window or capped scores need no T x T array."""
    import torch

    groups = call.query.shape[1] // call.key.shape[1]
    rows, keys = call.query.shape[2], call.key.shape[2]
    reach, ahead = call.window or keys, keys - rows
    out = torch.empty_like(call.query)
    for start in range(0, rows, ROWS):
        at = torch.arange(start, min(start + ROWS, rows), device=call.query.device) + ahead
        low, high = max(0, start + ahead + 1 - reach), int(at[-1]) + 1
        key, value = (t[:, :, low:high].repeat_interleave(groups, 1) for t in (call.key, call.value))
        places = torch.arange(low, high, device=at.device)[None]
        hidden = (places > at[:, None]) | (places <= at[:, None] - reach)
        scores = call.query[:, :, start : start + ROWS] @ key.transpose(-1, -2) * call.scaling
        if call.softcap is not None:
            scores = call.softcap * torch.tanh(scores / call.softcap)
        if call.mask is not None:
            given = call.mask[:, :, start : start + ROWS, low:high]
            scores = scores.masked_fill(~given, -torch.inf) if given.dtype == torch.bool else scores + given
        weights = scores.masked_fill(hidden, -torch.inf).float().softmax(-1).to(value.dtype)
        out[:, :, start : start + ROWS] = weights @ value
    return out.transpose(1, 2)


def _mask(*args: Any, **options: Any) -> Any:
    """Stand where transformers expects a mask function: a sliding window over a whole text is one number, not a T x T mask.

    The number travels as a (1, 1, 1, 1) integer tensor in the place of the mask; `_attention` reads it.
    """
    import torch
    from transformers.masking_utils import sdpa_mask

    window, visible = options.get("local_size"), options.get("mask_function")
    padding = options.get("attention_mask")
    whole = options.get("q_length") == options.get("kv_length") and not options.get("q_offset") and not options.get("kv_offset")
    skippable = options.get("allow_is_causal_skip", True) and (padding is None or bool(padding.all()))
    if not (window and visible is not None and whole and skippable and options["kv_length"] > window):
        return sdpa_mask(*args, **options)
    zero, places = torch.tensor(0), [(window, 1), (window, 0), (window - 1, 0)]  # a chunked mask differs at the first
    if [bool(visible(zero, zero, torch.tensor(q), torch.tensor(k))) for q, k in places] != [True, False, True]:
        return sdpa_mask(*args, **options)
    return torch.full((1, 1, 1, 1), int(window), device=options.get("device", "cpu"))


def _attention(module: Any, query: Any, key: Any, value: Any, mask: Any = None, **options: Any) -> tuple[Any, None]:
    """Stand where transformers expects an attention function."""
    mask = options.pop("attention_mask", mask)  # some classes name it
    scaling = options.pop("scaling", None)
    options.pop("dropout", None)
    layer = getattr(module, "layer_idx", None)
    window = options.get("sliding_window")
    if mask is not None and mask.numel() == 1 and not mask.is_floating_point() and mask.element_size() == 8:
        mask, window = None, int(mask)
    call = Call(
        -1 if layer is None else int(layer), module, query, key, value, mask,
        float(query.shape[-1] ** -0.5 if scaling is None else scaling), options, window,
    )  # fmt: skip
    handler = _handler.get()
    return (call.dense() if handler is None else handler(call)), None


@made_once
def view(model: Any) -> Any:
    """Return a model of the same weights whose attention passes through the tap. Made once for each model; the model stays as it is.

    Raises:
        ModelError: the model's class does not let a configuration choose its attention function.
    """
    return _make_view(model)


def eager_view(model: Any) -> Any:
    """Return a model of the same weights that computes attention the plain way and returns its weights when asked."""
    return _make_view(model, "eager")


def plain_view(model: Any) -> Any:
    """Return a model of the same weights behind modules of its own, computing as the model does: a place for hooks."""
    return _make_view(model, None)


def _make_view(model: Any, implementation: str | None = NAME) -> Any:
    import torch
    from transformers.masking_utils import AttentionMaskInterface
    from transformers.modeling_utils import AttentionInterface

    AttentionInterface.register(NAME, _attention)
    AttentionMaskInterface.register(NAME, _mask)
    if not isinstance(model, torch.nn.Module) or not hasattr(model, "config"):
        raise ModelError(expected("model", "a transformers model", type(model).__name__))
    shared = {id(t): t for t in chain(model.parameters(), model.buffers())}
    made = copy.deepcopy(model, shared).eval()
    for module in decoder(made).modules():
        config = getattr(module, "config", None)
        if config is not None and implementation is not None:
            config._attn_implementation = implementation
    return made


def decoder(model: Any) -> Any:
    """Return the part of a model that reads text causally: the whole base model, or the language model of a vision-language one."""
    base = model.base_model
    return getattr(base, "language_model", base)


@contextmanager
def attending(handler: Handler) -> Iterator[None]:
    """Let `handler` answer every attention call of the views that run in this context (other threads do not see it)."""
    token = _handler.set(handler)
    try:
        yield
    finally:
        _handler.reset(token)
