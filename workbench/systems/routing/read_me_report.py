"""What a Read-ME run writes: its requests and their routes, what was read, what was timed, and what that says of the paper's claims."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import numpy as np

from workbench.meters import wilson, write_meter
from workbench.systems.routing import experts as cut
from workbench.systems.routing.claims import spread_of_mean, table_of, verdict
from workbench.systems.routing.openmoe_report import curve, joined
from workbench.systems.routing.read_me_serving import LABELS, routed, served_meters, simulated

if TYPE_CHECKING:
    from workbench.systems.routing.read_me import Costs, Reading, ReadMe
    from workbench.tape import Tape

Rows = dict[str, np.ndarray]


# ---- a run --------------------------------------------------------------------------------------------------------------


def write(system: ReadMe, tape: Tape, means: np.ndarray, reading: Reading, costs: Costs) -> None:
    """Write everything that does not depend on the rules of serving."""
    _write_requests(system, tape)
    _write_masks(system, tape, means)
    _write_reading(system, tape, reading)
    _write_costs(system, tape, costs)
    _write_meters(system, tape, reading, costs)
    tape.write("claims", **table_of(_claims(system, reading, costs)))


def _write_requests(system: ReadMe, tape: Tape) -> None:
    """Write the requests' tokens, the routers' choices, and the routing that the knob asks for."""
    ids, kind, prompt, output, gap = system.asked()
    inside = np.arange(ids.shape[1]) < (prompt + output)[:, None]
    text, position = np.nonzero(inside)
    choices = system.choices(ids, kind)
    names = np.array(system._kinds)
    columns: dict[str, Any] = {
        "token_id": ids[inside].astype(np.int32), "position": position.astype(np.int32), "text": text.astype(np.int32),
        "domain": names[kind][text], "piece": np.array(system._loaded.pieces(ids[inside].tolist())),
    }  # fmt: skip
    tape.write(
        "traffic", router=np.array(list(choices)), choice=np.stack([c[inside] for c in choices.values()]), kind=names[kind],
        prompt=prompt.astype(np.int32), output=output.astype(np.int32), gap=gap,
    )  # fmt: skip
    for group, values in routed(columns, choices[system.router][inside], system.experts).items():
        tape.write(group, **values)
    tape.describe("routing", experts=system.experts, router=system.router, names=list(system._kinds))


def _write_masks(system: ReadMe, tape: Tape, means: np.ndarray) -> None:
    chosen = cut.masks(means, system.keep)
    tape.write(
        "masks", name=np.array(system._kinds), shared=cut.shared_share(chosen).astype(np.float32),
        permanent=cut.permanent(chosen).mean(-1).astype(np.float32), kept=chosen.mean(-1).astype(np.float32),
    )  # fmt: skip
    tape.describe("masks", keep=float(system.keep))


def _write_reading(system: ReadMe, tape: Tape, reading: Reading) -> None:
    """Write perplexities by kind of text and reader, the study of shares, and what each layer would choose."""
    rows = [
        (kind, name, *_perplexity(losses[i * system.windows : (i + 1) * system.windows]))
        for name, losses in reading.losses.items()
        for i, kind in enumerate(system._kinds)
    ]
    rows += [("all kinds", name, *_perplexity(losses, system.experts)) for name, losses in reading.losses.items()]
    names = ("kind", "reader", "value", "low", "high")
    tape.write("perplexity", **{n: np.array([r[i] for r in rows]) for i, n in enumerate(names)})
    if reading.sweep:
        points = [curve(name, ratio, *_perplexity(losses, system.experts)) for (name, ratio), losses in reading.sweep.items()]
        tape.write("curve/keep", **joined(points))
        dense = reading.losses["dense"][:: system.windows]
        tape.describe("curve/keep", **LABELS["curve/keep"], dense=_perplexity(dense)[0], keep=float(system.keep))
    tape.write("curve/layer_choice", **joined(_layer_curves(system, reading)))
    tape.describe("curve/layer_choice", **LABELS["curve/layer_choice"])


def _perplexity(losses: np.ndarray, kinds: int = 1) -> tuple[float, float, float]:
    """Return exp of the mean loss of (B, T - 1) nats, with a 95 % interval over texts (NaN where a kind has one text).

    Args:
        kinds: how many kinds of text, one after the other; they are given, so only texts of one kind vary.
    """
    from scipy.stats import t

    each = losses.mean(1).reshape(kinds, -1)
    count = each.shape[1]
    wide = float(t.ppf(0.975, kinds * (count - 1))) if count > 1 else np.nan
    half = wide * float((each.var(1, ddof=1) / count).sum() ** 0.5) / kinds if count > 1 else np.nan
    mean = each.mean()
    return float(np.exp(mean)), float(np.exp(mean - half)), float(np.exp(mean + half))


def _gate(system: ReadMe) -> tuple[str, np.ndarray]:
    """Return (name, choice (B, T)) of the router that the layers' own choices are compared with."""
    ids = system._texts.reshape(-1, system.length)
    found = system.choices(ids, np.repeat(np.arange(system.experts), system.windows))
    return next(iter(found.items()))


