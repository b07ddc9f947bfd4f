"""Lossless tree decoding of SmolLM2 against the library's own ways, side by side in one process.

    python benchmarks/speculation.py                 # 20 prompts, temperatures 0 and 0.7
    python benchmarks/speculation.py --prompts 5 --assisted    # with the library's slow assisted modes

Every prompt is decoded by every method in turn (A B C A B C ...), so a drifting machine is fair to all; a method's figure
is the median over prompts, a ratio is the median of the ratios prompt by prompt. Prefill is part of every figure.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from workbench import data, meters, models, threads
from workbench.models.drafts import open_session
from workbench.systems.speculation import plan, report
from workbench.systems.speculation.rsd import RSD
from workbench.systems.speculation.tree import prefill
from workbench.tape import NullTape, Tape

NEW_TOKENS = 64
TIE = 1e-3


def prompt_ids(loaded: models.LoadedModel, count: int) -> list[tuple[str, list[int]]]:
    """Return (kind, token ids) of held-out prompts of mixed kinds."""
    return [(p.kind, loaded.encode(p.text, chat=p.chat)) for p in data.prompts(count)]


def library(loaded: models.LoadedModel, temperature: float, **options: Any) -> Callable[[list[int]], list[int]]:
    """Return a decoder that is the library's `generate` with these options."""
    import torch

    sampling = {"do_sample": True, "temperature": temperature, "top_k": 0} if temperature else {"do_sample": False}

    def decode(ids: list[int]) -> list[int]:
        torch.manual_seed(0)
        text = torch.tensor([ids])
        with torch.inference_mode():
            out = loaded.model.generate(
                text, attention_mask=torch.ones_like(text), max_new_tokens=NEW_TOKENS, min_new_tokens=NEW_TOKENS,
                pad_token_id=0, **sampling, **options,
            )  # fmt: skip
        return out[0, len(ids) :].tolist()

    return decode


def ours(
    loaded: models.LoadedModel, temperature: float, tape: type[NullTape] = NullTape, **knobs: Any
) -> Callable[[list[int]], Any]:
    """Return a decoder that is this system with these knobs (no end-of-text stop: every method writes as many tokens)."""

    def decode(ids: list[int]) -> list[int]:
        system = RSD(target=loaded, prompt=ids, temperature=temperature, max_new_tokens=NEW_TOKENS, **knobs)
        system.prepare()
        system._stop_ids = frozenset()
        prefill(system._session, system._draft, system._prompt)
        output = system.decode(tape(), system.method)
        decode.eta.append(len(output.tokens) / output.steps)  # type: ignore[attr-defined]
        decode.gaps = output.gaps  # type: ignore[attr-defined]
        return output.tokens

    decode.eta = []  # type: ignore[attr-defined]
    return decode


def race(decoders: dict[str, Callable[[list[int]], list[int]]], prompts: list[tuple[str, list[int]]]) -> dict[str, list[float]]:
    """Return seconds of every decoder on every prompt, measured in turn; prints what differs from plain greedy."""
    seconds: dict[str, list[float]] = {name: [] for name in decoders}
    outputs: dict[str, list[list[int]]] = {name: [] for name in decoders}
    for decode in decoders.values():
        decode(prompts[0][1])  # compiles and warms up
        getattr(decode, "eta", []).clear()
    for _, ids in prompts:
        for name, decode in decoders.items():
            start = time.perf_counter()
            outputs[name].append(decode(ids))
            seconds[name].append(time.perf_counter() - start)
    race.outputs = outputs  # type: ignore[attr-defined]
    return seconds


