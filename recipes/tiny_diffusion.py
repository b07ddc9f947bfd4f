"""Train TinyMDM, a masked diffusion model, and TinyAR, its equal that writes left to right, on tasks with known laws.

    python recipes/tiny_diffusion.py                     # both, seed 0; checkpoints in work/tiny_diffusion, goes on where it stopped
    python recipes/tiny_diffusion.py --seed 1 --only mdm

Loss of the masked model, in its count form: hide l of the answer's L tokens, l uniform over 1..L, and take the mean
cross-entropy of the hidden ones; times L that is the bound on the answer's negative log-likelihood. Every step sees list
operations, sums and sentences. What is shipped is a running mean of the weights.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from training import Trainer

from workbench.data import parallel_tasks as tasks
from workbench.models.tiny import Shape, TinyTransformer, config, layout

#: Sequences of each kind in a step, and how often each list operation is drawn.
MIX = {"lists": 64, "arithmetic": 32, "sentences": 20}
WEIGHT = {"copy": 0.4, "reverse": 1.5, "sort": 2, "replace_index": 1.2, "insert_index": 1.5, "remove_index": 1.5, "shuffle": 3, "replace_random": 1, "insert_random": 1, "remove_random": 1}  # fmt: skip
ITEMS = {3: 1, 4: 2, 5: 2, 6: 5, 7: 2, 8: 3}
STEPS = {"mdm": 6500, "ar": 2200}
FINISH = 0.4  # share of the steps over which the learning rate falls to nothing


def pick(weights: dict, rng: np.random.Generator):
    """Return one key, drawn by its weight."""
    keys = list(weights)
    share = np.array([weights[k] for k in keys], float)
    return keys[rng.choice(len(keys), p=share / share.sum())]


def draws(rng: np.random.Generator, progress: float) -> list[tasks.Batch]:
    """Return one step's exercises: list operations of one size, chains of one length, stories of one length."""
    size = pick(ITEMS, rng)
    counts: dict[str, int] = {}
    for _ in range(8):
        task = pick(WEIGHT, rng)
        counts[task] = counts.get(task, 0) + MIX["lists"] // 8
    found = [tasks.draw(task, size, count, rng, held=False) for task, count in counts.items()]
    steps = int(rng.integers(1, 3)) if progress < 0.15 else int(rng.integers(1, 9))
    found.append(tasks.draw("arithmetic", steps, MIX["arithmetic"], rng, held=False, largest=2 if progress < 0.1 else 5))
    found.append(tasks.draw("sentences", int(rng.integers(1, 5)), MIX["sentences"], rng))
    return found


def rows(batch: tasks.Batch, length: int) -> torch.Tensor:
    """Return prompts and answers (B, P + length), the answers filled up with `<eos>`."""
    tail = np.full((len(batch), length - batch.answer.shape[1]), tasks.EOS_ID)
    return torch.from_numpy(np.concatenate([batch.prompt, batch.answer, tail], 1))


def grouped(found: list[tasks.Batch], rng: np.random.Generator) -> list[tuple[torch.Tensor, np.ndarray, int, bool]]:
    """Return (ids, a prompt, prompt length, "arithmetic") of each call of the model: all list operations in one."""
    lists = [b for b in found if b.task in tasks.LISTS]
    length = max(b.answer.shape[1] for b in lists) + int(rng.integers(1, 3))
    calls = [(torch.cat([rows(b, length) for b in lists]), lists[0].prompt[0], lists[0].prompt.shape[1], False)]
    for b in found:
        if b.task not in tasks.LISTS:
            long = b.answer.shape[1] + int(rng.integers(1, 4))
            calls.append((rows(b, long), b.prompt[0], b.prompt.shape[1], b.task == "arithmetic"))
    return calls


def masks(count: int, length: int, suffixes: bool, rng: np.random.Generator) -> torch.Tensor:
    """Return which answer tokens are hidden (B, L): l of them, l spread evenly over 1..L; half of the sums lose a suffix."""
    hidden = 1 + np.floor(((np.arange(count) + rng.random()) / count) * length).astype(int)
    order = rng.random((count, length))
    if suffixes:
        order[::2] = -np.arange(length)
        hidden = rng.permutation(hidden)
    return torch.from_numpy(np.argsort(np.argsort(order, 1), 1) < hidden[:, None])


def masked_loss(model: TinyTransformer, found: list[tasks.Batch], rng: np.random.Generator) -> torch.Tensor:
    """Return the mean over sequences of the mean cross-entropy of their hidden tokens, nats."""
    losses, count = [], 0
    for ids, prompt, before, sums in grouped(found, rng):
        length = ids.shape[1] - before
        mask = F.pad(masks(len(ids), length, sums, rng), (before, 0))
        hidden = model.hidden(ids.masked_fill(mask, tasks.MASK_ID), *layout(prompt, length))
        each = F.cross_entropy(model.logits(hidden[mask]), ids[mask], reduction="none")
        losses.append((each / mask.sum(1).repeat_interleave(mask.sum(1))).sum())
        count += len(ids)
    return torch.stack(losses).sum() / count


