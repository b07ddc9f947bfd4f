"""Train the small mixtures of experts: 4 layers, experts in the 2nd and 4th, top 2 of 8 or 16, on four kinds of text.

    python recipes/small_moe.py --experts 8                # checkpoints in work/small_moe, goes on where it stopped
    python recipes/small_moe.py --experts 16
    python recipes/small_moe.py --experts 8 --free         # without the load-balance and z losses (only its probes are shipped)

An ordinary `Qwen2MoeForCausalLM`: its shared expert is the dense path that OpenMoE keeps beside the experts, its weights are not
renormalised. At ten steps spaced evenly in their logarithm the router's logits on a fixed probe of held-out text are kept.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.numpy import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from training import Trainer, cosine
from transformers import PreTrainedTokenizerFast, Qwen2MoeConfig, Qwen2MoeForCausalLM

from workbench.data import domains
from workbench.systems.routing.losses import load_balance, z_loss

SEED, VOCAB, WIDTH, LAYERS, LENGTH, TOP_K = 0, 1024, 128, 4, 128, 2
PROBES, CHECKPOINTS = 8, 10  # windows of each domain, kept checkpoints
HERE = Path(__file__).resolve().parent.parent / "workbench" / "models" / "moe"


def make_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """Return a byte-pair tokenizer of 1024 pieces learnt on the training side of the four domains."""
    path = folder / "tokenizer.json"
    if path.exists():
        pieces = Tokenizer.from_file(str(path))
    else:
        pieces = Tokenizer(models.BPE())
        pieces.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
        )
        pieces.decoder = decoders.ByteLevel()
        learner = trainers.BpeTrainer(
            vocab_size=VOCAB,
            special_tokens=["<|end|>"],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        pieces.train_from_iterator((domains.text_of(d, held_out=False)[:400_000] for d in domains.DOMAINS), learner)
        pieces.save(str(path))
    return PreTrainedTokenizerFast(tokenizer_object=pieces, eos_token="<|end|>", model_max_length=1024)


def make_model(experts: int) -> Qwen2MoeForCausalLM:
    """Return the untrained model; 16 experts are half as wide as 8, so that both hold as many parameters."""
    torch.manual_seed(SEED)
    config = Qwen2MoeConfig(
        vocab_size=VOCAB, hidden_size=WIDTH, intermediate_size=256, num_hidden_layers=LAYERS, num_attention_heads=4,
        num_key_value_heads=4, max_position_embeddings=1024, tie_word_embeddings=True, num_experts=experts,
        num_experts_per_tok=TOP_K, moe_intermediate_size=2048 // experts, shared_expert_intermediate_size=256,
        decoder_sparse_step=2, norm_topk_prob=False, initializer_range=0.05, eos_token_id=0, bos_token_id=0, pad_token_id=None,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
    )  # fmt: skip
    return Qwen2MoeForCausalLM(config)


def corpora(tokenizer: PreTrainedTokenizerFast, folder: Path) -> list[np.ndarray]:
    """Return the training side of each domain as ids, at most 3 M characters of each."""
    path = folder / "corpora.npz"
    if not path.exists():
        texts = [domains.text_of(d, held_out=False)[:3_000_000] for d in domains.DOMAINS]
        ids = [
            np.concatenate(
                [
                    np.asarray(tokenizer.backend_tokenizer.encode(t[i : i + 50_000]).ids, np.int16)
                    for i in range(0, len(t), 50_000)
                ]
            )
            for t in texts
        ]
        np.savez(path, *ids)
    with np.load(path) as file:
        return [file[name] for name in file.files]


def make_batch(texts: list[np.ndarray], size: int, step: int) -> torch.Tensor:
    """Return (size, LENGTH + 1) ids, every domain equally often; the same for the same step."""
    rng = np.random.default_rng([SEED, step])
    rows = []
    for i in range(size):
        text = texts[i % len(texts)]
        start = rng.integers(0, len(text) - LENGTH - 1)
        rows.append(text[start : start + LENGTH + 1].astype(np.int64))
    return torch.from_numpy(np.stack(rows))


def probe(tokenizer: PreTrainedTokenizerFast) -> np.ndarray:
    """Return the fixed held-out windows, (4 * PROBES, LENGTH + 1), domain after domain."""
    return np.concatenate([domains.windows(d, tokenizer.encode, PROBES, LENGTH + 1, seed=1) for d in domains.DOMAINS])


class Logits:
    """Collects the router logits of each expert layer by hooks on this recipe's own model."""

    def __init__(self, model: Qwen2MoeForCausalLM) -> None:
        self.seen: list[torch.Tensor] = []
        for layer in model.model.layers:
            if hasattr(layer.mlp, "gate"):
                layer.mlp.gate.register_forward_hook(lambda module, given, out: self.seen.append(out[0]))

    def take(self) -> list[torch.Tensor]:
        """Return and forget what was seen."""
        taken, self.seen = self.seen, []
        return taken


