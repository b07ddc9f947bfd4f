"""What a speculative decode writes to the tape: steps, trees, laws, text, meters, and the checks of its output law."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from workbench.meters import write_meter
from workbench.systems.speculation import analysis, plan
from workbench.systems.speculation.tree import Law, Step, prefill, processed_law
from workbench.tape import NullTape, Tape

if TYPE_CHECKING:
    from workbench.systems.speculation.rsd import RSD, Output

#: A candidate is worth recording when either law gives it at least this probability; at most `CANDIDATES` a trial.
LIKELY, CANDIDATES = 0.002, 16
#: Two best logits closer than this are a tie: rounding decides which one a greedy decoder writes.
TIE = 1e-3


def write_step(tape: NullTape, system: RSD, index: int, step: Step, emitted: list[int], stop: str, law: Law) -> None:
    """Write one step: its row of `steps`, its rows of `tree`, its `laws` and its part of `text`."""
    if not tape.recording:
        return
    pieces = system._loaded.pieces
    ms = tape.lap()
    accepted = min(len(step.walk.path), len(emitted))
    tape.write(
        "steps",
        step=index,
        drafted=len(step.tree) - 1,
        accepted=accepted,
        emitted=len(emitted),
        draft_ms=ms.get("draft", 0.0),
        target_ms=ms.get("target", 0.0),
        verify_ms=ms.get("verify", 0.0),
        kv_ms=ms.get("kv", 0.0),
        total_ms=sum(ms.values()),
        rows=len(step.tree),
        stop=stop,
    )
    # At temperature 0 the law is one token; the record then shows the laws at temperature 1, which order the drafts.
    shown = law if system.temperature > 0 else processed_law(1.0, 1.0)
    nodes = [0, *step.walk.path][: len(emitted)]
    asked = sorted({*nodes, *step.tree.parents[1:]})  # leaves have no child whose probability is asked for
    target_probs = dict(zip(asked, shown(step.target_logits[asked])))
    _write_tree(tape, index, step, target_probs, pieces)
    _write_laws(tape, index, step, pieces)
    sources = ["draft"] * accepted + [_source(step, stop)] * (len(emitted) - accepted)
    tape.write(
        "text",
        token_id=emitted,
        piece=pieces(emitted),
        generated=True,
        step=index,
        source=sources,
        target_logprob=[_log(target_probs[n][t]) for n, t in zip(nodes, emitted)],
    )


def _source(step: Step, stop: str) -> str:
    if len(step.tree) == 1:
        return "target"
    return step.walk.stop if stop == "eos" else stop


def _log(p: float) -> float:
    return float(np.log(p)) if p > 0 else -np.inf


def _write_tree(tape: NullTape, index: int, step: Step, target_probs: dict[int, np.ndarray], pieces: Any) -> None:
    tree, walk = step.tree, step.walk
    nodes = np.arange(len(tree))
    tried = {0: (np.nan, np.nan)} | walk.tried
    missing = (np.nan, np.nan)
    tape.write(
        "tree",
        step=index,
        node=nodes,
        parent=np.array(tree.parents),
        depth=np.array(tree.depths),
        sibling_rank=np.array(tree.ranks),
        token_id=np.array(tree.tokens),
        piece=pieces(tree.tokens),
        draft_logprob=np.array(tree.logprobs),
        target_logprob=np.array([np.nan, *(_log(target_probs[p][t]) for p, t in zip(tree.parents[1:], tree.tokens[1:]))]),
        visited=np.isin(nodes, list(tried)),
        accepted=np.isin(nodes, [0, *walk.path]),
        cumulative_logprob=np.array(tree.cumulative),
        perturbed=np.array(tree.perturbed),
        uniform=np.array([tried.get(int(n), missing)[0] for n in nodes]),
        ratio=np.array([tried.get(int(n), missing)[1] for n in nodes]),
    )


def _write_laws(tape: NullTape, index: int, step: Step, pieces: Any) -> None:
    """Write p, q, r_j and Q_j of the likeliest candidates for every trial of the walk."""
    firsts = {node: (residual, remaining) for node, trial, residual, remaining in reversed(step.walk.trail) if trial == 0}
    likely = {node: _candidates(*laws) for node, laws in firsts.items()}
    for node, trial, residual, remaining in step.walk.trail:
        (target, draft), ids = firsts[node], likely[node]
        tape.write(
            "laws",
            step=index,
            node=node,
            trial=trial,
            token_id=ids,
            piece=pieces(ids.tolist()),
            target=target[ids],
            draft=draft[ids],
            residual=residual[ids],
            remaining=remaining[ids],
        )


def _candidates(target: np.ndarray, draft: np.ndarray) -> np.ndarray:
    """Return the ids that either law finds likely, at most `CANDIDATES`, in order."""
    ids = np.flatnonzero(np.maximum(target, draft) >= LIKELY)
    if len(ids) > CANDIDATES:
        weight = np.maximum(target[ids], draft[ids])
        ids = np.sort(ids[np.argpartition(-weight, CANDIDATES - 1)[:CANDIDATES]])
    return ids


def write_run(system: RSD, tape: NullTape, output: Output, plain: Output) -> None:
    """Write the prompt's text, the latency curve, the lossless monitor and the meters of a finished decode."""
    if not isinstance(tape, Tape):
        return
    _prepend_prompt(system, tape)
    _write_speed(system, tape, output, plain)
    _write_quality(system, tape, output, plain)
    if not system._loaded.is_table:
        plan.write_latency(system, tape)
    if system.temperature > 0 and not system.num_samples:
        write_monitor(tape, np.array(output.ranks))
    if system.break_it != "none":
        tape.describe("text", broken=f"verified wrongly on purpose: {system.break_it}")


