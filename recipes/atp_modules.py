"""Train the threshold modules of ATP-LLaVA on the scene reader, one set for each budget; the reader itself stays as it is.

    python recipes/atp_modules.py             # checkpoints in work/atp, goes on where it stopped

Each question has its own picture, as pruning depends on both. Masks are soft while training; the budgets go from generous to
tight, each starting from the one before.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from training import Trainer, cosine

from workbench import models
from workbench.data import digit_scenes as scenes
from workbench.instruments.vision import Glance, VisionReader
from workbench.systems.attention import atp_modules as atp
from workbench.systems.attention import pictures

BUDGETS, AFTER, SEED = (0.5, 0.35, 0.25, 0.2), (0, 1, 2), 0


class Ladder(torch.nn.Module):
    """The modules of one budget."""

    def __init__(self, patches: int) -> None:
        super().__init__()
        torch.manual_seed(SEED)
        self.parts = torch.nn.ModuleList(atp.PruneModule(patches) for _ in AFTER)
        for part in self.parts:  # start by keeping nearly everything: thresholds near 0.12 and 0.2
            torch.nn.init.zeros_(part.redundancy.weight)
            torch.nn.init.zeros_(part.spatial.weight)
            torch.nn.init.constant_(part.redundancy.bias, -2.0)
            torch.nn.init.constant_(part.spatial.bias, -1.4)


def batch(reader: VisionReader, seed: list[int], size: int) -> tuple[Glance, torch.Tensor]:
    """Return training pictures with one question each, and the answers' ids."""
    rng = np.random.default_rng(seed)
    found = list(scenes.examples(int(rng.integers(2**31)) + 10**9, size, held_out=False))
    glance = reader.glance([s.image for s, _ in found], [q.words for _, q in found])
    return glance, torch.tensor([reader.question_ids(q.answer)[0] for _, q in found])


def train(reader: VisionReader, budget: float, start: Ladder | None, args: argparse.Namespace) -> Trainer:
    """Return the modules of one budget, going on from the last checkpoint."""
    ladder = Ladder(scenes.GRID**2)
    if start is not None:
        ladder.load_state_dict(start.state_dict())
    trainer = Trainer(ladder, args.work / f"{budget:g}.safetensors", lr=2e-3, weight_decay=0.0)
    while trainer.step < args.steps:
        with torch.no_grad():
            glance, answers = batch(reader, [SEED, int(budget * 1000), trainer.step], args.batch)
        temperature = 10.0 ** (1 + 1.2 * min(1.0, 1.25 * trainer.step / args.steps))  # harder and harder: 10 to 160
        rule = atp.Pruner(list(ladder.parts), AFTER, glance.grid, temperature=temperature)
        logits, state = reader.answer(glance, rule, at=AFTER, own=True)
        atp_loss, target = atp.objective([k.float() for k in state.kept], AFTER, glance.patches, budget)
        answer = F.cross_entropy(logits.float(), answers)
        trainer.update(answer + 0.01 * atp_loss + 4.0 * target, cosine(trainer.step, args.steps, 2e-3, warmup=30), args.batch)
        if trainer.step % 50 == 0 or trainer.step == args.steps:
            share = float(torch.stack([k.float() for k in state.kept]).mean() / glance.patches)
            print(
                f"budget {budget:g}, step {trainer.step}/{args.steps}: answer {float(answer.detach()):.3f} nats, soft share {share:.3f}, "
                f"{trainer.elapsed():.0f} s", flush=True,
            )  # fmt: skip
            trainer.save()
    trainer.stop()
    return trainer


def main() -> None:
    """Train every budget, print held-out accuracy and share with hard masks, write the modules."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("work/atp"))
    parser.add_argument("--steps", type=int, default=400, help="for each budget")
    parser.add_argument("--batch", type=int, default=64, help="questions a step")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    reader = VisionReader(models.load("scene-reader"))
    exam = pictures.exam(reader, 1000, 5)
    dense = pictures.sit(reader, exam)
    tensors, lines, last, seconds = {}, [], None, 0.0
    for budget in BUDGETS:
        trainer = train(reader, budget, last, args)
        last, seconds = trainer.module.eval(), seconds + trainer.elapsed()
        hard = atp.Pruner(list(last.parts), AFTER, exam.glance.grid)
        found = pictures.sit(reader, exam, hard, at=AFTER, own=True)
        lines.append(
            f"budget {budget:g}: {100 * found.accuracy:.1f} % right at a share of {found.share:.3f} (1000 held-out questions)"
        )
        print(lines[-1], flush=True)
        last.train()
        for i, part in enumerate(last.parts):
            tensors |= {f"{budget:g}.{i}.{name}": p.detach().half() for name, p in part.state_dict().items()}
    atp.FOLDER.mkdir(parents=True, exist_ok=True)
    save_file(tensors, atp.FOLDER / "modules.safetensors")
    facts = {"budgets": list(BUDGETS), "after": list(AFTER), "patches": scenes.GRID**2, "hidden": atp.HIDDEN}
    (atp.FOLDER / "config.json").write_text(json.dumps(facts, indent=1) + "\n", "utf-8")
    card = [
        "# Threshold modules for scene-reader",
        "",
        "Three modules behind the first three layers, one set for each budget (mean share of picture tokens over all layers). fp16.",
        "",
        f"- made by: `python recipes/atp_modules.py`, seed {SEED}; licence Apache-2.0",
        f"- training: {args.steps} steps of {args.batch} questions for each budget, {seconds:.0f} s by the clock on one shared core; the reader",
        "  frozen; soft masks, temperature 10 to 160",
        f"- without pruning: {100 * dense.accuracy:.1f} % right",
        *(f"- {line}" for line in lines),
        "",
    ]
    (atp.FOLDER / "README.md").write_text("\n".join(card), "utf-8")


if __name__ == "__main__":
    main()
