"""Attention of a whole model at growing lengths: pooled capture beside the plain forward pass, and beside what else is used.

    python benchmarks/attention.py                         # SmolLM2 at 512, 2048, 8192 tokens; a small random model at 32768
    python benchmarks/attention.py --peers FOLDER          # bertviz and circuitsvis installed with pip --target FOLDER

Capture and plain pass run in turn in one process. Each method's memory is the growth of a fresh process' peak over the loaded
model, so that one length does not hide another. A peer that would need more than the limit is not started: its T x T x layers x
heads array is larger than that.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from typing import Any

import numpy as np

LIMIT_GB, LIMIT_S = 6.0, 240
LONG = {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2}


def model_of(name: str) -> Any:
    """Return SmolLM2, or "long": a small model of random weights with a context of 32768."""
    import torch
    import transformers

    from workbench import models, threads

    threads.configure()
    if name != "long":
        return models.load(name).model
    torch.manual_seed(0)
    config = transformers.LlamaConfig(**LONG, vocab_size=512, max_position_embeddings=32768, pad_token_id=0, eos_token_id=0)
    return transformers.LlamaForCausalLM(config).eval().requires_grad_(False)


def ids_of(model: Any, length: int) -> np.ndarray:
    """Return ids of real text where the model has a tokenizer's vocabulary, else random ones (said by the row's name)."""
    size = model.config.vocab_size
    if size < 1000:
        return np.random.default_rng(0).integers(3, size, length)
    from workbench import data, models

    text = "\n".join(data.plays().values())[: length * 8]
    return np.array(models.load("smollm2-135m").encode(text, chat=False)[:length])


def peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def ours(name: str, length: int) -> dict[str, float]:
    """Return seconds of the plain pass and of the capture, in turn, and the memory that each needs."""
    import torch

    from workbench.instruments import attention, taps

    model = model_of(name)
    ids, plain, captured = ids_of(model, length), [], []
    attention.verify(model)
    attention.capture(model, ids[:64])  # compiles
    base = peak_mb()
    view = taps.decoder(model)

    def once() -> None:
        with torch.inference_mode():
            view(input_ids=torch.from_numpy(ids)[None], use_cache=False)

    once()
    own = peak_mb() - base
    for _ in range(3 if length <= 8192 else 2):
        began = time.perf_counter()
        once()
        plain.append(time.perf_counter() - began)
        began = time.perf_counter()
        attention.capture(model, ids)
        captured.append(time.perf_counter() - began)
    return {
        "plain_s": float(np.median(plain)),
        "capture_s": float(np.median(captured)),
        "plain_mb": own,
        "capture_mb": peak_mb() - base,
    }


def weights(name: str, length: int) -> dict[str, float]:
    """Return seconds and memory of `output_attentions=True`."""
    import torch

    from workbench.instruments import taps

    model = model_of(name)
    eager = taps.decoder(taps.eager_view(model))
    base, began = peak_mb(), time.perf_counter()
    with torch.inference_mode():
        eager(input_ids=torch.from_numpy(ids_of(model, length))[None], use_cache=False, output_attentions=True)
    return {"seconds": time.perf_counter() - began, "mb": peak_mb() - base}


def viewer(name: str, length: int, which: str) -> dict[str, float]:
    """Return seconds, memory and size of the HTML that a viewer makes of all layers and heads."""
    import torch

    from workbench.instruments import taps

    model = model_of(name)
    eager = taps.decoder(taps.eager_view(model))
    base, began = peak_mb(), time.perf_counter()
    with torch.inference_mode():
        maps = eager(input_ids=torch.from_numpy(ids_of(model, length))[None], use_cache=False, output_attentions=True).attentions
    tokens = [str(i) for i in range(length)]
    if which == "bertviz":
        from bertviz import head_view

        html = head_view(maps, tokens, html_action="return").data
    else:
        import circuitsvis as cv

        html = str(cv.attention.attention_patterns(tokens=tokens, attention=torch.cat([m[0] for m in maps])))
    return {"seconds": time.perf_counter() - began, "mb": peak_mb() - base, "html_mb": len(html) / 1e6}


def child(what: str, name: str, length: int, peers: str) -> dict[str, Any]:
    """Return what a fresh process measured, or why there is nothing."""
    command = [sys.executable, __file__, "--one", what, name, str(length), "--peers", peers]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S)
    except subprocess.TimeoutExpired:
        return {"why": f"more than {LIMIT_S} s"}
    if done.returncode:
        return {"why": done.stderr.strip().splitlines()[-1][:80] if done.stderr.strip() else f"ended with {done.returncode}"}
    return json.loads(done.stdout.splitlines()[-1])


def one(what: str, name: str, length: int, peers: str) -> None:
    """Measure in this process and print one line of JSON."""
    if peers:
        sys.path.append(peers)
    resource.setrlimit(resource.RLIMIT_DATA, (int(LIMIT_GB * 2**30), resource.RLIM_INFINITY))
    work = {"ours": ours, "weights": weights}.get(what)
    print(json.dumps(work(name, length) if work else viewer(name, length, what)))


def main() -> None:
    """Print one line a method and length."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", default="", help="folder with bertviz and circuitsvis")
    parser.add_argument("--lengths", default="512,2048,8192")
    parser.add_argument("--one", nargs=3, metavar=("WHAT", "MODEL", "LENGTH"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        one(args.one[0], args.one[1], int(args.one[2]), args.peers)
        return
    rows = [("smollm2-135m", int(n)) for n in args.lengths.split(",")] + [("long", 8192), ("long", 32768)]
    for name, length in rows:
        found = child("ours", name, length, "")
        head = f"{name:14} {length:6} tokens"
        if "why" in found:
            print(f"{head}  capture: {found['why']}")
            continue
        print(
            f"{head}  plain {found['plain_s']:7.2f} s {found['plain_mb']:6.0f} MB   capture {found['capture_s']:7.2f} s {found['capture_mb']:6.0f} MB   "
            f"ratio {found['capture_s'] / found['plain_s']:.2f}", flush=True,
        )  # fmt: skip
        for what in ("weights", *(("bertviz", "circuitsvis") if args.peers else ())):
            layers, heads = (4, 4) if name == "long" else (30, 9)
            size = layers * heads * length**2 * 4 / 2**30
            label = "output_attentions" if what == "weights" else what
            if size > LIMIT_GB:
                print(f"{'':29}{label}: not started, its array alone is {size:.0f} GB")
                continue
            peer = child(what, name, length, args.peers)
            html = f", {peer['html_mb']:.0f} MB of HTML" if "html_mb" in peer else ""
            print(
                f"{'':29}{label}: " + (peer["why"] if "why" in peer else f"{peer['seconds']:.1f} s, {peer['mb']:.0f} MB{html}"),
                flush=True,
            )


if __name__ == "__main__":
    main()
