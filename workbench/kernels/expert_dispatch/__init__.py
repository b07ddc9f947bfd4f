"""Which slot of which expert each routed token gets, and who is dropped."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from workbench.errors import InputError, expected, unknown
from workbench.kernels.philox import philox, split_seed
from workbench.kernels.spec import Spec, shape_error

ORDERS = ("token", "random", "priority")


class Dispatch(NamedTuple):
    """Where every choice goes.

    Attributes:
        slot: (T, k) int32, rank of the choice within its expert in the order of service; -1 = dropped.
        load: (E,) int64, choices that asked for the expert, dropped ones included.
        offsets: (E + 1,) int64, where each expert's kept choices start in `permutation`.
        permutation: (kept,) int64, flat choice index token * k + choice, grouped by expert, by slot within it.
    """

    slot: Any
    load: Any
    offsets: Any
    permutation: Any


def expert_dispatch(
    experts: Any,
    weights: Any,
    num_experts: int,
    capacity: int,
    order: str = "token",
    seed: int = 0,
    *,
    backend: str = "auto",
) -> Dispatch:
    """Return slots, loads, offsets and the permutation of a mixture of experts with limited capacity.

    All first choices are served before any second choice. Within a choice, tokens are served in their order
    ("token"), in a random order ("random"), or by falling weight of their first choice ("priority"); equal weights
    keep the token order.

    Args:
        experts: (T, k) integers 0..E-1, a token's choices, first choice first.
        weights: (T, k) floats, the router's weights; only "priority" reads them.
        num_experts: E >= 1. capacity: slots of an expert, >= 0.
        order: "token", "random" or "priority". seed: of the random order; the same on every backend.
        backend: "auto", "reference", "cpu" or "cuda".

    Raises:
        InputError: shapes or values do not fit. UnknownNameError: no such order. KernelError: no such backend here.

    Source:
        Token order and capacity: GShard, arXiv 2006.16668, algorithm 1; by priority: arXiv 2106.05974, section 4.

    Example:
        >>> import numpy as np
        >>> found = expert_dispatch(np.array([[0], [0], [1]]), np.ones((3, 1), np.float32), 2, capacity=1)
        >>> found.slot.ravel().tolist(), found.load.tolist(), found.permutation.tolist()
        ([0, -1, 0], [2, 1], [0, 2])
    """
    sizes = {"num_experts": int(num_experts), "capacity": int(capacity), "order": order, "seed": int(seed)}
    return SPEC.run(backend, {"experts": experts, "weights": weights, **sizes})


def token_order(weights: np.ndarray, order: str, seed: int) -> np.ndarray:
    """Return (T,) int64: the tokens in the order in which they are served."""
    tokens = weights.shape[0]
    if order == "token":
        return np.arange(tokens, dtype=np.int64)
    if order == "priority":
        return np.argsort(-weights[:, 0], kind="stable").astype(np.int64)
    counter = np.zeros((-(-tokens // 4), 4), np.uint32)
    counter[:, 0], counter[:, 3] = np.arange(len(counter)), 0x4D4F4520
    return np.argsort(philox(counter, split_seed(seed)).reshape(-1)[:tokens], kind="stable").astype(np.int64)


def _check(experts: Any, weights: Any, num_experts: int, capacity: int, order: str, seed: int) -> None:
    if order not in ORDERS:
        raise unknown("expert_dispatch: order", order, ORDERS)
    if experts.ndim != 2 or experts.shape[1] == 0:
        raise shape_error("expert_dispatch", "experts", "(T, k) with k of at least 1", experts)
    if weights.shape != experts.shape:
        raise shape_error("expert_dispatch", "weights", f"{tuple(experts.shape)} like the experts", weights)
    if num_experts < 1:
        raise InputError(expected("expert_dispatch: num_experts", "1 or more", num_experts))
    if capacity < 0:
        raise InputError(expected("expert_dispatch: capacity", "0 or more", capacity))
    if experts.size and not 0 <= int(experts.min()) <= int(experts.max()) < num_experts:
        got = f"{int(experts.min())} to {int(experts.max())}"
        raise InputError(expected("expert_dispatch: experts", f"0 to {num_experts - 1}", got))


def _make(rng: np.random.Generator, T: int, k: int, E: int, capacity: int, order: str = "token", ties: int = 0) -> dict[str, Any]:
    weights = rng.random((T, k), dtype=np.float32)
    weights[:ties] = 0.5
    experts = np.argsort(rng.random((T, E)), axis=1)[:, :k].astype(np.int64)
    sizes = {"num_experts": E, "capacity": capacity, "order": order, "seed": int(rng.integers(2**40))}
    return {"experts": experts, "weights": weights, **sizes}


SPEC = Spec(
    name="expert_dispatch",
    title="slot of every routed token under a capacity, and the permutation for grouped products",
    signature="experts (T, k), weights (T, k), E, capacity, order -> slot (T, k), load (E,), offsets (E + 1,), permutation",
    axes={"T": "tokens", "k": "choices", "E": "experts"},
    arrays={"experts": "i", "weights": "f"},
    check=_check,
    make=_make,
    sizes=(
        {"T": 513, "k": 2, "E": 7, "capacity": 99},
        {"T": 1, "k": 1, "E": 1, "capacity": 0},
        {"T": 99, "k": 3, "E": 5, "capacity": 20, "order": "priority", "ties": 50},
        {"T": 99, "k": 2, "E": 64, "capacity": 2, "order": "random"},
        {"T": 0, "k": 2, "E": 3, "capacity": 4},
        {"T": 700, "k": 1, "E": 3, "capacity": 1000},
    ),
    bench={"T": 4096, "k": 2, "E": 32, "capacity": 320},
    flops=lambda T, k, E, capacity, order="token", ties=0: 4.0 * T * k,
    bytes=lambda T, k, E, capacity, order="token", ties=0: T * k * (8.0 + 4 + 8),
    tolerance={"float32": (0.0, 0.0), "float16": (0.0, 0.0), "bfloat16": (0.0, 0.0)},
)
