"""Stand between a Hugging Face model and its attention function, for one call and for one caller.

transformers lets a configuration name the attention function, so the tap is one more name. Setting it on a shared model would
change the model for everybody; a *view* has the same weights behind modules and configurations of its own.
"""

from __future__ import annotations

import copy
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from itertools import chain
from typing import Any

from workbench.errors import ModelError, expected

NAME = "workbench_tap"


@dataclass
class Call:
    """One attention layer's call.

    Attributes:
        layer: index of the layer. module: the attention module.
        query: (1, H, T, d) tensor, after the position embedding. key, value: (1, K, S, d), S >= T with a cache.
        mask: what the model built (None: plain causal). scaling: factor of the scores.
        options: what the model passes besides (sliding_window, softcap, ...).
    """

    layer: int
    module: Any
    query: Any
    key: Any
    value: Any
    mask: Any
    scaling: float
    options: dict[str, Any]

    def dense(self) -> Any:
        """Return what the model's usual kernel computes: (1, T, H, d)."""
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

        return sdpa_attention_forward(
            self.module, self.query, self.key, self.value, self.mask, scaling=self.scaling, **self.options
        )[0]


Handler = Callable[[Call], Any]
_handler: ContextVar[Handler | None] = ContextVar("attention handler", default=None)
_views: weakref.WeakKeyDictionary[Any, Any] = weakref.WeakKeyDictionary()
_lock = threading.Lock()


def _attention(module: Any, query: Any, key: Any, value: Any, mask: Any, **options: Any) -> tuple[Any, None]:
    """Stand where transformers expects an attention function."""
    scaling = options.pop("scaling", None)
    options.pop("dropout", None)
    layer = getattr(module, "layer_idx", None)
    call = Call(
        -1 if layer is None else int(layer), module, query, key, value, mask,
        float(query.shape[-1] ** -0.5 if scaling is None else scaling), options,
    )  # fmt: skip
    handler = _handler.get()
    return (call.dense() if handler is None else handler(call)), None


def view(model: Any) -> Any:
    """Return a model of the same weights whose attention passes through the tap. Made once for each model; the model stays as it is.

    Raises:
        ModelError: the model's class does not let a configuration choose its attention function.
    """
    with _lock:
        if model not in _views:
            _views[model] = _make_view(model)
        return _views[model]


def eager_view(model: Any) -> Any:
    """Return a model of the same weights that computes attention the plain way and returns its weights when asked."""
    return _make_view(model, "eager")


def plain_view(model: Any) -> Any:
    """Return a model of the same weights behind modules of its own, computing as the model does: a place for hooks."""
    return _make_view(model, None)


def _make_view(model: Any, implementation: str | None = NAME) -> Any:
    import torch
    from transformers.masking_utils import AttentionMaskInterface, sdpa_mask
    from transformers.modeling_utils import AttentionInterface

    AttentionInterface.register(NAME, _attention)
    AttentionMaskInterface.register(NAME, sdpa_mask)
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