def causal_loss(model: TinyTransformer, found: list[tasks.Batch], rng: np.random.Generator) -> torch.Tensor:
    """Return the mean cross-entropy of the answers' tokens, each given all before it, nats."""
    losses, count = [], 0
    for ids, prompt, before, _ in grouped(found, rng):
        length = ids.shape[1] - before
        hidden = model.hidden(ids, *layout(prompt, length))[:, before - 1 : -1]
        logits = model.logits(hidden)
        losses.append(F.cross_entropy(logits.flatten(0, 1), ids[:, before:].flatten(), reduction="sum") / length)
        count += len(ids)
    return torch.stack(losses).sum() / count


def rate(step: int, steps: int, peak: float) -> float:
    """Return the learning rate: forty steps up, constant, then down in a line."""
    return peak * min(1.0, (step + 1) / 40, max(0.0, (steps - step) / (FINISH * steps)))


class RunningMean:
    """A running mean of a module's weights, kept beside the trainer's checkpoint."""

    def __init__(self, module: torch.nn.Module, path: Path, decay: float = 0.995) -> None:
        self.path, self.decay = path, decay
        self.weights = load_file(path) if path.exists() else {n: p.detach().clone() for n, p in module.named_parameters()}

    @torch.no_grad()
    def update(self, module: torch.nn.Module) -> None:
        for name, p in module.named_parameters():
            self.weights[name].lerp_(p, 1 - self.decay)

    def save(self) -> None:
        partial = self.path.with_suffix(".partial")
        save_file(self.weights, partial)
        partial.replace(self.path)

    def module(self, shape: Shape) -> TinyTransformer:
        """Return a model with these weights."""
        model = TinyTransformer(shape)
        model.load_state_dict(self.weights)
        return model.eval()


# ---- held-out figures ------------------------------------------------------------------------------------------------


@torch.inference_mode()
def written(model: TinyTransformer, batch: tasks.Batch, temperature: float, rng: torch.Generator) -> np.ndarray:
    """Return the model's answers (B, L), one token at a time: most confident first, left to right for TinyAR, at random when hot."""
    length, before, rows_ = batch.answer.shape[1], batch.prompt.shape[1], torch.arange(len(batch))
    prompt = torch.from_numpy(batch.prompt)
    places, segments = layout(batch.prompt[0], length + 1)
    ids = torch.cat([prompt, torch.full((len(batch), length), tasks.MASK_ID), torch.full((len(batch), 1), tasks.EOS_ID)], 1)
    for step in range(length):
        if model.shape.causal:
            end = before + step
            logits = model.logits(model.hidden(ids[:, :end], places[:end], segments[:end])[:, -1:])
            place = torch.zeros(len(batch), dtype=torch.long)
        else:
            logits = model.logits(model.hidden(ids, places, segments)[:, before:-1])
        logits[..., tasks.MASK_ID] = -torch.inf
        law = logits.softmax(-1)
        if not model.shape.causal:
            score = torch.rand(law.shape[:2], generator=rng) if temperature else law.amax(-1)
            place = score.masked_fill(ids[:, before:-1] != tasks.MASK_ID, -1.0).argmax(1)
        chosen = law[rows_, place]
        token = torch.multinomial(chosen, 1, generator=rng)[:, 0] if temperature else chosen.argmax(-1)
        ids[rows_, before + (step if model.shape.causal else place)] = token
    return ids[:, before:-1].numpy()


def accuracy(model: TinyTransformer, count: int, seed: int, full: bool) -> dict[str, float]:
    """Return the share of right answers to held-out prompts by task, one token at a time, greedy and at temperature 1."""
    rng, random = np.random.default_rng([seed, 77]), torch.Generator().manual_seed(seed)
    sizes = {t: (6, 8) if full and t in tasks.LISTS else (6,) for t in tasks.LISTS} | {"arithmetic": (3, 6), "sentences": (2, 3)}
    found: dict[str, float] = {}
    for task, each in sizes.items():
        for size in each:
            batch = tasks.draw(task, size, count, rng, held=True)
            for temperature in (0, 1) if task in (*tasks.FREE, "sentences") else (0,):
                answers = written(model, batch, temperature, random)
                right = [tasks.is_right(task, p, a) for p, a in zip(batch.prompt, answers, strict=True)]
                found[f"{task} {size}" + (" sampled" if temperature else "")] = float(np.mean(right))
    return found


