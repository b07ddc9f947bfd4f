"""Train the scene reader: a LLaVA-type checkpoint of 0.43 M parameters that answers questions about small pictures.

    python recipes/scene_reader.py            # checkpoints in work/scene_reader, goes on where it stopped

It is an ordinary `LlavaForConditionalGeneration`: one layer of a CLIP vision tower, a projector, eight GLM layers. Ten questions
share the picture's 64 tokens in one row: each sees the picture and itself, at the places it would have alone. Besides the
answers, each patch that shows a thing is asked, at the third layer, to name it in the words of the questions (training only):
without that the words and the pictures do not find each other.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer, models, pre_tokenizers
from training import Trainer
from transformers import (
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    GlmConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    PreTrainedTokenizerFast,
)

from workbench.data import digit_scenes as scenes

SEED, WIDTH, LAYERS, HEADS = 0, 64, 8, 2
PATCHES, ASKED, LENGTH = scenes.GRID**2, 10, 3
NAMED_AT = 3  # layer whose picture tokens are asked to name themselves
MEAN, SPREAD = 0.35, 1 / 3
ID = {piece: i for i, piece in enumerate(scenes.VOCABULARY)}
NOTHING = ID["of"]  # what a patch without a thing is called


def make_model() -> LlavaForConditionalGeneration:
    """Return the untrained model, the same for the same seed."""
    torch.manual_seed(SEED)
    vision = CLIPVisionConfig(
        hidden_size=WIDTH, intermediate_size=2 * WIDTH, num_hidden_layers=1, num_attention_heads=HEADS, image_size=scenes.SIDE,
        patch_size=scenes.PATCH, projection_dim=WIDTH,
    )  # fmt: skip
    text = GlmConfig(
        vocab_size=len(ID), hidden_size=WIDTH, intermediate_size=160, num_hidden_layers=LAYERS, num_attention_heads=HEADS,
        num_key_value_heads=HEADS, head_dim=WIDTH // HEADS, attention_bias=False, max_position_embeddings=128, rms_norm_eps=1e-5,
        tie_word_embeddings=True, pad_token_id=0, eos_token_id=0, bos_token_id=0,
        rope_parameters={"rope_type": "default", "rope_theta": 1000.0, "partial_rotary_factor": 0.5},
    )  # fmt: skip
    model = LlavaForConditionalGeneration(
        LlavaConfig(
            vision_config=vision,
            text_config=text,
            image_token_id=ID["<image>"],
            image_seq_length=PATCHES,
            projector_hidden_act="gelu",
            vision_feature_select_strategy="default",
            vision_feature_layer=-1,
        )
    )
    _start(model)
    return model


@torch.no_grad()
def _start(model: LlavaForConditionalGeneration) -> None:
    """Start where learning is quick: places as row + column, keys like queries, words of length one."""
    rows, columns = 0.4 * torch.randn(scenes.GRID, 1, WIDTH), 0.4 * torch.randn(1, scenes.GRID, WIDTH)
    tower = model.model.vision_tower
    tower.embeddings.position_embedding.weight[1:] = (rows + columns).reshape(PATCHES, WIDTH)
    tower.embeddings.patch_embedding.weight.normal_(0, 1.5 * (3 * scenes.PATCH**2) ** -0.5)
    language = model.model.language_model
    language.embed_tokens.weight.normal_(0, WIDTH**-0.5)
    for projector in (model.model.multi_modal_projector.linear_1, model.model.multi_modal_projector.linear_2):
        projector.weight.normal_(0, WIDTH**-0.5)
    for layer in language.layers:
        for name, matrix in layer.named_parameters():
            if matrix.ndim == 2:
                matrix.normal_(0, matrix.shape[1] ** -0.5 * (0.5 if "down" in name or "o_proj" in name else 1.0))
        layer.self_attn.k_proj.weight.copy_(layer.self_attn.q_proj.weight)


@dataclass
class Batch:
    """Scenes with ten questions each: pixels (B, 3, 64, 64), words (B, 10, 3), answers (B, 10), and what each patch shows.

    `named` (B, 64, 3) holds the ids of name, colour and place of a patch; `weight` (B, 64) how much its naming counts.
    """

    pixels: torch.Tensor
    words: torch.Tensor
    answers: torch.Tensor
    kinds: list[list[str]]
    named: torch.Tensor
    weight: torch.Tensor


def pixels_of(image: np.ndarray) -> np.ndarray:
    """Return what the image processor makes of a picture in [0, 1]: (3, 64, 64)."""
    return ((image - MEAN) / SPREAD).transpose(2, 0, 1).astype(np.float32)


def ten_questions(found: scenes.Scene, colour: str, rng: np.random.Generator, second_count: bool) -> list[scenes.Question]:
    """Return two questions of each kind; a kind that cannot be asked is replaced by its neighbour."""
    asked: list[scenes.Question] = []
    for kind in scenes.KINDS * 2:
        wanted = colour if kind == "count" and (len(asked) < len(scenes.KINDS) or not second_count) else ""
        question = scenes.ask(found, kind, rng, wanted) or scenes.ask(found, "colour", rng)
        assert question is not None
        asked.append(question)
    return asked


def make_batch(rng: np.random.Generator, size: int, step: int | None) -> Batch:
    """Return training scenes (a first stretch of easier ones), or held-out ones where step is None."""
    easy = step is not None and step < 150
    pixels, words, answers, kinds, named, weight = [], [], [], [], [], []
    for _ in range(size):
        colour, number = scenes.COLOURS[rng.integers(4)], int(rng.integers(0, 4 if easy else 5))
        found = scenes.scene(
            rng, held_out=step is None, count=(colour, number), most=3 if easy else scenes.MOST, doubled=0.1 if easy else 0.25
        )
        asked = ten_questions(found, colour, rng, second_count=step is not None)
        pixels.append(pixels_of(found.image))
        words.append([[ID[w] for w in q.words.split()] for q in asked])
        answers.append([ID[q.answer] for q in asked])
        kinds.append([q.kind for q in asked])
        label, heavy = _names(found)
        named.append(label)
        weight.append(heavy)
    tensors = (torch.tensor(np.stack(pixels)), torch.tensor(words), torch.tensor(answers))
    return Batch(*tensors, kinds, torch.tensor(np.stack(named)), torch.tensor(np.stack(weight)))


def _names(found: scenes.Scene) -> tuple[np.ndarray, np.ndarray]:
    """Return each patch's ids (64, 3) and weights (64,); a thing of four patches is named at the last of them."""
    label = np.full((PATCHES, 3), NOTHING)
    heavy = np.full(PATCHES, 0.1, np.float32)
    for thing in found.things:
        heavy[thing.patches] = 0.0
        last = thing.patches[-1]
        label[last] = ID[thing.name], ID[thing.colour], ID[thing.place]
        heavy[last] = 1.0
    return label, heavy


