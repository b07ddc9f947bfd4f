"""Compare every kernel with the best plain torch expression: ratios in one process, medians of interleaved runs.

    python benchmarks/kernels.py                 # all, about five minutes on two cores
    python benchmarks/kernels.py --only skinny int8 --rounds 15
    python benchmarks/kernels.py --jit           # seconds to compile each operation, cold and from the disk cache
    python benchmarks/kernels.py --gpu           # on a GPU: bytes/s and FLOP/s against the roofline measured there

"of bandwidth" is bytes that must move / seconds, over the read bandwidth measured in the same process; "of peak" is
floating-point operations / seconds over the fp32 matrix-product rate measured in the same process. Other processes on
the machine disturb both: run it alone.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

from workbench import kernels, threads

threads.prepare()

import numpy as np  # noqa: E402
import torch  # noqa: E402
from torch.nn.functional import grid_sample, linear, scaled_dot_product_attention  # noqa: E402

Case = tuple[str, str, Callable[[], Any], Callable[[], Any], float, float, str]
SMOLLM2 = [(960, 576), (576, 576), (3072, 576), (576, 1536)] * 30 + [(49152, 576)]  # fused q, k, v and gate, up
PREFIX = 128


def interleaved(bodies: list[Callable[[], Any]], rounds: int) -> list[float]:
    """Return the median seconds of each body, run in turn so that a disturbance meets all of them."""
    times: list[list[float]] = [[] for _ in bodies]
    for number in range(rounds + 2):
        for body, kept in zip(bodies, times, strict=True):
            start = time.perf_counter()
            body()
            if number >= 2:
                kept.append(time.perf_counter() - start)
    return [statistics.median(kept) for kept in times]


def machine() -> tuple[float, float]:
    """Return read bandwidth (bytes/s) and fp32 matrix-product rate (FLOP/s), best of several, as both are limits."""
    from workbench.kernels.skinny_matmul.cpu import skinny

    weight, x = torch.zeros(131072, 576).numpy(), np.zeros((1, 576), np.float32)
    out, square = np.empty((1, 131072), np.float32), torch.ones(1024, 1024)
    read, product = [], []
    for _ in range(8):
        start = time.perf_counter()
        skinny(x, weight, out)
        middle = time.perf_counter()
        square @ square
        read.append(middle - start)
        product.append(time.perf_counter() - middle)
    return weight.nbytes / min(read), 2 * 1024**3 / min(product)


def skinny_cases() -> Iterator[Case]:
    weights = [torch.randn(shape) / 24 for shape in SMOLLM2]
    arrays, moved = [weight.numpy() for weight in weights], 4.0 * sum(weight.numel() for weight in weights)
    from workbench.kernels.skinny_matmul.cpu import skinny

    for rows in (1, 4, 8, 16, 32):
        inputs = {width: torch.randn(rows, width) for width in (576, 1536)}
        outputs = {shape: np.empty((rows, shape[0]), np.float32) for shape in set(SMOLLM2)}

        def ours(inputs: Any = inputs, outputs: Any = outputs) -> None:
            for weight in arrays:
                skinny(inputs[weight.shape[1]].numpy(), weight, outputs[weight.shape])

        def theirs(inputs: Any = inputs) -> None:
            for weight in weights:
                linear(inputs[weight.shape[1]], weight)

        yield f"skinny_matmul R={rows}", "F.linear, all of a SmolLM2 step", ours, theirs, moved, moved / 2 * rows, ""


def int8_cases() -> Iterator[Case]:
    from workbench.kernels.int8_matmul.cpu import int8

    weights = [torch.randn(shape) / 24 for shape in SMOLLM2]
    scales = [weight.abs().amax(1) / 127 for weight in weights]
    small = [(w / s[:, None]).round().to(torch.int8).numpy() for w, s in zip(weights, scales, strict=True)]
    pairs = [(w, s.numpy(), np.empty((1, len(w)), np.float32)) for w, s in zip(small, scales, strict=True)]
    inputs = {width: torch.randn(1, width) for width in (576, 1536)}

    def ours() -> None:
        for weight, scale, out in pairs:
            int8(inputs[weight.shape[1]].numpy(), weight, scale, out)

    def theirs() -> None:
        for weight in weights:
            linear(inputs[weight.shape[1]], weight)

    moved = float(sum(weight.nbytes for weight in small))
    yield "int8_matmul R=1", "F.linear fp32, all of a SmolLM2 step", ours, theirs, moved, 2 * moved, ""


def step_cases() -> Iterator[Case]:
    """A whole decoder step of SmolLM2's shape with random weights, fused: int8 against fp32, and against the model's own."""
    from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM

    from workbench.models.fused import FusedSession, weights_of

    config = LlamaConfig(
        vocab_size=49152, hidden_size=576, intermediate_size=1536, num_hidden_layers=30, num_attention_heads=9,
        num_key_value_heads=3, tie_word_embeddings=True,
    )  # fmt: skip
    with torch.no_grad():
        model = LlamaForCausalLM(config).eval()
    sessions = {dtype: FusedSession(weights_of(model, "random", dtype), PREFIX + 1) for dtype in ("float32", "int8")}

    def step(dtype: str) -> None:
        session = sessions[dtype]
        session.prefix.length = PREFIX
        session.keep([])
        session.forward([1], [-1])

    cache = DynamicCache()
    token = torch.ones(1, 1, dtype=torch.long)
    with torch.inference_mode():
        model(torch.ones(1, PREFIX, dtype=torch.long), past_key_values=cache)

    @torch.inference_mode()
    def own_step() -> None:
        model(token, past_key_values=cache)
        cache.crop(-1)

    moved, full = (float(sessions[dtype].weights.bytes_per_step) for dtype in ("int8", "float32"))
    yield "int8 step", "fused fp32 step", lambda: step("int8"), lambda: step("float32"), moved, 2 * moved, ""
    yield "int8 step", "transformers' own fp32 step", lambda: step("int8"), own_step, moved, 2 * moved, ""
    yield "fp32 step", "transformers' own fp32 step", lambda: step("float32"), own_step, full, full / 2, ""


def spec_case(name: str, theirs: Callable[..., Any], note: str, note_bound: str = "", **sizes: Any) -> Case:
    """Return the case of one operation at its spec's benchmark shape, on torch tensors."""
    spec = import_module(f"workbench.kernels.{name}").SPEC
    shape = spec.bench | sizes
    made = spec.make(np.random.default_rng(0), **shape)
    tensors = {k: torch.from_numpy(v) if isinstance(v, np.ndarray) else v for k, v in made.items()}
    label = f"{name} " + " ".join(f"{k}={v}" for k, v in shape.items())
    function = getattr(kernels, name)
    return (
        label, note, lambda: function(**tensors), lambda: theirs(**tensors),
        spec.bytes(**shape), spec.flops(**shape), note_bound,
    )  # fmt: skip