def _layer_curves(system: ReadMe, reading: Reading) -> list[Rows]:
    """Return, by layer: tokens whose own best expert is the router's, is the layer before's, is the layer's commonest."""
    own = reading.own_choice
    name, choice = _gate(system)
    layers = np.arange(len(own))
    share = [_over_texts(o == choice) for o in own]
    before = [_over_texts(a == b) for a, b in itertools.pairwise(own)]
    common = [float(np.bincount(o.ravel().astype(np.int64)).max() / o.size) for o in own]
    return [
        curve(f"the {name} router's choice", layers, *np.array(share).T),
        curve("the layer before's own choice", layers[1:], *np.array(before).T),
        curve("always the layer's commonest", layers, common),
    ]


def _over_texts(hit: np.ndarray) -> tuple[float, float, float]:
    """Return mean and 95 % interval over texts of a (B, T) share; the interval is NaN for one text."""
    each = hit.mean(1)
    half = spread_of_mean(each[:, None])[0]
    return float(each.mean()), float(np.maximum(0.0, each.mean() - half)), float(np.minimum(1.0, each.mean() + half))


def _write_costs(system: ReadMe, tape: Tape, costs: Costs) -> None:
    sizes = np.array(list(costs.whole), np.int32)
    whole, dense, expert = (np.array([t.median for t in part.values()]) for part in (costs.whole, costs.dense, costs.expert))
    tape.write("service", tokens=sizes, rest_ms=np.maximum(0.0, whole - dense), expert_ms=expert, dense_ms=dense)
    router = 0.0 if costs.router is None else costs.router.median / 256
    tape.describe("service", layers=len(costs_layers(system)), router_ms_per_token=router)
    tape.write(
        "loads", name=np.array(system._kinds), bytes=np.array(costs.bytes, np.int64), copied_ms=np.array([t.median for t in costs.copies]),
        copied_low=np.array([t.p10 for t in costs.copies]), copied_high=np.array([t.p90 for t in costs.copies]),
        simulated_ms=simulated(np.array(costs.bytes), system.bandwidth),
    )  # fmt: skip
    tape.describe("loads", bandwidth=float(system.bandwidth))


def costs_layers(system: ReadMe) -> list[Any]:
    """Return the feed-forward layers of the run's model."""
    from workbench.instruments import neurons

    return neurons.feed_forward(system._loaded.model)


