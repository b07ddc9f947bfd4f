"""Two opinions on every pixel's depth, and how ProDepth joins them: distributions, dynamic probability, PCVM.

Everything is elementwise on (D, h, w) volumes or (h, w) maps, in numpy, in milliseconds: a slider waits for it.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from workbench.systems.geometry.volume import Volume

EPSILON = 1e-7
AWAY = 3  # bins around the minimum in which a second one does not count


def min_max(a: np.ndarray) -> np.ndarray:
    """Return values scaled to [0, 1] over the depths of each pixel."""
    low = a.min(0)
    out = a - low
    out *= 1 / (a.max(0) - low + np.float32(EPSILON))
    return out


def matching_law(cost: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    """Return p_cv before its min-max: softmax over depths of -min_max(cost) / temperature, (D, h, w) fp32.

    Source:
        arXiv 2407.09303 section 3.3; the released code scales costs to [0, 1] first.
    """
    weight = min_max(cost)
    weight *= np.float32(-1 / temperature)
    np.exp(weight, out=weight)
    weight *= 1 / weight.sum(0)
    return weight


def single_law(depths: np.ndarray, depth: np.ndarray, sigma: np.ndarray) -> np.ndarray:
    """Return p_s before its min-max: a Gaussian around the single-frame depth, (D, h, w) fp32, 1 at the nearest candidate.

    The factor 1 / sigma is left out: the min-max that follows would cancel it. Scaled to its greatest value before the
    exponential, or a narrow law between two candidates would be 0 at all of them and name no depth.
    """
    away = depths[:, None, None] - depth.astype(np.float32)
    away *= 1 / sigma.astype(np.float32)
    away *= away
    away -= away.min(0)
    away *= np.float32(-0.5)
    return np.exp(away, out=away)


def dynamic_probability(
    single: np.ndarray, other: np.ndarray, beta: float, *, form: str = "paper", unit: float = 1.0
) -> np.ndarray:
    """Return U (h, w) in [0, 1): how surely two depths contradict each other.

    Args:
        single, other: m. beta: a network unit's worth of disagreement. unit: metres of a network unit.
        form: "paper", 1 - exp(-beta |dD|); "code", which multiplies by exp(-b |d(1/D)|) and uses b = 2/3 where the paper has 0.6.
    Source:
        arXiv 2407.09303 eq. of U; the released code differs.
    """
    one, two = single / unit, other / unit
    if form == "paper":
        return 1 - np.exp(-beta * np.abs(one - two))
    rate = beta * (2 / 3) / 0.6
    return 1 - np.exp(-rate * (np.abs(one - two) + np.abs(1 / one - 1 / two)))


def fuse(p_cv: np.ndarray, p_s: np.ndarray, u: np.ndarray) -> np.ndarray:
    """Return p_cv^(1-U) p_s^U, elementwise, of laws no smaller than `EPSILON`.

    After its min-max either law is 0 somewhere. Without the floor one opinion's 0 would veto the other's best depth, and where
    they share none the product names no depth at all.
    """
    return np.exp((1 - u) * np.log(np.maximum(p_cv, EPSILON)) + u * np.log(np.maximum(p_s, EPSILON)))


def pcvm(
    cost: np.ndarray, p_cv: np.ndarray, p_s: np.ndarray, u: np.ndarray, gamma: float, *, everywhere: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Return (P, C'), both (D, h, w): the fused law, scaled to 1 at its peak, and the cost volume that it stands for.

    Args:
        cost: raw. p_cv, p_s: in [0, 1] over depths, after min-max. u: (h, w).
        gamma: the product is taken where U >= gamma (the code), or `everywhere` (the paper's formula).
    Source:
        arXiv 2407.09303 section 3.3, eq. of the probabilistic cost volume modulation.
    """
    where = np.ones(u.shape, bool) if everywhere else u >= gamma
    law = p_cv.copy()
    product = fuse(p_cv[:, where], p_s[:, where], u[where].astype(np.float32))
    product *= 1 / product.max(0, initial=EPSILON)  # small where the two hardly meet: C' must span what C spans
    law[:, where] = product
    low, high = cost.min(0), cost.max(0)
    top = law.max(0)
    back = top - law
    back *= (high - low) / np.maximum(top - law.min(0), np.float32(EPSILON))
    back += low
    return law, back