def packed(batch: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the mask (1, 1, 94, 94) and the places (1, 94) of a picture with ten questions behind it."""
    total = PATCHES + ASKED * LENGTH
    allowed = torch.ones(total, total, dtype=torch.bool).tril()
    group = (torch.arange(total) - PATCHES).div(LENGTH, rounding_mode="floor")
    words = torch.arange(total) >= PATCHES
    allowed &= ~(words[:, None] & words[None] & (group[:, None] != group[None]))
    places = torch.cat([torch.arange(PATCHES), PATCHES + torch.arange(LENGTH).repeat(ASKED)])
    return allowed[None, None].expand(batch, -1, -1, -1), places[None].expand(batch, -1)


def forward(model: LlavaForConditionalGeneration, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the logits of the answers (B, 10, V) and of the patches' names (B, 64, V)."""
    size, language = len(batch.pixels), model.model.language_model
    features = model.model.get_image_features(batch.pixels).pooler_output
    picture = torch.stack(list(features)).view(size, PATCHES, WIDTH)
    words = language.embed_tokens(batch.words.flatten(1))
    mask, places = packed(size)
    out = language(
        inputs_embeds=torch.cat([picture, words], 1), attention_mask=mask, position_ids=places, use_cache=False,
        output_hidden_states=True,
    )  # fmt: skip
    last = out.last_hidden_state[:, PATCHES:].view(size, ASKED, LENGTH, WIDTH)[:, :, -1]
    patch = F.rms_norm(out.hidden_states[NAMED_AT][:, :PATCHES], (WIDTH,))
    return model.lm_head(last), model.lm_head(patch)


def loss_of(model: LlavaForConditionalGeneration, batch: Batch) -> torch.Tensor:
    """Return the answers' loss plus the losses of naming (a sixth of that weight learns the digits many times slower), nats."""
    answers, names = forward(model, batch)
    loss = F.cross_entropy(answers.flatten(0, 1), batch.answers.flatten())
    groups = (scenes.NAMES, scenes.COLOURS, scenes.PLACES)
    for i, group in enumerate(groups):
        ids = torch.tensor([ID[p] for p in group] + [NOTHING])
        place = torch.full((len(ID),), -1)
        place[ids] = torch.arange(len(ids))
        each = F.cross_entropy(names[..., ids].flatten(0, 1), place[batch.named[..., i].flatten()], reduction="none")
        loss = loss + (each * batch.weight.flatten()).sum() / batch.weight.sum()
    return loss


@torch.inference_mode()
def accuracy(model: LlavaForConditionalGeneration, size: int, seed: int, blind: bool = False) -> dict[str, float]:
    """Return the share of right answers on held-out scenes, by kind; `blind` shows an empty picture."""
    rng, right = np.random.default_rng(seed), defaultdict(list)
    for _ in range(size // 64):
        batch = make_batch(rng, 64, None)
        if blind:
            batch.pixels = torch.zeros_like(batch.pixels)
        guess = forward(model, batch)[0].argmax(-1)
        for row, kinds in zip((guess == batch.answers).tolist(), batch.kinds, strict=True):
            for good, kind in zip(row, kinds, strict=True):
                right[kind].append(good)
    return {kind: float(np.mean(right[kind])) for kind in scenes.KINDS}


def rate(step: int, steps: int, peak: float) -> float:
    """Return the learning rate: forty steps up, constant to 30 %, then down in a line."""
    return peak * min(1.0, (step + 1) / 40, max(0.0, (steps - step) / (0.7 * steps)))


def train(args: argparse.Namespace) -> Trainer:
    """Return the trained model, going on from the last checkpoint."""
    model = make_model().train()
    trainer = Trainer(model, args.work / "reader.safetensors", lr=args.rate, muon=10.0, weight_decay=0.01)
    while trainer.step < args.steps:
        rng = np.random.default_rng([SEED, trainer.step])
        loss = loss_of(model, make_batch(rng, args.batch, trainer.step))
        trainer.update(loss, rate(trainer.step, args.steps, args.rate), args.batch * ASKED)
        if trainer.step % 200 == 0 or trainer.step == args.steps:
            found = {k: round(100 * v, 1) for k, v in accuracy(model.eval(), 256, 10**6).items()}
            model.train()
            line = f"step {trainer.step}/{args.steps}: loss {float(loss.detach()):.3f}, held out % {found}, {trainer.elapsed():.0f} s"
            print(line, flush=True)
            trainer.save()
    trainer.stop()
    return trainer


def make_tokenizer() -> PreTrainedTokenizerFast:
    """Return one piece for each word of the questions and answers."""
    words = Tokenizer(models.WordLevel(ID, unk_token="<pad>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="<pad>", eos_token="<pad>", unk_token="<pad>", additional_special_tokens=["<image>"],
        model_max_length=128,
    )  # fmt: skip


def ship(trainer: Trainer, folder: Path, facts: dict[str, object]) -> None:
    """Write weights, configuration, tokenizer, image processor and card."""
    folder.mkdir(parents=True, exist_ok=True)
    trainer.module.eval().save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    side = {"height": scenes.SIDE, "width": scenes.SIDE}
    CLIPImageProcessorPil(
        size={"shortest_edge": scenes.SIDE}, crop_size=side, image_mean=[MEAN] * 3, image_std=[SPREAD] * 3, resample=2
    ).save_pretrained(folder)
    lines = [
        "# scene-reader",
        "",
        f"A LLaVA-type model of {sum(p.numel() for p in trainer.module.parameters()):,} parameters that answers three-word questions",
        "about small pictures of coloured digits and shapes (`workbench.data.digit_scenes`). An ordinary checkpoint:",
        "`AutoModelForImageTextToText` loads this folder. It knows nothing else: of a photograph it sees only digits that are not there.",
        "",
        f"- made by: `python recipes/scene_reader.py`, seed {SEED}; licence Apache-2.0",
        "- pictures: digits of scikit-learn (BSD-3), textures from sinusoids and photographs of scikit-image",
        *(f"- {name}: {value}" for name, value in facts.items()),
        "",
    ]
    (folder / "README.md").write_text("\n".join(lines), encoding="utf-8")


def percent(found: dict[str, float]) -> str:
    """Return accuracies as a line of text."""
    return ", ".join(f"{kind} {100 * value:.1f} %" for kind, value in found.items())


def main() -> None:
    """Train, print held-out accuracies, write the checkpoint."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("work/scene_reader"), help="folder of the checkpoints")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent.parent / "workbench" / "models" / "scenes" / "reader")
    parser.add_argument("--steps", type=int, default=5000)
    parser.add_argument("--batch", type=int, default=16, help="scenes a step, ten questions each")
    parser.add_argument("--rate", type=float, default=2e-3, help="AdamW's learning rate; Muon's is ten times that")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    trainer = train(args)
    model = trainer.module.eval()
    facts = {
        "training": f"{trainer.step} steps of {args.batch} scenes, {trainer.seen:,} answers, {trainer.elapsed():.0f} s by the clock on "
        "one shared core; AdamW, and Muon for the layers' matrices",
        "held out (2048 new scenes, glyphs never trained on)": percent(accuracy(model, 2048, 2 * 10**6)),
        "blind (the same questions, an empty picture)": percent(accuracy(model, 2048, 2 * 10**6, blind=True)),
    }
    ship(trainer, args.out, facts)
    print(json.dumps(facts, indent=1))


if __name__ == "__main__":
    main()