def table(title: str, seconds: dict[str, list[float]], decoders: dict[str, Any], base: str, plain: str) -> None:
    """Print tokens/s, ratio to the library's plain generate and to our plain loop, and tokens per target call."""
    print(f"\n{title}\n{'method':<44}{'tokens/s':>9}{'x generate':>12}{'x our plain':>13}{'tokens/call':>13}")
    for name, values in seconds.items():
        rate = np.median([NEW_TOKENS / s for s in values])
        gain = np.median(np.array(seconds[base]) / np.array(values))
        gain_plain = np.median(np.array(seconds[plain]) / np.array(values))
        eta = getattr(decoders[name], "eta", None)
        print(f"{name:<44}{rate:>9.1f}{gain:>12.2f}{gain_plain:>13.2f}{np.mean(eta) if eta else float('nan'):>13.2f}")


def identical(loaded: models.LoadedModel, prompts: list[tuple[str, list[int]]], plain: str, names: list[str]) -> None:
    """Print in how many prompts each method's greedy text is the plain text, and which differences are ties."""
    import torch

    outputs = race.outputs  # type: ignore[attr-defined]
    for name in names:
        same, ties, wrong = 0, 0, 0
        for (_, ids), a, b in zip(prompts, outputs[plain], outputs[name]):
            where = next((i for i, (x, y) in enumerate(zip(a, b)) if x != y), None)
            if where is None:
                same += 1
                continue
            with torch.inference_mode():
                logits = loaded.model(torch.tensor([ids + a[:where]])).logits[0, -1]
            top = logits.topk(2).values
            ties, wrong = (ties + 1, wrong) if float(top[0] - top[1]) < TIE else (ties, wrong + 1)
        print(
            f"{name}: identical to plain greedy on {same} of {len(prompts)} prompts, {ties} differ at a tie (< {TIE:g}), {wrong} differ"
        )


def trees(loaded: models.LoadedModel, temperature: float) -> dict[str, Any]:
    """Return our decoders: plain, the tree chosen by this machine's profile, and fixed trees with each draft."""
    auto = plan.choose(loaded, "int8", temperature)
    best = {"depth": auto.depth, "width": auto.width, "method": "rsd-s"}
    print(
        f"plan for this machine at T={temperature}: depth {auto.depth}, width {auto.width}, predicted {auto.speedup:.2f}x plain"
    )
    decoders = {
        "ours: plain loop, same layout": ours(loaded, temperature, method="autoregressive"),
        f"ours: int8 draft, planned {auto.depth} x {auto.width}": ours(loaded, temperature, draft="int8", **best),
        "ours: int8 draft, rsd-s 3 x 2": ours(loaded, temperature, draft="int8", method="rsd-s", depth=3, width=2),
        "ours: lookup + int8, planned": ours(loaded, temperature, draft="lookup+int8", **best),
        "ours: prompt lookup, chain 7": ours(loaded, temperature, draft="lookup", method="chain", depth=7),
    }
    if any(e.name == "eagle" and e.ready for e in models.available()):
        decoders["ours: trained layer, rsd-s 3 x 2"] = ours(loaded, temperature, draft="eagle", method="rsd-s", depth=3, width=2)
    return decoders


def rivals(loaded: models.LoadedModel, temperature: float, assisted: bool) -> dict[str, Any]:
    """Return the library's decoders: plain generate and its assisted modes."""
    from workbench.models.session import int8_view

    found = {
        "library: generate": library(loaded, temperature),
        "library: prompt lookup": library(loaded, temperature, prompt_lookup_num_tokens=4),
    }
    if assisted:
        found["library: assisted by our int8 model"] = library(loaded, temperature, assistant_model=int8_view(loaded.model))
        found["library: early exit after 8 layers"] = library(loaded, temperature, assistant_early_exit=8)
    return found