def torch_tree(q: Any, k_prefix: Any, v_prefix: Any, k_tree: Any, v_tree: Any, parents: Any) -> Any:
    from workbench.kernels.tree_attention.cuda import ancestors

    group = q.shape[1] // k_tree.shape[1]
    mask = torch.ones(len(q), len(k_prefix) + len(k_tree), dtype=torch.bool)
    mask[:, len(k_prefix) :] = torch.from_numpy(ancestors(parents.cpu().numpy())).bool()
    keys, values = (
        torch.cat(pair).transpose(0, 1).repeat_interleave(group, 0) for pair in ((k_prefix, k_tree), (v_prefix, v_tree))
    )
    return scaled_dot_product_attention(q.transpose(0, 1)[None], keys[None], values[None], attn_mask=mask)


def torch_gumbel(logits: Any, k: int, temperature: float, seed: int) -> Any:
    logprobs = (logits / temperature).log_softmax(-1)
    noise = -torch.empty_like(logits).exponential_(generator=torch.Generator(logits.device).manual_seed(seed)).log()
    perturbed, ids = (logprobs + noise).topk(k)
    return ids, perturbed, logprobs.gather(1, ids)


def torch_statistics(logits: Any, top_k: int) -> Any:
    logprobs = logits.log_softmax(-1)
    probs = logprobs.exp()
    return probs.topk(2), -(probs * logprobs).sum(-1), logits.logsumexp(-1)