def train(kind: str, seed: int, args: argparse.Namespace) -> tuple[Trainer, RunningMean, Shape]:
    """Return the trained model and the running mean of its weights, going on from the last checkpoint."""
    shape = Shape(causal=kind == "ar")
    torch.manual_seed(seed)
    model = TinyTransformer(shape)
    for table in (model.words, model.places, model.segments):
        torch.nn.init.normal_(table.weight, std=0.5 if table is not model.words else shape.width**-0.5)
    trainer = Trainer(
        model,
        args.work / f"{kind}_{seed}.safetensors",
        lr=args.rate,
        muon=5.0,
        of_muon=lambda name: "blocks." in name,
        fp32=True,
        weight_decay=0.01,
    )
    mean = RunningMean(model, args.work / f"{kind}_{seed}_mean.safetensors")
    loss_of, steps, total = (causal_loss if kind == "ar" else masked_loss), args.steps or STEPS[kind], 0.0
    while trainer.step < steps:
        rng = np.random.default_rng([seed, trainer.step])
        loss = loss_of(model, draws(rng, trainer.step / steps), rng)
        trainer.update(loss, rate(trainer.step, steps, args.rate), sum(MIX.values()))
        mean.update(model)
        total = 0.98 * total + 0.02 * float(loss.detach())
        if trainer.step % 250 == 0 or trainer.step == steps:
            found = accuracy(mean.module(shape), 50, 10**6, False) if trainer.step % 500 == 0 else {}
            shown = {k: round(100 * v) for k, v in found.items()}
            print(
                f"{kind} {seed} step {trainer.step}/{steps}: loss {total:.3f}, held out % {shown}, {trainer.elapsed():.0f} s",
                flush=True,
            )
            trainer.save()
            mean.save()
    trainer.stop()
    return trainer, mean, shape


def ship(kind: str, seed: int, trainer: Trainer, mean: RunningMean, shape: Shape, out: Path) -> None:
    """Write weights, configuration and card."""
    found = accuracy(mean.module(shape), 400, 2 * 10**6, True)
    folder = out / f"{kind}_{seed}"
    partial = folder.with_suffix(".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    save_file(mean.weights, partial / "model.safetensors")
    (partial / "config.json").write_text(json.dumps(config(shape), indent=1) + "\n")
    name = "TinyAR" if shape.causal else "TinyMDM"
    does = "writes left to right, the equal of TinyMDM" if shape.causal else "fills masks in any order (masked diffusion)"
    figures = [f"| {task} | {100 * value:.1f} |" for task, value in found.items()]
    lines = [
        f"# {name}, seed {seed}",
        "",
        f"A transformer of {sum(w.numel() for w in mean.weights.values()):,} parameters that {does}: list operations, chains of sums,",
        "templated sentences (`workbench.data.parallel_tasks`). It knows nothing else. fp32 weights.",
        "",
        f"- made by: `python recipes/tiny_diffusion.py --seed {seed}`; licence Apache-2.0; all data is made by the program",
        f"- training: {trainer.step} steps, {trainer.seen:,} sequences, {trainer.elapsed():.0f} s by the clock on one shared core; "
        "AdamW, and Muon for the layers' matrices; a running mean of the weights",
        "- one prompt in ten of lists and sums was never trained on; sentences have 32 prompts in all, none held out",
        "",
        "Right answers to held-out prompts, one token at a time, 400 each, the last `<eos>` given (items, steps or sentences",
        "after the name; greedy, most confident first; *sampled*: temperature 1, order at random; any permutation counts as a shuffle).",
        "",
        "| task | % right |",
        "|---|---|",
        *figures,
        "",
    ]
    (partial / "README.md").write_text("\n".join(lines), encoding="utf-8")
    shutil.rmtree(folder, ignore_errors=True)
    partial.replace(folder)
    print(json.dumps({f"{kind}_{seed}": {k: round(100 * v, 1) for k, v in found.items()}}), flush=True)


def main() -> None:
    """Train, print held-out accuracies, write the checkpoints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=["mdm", "ar"], help="one of the two")
    parser.add_argument("--work", type=Path, default=Path("work/tiny_diffusion"), help="folder of the checkpoints")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent.parent / "workbench" / "models" / "diffusion")
    parser.add_argument("--steps", type=int, help=f"optimiser steps; by default {STEPS}")
    parser.add_argument("--rate", type=float, default=4e-3, help="AdamW's learning rate; Muon's is five times that")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    for kind in [args.only] if args.only else ["mdm", "ar"]:
        ship(kind, args.seed, *train(kind, args.seed, args), args.out)


if __name__ == "__main__":
    main()
