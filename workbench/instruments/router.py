"""Which expert each token goes to, for any mixture of experts of transformers, read off the router modules themselves.

What models return as `router_logits` is missing in several classes and is a softmax under another name in some; so the output of
each router module is read where it is made. The hooks sit on a *view* (same weights, modules of its own), and what they see goes
to the handler of the current context: the shared model is never touched, and two captures at once do not meet.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from workbench.errors import InputError, ModelError, expected
from workbench.instruments import taps
from workbench.models.devices import beside, made_once

#: Endings of the class names of routers, and names that end alike and route nothing.
_ROUTER = re.compile(r"(Router|TopKGating|Gate)$")
_NOT_ROUTER = re.compile(r"(ForgetGate|ResidualGate|DensityRouter|VisionTopKRouter|DFineGate|Deimv2Gate)$")
#: Class of the expert block or model -> why its routing cannot be read.
UNSUPPORTED = {
    "DogeCDMoE": "it routes by product keys, so there is no logit for each expert, and mixes the tokens of a text when it does",
    "SwitchTransformersForConditionalGeneration": "it reads and writes with two stacks; a text alone has no routing of the second",
    "NllbMoeForConditionalGeneration": "it reads and writes with two stacks; a text alone has no routing of the second",
    "Mxfp4GptOssExperts": "its experts are 4-bit (MXFP4) and their kernel chooses without asking the router module; loaded with Mxfp4Config(dequantize=True) it can be",
}

#: Routers whose decision can be read but not answered: what the experts get is computed elsewhere, or sorted already.
READ_ONLY = ("DbrxRouter", "JetMoeTopKGating")


@dataclass(frozen=True)
class Seen:
    """One router's decision for all tokens of a pass.

    Attributes:
        place: index among the routers of the model. layer: index of the decoder layer, from the module's name.
        logits: (N, E) fp32 tensor. expert: (N, k) int64, weight: (N, k) fp32, in the module's own order.
    """

    place: int
    layer: int
    logits: Any
    expert: Any
    weight: Any


#: Gets what a router decided; may return (expert, weight) tensors of (N, K) to be used instead, or None.
Handler = Callable[[Seen], "tuple[Any, Any] | None"]


@dataclass
class Routing:
    """The routing of some texts.

    Attributes:
        layers: decoder layers with experts (L of them). names: their router modules.
        logits: (L, N, E) fp32, raw router logits, batch-major: token b * T + t. experts: E. top_k: k of the model.
        expert: (L, N, k) int16 and weight (L, N, k) fp32: the model's own choice, heaviest first.
        rule: how weights follow from logits: "softmax" (probabilities as they are), "renormalised" (they sum to one), or "own".
        null: how many of the last experts hold no weights: a token that chooses one passes as it is, or not at all.
    """

    layers: list[int]
    names: list[str]
    logits: np.ndarray
    expert: np.ndarray
    weight: np.ndarray
    rule: str = "own"
    null: int = 0

    @property
    def experts(self) -> int:
        """E."""
        return int(self.logits.shape[2])

    @property
    def top_k(self) -> int:
        """k."""
        return int(self.expert.shape[2])


_handler: ContextVar[Handler | None] = ContextVar("router handler", default=None)


@dataclass
class View:
    """A model of the same weights with a hook on each router; `routers` are (name, class, decoder layer)."""

    model: Any
    routers: list[tuple[str, str, int]] = field(default_factory=list)


@made_once
def view(model: Any) -> View:
    """Return the model's view with hooks on its routers; made once for each model, which stays as it is.

    Raises:
        ModelError: the model has no router, or one that cannot be read; the sentence says why.
    """
    refuse(model)
    made = View(taps.plain_view(model))
    parents = dict(made.model.named_modules())
    for name, module in made.model.named_modules():
        if not is_router(name, module):
            continue
        layer = int(found[-1]) if (found := re.findall(r"\.(\d+)\.", f".{name}.")) else -1
        made.routers.append((name, type(module).__name__, layer))
        module.register_forward_hook(_hook(len(made.routers) - 1, layer, parents[name.rpartition(".")[0]]), with_kwargs=True)
    return made


def answerable(made: View) -> bool:
    """Return whether every router of a view lets a handler answer with other choices."""
    return not any(kind.endswith(READ_ONLY) for _, kind, _ in made.routers)


def is_router(name: str, module: Any) -> bool:
    """Return whether a module decides which expert a token goes to (attention's own experts, as JetMoe has them, do not count)."""
    kind = type(module).__name__
    if not _ROUTER.search(kind) or _NOT_ROUTER.search(kind) or re.search(r"attn|attention|vision|visual", name):
        return False
    return bool(list(module.parameters(recurse=True)))


def refuse(model: Any) -> None:
    """Raise `ModelError` for a model whose routing cannot be read."""
    if not hasattr(model, "named_modules"):
        raise ModelError(
            f"{type(model).__name__} has no router: it is not a network. Use moe-8, or a mixture of experts by name."
        )
    kinds = {type(module).__name__ for module in model.modules()}
    for kind, reason in UNSUPPORTED.items():
        if kind in kinds:
            raise ModelError(f"{type(model).__name__}: its routing cannot be read: {reason}. Choose another model.")
    if not any(is_router(name, module) for name, module in model.named_modules()):
        raise ModelError(
            f"{type(model).__name__} has no router: all its layers are dense. Use moe-8, or a mixture of experts by name."
        )


@contextmanager
def routing(handler: Handler) -> Iterator[None]:
    """Let `handler` see (and answer) every router of the views that run in this context; other threads do not see it."""
    token = _handler.set(handler)
    try:
        yield
    finally:
        _handler.reset(token)


def _hook(place: int, layer: int, parent: Any) -> Callable[..., Any]:
    """Return the forward hook of one router."""

    def after(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> Any:
        handler = _handler.get()
        if handler is None:
            return None
        logits, expert, weight, put = read(module, parent, args, kwargs, out)
        changed = handler(Seen(place, layer, logits.detach().float(), expert.detach(), weight.detach().float()))
        if changed is None:
            return None
        if put is None:
            raise ModelError(
                f"{type(module).__name__}: its routing can be read, not changed. Leave capacity and top_k as they are."
            )
        return put(*changed)

    return after


# ---- reading one router's output ---------------------------------------------------------------------------------------


def read(module: Any, parent: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> tuple[Any, Any, Any, Any]:
    """Return (logits (N, E), expert (N, k), weight (N, k), function that puts others in their place or None)."""
    kind = type(module).__name__
    reader = next((r for ending, r in _SPECIAL.items() if kind.endswith(ending)), None)
    if reader is not None:
        return reader(module, parent, args, kwargs, out)
    return _triple(module, out)


def _triple(module: Any, out: Any) -> tuple[Any, Any, Any, Any]:
    """Read (logits, weights, indices, ...): what nearly every router of transformers 5 returns."""
    kind = type(module).__name__
    if not isinstance(out, tuple) or len(out) < 3:
        raise ModelError(f"{kind}: expected logits, weights and indices, got {_shape(out)}. This router cannot be read.")
    logits, weight, expert = out[:3]
    fits = expert.dtype.is_floating_point is False and weight.shape == expert.shape and logits.shape[0] == expert.shape[0]
    if logits.ndim != 2 or not fits or expert.shape[1] > logits.shape[1]:
        raise ModelError(
            f"{kind}: expected logits (N, E), weights and indices (N, k), got {_shape(out)}. This router cannot be read."
        )

    def put(new_expert: Any, new_weight: Any) -> tuple[Any, ...]:
        return (logits, new_weight.to(weight.dtype), new_expert.to(expert.dtype), *out[3:])

    return logits, expert, weight, put


def _shape(out: Any) -> str:
    parts = out if isinstance(out, tuple) else (out,)
    return ", ".join(str(tuple(p.shape)) if hasattr(p, "shape") else type(p).__name__ for p in parts)


def _dbrx(module: Any, parent: Any, args: Any, kwargs: Any, out: Any) -> tuple[Any, Any, Any, Any]:
    """The router returns logits; its parent chooses."""
    weight, expert = parent.route_tokens_to_experts(out)
    return out, expert, weight, None


def _llama4(module: Any, parent: Any, args: Any, kwargs: Any, out: Any) -> tuple[Any, Any, Any, Any]:
    """Returns (sigmoid scores, zero off the top k; logits)."""
    scores, logits = out
    expert = logits.topk(module.top_k, dim=1).indices

    def put(new_expert: Any, new_weight: Any) -> tuple[Any, Any]:
        import torch

        return torch.zeros_like(scores).scatter_(1, new_expert, new_weight.to(scores.dtype)), logits

    return logits, expert, scores.gather(1, expert), put


def _jetmoe(module: Any, parent: Any, args: Any, kwargs: Any, out: Any) -> tuple[Any, Any, Any, Any]:
    """Returns the choices sorted by expert; the weights are the softmax of the chosen logits."""
    logits = out[-1]
    top = logits.topk(module.top_k, dim=1)
    return logits, top.indices, top.values.softmax(1), None


def _gemma(module: Any, parent: Any, args: Any, kwargs: Any, out: Any) -> tuple[Any, Any, Any, Any]:
    """Returns probabilities in the place of logits; the logits are one product before."""
    _, expert, weight, put = _triple(module, out)
    hidden = args[0] if args else kwargs["hidden_states"]
    logits = module.proj(module.norm(hidden) * module.scale * module.scalar_root_size)
    return logits.reshape(-1, logits.shape[-1]), expert, weight, put


def _zaya(module: Any, parent: Any, args: Any, kwargs: Any, out: Any) -> tuple[Any, Any, Any, Any]:
    """The last logit means "no expert"; such a choice is written as expert 0 with weight 0 and is shown as what it is."""
    logits, expert, weight, put = _triple(module, out)
    return logits, expert.masked_fill(weight == 0, logits.shape[1] - 1), weight, put


_SPECIAL = {
    "DbrxRouter": _dbrx,
    "Llama4Router": _llama4,
    "JetMoeTopKGating": _jetmoe,
    "Gemma4TextRouter": _gemma,
    "DiffusionGemmaTextRouter": _gemma,
    "ZayaRouter": _zaya,
}


# ---- capturing ----------------------------------------------------------------------------------------------------------


class Collector:
    """Keeps every router's decision of the passes that run under it."""

    def __init__(self, made: View, inner: Handler | None = None) -> None:
        self.made, self.inner = made, inner
        self.parts: dict[int, list[Seen]] = {}

    def __call__(self, seen: Seen) -> tuple[Any, Any] | None:
        self.parts.setdefault(seen.place, []).append(seen)
        return None if self.inner is None else self.inner(seen)

    def routing(self) -> Routing:
        """Return all passes, one after another; layers with fewer experts are filled up with logits of minus infinity.

        Raises:
            ModelError: no router ran, the layers choose different numbers of experts, or a router returns probabilities for logits.
        """
        if not self.parts:
            raise ModelError(f"{type(self.made.model).__name__} has no router that ran. Choose another model.")
        places = sorted(self.parts, key=lambda p: (self.made.routers[p][2], p))
        if len({s.expert.shape[1] for p in places for s in self.parts[p]}) > 1:
            raise ModelError(
                f"{type(self.made.model).__name__}: its layers choose different numbers of experts. Choose another model."
            )
        stacked = [self._one(self.parts[p]) for p in places]
        most = max(logits.shape[1] for logits, _, _ in stacked)
        logits = np.stack([np.pad(x, ((0, 0), (0, most - x.shape[1])), constant_values=-np.inf) for x, _, _ in stacked])
        expert, weight = np.stack([e for _, e, _ in stacked]), np.stack([w for _, _, w in stacked])
        names = [self.made.routers[p][0] for p in places]
        for name, x, (_, kind, _) in zip(names, stacked, (self.made.routers[p] for p in places), strict=True):
            if (x[0] >= 0).all() and np.allclose(x[0].sum(1), 1, atol=1e-4):
                raise ModelError(
                    f"{kind} ({name}): expected logits, got numbers that sum to one: it returns probabilities under their name. Choose another model."
                )
        layers, blocks = [self.made.routers[p][2] for p in places], dict(self.made.model.named_modules())
        null = min(null_experts(blocks[n.rpartition(".")[0]], most) for n in names)
        return Routing(layers, names, logits, expert, weight, rule_of(logits, expert, weight), null)

    @staticmethod
    def _one(parts: list[Seen]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        import torch

        logits, expert, weight = (torch.cat([getattr(s, n).cpu() for s in parts]) for n in ("logits", "expert", "weight"))
        order = weight.argsort(dim=1, descending=True, stable=True)
        return logits.numpy(), expert.gather(1, order).to(torch.int16).numpy(), weight.gather(1, order).numpy()


def null_experts(block: Any, experts: int) -> int:
    """Return how many of a router's `experts` its block holds no weights for."""
    held: Any = getattr(getattr(block, "experts", None), "down_proj", None)
    return max(0, experts - len(held)) if getattr(held, "ndim", 0) == 3 else 0


def rule_of(logits: np.ndarray, expert: np.ndarray, weight: np.ndarray, tolerance: float = 1e-4) -> str:
    """Return "softmax" or "renormalised" where the weights are exactly that of the k largest logits, else "own"."""
    probs = softmax(logits)
    largest = -np.sort(-probs, axis=-1)[..., : expert.shape[-1]]
    chosen = np.take_along_axis(probs, expert.astype(np.int64), -1)
    if not np.allclose(chosen, largest, atol=tolerance):
        return "own"
    if np.allclose(chosen, weight, atol=tolerance):
        return "softmax"
    if np.allclose(chosen / chosen.sum(-1, keepdims=True), weight, atol=tolerance):
        return "renormalised"
    return "own"


def softmax(logits: np.ndarray) -> np.ndarray:
    """Return probabilities over the last axis, fp32."""
    shifted = np.exp(logits - logits.max(-1, keepdims=True))
    return (shifted / shifted.sum(-1, keepdims=True)).astype(np.float32)


def checked_ids(token_ids: Any, vocab_size: int) -> np.ndarray:
    """Return ids as (B, T) int64.

    Raises:
        InputError: no tokens, or ids outside the vocabulary.
    """
    ids = np.atleast_2d(np.asarray(token_ids, dtype=np.int64))
    if ids.ndim != 2 or ids.size == 0:
        raise InputError(expected("text", "at least one token", ids.size, "", "Write a word"))
    if ids.min() < 0 or ids.max() >= vocab_size:
        raise InputError(expected("text", f"ids from 0 to {vocab_size - 1}", f"{ids.min()} to {ids.max()}"))
    return ids


def capture(
    model: Any,
    token_ids: Any,
    *,
    rows: int = 8,
    handler: Handler | None = None,
    on_rows: Callable[[int, Any], None] | None = None,
) -> Routing:
    """Return the routing of texts of equal length.

    Args:
        model: a mixture of experts of transformers; it may lie on several devices.
        token_ids: (T,) or (B, T) ids, one token or more.
        rows: texts of one pass.
        handler: may answer a router's decision with another (see `Handler`).
        on_rows: called after each pass with the index of its first text and its next-token logits (rows, T, V); may raise to stop.

    Raises:
        InputError: no tokens, ids outside the vocabulary, or more tokens than the model's context.
        ModelError: the model has no router ("has no router"), or one that cannot be read or changed.
    """
    import torch

    made = view(model)
    config = taps.decoder(made.model).config
    ids = checked_ids(token_ids, int(config.vocab_size))
    context = getattr(config, "max_position_embeddings", None)
    if context and ids.shape[1] > context:
        raise InputError(expected("text", f"at most {context} tokens (the model's context)", ids.shape[1], "", "Shorten it"))
    collected = Collector(made, handler)
    with torch.inference_mode(), routing(collected):
        for start in range(0, len(ids), rows):
            out = made.model(input_ids=beside(made.model, ids[start : start + rows]), use_cache=False)
            if on_rows is not None:
                on_rows(start, getattr(out, "logits", None))
    return collected.routing()
