"""A run's own key-value state over a shared model that nobody changes: the one way a decoder calls a language model.

Rows are *pending* until `keep` commits a path of them. A pending row attends to the committed prefix, to its ancestors
among the pending rows, and to itself; its position is the committed length plus its depth. So one call scores a whole
token tree, several calls can grow it level by level, and a chain is the tree where each row's parent is the row before.
"""

from __future__ import annotations

import copy
import threading
import weakref
from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np

from workbench.errors import InputError, ModelError, expected
from workbench.models.devices import beside, device_of

#: From this many rows on a weight is no longer read for latency but for throughput, and BLAS wins.
SKINNY_ROWS = 32


@runtime_checkable
class Session(Protocol):
    """State of one run on one model. Not shared between runs; the model behind it is."""

    vocab_size: int
    context: int  # longest sequence the model was built for, in tokens

    @property
    def length(self) -> int:
        """Committed rows (tokens) in the cache."""
        ...

    def forward(self, token_ids: Any, parents: Any, last_only: bool = False) -> np.ndarray:
        """Append pending rows and return their next-token logits.

        Args:
            token_ids: (N,) int, tokens of the new rows.
            parents: (N,) int, index of each row's parent among all pending rows; -1 = child of the committed prefix.
            last_only: return only the last row's logits (a prefill).
        Returns:
            (N, V) or (1, V) float32 logits (log-probabilities are logits too).
        """
        ...

    def keep(self, rows: Sequence[int]) -> None:
        """Commit these pending rows, a path in order, and drop all others."""
        ...

    def rewind(self, length: int) -> None:
        """Forget the committed rows from `length` on, and all pending rows."""
        ...


def chain_parents(count: int, first: int = 0) -> np.ndarray:
    """Return the parents of a chain of `count` rows whose first row is pending row `first`."""
    return np.arange(first - 1, first + count - 1, dtype=np.int64)


def ancestor_mask(parents: np.ndarray) -> np.ndarray:
    """Return (N, N) bool: entry (i, j) says that j is i or an ancestor of i.

    Args:
        parents: (N,) int with parents[i] < i; -1 marks a root.
    Raises:
        InputError: a parent does not come before its child.
    """
    parents = np.asarray(parents, dtype=np.int64)
    late = np.flatnonzero((parents >= np.arange(len(parents))) | (parents < -1))
    if late.size:
        i = int(late[0])
        raise InputError(expected("parents", f"an index from -1 to {i - 1} at row {i}", int(parents[i])))
    mask = np.eye(len(parents), dtype=bool)
    for i, parent in enumerate(parents):
        if parent >= 0:
            mask[i] |= mask[parent]
    return mask


def depths(parents: np.ndarray) -> np.ndarray:
    """Return (N,) int depth of each row: 0 for children of the committed prefix."""
    out = np.zeros(len(parents), dtype=np.int64)
    for i, parent in enumerate(parents):
        if parent >= 0:
            out[i] = out[parent] + 1
    return out


class TableSession:
    """Session of a `TableLM`: the law of the next token is a row of a table."""

    def __init__(self, probs: np.ndarray) -> None:
        with np.errstate(divide="ignore"):
            self.logits = np.log(probs)
        self.vocab_size = len(probs)
        self.context = 1 << 30
        self._committed: list[int] = []
        self._pending: list[int] = []

    @property
    def length(self) -> int:
        return len(self._committed)

    def forward(self, token_ids: Any, parents: Any, last_only: bool = False) -> np.ndarray:
        ids = [int(t) for t in token_ids]
        self._pending += ids
        return self.logits[ids[-1:] if last_only else ids]

    def keep(self, rows: Sequence[int]) -> None:
        self._committed += [self._pending[r] for r in rows]
        self._pending = []

    def rewind(self, length: int) -> None:
        del self._committed[length:]
        self._pending = []


class HFSession:
    """Session of any Hugging Face causal LM that takes a 4-D mask, through a view whose linear layers stay memory-bound."""

    def __init__(self, model: Any, name: str = "model", view: Any | None = None) -> None:
        from transformers import DynamicCache

        require_tree_mask(model, name)
        self.model = view if view is not None else skinny_view(model)
        self.cache = DynamicCache()
        config = model.config.get_text_config()
        self.vocab_size = int(config.vocab_size)
        self.context = int(getattr(config, "max_position_embeddings", None) or 1 << 30)
        self.hidden = np.zeros((0, int(config.hidden_size)), np.float32)
        self._length = 0
        self._parents = np.zeros(0, np.int64)

    @property
    def length(self) -> int:
        return self._length

    def forward(self, token_ids: Any, parents: Any, last_only: bool = False) -> np.ndarray:
        first = len(self._parents)
        self._parents = np.concatenate([self._parents, np.asarray(parents, dtype=np.int64)])
        logits, hidden = tree_forward(self.model, self.cache, token_ids, self._parents, first, self._length, last_only)
        self.hidden = hidden if first == 0 else np.concatenate([self.hidden, hidden])
        return logits

    def keep(self, rows: Sequence[int]) -> None:
        import torch

        index = torch.as_tensor([*range(self._length), *(self._length + r for r in rows)])
        contiguous = list(rows) == list(range(len(rows)))
        for layer in self.cache.layers:
            for name in ("keys", "values"):
                stored = getattr(layer, name)
                end = self._length + len(rows)
                setattr(layer, name, stored[:, :, :end] if contiguous else stored.index_select(2, index.to(stored.device)))
        self._length += len(rows)
        self._parents = np.zeros(0, np.int64)

    def rewind(self, length: int) -> None:
        self._length = min(self._length, length)
        self.keep([])


