"""What the recipes share: schedules, checkpoints without pickle, a line of progress."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

_MOMENTS = ("exp_avg", "exp_avg_sq", "momentum_buffer")


def cosine(step: int, steps: int, peak: float, warmup: int = 100, floor: float = 0.05) -> float:
    """Return the learning rate of a step: linear warm-up, then a half cosine down to `floor * peak`."""
    if step < warmup:
        return peak * (step + 1) / warmup
    progress = (step - warmup) / max(1, steps - warmup)
    return peak * (floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress))))


class Muon32(torch.optim.Optimizer):
    """Muon in fp32, equal shapes in one batched product.

    torch's own orthogonalises each matrix by itself in bfloat16; on a processor without bfloat16 arithmetic that takes
    longer than the whole rest of a step of a small model.
    """

    def __init__(self, matrices: list[torch.nn.Parameter], lr: float, momentum: float = 0.95) -> None:
        super().__init__(matrices, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure=None) -> None:  # type: ignore[override]
        """Move every matrix along its orthogonalised Nesterov momentum."""
        for group in self.param_groups:
            shapes: dict[torch.Size, list[torch.nn.Parameter]] = {}
            for p in group["params"]:
                if p.grad is not None:
                    shapes.setdefault(p.shape, []).append(p)
            for shape, alike in shapes.items():
                moved = torch.stack([self._nesterov(p, group["momentum"]) for p in alike])
                share = group["lr"] * max(1.0, shape[0] / shape[1]) ** 0.5
                for p, direction in zip(alike, _orthogonal(moved), strict=True):
                    p.add_(direction, alpha=-share)

    def _nesterov(self, p: torch.nn.Parameter, momentum: float) -> torch.Tensor:
        held = self.state[p].setdefault("momentum_buffer", torch.zeros_like(p))
        held.lerp_(p.grad, 1 - momentum)
        return p.grad.lerp(held, momentum)


def _orthogonal(g: torch.Tensor, steps: int = 5) -> torch.Tensor:
    """Return (N, r, c) matrices with singular values near one, by Newton-Schulz iterations of fifth order."""
    flat = g.shape[1] < g.shape[2]
    x = g.mT if flat else g
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(steps):
        square = x.mT @ x  # (N, c, c): the smaller side
        x = 3.4445 * x + x @ (-4.7750 * square + 2.0315 * square @ square)
    return x.mT if flat else x


class Trainer:
    """A module, its optimisers and the number of steps done; kept in one safetensors file, written atomically.

    Args:
        muon: learning rate of Muon as a share of AdamW's, for the matrices that `of_muon` names; None: AdamW for all.
        fp32: take `Muon32` for it.
        adam: `lr`, `weight_decay`.
    """

    def __init__(
        self,
        module: torch.nn.Module,
        path: Path,
        *,
        muon: float | None = None,
        of_muon: Callable[[str], bool] = lambda name: ".layers." in name,
        fp32: bool = False,
        **adam: float,
    ) -> None:
        self.module, self.path = module, path
        self.parameters = {name: p for name, p in module.named_parameters() if p.requires_grad}
        turned = [p for n, p in self.parameters.items() if muon is not None and p.ndim == 2 and of_muon(n)]
        rest = [p for p in self.parameters.values() if not any(p is q for q in turned)]
        decay = adam.pop("weight_decay", 0.05)
        groups = [
            {"params": [p for p in rest if p.ndim >= 2], "weight_decay": decay},
            {"params": [p for p in rest if p.ndim < 2], "weight_decay": 0.0},
        ]
        self.optimizers: list[torch.optim.Optimizer] = [torch.optim.AdamW(groups, betas=(0.9, 0.95), **adam)]
        self.shares = [1.0]
        if turned:
            rate = adam["lr"] * muon
            self.optimizers.append(Muon32(turned, rate) if fp32 else torch.optim.Muon(turned, lr=rate, weight_decay=0.0))
            self.shares.append(muon)
        self.step, self.seconds, self.seen = 0, 0.0, 0
        self.started = time.perf_counter()
        if path.exists():
            self.load()

    def update(self, loss: torch.Tensor, learning_rate: float, seen: int) -> None:
        """Take one step down the gradient of `loss`, clipped to norm 1; count `seen` positions."""
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.parameters.values(), 1.0)
        for optimizer, share in zip(self.optimizers, self.shares, strict=True):
            for group in optimizer.param_groups:
                group["lr"] = learning_rate * share
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        self.step, self.seen = self.step + 1, self.seen + seen

    def elapsed(self) -> float:
        """Return the seconds of training, earlier sittings included."""
        running = not math.isnan(self.started)
        return self.seconds + (time.perf_counter() - self.started if running else 0.0)

    def stop(self) -> None:
        """Stop the watch: what comes after is not training."""
        self.seconds = self.elapsed()
        self.started = float("nan")

    def save(self) -> None:
        """Write weights, the optimisers' moments and the counters."""
        tensors = {f"weight.{name}": p.detach() for name, p in self.parameters.items()}
        for name, p in self.parameters.items():
            for optimizer in self.optimizers:
                held = optimizer.state.get(p, {})
                tensors |= {f"{key}.{name}": held[key] for key in _MOMENTS if key in held}
        counters = {"step": self.step, "seconds": self.elapsed(), "seen": self.seen}
        partial = self.path.with_suffix(".partial")
        save_file(tensors, partial, metadata={"counters": json.dumps(counters)})
        os.replace(partial, self.path)

    def load(self) -> None:
        """Go on from the file."""
        tensors = load_file(self.path)
        with safe_open(self.path, "pt") as file:
            counters = json.loads(file.metadata()["counters"])
        self.step, self.seconds, self.seen = counters["step"], counters["seconds"], counters["seen"]
        for name, p in self.parameters.items():
            p.data.copy_(tensors[f"weight.{name}"])
            state = {key: tensors[f"{key}.{name}"] for key in _MOMENTS if f"{key}.{name}" in tensors}
            if state:
                owner = self.optimizers[-1 if "momentum_buffer" in state else 0]
                owner.state[p] = state | ({"step": torch.tensor(float(self.step))} if "exp_avg" in state else {})
        print(f"{self.path}: going on from step {self.step}", flush=True)
