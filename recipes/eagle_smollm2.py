"""Train the EAGLE-type draft of SmolLM2-135M on text that the model writes itself.

python recipes/eagle_smollm2.py generate      # text and hidden states, in shards; stop and go on at any time
python recipes/eagle_smollm2.py train         # the draft layer; checkpoints, goes on where it stopped
python recipes/eagle_smollm2.py report        # acceptance by depth on 20 held-out prompts, and the cost ratio
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file

sys.path.insert(0, str(Path(__file__).parent))

from eagle_layer import EagleLayer, agreement, draft_loss
from self_generate import BatchDecoder, self_generate
from training import Trainer, cosine

from workbench import data

ROWS, LENGTH = 192, 168
SHARE = {"code": 0.3, "question": 0.3, "play": 0.2, "technical": 0.2}
WARM = 0.7
SUBSET = 6144  # rows of the target's head that the draft keeps
SEQUENCES = 8  # a step
PROMPT_WEIGHT = 0.2  # a position inside the prompt, against 1 for a position that the target wrote


def load_target(where: str) -> tuple[torch.nn.Module, object]:
    """Return SmolLM2 (fp32, eval) and its tokenizer, from a folder or by Workbench's name."""
    from workbench import models

    loaded = models.load(where)
    return loaded.model, loaded.tokenizer


def encode(prompt: data.Prompt, tokenizer, rng: np.random.Generator) -> list[int]:
    """Return the token ids of a prompt; a text is cut after 8 to 48 tokens, a question keeps its chat template."""
    if prompt.chat:
        message = [{"role": "user", "content": prompt.text}]
        text = tokenizer.apply_chat_template(message, tokenize=False, add_generation_prompt=True)
        return tokenizer.encode(text, add_special_tokens=False)[:80]
    return tokenizer.encode(prompt.text, add_special_tokens=False)[: int(rng.integers(8, 49))]


def shard_prompts(tokenizer, index: int, held_out: bool) -> list[list[int]]:
    """Return the prompts of shard `index`, the kinds in their shares, drawn with the shard's own seed."""
    rng = np.random.default_rng([index, int(held_out)])
    kinds = rng.choice(list(SHARE), size=ROWS, p=list(SHARE.values()))
    return [encode(data.draw(str(kind), rng, held_out), tokenizer, rng) for kind in kinds]