def _write_meters(system: ReadMe, tape: Tape, reading: Reading, costs: Costs) -> None:
    """Write what was measured; the meters of serving come first, empty, for `derive` to fill."""
    served = served_meters()
    for meter in served[:-1]:
        write_meter(tape, **meter)
    dense = reading.losses["dense"]
    value, low, high = _perplexity(reading.losses[system.router], system.experts)
    write_meter(
        tape, "perplexity", value, "held-out text", kind="quality", better="lower", baseline=_perplexity(dense)[0], baseline_name="the dense model",
        spread=(low, high), samples=dense.size,
    )  # fmt: skip
    write_meter(tape, **served[-1])
    one, many = costs.expert[1], costs.expert[256]
    write_meter(
        tape, "expert_of_one_token", one.median, "ms, all layers", kind="speed", better="lower", baseline=costs.dense[1].median,
        baseline_name="dense feed-forward layers, in turn", spread=(one.p10, one.p90), samples=one.count,
    )  # fmt: skip
    write_meter(
        tape, "expert_of_256_tokens", many.median, "ms, all layers", kind="speed", better="lower", baseline=costs.dense[256].median,
        baseline_name="dense feed-forward layers, in turn", spread=(many.p10, many.p90), samples=many.count,
    )  # fmt: skip
    if costs.router is not None:
        write_meter(
            tape, "router_of_256_tokens", costs.router.median, "ms", kind="cost", better="lower", baseline=costs.whole[256].median,
            baseline_name="the whole model", spread=(costs.router.p10, costs.router.p90), samples=costs.router.count,
        )  # fmt: skip
    total = sum(p.numel() for p in system._loaded.model.parameters())
    held = sum(p.numel() for block in costs_layers(system) for p in block.parameters())
    write_meter(
        tape, "active_parameters", (total - held * (1 - system.keep)) / 1e6, "M per token", kind="cost", better="lower", provenance="derived",
        baseline=total / 1e6, baseline_name="the dense model",
    )  # fmt: skip


# ---- claims that a run settles ----------------------------------------------------------------------------------------------


def _claims(system: ReadMe, reading: Reading, costs: Costs) -> list[tuple[Any, ...]]:
    """Return what reading and timing say about the paper's statements."""
    own, (name, choice) = reading.own_choice, _gate(system)
    agree = _over_texts((own == choice).mean(0))
    common = float(np.mean([np.bincount(o.ravel().astype(np.int64)).max() / o.size for o in own]))
    rows: list[tuple[Any, ...]] = [(
        "one choice serves all layers", f"layers whose own best expert is the {name} router's, mean over tokens (holds above 1/2)", *agree, common,
        "always a layer's commonest", verdict(agree[1] > 0.5, agree[2] < 0.5),
    )]  # fmt: skip
    same = choice[:, 1:] == choice[:, :-1]
    law = np.bincount(choice.ravel().astype(np.int64)) / choice.size
    keeps = _over_texts(same)
    rows.append((
        "the next token keeps its expert", "tokens with the expert of the one before (holds above 1/2; the paper reports 0.71, unverified)", *keeps,
        float((law**2).sum()), "independent draws", verdict(keeps[1] > 0.5, keeps[2] < 0.5),
    ))  # fmt: skip
    losses = {n: x.mean(1) for n, x in reading.losses.items()}
    own_expert = losses["domain"]
    rows.append(
        _of_texts(
            "a kind's own expert reads it best",
            "texts that it reads better than another kind's expert",
            own_expert < losses["another kind's"],
        )
    )
    rows.append(
        _of_texts(
            "activations choose better neurons than chance",
            "texts that its neurons read better than random ones",
            own_expert < losses["random neurons"],
        )
    )
    if name != "domain":
        near = losses[name] < own_expert + np.log(1.05)
        rows.append(
            _of_texts(
                "the router is as good as knowing the kind",
                f"texts whose perplexity with the {name} router is at most 5 % over that with the kind known",
                near,
            )
        )
    if costs.router is not None:
        share = costs.router.median / costs.whole[256].median
        ends = (costs.router.p10 / costs.whole[256].median, costs.router.p90 / costs.whole[256].median)
        rows.append((
            "the router costs next to nothing", "its time over the model's, 256 tokens (holds below 0.02; the paper reports 0.004, unverified)", share, *ends, 1.0,
            "the model itself", verdict(ends[1] < 0.02, ends[0] > 0.02),
        ))  # fmt: skip
    return rows


def _of_texts(claim: str, measure: str, holds: np.ndarray) -> tuple[Any, ...]:
    """Return a claim that is true of a share of the texts (B,) bool."""
    low, high = wilson(int(holds.sum()), len(holds))
    return (
        claim,
        f"{measure} (holds above 1/2)",
        float(holds.mean()),
        low,
        high,
        0.5,
        "no difference",
        verdict(low > 0.5, high < 0.5),
    )
