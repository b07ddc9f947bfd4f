"""Measure what each kind of text excites in SmolLM2-135M, and train the pre-gating router of Read-ME by distillation.

    python recipes/read_me_router.py          # activations and scores in work/read_me, goes on where it stopped

Six kinds of text (`workbench.data.domains`), training side. First the mean activation of every neuron, then for every token how
much its own top half overlaps with each domain's expert, layer by layer; the router learns the overlaps' softmax from ids alone.
With the paper's loss KL(router || layer's target) summed over layers, only the mean of the scores over layers matters to the
router (the rest is a constant), so that mean is what is kept.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import numpy as np
import torch
from training import Trainer, cosine

from workbench import models
from workbench.data import domains
from workbench.instruments import neurons, taps
from workbench.systems.routing.experts import PreGate, distillation, masks, overlap

DOMAINS = domains.DOMAINS + domains.OUTSIDE
SEED, RATIO, LENGTH = 0, 0.5, 256
HERE = Path(__file__).resolve().parent.parent / "workbench" / "models" / "readme"


def texts(tokenizer: object, count: int, seed: int, held_out: bool = False) -> np.ndarray:
    """Return (domains, count, LENGTH) ids."""
    encode = lambda text: tokenizer.encode(text, verbose=False)  # type: ignore[attr-defined]  # noqa: E731
    return np.stack([domains.windows(d, encode, count, LENGTH, seed=seed, held_out=held_out) for d in DOMAINS])


def kept(path: Path, make: object) -> dict[str, np.ndarray]:
    """Return the arrays of a file, made first if it is not there (written whole or not at all)."""
    if not path.exists():
        partial = path.with_suffix(".partial.npz")
        np.savez(partial, **make())  # type: ignore[operator]
        os.replace(partial, path)
    with np.load(path) as file:
        return {name: file[name] for name in file.files}


def measure_means(model: object, ids: np.ndarray) -> dict[str, np.ndarray]:
    """Return `means` (layer, domain, D)."""
    found = []
    for name, rows in zip(DOMAINS, ids, strict=True):
        print(f"activations: {name}", flush=True)
        found.append(neurons.activation_means(model, rows))
    return {"means": np.stack(found, 1)}


@torch.inference_mode()
def measure_scores(model: object, ids: np.ndarray, means: np.ndarray) -> dict[str, np.ndarray]:
    """Return `scores` (text, position, N) fp32: overlaps with each expert, mean over layers; and `ids` (text, position)."""
    chosen = torch.from_numpy(masks(means, RATIO))
    view, rows = taps.decoder(neurons.view(model)), ids.reshape(-1, ids.shape[-1])
    found = np.zeros((*rows.shape, means.shape[1]), np.float32)
    for i, row in enumerate(rows):
        total = torch.zeros(len(row), means.shape[1])

        def add(layer: int, acts: torch.Tensor, total: torch.Tensor = total) -> None:
            total += overlap(acts[0], chosen[layer])

        with neurons.watching(add):
            view(input_ids=torch.from_numpy(row)[None], use_cache=False)
        found[i] = (total / len(means)).numpy()
        if i % 10 == 0:
            print(f"overlaps: text {i} of {len(rows)}", flush=True)
    return {"scores": found, "ids": rows}


def evaluate(router: PreGate, ids: torch.Tensor, scores: torch.Tensor) -> tuple[float, float, float]:
    """Return the distillation loss, the share of tokens with the target's own expert, and of those with their domain's expert."""
    with torch.inference_mode():
        logits = router.logits(ids)
        loss = distillation(logits.flatten(0, 1), scores.flatten(0, 1)[:, None])
    choice, own = logits.argmax(-1), torch.arange(len(DOMAINS)).repeat_interleave(len(ids) // len(DOMAINS))
    return float(loss), float((choice == scores.argmax(-1)).float().mean()), float((choice == own[:, None]).float().mean())


def main() -> None:
    """Measure, train, write `router.safetensors` with its card."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("work/read_me"))
    parser.add_argument("--out", type=Path, default=HERE)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--windows", type=int, default=24, help="texts of each domain")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    loaded = models.load("smollm2-135m")
    means = kept(args.work / "means.npz", lambda: measure_means(loaded.model, texts(loaded.tokenizer, 12, 1)))["means"]
    train = kept(args.work / "scores.npz", lambda: measure_scores(loaded.model, texts(loaded.tokenizer, args.windows, 2), means))
    test = kept(args.work / "held.npz", lambda: measure_scores(loaded.model, texts(loaded.tokenizer, 4, 3, True), means))
    ids, scores = (torch.from_numpy(train[n]) for n in ("ids", "scores"))
    held = [torch.from_numpy(test[n]) for n in ("ids", "scores")]
    router = PreGate(loaded.model.get_input_embeddings().weight, len(DOMAINS))
    trainer = Trainer(router.module, args.work / "router.safetensors", lr=3e-3, weight_decay=0.01)
    rng = np.random.default_rng(SEED)
    while trainer.step < args.steps:
        rows = torch.from_numpy(rng.integers(0, len(ids), 12))
        loss = distillation(router.logits(ids[rows]).flatten(0, 1), scores[rows].flatten(0, 1)[:, None])
        trainer.update(loss, cosine(trainer.step, args.steps, 3e-3, warmup=30), len(rows) * LENGTH)
        if trainer.step % 50 == 0:
            trainer.save()
            print(
                f"step {trainer.step}: loss {loss.item():.3f}, held out {evaluate(router, *held)}, {trainer.elapsed():.0f} s",
                flush=True,
            )
    trainer.stop()
    trainer.save()
    args.out.mkdir(parents=True, exist_ok=True)
    router.save(args.out / "router.safetensors", means=means)
    write_card(args, trainer, evaluate(router, *held))


def write_card(args: argparse.Namespace, trainer: Trainer, found: tuple[float, float, float]) -> None:
    """Write README.md beside the weights."""
    lines = [
        "# Pre-gating router for SmolLM2-135M",
        "",
        f"{sum(p.numel() for p in trainer.parameters.values()):,} parameters: a projection of SmolLM2's own token embeddings to width 64, one causal transformer layer, one logit",
        f"for each of {len(DOMAINS)} experts ({', '.join(DOMAINS)}). `means`: mean absolute activation (layer, domain, neuron) that the experts are cut by.",
        "",
        "- made by: `python recipes/read_me_router.py`; licence Apache-2.0; text: `workbench.data.domains`, training side",
        f"- activations: 12 texts of {LENGTH} tokens of each domain; distillation: {args.windows} texts of each, {trainer.step} steps of 12 texts, "
        f"{trainer.seen:,} tokens, {trainer.elapsed():.0f} s by the clock on one shared core, seed {SEED}",
        f"- held out (4 texts of each domain): distillation loss {found[0]:.3f} nats, {found[1]:.1%} of the tokens get the expert of largest overlap, "
        f"{found[2]:.1%} that of their own domain",
        "",
    ]
    (args.out / "README.md").write_text("\n".join(lines), encoding="utf-8")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