def _prepend_prompt(system: RSD, tape: Tape) -> None:
    ids = system._prompt
    tape.write_first(
        "text",
        token_id=ids,
        piece=system._loaded.pieces(ids),
        generated=False,
        step=-1,
        source="prompt",
        target_logprob=np.full(len(ids), np.nan),
    )


def _write_speed(system: RSD, tape: Tape, output: Output, plain: Output) -> None:
    columns = tape.columns()
    steps, tree = columns["steps"], columns["tree"]
    per_second = len(output.tokens) / output.seconds
    tried = int((tree["visited"] & (tree["depth"] > 0)).sum())
    accepted = int((tree["accepted"] & (tree["depth"] > 0)).sum())
    baseline = len(plain.tokens) / plain.seconds if plain.steps else float("nan")
    name = "plain decoding, same prompt, same run"
    write_meter(
        tape, "tokens_per_second", per_second, "tokens/s", kind="speed", better="higher",
        baseline=baseline, baseline_name=name, samples=len(output.tokens),
    )  # fmt: skip
    write_meter(
        tape, "tokens_per_target_call", len(output.tokens) / output.steps, "tokens / target call (bonus counts)",
        kind="speed", better="higher", baseline=1.0, baseline_name=name, samples=output.steps,
        spread=(float(np.percentile(steps["emitted"], 10)), float(np.percentile(steps["emitted"], 90))),
    )  # fmt: skip
    if tried:
        write_meter(
            tape, "acceptance_rate", accepted / tried, "share of tried drafts", kind="speed", better="higher",
            spread=analysis.wilson(accepted, tried), samples=tried,
        )  # fmt: skip
    if plain.steps and steps["draft_ms"].sum() > 0:
        levels = np.array([tree["depth"][tree["step"] == s].max() for s in range(output.steps)])
        per_call = steps["draft_ms"].sum() / max(int(levels.sum()), 1)
        write_meter(
            tape, "draft_cost_ratio", per_call / (plain.seconds / plain.steps * 1e3), "draft call / plain step",
            kind="cost", better="lower", baseline=1.0, baseline_name="one plain step", samples=int(levels.sum()),
        )  # fmt: skip


