"""What the recipes share: schedules, checkpoints without pickle, a line of progress."""

from __future__ import annotations

import json
import math
import os
import time
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file


def cosine(step: int, steps: int, peak: float, warmup: int = 100, floor: float = 0.05) -> float:
    """Return the learning rate of a step: linear warm-up, then a half cosine down to `floor * peak`."""
    if step < warmup:
        return peak * (step + 1) / warmup
    progress = (step - warmup) / max(1, steps - warmup)
    return peak * (floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress))))


class Trainer:
    """A module, its AdamW and the number of steps done; kept in one safetensors file, written atomically."""

    def __init__(self, module: torch.nn.Module, path: Path, **adam: float) -> None:
        self.module, self.path = module, path
        self.parameters = {name: p for name, p in module.named_parameters() if p.requires_grad}
        matrices = [p for p in self.parameters.values() if p.ndim >= 2]
        vectors = [p for p in self.parameters.values() if p.ndim < 2]
        decay = adam.pop("weight_decay", 0.05)
        groups = [{"params": matrices, "weight_decay": decay}, {"params": vectors, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.95), **adam)
        self.step, self.seconds, self.seen = 0, 0.0, 0
        self.started = time.perf_counter()
        if path.exists():
            self.load()

    def update(self, loss: torch.Tensor, learning_rate: float, seen: int) -> None:
        """Take one step down the gradient of `loss`, clipped to norm 1; count `seen` positions."""
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.parameters.values(), 1.0)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
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
        """Write weights, both Adam moments and the counters."""
        tensors = {f"weight.{name}": p.detach() for name, p in self.parameters.items()}
        for name, p in self.parameters.items():
            for key in ("exp_avg", "exp_avg_sq") if p in self.optimizer.state else ():
                tensors[f"{key}.{name}"] = self.optimizer.state[p][key]
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
            state = {key: tensors[f"{key}.{name}"] for key in ("exp_avg", "exp_avg_sq")}
            self.optimizer.state[p] = {"step": torch.tensor(float(self.step)), **state}
        print(f"{self.path}: going on from step {self.step}", flush=True)
