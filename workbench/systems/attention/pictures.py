"""What papers that prune picture tokens share: the picture of a run, an exam with true answers, rules to compare with, costs.

`share` is the mean over all layers of the share of picture tokens that are there, the first layer included: the *budget* of every
method here. Accuracy is that of the right word at the end of the question, on scenes and glyphs that the model never saw.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from workbench import models
from workbench.data import digit_scenes as scenes
from workbench.errors import InputError, expected
from workbench.instruments.vision import Glance, Progress, Rule, Scores, VisionReader
from workbench.meters import wilson
from workbench.models.devices import device_of

PHOTOGRAPHS = ("astronaut", "coffee", "chelsea", "rocket")
PICTURES = ("scene", *PHOTOGRAPHS)
DEFAULT_QUESTION = "auto"
EXAM_SEED = 40_000  # scenes of the exam; no recipe draws from it


@dataclass(frozen=True)
class Picture:
    """What a run looks at: `image` (h, w, 3) fp32 in [0, 1], the question, and for a scene the true answer and asked patches."""

    image: np.ndarray
    question: str
    answer: str = ""
    asked: tuple[int, ...] = ()


def picture(image: Any, question: str, seed: int) -> Picture:
    """Return the picture and question of a run.

    Args:
        image: "scene" (made from the seed, with a true answer), the name of a photograph, or an (h, w, 3) array in [0, 1].
        question: three words; "auto" asks something that the scene can answer ("count of red" of other pictures).
        seed: decides scene and question.
    """
    rng = np.random.default_rng([seed, 1])
    if isinstance(image, str) and image == "scene":
        found, asked = next(iter(scenes.examples(EXAM_SEED + 7 * seed, 1, kinds=(scenes.KINDS[int(rng.integers(3))],))))
        if question in ("", DEFAULT_QUESTION, asked.words):
            return Picture(found.image, asked.words, asked.answer, tuple(p for t in asked.about for p in t.patches))
        about = _about(found, question)
        return Picture(found.image, question, *about)
    shown = scenes.photograph(image) if isinstance(image, str) else np.asarray(image, np.float32)
    if shown.ndim != 3 or shown.shape[2] != 3 or min(shown.shape[:2]) < 2 or not np.isfinite(shown).all():
        raise InputError(expected("image", "(h, w, 3) finite numbers in [0, 1], at least 2 x 2", f"shape {shown.shape}"))
    return Picture(_square(shown), "count of red" if question in ("", DEFAULT_QUESTION) else question)


def _square(image: np.ndarray) -> np.ndarray:
    """Return the middle square: what the image processor looks at."""
    side = min(image.shape[:2])
    top, left = (image.shape[0] - side) // 2, (image.shape[1] - side) // 2
    return image[top : top + side, left : left + side]


def _about(found: scenes.Scene, question: str) -> tuple[str, tuple[int, ...]]:
    """Return (true answer, asked patches) of a question about a scene; empty where the scene does not settle it."""
    words = question.split()
    by_name = {t.name: t for t in found.things}
    if len(words) == 3 and words[1] == "of":
        kind, what = words[0], words[2]
        if kind in ("colour", "place") and what in by_name:
            return getattr(by_name[what], kind), tuple(by_name[what].patches)
        things = found.coloured(what)
        if kind == "count" and what in scenes.COLOURS:
            return str(len(things)), tuple(p for t in things for p in t.patches)
        if kind == "name" and len(things) == 1:
            return things[0].name, tuple(things[0].patches)
    if len(words) == 3 and words[1] == "left" and words[0] in by_name and words[2] in by_name:
        a, b = by_name[words[0]], by_name[words[2]]
        return ("yes" if a.column < b.column else "no"), (*a.patches, *b.patches)
    return "", ()


# ---- the exam --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Exam:
    """Questions with known answers: `glance` of all of them, answers' ids (B,), kinds (B,), and asked patches (B, N) bool."""

    glance: Glance
    answers: Any
    kinds: np.ndarray
    asked: Any

    def part(self, first: int, last: int) -> Exam:
        """Return questions [first, last)."""
        g = self.glance
        rows = slice(first, last)
        cut = Glance(g.embeds[rows], g.first, g.patches, g.grid, g.ids[rows])
        return Exam(cut, self.answers[rows], self.kinds[rows], self.asked[rows])