def torch_mass(q: Any, k: Any, query_bins: int, key_bins: int, probes: Any, **_: Any) -> Any:
    """Return pooled mass and column sums; the shapes of the comparison have no window, soft cap or probes."""
    scores = q @ k.repeat_interleave(len(q) // len(k), 0).transpose(1, 2) / q.shape[-1] ** 0.5
    later = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1)
    probs = scores.masked_fill_(later, -torch.inf).softmax(-1)
    rows = torch.stack([part.mean(1) for part in probs.tensor_split(query_bins, 1)], 1)
    return torch.stack([part.sum(-1) for part in rows.tensor_split(key_bins, 2)], -1), probs.sum(1)


def torch_sweep(
    target: Any, source: Any, intrinsics: Any, rotation: Any, translation: Any, depths: Any, border: int, temperature: float
) -> Any:
    """Return the volume alone: that is what the shape of the comparison asks of both (border and temperature are 0)."""
    height, width = target.shape[1:]
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    pixels = torch.stack([x, y, torch.ones_like(x)]).reshape(3, -1).float()
    turned, shift = intrinsics @ rotation @ torch.linalg.inv(intrinsics) @ pixels, (intrinsics @ translation)[:, None]
    costs = []
    for depth in depths:
        u, v, z = depth * turned + shift
        grid = torch.stack([u / z / (width - 1) * 2 - 1, v / z / (height - 1) * 2 - 1], -1).view(1, height, width, 2)
        costs.append((target - grid_sample(source[None], grid, align_corners=True)[0]).abs().mean(0))
    return torch.stack(costs)


def torch_dispatch(experts: Any, weights: Any, num_experts: int, capacity: int, order: str, seed: int) -> Any:
    one_hot = torch.nn.functional.one_hot(experts.T.reshape(-1), num_experts)
    rank = ((one_hot.cumsum(0) - 1) * one_hot).sum(-1)
    return torch.where(rank < capacity, rank, -1).view(experts.shape[::-1]).T, one_hot.sum(0)


def other_cases() -> Iterator[Case]:
    yield spec_case("tree_attention", torch_tree, "concatenate, mask, SDPA")
    yield spec_case("gumbel_topk", torch_gumbel, "log_softmax, noise, topk")
    yield spec_case("gumbel_topk", torch_gumbel, "log_softmax, noise, topk", N=1)
    yield spec_case("row_statistics", torch_statistics, "log_softmax, topk, sums")
    yield spec_case("attention_mass", torch_mass, "softmax(QK^T), then pooled")
    yield spec_case("plane_sweep", torch_sweep, "grid_sample for each depth")
    yield spec_case("expert_dispatch", torch_dispatch, "one-hot cumsum")


def torch_linear(x: Any, weight: Any) -> Any:
    return linear(x, weight)