def lowest(cost: np.ndarray) -> np.ndarray:
    """Return the depth of the smallest cost, the first of equals, (h, w) int64."""
    from workbench.systems.geometry import loops

    best = np.empty(cost.shape[1:], np.int64)
    loops.lowest(cost, best)
    return best


def cheapest(cost: np.ndarray, valid: np.ndarray, depths: np.ndarray) -> np.ndarray:
    """Return the depth of the smallest cost, (h, w) fp32; NaN where no depth could be compared."""
    return np.where(valid.any(0), depths[lowest(cost)], np.nan).astype(np.float32)


class Doubt(NamedTuple):
    """What a volume says of its own reliability, (h, w) each.

    Attributes:
        entropy: of the softmax, share of ln D. peak_ratio: smallest cost over the smallest one more than three bins away
            (near 1: two matches are as good). margin: 1 - peak_ratio. p_max: greatest probability. lowest: smallest cost.
        curvature: second difference of the cost at its minimum. spread: standard deviation of depth under the softmax, m.
    """

    entropy: np.ndarray
    peak_ratio: np.ndarray
    margin: np.ndarray
    p_max: np.ndarray
    lowest: np.ndarray
    curvature: np.ndarray
    spread: np.ndarray


def doubt(volume: Volume, law: np.ndarray) -> Doubt:
    """Return the uncertainty measures of a volume and its softmax."""
    from workbench.systems.geometry import loops

    cost, count = volume.cost, len(volume.depths)
    best = lowest(cost)
    y, x = np.ogrid[: best.shape[0], : best.shape[1]]
    least = cost[best, y, x]
    second, entropy, mean, square = (np.empty(best.shape, np.float32) for _ in range(4))
    loops.second_lowest(cost, best, AWAY, second)
    loops.moments(law, volume.depths, entropy, mean, square)
    ratio = np.where(np.isfinite(second), (least + EPSILON) / (second + EPSILON), 1.0)
    inner = np.clip(best, 1, count - 2)
    curvature = cost[inner - 1, y, x] - 2 * cost[inner, y, x] + cost[inner + 1, y, x] if count > 2 else np.zeros(best.shape)
    spread = np.sqrt(np.maximum(square - mean**2, 0))
    return Doubt(entropy / np.log(count), ratio, 1 - ratio, law.max(0), least, curvature, spread)


def unreliable(single: np.ndarray, argmin_depth: np.ndarray) -> np.ndarray:
    """Return ManyDepth's mask (h, w) bool: one of the two depths is at least twice the other.

    Source:
        arXiv 2104.14540, consistency mask.
    """
    with np.errstate(invalid="ignore"):
        return ((argmin_depth - single) / single >= 1) | ((single - argmin_depth) / argmin_depth >= 1)


def loss_weight(u: np.ndarray, gamma: float) -> np.ndarray:
    """Return w = (1 - U) [U < gamma], the weight of a pixel in the self-supervised loss."""
    return np.where(u < gamma, 1 - u, 0)


def reweighted(error: np.ndarray, weight: np.ndarray) -> float:
    """Return sum(w pe) / sum(w) over the pixels whose error is known: the self-supervised loss; NaN where no weight is left.

    Args:
        error: (h, w) photometric error, NaN unknown. weight: (h, w) of `loss_weight`.
    Source:
        arXiv 2407.09303, loss reweighting by 1 - U.
    """
    known = np.isfinite(error)
    total = float(weight[known].sum())
    return float((weight[known] * error[known]).sum() / total) if total else float("nan")
