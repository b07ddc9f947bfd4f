"""Train the threshold modules of ATP-LLaVA on the scene reader, one set for each budget; the reader itself stays as it is.

    python recipes/atp_modules.py             # checkpoints in work/atp, goes on where it stopped

Each question has its own picture, as pruning depends on both. Masks are soft while training; the budgets of a ladder go from
generous to tight, each starting from the one before. Of each budget the first ladder's modules are kept.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

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

SEED = 0
#: layers (0-based) behind which the modules stand -> budgets. Two full layers are a quarter of eight: less needs an earlier module.
LADDERS = {(1, 2, 3): (0.5, 0.35, 0.28), (0, 1, 2): (0.5, 0.35, 0.25, 0.2)}


class Ladder(torch.nn.Module):
    """The modules of one budget."""

    def __init__(self, patches: int, modules: int) -> None:
        super().__init__()
        torch.manual_seed(SEED)
        self.parts = torch.nn.ModuleList(atp.PruneModule(patches) for _ in range(modules))
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


def train(reader: VisionReader, after: tuple[int, ...], budget: float, start: Ladder | None, args: argparse.Namespace) -> Trainer:
    """Return the modules of one budget, going on from the last checkpoint."""
    ladder = Ladder(scenes.GRID**2, len(after))
    if start is not None:
        ladder.load_state_dict(start.state_dict())
    trainer = Trainer(ladder, args.work / f"{after[0]}-{budget:g}.safetensors", lr=2e-3, weight_decay=0.0)
    while trainer.step < args.steps:
        with torch.no_grad():
            glance, answers = batch(reader, [SEED, int(budget * 1000), trainer.step], args.batch)
        temperature = 10.0 ** (1 + 1.2 * min(1.0, 1.25 * trainer.step / args.steps))  # harder and harder: 10 to 160
        rule = atp.Pruner(list(ladder.parts), after, glance.grid, temperature=temperature)
        logits, state = reader.answer(glance, rule, at=after, own=True)
        atp_loss, target = atp.objective([k.float() for k in state.kept], after, glance.patches, budget)
        answer = F.cross_entropy(logits.float(), answers)
        trainer.update(answer + 0.01 * atp_loss + 4.0 * target, cosine(trainer.step, args.steps, 2e-3, warmup=30), args.batch)
        if trainer.step % 50 == 0 or trainer.step == args.steps:
            share = float(torch.stack([k.float() for k in state.kept]).mean() / glance.patches)
            print(
                f"behind {after}, budget {budget:g}, step {trainer.step}/{args.steps}: answer {float(answer.detach()):.3f} nats, soft share {share:.3f}, "
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
    tensors, made, seconds = {}, {}, 0.0
    for after, budgets in LADDERS.items():
        last = None
        for budget in budgets:
            trainer = train(reader, after, budget, last, args)
            last, seconds = trainer.module.eval(), seconds + trainer.elapsed()
            found = pictures.sit(reader, exam, atp.Pruner(list(last.parts), after, exam.glance.grid), at=after, own=True)
            line = f"{100 * found.accuracy:.1f} % right at a share of {found.share:.3f} (1000 held-out questions)"
            print(f"behind {after}, budget {budget:g}: {line}", flush=True)
            last.train()
            if budget in made:
                continue
            made[budget] = (after, f"budget {budget:g}, behind layers {', '.join(str(i + 1) for i in after)}: {line}")
            for i, part in enumerate(last.parts):
                tensors |= {f"{budget:g}.{i}.{name}": p.detach().half() for name, p in part.state_dict().items()}
    order = sorted(made, reverse=True)
    write(tensors, {b: made[b] for b in order}, dense.accuracy, seconds, args)


def write(tensors: dict[str, torch.Tensor], made: dict[float, tuple[Any, str]], dense: float, seconds: float, args: Any) -> None:
    """Write the modules, their places and a card that says how they were made and how good they are."""
    atp.FOLDER.mkdir(parents=True, exist_ok=True)
    save_file(tensors, atp.FOLDER / "modules.safetensors")
    facts = {
        "budgets": list(made),
        "after": [list(after) for after, _ in made.values()],
        "patches": scenes.GRID**2,
        "hidden": atp.HIDDEN,
    }
    (atp.FOLDER / "config.json").write_text(json.dumps(facts, indent=1) + "\n", "utf-8")
    card = [
        "# Threshold modules for scene-reader",
        "",
        "Three modules for each budget (mean share of picture tokens over all layers). fp16.",
        "",
        f"- made by: `python recipes/atp_modules.py`, seed {SEED}; licence Apache-2.0",
        f"- training: {args.steps} steps of {args.batch} questions for each budget, {seconds:.0f} s by the clock on one shared core; the reader",
        "  frozen; soft masks, temperature 10 to 160",
        f"- without pruning: {100 * dense:.1f} % right",
        *(f"- {line}" for _, line in made.values()),
        "",
    ]
    (atp.FOLDER / "README.md").write_text("\n".join(card), "utf-8")


if __name__ == "__main__":
    main()