def write_shard(path: Path, decoder: BatchDecoder, prompts: list[list[int]], stop: int, seed: int) -> int:
    """Write one shard atomically; return the number of positions in it."""
    temperature = torch.tensor([0.0, WARM]).repeat(ROWS // 2)
    batch = self_generate(decoder, prompts, temperature, LENGTH, stop, seed)
    columns = {"ids": batch.ids.to(torch.int32), **{k: v for k, v in vars(batch).items() if k != "ids"}}
    partial = path.with_suffix(".partial")
    save_file(columns, partial)
    os.replace(partial, path)
    return int(batch.length.sum())


def generate(args: argparse.Namespace) -> None:
    """Write shards until there are enough positions or the time is over; shards that exist are kept."""
    model, tokenizer = load_target(args.target)
    decoder = BatchDecoder(model)
    stop = model.config.eos_token_id
    args.work.mkdir(parents=True, exist_ok=True)
    started, positions = time.perf_counter(), 0
    for index in range(-1, args.shards):  # shard -1 is the held-out one
        path = args.work / ("held_out.safetensors" if index < 0 else f"shard_{index:03d}.safetensors")
        if path.exists():
            continue
        prompts = shard_prompts(tokenizer, max(index, 0), index < 0)
        positions += write_shard(path, decoder, prompts, stop, seed=index + 1)
        seconds = time.perf_counter() - started
        print(f"{path.name}: {positions} positions, {seconds:.0f} s, {positions / seconds:.0f} a second", flush=True)
        if seconds > args.minutes * 60:
            break


def shard(work: Path, name: str) -> dict[str, torch.Tensor]:
    """Return a shard, and wait for it if `generate` is still at work."""
    path = work / f"{name}.safetensors"
    while not path.exists():
        time.sleep(5)
    tensors = load_file(path)
    tensors["ids"] = tensors["ids"].long()
    position = torch.arange(LENGTH)[None]
    tensors["valid"] = position < tensors["length"][:, None]
    tensors["written"] = tensors["valid"] & (position >= tensors["prompt_length"][:, None] - 1)
    return tensors


def choose_subset(work: Path, vocab: int) -> torch.Tensor:
    """Return the ids of the most frequent tokens in the shards that are there, ascending; chosen once, then kept."""
    path = work / "subset.safetensors"
    if not path.exists():
        counts = torch.zeros(vocab, dtype=torch.long)
        for file in sorted(work.glob("shard_*.safetensors")):
            tensors = shard(work, file.stem)
            counts += torch.bincount(tensors["ids"][tensors["valid"]], minlength=vocab)
        subset = torch.argsort(counts, descending=True, stable=True)[:SUBSET].sort().values
        save_file({"subset": subset}, path)
        print(f"subset of {SUBSET} tokens covers {counts[subset].sum() / counts.sum():.4f} of {counts.sum()} tokens")
    return load_file(path)["subset"]


def train(args: argparse.Namespace) -> None:
    """Train the layer through the shards in order, again and again; print agreement on the held-out shard."""
    model, _ = load_target(args.target)
    subset = choose_subset(args.work, model.config.vocab_size)
    layer = EagleLayer(model, subset, LENGTH)
    full_head = model.get_output_embeddings().weight.detach()
    held = {name: tensor[: args.held_out] for name, tensor in shard(args.work, "held_out").items()}
    checkpoint = args.work / "draft.safetensors"
    if not checkpoint.exists():
        first = [shard(args.work, f"shard_{i:03d}") for i in range(3)]
        layer.fit_linear(*(torch.cat([t[name] for t in first]) for name in ("hidden", "ids", "written")))
        print("ridge map alone:", report_agreement(layer, held, full_head), flush=True)
    trainer = Trainer(layer, checkpoint, lr=1e-3)
    per_shard, loaded = ROWS // SEQUENCES, (-1, {})
    while trainer.step < args.steps:
        index = trainer.step // per_shard % args.shards
        if loaded[0] != index:
            loaded = (index, shard(args.work, f"shard_{index:03d}"))
        depth = 1 + (trainer.step > 0.3 * args.steps) + (trainer.step > 0.65 * args.steps)
        loss = train_step(trainer, layer, loaded[1], trainer.step % per_shard, depth, args)
        if trainer.step % 20 == 0:
            print(f"step {trainer.step}/{args.steps} depth {depth}: loss {loss:.4f}, {trainer.elapsed():.0f} s", flush=True)
        if trainer.step % per_shard == 0 or trainer.step == args.steps:
            trainer.save()
        if trainer.step % (4 * per_shard) == 0 or trainer.step == args.steps:
            print(f"  {trainer.seen} positions:", report_agreement(layer, held, full_head), flush=True)


def train_step(trainer: Trainer, layer: EagleLayer, tensors: dict, part: int, depth: int, args) -> float:
    """Take one step on a part of a shard; return the loss. Rows are permuted so that parts mix kinds and temperatures."""
    rows = torch.from_numpy(np.random.default_rng(trainer.step // (ROWS // SEQUENCES)).permutation(ROWS))
    rows = rows[part * SEQUENCES : (part + 1) * SEQUENCES]
    hidden, ids, valid, written = (tensors[name][rows] for name in ("hidden", "ids", "valid", "written"))
    weight = written.float() + PROMPT_WEIGHT * (valid & ~written).float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = draft_loss(layer, hidden.float(), ids, weight, depth)
    trainer.update(loss, cosine(trainer.step, args.steps, args.peak, warmup=40), int(valid.sum()))
    return float(loss.detach())


def report_agreement(layer: EagleLayer, held: dict, full_head: torch.Tensor) -> str:
    """Return a line: top-1 by depth and survival by depth on held-out text, at temperature 0 and 0.7."""
    parts = []
    for name, temperature in (("T=0", 0.0), ("T=0.7", WARM)):
        rows = (held["temperature"] - temperature).abs() < 1e-3
        right, survived = agreement(layer, *(held[k][rows] for k in ("hidden", "ids", "written")), full_head)
        numbers = ["/".join(f"{v:.3f}" for v in values) for values in (right, survived)]
        parts.append(f"{name} top-1 {numbers[0]} survival {numbers[1]}")
    return "; ".join(parts)


def shard_positions(args: argparse.Namespace) -> int:
    """Return the positions in the shards that `train` goes through."""
    return sum(int(shard(args.work, f"shard_{i:03d}")["length"].sum()) for i in range(args.shards))


def packed(layer: EagleLayer) -> dict[str, torch.Tensor]:
    """Return the layer as the package reads it: fp16, input scales folded into `fc`, no row that the target has."""
    fc = layer.fc.weight.detach()
    fc = torch.cat([fc[:, : layer.dim] / layer.gain, fc[:, layer.dim :] * layer.scale], dim=1)
    parts = {
        "fc": fc, "qkv": layer.qkv.weight, "o": layer.out.weight, "gate_up": layer.gate_up.weight, "down": layer.down.weight,
        "norm_attention": layer.norm_in, "norm_mlp": layer.norm_mlp, "norm_final": layer.norm, "target_gain": layer.gain,
    }  # fmt: skip
    tensors = {name: part.detach().to(torch.float16).contiguous() for name, part in parts.items()}
    return tensors | {"subset": layer.subset.to(torch.int32)}


def export(args: argparse.Namespace) -> None:
    """Write the checkpoint and its card into the package."""
    model, _ = load_target(args.target)
    layer = EagleLayer(model, choose_subset(args.work, model.config.vocab_size), LENGTH)
    trainer = Trainer(layer, args.work / "draft.safetensors", lr=1e-3)
    trainer.stop()
    tensors = packed(layer)
    args.out.mkdir(parents=True, exist_ok=True)
    save_file(tensors, args.out / "draft.safetensors", metadata={"target": "smollm2-135m"})
    held = shard(args.work, "held_out")
    coverage = [float(torch.isin(held["ids"][held["written"]], layer.subset).float().mean())]
    facts = {
        "made by": "`python recipes/eagle_smollm2.py generate`, then `train`, then `export`; licence Apache-2.0",
        "text": f"{shard_positions(args):,} positions that SmolLM2-135M wrote (or was prompted with), half at "
        f"temperature 0, half at {WARM}; prompts: plays, code, technical English, questions; held out by document",
        "training": f"{trainer.step} steps of {SEQUENCES} sequences, {trainer.seen:,} positions in all, "
        f"{trainer.elapsed():.0f} s by the clock on one shared core; depths 1, 2, 3 rolled out from 0, 30, 65 % of the steps on",
        "parameters": f"{sum(p.numel() for p in layer.parameters()):,}, fp16; the head is {SUBSET} rows of the target's own",
        "cut head": f"holds {coverage[0]:.3f} of the tokens of held-out text",
        "held out, along the target's own text": report_agreement(layer, held, model.get_output_embeddings().weight.detach()),
    }
    facts |= {"note": args.note} if args.note else {}
    write_card(args.out, facts, args.report)
    print(json.dumps(facts, indent=1))


def write_card(folder: Path, facts: dict[str, str], report: Path | None) -> None:
    """Write what the draft is, what it saw, how well it does; with the live table if `draft_report.py` made one."""
    lines = [
        "# eagle: a draft layer for smollm2-135m",
        "",
        "One decoder layer (EAGLE type) that predicts the target's next hidden state from its last one and the new token.",
        "It speeds up SmolLM2-135M by speculative decoding and is of no use alone: embedding and head are the target's.",
        "",
        *(f"- {name}: {value}" for name, value in facts.items()),
        "",
    ]
    if report:
        rows = [row for row in json.loads(report.read_text("utf-8"))["drafts"] if row["draft"] == "eagle"]
        lines += [
            "Drafted live, chains of four, 20 held-out prompts (`recipes/draft_report.py`):",
            "",
            "| T | " + " | ".join(list(rows[0])[2:]) + " |",
        ]
        lines += ["|---" * (len(rows[0]) - 1) + "|"]
        lines += ["| " + " | ".join(str(value) for value in list(row.values())[1:]) + " |" for row in rows] + [""]
    (folder / "README.md").write_text("\n".join(lines), encoding="utf-8")


def main() -> None:
    """Run one of the recipe's steps."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("step", choices=["generate", "train", "export"])
    parser.add_argument("--target", default="smollm2-135m", help="name or folder of the target")
    parser.add_argument("--work", type=Path, default=Path("work/eagle_smollm2"), help="folder of shards and checkpoints")
    parser.add_argument("--shards", type=int, default=10)
    parser.add_argument("--minutes", type=float, default=60.0, help="stop generating after this long")
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--peak", type=float, default=1e-3, help="largest learning rate")
    parser.add_argument("--held-out", type=int, default=64, help="held-out sequences in the progress line")
    package = Path(__file__).parent.parent / "workbench" / "models" / "assets" / "eagle_smollm2"
    parser.add_argument("--out", type=Path, default=package, help="where export writes")
    parser.add_argument("--note", default="", help="a line for the card: how this training went")
    parser.add_argument("--report", type=Path, help="JSON of draft_report.py for the card")
    args = parser.parse_args()
    {"generate": generate, "train": train, "export": export}[args.step](args)


if __name__ == "__main__":
    main()