@torch.inference_mode()
def measure(model: Qwen2MoeForCausalLM, logits: Logits, held: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return router logits (layers, tokens, E) fp16 and the loss of each window (nats per token)."""
    model.eval()
    rows = torch.from_numpy(held)
    out = model(input_ids=rows[:, :-1]).logits
    losses = F.cross_entropy(out.flatten(0, 1), rows[:, 1:].flatten(), reduction="none").view(len(held), -1).mean(1)
    model.train()
    return torch.stack(logits.take()).to(torch.float16).numpy(), losses.numpy()


def kept_steps(steps: int) -> list[int]:
    """Return the ten steps at which probes are kept, evenly spaced in their logarithm, the last included."""
    return [round(s) for s in np.geomspace(8, steps, CHECKPOINTS)]


def train(args: argparse.Namespace, tokenizer: PreTrainedTokenizerFast) -> tuple[Trainer, dict[str, np.ndarray]]:
    """Return the trained model and its probes by name, going on from the last checkpoint."""
    name = f"moe{args.experts}{'_free' if args.free else ''}"
    model = make_model(args.experts).train()
    logits, texts, held = Logits(model), corpora(tokenizer, args.work), probe(tokenizer)
    trainer = Trainer(model, args.work / f"{name}.safetensors", lr=args.rate, muon=5.0, weight_decay=0.01)
    kept = args.work / f"{name}_probes.safetensors"
    found: dict[str, np.ndarray] = load_file(kept) if kept.exists() else {}
    balance, z = (0.0, 0.0) if args.free else (args.balance, args.z)
    while trainer.step < args.steps:
        batch = make_batch(texts, args.batch, trainer.step)
        out = model(input_ids=batch[:, :-1]).logits
        routed = logits.take()
        loss = F.cross_entropy(out.flatten(0, 1), batch[:, 1:].flatten())
        even = torch.stack([load_balance(layer, TOP_K) for layer in routed]).mean()
        size = torch.stack([z_loss(layer) for layer in routed]).mean()
        trainer.update(loss + balance * even + z * size, cosine(trainer.step, args.steps, args.rate, warmup=40), batch.numel())
        if trainer.step in kept_steps(args.steps):
            probes, losses = measure(model, logits, held)
            row = np.array([trainer.step, *(float(v.detach()) for v in (loss, even, size)), *losses], np.float64)
            found |= {f"logits.{trainer.step}": probes, f"losses.{trainer.step}": row}
            save_file(found, kept)
            trainer.save()
        if trainer.step % 25 == 0:
            print(
                f"{name} step {trainer.step}/{args.steps}: loss {loss.item():.3f}, balance {even.item():.3f}, z {size.item():.2f}, {trainer.elapsed():.0f} s",
                flush=True,
            )
        if trainer.step % 100 == 0:
            trainer.save()
    trainer.stop()
    trainer.save()
    return trainer, found


def ship(args: argparse.Namespace, trainer: Trainer, tokenizer: PreTrainedTokenizerFast, found: dict[str, np.ndarray]) -> None:
    """Write probes; for the trained-with-losses models also weights (fp16), configuration, tokenizer and card."""
    folder = args.out / f"e{args.experts}"
    folder.mkdir(parents=True, exist_ok=True)
    found = found | {"tokens": probe(tokenizer).astype(np.int16)}
    save_file(found, folder / ("probes_free.safetensors" if args.free else "probes.safetensors"))
    facts = card_facts(args, trainer, found)
    (folder / ("facts_free.json" if args.free else "facts.json")).write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    if not args.free:
        trainer.module.eval().to(torch.float16).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    write_card(folder, args.experts, trainer.module)
    print(json.dumps(facts, indent=1))


def card_facts(args: argparse.Namespace, trainer: Trainer, found: dict[str, np.ndarray]) -> dict[str, str]:
    """Return what the card says, as sentences by name."""
    last = found[f"losses.{args.steps}"]
    by_domain = last[4:].reshape(len(domains.DOMAINS), PROBES).mean(1)
    weights = "none" if args.free else f"load balance {args.balance:g}, router z {args.z:g}"
    return {
        "training": f"{trainer.step} steps of {args.batch} x {LENGTH} tokens, {trainer.seen:,} tokens, {trainer.elapsed():.0f} s by the clock on "
        f"one shared core, seed {SEED}; AdamW, and Muon for the layers' matrices",
        "losses of the router": weights,
        "at the end (training batch)": f"loss {last[1]:.3f} nats per token, load balance {last[2]:.3f} (k = {TOP_K} at balance), z {last[3]:.2f}",
        "held out, nats per token": ", ".join(f"{d} {v:.2f}" for d, v in zip(domains.DOMAINS, by_domain, strict=True)),
    }


def write_card(folder: Path, experts: int, model: torch.nn.Module) -> None:
    """Write README.md from the facts that lie in the folder."""
    lines = [
        f"# moe-{experts}",
        "",
        f"A mixture of experts of {sum(p.numel() for p in model.parameters()):,} parameters: 4 layers, experts in the 2nd and the 4th, top {TOP_K} of {experts}, a shared",
        "expert beside them. An ordinary `Qwen2MoeForCausalLM` checkpoint (weights stored in 16 bits). It has seen plays, Python source,",
        "Python's help topics and sums, and knows nothing else.",
        "",
        f"- made by: `python recipes/small_moe.py --experts {experts}`; licence Apache-2.0",
        "- text: `workbench.data.domains` (Python's own sources and help: PSF licence), training side of the split",
        "- `probes.safetensors`: router logits (layers, tokens, experts) on 32 held-out windows at ten steps of the training",
    ]
    for name, title in (("facts.json", ""), ("facts_free.json", "without router losses (`--free`), ")):
        if (folder / name).exists():
            lines += [f"- {title}{k}: {v}" for k, v in json.loads((folder / name).read_text("utf-8")).items()]
    (folder / "README.md").write_text("\n".join([*lines, ""]), encoding="utf-8")


def main() -> None:
    """Train and write the checkpoint with its probes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("work/small_moe"), help="folder of the checkpoints")
    parser.add_argument("--out", type=Path, default=HERE)
    parser.add_argument("--experts", type=int, choices=(8, 16), default=8)
    parser.add_argument("--free", action="store_true", help="without the load-balance and z losses")
    parser.add_argument("--balance", type=float, default=0.01, help="weight of the load-balance loss")
    parser.add_argument("--z", type=float, default=1e-4, help="weight of the router's z-loss")
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--batch", type=int, default=16, help="windows a step")
    parser.add_argument("--rate", type=float, default=2e-3, help="AdamW's learning rate; Muon's is five times that")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    tokenizer = make_tokenizer(args.work)
    trainer, found = train(args, tokenizer)
    ship(args, trainer, tokenizer, found)


if __name__ == "__main__":
    main()
