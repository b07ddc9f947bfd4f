"""Run a vision-language model layer by layer, and leave picture tokens out on the way.

Any LLaVA-type checkpoint whose text model is of the llama family: the picture's tokens stand in one stretch of the text. Between
two layers a rule sees how much each picture token is looked at and says which stay. A token that leaves is gone from all later
layers and caches; those that stay keep their places. Two modes do the same: "remove" takes tokens out (what an engine does),
"mask" keeps them in the array and hides them from everybody else (what a batch needs, and training).
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from workbench.errors import InputError, ModelError, expected
from workbench.instruments import taps
from workbench.models.devices import device_of
from workbench.models.hub import LoadedModel

MOST_PIXELS = 20_000_000  # an upload of as many is refused before it is decoded


@dataclass(frozen=True)
class Glance:
    """Pictures and questions, embedded and ready for the first layer.

    Attributes:
        embeds: (B, T, d) tensor. first, patches: where the picture's tokens start and how many there are, the same in
            every row. grid: (rows, columns) of the patches. ids: (B, T) token ids, the picture's as place-holders.
    """

    embeds: Any
    first: int
    patches: int
    grid: tuple[int, int]
    ids: Any

    @property
    def length(self) -> int:
        """T: picture and text tokens."""
        return int(self.embeds.shape[1])


@dataclass(frozen=True)
class Scores:
    """How much each picture token was looked at in a layer, mean over heads.

    Attributes:
        layer: index of the layer. cross: (B, N), by the text behind the picture, mean over its tokens.
        own: (B, N), by the picture's own tokens, mean over those alive (in causal models a token is seen by later ones only);
            None if not asked.
        alive: (B, N) bool, tokens still there.
    """

    layer: int
    cross: Any
    own: Any
    alive: Any


@dataclass
class Progress:
    """A run between two layers.

    Attributes:
        hidden: (B, T', d), T' < T once tokens were removed. alive: (B, N) bool tensor, or soft masks in [0, 1] in training.
        layer: the next layer to run. where: (T',) places of the rows that are left. kept: alive tokens of each layer run
            so far, (B,) each. scores: of each layer that was asked for.
    """

    hidden: Any
    alive: Any
    layer: int
    where: Any
    kept: list[Any] = field(default_factory=list)
    scores: list[Scores] = field(default_factory=list)


#: After a layer: which picture tokens stay, (B, N) bool (or soft masks in training); None: all that were there.
Rule = Callable[[Scores], Any]


class VisionReader:
    """A vision-language model whose layers can be run one after the other.

    Args:
        loaded: from `models.load`.

    Raises:
        ModelError: it reads no pictures, or its layers cannot be run one by one with the same result.
    """

    def __init__(self, loaded: LoadedModel) -> None:
        if getattr(getattr(loaded.model, "config", None), "vision_config", None) is None:
            raise ModelError(
                expected("model", "a vision-language model", f"{loaded.name!r}, which reads text only", "", "Use scene-reader")
            )
        self.loaded, self.model = loaded, taps.view(loaded.model)
        self.text = taps.decoder(self.model)
        self.image_token = int(self.model.config.image_token_id)
        if not all(hasattr(self.text, name) for name in ("layers", "rotary_emb", "norm", "embed_tokens")):
            raise ModelError(
                f"{loaded.name}: its layers cannot be run one by one. Choose a LLaVA-type model on a llama-type text model."
            )
        self.layers = len(self.text.layers)
        self.device = device_of(self.model)
        _verify(self)

    # ---- input -------------------------------------------------------------------------------------------------------

    def pixels(self, image: np.ndarray) -> Any:
        """Return what the model's image processor makes of a picture: (1, 3, H, W) tensor on the model's device.

        Args:
            image: (h, w, 3) fp32 in [0, 1].
        """
        import torch

        processor = self.loaded.image_processor
        if processor is None:
            raise ModelError(
                f"{self.loaded.name}: no image processor came with the checkpoint. Use a folder with preprocessor_config.json."
            )
        picture = np.clip(image * 255, 0, 255).round().astype(np.uint8)
        return torch.as_tensor(np.asarray(processor(picture, return_tensors="np")["pixel_values"])).to(self.device)

    def glance(self, images: Sequence[np.ndarray], questions: Sequence[str]) -> Glance:
        """Return pictures and questions embedded; all questions of a batch have the same number of tokens.

        Raises:
            InputError: a question is empty, unreadable, or of another length than its neighbours.
        """
        import torch

        return self.embed(torch.cat([self.pixels(image) for image in images]), [self.question_ids(q) for q in questions])

    def question_ids(self, question: str) -> list[int]:
        """Return the ids of a question, the picture's place-holders left out.

        Raises:
            InputError: it is empty, or a word is not in the model's vocabulary.
        """
        tokenizer = self.loaded.tokenizer
        ids = list(tokenizer.encode(question, add_special_tokens=False))
        if not ids:
            raise InputError(expected("question", "some words", "an empty text", "", "Ask something"))
        unknown = tokenizer.unk_token_id
        if unknown is not None and unknown in ids:
            words = [w for w in question.split() if tokenizer.convert_tokens_to_ids(w) == unknown]
            raise InputError(expected("question", "words that the model knows", ", ".join(words) or question, "", self._hint()))
        return ids

    def _hint(self) -> str:
        known = [t for t in self.loaded.tokenizer.get_vocab() if not t.startswith("<")]
        return f"It knows {', '.join(sorted(known))}" if len(known) < 60 else "Rephrase it"

    def embed(self, pixels: Any, questions: Sequence[Sequence[int]]) -> Glance:
        """Return pictures (B, 3, H, W) and questions (B lists of ids) embedded, the picture first."""
        import torch

        if len({len(q) for q in questions}) != 1:
            raise InputError(
                expected("questions", "the same number of tokens in every row of a batch", [len(q) for q in questions])
            )
        features = torch.stack([f.reshape(-1, f.shape[-1]) for f in self.model.model.get_image_features(pixels).pooler_output])
        if features.shape[0] != len(questions):
            features = features.reshape(len(questions), -1, features.shape[-1])
        patches = features.shape[1]
        words = torch.tensor(list(map(list, questions)), device=self.device)
        prefix = torch.full((len(questions), patches), self.image_token, device=self.device)
        written = self.text.embed_tokens(words)
        embeds = torch.cat([features.to(written), written], 1)
        side = round(patches**0.5)
        grid = (side, side) if side * side == patches else (1, patches)
        return Glance(embeds, 0, patches, grid, torch.cat([prefix, words], 1))

    # ---- layers ------------------------------------------------------------------------------------------------------

    def start(self, glance: Glance) -> Progress:
        """Return a run before its first layer."""
        import torch

        rows = glance.embeds.shape[0]
        alive = torch.ones(rows, glance.patches, dtype=torch.bool, device=glance.embeds.device)
        return Progress(glance.embeds, alive, 0, torch.arange(glance.length, device=glance.embeds.device))

    def advance(
        self,
        glance: Glance,
        state: Progress,
        until: int | None = None,
        rule: Rule | None = None,
        *,
        at: Sequence[int] = (),
        mode: str = "mask",
        own: bool = False,
        inside: bool = False,
    ) -> Progress:
        """Return the run after some more layers; the state given is left as it is.

        Args:
            until: run layers below this one; None: all.
            rule: asked after each layer in `at` (with `inside`: within it, before its attention is summed; tokens that it
                leaves out come back in the next layer).
            mode: "remove" or "mask"; "remove" takes one picture at a time.
            own: also score how the picture's tokens look at each other.
        """
        if mode == "remove" and glance.embeds.shape[0] != 1:
            raise InputError(
                expected("batch", "one picture when tokens are removed", glance.embeds.shape[0], "", 'Use mode="mask"')
            )
        state = replace(state, kept=list(state.kept), scores=list(state.scores))
        for layer in range(state.layer, self.layers if until is None else until):
            watch = _Watch(glance, state, own, rule if inside and layer in at else None, wanted=layer in at)
            with taps.attending(watch):
                hidden = self._layer(layer, state)
            state.kept.append(watch.counted)
            state.hidden, state.layer = hidden, layer + 1
            if watch.scores is None:
                continue
            state.scores.append(watch.scores)
            chosen = rule(watch.scores) if rule is not None and not inside else None
            if chosen is not None:
                self._leave(glance, state, chosen, mode)
        return state

    def _layer(self, layer: int, state: Progress) -> Any:
        places = state.where[None]
        turned = self.text.rotary_emb(state.hidden, position_ids=places)
        out = self.text.layers[layer](
            state.hidden, attention_mask=None, position_embeddings=turned, position_ids=places, use_cache=False
        )
        return out[0] if isinstance(out, tuple) else out

    @staticmethod
    def _leave(glance: Glance, state: Progress, chosen: Any, mode: str) -> None:
        """Let picture tokens go for good."""
        import torch

        if state.alive.dtype == torch.bool and chosen.dtype == torch.bool:
            chosen = chosen & state.alive
        elif chosen.dtype != torch.bool:
            chosen = chosen * state.alive
        if mode == "remove":
            stays = torch.ones(glance.length, dtype=torch.bool, device=chosen.device)
            stays[glance.first : glance.first + glance.patches] = chosen[0]
            rows = stays[state.where]
            state.hidden, state.where = state.hidden[:, rows], state.where[rows]
        state.alive = chosen

    def finish(self, state: Progress) -> Any:
        """Return the logits (B, V) of the token after the last one."""
        return self.model.lm_head(self.text.norm(state.hidden[:, -1]))

    def answer(self, glance: Glance, rule: Rule | None = None, **how: Any) -> tuple[Any, Progress]:
        """Return (logits (B, V), the whole run)."""
        state = self.advance(glance, self.start(glance), None, rule, **how)
        return self.finish(state), state


class _Watch:
    """Answers the attention of one layer: hides tokens that left, and notes who was looked at."""

    def __init__(self, glance: Glance, state: Progress, own: bool, rule: Rule | None, wanted: bool) -> None:
        self.glance, self.state, self.own, self.rule, self.wanted = glance, state, own, rule, wanted
        self.scores: Scores | None = None
        self.counted = state.alive.sum(-1)

    def __call__(self, call: taps.Call) -> Any:
        import torch

        if not call.plain:
            raise ModelError(
                f"layer {call.layer} caps its scores or sees a part of the past only; scores of tokens would be wrong."
            )
        if self.wanted:
            self.scores = self._score(call)
        alive = self.state.alive
        if self.rule is not None and self.scores is not None:
            alive = self.rule(self.scores) & alive
            self.counted = alive.sum(-1)
        call.mask = self._mask(call, alive)
        if call.mask.dtype == torch.bool:
            call.mask = torch.zeros_like(call.mask, dtype=call.query.dtype).masked_fill(~call.mask, -torch.inf)
        return call.dense()

    def _mask(self, call: taps.Call, alive: Any) -> Any:
        """Return who sees whom (B, 1, T', T'): everybody itself and, before it, all that are there; soft masks as logarithms."""
        import torch

        where, glance = self.state.where, self.glance
        causal = where[None] <= where[:, None]
        there = torch.ones(alive.shape[0], glance.length, dtype=alive.dtype, device=alive.device)
        there[:, glance.first : glance.first + glance.patches] = alive
        there = there[:, where]
        self_loop = torch.eye(len(where), dtype=torch.bool, device=alive.device)
        if alive.dtype == torch.bool:
            return ((there[:, None, :] & causal) | self_loop)[:, None]
        soft = there.clamp_min(1e-30).log()[:, None, :].expand(-1, len(where), -1).masked_fill(self_loop, 0.0)
        return soft.masked_fill(~causal, -torch.inf)[:, None].to(call.query.dtype)

    def _score(self, call: taps.Call) -> Scores:
        """Return who was looked at, on the attention that this layer has before the rule is asked."""
        import torch

        glance, where, alive = self.glance, self.state.where, self.state.alive
        picture = (where >= glance.first) & (where < glance.first + glance.patches)
        key = call.key.repeat_interleave(call.query.shape[1] // call.key.shape[1], 1)
        mask = self._mask(call, alive)
        mask = torch.zeros_like(mask, dtype=torch.float32).masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else mask

        here = where[picture] - glance.first
        spread = torch.zeros(alive.shape, dtype=torch.float32, device=alive.device)

        def looks(rows: Any, weight: Any) -> Any:  # (B, N): mean over heads, weighted mean over the rows' queries
            scores = call.query[:, :, rows] @ key.transpose(-1, -2) * call.scaling + mask[:, :, rows]
            seen = (scores.float().softmax(-1).mean(1)[..., picture] * weight[..., None]).sum(1)
            return spread.index_copy(1, here, seen / weight.sum(1, keepdim=True).clamp_min(1e-9))

        text = torch.nonzero(where >= glance.first + glance.patches).flatten()
        cross = looks(text, torch.ones(alive.shape[0], len(text), device=alive.device))
        own = looks(torch.nonzero(picture).flatten(), alive[:, here].float()) if self.own else None
        if alive.dtype == torch.bool:
            cross = cross * alive
            own = own * alive if own is not None else None
        return Scores(call.layer, cross, own, alive)


_verified: weakref.WeakKeyDictionary[Any, str] = weakref.WeakKeyDictionary()


def _verify(reader: VisionReader) -> None:
    """Compare the layers run one by one with the model's own forward pass; once for each model.

    Raises:
        ModelError: they differ.
    """
    import torch

    if reader.loaded.model not in _verified:
        size = reader.model.config.vision_config.image_size
        with torch.inference_mode():
            pixels = torch.rand(1, 3, size, size, generator=torch.Generator().manual_seed(0)).to(reader.device)
            words = [i for i in range(3, 6) if i != reader.image_token]
            glance = reader.embed(pixels.to(next(reader.model.parameters()).dtype), [words])
            ours = reader.answer(glance)[0]
            truth = reader.loaded.model(input_ids=glance.ids, pixel_values=pixels, use_cache=False).logits[:, -1]
        worst = float((ours.float() - truth.float()).abs().max())
        allowed = 1e-4 * max(1.0, float(truth.abs().max()))
        _verified[reader.loaded.model] = "" if worst <= allowed else f"logits differ by {worst:.1e} from its own forward pass"
    if _verified[reader.loaded.model]:
        raise ModelError(
            f"{reader.loaded.name}: its layers cannot be run one by one: {_verified[reader.loaded.model]}. Choose another model."
        )


def read_image(data: bytes) -> np.ndarray:
    """Return an uploaded picture as (h, w, 3) fp32 in [0, 1]; decoded by Pillow, never stored.

    It stands as its camera says (EXIF), grey of 16 bits keeps its range, and what is transparent is white.

    Raises:
        InputError: not a picture, 20 megapixels or more, or smaller than 2 x 2.
    """
    import io

    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        with Image.open(io.BytesIO(data), formats=("PNG", "JPEG", "WEBP", "BMP")) as opened:
            width, height = opened.size
            if width * height >= MOST_PIXELS:
                wanted = f"fewer than {MOST_PIXELS // 10**6} megapixels"
                raise InputError(expected("image", wanted, f"{width} x {height}", "", "Scale it down"))
            if min(width, height) < 2:
                raise InputError(expected("image", "at least 2 x 2 pixels", f"{width} x {height}", "", "Use a larger picture"))
            upright = ImageOps.exif_transpose(opened)
            if upright.mode.startswith("I"):
                return np.repeat(np.clip(np.asarray(upright, np.float32) / 65535, 0, 1)[..., None], 3, 2)
            if upright.has_transparency_data:
                white = Image.new("RGBA", upright.size, "white")
                upright = Image.alpha_composite(white, upright.convert("RGBA"))
            return np.asarray(upright.convert("RGB"), np.float32) / 255
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as problem:
        if isinstance(problem, InputError):
            raise
        raise InputError(
            expected("image", "a PNG, JPEG, WebP or BMP picture", "something else", "", "Choose another file")
        ) from problem