@functools.lru_cache(maxsize=8)
def exam(reader: VisionReader, number: int, seed: int, kinds: tuple[str, ...] = scenes.KINDS) -> Exam:
    """Return `number` questions about scenes that no training saw, kinds in turn; the same for the same seed.

    Raises:
        InputError: the model does not know the words of the questions.
    """
    import torch

    found = list(scenes.examples(EXAM_SEED + 1000 + seed, number, kinds=kinds))  # type: ignore[arg-type]
    answers = [reader.question_ids(q.answer) for _, q in found]
    if any(len(a) != 1 for a in answers):
        raise InputError(
            expected("model", "one token for each answer of the exam", f"{reader.loaded.name}", "", "Use scene-reader")
        )
    with torch.inference_mode():
        first = reader.glance([found[0][0].image], [found[0][1].words])  # of a large model all of them would take an hour
        if first.patches != scenes.GRID**2:
            wanted = f"{scenes.GRID**2} picture tokens, one for each patch of a scene"
            raise InputError(expected("model", wanted, first.patches, "", "Use scene-reader"))
        glance = reader.glance([s.image for s, _ in found], [q.words for _, q in found])
    asked = torch.zeros(number, scenes.GRID**2, dtype=torch.bool, device=reader.device)
    for row, (_, question) in enumerate(found):
        for thing in question.about:
            asked[row, thing.patches] = True
    return Exam(glance, torch.tensor([a[0] for a in answers], device=reader.device), np.array([q.kind for _, q in found]), asked)


@functools.lru_cache(maxsize=4)
def reader_of(loaded: Any, device: Any) -> VisionReader:
    """Return the reader of a loaded model that lies on a device, made (and checked against the model's own pass) once."""
    return VisionReader(loaded)


def open_reader(model: Any) -> VisionReader:
    """Return the reader of a model by name.

    Raises:
        ModelError: it is no vision-language model that can be run layer by layer.
    """
    loaded = models.load(model)
    return reader_of(loaded, device_of(loaded.model))


@dataclass(frozen=True)
class Outcome:
    """What an exam under a rule gave: right or wrong and log-probability of the right word for each question, tokens kept.

    Attributes:
        right: (B,) bool. logprob: (B,) nats. kept: (L, B) picture tokens that each layer saw.
    """

    right: np.ndarray
    logprob: np.ndarray
    kept: np.ndarray
    patches: int

    @property
    def accuracy(self) -> float:
        return float(self.right.mean())

    @property
    def share(self) -> float:
        """Mean over layers and questions of the share of picture tokens that were there."""
        return float(self.kept.mean() / self.patches)

    @property
    def counts(self) -> np.ndarray:
        """Tokens in each layer, mean over questions: (L,)."""
        return self.kept.mean(1)

    def interval(self) -> tuple[float, float]:
        """Return Wilson's 95 % interval of the accuracy."""
        return wilson(int(self.right.sum()), len(self.right))


def outcome(exam: Exam, logits: Any, state: Progress) -> Outcome:
    """Return what a finished run of the exam gave."""
    import torch

    with torch.inference_mode():
        law = logits.float().log_softmax(-1)
        right = law.argmax(-1) == exam.answers
        picked = law.gather(1, exam.answers[:, None])[:, 0]
        kept = torch.stack([k.float() for k in state.kept])
    return Outcome(right.cpu().numpy(), picked.cpu().numpy(), kept.cpu().numpy(), exam.glance.patches)


def sit(reader: VisionReader, exam: Exam, rule: Rule | None = None, **how: Any) -> Outcome:
    """Return the outcome of an exam under a rule (see `VisionReader.advance` for `how`)."""
    import torch

    with torch.inference_mode():
        logits, state = reader.answer(exam.glance, rule, **how)
    return outcome(exam, logits, state)


# ---- rules -----------------------------------------------------------------------------------------------------------


def best(score: Any, alive: Any, count: int) -> Any:
    """Return the `count` best tokens that are alive, (B, N) bool; the first of equals."""
    import torch

    order = score.masked_fill(~alive, -torch.inf).argsort(dim=-1, descending=True, stable=True)
    keep = torch.zeros_like(alive)
    return keep.scatter(1, order[:, :count], True) & alive


