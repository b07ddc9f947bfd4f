"""One interface to every masked-diffusion model: ideal tables, the chain of real text, TinyMDM, LLaDA and Dream.

A *canvas* holds the prompts of a batch and answers questions about states of their answers: what is the law of every
position given the tokens that are visible? Logits come back aligned to positions, the mask itself excluded, whatever the
model's own habit (Dream predicts position i at i - 1). A canvas keeps no state of a run; decoders keep theirs.
"""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

import numpy as np

from workbench.data import parallel_tasks as tasks
from workbench.errors import InputError, ModelError, expected
from workbench.models.chain_dlm import ChainDLM
from workbench.models.devices import beside
from workbench.models.hub import LoadedModel, load
from workbench.models.table_dlm import TableDLM


@runtime_checkable
class Canvas(Protocol):
    """The answers of a batch of prompts on one model.

    Attributes:
        mask_id: id that stands for a hidden token in states. eos_id: end of text, None where there is none.
        vocab_size: ids that a law gives a probability. length: positions of an answer. samples: prompts.
        exact: the laws are exact conditionals of one joint law, and `log_evidence` gives its marginals.
        prefix: tokens of the prompt that every call reads besides the answer.
        linear_flops: multiply-adds of one token through the weights, times two. bytes_read: weights read by a call.
    """

    mask_id: int
    eos_id: int | None
    vocab_size: int
    length: int
    samples: int
    exact: bool
    prefix: int
    linear_flops: float
    bytes_read: float

    def forward(self, x: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Return logits (B, length, V) of states x (B, length); `rows` (B,) says which prompt each belongs to.

        Float64 log-probabilities where the canvas is exact, float32 logits elsewhere; excluded ids are -inf.
        """
        ...

    def log_evidence(self, x: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Return the log-probability (B,) of the visible tokens; only where `exact`."""
        ...

    def pieces(self, ids: Any) -> list[str]:
        """Return the text of each id; the mask's is "▢"."""
        ...


class ExactCanvas:
    """A canvas on a `TableDLM` or `ChainDLM`. `names` are the texts of its tokens (their numbers if None)."""

    exact, prefix, linear_flops, bytes_read = True, 0, 0.0, 0.0
    eos_id: int | None = None

    def __init__(self, model: TableDLM | ChainDLM, length: int, samples: int, names: tuple[str, ...] | None = None) -> None:
        self.model, self.length, self.samples = model, length, samples
        self.vocab_size, self.mask_id = model.vocab_size, model.mask_id
        self.names = names or getattr(model, "pieces", None) or tuple(str(i) for i in range(model.vocab_size))

    def forward(self, x: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Return exact log-laws, (B, n, V) float64."""
        return self.model.log_laws(x)

    def log_evidence(self, x: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Return the exact log-probability (B,) of the visible tokens."""
        return self.model.log_evidence(x)

    def pieces(self, ids: Any) -> list[str]:
        """Return the text of each id."""
        return ["▢" if i == self.mask_id else self.names[int(i)] for i in ids]


class TinyCanvas:
    """A canvas on TinyMDM: prompts (S, P) of one task and size, answers of `length` tokens behind them."""

    exact, mask_id = False, tasks.MASK_ID
    eos_id: int | None = tasks.EOS_ID

    def __init__(self, module: Any, prompts: np.ndarray, length: int) -> None:
        from workbench.models.tiny import layout

        self.module, self.length, self.samples = module, length, len(prompts)
        self.vocab_size, self.prefix = module.shape.vocab, prompts.shape[1]
        self._prompts = prompts
        self._layout = layout(prompts[0], length)
        weights = sum(p.numel() for n, p in module.named_parameters() if p.ndim == 2 and not n.startswith(("places", "segments")))
        self.linear_flops, self.bytes_read = 2.0 * weights, 4.0 * weights

    def forward(self, x: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Return logits (B, L, V) float32 of all answer positions."""
        import torch

        with torch.inference_mode():
            ids = beside(self.module, np.concatenate([self._prompts[rows], x], 1))
            hidden = self.module.hidden(ids, *self._layout)[:, self.prefix :]
            logits = self.module.logits(hidden)
            logits[..., [tasks.MASK_ID, tasks.PAD_ID]] = -torch.inf
            return logits.cpu().numpy()

    def log_evidence(self, x: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Refuse: a trained model has no single joint law."""
        raise ModelError(
            "A trained masked-diffusion model has no single joint law. Use the estimate by revealing tokens one by one."
        )

    def pieces(self, ids: Any) -> list[str]:
        """Return the text of each id."""
        return ["▢" if i == self.mask_id else tasks.VOCABULARY[int(i)] for i in ids]


class HubCanvas:
    """A canvas on a LLaDA- or Dream-shaped checkpoint (`workbench.models.masked_hub`), prompts (S, P) of equal length."""

    exact = False

    def __init__(self, loaded: LoadedModel, prompts: np.ndarray, length: int) -> None:
        self.loaded, self.net, self.length, self.samples = loaded, loaded.model, length, len(prompts)
        self.mask_id, self.eos_id, self.vocab_size = self.net.mask_id, self.net.eos_id, self.net.vocab_size
        self.prefix, self._prompts = prompts.shape[1], prompts
        weights = sum(p.numel() for p in self.net.module.parameters() if p.ndim == 2)
        self.linear_flops, self.bytes_read = 2.0 * weights, float(weights * next(self.net.module.parameters()).element_size())

    def forward(self, x: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Return logits (B, L, V) float32, aligned to positions."""
        import torch

        ids = beside(self.net.module, np.concatenate([self._prompts[rows], x], 1))
        logits = self.net.aligned_logits(ids)[:, self.prefix :].float().clone()
        logits[..., self.mask_id] = -torch.inf
        return logits.cpu().numpy()

    def log_evidence(self, x: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Refuse: a trained model has no single joint law."""
        raise ModelError(
            "A trained masked-diffusion model has no single joint law. Use the estimate by revealing tokens one by one."
        )

    def pieces(self, ids: Any) -> list[str]:
        """Return the text of each id."""
        plain = iter(self.loaded.pieces([int(i) for i in ids if i != self.mask_id]))
        return ["▢" if i == self.mask_id else next(plain) for i in ids]


def is_masked_model(model: Any) -> bool:
    """Return whether a loaded model is one that fills masks."""
    if isinstance(model, (TableDLM, ChainDLM)) or getattr(model, "fills_masks", False):
        return True
    return getattr(getattr(model, "shape", None), "causal", None) is False


def open_canvas(loaded: LoadedModel, prompts: np.ndarray, length: int) -> Canvas:
    """Return the canvas of a loaded model for prompts (S, P) with answers of `length` tokens.

    Raises:
        ModelError: the model fills no masks. InputError: a table of another length, or no position to fill.
    """
    model = loaded.model
    if length < 1:
        raise InputError(expected("length", "at least one position to fill", length))
    if isinstance(model, TableDLM):
        if model.length != length:
            raise InputError(expected("length", f"{model.length} (the table's positions)", length))
        return ExactCanvas(model, length, len(prompts))
    if isinstance(model, ChainDLM):
        left = tuple(int(i) for i in prompts[0][-2:]) if prompts.shape[1] >= 2 else None
        return ExactCanvas(model.after(left) if left else model, length, len(prompts))  # type: ignore[arg-type]
    if getattr(model, "fills_masks", False):
        return HubCanvas(loaded, prompts, length)
    if is_masked_model(model):
        return TinyCanvas(model, prompts, length)
    then = "Use tiny-mdm, a TableDLM, or a LLaDA or Dream checkpoint"
    raise ModelError(expected("model", "a masked-diffusion model", f"{loaded.name!r}, which writes left to right", then=then))


__all__ = ["Canvas", "ExactCanvas", "HubCanvas", "TinyCanvas", "is_masked_model", "load", "open_canvas"]
