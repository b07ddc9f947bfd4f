"""The trained draft of SmolLM2: one decoder layer from the target's last hidden state to its next (EAGLE type).

Li, Wei, Zhang, Zhang, "EAGLE: Speculative Sampling Requires Rethinking Feature Uncertainty", arXiv 2401.15077 (2024).
Row t reads the hidden state of position t - 1 and the embedding of token t, and predicts the hidden state of position t;
its product with the target's own head gives the law of token t + 1. Where the target's state is known it is read; deeper
in the tree the draft's own prediction is. Differs from the paper: the head is cut to the tokens that the target writes
most, and embedding and head are the target's rows in memory, so only the layer is shipped.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from workbench.errors import ModelError
from workbench.kernels import int8_matmul
from workbench.models.fused import FusedSession, Weights, decoder_step, quantize
from workbench.models.session import Session, depths

FOLDER = Path(__file__).parent / "assets" / "eagle_smollm2"
TRAINED_FOR = "smollm2-135m"
#: Largest difference of the target's final gain from the one trained for (which is stored in fp16).
GAIN_TOLERANCE = 1e-2


@dataclass
class EagleWeights:
    """The layer as int8, ready to run: `fc` (D, 2D) with its scale, the llama layer and cut head, ids of the head's rows."""

    fc: np.ndarray
    fc_scale: np.ndarray
    layer: Weights
    subset: np.ndarray

    @property
    def bytes_per_step(self) -> int:
        """Bytes of weights one step reads."""
        return self.layer.bytes_per_step + self.fc.nbytes + self.fc_scale.nbytes


_made: weakref.WeakKeyDictionary[Any, EagleWeights] = weakref.WeakKeyDictionary()
_lock = threading.Lock()


def open_eagle(target: Any, session: Session) -> EagleSession:
    """Return a draft session for a session of the loaded `target`.

    Raises:
        ModelError: the draft was not trained for this target, or the session does not show its hidden states.
    """
    if not hasattr(session, "hidden"):
        raise ModelError(f"The eagle draft reads hidden states, and the session of {target.name!r} shows none. Use draft='int8'.")
    with _lock:
        if target.model not in _made:
            _made[target.model] = read_weights(FOLDER, target.model, target.name)
        return EagleSession(_made[target.model])


def read_weights(folder: Path, model: Any, name: str) -> EagleWeights:
    """Return the shipped layer joined with the target's embedding and head rows, as int8.

    Args:
        folder: holds `draft.safetensors`. model: the target, a llama-type Hugging Face module. name: for the message.
    """
    from safetensors.numpy import load_file

    path = folder / "draft.safetensors"
    if not path.exists():
        raise ModelError(f"The eagle draft is not in {folder}. `python recipes/eagle_smollm2.py` makes it; use draft='int8' now.")
    shipped = load_file(path)
    parts = {key: value.astype(np.float32) for key, value in shipped.items() if value.dtype == np.float16}
    gain = _own_gain(model)
    if gain is None or gain.shape != parts["target_gain"].shape or np.abs(gain - parts["target_gain"]).max() > GAIN_TOLERANCE:
        raise ModelError(f"The eagle draft was trained for {TRAINED_FOR}, and {name!r} is another model. Use draft='int8'.")
    scale = np.abs(parts["fc"]).max(1) / np.float32(127)
    fc = np.rint(parts["fc"] / scale[:, None]).astype(np.int8)
    return EagleWeights(fc, scale, quantize(_layer(parts, shipped["subset"], model)), shipped["subset"])


def _own_gain(model: Any) -> np.ndarray | None:
    norm = getattr(getattr(model, "model", None), "norm", None)
    return None if norm is None else norm.weight.detach().float().cpu().numpy()


def _layer(parts: dict[str, np.ndarray], subset: np.ndarray, model: Any) -> Weights:
    """Return the layer in the form the fused step takes; embedding and head come from the target."""
    config, rotary = model.config, model.model.rotary_emb
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    matrices = {key: np.ascontiguousarray(parts[key][None]) for key in ("qkv", "o", "gate_up", "down")}
    matrices["head"] = np.ascontiguousarray(model.get_output_embeddings().weight.detach().float().cpu().numpy()[subset])
    norms = {"attention": parts["norm_attention"][None], "mlp": parts["norm_mlp"][None], "final": parts["norm_final"]}
    return Weights(
        name="eagle",
        matrices=matrices,
        scales={key: np.ones((1, 1) if key != "head" else 1, np.float32) for key in matrices},
        norms=norms,
        embedding=model.get_input_embeddings().weight.detach().float().cpu().numpy(),
        inverse_frequency=rotary.inv_freq.float().cpu().numpy().copy(),
        rope_scale=float(rotary.attention_scaling),
        eps=float(config.rms_norm_eps),
        heads=config.num_attention_heads,
        kv_heads=config.num_key_value_heads,
        head_dim=head_dim,
        context=config.max_position_embeddings,
        module=None,
    )


