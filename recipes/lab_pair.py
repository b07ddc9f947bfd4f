"""Train the lab pair: a 2 M-parameter target on Python's standard library and a 0.2 M draft distilled from it.

    python recipes/lab_pair.py                # both; checkpoints in work/lab_pair, goes on where it stopped
    python recipes/lab_pair.py --out FOLDER   # elsewhere than into the package

Both are ordinary llama-type checkpoints over a byte-level BPE of 1024 pieces. The held-out modules
(`workbench.data.held_out`) are never trained on; their loss in nats a token and bits a byte is printed.
"""

from __future__ import annotations

import argparse
import json
import platform
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from training import Trainer, cosine
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from workbench import data

VOCAB, CONTEXT, SEED, END = 1024, 512, 0, "<|end|>"
SHAPES = {
    "target": {"hidden_size": 192, "num_hidden_layers": 4, "num_attention_heads": 6, "intermediate_size": 512},
    "draft": {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 256},
}


def make_tokenizer(texts: list[str]) -> PreTrainedTokenizerFast:
    """Return a byte-level BPE of `VOCAB` pieces, so every byte string has a reading."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    bpe.train_from_iterator(
        texts, trainers.BpeTrainer(vocab_size=VOCAB, special_tokens=[END], initial_alphabet=alphabet, show_progress=False)
    )
    return PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token=END, model_max_length=CONTEXT)


def encode(tokenizer: PreTrainedTokenizerFast, texts: list[str]) -> torch.Tensor:
    """Return all texts as one row of ids, `END` after each."""
    end = tokenizer.eos_token_id
    rows = tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]
    return torch.tensor([token for row in rows for token in [*row, end]])


def make_model(role: str) -> LlamaForCausalLM:
    """Return the untrained target or draft, the same for the same seed."""
    config = LlamaConfig(
        vocab_size=VOCAB, max_position_embeddings=CONTEXT, tie_word_embeddings=True, bos_token_id=0, eos_token_id=0,
        rms_norm_eps=1e-5, **SHAPES[role],
    )  # fmt: skip
    torch.manual_seed(SEED)
    return LlamaForCausalLM(config)


def windows(ids: torch.Tensor, step: int, steps: int, positions: int) -> torch.Tensor:
    """Return random windows of the text, `positions` tokens in all; the step decides which.

    Windows are half the context until the last fifth of the training: attention over the whole context costs half as
    much again, and a fifth of the steps teaches the far positions.
    """
    width = CONTEXT if step >= 0.8 * steps else CONTEXT // 2
    starts = np.random.default_rng([SEED, step]).integers(0, len(ids) - width, size=positions // width)
    return torch.stack([ids[start : start + width] for start in starts])


def next_token_loss(model: LlamaForCausalLM, batch: torch.Tensor) -> torch.Tensor:
    """Return the mean negative log-likelihood of every token but the first, nats."""
    logits = model(batch, use_cache=False).logits[:, :-1]
    return F.cross_entropy(logits.reshape(-1, VOCAB).float(), batch[:, 1:].reshape(-1))


def distillation_loss(model: LlamaForCausalLM, teacher: LlamaForCausalLM, batch: torch.Tensor) -> torch.Tensor:
    """Return the mean divergence of the draft's law from the target's at every position, nats."""
    with torch.no_grad():
        goal = teacher(batch, use_cache=False).logits.float().log_softmax(-1)
    law = model(batch, use_cache=False).logits.float().log_softmax(-1)
    return F.kl_div(law, goal, log_target=True, reduction="none").sum(-1).mean()


@torch.inference_mode()
def held_out_loss(model: LlamaForCausalLM, ids: torch.Tensor, count: int = 64) -> float:
    """Return the loss on evenly spaced windows of the held-out text, nats a token."""
    starts = np.linspace(0, len(ids) - CONTEXT - 1, count).astype(int)
    batches = torch.stack([ids[start : start + CONTEXT] for start in starts]).split(8)
    return float(np.mean([float(next_token_loss(model, batch)) for batch in batches]))


def train(role: str, ids: torch.Tensor, held: torch.Tensor, args: argparse.Namespace, teacher=None) -> Trainer:
    """Return the trained target (on the text) or draft (on the teacher's laws)."""
    model = make_model(role)
    trainer = Trainer(model, args.work / f"{role}.safetensors", lr=1e-3)
    steps, peak = (args.target_steps, 2e-3) if role == "target" else (args.draft_steps, 4e-3)
    while trainer.step < steps:
        batch = windows(ids, trainer.step, steps, args.positions)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = distillation_loss(model, teacher, batch) if teacher else next_token_loss(model, batch)
        trainer.update(loss, cosine(trainer.step, steps, peak), batch.numel())
        if trainer.step % 100 == 0 or trainer.step == steps:
            held_loss = held_out_loss(model, held, 16 if trainer.step < steps else 64)
            print(
                f"{role} step {trainer.step}/{steps}: loss {float(loss.detach()):.4f}, held-out {held_loss:.4f} nats, "
                f"{trainer.elapsed():.0f} s", flush=True,
            )  # fmt: skip
            trainer.save()
    trainer.stop()
    return trainer


def agreement(target: LlamaForCausalLM, draft: LlamaForCausalLM, ids: torch.Tensor) -> tuple[float, float]:
    """Return over held-out text how often both arg-maxes agree, and the mean of sum_x min(p, q) at temperature 1."""
    batch = torch.stack(list(ids[: CONTEXT * 16].split(CONTEXT)))
    with torch.inference_mode():
        p, q = (model(batch).logits.float().softmax(-1) for model in (target, draft))
    same = (p.argmax(-1) == q.argmax(-1)).float().mean()
    return float(same), float(torch.minimum(p, q).sum(-1).mean())


def write_card(folder: Path, role: str, trainer: Trainer, facts: dict[str, object]) -> None:
    """Write the model card: what it is, what it saw, how well it does."""
    size = sum(p.numel() for p in trainer.module.parameters())
    lines = [
        f"# lab-{role}",
        "",
        f"A llama-type model of {size:,} parameters that writes Python; one half of the *lab pair* on which speculative",
        "decoding is shown in seconds. An ordinary checkpoint: `AutoModelForCausalLM` loads this folder. fp16 weights.",
        "",
        f"- made by: `python recipes/lab_pair.py`, seed {SEED}; licence Apache-2.0",
        *(f"- {name}: {value}" for name, value in facts.items()),
        "",
    ]
    (folder / "README.md").write_text("\n".join(lines), encoding="utf-8")


def ship(role: str, trainer: Trainer, tokenizer: PreTrainedTokenizerFast, folder: Path, facts: dict) -> None:
    """Write weights (fp16), configuration, tokenizer and card."""
    folder.mkdir(parents=True, exist_ok=True)
    trainer.module.to(torch.float16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    write_card(folder, role, trainer, facts)
    trainer.module.float()


def main() -> None:
    """Train what is not yet trained, print the losses, write both models."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("work/lab_pair"), help="folder of the checkpoints")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent.parent / "workbench" / "models" / "lab")
    parser.add_argument("--target-steps", type=int, default=1800)
    parser.add_argument("--draft-steps", type=int, default=1200)
    parser.add_argument("--positions", type=int, default=2048, help="tokens a step")
    parser.add_argument("--note", default="", help="a line for the cards: how this training went")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    corpus = data.stdlib_code()
    known = [text for name, text in corpus.items() if not data.held_out(name)]
    unknown = [text for name, text in corpus.items() if data.held_out(name)]
    tokenizer = make_tokenizer(known)
    ids, held = encode(tokenizer, known), encode(tokenizer, unknown)
    bytes_a_token = sum(len(text.encode()) for text in unknown) / len(held)
    print(f"{len(ids):,} training tokens, {len(held):,} held out, {bytes_a_token:.2f} bytes a token", flush=True)

    trainers_done = {"target": train("target", ids, held, args)}
    trainers_done["draft"] = train("draft", ids, held, args, teacher=trainers_done["target"].module.eval())
    same, overlap = agreement(trainers_done["target"].module, trainers_done["draft"].module, held)
    print(f"draft and target: same arg-max {same:.3f}, overlap at temperature 1 {overlap:.3f} (held-out text)")
    for role, trainer in trainers_done.items():
        loss = held_out_loss(trainer.module.eval(), held)
        facts = {
            "text": f"standard library of Python {platform.python_version()}, {len(ids):,} tokens; {len(held):,} held out "
            "by module",
            "training": f"{trainer.step} steps, {trainer.seen:,} positions ({trainer.seen / len(ids):.1f} epochs), "
            f"{trainer.elapsed():.0f} s by the clock on one shared core, bfloat16 products",
            "held-out loss": f"{loss:.4f} nats a token, {loss / np.log(2) / bytes_a_token:.3f} bits a byte",
            "draft against target, held out": f"same arg-max {same:.3f}; sum of min(p, q) at temperature 1 {overlap:.3f}",
            "context": f"{CONTEXT} tokens",
        } | ({"note": args.note} if args.note else {})
        ship(role, trainer, tokenizer, args.out / role, facts)
        print(json.dumps({"model": f"lab-{role}", **facts}, indent=1))


if __name__ == "__main__":
    main()