def tree_forward(
    model: Any, cache: Any, token_ids: Any, parents: np.ndarray, first: int, length: int, last_only: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Return logits (N, V) and last hidden states (N, D) of the pending rows from `first` on, in one forward pass."""
    import torch

    device, dtype = device_of(model), next(model.parameters()).dtype
    visible = ancestor_mask(parents)[first:]  # (N, P)
    mask = torch.zeros(1, 1, len(visible), length + len(parents), dtype=dtype, device=device)
    mask[0, 0, :, length:].masked_fill_(torch.from_numpy(~visible).to(device), torch.finfo(dtype).min)
    position = beside(model, length + depths(parents)[first:])[None]
    ids = beside(model, np.asarray(token_ids, dtype=np.int64))[None]
    with torch.inference_mode():
        out = model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=position,
            past_key_values=cache,
            use_cache=True,
            output_hidden_states=True,
            logits_to_keep=1 if last_only else 0,
        )
    return out.logits[0].float().cpu().numpy(), out.hidden_states[-1][0].float().cpu().numpy()


def skinny_view(model: Any) -> Any:
    """Return a module that shares every weight of `model` and whose linear layers read each weight once for few rows.

    The model itself is not touched: the view is a copy of the module tree over the same parameters.
    """
    return _view(model, _skinny_linear)


def int8_view(model: Any) -> Any:
    """Return a copy of the module tree with int8 linear weights (per output row); other parameters are shared."""
    return _view(model, _int8_linear)


def _view(model: Any, replace: Any) -> Any:
    import torch

    shared = {id(t): t for t in (*model.parameters(), *model.buffers())}
    view = copy.deepcopy(model, memo=dict(shared))
    for name, module in list(view.named_modules()):
        if isinstance(module, torch.nn.Linear):
            parent = view.get_submodule(name.rpartition(".")[0])
            setattr(parent, name.rpartition(".")[2], replace(module))
    return view.eval()


def _skinny_linear(linear: Any) -> Any:
    from workbench.kernels import skinny_matmul
    from workbench.kernels.spec import is_cuda, missing

    def product(rows: Any) -> Any:
        return skinny_matmul(rows, linear.weight)

    def fits(rows: Any) -> bool:  # without CuPy the kernel would bring the weights of a GPU here for every call
        return rows.dtype == linear.weight.dtype and not (is_cuda(linear.weight) and missing("cuda"))

    return _wrap(linear, product, fits)


def _int8_linear(linear: Any) -> Any:
    import torch

    from workbench.kernels import int8_matmul

    scale = linear.weight.detach().float().abs().amax(1) / 127
    scale[scale == 0] = 1
    quantized = torch.round(linear.weight.detach().float() / scale[:, None]).to(torch.int8)

    def product(rows: Any) -> Any:
        return int8_matmul(rows, quantized, scale)

    return _wrap(linear, product, lambda rows: True)


def _wrap(linear: Any, product: Any, fits: Any) -> Any:
    """Return a module that computes `linear` through `product` when there are few rows."""
    import torch

    class FewRows(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight, self.bias = linear.weight, linear.bias

        def forward(self, x: Any) -> Any:
            rows = x.reshape(-1, x.shape[-1])
            elsewhere = rows.device != self.weight.device  # one of several devices, or weights that wait on a disk
            if len(rows) > SKINNY_ROWS or elsewhere or not fits(rows):
                return linear(x)
            out = product(rows.contiguous()).to(x.dtype)
            out = out if self.bias is None else out + self.bias
            return out.reshape(*x.shape[:-1], -1)

    return FewRows()


_checked: weakref.WeakKeyDictionary[Any, bool] = weakref.WeakKeyDictionary()
_check_lock = threading.Lock()


def require_tree_mask(model: Any, name: str) -> None:
    """Check once for each model that a tree row's logits equal those of a plain pass over its path.

    Raises:
        ModelError: the model ignores a 4-D mask or has no key-value cache that can be cut (recurrent state, for one).
    """
    with _check_lock:
        if model in _checked:
            return
        reason = _tree_mask_fault(model)
        if reason:
            raise ModelError(
                f"Model {name!r} cannot score a token tree: {reason}. "
                "Use a decoder whose attention takes a 4-D mask (llama, qwen, gemma, gpt2, mistral, phi, ...)."
            )
        _checked[model] = True


def _tree_mask_fault(model: Any) -> str:
    """Return why a model cannot score a tree, or "" if siblings b and c after a give the same logits as a, b and a, c."""
    import torch
    from transformers import DynamicCache

    vocab = int(model.config.get_text_config().vocab_size)
    a, b, c, d = (1 % vocab, 2 % vocab, 3 % vocab, 5 % vocab)
    try:
        cache = DynamicCache()
        tree_forward(model, cache, [d], np.array([-1]), 0, 0)
        logits, _ = tree_forward(model, cache, [a, b, c], np.array([-1, 0, 0]), 0, 1)
        held = {int(getattr(layer, "keys").shape[2]) for layer in cache.layers}  # noqa: B009 - not every layer type has keys
        if held - {4}:
            return f"its cache holds {max(held)} rows after 4 tokens"
        with torch.inference_mode():
            plain = [
                model(input_ids=beside(model, [path])).logits[0, -1].float().cpu().numpy() for path in ([d, a, b], [d, a, c])
            ]
    except Exception as error:
        return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no message'}"
    gap = max(float(np.abs(logits[i] - p).max()) for i, p in zip((1, 2), plain))
    return "" if gap < 1e-2 * max(1.0, float(np.abs(plain[0]).max())) else f"a tree row differs from its own path by {gap:.3g}"
