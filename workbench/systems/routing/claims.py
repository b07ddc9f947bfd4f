"""What the papers on routing claim, and what was found: rows of the group `claims`, their intervals and verdicts."""

from __future__ import annotations

from typing import Any

import numpy as np

from workbench.data import domains
from workbench.record import Record
from workbench.systems.routing import analysis

CLAIM = ("claim", "measure", "value", "low", "high", "compared", "compared_name", "verdict")
Row = tuple[Any, ...]


def verdict(holds: Any, fails: Any) -> str:
    """Return the word for what the figures decide."""
    return "holds" if holds else "fails" if fails else "unclear"


def table_of(rows: list[Row]) -> dict[str, np.ndarray]:
    """Return rows of `CLAIM` as columns."""
    return {n: np.array([r[i] for r in rows]) for i, n in enumerate(CLAIM)}


def with_claims(record: Record, rows: list[Row]) -> dict[str, np.ndarray]:
    """Return a record's claims with these in the place of those of their names, new ones last: the others stay as they were."""
    columns, fresh = [record.column("claims", n) for n in CLAIM], {str(r[0]): r for r in rows}
    return table_of([*(fresh.pop(str(r[0]), r) for r in zip(*columns, strict=True)), *fresh.values()])


def spread_of_mean(rows: np.ndarray) -> np.ndarray:
    """Return half the 95 % interval of the mean of rows (n, m), by Student's law; NaN for fewer than two."""
    from scipy.stats import t

    n = len(rows)
    return t.ppf(0.975, n - 1) * rows.std(0, ddof=1) / np.sqrt(n) if n > 1 else np.full(rows.shape[1], np.nan)


def interval(values: np.ndarray, text: np.ndarray) -> tuple[float, float, float]:
    """Return the mean of a value over tokens and a 95 % interval over texts: tokens of one text are no independent draws."""
    if not len(values):
        return float("nan"), float("nan"), float("nan")
    each = [values[text == t].mean() for t in np.unique(text)]
    half = spread_of_mean(np.array(each)[:, None])[0]
    return float(values.mean()), float(values.mean() - half), float(values.mean() + half)


def sides_of(facts: dict[str, Any], columns: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the tokens of learnt kinds and of kinds outside them, by name; sides without tokens are left out."""
    outside = np.isin(columns["domain"].astype(str), list(facts["outside"]))
    sides = {"kinds the model learnt": ~outside, "kinds it never saw": outside}
    own = set(columns["domain"].astype(str)) - set(domains.DOMAINS) - set(domains.OUTSIDE)
    if own:
        sides = {str(next(iter(own))): np.ones(len(outside), bool)}
    return {n: s for n, s in sides.items() if s.any()}


# ---- OpenMoE ----------------------------------------------------------------------------------------------------------


def all_claims(
    facts: dict[str, Any], columns: dict[str, np.ndarray], first: np.ndarray, shares: dict[str, list[analysis.Explained]],
    dropped: np.ndarray, film: dict[str, np.ndarray] | None, passes: tuple[Any, ...],
) -> dict[str, np.ndarray]:  # fmt: skip
    """Return each claim of the paper with what was found; thresholds stand in the measure's own words."""
    mean = {n: np.array(rows).mean(0) for n, rows in shares.items()}
    ids, kind, place = mean["token id"], mean["kind of text"], mean["position"]
    rows: list[tuple[Any, ...]] = [
        ("experts follow token ids", "share of the expert's entropy that the id explains beyond chance (holds above 1/2)", *ids[:3], kind[0], "the kind of text explains",
         verdict(ids[1] > 0.5, ids[2] < 0.5)),
        ("they do not follow topics", "share that the kind of text explains (holds below 1/10)", *kind[:3], kind[3], "chance alone, taken off",
         verdict(kind[2] < 0.1, kind[1] > 0.1)),
        ("nor positions", "share that the position explains (holds below 1/10)", *place[:3], place[3], "chance alone, taken off",
         verdict(place[2] < 0.1, place[1] > 0.1)),
    ]  # fmt: skip
    rows.append(static(facts, columns, first))
    rows += early(film, int(facts["experts"]))
    rows += late(facts, columns, dropped)
    return table_of([r for r in rows if np.isfinite(r[2])])


def static(facts: dict[str, Any], columns: dict[str, np.ndarray], first: np.ndarray) -> tuple[Any, ...]:
    ids, text = np.unique(columns["token_id"], return_inverse=True)[1], columns["text"]
    found = [analysis.table_accuracy(ids, f, text, int(facts["experts"])) for f in first]
    right, low, high = interval(np.mean([hits for hits, _ in found], 0), text[text % 2 == 1])
    common = float(np.mean([share for _, share in found]))
    return (
        "a table of ids could be the router", "right first choices on unseen texts (holds above 0.8, fails below 0.5)", right, low, high, common,
        "always the commonest expert", verdict(low > 0.8, high < 0.5),
    )  # fmt: skip


def early(film: dict[str, np.ndarray] | None, experts: int) -> list[tuple[Any, ...]]:
    """Return what was settled after a tenth of the training."""
    if film is None:
        return []
    own = film["run"] == film["run"][0]
    steps = np.unique(film["step"][own])
    tenth = steps[np.abs(np.log(steps / (steps[-1] / 10))).argmin()]
    at = film["overlap"][own & (film["step"] == tenth)]
    chance = 2 / experts
    return [(
        "the routing is learnt early", f"experts of a token that stay until the end, after {tenth} of {steps[-1]} steps (holds above 0.8, fails below 0.5)",
        at.mean(), at.min(), at.max(), chance, "two random routers", verdict(at.min() > 0.8, at.max() < 0.5),
    )]  # fmt: skip


def late(facts: dict[str, Any], columns: dict[str, np.ndarray], dropped: np.ndarray) -> list[tuple[Any, ...]]:
    """Return whether later tokens, and kinds outside the training, are dropped more."""
    length = int(columns["position"].max()) + 1
    if length < 8:
        return []
    hit = dropped.mean((0, 2))
    quarter = columns["position"] * 4 // length
    text = columns["text"]
    (now, now_low, now_high), (then, then_low, then_high) = (interval(hit[quarter == q], text[quarter == q]) for q in (3, 0))
    found = [(
        "later tokens are dropped more", f"choices dropped in the last quarter (capacity factor {facts['capacity_factor']:g}, order {facts['order']})",
        now, now_low, now_high, then, "in the first quarter", verdict(now_low > then_high, now_high < then_low),
    )]  # fmt: skip
    sides = sides_of(facts, columns)
    if len(sides) == 2:
        (home, home_low, home_high), (away, away_low, away_high) = (interval(hit[s], text[s]) for s in sides.values())
        found.append((
            "strange text is dropped more", "choices dropped in kinds it never saw", away, away_low, away_high, home, "kinds it learnt",
            verdict(away_low > home_high, away_high < home_low),
        ))  # fmt: skip
    return found
