"""Train the EAGLE-type draft of SmolLM2-135M on text that the model writes itself.

    python recipes/eagle_smollm2.py generate      # text and hidden states, in shards; stop and go on at any time
    python recipes/eagle_smollm2.py train         # the draft layer; checkpoints, goes on where it stopped
    python recipes/eagle_smollm2.py report        # acceptance by depth on 20 held-out prompts, and the cost ratio
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

sys.path.insert(0, str(Path(__file__).parent))

from self_generate import BatchDecoder, self_generate

from workbench import data

ROWS, LENGTH = 192, 168
SHARE = {"code": 0.3, "question": 0.3, "play": 0.2, "technical": 0.2}
WARM = 0.7


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


def main() -> None:
    """Run one of the recipe's steps."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("step", choices=["generate"])
    parser.add_argument("--target", default="smollm2-135m", help="name or folder of the target")
    parser.add_argument("--work", type=Path, default=Path("work/eagle_smollm2"), help="folder of shards and checkpoints")
    parser.add_argument("--shards", type=int, default=40)
    parser.add_argument("--minutes", type=float, default=60.0)
    args = parser.parse_args()
    {"generate": generate}[args.step](args)


if __name__ == "__main__":
    main()
