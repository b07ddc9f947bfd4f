"""OpenMoE: dispatch and drops against closed forms and brute force, losses, estimates on planted routers, and true runs of small mixtures."""

from __future__ import annotations

import itertools
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

import workbench as wb
from tests.instruments.test_router import make
from workbench.errors import InputError, ModelError
from workbench.systems.routing import analysis, claims, losses, openmoe_report
from workbench.systems.routing.openmoe import OpenMoE, choose


def uniform(tokens: int, experts: int, seed: int, top_k: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Return independent uniform choices (1, T, k) and falling weights."""
    rng = np.random.default_rng(seed)
    expert = np.argsort(rng.random((tokens, experts)), 1)[:, :top_k]
    return expert[None].astype(np.int16), -np.sort(-rng.random((1, tokens, top_k)), -1).astype(np.float32)


# ---- capacity and drops ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tokens", "experts", "top_k", "factor", "slots"),
    [
        (128, 8, 1, 1.0, 16),
        (128, 8, 1, 1.25, 20),
        (128, 8, 2, 1.25, 40),
        (10, 8, 1, 1.0, 4),
        (1, 8, 2, 0.25, 4),
        (36, 8, 1, 1.2, 6),
    ],
)
def test_capacity(tokens: int, experts: int, top_k: int, factor: float, slots: int) -> None:
    assert analysis.capacity(tokens, experts, top_k, factor) == slots


def test_drop_probability_is_the_closed_form_and_what_dispatch_does() -> None:
    """Uniform routing of 128 tokens to 8 experts, first choice only: P(drop) at four positions, exact and by 3000 draws."""
    places, law = [31, 63, 95, 127], np.full(8, 1 / 8)
    for factor, wanted in ((1.0, [0, 0.004, 0.132, 0.527]), (1.25, [0, 0, 0.013, 0.165])):
        slots = analysis.capacity(128, 8, 1, factor)
        exact = np.array([analysis.drop_probability(t, law, slots) for t in places])
        np.testing.assert_allclose(exact, wanted, atol=1e-3)
        draws = 3000
        expert = np.random.default_rng(1).integers(0, 8, (1, draws * 128, 1)).astype(np.int16)
        cuts = [slice(i * 128, i * 128 + 128) for i in range(draws)]
        slot = analysis.serve(expert, np.ones(expert.shape, np.float32), cuts, 8, factor, "token").slot.reshape(draws, 128)
        seen = (slot[:, places] < 0).mean(0)
        assert (np.abs(seen - exact) <= 3 * np.sqrt(exact * (1 - exact) / draws) + 1e-9).all()
        assert (slot[:, :slots] >= 0).all()  # the first C tokens always find a slot


@pytest.mark.parametrize("order", ["token", "random", "priority"])
@pytest.mark.parametrize("top_k", [1, 2])
def test_kept_choices_are_counted_exactly_and_fall_with_the_factor(order: str, top_k: int) -> None:
    expert, weight = uniform(99, 8, 3, top_k)
    groups, before = [slice(0, 40), slice(40, 99)], math.inf
    for factor in (0.25, 0.5, 1.0, 1.5, 2.0, 8.0):
        found = analysis.serve(expert, weight, groups, 8, factor, order)
        for g, slots in zip(groups, found.slots):
            load = np.bincount(expert[0, g].ravel(), minlength=8)
            assert (found.slot[0, g] >= 0).sum() == np.minimum(load, slots).sum()
        dropped = int((found.slot < 0).sum())
        assert dropped <= before
        before = dropped
    assert before == 0  # every expert has a slot for every token


@pytest.mark.parametrize("order", ["token", "priority"])
def test_one_call_for_all_layers_and_groups_is_a_call_for_each(order: str) -> None:
    from workbench import kernels

    parts = [uniform(90, 5, seed, 2) for seed in (1, 2, 3)]
    expert, weight = (np.concatenate([p[i] for p in parts]) for i in range(2))
    groups = [slice(0, 30), slice(30, 70), slice(70, 90)]
    found = analysis.serve(expert, weight, groups, 5, 0.7, order)
    for layer in range(3):
        for g, slots in zip(groups, found.slots):
            alone = kernels.expert_dispatch(expert[layer, g], weight[layer, g], 5, int(slots), order, backend="reference")
            np.testing.assert_array_equal(found.slot[layer, g], alone.slot)


def test_priority_moves_drops_from_late_tokens_to_light_ones() -> None:
    expert, weight = uniform(4096, 4, 5)
    late, light = np.arange(4096) > 2048, weight[0, :, 0] < 0.5
    groups = [slice(i, i + 128) for i in range(0, 4096, 128)]
    place = np.arange(4096) % 128 >= 64
    by_token, by_weight = (analysis.serve(expert, weight, groups, 4, 0.6, o).slot[0, :, 0] < 0 for o in ("token", "priority"))
    assert by_token[place].mean() > 3 * by_token[~place].mean()
    assert abs(by_weight[place].mean() - by_weight[~place].mean()) < 0.05
    assert by_weight[light].mean() > 3 * by_weight[~light].mean()
    assert late.any()


def test_groups_are_texts_of_one_kind() -> None:
    text, kind = np.repeat(np.arange(5), 3), np.repeat(["a", "a", "a", "b", "b"], 3)
    assert analysis.groups_of(text, kind, 2) == [slice(0, 6), slice(6, 9), slice(9, 15)]
    assert analysis.groups_of(text, kind, 1) == [slice(i * 3, i * 3 + 3) for i in range(5)]
    assert analysis.groups_of(text, kind, 16) == [slice(0, 9), slice(9, 15)]


# ---- losses -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("top_k", [1, 2])
def test_losses_at_balance_and_at_collapse(top_k: int) -> None:
    expert = np.array([[(i + j) % 8 for j in range(top_k)] for i in range(8)])
    assert analysis.load_balance(np.zeros((8, 8)), expert) == pytest.approx(top_k)  # uniform p, balanced counts: K
    same = np.tile(np.arange(top_k), (8, 1))
    logits = np.where(np.arange(8) < top_k, 30.0, -30.0)[None].repeat(8, 0)
    assert analysis.load_balance(logits, same) == pytest.approx(8)  # all tokens on the same K experts: E
    assert analysis.z_loss(np.full((5, 8), 1.7)) == pytest.approx((1.7 + math.log(8)) ** 2)
    rng = np.random.default_rng(0)
    x = rng.standard_normal((20, 8))
    best = np.argsort(-x, 1)[:, :top_k]
    tensor = torch.from_numpy(x)
    assert float(losses.load_balance(tensor, top_k)) == pytest.approx(analysis.load_balance(x, best), rel=1e-5)
    assert float(losses.z_loss(tensor)) == pytest.approx(analysis.z_loss(x), rel=1e-5)


def test_gradient_of_the_balance_loss_by_finite_differences() -> None:
    rng = np.random.default_rng(2)
    x = torch.from_numpy(rng.standard_normal((6, 4))).requires_grad_()
    chosen = x.detach().topk(2, -1).indices
    losses.load_balance(x, 2, chosen).backward()
    for i in range(6):
        for j in range(4):
            ends = []
            for sign in (1, -1):
                moved = x.detach().clone()
                moved[i, j] += sign * 1e-2
                share = np.bincount(chosen.numpy().ravel(), minlength=4) / 6  # frozen
                ends.append(4 * float((torch.from_numpy(share) * moved.softmax(-1).mean(0)).sum()))
            assert float(x.grad[i, j]) == pytest.approx((ends[0] - ends[1]) / 2e-2, abs=1e-5)


# ---- estimates on planted routers -----------------------------------------------------------------------------------


def planted(seed: int = 0, tokens: int = 6000, ids: int = 60, experts: int = 8) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    token = rng.zipf(1.3, tokens) % ids
    return {
        "token": token, "text": np.repeat(np.arange(tokens // 100), 100), "by_id": rng.integers(0, experts, ids)[token],
        "free": rng.integers(0, experts, tokens), "position": np.tile(np.arange(100), tokens // 100),
    }  # fmt: skip


def test_a_router_of_ids_is_explained_by_ids_alone() -> None:
    p = planted()
    by_id = analysis.explained(p["token"], p["by_id"], p["text"], 8)
    assert by_id.share == pytest.approx(1, abs=1e-9)
    place = analysis.explained(p["position"], p["by_id"], p["text"], 8)
    assert abs(place.share) < 0.02
    table = analysis.counts(p["token"], p["by_id"], 8)
    scores = analysis.specialisation(table)[table.sum(1) > 0]
    np.testing.assert_allclose(scores, 1)
    right, _ = analysis.table_accuracy(p["token"], p["by_id"], p["text"], 8)
    assert right.mean() > 0.99  # an id that the even texts never showed may be missed


def test_a_router_of_positions_is_not_explained_by_ids() -> None:
    p = planted(1)
    expert = p["position"] % 8
    assert analysis.explained(p["position"], expert, p["text"], 8).share == pytest.approx(1, abs=1e-9)
    found = analysis.explained(p["token"], expert, p["text"], 8)
    assert found.low - 0.01 <= 0 <= found.high + 0.01
    raw = analysis.information(analysis.counts(p["token"], expert, 8), correct=False) / math.log(8)
    assert raw > found.share + 0.005  # without taking chance off, rare ids look as if they knew something


def test_a_free_router_is_explained_by_nothing() -> None:
    p = planted(2)
    for name in ("token", "position"):
        found = analysis.explained(p[name], p["free"], p["text"], 8)
        assert abs(found.share) < 0.02
        assert 0 < found.chance < 0.1
    right, common = analysis.table_accuracy(p["token"], p["free"], p["text"], 8)
    assert abs(right.mean() - 1 / 8) < 0.03
    assert abs(common - 1 / 8) < 0.03


def law_of(kind: str, strength: float, rng: np.random.Generator, ids: int, experts: int) -> np.ndarray:
    """Return P(expert | id), (ids, E): one expert or two for an id with this strength, or laws drawn from Dirichlet's."""
    if kind == "drawn":
        return rng.dirichlet(np.full(experts, 10 ** (1.5 - 3 * strength)), ids)
    chosen = np.argsort(rng.random((ids, experts)), 1)[:, : 1 if kind == "one" else 2]
    law = np.full((ids, experts), (1 - strength) / experts)
    np.put_along_axis(law, chosen, (1 - strength) / experts + strength / chosen.shape[1], 1)
    return law


def test_intervals_of_what_an_id_explains_hold_the_truth_for_laws_of_several_forms() -> None:
    found = []
    for kind, strength, seed in itertools.product(("one", "two", "drawn"), (0.0, 0.3, 0.6, 0.8), range(5)):
        rng = np.random.default_rng(seed)
        law, use = law_of(kind, strength, rng, 600, 8), 1 / np.arange(1, 601)
        use /= use.sum()
        token = rng.choice(600, 2880, p=use)
        expert = (law[token].cumsum(1) < rng.random(len(token))[:, None]).sum(1).clip(0, 7)
        entropy = lambda p: -(p * np.log(np.maximum(p, 1e-300))).sum(-1)  # noqa: E731
        truth = 1 - float(use @ entropy(law)) / float(entropy(use @ law))
        x = analysis.explained(token * 1000, expert, np.repeat(np.arange(72), 40), 8, seed)  # ids far apart cost no table
        found.append((x.low <= truth <= x.high, abs(x.share - truth)))
    inside, off = np.array(found).T
    assert inside.mean() >= 0.93
    assert off.mean() < 0.02


@pytest.mark.parametrize("strength", [0.0, 0.4, 1.0])
def test_what_context_adds_to_an_id_is_told_from_what_the_id_says(strength: float) -> None:
    """Two routers with one strength: of the id alone, where the id before adds nothing, and of both ids' sum, where neither says anything alone."""
    rng = np.random.default_rng(8)
    token, text = rng.integers(0, 24, 6000), np.repeat(np.arange(60), 100)
    before, free = np.r_[0, token[:-1]], rng.random(6000) >= strength
    p = np.full(8, (1 - strength) / 8)
    p[0] += strength
    truth = 1 + float((p * np.log(np.maximum(p, 1e-300))).sum()) / math.log(8)
    for law, own, added in ((token, truth, 0.0), (token + before, 0.0, truth)):
        expert = np.where(free, rng.integers(0, 8, 6000), law % 8)
        alone = analysis.explained(token, expert, text, 8)
        context = analysis.explained(before * 1000, expert, text, 8, given=token * 1000)
        assert alone.share == pytest.approx(own, abs=0.03)
        assert context.share == pytest.approx(added, abs=0.03)
        assert context.low <= added + 1e-6
        assert context.high >= added - 1e-6


def test_information_of_tokens_is_that_of_their_table() -> None:
    rng = np.random.default_rng(2)
    value, expert = rng.zipf(1.3, 4000) % 500, rng.integers(0, 8, 4000)
    table = analysis.counts(value, expert, 8)
    np.testing.assert_allclose(analysis.shared(value, expert, 8), analysis.information(table, correct=False), rtol=1e-10)
    seen = table[table.sum(1) > 0]
    hand = sum(n / 4000 * math.log(n * 4000 / (row.sum() * seen[:, i].sum())) for row in seen for i, n in enumerate(row) if n)
    np.testing.assert_allclose(analysis.shared(value, expert, 8), hand, rtol=1e-9)


def test_layers_tell_of_each_other_what_was_planted() -> None:
    rng = np.random.default_rng(1)
    one, free = rng.integers(0, 16, 8000), rng.integers(0, 16, 8000)
    found = analysis.told(np.stack([one, (one * 5 + 3) % 16, free, one // 4]), 16)
    np.testing.assert_allclose(found[[0, 1, 2, 3, 0, 1], [1, 0, 2, 3, 3, 3]], 1)
    np.testing.assert_allclose(found[3, :2], 0.5, atol=1e-3)  # two of the four bits
    assert found[2, [0, 1, 3]].max() < 0.005
    assert found[[0, 1, 3], 2].max() < 0.005
    assert analysis.information(analysis.counts(one, free, 16), correct=False) / np.log(16) > 0.004  # chance, which is taken off


def test_information_of_a_table_by_hand() -> None:
    table = np.array([[30.0, 10.0], [10.0, 50.0]])
    joint = table / 100
    truth = sum(p * math.log(p / (joint.sum(1)[i] * joint.sum(0)[j])) for i in range(2) for j in range(2) if (p := joint[i, j]))
    assert analysis.information(table, correct=False) == pytest.approx(truth)
    assert analysis.information(table) == pytest.approx(truth + (2 + 2 - 4 - 1) / 200)


def test_overlap_of_a_router_with_itself_and_with_another() -> None:
    one, other = uniform(20_000, 8, 1, 2)[0], uniform(20_000, 8, 2, 2)[0]
    assert analysis.shared_choices(one, one).mean() == 1
    assert analysis.shared_choices(one, other).mean() == pytest.approx(2 / 8, abs=0.01)
    counts = np.array([[5.0, 0, 0], [1, 1, 1], [0, 0, 0]])
    found = analysis.divergence(counts, np.array([[5.0, 0, 0], [0, 0, 3], [1, 0, 0]]))
    assert found[0] == 0
    assert 0 < found[1] <= math.log(2)
    assert np.isnan(found[2])


# ---- true runs ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def mixture() -> Any:
    torch.manual_seed(1)
    config = transformers.Qwen2MoeConfig(
        vocab_size=40, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=2, num_experts=6, num_experts_per_tok=2,
        moe_intermediate_size=12, shared_expert_intermediate_size=12, decoder_sparse_step=1, norm_topk_prob=False, initializer_range=0.3, max_position_embeddings=256,
    )  # fmt: skip
    return transformers.Qwen2MoeForCausalLM(config).eval().requires_grad_(False)


def ids(count: int = 60) -> list[int]:
    return np.random.default_rng(4).integers(0, 40, count).tolist()


def test_weights_before_drops_are_the_routers_and_no_limit_is_the_dense_reference(mixture: Any) -> None:
    record = wb.run("openmoe", model=mixture, text=ids(), capacity_factor=8.0)
    routing = record["routing"]
    p = routing["probability"].values
    np.testing.assert_allclose(routing["weight"].values.sum(-1), p[..., :2].sum(-1), rtol=1e-6)
    assert not routing["dropped"].values.any()
    meter = record.meter("perplexity")
    assert meter["value"] == pytest.approx(meter["baseline"], rel=1e-5)
    # the block's output by looping over all experts
    block, x = mixture.model.layers[0].mlp, torch.randn(7, 16)
    law = (x @ block.gate.weight.T).softmax(-1)
    best = law.topk(2, -1)
    y = torch.zeros_like(x)
    for t in range(7):
        for g, e in zip(best.values[t], best.indices[t]):
            up = block.experts.gate_up_proj[e] @ x[t]
            y[t] += g * (block.experts.down_proj[e] @ (torch.nn.functional.silu(up[:12]) * up[12:]))
    y += torch.sigmoid(x @ block.shared_expert_gate.weight.T) * block.shared_expert(x)
    out = block(x[None])
    np.testing.assert_allclose((out[0] if isinstance(out, tuple) else out)[0].numpy(), y.numpy(), atol=1e-5)


def test_the_limit_inside_the_model_drops_what_the_recorded_routing_says(mixture: Any) -> None:
    """The first layer sees the same input with or without the limit, so its drops agree exactly; quality changes."""
    system = OpenMoE(model=mixture, text=ids(120), capacity_factor=0.5, seed=0)
    record = system.record()
    derived = record["routing"]["dropped"].values
    limited = system.limited(wb.tape.NullTape())
    assert limited is not None
    np.testing.assert_array_equal(limited.dropped[0], derived[0])
    assert derived[0].mean() > 0.2
    meter = record.meter("perplexity")
    assert meter["value"] != meter["baseline"]
    assert record.meter("dropped_in_the_model")["value"] == pytest.approx(limited.dropped.mean())


def test_a_dropped_token_gets_only_the_shared_path(mixture: Any) -> None:
    """With one slot too few for a token, its block output is that of the model whose experts are silent at that place."""
    from workbench.instruments import router

    system = OpenMoE(model=mixture, text=ids(120), capacity_factor=0.25, top_k=1)
    system.prepare()
    from workbench.systems.routing.openmoe import _Limit

    limit, outputs = _Limit(system, 0), {}
    view = router.view(mixture).model
    hook = view.model.layers[0].mlp.register_forward_hook(
        lambda _, given, out: outputs.update(y=(given[0], out[0] if isinstance(out, tuple) else out))
    )
    try:
        with torch.inference_mode(), router.routing(limit):
            view(input_ids=torch.from_numpy(system._texts.ids), use_cache=False)
    finally:
        hook.remove()
    x, y = (t.reshape(-1, 16) for t in outputs["y"])
    block = mixture.model.layers[0].mlp
    bare = torch.sigmoid(x @ block.shared_expert_gate.weight.T) * block.shared_expert(x)
    lost = limit.dropped[0].all(1)
    assert lost.any()
    np.testing.assert_allclose(y[lost].numpy(), bare[lost].numpy(), atol=1e-5)
    assert np.abs((y - bare)[~lost].numpy()).max() > 1e-3


def test_live_knobs_give_what_a_run_with_them_records(mixture: Any) -> None:
    base = OpenMoE(model=mixture, text=ids(120))
    record = base.record()
    for change in (
        {"capacity_factor": 0.4},
        {"top_k": 3},
        {"order": "priority"},
        {"capacity_factor": 0.5, "order": "random", "top_k": 1},
    ):
        base.set(**{"capacity_factor": 1.25, "top_k": 2, "order": "token"} | change)
        live, true = base.rederive(record), OpenMoE(model=mixture, text=ids(120), **change).record()
        for name in ("expert", "weight", "dropped", "load", "served"):
            np.testing.assert_array_equal(live.column("routing", name), true.column("routing", name))
        np.testing.assert_array_equal(live.column("curve/drops", "y"), true.column("curve/drops", "y"))
        for name in ("drop_rate", "kept_weight", "slots"):
            assert live.meter(name)["value"] == true.meter(name)["value"]
        expert, weight, dropped = (live.column("routing", n) for n in ("expert", "weight", "dropped"))
        assert live.meter("kept_weight")["value"] == pytest.approx(weight[~dropped].sum() / weight.sum(), rel=1e-5)
        assert expert.shape == weight.shape
        assert np.isnan(live.meter("perplexity")["value"])
        assert live.meter("perplexity")["provenance"] == "estimated"


def test_what_a_token_costs_follows_the_number_of_experts_and_the_claims_follow_the_limit(mixture: Any) -> None:
    system = OpenMoE(model=mixture, text=ids(120))
    record = system.record()
    assert record.group_attrs("routing")["top_k"] == 2  # the model's own, where none is asked for
    held = sum(p.numel() for layer in mixture.model.layers for p in layer.mlp.experts.parameters())
    whole = sum(p.numel() for p in mixture.parameters())
    for top_k in (None, 1, 4):
        system.set(top_k=top_k)
        live = system.rederive(record)
        assert live.meter("active_parameters")["value"] == pytest.approx((whole - held * (1 - (top_k or 2) / 6)) / 1e6)
        true = OpenMoE(model=mixture, text=ids(120), top_k=top_k).record()
        assert true.meter("active_parameters")["value"] == pytest.approx(live.meter("active_parameters")["value"])
        early = live.column("routing", "dropped")[:-1].any()  # routers behind a drop would see other inputs
        assert live.meter("drop_rate")["provenance"] == ("estimated" if early or top_k in (1, 4) else "derived")
        late = [i for i, c in enumerate(live.column("claims", "claim")) if c == "later tokens are dropped more"]
        for name in ("value", "compared", "measure"):
            assert live.column("claims", name)[late] == true.column("claims", name)[late]


@pytest.mark.parametrize(
    "kind", ["DeepseekV3ForCausalLM", "Llama4ForCausalLM", "ZayaForCausalLM", "LongcatFlashForCausalLM", "GptOssForCausalLM"]
)
def test_any_mixture_opens_with_the_defaults_whatever_its_own_rule(kind: str) -> None:
    changes = (
        {"num_experts_per_tok": 4, "num_experts_per_token": 4, "moe_topk": 4} if kind.startswith(("Deep", "Longcat")) else {}
    )
    model = make(kind, **changes)
    record = wb.run("openmoe", model=model, text=list(range(3, 43)))
    facts = record.group_attrs("routing")
    assert facts["top_k"] == facts["model_k"] == record["routing"].sizes["choice"]
    assert {"routing_map", "claims", "expert_load"} <= set(record.views())


def test_a_replay_is_derived_until_a_layer_before_the_last_drops(mixture: Any) -> None:
    system = OpenMoE(model=mixture, text=ids(120))
    record = system.record()
    for factor, provenance in ((0.5, "estimated"), (8.0, "derived")):
        system.set(capacity_factor=factor)
        live = system.rederive(record)
        assert live.column("routing", "dropped").any() == (factor < 1)
        for name in ("drop_rate", "load_imbalance", "kept_weight"):
            assert live.meter(name)["provenance"] == provenance


def test_an_expert_without_weights_needs_no_slot_and_costs_nothing() -> None:
    model = make("LongcatFlashForCausalLM", num_experts_per_tok=4, num_experts_per_token=4, moe_topk=4)
    record = OpenMoE(model=model, text=ids(40), capacity_factor=0.5).record()
    facts, expert, dropped = record.group_attrs("routing"), *(record.column("routing", n) for n in ("expert", "dropped"))
    assert (facts["experts"], facts["null"]) == (10, 2)
    null = expert >= 8
    assert null.any()
    assert not dropped[null].any()
    slots = analysis.capacity(40, 8, 4, 0.5)
    for layer, gone in zip(expert, dropped):
        for e in range(8):
            assert (layer == e).sum() - ((layer == e) & gone).sum() == min(slots, (layer == e).sum())
    held = sum(p.numel() for n, p in model.named_parameters() if ".experts." in n)
    whole = sum(p.numel() for p in model.parameters())
    used = (~null).sum() / (expert.shape[0] * expert.shape[1] * 8)
    assert record.meter("active_parameters")["value"] == pytest.approx((whole - held * (1 - used)) / 1e6)
    limited = OpenMoE(model=model, text=ids(40), capacity_factor=0.5)
    limited.prepare()
    found = limited.limited(wb.tape.NullTape())
    assert found is not None
    np.testing.assert_array_equal(found.dropped[0], dropped[0])


def test_bounds_are_over_texts_which_are_what_was_drawn() -> None:
    """Texts that are dropped as a whole: each text is one draw, however many tokens it has."""
    rng = np.random.default_rng(0)
    text = np.repeat(np.arange(10), 40)
    lost = rng.random(10) < 0.5
    rate = lost[text].astype(float)
    value, low, high = claims.interval(rate, text)
    assert value == pytest.approx(lost.mean())
    assert (high - low) / 2 == pytest.approx(2.262157 * lost.std(ddof=1) / np.sqrt(10), rel=1e-5)
    columns = {"position": np.tile(np.arange(40), 10), "text": text, "domain": np.full(400, "play")}
    drops = openmoe_report.drop_curves({"outside": []}, columns, np.broadcast_to(lost[text][None, :, None], (2, 400, 2)))
    np.testing.assert_allclose(drops["y"], lost.mean())
    np.testing.assert_allclose(drops["y_high"], min(1, high))


def test_top_k_of_all_experts_is_the_whole_law() -> None:
    p = np.array([[[0.5, 0.3, 0.2]]], np.float32)
    order = np.array([[[2, 0, 1]]], np.int16)
    expert, weight = choose(p, order, 3, "softmax")
    assert weight.sum() == pytest.approx(1)
    assert choose(p, order, 2, "renormalised")[1].tolist()[0][0] == pytest.approx([0.625, 0.375])
    assert expert.tolist() == [[[2, 0, 1]]]


@pytest.mark.parametrize(
    ("knobs", "kind", "sentence"),
    [
        ({"model": "lab-draft"}, ModelError, "has no router: all its layers are dense"),
        ({"top_k": 7}, InputError, r"top_k: expected 1 to 6 \(the model's experts\), got 7"),
        ({"capacity_factor": 0}, InputError, "capacity_factor: expected a number from 0.25 to 8.0"),
        ({"text": [99]}, InputError, "ids from 0 to 39"),
        ({"text": []}, InputError, "at least one token"),
        ({"text": list(range(30)) * 20}, InputError, "at most 256 tokens"),
        ({"text": "words"}, ModelError, "has no tokenizer"),
        ({"order": "late"}, InputError, "one of token, random, priority"),
    ],
)
def test_bad_input_is_one_sentence(mixture: Any, knobs: dict[str, Any], kind: type[Exception], sentence: str) -> None:
    with pytest.raises(kind, match=sentence):
        wb.run("openmoe", **{"model": mixture, "text": ids(20)} | knobs)


def test_a_text_of_one_token_is_drawn(mixture: Any) -> None:
    record = wb.run("openmoe", model=mixture, text=[5])
    assert record["routing"].sizes["token"] == 1
    assert "perplexity" not in record["meters"].meter.values
    assert record.meter("kept_weight")["value"] == 1
    for name in record.views():
        assert record.figure(name).data is not None
        assert not re.search(r"\bnan\b", record.text(name).lower())


def test_a_router_with_its_own_rule_keeps_its_own_choice() -> None:
    from tests.instruments.test_router import make

    model = make("DeepseekV3ForCausalLM")
    record = wb.run("openmoe", model=model, text=list(range(3, 33)))
    from workbench.instruments import router

    seen = router.capture(model, np.arange(3, 33))
    np.testing.assert_array_equal(record.column("routing", "expert"), seen.expert)
    with pytest.raises(InputError, match="a rule of its own"):
        wb.run("openmoe", model=model, text=list(range(3, 33)), top_k=3)


def test_a_router_that_can_only_be_read_is_served_from_the_record_alone() -> None:
    """DBRX chooses outside its router: drops are derived, and no figure of a run under the limit is claimed."""
    from tests.instruments.test_router import make

    record = wb.run("openmoe", model=make("DbrxForCausalLM"), text=list(range(3, 63)), capacity_factor=0.25)
    assert record["routing"]["dropped"].values.any()
    assert "curve/drop_quality" not in record
    assert {"drop_rate", "slots"} <= set(record["meters"].meter.values)
    assert not {"perplexity", "dropped_in_the_model"} & set(record["meters"].meter.values)


def test_the_shipped_mixture_its_film_and_its_claims() -> None:
    record = wb.run("openmoe", windows=2, length=64)
    assert {"training", "claims", "grouping/token", "transition"} <= set(record.groups)
    film = record["training"]
    last = film["step"].values == film["step"].values.max()
    np.testing.assert_allclose(film["overlap"].values[last], 1)
    np.testing.assert_allclose(film["divergence"].values[last], 0, atol=1e-12)
    assert len(np.unique(film["step"].values)) == 10
    assert set(record["claims"]["verdict"].values) <= {"holds", "fails", "unclear"}
    assert record.meter("active_parameters")["value"] < record.meter("active_parameters")["baseline"]
    share = record["grouping/domain"]["share"].values
    np.testing.assert_allclose(share.sum(-1), 1, rtol=1e-5)


@pytest.mark.parametrize("name", ["moe-8", "moe-16"])
def test_the_small_mixtures_do_what_their_cards_say(name: str) -> None:
    """Held-out loss of each kind of text near the card's, on other windows; small files."""
    from workbench import models
    from workbench.data import domains
    from workbench.instruments import router

    loaded = models.load(name)
    folder = Path({e.name: e.where for e in models.available()}[name])
    assert sum(f.stat().st_size for f in folder.iterdir()) < 10e6
    stated = dict(re.findall(r"(play|code|manual|arithmetic) ([\d.]+)", loaded.card.split("held out")[1]))
    for kind in domains.DOMAINS:
        ids = torch.from_numpy(domains.windows(kind, lambda text: loaded.encode(text, chat=False), 6, 128, seed=9))
        with torch.inference_mode():
            law = loaded.model(ids).logits.log_softmax(-1)[:, :-1]
        assert -float(law.gather(-1, ids[:, 1:, None]).mean()) == pytest.approx(float(stated[kind]), abs=0.4)
    seen = router.capture(loaded.model, ids.numpy())
    assert (seen.experts, seen.top_k, seen.layers) == (int(name.removeprefix("moe-")), 2, [1, 3])
