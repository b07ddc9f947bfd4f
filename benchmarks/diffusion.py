"""Parallel decoding of masked-diffusion models on this machine: seconds, rounds, and what exploring saves and costs.

    python benchmarks/diffusion.py

Ratios are taken in turn in one process. Rounds and sequences do not depend on the machine; times do.
"""

from __future__ import annotations

import argparse
import time

import numpy as np

from workbench import kernels, threads
from workbench.meters import interleaved
from workbench.system import device_name
from workbench.systems.diffusion import problems
from workbench.systems.diffusion.bits_to_rounds import BitsToRounds
from workbench.systems.diffusion.decode import Plain, decode
from workbench.systems.diffusion.rules import Rule, look_at
from workbench.tape import NullTape


def batch_of_samples(count: int) -> None:
    """Print the seconds of `count` held-out prompts in one batch, for three tasks and two rules."""
    print(f"{count} samples of TinyMDM in one batch")
    for task, items in (("shuffle", 6), ("arithmetic", 8), ("sentences", 4)):
        problem = problems.make("tiny-mdm", task, items, count, 0)
        problems.warm_up(problem)
        for rule in (Rule("static", 1), Rule("factor")):
            start = time.perf_counter()
            out = decode(problem.canvas, problem.start, Plain(problem.canvas, rule, np.random.default_rng(0), 0.0))
            seconds = time.perf_counter() - start
            right = 100 * problem.right(out.tokens).mean()
            print(f"  {task:11} {rule.name:7} {seconds:6.2f} s, {out.rounds.mean():5.2f} rounds, {right:5.1f} % right")


def exploring(count: int) -> None:
    """Print rounds, sequences, time and right answers of the factor rule with K candidates."""
    for task, items, model in (("sentences", 4, "tiny-mdm"), ("arithmetic", 8, "tiny-mdm"), ("", 4, "joint-soft")):
        print(f"exploring, {task or model}, f = 1, {count} samples (our reconstruction)")
        base = None
        for k in (1, 2, 4, 8):
            knobs = {"task": task, "items": items} if task else {}
            system = BitsToRounds(model=model, candidates=k, num_samples=count, temperature=0.0, study=False, **knobs)
            system.prepare()
            problems.warm_up(system._problem)
            out = system.decode(NullTape(), system.stepper())
            rounds, sequences, ms = out.rounds.mean(), out.sequences.sum(0).mean(), out.wall_ms.sum() / count
            base = base or (rounds, sequences, ms)
            right = 100 * system._problem.right(out.tokens).mean()
            ratios = f"rounds x{rounds / base[0]:.2f}, sequences x{sequences / base[1]:.2f}, time x{ms / base[2]:.2f}"
            print(f"  K = {k}: {rounds:5.2f} rounds, {sequences:6.2f} sequences, {right:5.1f} % right ({ratios})")


def chain(length: int) -> None:
    """Print the seconds of one round of the exact chain of real text."""
    problem = problems.make("plays-chain", "shuffle", 1, 1, 0, text="to be or not to be, that is the ", length=length)
    rows = np.zeros(1, np.int64)
    work = {"forward": lambda: problem.canvas.forward(problem.start, rows)}
    print(f"exact chain of the plays, n = {length}: one round {interleaved(work, repeats=5)['forward'].median / 1e3:.3f} s")


def statistics() -> None:
    """Print the row statistics of a look, beside softmax, top-2 and entropy by numpy."""
    problem = problems.make("tiny-mdm", "sentences", 4, 100, 0)
    logits = problem.canvas.forward(problem.start, np.arange(100))
    masked = problem.start == problem.canvas.mask_id

    def plain() -> None:
        rows = logits[masked].astype(np.float64)
        law = np.exp(rows - rows.max(1, keepdims=True))
        law /= law.sum(1, keepdims=True)
        np.sort(law, axis=1)[:, -2:]
        np.where(law > 0, -law * np.log(np.maximum(law, 1e-300)), 0).sum(1)

    look_at(logits, masked, False)
    with kernels.used() as used:
        look_at(logits, masked, False)
    found = interleaved({"kernel": lambda: look_at(logits, masked, False), "numpy": plain}, repeats=9)
    ratio = found["numpy"].median / found["kernel"].median
    print(f"statistics of {int(masked.sum())} rows of {logits.shape[-1]}: kernel ({dict(used)}) {ratio:.1f}x numpy")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=200)
    args = parser.parse_args()
    threads.configure()
    print(f"{device_name()}, {threads.wanted()} threads")
    batch_of_samples(args.samples)
    chain(256)
    exploring(100)
    statistics()


if __name__ == "__main__":
    main()
