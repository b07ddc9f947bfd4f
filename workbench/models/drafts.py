"""Open a model as a session, and a draft for a target by name. The one place that knows which session fits which model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from workbench import models
from workbench.errors import InputError, ModelError, expected
from workbench.models.devices import made_once
from workbench.models.session import HFSession, Session, TableSession, chain_parents, int8_view, skinny_view

_skinny_of, _int8_of = made_once(skinny_view), made_once(int8_view)


def open_session(loaded: Any, capacity: int = 0) -> Session:
    """Return a new session of a loaded model: a table, the fused llama step on the CPU, or any Hugging Face causal LM.

    Args:
        loaded: what `models.load` returned.
        capacity: tokens the cache should have room for (it grows when more are needed).
    """
    if loaded.is_table:
        return TableSession(loaded.model.probs)
    from workbench.models import fused

    if not fused.why_not(loaded.model):
        return fused.FusedSession(fused.weights_of(loaded.model, loaded.name), capacity)
    return HFSession(loaded.model, loaded.name, _skinny_of(loaded.model))


def open_draft(
    draft: Any, target: Any, session: Session, prompt: Sequence[int], alignment: float = 0.0, temperature: float = 1.0
) -> Session:
    """Return the draft's session for a target session.

    Args:
        draft: "int8", "lookup", "lookup+int8", "eagle", a model's name, a loaded model or a table model.
        target: the loaded target; session: its session, whose cache an int8 self-draft shares.
        prompt: token ids, which prompt lookup searches.
        alignment: 0 leaves the draft's law alone; 1 replaces it by the target's.
    Raises:
        InputError: the draft's vocabulary is not the target's. ModelError: the draft does not fit this target.
    """
    opened = _open(draft, target, session, prompt)
    if opened.vocab_size != session.vocab_size:
        raise InputError(
            expected("draft", f"the target's vocabulary of {session.vocab_size} tokens", f"{opened.vocab_size}", f"draft {draft!r}",
                     "Choose a draft with the target's tokenizer")
        )  # fmt: skip
    return Aligned(opened, _twin(target, session), alignment, temperature) if alignment > 0 else opened


def _open(draft: Any, target: Any, session: Session, prompt: Sequence[int]) -> Session:
    if not isinstance(draft, str):
        return open_session(models.load(draft))
    if draft in {"int8", "lookup", "lookup+int8", "eagle"} and target.is_table:
        raise InputError(expected("draft", "a TableLM for a table target", repr(draft), "", "Pass draft=TableLM(probs)"))
    if draft == "int8":
        return _int8(target, session)
    if draft == "lookup":
        from workbench.models.lookup import LookupSession

        return LookupSession(session.vocab_size, prompt)
    if draft == "lookup+int8":
        from workbench.models.lookup import FirstMatch, LookupSession

        return FirstMatch(LookupSession(session.vocab_size, prompt), _int8(target, session))
    if draft == "eagle":
        from workbench.models.eagle import open_eagle

        return open_eagle(target, session)
    return open_session(models.load(draft))


def _int8(target: Any, session: Session) -> Session:
    fork = getattr(session, "fork", None)
    if fork is not None:
        return fork("int8")
    if target.is_table:
        raise ModelError("An int8 draft needs a model with weights; a table has none. Pass a TableLM as the draft.")
    return HFSession(target.model, f"{target.name} int8", _int8_of(target.model))


def _twin(target: Any, session: Session) -> Session:
    fork = getattr(session, "fork", None)
    return fork("float32") if fork is not None else open_session(target)


class Aligned:
    """A draft whose law is moved towards the target's: softmax((1 - a) log q + a log p). It costs a target call; teaching only."""

    def __init__(self, draft: Session, twin: Session, alignment: float, temperature: float) -> None:
        self.draft, self.twin, self.alignment = draft, twin, alignment
        self.vocab_size, self.context = draft.vocab_size, draft.context
        self._rows: list[int] = []
        if hasattr(draft, "commit"):
            raise InputError(
                expected("draft_alignment", "0 with a draft that follows the target by itself (eagle, lookup+int8)", alignment)
            )

    @property
    def length(self) -> int:
        return min(self.draft.length, self.twin.length)

    def forward(self, token_ids: Any, parents: Any, last_only: bool = False) -> np.ndarray:
        self._catch_up(token_ids)
        q = _log_law(self.draft.forward(token_ids, parents, last_only))
        p = _log_law(self.twin.forward(token_ids, parents, last_only))
        with np.errstate(invalid="ignore"):
            mixed = (1 - self.alignment) * q + self.alignment * p
        # 0 * -inf: a token outside one law's support stays in only if the other law has all the weight.
        return np.where(np.isnan(mixed), p if self.alignment == 1 else -np.inf, mixed).astype(q.dtype)

    def _catch_up(self, token_ids: Any) -> None:
        if self.draft.length != self.twin.length:
            raise ModelError("The draft and its twin have read different prefixes; both must keep the same rows.")

    def keep(self, rows: Sequence[int]) -> None:
        self.draft.keep(rows)
        self.twin.keep(rows)

    def rewind(self, length: int) -> None:
        self.draft.rewind(length)
        self.twin.rewind(length)


def _log_law(logits: np.ndarray) -> np.ndarray:
    shifted = logits - logits.max(-1, keepdims=True)
    with np.errstate(divide="ignore"):
        return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


__all__ = ["Aligned", "chain_parents", "open_draft", "open_session"]