def _write_quality(system: RSD, tape: Tape, output: Output, plain: Output) -> None:
    name = "plain decoding, same prompt, same run"
    if system.temperature == 0 and plain.steps:
        compared = min(len(output.tokens), len(plain.tokens))
        differ = [i for i in range(compared) if output.tokens[i] != plain.tokens[i]]
        same = len(output.tokens) == len(plain.tokens) and not differ
        write_meter(
            tape, "identical_to_greedy", float(same), "1 = every token", kind="quality", better="higher",
            baseline=1.0, baseline_name=name, samples=compared,
        )  # fmt: skip
        ties = int(bool(differ) and plain.gaps[differ[0]] < TIE)
        write_meter(
            tape, "differs_at_a_tie", float(ties), f"1 = first difference where the two best logits are within {TIE:g}",
            kind="quality", better="lower", baseline=0.0, baseline_name=name,
        )  # fmt: skip
    elif output.logprobs:
        mean, noise = float(np.mean(output.logprobs)), 1.96 * _standard_error(output.logprobs, plain.logprobs)
        write_meter(
            tape, "mean_logprob_under_target", mean, "nats / token", kind="quality", better="higher",
            baseline=float(np.mean(plain.logprobs)) if plain.logprobs else float("nan"), baseline_name=name,
            spread=(mean - noise, mean + noise), samples=len(output.logprobs),
        )  # fmt: skip


def _standard_error(run: list[float], baseline: list[float]) -> float:
    """Return the standard error of the difference of two means (of one mean where there is no baseline)."""
    return float(np.sqrt(sum(np.var(v, ddof=1) / len(v) for v in (run, baseline) if len(v) > 1)))


def write_monitor(tape: Tape, ranks: np.ndarray, bins: int = 10) -> None:
    """Write the running check of the output law on a language model: tokens' ranks are uniform if it is the target's."""
    from scipy.special import chdtrc, chdtri

    checks = np.unique(np.linspace(min(len(ranks), bins), len(ranks), 40).astype(int))
    names, x, y, low, high = [], [], [], [], []
    for n in checks:
        counts = np.bincount(np.minimum((ranks[:n] * bins).astype(int), bins - 1), minlength=bins)
        statistic = float(((counts - n / bins) ** 2 / (n / bins)).sum()) / (bins - 1)
        names.append("chi-square / dof")
        x.append(n)
        y.append(statistic)
        low.append(chdtri(bins - 1, 0.975) / (bins - 1))
        high.append(chdtri(bins - 1, 0.025) / (bins - 1))
    tape.write("curve/lossless", curve=names, x=x, y=y, y_low=low, y_high=high)
    p_value = float(chdtrc(bins - 1, y[-1] * (bins - 1))) if y else float("nan")
    tape.describe(
        "curve/lossless", x_label="tokens", y_label="chi-square / degrees of freedom", p_value=p_value, dof=bins - 1,
        samples=len(ranks), law=f"ranks of the emitted tokens under the target's law, {bins} bins (uniform if lossless)",
    )  # fmt: skip


def write_samples(system: RSD, tape: NullTape) -> None:
    """Decode `num_samples` times on a table model; write the samples and their law against the exact one."""
    count, length = int(system.num_samples), int(system.max_new_tokens)
    start = len(system._prompt) - 1
    prefill(system._session, system._draft, system._prompt)
    out = np.zeros((count, length), np.int32)
    seeds = np.random.SeedSequence(system.seed).generate_state(count, np.uint64)
    quiet = NullTape(cancel=tape.cancel)
    for i, seed in enumerate(seeds):
        out[i] = system.decode(quiet, system.method, seed=int(seed)).tokens
        system.rewind(start)
        if i % 500 == 0:
            tape.step(i, count, f"{i} of {count} samples", "sampling")
    system.rewind(0)
    if not isinstance(tape, Tape):
        return
    tape.write("samples", token_id=out)
    write_exact_monitor(system, tape, out)


