"""What each operation must obey whatever the input: laws, invariances, known answers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from workbench import kernels
from workbench.kernels import noise, philox, simd

FEW = settings(max_examples=15, deadline=None)


def test_philox_known_answers():
    """The vectors published with the generator (Random123, kat_vectors, philox4x32 10)."""
    ones = 0xFFFFFFFF
    cases = [
        ([0, 0, 0, 0], (0, 0), [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
        ([ones] * 4, (ones, ones), [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]),
        (
            [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
            (0xA4093822, 0x299F31D0),
            [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1],
        ),
    ]
    for counter, key, wanted in cases:
        assert philox.philox(np.array(counter, np.uint32), key).tolist() == wanted
        words = [np.uint32(word) for word in (*counter, *key)]
        assert [int(word) for word in noise.philox4(*words)] == wanted


@FEW
@given(st.integers(0, 2**64 - 1), st.integers(0, 2**20))
def test_noise_is_the_same_bit_for_bit(seed, row):
    low, high = philox.split_seed(seed)
    words, made = np.empty(2 * noise.BLOCK, np.uint32), np.empty(noise.BLOCK, np.float32)
    noise.gumbel_block(row, 512, np.uint32(low), np.uint32(high), words, made)
    counter = np.zeros((noise.BLOCK // 4, 4), np.uint32)
    counter[:, 0], counter[:, 1], counter[:, 3] = np.arange(128, 128 + len(counter)), row, philox.LOG_STREAM
    wanted = philox.gumbel(philox.philox(counter, (low, high)).reshape(-1))
    np.testing.assert_array_equal(made.view(np.int32), wanted.view(np.int32))


def test_noise_is_accurate_over_its_whole_range():
    words = np.unique(np.concatenate([np.arange(99), 2 ** np.arange(32), 2**32 - 1 - 2 ** np.arange(31)])).astype(np.uint32)
    v = np.minimum((words.astype(np.float32) + np.float32(0.5)) * philox.STEP, philox.BELOW_ONE).astype(np.float64)
    np.testing.assert_allclose(philox.gumbel(words), -np.log(-np.log1p(-v)), rtol=2e-6, atol=1e-6)


def test_exponential_is_accurate():
    x = np.concatenate([np.linspace(-87.2, 87.9, 20001), [0.0, -np.inf, -200.0]]).astype(np.float32)
    got = np.array([simd.exp32(value) for value in x])
    np.testing.assert_allclose(got[:-2], np.exp(x[:-2].astype(np.float64)), rtol=3e-7)
    assert got[-2:].tolist() == [0.0, 0.0]
    assert np.isnan(simd.exp32(np.float32(np.nan)))


def test_gumbel_topk_draws_from_the_law_without_replacement():
    """Ordered pairs of 4 ids from 20000 seeds-by-row against the exact law, chi-square below its 99.9 % point."""
    probs = np.array([0.5, 0.25, 0.15, 0.1])
    rows = 20_000
    ids, _, _ = kernels.gumbel_topk(np.tile(np.log(probs).astype(np.float32), (rows, 1)), 2, 1.0, seed=11)
    seen = np.bincount(ids[:, 0] * 4 + ids[:, 1], minlength=16).reshape(4, 4)
    law = probs[:, None] * probs[None, :] / (1 - probs[:, None])
    off = ~np.eye(4, dtype=bool)
    assert seen[~off].sum() == 0
    chi = ((seen - rows * law)[off] ** 2 / (rows * law)[off]).sum()
    assert chi < 31.3  # 11 degrees of freedom


@FEW
@given(st.integers(1, 99), st.integers(0, 2**32), st.floats(0.1, 5))
def test_gumbel_topk_is_nested_and_ordered(vocabulary, seed, temperature):
    logits = np.random.default_rng(seed).standard_normal((2, vocabulary), dtype=np.float32)
    ids, perturbed, logprobs = kernels.gumbel_topk(logits, vocabulary, temperature, seed)
    np.testing.assert_array_equal(np.sort(ids, 1), np.tile(np.arange(vocabulary), (2, 1)))
    assert (np.diff(perturbed, axis=1) <= 0).all()
    np.testing.assert_allclose(np.exp(logprobs).sum(1), 1, rtol=1e-4)
    fewer, _, _ = kernels.gumbel_topk(logits, max(1, vocabulary // 2), temperature, seed)
    np.testing.assert_array_equal(fewer, ids[:, : fewer.shape[1]])


def test_tree_attention_of_a_chain_is_causal_attention():
    rng = np.random.default_rng(0)
    q, k, v = (rng.standard_normal((12, 2, 16), dtype=np.float32) for _ in range(3))
    out, _ = kernels.tree_attention(q[4:], k[:4], v[:4], k[4:], v[4:], np.arange(-1, 7))
    by_head = [torch.from_numpy(part).transpose(0, 1) for part in (q, k, v)]
    wanted = torch.nn.functional.scaled_dot_product_attention(*by_head, is_causal=True).transpose(0, 1)
    np.testing.assert_allclose(out, wanted[4:].numpy(), rtol=1e-4, atol=1e-5)


def test_tree_attention_parts_merge_by_their_log_sum_exp():
    rng = np.random.default_rng(1)
    arguments = kernels.all()["tree_attention"].make(rng, N=5, H=4, K=2, d=16, P=40)
    out, lse = kernels.tree_attention(**arguments)
    shorter = arguments | {"k_prefix": arguments["k_prefix"][:25], "v_prefix": arguments["v_prefix"][:25]}
    first, first_lse = kernels.tree_attention(**shorter)
    keys, values = (np.repeat(arguments[name][25:], 2, axis=1) for name in ("k_prefix", "v_prefix"))
    scores = np.einsum("nhd,phd->nhp", arguments["q"], keys) / 4
    second_lse = np.logaddexp.reduce(scores, -1)
    second = np.einsum("nhp,phd->nhd", np.exp(scores - second_lse[..., None]), values)
    merged = np.exp(first_lse - lse)[..., None] * first + np.exp(second_lse - lse)[..., None] * second
    np.testing.assert_allclose(np.logaddexp(first_lse, second_lse), lse, rtol=1e-5)
    np.testing.assert_allclose(merged, out, rtol=1e-4, atol=1e-5)


@FEW
@given(st.integers(1, 99), st.integers(1, 9), st.integers(0, 2**32))
def test_row_statistics_agree_with_torch(vocabulary, rows, seed):
    logits = 5 * np.random.default_rng(seed).standard_normal((rows, vocabulary), dtype=np.float32)
    found = kernels.row_statistics(logits, top_k=vocabulary)
    probs = torch.from_numpy(logits).double().softmax(-1)
    np.testing.assert_allclose(found.top_probs, probs.sort(-1, descending=True).values, rtol=1e-4, atol=1e-7)
    np.testing.assert_allclose(found.entropy, torch.distributions.Categorical(probs).entropy(), rtol=1e-4, atol=1e-5)
    assert (found.p1 >= found.p2).all()
    np.testing.assert_array_equal(found.argmax, logits.argmax(-1))


@FEW
@given(st.integers(1, 70), st.integers(1, 4), st.integers(0, 2**32))
def test_attention_mass_rows_sum_to_one(length, heads, seed):
    rng = np.random.default_rng(seed)
    q, k = (3 * rng.standard_normal((heads, length, 8), dtype=np.float32) for _ in range(2))
    bins = int(rng.integers(1, length + 1))
    found = kernels.attention_mass(q, k, bins, bins)
    np.testing.assert_allclose(found.mass.sum(-1), 1, rtol=1e-4)
    np.testing.assert_allclose(found.column_sum.sum(-1), length, rtol=1e-4)
    later = np.triu_indices(bins, 1)
    np.testing.assert_array_equal(found.mass[:, later[0], later[1]], 0)


def test_attention_mass_of_all_probes_is_that_of_none():
    arguments = kernels.all()["attention_mass"].make(np.random.default_rng(2), H=2, T=50, d=8, bins=5)
    every = kernels.attention_mass(**arguments | {"probes": np.arange(50)})
    for a, b in zip(every, kernels.attention_mass(**arguments), strict=True):
        np.testing.assert_array_equal(a, b)


def test_plane_sweep_without_motion_is_the_plain_difference():
    arguments = kernels.all()["plane_sweep"].make(np.random.default_rng(3), C=5, h=9, w=11, D=4, still=1)
    found = kernels.plane_sweep(**arguments)
    plain = np.abs(arguments["target"] - arguments["source"]).mean(0)
    assert found.valid.all()
    np.testing.assert_allclose(found.cost, np.tile(plain, (4, 1, 1)), rtol=1e-4, atol=1e-4)


def test_plane_sweep_law_is_the_softmax_of_the_scaled_costs():
    arguments = kernels.all()["plane_sweep"].make(np.random.default_rng(5), C=5, h=9, w=31, D=16, law=1)
    found = kernels.plane_sweep(**arguments)
    seen = found.valid.all(0)
    assert 0.2 < seen.mean() < 1
    scaled = found.cost - found.cost.min(0)
    scaled = torch.from_numpy(scaled / scaled.max(0).clip(1e-9))
    law = torch.softmax(-scaled / arguments["temperature"], 0)
    np.testing.assert_allclose(found.probability[:, seen], law.numpy()[:, seen], rtol=1e-4)
    np.testing.assert_allclose(found.entropy[seen], torch.special.entr(law).sum(0).numpy()[seen], rtol=1e-4)
    np.testing.assert_array_equal(found.best[seen], found.cost.argmin(0)[seen])
    np.testing.assert_allclose(found.probability.sum(0), 1, rtol=1e-5)
    plain = kernels.plane_sweep(**(arguments | {"temperature": 0.0}))
    np.testing.assert_array_equal(plain.cost, found.cost)
    assert len(plain) == 2


def test_a_law_at_temperature_one_is_nearly_uniform():
    """Costs in [0, 1] at temperature 1: the entropy is least where some costs are 0 and all others 1."""
    arguments = kernels.all()["plane_sweep"].make(np.random.default_rng(6), C=5, h=9, w=31, D=128, law=5)
    planes = arguments["depths"].size
    zeros = np.arange(1, planes)
    total = zeros + (planes - zeros) * np.exp(-1)
    floor = (np.log(total) + (planes - zeros) * np.exp(-1) / total).min()
    assert arguments["temperature"] == 1.0
    assert abs(floor / np.log(planes) - 0.975) < 5e-4
    found = kernels.plane_sweep(**arguments)
    assert (found.entropy >= floor - 1e-4).all()
    assert (found.entropy <= np.log(planes) + 1e-5).all()


def test_plane_sweep_agrees_with_grid_sample():
    arguments = kernels.all()["plane_sweep"].make(np.random.default_rng(4), C=5, h=9, w=31, D=6)
    found = kernels.plane_sweep(**arguments)
    camera = arguments["intrinsics"].astype(np.float64)
    y, x = np.mgrid[0:9, 0:31]
    rays = np.linalg.inv(camera) @ np.stack([x, y, np.ones_like(x)]).reshape(3, -1)
    for i, depth in enumerate(arguments["depths"]):
        u, v, z = camera @ (arguments["rotation"] @ (depth * rays) + arguments["translation"][:, None])
        grid = np.stack([u / z / 30 * 2 - 1, v / z / 8 * 2 - 1], -1).reshape(1, 9, 31, 2)
        warped = torch.nn.functional.grid_sample(
            torch.from_numpy(arguments["source"])[None].double(), torch.from_numpy(grid), align_corners=True
        )
        cost = (torch.from_numpy(arguments["target"]) - warped[0]).abs().mean(0).numpy()
        seen = found.valid[i]
        assert seen.any()
        np.testing.assert_allclose(found.cost[i][seen], cost[seen], rtol=1e-3, atol=1e-3)


@FEW
@given(
    st.integers(1, 60), st.integers(1, 4), st.integers(4, 9), st.integers(0, 30),
    st.sampled_from(["token", "random", "priority"]), st.integers(0, 2**40),
)  # fmt: skip
def test_expert_dispatch_keeps_its_books(tokens, choices, experts, capacity, order, seed):
    spec = kernels.all()["expert_dispatch"]
    arguments = spec.make(np.random.default_rng(seed), tokens, choices, experts, capacity, order)
    found = kernels.expert_dispatch(**arguments)
    kept = found.slot >= 0
    np.testing.assert_array_equal(found.load, np.bincount(arguments["experts"].ravel(), minlength=experts))
    np.testing.assert_array_equal(np.diff(found.offsets), np.minimum(found.load, capacity))
    assert kept.sum() == len(found.permutation) == found.offsets[-1]
    flat = found.permutation
    chosen = arguments["experts"].ravel()[flat]
    np.testing.assert_array_equal(found.offsets[chosen] + found.slot.ravel()[flat], np.arange(len(flat)))


@pytest.mark.parametrize("name", kernels.NAMES)
def test_calls_from_several_threads_agree(name):
    from concurrent.futures import ThreadPoolExecutor

    spec = kernels.all()[name]
    arguments = spec.make(np.random.default_rng(5), **spec.sizes[0])
    call = getattr(kernels, name)
    wanted = call(**arguments)
    with ThreadPoolExecutor(3) as pool:
        for got in pool.map(lambda _: call(**arguments), range(9)):
            for a, b in zip(*(r if isinstance(r, tuple) else (r,) for r in (got, wanted)), strict=True):
                np.testing.assert_array_equal(a, b)
