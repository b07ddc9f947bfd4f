"""What the neurons of every feed-forward layer do with a text, and the same model with some of them silent.

A neuron is a channel of the input of `down_proj`: act(gate(x)) * up(x). The hooks sit on a *view* (same weights, modules of its own)
and pass what they see to the handler of the current context, which may answer with other activations.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import numpy as np

from workbench.errors import ModelError
from workbench.instruments import taps
from workbench.models.devices import beside, made_once

#: Gets (layer, activations (B, T, D)); returns other activations, or None to leave them.
Handler = Callable[[int, Any], Any]
_handler: ContextVar[Handler | None] = ContextVar("neuron handler", default=None)


def feed_forward(model: Any) -> list[Any]:
    """Return the feed-forward block of every decoder layer: modules with `gate_proj`, `up_proj` and `down_proj`.

    Raises:
        ModelError: a layer has none (a mixture of experts, or another kind of block).
    """
    blocks = [getattr(layer, "mlp", None) for layer in getattr(taps.decoder(model), "layers", ())]
    parts = ("gate_proj", "up_proj", "down_proj")
    if not blocks or not all(hasattr(block, part) for block in blocks for part in parts):
        raise ModelError(
            f"{type(model).__name__}: expected a dense gated feed-forward block in every layer. Use smollm2-135m or another dense model."
        )
    return blocks


@made_once
def view(model: Any) -> Any:
    """Return the model's view with a hook before each `down_proj`; made once for each model, which stays as it is."""
    feed_forward(model)
    made = taps.plain_view(model)
    for layer, block in enumerate(feed_forward(made)):
        block.down_proj.register_forward_pre_hook(_hook(layer))
    return made


def _hook(layer: int) -> Callable[..., Any]:
    def before(module: Any, args: tuple[Any, ...]) -> Any:
        handler = _handler.get()
        changed = None if handler is None else handler(layer, args[0])
        return None if changed is None else (changed,)

    return before


@contextmanager
def watching(handler: Handler) -> Iterator[None]:
    """Let `handler` see (and answer) the activations of the views that run in this context."""
    token = _handler.set(handler)
    try:
        yield
    finally:
        _handler.reset(token)


def activation_means(model: Any, ids: np.ndarray, on_row: Callable[[int], None] | None = None) -> np.ndarray:
    """Return (L, D) fp32: the mean over all tokens of |activation| of every neuron.

    Args:
        ids: (B, T) token ids. on_row: called before each text with its index; may raise to stop.
    Source: Read-ME (arXiv 2410.19123), section 3.2.
    """
    import torch

    blocks = feed_forward(model)
    sums = torch.zeros(len(blocks), blocks[0].down_proj.in_features, dtype=torch.float64)

    def add(layer: int, acts: Any) -> None:
        sums[layer] += acts.abs().flatten(0, -2).sum(0, dtype=torch.float64).cpu()

    made = taps.decoder(view(model))
    with torch.inference_mode(), watching(add):
        for i, row in enumerate(ids):
            if on_row is not None:
                on_row(i)
            made(input_ids=beside(model, row[None]), use_cache=False)
    return (sums / ids.size).float().numpy()
