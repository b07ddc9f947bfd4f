"""Explore, then exploit: decide an uncertain token on purpose where the confident ones run dry, to set off a cascade.

Fu et al., arXiv 2511.21103, publish the ingredients of their decoder (decoding across blocks, exploring uncertain tokens,
cascades, a regime in which exploring is almost free), not its pseudocode. **This is our reconstruction.** Its choices are
fields of `Explorer`, each with a name, so that another one is a change of one line:

| choice | here | others offered |
|---|---|---|
| where an explored position comes from | the look carried over from the round before, so that no round is lost | |
| which positions | the highest entropy in the current block, then in the window | `neighbours`: entropy + hidden neighbours |
| which token | the arg-max, checked again in the state itself | |
| what a candidate is worth | tokens decided + lambda log p(explored token), end-of-text not counted | |
| when to explore | after a round that trusted fewer than `trigger` tokens | |
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from workbench.systems.diffusion import rules
from workbench.systems.diffusion.decode import EXPLOIT, EXPLORE, FALLBACK, Plain, Step, by_confidence
from workbench.systems.diffusion.rules import Look

SCORES = ("entropy", "neighbours")


@dataclass
class Explorer(Plain):
    """Rounds of up to K candidate states of each sample in one batch.

    Attributes:
        candidates: K, the state itself included; 1 is plain decoding with the rule.
        trigger: explore after a round in which the rule trusted fewer tokens.
        explore_weight: lambda, what log p of the explored token counts.
        position_score: one of `SCORES`.
    """

    candidates: int = 4
    trigger: int = 2
    explore_weight: float = 0.5
    position_score: str = "entropy"
    _carried: dict[int, Look] = field(default_factory=dict)

    def __call__(self, x: np.ndarray, rows: np.ndarray) -> Step:
        """Return the decisions of one round: all candidates of all samples in one forward."""
        if self.candidates < 2:
            return super().__call__(x, rows)
        owner, place, token = self._candidates(x, rows)
        states = x[owner]
        moved = place >= 0
        states[np.flatnonzero(moved), place[moved]] = token[moved]
        look = self.look(states, rows[owner])
        return self._best(x, rows, owner, place, token, look)

    # ---- which candidates --------------------------------------------------------------------------------------------

    def _candidates(self, x: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return (owner, place, token) of every state to forward: first each state itself (place -1), then its candidates."""
        owner, place, token = [np.arange(len(x))], [np.full(len(x), -1)], [np.full(len(x), -1)]
        for row, sample in enumerate(rows):
            carried = self._carried.get(int(sample))
            if carried is None:
                continue
            hidden = x[row] == self.canvas.mask_id
            positions = self._positions(carried, hidden)[: self.candidates - 1]
            owner.append(np.full(len(positions), row))
            place.append(positions)
            token.append(carried.top1[0, positions])
        return np.concatenate(owner), np.concatenate(place), np.concatenate(token)

    def _positions(self, carried: Look, hidden: np.ndarray) -> np.ndarray:
        """Return hidden positions worth exploring, best first: the current block before the window's later ones."""
        inside = rules.window_of(hidden[None], self.block_length, 0)[0]
        wider = rules.window_of(hidden[None], self.block_length, self.window)[0]
        score = np.nan_to_num(carried.entropy[0], nan=-np.inf).copy()
        if self.position_score == "neighbours":
            padded = np.pad(hidden, 1)
            score += padded[:-2].astype(float) + padded[2:]
        order = np.lexsort((-score, ~inside))
        return order[(wider & np.isfinite(score))[order]]

    # ---- which of them wins ------------------------------------------------------------------------------------------

    def _best(self, x: np.ndarray, rows: np.ndarray, owner: np.ndarray, place: np.ndarray, token: np.ndarray, look: Look) -> Step:
        eligible = rules.window_of(look.masked, self.block_length, self.window)
        trusted = self.rule.trusted(look, eligible)
        commit, _ = self.rule.choose(look, eligible, self.rng)
        commit &= (trusted > 0)[:, None]
        plain = look.part(np.arange(len(x)))
        nats = self._explored_logprob(plain, owner, place, token)
        still = (place < 0) | (plain.top1[owner, place] == token)  # the explored token must be the arg-max of the state itself
        counted = commit if self.canvas.eos_id is None else commit & (look.top1 != self.canvas.eos_id)
        worth = counted.sum(1) + np.where(place >= 0, 1 + self.explore_weight * nats, 0.0)
        # A plain state always decides one token, by the fallback if need be: a candidate has to beat that.
        worth = np.where(place < 0, np.maximum(worth, 1.0), np.where(still, worth, -np.inf))
        winner = np.array([_first_best(worth, np.flatnonzero(owner == row)) for row in range(len(x))])
        step = self._step(plain, look, commit, place, token, nats, winner, trusted, np.bincount(owner, minlength=len(x)))
        self._remember(rows, look, winner, trusted)
        step.candidates.extend(_rows(owner, place, token, worth, nats, commit.sum(1), winner))
        return step

    def _explored_logprob(self, plain: Look, owner: np.ndarray, place: np.ndarray, token: np.ndarray) -> np.ndarray:
        """Return log p (C,) of each explored token in the state itself; 0 for the states themselves."""
        out = np.zeros(len(owner))
        moved = np.flatnonzero(place >= 0)
        if moved.size:
            where = np.zeros((len(moved), plain.masked.shape[1]), bool)
            where[np.arange(len(moved)), place[moved]] = True
            ids = np.broadcast_to(token[moved][:, None], where.shape)
            out[moved] = rules.logprobs(plain.part(owner[moved]), ids, where)[where]
        return out

    def _step(self, plain: Look, look: Look, commit: np.ndarray, place: np.ndarray, token: np.ndarray, nats: np.ndarray,
              winner: np.ndarray, trusted: np.ndarray, sequences: np.ndarray) -> Step:  # fmt: skip
        best, chosen = look.part(winner), commit[winner]
        first = place[winner]
        lonely = (first < 0) & ~chosen.any(1)
        if lonely.any():  # nothing trusted, nothing explored: the single most confident token
            eligible = rules.window_of(plain.masked, self.block_length, self.window)
            single, _ = self.rule.choose(plain.part(lonely), eligible[lonely], self.rng)
            chosen[lonely] = single
        tokens = rules.chosen_tokens(best, chosen, self.temperature, self.rng)
        logprob = rules.logprobs(best, tokens, chosen)
        order = by_confidence(best, chosen) + 1
        explored = np.zeros_like(chosen)
        moved = np.flatnonzero(first >= 0)
        at = (moved, first[moved])
        explored[at], tokens[at], logprob[at], order[at] = True, token[winner][moved], nats[winner][moved], 0
        kind = np.where(first >= 0, EXPLORE, np.where(lonely, FALLBACK, EXPLOIT))
        return Step(tokens, chosen | explored, order, logprob, explored, kind, sequences, trusted[: len(winner)], plain)

    def _remember(self, rows: np.ndarray, look: Look, winner: np.ndarray, trusted: np.ndarray) -> None:
        """Carry the winner's look over to the next round of the samples that should explore then."""
        for row, sample in enumerate(rows):
            key, best = int(sample), int(winner[row])
            if trusted[best] < self.trigger:
                self._carried[key] = look.part(np.array([best]))
            else:
                self._carried.pop(key, None)


def _first_best(worth: np.ndarray, among: np.ndarray) -> int:
    """Return the best candidate; among equals the state itself, then the more uncertain position, which comes first."""
    return int(among[np.argmax(np.round(worth[among], 9))])


def _rows(owner: np.ndarray, place: np.ndarray, token: np.ndarray, worth: np.ndarray, nats: np.ndarray, unlocked: np.ndarray,
          winner: np.ndarray) -> list[dict[str, float]]:  # fmt: skip
    """Return one row for each candidate of an exploring sample."""
    busy = np.bincount(owner) > 1
    return [
        {
            "row": int(owner[c]), "place": int(place[c]), "token": int(token[c]), "worth": float(worth[c]), "logprob": float(nats[c]),
            "unlocked": int(unlocked[c]), "won": bool(winner[owner[c]] == c),
        }
        for c in np.flatnonzero(busy[owner])
    ]  # fmt: skip