Ranking = Callable[[Scores], Any]


def by_text(scores: Scores) -> Any:
    """Rank by how much the question looks at a token."""
    return scores.cross


def by_picture(scores: Scores) -> Any:
    """Rank by how much the picture's own tokens look at a token."""
    return scores.own


def by_chance(seed: int) -> Ranking:
    """Rank by chance, the same order in every layer."""
    import torch

    def rank(scores: Scores) -> Any:
        drawn = torch.rand(scores.cross.shape, generator=torch.Generator().manual_seed(seed))  # the same on every device
        return drawn.to(scores.cross.device)

    return rank


def by_grid(grid: tuple[int, int]) -> Ranking:
    """Rank so that any prefix is spread evenly over the picture: coarse grids first (bit-reversed rows and columns)."""
    import torch

    rows, columns = grid
    spread = np.zeros(grid)
    for r in range(rows):
        for c in range(columns):
            spread[r, c] = max(_fineness(r, rows), _fineness(c, columns)) + (r * columns + c) / (1e3 * rows * columns)
    flat = torch.tensor(-spread.reshape(1, -1))
    return lambda scores: flat.to(scores.cross.device).expand(scores.cross.shape[0], -1)


def _fineness(at: int, size: int) -> int:
    """Return how many halvings of the grid it takes until this row is on it."""
    stride, depth = 1 << max(0, (size - 1).bit_length()), 0
    while at % stride:
        stride, depth = stride // 2, depth + 1
    return depth


def by_truth(asked: Any) -> Ranking:
    """Rank the asked patches first: what a perfect method would keep (an oracle, not a method)."""
    return lambda scores: asked.float()


def scheduled(counts: Sequence[int], ranking: Ranking = by_text) -> tuple[Rule, list[int]]:
    """Return (rule, layers to ask it after) that keeps counts[l] picture tokens in layer l; counts never grow.

    Raises:
        InputError: a count grows with depth.
    """
    if any(b > a for a, b in pairwise(counts)):
        raise InputError(expected("schedule", "kept tokens that never grow with depth", list(counts)))
    at = [layer for layer in range(len(counts) - 1) if counts[layer + 1] < counts[layer]]

    def rule(scores: Scores) -> Any:
        last = scores.layer + 1 >= len(counts)
        return None if last else best(ranking(scores), scores.alive, counts[scores.layer + 1])

    return rule, at


def holding(tau: float) -> Rule:
    """Return ZipVL's rule for picture tokens: the fewest that hold the share tau of what the question sees of the picture."""
    import torch

    def rule(scores: Scores) -> Any:
        order = scores.cross.argsort(dim=-1, descending=True, stable=True)
        sorted_mass = scores.cross.gather(1, order)
        before = sorted_mass.cumsum(-1) - sorted_mass
        needed = before < tau * sorted_mass.sum(-1, keepdim=True) * (1 - 1e-6)
        needed[:, 0] = True
        return torch.zeros_like(scores.alive).scatter(1, order, needed)

    return rule


# ---- costs -----------------------------------------------------------------------------------------------------------


def layer_macs(config: Any, tokens: float) -> float:
    """Return multiply-adds of one llama-type layer on `tokens` tokens, the whole square of attention counted."""
    width, inner = config.hidden_size, config.intermediate_size
    head = getattr(config, "head_dim", None) or width // config.num_attention_heads
    queries, keys = config.num_attention_heads * head, config.num_key_value_heads * head
    return tokens * (2 * width * queries + 2 * width * keys + 3 * width * inner) + 2 * tokens * tokens * queries


def macs(config: Any, counts: Sequence[float], text: int) -> float:
    """Return multiply-adds of all layers when layer l sees counts[l] picture tokens and `text` others."""
    return float(sum(layer_macs(config, c + text) for c in counts))


def cache_bytes(config: Any, counts: Sequence[float], text: int, width: int = 2) -> float:
    """Return bytes of keys and values of all layers, `width` bytes a number."""
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return float(sum(2 * (c + text) * config.num_key_value_heads * head * width for c in counts))