def recorder_cost(loaded: models.LoadedModel, prompts: list[tuple[str, list[int]]], repeats: int = 25) -> None:
    """Print how much slower the recording tape is than the null tape, interleaved: by the medians and by the least of each."""
    ids = prompts[-1][1]
    knobs = {"method": "rsd-s", "draft": "int8", "depth": 3, "width": 2}
    quiet, loud = (ours(loaded, 0.7, tape=tape, **knobs) for tape in (NullTape, Tape))
    works = {"null tape": lambda: quiet(ids), "recorder": lambda: loud(ids)}
    found = meters.interleaved(works, repeats=repeats)
    loud_time, quiet_time = found["recorder"], found["null tape"]
    print(
        f"\nrecorder on / null tape: {loud_time.median / quiet_time.median:.3f}x by medians, "
        f"{loud_time.best / quiet_time.best:.3f}x by the least  (null {quiet_time}; recorder {loud_time})"
    )
    inside = [writing_share(lambda: loud(ids)) for _ in range(repeats)]
    print(f"share of a recorded run spent in writing its steps: {np.median(inside):.2%} (median of {repeats})")


def writing_share(work: Callable[[], Any]) -> float:
    """Return the share of the seconds of `work` that goes into writing its steps, which a null tape leaves out."""
    write, spent = report.write_step, [0.0]

    def timed(*args: Any) -> None:
        began = time.perf_counter()
        write(*args)
        spent[0] += time.perf_counter() - began

    began = time.perf_counter()
    report.write_step = timed  # type: ignore[assignment]
    try:
        work()
    finally:
        report.write_step = write
    return spent[0] / (time.perf_counter() - began)


def rows_cost(loaded: models.LoadedModel) -> None:
    """Print the target's forward pass by rows through the shared layer, relative to one row."""
    session = open_session(loaded, 512)
    ids = loaded.encode(plan.PILOT_PROMPT)
    prefill(session, None, [*ids, 0])

    def forward(rows: int) -> None:
        session.forward([5] * rows, [-1] * rows)
        session.keep([])

    counts = (1, 2, 4, 5, 8, 16)
    found = meters.interleaved({str(n): (lambda n=n: forward(n)) for n in counts}, repeats=15, warmup=2)
    one = found["1"].median
    print(
        "\nverification by rows (ms, ratio to one row): "
        + ", ".join(f"{n}: {t.median:.1f} ({t.median / one:.2f}x)" for n, t in found.items())
    )
    draft = session.fork("int8")  # type: ignore[attr-defined]

    def cheap() -> None:
        draft.forward([5], [-1])
        draft.keep([])

    pair = meters.interleaved({"fp32": lambda: forward(1), "int8": cheap}, repeats=21, warmup=2)
    weights = session.weights  # type: ignore[attr-defined]
    for name, size in (("fp32", weights.bytes_per_step), ("int8", draft.weights.bytes_per_step)):
        print(f"{name} step: {pair[name]}, {size / 1e6:.0f} MB of weights, {size / pair[name].median / 1e6:.1f} GB/s")
    print(f"int8 step / fp32 step: {pair['int8'].median / pair['fp32'].median:.3f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=20)
    parser.add_argument(
        "--assisted", action="store_true", help="also the library's slow assisted modes: early exit, our int8 model"
    )
    parser.add_argument("--temperatures", type=float, nargs="*", default=[0.0, 0.7])
    options = parser.parse_args()
    loaded = models.load("smollm2-135m")
    report = threads.report()
    print(f"threads: {report['numba_threads']} (Numba), {report['torch_threads']} (torch), layer {report['layer']}")
    prompts = prompt_ids(loaded, options.prompts)
    rows_cost(loaded)
    recorder_cost(loaded, prompts)
    for temperature in options.temperatures:
        decoders = rivals(loaded, temperature, options.assisted) | trees(loaded, temperature)
        seconds = race(decoders, prompts)
        base, plain = "library: generate", "ours: plain loop, same layout"
        table(f"T = {temperature}, {len(prompts)} prompts x {NEW_TOKENS} tokens", seconds, decoders, base, plain)
        if temperature == 0:
            identical(loaded, prompts, plain, [n for n in decoders if n != plain])


if __name__ == "__main__":
    main()