def torch_dequantised(x: Any, weight: Any, scale: Any) -> Any:
    return linear(
        x, weight * (scale[:, None] if scale.ndim == 1 else scale.repeat_interleave(weight.shape[1] // scale.shape[1], 1))
    )


GPU_CASES: list[tuple[str, Callable[..., Any], str, dict[str, Any]]] = [
    ("skinny_matmul", torch_linear, "F.linear", {"R": 1}),
    ("skinny_matmul", torch_linear, "F.linear", {}),
    ("skinny_matmul", torch_linear, "F.linear", {"R": 32}),
    ("int8_matmul", torch_dequantised, "weights widened, then F.linear", {}),
    ("int8_matmul", torch_dequantised, "weights widened, then F.linear", {"R": 8}),
    ("tree_attention", torch_tree, "concatenate, mask, SDPA", {}),
    ("tree_attention", torch_tree, "concatenate, mask, SDPA", {"N": 64, "H": 32, "K": 8, "d": 128, "P": 8192}),
    ("gumbel_topk", torch_gumbel, "log_softmax, noise, topk", {}),
    ("row_statistics", torch_statistics, "log_softmax, topk, sums", {}),
    ("attention_mass", torch_mass, "softmax(QK^T), then pooled", {}),
    ("attention_mass", torch_mass, "softmax(QK^T), then pooled", {"T": 8192}),
    ("plane_sweep", torch_sweep, "grid_sample for each depth", {}),
    ("expert_dispatch", torch_dispatch, "one-hot cumsum", {}),
]
GROUPS = {"skinny": skinny_cases, "int8": int8_cases, "step": step_cases, "others": other_cases}


def compare(groups: list[str], rounds: int) -> None:
    """Print one line for each case."""
    bandwidth, peak = machine()
    print(f"read bandwidth {bandwidth / 1e9:.1f} GB/s, fp32 matrix product {peak / 1e9:.0f} GFLOP/s")
    print(f"{'operation':52s} {'ours ms':>9s} {'torch ms':>9s} {'ratio':>6s} {'of bandwidth':>12s} {'of peak':>8s}  against")
    for group in groups:
        for label, against, ours, theirs, moved, flops, _ in GROUPS[group]():
            mine, other = interleaved([ours, theirs], rounds)
            shares = f"{moved / mine / bandwidth:12.0%} {flops / mine / peak:8.0%}"
            print(f"{label:52s} {mine * 1e3:9.3f} {other * 1e3:9.3f} {other / mine:6.2f} {shares}  {against}", flush=True)


def memory() -> None:
    """Print attention_mass by length: seconds, and megabytes by which the process's peak grew, ours and torch's."""
    print(f"{'attention_mass, 9 heads':28s} {'ours s':>8s} {'ours MB':>8s} {'torch s':>8s} {'torch MB':>8s}")
    for length in (1024, 2048, 4096, 8192, 16384):
        plain = measure("torch", length) if length <= 4096 else {"seconds": float("nan"), "mb": 9 * 2 * 4 * length**2 / 1e6}
        ours, mark = measure("ours", length), "" if length <= 4096 else "  (torch: computed, not run)"
        figures = f"{ours['seconds']:8.3f} {ours['mb']:8.1f} {plain['seconds']:8.3f} {plain['mb']:8.1f}"
        print(f"T={length:<26d} {figures}{mark}", flush=True)


def measure(which: str, length: int) -> dict[str, float]:
    """Return seconds and peak growth of one attention_mass in a fresh process."""
    command = [sys.executable, __file__, "--measure", which, "--length", str(length)]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def measured(which: str, length: int) -> None:
    """Print the JSON that `measure` reads."""
    spec = import_module("workbench.kernels.attention_mass").SPEC

    def once(size: int) -> float:
        made = spec.make(np.random.default_rng(0), H=9, K=3, T=size, d=64, bins=64)
        tensors: Any = {k: torch.from_numpy(v) if isinstance(v, np.ndarray) else v for k, v in made.items()}
        start = time.perf_counter()
        (torch_mass if which == "torch" else kernels.attention_mass)(**tensors)
        return time.perf_counter() - start

    once(128)
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak of the imports
    before = resident("VmRSS")
    seconds = once(length)
    print(json.dumps({"seconds": seconds, "mb": resident("VmHWM") - before}))


def resident(field: str) -> float:
    """Return megabytes of this process: VmRSS now, VmHWM the peak."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(float(line.split()[1]) / 1024 for line in lines if line.startswith(field))


def jit() -> None:
    """Print the seconds that the first call of each operation takes in a fresh process: cold, then from the cache."""
    code = "import sys; from workbench import kernels; print(kernels.warm_up([sys.argv[1]])[sys.argv[1]])"
    print(f"{'first call':18s} {'cold s':>7s} {'cached s':>8s}")
    for name in kernels.NAMES:
        with tempfile.TemporaryDirectory() as folder:
            environment = os.environ | {"NUMBA_CACHE_DIR": folder}
            command = [sys.executable, "-c", code, name]
            runs = [subprocess.run(command, env=environment, capture_output=True, text=True, check=True) for _ in range(2)]
        print(f"{name:18s} {float(runs[0].stdout):7.2f} {float(runs[1].stdout):8.2f}", flush=True)


def gpu(rounds: int) -> None:
    """Print each operation on this GPU: a call, its kernels alone, torch on the same GPU, and the share of the roofline.

    The roofline is the larger of bytes over the rate of a copy and operations over the rate of a matrix product, both
    measured in this process. Inputs smaller than the GPU's cache may be read from there, as torch's are.
    """
    import cupy

    from workbench.kernels.launch import THREADS, compiled, stream

    torch.set_default_device("cuda")  # what the peers make on the way

    def seconds(body: Callable[[], Any], calls: int = 1) -> float:
        times = []
        with stream(None):
            for _ in range(rounds + 3):
                start, end = cupy.cuda.Event(), cupy.cuda.Event()
                start.record()
                for _ in range(calls):
                    body()
                end.record()
                end.synchronize()
                times.append(cupy.cuda.get_elapsed_time(start, end) / 1e3 / calls)
        return statistics.median(times[3:])

    source, square = cupy.ones(2**28, cupy.float32), torch.rand(4096, 4096)
    target = cupy.empty_like(source)
    bandwidth = 2 * source.nbytes / seconds(lambda: cupy.copyto(target, source))
    peak = 2 * 4096**3 / seconds(lambda: square @ square)
    print(f"{torch.cuda.get_device_name()}: copy {bandwidth / 1e9:.0f} GB/s, fp32 matrix product {peak / 1e12:.1f} TFLOP/s")
    print(f"{'operation':64s} {'call ms':>9s} {'kernels ms':>10s} {'torch ms':>9s} {'ratio':>6s} {'of roofline':>11s}  against")
    for name, theirs, note, sizes in GPU_CASES:
        spec = import_module(f"workbench.kernels.{name}").SPEC
        shape = spec.bench | sizes
        made = spec.make(np.random.default_rng(0), **shape)
        large = {k for k, v in made.items() if isinstance(v, np.ndarray) and k not in spec.host}
        tensors = {k: torch.from_numpy(v).cuda() if k in large else v for k, v in made.items()}
        arrays = {k: cupy.asarray(v) if k in large else v for k, v in made.items()}
        launches, _ = import_module(f"workbench.kernels.{name}.cuda").plan(cupy, THREADS, **arrays)

        def kernels_alone(name: str = name, launches: Any = launches) -> None:
            for launch in launches:
                compiled(name, launch)(launch.grid, (THREADS, 1, 1), launch.arguments, shared_mem=launch.shared)

        function = getattr(kernels, name)
        call, alone = seconds(lambda f=function, t=tensors: f(**t)), seconds(kernels_alone, 10)  # type: ignore[misc]
        moved = {k: torch.as_tensor(v) if isinstance(v, np.ndarray) else v for k, v in tensors.items()}
        other = seconds(lambda f=theirs, t=moved: f(**t))  # type: ignore[misc]
        bound = max(spec.bytes(**shape) / bandwidth, spec.flops(**shape) / peak)
        label = f"{name} " + " ".join(f"{k}={v}" for k, v in shape.items())
        print(
            f"{label:64s} {call * 1e3:9.3f} {alone * 1e3:10.3f} {other * 1e3:9.3f} {other / call:6.2f} {bound / alone:11.0%}  {note}",
            flush=True,
        )


def main() -> None:
    """Read the command line and print what it asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=[*GROUPS, "memory"], default=[*GROUPS, "memory"])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--jit", action="store_true")
    parser.add_argument("--gpu", action="store_true")
    parser.add_argument("--measure", choices=["ours", "torch"], help=argparse.SUPPRESS)
    parser.add_argument("--length", type=int, default=1024, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.jit:
        return jit()
    if chosen.gpu:
        return gpu(chosen.rounds)
    threads.configure()
    if chosen.measure:
        return measured(chosen.measure, chosen.length)
    if groups := [group for group in chosen.only if group in GROUPS]:
        compare(groups, chosen.rounds)
    if "memory" in chosen.only:
        memory()


if __name__ == "__main__":
    main()
