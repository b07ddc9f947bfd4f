"""Mixtures of experts: what reading the router costs, what a moved limit costs, and what dropping costs in quality.

    python benchmarks/routing.py                           # all of it, a few minutes
    python benchmarks/routing.py --part reader             # or: dispatch, live, quality

Speeds are taken in turn in one process and printed as ratios. Drops and losses do not depend on the machine; times do.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import numpy as np
from plotly.io.json import to_json_plotly

import workbench as wb
from workbench import kernels, models, threads, views
from workbench.data import domains
from workbench.instruments import router
from workbench.meters import interleaved
from workbench.system import device_name
from workbench.systems.routing.openmoe import OpenMoE


def random_mixture(layers: int, experts: int, length: int) -> Any:
    """Return a narrow mixture of random weights: only its sizes matter."""
    import torch
    import transformers

    torch.manual_seed(0)
    config = transformers.OlmoeConfig(
        vocab_size=1000, hidden_size=16, intermediate_size=8, num_hidden_layers=layers, num_attention_heads=2, num_key_value_heads=2,
        num_experts=experts, num_experts_per_tok=2, max_position_embeddings=length, pad_token_id=0, eos_token_id=None,
    )  # fmt: skip
    return transformers.OlmoeForCausalLM(config).eval().requires_grad_(False)


def reader() -> None:
    """Print tokens per second of a model alone and with its routing read and collected, in turn."""
    import torch

    print("reading the router: 8 texts of 128 tokens, medians of 15, in turn")
    for name in ("moe-8", "moe-16"):
        loaded = models.load(name)
        ids = domains.windows("code", lambda text, of=loaded: of.encode(text, chat=False), 8, 128)

        def alone(model: Any = loaded.model, ids: np.ndarray = ids) -> None:
            with torch.inference_mode():
                model(input_ids=torch.from_numpy(ids), use_cache=False)

        def read(model: Any = loaded.model, ids: np.ndarray = ids) -> None:
            router.capture(model, ids)

        found = interleaved({"alone": alone, "read": read}, repeats=15, warmup=3)
        off, on = (ids.size / found[n].median * 1e3 for n in ("alone", "read"))
        print(
            f"  {name:8} alone {off:8.0f} tokens/s, read {on:8.0f} tokens/s: the reader costs {100 * (off / on - 1):5.1f} % more time"
        )


def dispatch() -> None:
    """Print milliseconds of the kernel beside the same slots counted with one-hot cumulative sums."""
    print("expert_dispatch (2 choices, capacity factor 1.25) beside one-hot cumulative sums, ms, medians of 9 in turn")
    rng = np.random.default_rng(0)
    for tokens, experts in ((1_000, 8), (10_000, 64), (100_000, 64), (320_000, 64)):
        expert = np.argsort(rng.random((tokens, experts), dtype=np.float32), 1)[:, :2].astype(np.int16)
        weight = rng.random((tokens, 2), dtype=np.float32)
        most = int(1.25 * 2 * tokens / experts)

        def ours(expert: np.ndarray = expert, weight: np.ndarray = weight, experts: int = experts, most: int = most) -> Any:
            return kernels.expert_dispatch(expert, weight, experts, most).slot

        def plain(expert: np.ndarray = expert, experts: int = experts, most: int = most) -> Any:
            return one_hot_slots(expert, experts, most)

        np.testing.assert_array_equal(ours(), plain())
        found = interleaved({"kernel": ours, "one-hot": plain}, repeats=9, warmup=1)
        fast, slow = found["kernel"].median, found["one-hot"].median
        print(f"  {tokens:7} tokens, {experts:2} experts: kernel {fast:8.3f}, one-hot {slow:8.2f}: {slow / fast:5.1f}x")


def one_hot_slots(expert: np.ndarray, experts: int, most: int) -> np.ndarray:
    """Return the slots as the usual code counts them: a (T, E) table of ones, summed down, for each choice."""
    taken, slots = np.zeros(experts, np.int64), []
    for choice in expert.T:
        ones = choice[:, None] == np.arange(experts)
        rank = np.take_along_axis(ones.cumsum(0) - 1, choice[:, None].astype(np.int64), 1)[:, 0] + taken[choice]
        taken += ones.sum(0)
        slots.append(np.where(rank < most, rank, -1))
    return np.stack(slots, 1).astype(np.int32)


def live(sizes: tuple[tuple[int, int, int], ...] = ((1_000, 4, 16), (10_000, 32, 64))) -> None:
    """Print what a moved capacity factor costs the page: deriving, drawing, and bytes on the wire, for each picture."""
    print("a live limit: tokens x layers x experts, random weights, one text")
    for tokens, layers, experts in sizes:
        ids = np.random.default_rng(0).integers(1, 1000, tokens).tolist()
        system = OpenMoE(model=random_mixture(layers, experts, tokens), text=ids)
        record = system.record()
        system.set(capacity_factor=0.9)
        derive = interleaved({"derive": lambda s=system, r=record: s.rederive(r)}, repeats=7, warmup=2)["derive"].median
        moved = system.rederive(record)
        print(f"  {tokens} x {layers} x {experts}: derive {derive:.1f} ms; then, ms to draw and kB to send:")
        for name in (n for n in system.shows if views.get(n).draws(moved)):
            start = time.perf_counter()
            sent = to_json_plotly(views.get(name).spec(moved, title=False))
            print(f"    {name:20} {1e3 * (time.perf_counter() - start):7.1f} ms {len(sent) / 1e3:8.1f} kB")


def quality(windows: int = 8) -> None:
    """Print drops and the loss they add, with the limit inside the model, for factors and orders."""
    print(f"dropping inside moe-8, {windows} texts of 128 tokens of each kind, own limit for each text; loss in nats a token")
    print(
        f"  {'order':9} {'factor':>6} {'dropped':>8} {'slots':>6} {'perplexity':>11}   loss added: kinds it learnt / kinds it never saw"
    )
    for order in ("token", "priority"):
        for factor in (0.25, 0.5, 1.0, 1.25, 2.0):
            record = wb.run("openmoe", windows=windows, order=order, capacity_factor=factor, progress=False)
            facts = record.group_attrs("curve/drop_quality")
            added = " / ".join(f"{m:+.3f} ± {h:.3f}" for m, h in zip(np.atleast_1d(facts["mean"]), np.atleast_1d(facts["half"])))
            dropped, slots, quality_ = (record.meter(n)["value"] for n in ("dropped_in_the_model", "slots", "perplexity"))
            print(f"  {order:9} {factor:6.2f} {dropped:8.2%} {slots:6.2f} {quality_:11.2f}   {added}", flush=True)
    print(f"  no limit: perplexity {record.meter('perplexity')['baseline']:.2f}")


PARTS = {"reader": reader, "dispatch": dispatch, "live": live, "quality": quality}


def main() -> None:
    """Print every part, or the one that is asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--part", choices=list(PARTS), default="")
    wanted = parser.parse_args().part
    threads.configure()
    print(f"{device_name()}, {threads.wanted()} threads")
    for name in [wanted] if wanted else PARTS:
        PARTS[name]()


if __name__ == "__main__":
    main()