class EagleSession(FusedSession):
    """Draft session that reads the target's hidden states: `commit` takes them over when the target keeps its rows."""

    def __init__(self, weights: EagleWeights, capacity: int = 256) -> None:
        super().__init__(weights.layer, capacity)
        self.eagle = weights
        self.vocab_size = len(weights.layer.embedding)
        # Row p is the target's state of position p - 1; nothing comes before position 0.
        self._states = np.zeros((1, weights.layer.embedding.shape[1]), np.float32)

    def forward(self, token_ids: Any, parents: Any, last_only: bool = False) -> np.ndarray:
        """Append pending rows and return their logits (N, V); tokens outside the cut head have -inf."""
        ids, parents = np.asarray(token_ids, dtype=np.int64), np.asarray(parents, dtype=np.int64)
        first = len(self._parents)
        self._parents = np.concatenate([self._parents, parents])
        self._reserve(len(self._parents))
        position = self.length + depths(self._parents)[first:]
        cut = [np.zeros((0, len(self.eagle.subset)), np.float32)]
        for start, end in self._stages(position, parents, first):
            before = self._states_before(position[start:end], parents[start:end])
            cut.append(self._run(ids[start:end], position[start:end], before, first + start))
        logits = np.concatenate(cut)[-1:] if last_only else np.concatenate(cut)
        out = np.full((len(logits), self.vocab_size), -np.inf, np.float32)
        out[:, self.eagle.subset] = logits
        return out

    def _stages(self, position: np.ndarray, parents: np.ndarray, first: int) -> list[tuple[int, int]]:
        """Return the runs of new rows that need no state which a row of the same run is still to predict."""
        cuts = [0]
        for row, (at, parent) in enumerate(zip(position, parents)):
            if at >= len(self._states) and parent >= first + cuts[-1]:
                cuts.append(row)
        return list(zip(cuts, [*cuts[1:], len(position)]))

    def _states_before(self, position: np.ndarray, parents: np.ndarray) -> np.ndarray:
        """Return each row's input state (N, D): the target's where it is known, else the parent row's prediction."""
        known = position < len(self._states)
        out = np.empty((len(position), self._states.shape[1]), np.float32)
        out[known] = self._states[position[known]]
        out[~known] = self.hidden[parents[~known]]
        return out

    def _run(self, ids: np.ndarray, position: np.ndarray, before: np.ndarray, first: int) -> np.ndarray:
        """Return logits over the cut head (N, S) of pending rows `first` to `first + N`."""
        w = self.weights
        angle = np.outer(position, w.inverse_frequency)
        cos, sin = ((f(angle) * w.rope_scale).astype(np.float32) for f in (np.cos, np.sin))
        x = int8_matmul(np.concatenate([before, w.embedding[ids]], 1), self.eagle.fc, self.eagle.fc_scale)
        hidden, logits = np.empty_like(before), np.empty((len(ids), len(self.eagle.subset)), np.float32)
        pending = self._parents[: first + len(ids)]
        decoder_step(
            x, cos, sin, self.prefix.keys, self.prefix.values, self.length, self._keys, self._values,
            first, pending, *w.arguments(), False, hidden, logits,  # type: ignore[call-arg]
        )  # fmt: skip
        self.hidden = hidden if first == 0 else np.concatenate([self.hidden, hidden])
        return logits

    def commit(self, rows: Sequence[int], token_ids: Sequence[int], target: Any) -> None:
        """Take over the target's states of the rows it is about to keep; keep the own rows that read true states.

        Args:
            rows: pending rows of the target, a path; token_ids: their tokens; target: its session, before `keep`.
        """
        read = np.flatnonzero(self.length + depths(self._parents) < len(self._states))
        self.keep(read.tolist())
        self._states = np.concatenate([self._states, target.hidden[np.asarray(rows, dtype=np.int64)]])

    def rewind(self, length: int) -> None:
        super().rewind(length)
        self._states = self._states[: length + 1]