def write_exact_monitor(system: RSD, tape: Tape, samples: np.ndarray) -> None:
    """Write chi-square and total variation of the first two tokens against their exact joint law, as samples come in."""
    from scipy.special import chdtrc, chdtri

    exact = exact_pair_law(system, min(2, samples.shape[1]))
    pairs = samples[:, 0] if samples.shape[1] == 1 else samples[:, 0] * system._session.vocab_size + samples[:, 1]
    exact = exact.ravel()
    dof = int((exact > 0).sum()) - 1
    rows: list[tuple[str, float, float, float, float]] = []
    checks = np.unique(np.geomspace(min(50, len(pairs)), len(pairs), 40).astype(int))
    for n in checks:
        counts = np.bincount(pairs[:n], minlength=len(exact))
        variation = float(np.abs(counts / n - exact).sum() / 2)
        sampling = float(np.sqrt(2 / np.pi) * np.sqrt(exact * (1 - exact) / n).sum() / 2)
        chi = float((((counts - n * exact) ** 2)[exact > 0] / (n * exact[exact > 0])).sum()) / max(dof, 1)
        chi = np.inf if counts[exact == 0].any() else chi
        band = (chdtri(dof, 0.975) / dof, chdtri(dof, 0.025) / dof) if dof else (np.nan, np.nan)
        rows.append(("total variation", float(n), variation, np.nan, np.nan))
        rows.append(("total variation expected of an exact sampler", float(n), sampling, np.nan, np.nan))
        rows.append(("chi-square / dof", float(n), chi, float(band[0]), float(band[1])))
    names, x, y, low, high = zip(*rows)
    tape.write("curve/lossless", curve=list(names), x=list(x), y=list(y), y_low=list(low), y_high=list(high))
    p_value = float(chdtrc(dof, rows[-1][2] * dof)) if dof else float("nan")
    tape.describe(
        "curve/lossless", x_label="samples", y_label="distance from the exact law", p_value=p_value, dof=dof,
        samples=len(pairs), law="exact joint law of the first two emitted tokens",
    )  # fmt: skip
    # |d_i| of a normal deviation has standard deviation sqrt(1 - 2 / pi) sigma_i.
    noise = 1.96 * float(np.sqrt((1 - 2 / np.pi) * (exact * (1 - exact)).sum() / len(pairs)) / 2)
    write_meter(
        tape, "total_variation_to_target", rows[-3][2], "total variation", kind="quality", better="lower",
        baseline=rows[-2][2], baseline_name="expected of an exact sampler with as many samples", samples=len(pairs),
        spread=(rows[-3][2] - noise, rows[-3][2] + noise),
    )  # fmt: skip


def exact_pair_law(system: RSD, length: int) -> np.ndarray:
    """Return the exact law (V,) or (V, V) of the first one or two tokens after the prompt on a table model."""
    law = processed_law(system.temperature, system.top_p)
    table = law(system._session.logits).astype(np.float64)  # type: ignore[attr-defined]
    first = table[system._prompt[-1]]
    return first if length == 1 else first[:, None] * table


def write_study(system: RSD, tape: NullTape, start: int) -> None:
    """Decode the same prompt by every method: at equal depth (fixed length) and by nodes (fixed budget)."""
    chosen = (system.method, system._branching, system._depth, system.break_it)
    try:
        system.break_it = "none"  # the methods are compared as they are
        rows = _study(system, tape, start)
    finally:  # a cancelled study leaves the system as it was
        system.method, system._branching, system._depth, system.break_it = chosen
    if isinstance(tape, Tape):
        _write_study_rows(tape, rows)


def _study(system: RSD, tape: NullTape, start: int) -> list[tuple[str, str, float, float]]:
    rows: list[tuple[str, str, float, float]] = []
    settings = [(method, depth) for method in ("chain", "with-replacement", "rsd-c", "rsd-s") for depth in (1, 2, 3, 4)]
    for i, (method, depth) in enumerate(settings):
        system.method = method
        system._branching, system._depth = plan.branching(method, depth, 2)
        tape.step(i, len(settings), f"{method}, depth {depth}", "study")
        output = system.decode(NullTape(cancel=tape.cancel), method)
        eta = len(output.tokens) / output.steps
        rows.append(("curve/length", method, depth, eta))
        rows.append(("curve/budget", method, plan.node_count(method, system._branching, depth), eta))
        system.rewind(start)
    return rows


def _write_study_rows(tape: Tape, rows: list[tuple[str, str, float, float]]) -> None:
    for group, label in (("curve/length", "depth of the tree (levels)"), ("curve/budget", "nodes the target verifies in a step")):
        mine = [r for r in rows if r[0] == group]
        nothing = np.full(len(mine), np.nan)
        tape.write(
            group, curve=[r[1] for r in mine], x=[r[2] for r in mine], y=[r[3] for r in mine], y_low=nothing, y_high=nothing
        )
        tape.describe(group, x_label=label, y_label="tokens per target call")
