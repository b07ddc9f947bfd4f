"""ZipVL against exact truths: minimal sets by brute force, closed forms, masked dense attention, counted bytes."""

from __future__ import annotations

import re
from itertools import combinations
from typing import Any

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, MambaConfig, MambaForCausalLM

import workbench as wb
from tests.instruments.test_router import make
from workbench import data
from workbench.errors import InputError, KindError, ModelError
from workbench.instruments import taps
from workbench.systems.attention import packed_cache as pc
from workbench.systems.attention import sparse, zipvl
from workbench.systems.attention.zipvl import ZipVL, important, probe_positions, scores, smallest_count, token_mass, visible


@pytest.fixture(scope="module")
def model() -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=70, hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2,
        max_position_embeddings=512, eos_token_id=None,
    )  # fmt: skip
    made = LlamaForCausalLM(config).eval()
    with torch.no_grad():
        for parameter in made.parameters():  # attention of fresh weights is nearly uniform; make it look somewhere
            parameter.mul_(3.0 if parameter.ndim == 2 else 1.0)
    return made


def state_space() -> Any:
    return MambaForCausalLM(MambaConfig(vocab_size=70, hidden_size=16, num_hidden_layers=1)).eval()


def run(model: Any, length: int = 90, **knobs: Any) -> wb.Record:
    prompt = np.random.default_rng(5).integers(0, 70, length).tolist()
    return wb.run(
        "zipvl",
        model=model,
        prompt=prompt,
        progress=False,
        **({"new_tokens": 12, "probes_recent": 20, "probes_random": 20} | knobs),
    )


def meter(record: wb.Record, name: str) -> float:
    return float(record.meter(name)["value"])


def causal(scores_: np.ndarray) -> np.ndarray:
    """Return causal softmax probabilities of (T, T) scores."""
    masked = np.where(np.tri(len(scores_), dtype=bool), scores_, -np.inf)
    out = np.exp(masked - masked.max(-1, keepdims=True))
    return out / out.sum(-1, keepdims=True)


# ---- choosing tokens -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tau", [0.3, 0.6, 0.9, 0.975])
def test_no_smaller_set_holds_tau(tau: float) -> None:
    for seed in range(20):
        mass = np.random.default_rng(seed).dirichlet(np.full(9, 0.5)).astype(np.float32)
        count = smallest_count(mass, tau)
        best = [max(sum(c) for c in combinations(mass.astype(float), k)) for k in (count - 1, count)]
        assert best[0] < tau * mass.sum() <= best[1] * (1 + 1e-6)
        assert tau - 1e-6 <= best[1] / mass.sum() <= tau + mass.max() / mass.sum()


def test_ends_of_tau() -> None:
    mass = np.array([0.5, 0.0, 0.25, 0.25], np.float32)
    assert smallest_count(mass, 1.0) == 4
    assert smallest_count(mass, 1 - 1e-6) == 3
    assert smallest_count(mass, 0.0) == 1
    assert smallest_count(np.eye(1, 6, 3)[0].astype(np.float32), 0.975) == 1


@pytest.mark.parametrize("tau", [0.1, 0.31, 0.5, 0.975])
def test_equal_mass_needs_its_share_of_tokens(tau: float) -> None:
    assert smallest_count(np.full(40, 3.0, np.float32), tau) == np.ceil(tau * 40)


def test_counting_visible_keys_flattens_uniform_attention_and_counting_probes_does_not() -> None:
    """Every query spreads over the keys it sees: weighted by how many these are, all tokens receive alike."""
    probs = causal(np.zeros((24, 24)))
    seen = np.arange(24, 0, -1)
    np.testing.assert_allclose((probs * np.arange(1, 25)[:, None]).sum(0) / seen, 1, rtol=1e-12)
    score = scores(token_mass(torch.zeros(1, 24, 8), torch.randn(1, 24, 8), np.arange(24), 8**-0.5), seen, "normalised")
    assert (np.diff(score) < 0).all()


def test_tau_of_zero_keeps_the_forced_tokens_only(model: LlamaForCausalLM) -> None:
    keep = run(model, tau=0.0, keep_recent=5)["attention"]["keep"].values
    assert keep[:, -5:].all()
    assert keep.sum(1).tolist() == [5, 5, 5]


def test_uniform_attention_has_the_closed_form() -> None:
    length = 24
    query, key = torch.zeros(2, length, 8), torch.randn(1, length, 8)
    mass = token_mass(query, key, np.arange(length), 8**-0.5)
    harmonic = np.array([sum(1 / i for i in range(j, length + 1)) for j in range(1, length + 1)])
    np.testing.assert_allclose(mass, harmonic, rtol=1e-5)
    seen = visible(length, np.arange(length))
    np.testing.assert_array_equal(seen, np.arange(length, 0, -1))
    np.testing.assert_allclose(scores(mass, seen, "normalised")[[0, -1]], [harmonic[0] / length, 1 / length], rtol=1e-5)


def test_mass_is_conserved_and_all_probes_are_exact() -> None:
    rng = np.random.default_rng(0)
    query, key = (torch.from_numpy(rng.standard_normal((h, 40, 8)).astype(np.float32)) for h in (4, 2))
    probs = np.stack([causal((query[h] @ key[h // 2].T).numpy() / 8**0.5) for h in range(4)])
    for probes in (np.arange(40), probe_positions(40, 5, 7, rng)):
        mass = token_mass(query, key, probes, 8**-0.5)
        np.testing.assert_allclose(mass, probs[:, probes].sum(1).mean(0), rtol=1e-4, atol=1e-6)
        assert mass.sum() == pytest.approx(len(probes), rel=1e-5)


def test_probe_positions_and_who_sees_what() -> None:
    probes = probe_positions(100, 10, 15, np.random.default_rng(1))
    assert len(set(probes.tolist())) == 25
    np.testing.assert_array_equal(probes[-10:], np.arange(90, 100))
    np.testing.assert_array_equal(visible(100, probes), [(probes >= j).sum() for j in range(100)])
    np.testing.assert_array_equal(probe_positions(6, 64, 64, np.random.default_rng(1)), np.arange(6))


def test_random_probes_are_unbiased_and_their_error_falls_with_the_root_of_their_number() -> None:
    rng = np.random.default_rng(0)
    query, key = (torch.from_numpy(rng.standard_normal((1, 200, 8)).astype(np.float32)) for _ in range(2))
    exact = token_mass(query, key, np.arange(200), 8**-0.5) / 200
    errors = []
    for count in (10, 40):
        draws = np.stack(
            [token_mass(query, key, np.sort(rng.choice(200, count, replace=False)), 8**-0.5) / count for _ in range(150)]
        )
        assert np.abs(draws.mean(0) - exact).max() < 5 * draws.std(0).max() / 150**0.5
        errors.append(draws.std(0).mean())
    assert 1.8 < errors[0] / errors[1] < 2.8


@pytest.mark.parametrize(("kind", "expected"), [("raw", 129), ("normalised", 146), ("row-corrected", 250)])
def test_bias_towards_early_tokens_on_gaussian_scores(kind: str, expected: float) -> None:
    rng, means = np.random.default_rng(0), []
    for _ in range(50):
        query, key = rng.standard_normal((2, 512, 32))
        probs = causal(query @ key.T / 32**0.5)
        weight = np.arange(1, 513)[:, None] if kind == "row-corrected" else 1.0
        mass = (probs * weight).sum(0)
        score = mass if kind == "raw" else mass / np.arange(512, 0, -1)
        means.append(np.flatnonzero(important(score, 256, 0)).mean())
    assert np.mean(means) == pytest.approx(expected, abs=4)


def test_the_last_tokens_are_forced_and_ties_go_to_the_front() -> None:
    np.testing.assert_array_equal(important(np.ones(6), 3, 2), [1, 0, 0, 0, 1, 1])
    np.testing.assert_array_equal(important(np.arange(6.0), 1, 2), [0, 0, 0, 0, 1, 1])


# ---- sparse attention ------------------------------------------------------------------------------------------------


def masked_dense(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, keep: np.ndarray, skip: str) -> torch.Tensor:
    """Return dense attention with rows and columns outside the kept set removed: (1, T, H, d)."""
    groups, length = query.shape[1] // key.shape[1], query.shape[2]
    allowed = torch.tril(torch.ones(length, length, dtype=torch.bool)) & torch.from_numpy(keep)[None]
    scores_ = query @ key.repeat_interleave(groups, 1).transpose(-1, -2) / query.shape[-1] ** 0.5
    weights = scores_.masked_fill(~allowed, -torch.inf).softmax(-1).nan_to_num()
    out = weights @ value.repeat_interleave(groups, 1)
    if skip == "queries":
        out = out * torch.from_numpy(keep)[None, None, :, None]
    return out.transpose(1, 2)


@pytest.mark.parametrize("skip", ["queries", "keys"])
def test_skipping_equals_dense_attention_with_a_mask(skip: str) -> None:
    torch.manual_seed(0)
    query, key, value = torch.randn(1, 4, 300, 8), torch.randn(1, 2, 300, 8), torch.randn(1, 2, 300, 8)
    keep = np.random.default_rng(0).random(300) < 0.3
    keep[:3], keep[-1] = False, True
    call = taps.Call(0, None, query, key, value, None, 8**-0.5, {})
    torch.testing.assert_close(
        sparse.sparse_attention(call, keep, skip), masked_dense(query, key, value, keep, skip), atol=1e-5, rtol=1e-5
    )


def test_tau_one_in_sixteen_bits_is_the_dense_model(model: LlamaForCausalLM) -> None:
    record = run(model, tau=1.0, bits_high=16, bits_low=16)
    assert record["attention"]["keep"].values.all()
    system = ZipVL(model=model, prompt=record["text"]["token_id"].values[:90].tolist(), tau=1.0, new_tokens=12)
    system.prepare()
    sparse, dense = (system.prefill(sparse=kind) for kind in (True, False))
    torch.testing.assert_close(sparse.logits, dense.logits, atol=1e-5, rtol=1e-5)
    with torch.inference_mode():
        torch.testing.assert_close(dense.logits, model(torch.from_numpy(system._ids)[None]).logits[0, -1], atol=1e-5, rtol=1e-5)
    assert meter(record, "divergence") < 1e-8
    assert meter(record, "next_token_agreement") == 1.0


@pytest.mark.parametrize("seed", [0, 2])
def test_tau_one_is_the_dense_model_on_pictures_too(seed: int) -> None:
    """The reader's attention is so sharp that some tokens receive less than fp32 can tell from nothing."""
    probes = {"probes_recent": 40, "probes_random": 40, "bits_high": 16, "bits_low": 16}
    system = ZipVL(**ZipVL.presets["picture"] | probes | {"tau": 1.0, "seed": seed})
    system.prepare()
    sparse, dense = (system.prefill(sparse=kind) for kind in (True, False))
    torch.testing.assert_close(sparse.logits, dense.logits, atol=1e-5, rtol=1e-5)


def test_the_reference_really_is_the_model(model: LlamaForCausalLM) -> None:
    record = run(model, tau=0.8)
    text = record["text"]
    ids, generated = text["token_id"].values, text["generated"].values
    with torch.inference_mode():
        logits = model(torch.from_numpy(ids.astype(np.int64))[None]).logits[0]
    np.testing.assert_array_equal(ids[generated], logits.argmax(-1).numpy()[np.flatnonzero(generated) - 1])
    assert meter(record, "divergence") > 1e-3


def test_evicting_equals_masking_the_keys(model: LlamaForCausalLM) -> None:
    """Eviction drops keys; the same run with those keys masked by hand writes the same logits."""
    ids = np.random.default_rng(5).integers(0, 70, 60).tolist()
    system = ZipVL(
        model=model,
        prompt=ids,
        tau=0.7,
        others="evict",
        bits_high=16,
        bits_low=16,
        new_tokens=6,
        probes_recent=20,
        probes_random=20,
    )
    system.prepare()
    seen = system.prefill(sparse=True)
    packed = system.compress(seen, len(ids))
    tokens, tape = [3, 9, 27, 4, 50, 6], wb.tape.NullTape()
    got = system.follow(seen, tokens, packed, tape)
    again = system.prefill(sparse=True)

    def masked(call: taps.Call) -> Any:
        allowed = torch.ones(call.query.shape[2], call.key.shape[2], dtype=torch.bool).tril(60)
        allowed[:, :60] &= torch.from_numpy(again.keep[call.layer])
        call.mask = allowed[None, None]
        return call.dense()

    with torch.inference_mode(), taps.attending(masked):
        truth = taps.view(model)(torch.tensor([tokens[:-1]]), past_key_values=again.cache).logits[0]
    torch.testing.assert_close(got[1:], truth, atol=1e-5, rtol=1e-5)


# ---- the cache -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_packing_loses_nothing_and_leaves_no_gap(bits: int) -> None:
    codes = np.random.default_rng(bits).integers(0, 2**bits, (13, 7), dtype=np.uint8)
    packed = pc.pack(codes, bits)
    assert packed.nbytes == -(-codes.size * bits // 8)
    np.testing.assert_array_equal(pc.unpack(packed, bits, codes.shape), codes)


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_no_number_is_off_by_more_than_half_a_step(bits: int, axis: int) -> None:
    x = (np.random.default_rng(bits).standard_normal((40, 24)) * np.geomspace(0.1, 10, 24)).astype(np.float32)
    x[:, 3] = 0.7  # a constant channel
    x[5] = -1.25
    packed = pc.quantize(x, bits, axis)
    half = packed.step.astype(np.float32) / 2
    assert (np.abs(packed.numbers() - x) <= half * 1.001 + 1e-3 * np.abs(x).max() / 2**bits).all()
    constant = pc.quantize(np.full((4, 3), 1.5, np.float32), bits, axis)
    np.testing.assert_allclose(constant.numbers(), 1.5, rtol=1e-3)


def test_stored_bytes_are_the_formulas() -> None:
    rng = np.random.default_rng(0)
    keys, values = rng.standard_normal((2, 50, 12)).astype(np.float32)
    for bits in ((4, 2), (8, 3), (16, 16), (16, 2)):
        for count in (0, 17, 50):
            important_ = np.arange(50) < count
            cache = pc.compress(keys, values, important_, bits)
            assert cache.nbytes() == pc.account(50, count, 12, bits)
            assert all(part.shape == (50, 12) for part in cache.numbers())


@pytest.mark.parametrize(("share", "ratio"), [(0.286, 5.96), (0.5, 5.14), (0.7, 4.55)])
def test_compression_is_the_published_ratio_without_the_channel_divisors(share: float, ratio: float) -> None:
    length, channels = 1024, 192
    kept = int(share * length)
    stored = sum(pc.account(length, kept, channels, (4, 2)))
    divisors = 2 * 2 * channels  # fp16, one set for each class: the published count leaves them out
    assert round(4 * length * channels / (stored - divisors), 2) == ratio
    assert 4 * length * channels / stored == pytest.approx(ratio, rel=0.01)


def test_a_refresh_packs_the_newest_hundred_and_leaves_the_rest(model: LlamaForCausalLM, monkeypatch: pytest.MonkeyPatch) -> None:
    plain, seen = zipvl._Reader.refresh, []

    def watched(reader: Any, cache: Any, packed: list[Any], bits: tuple[int, int]) -> None:
        before = [(layer.keys.clone(), layer.values.clone()) for layer in cache.layers]
        plain(reader, cache, packed, bits)
        seen.append((before, [(layer.keys, layer.values) for layer in cache.layers], [p.important for p in packed], reader.mass))

    monkeypatch.setattr(zipvl._Reader, "refresh", watched)
    run(model, length=60, new_tokens=130, tau=0.9)
    ((before, after, kept, masses),) = seen  # 129 tokens follow: one whole hundred
    for (old_keys, old_values), (keys, values), important_, mass in zip(before, after, kept, masses, strict=True):
        assert len(important_) == keys.shape[2] == 160
        score = mass / np.arange(100, 0, -1)  # of the queries that can see it
        count = next(n for n in range(1, 101) if np.sort(mass)[::-1][:n].sum() >= 0.9 * mass.sum() * (1 - 1e-6))
        others = [i for i in np.argsort(-score, kind="stable").tolist() if i != 99]  # the newest always stays
        assert set(np.flatnonzero(important_[60:]).tolist()) == {99, *others[: count - 1]}
        rows = [t[0, :, 60:].transpose(0, 1).reshape(100, -1).numpy() for t in (old_keys, old_values)]
        restored = pc.compress(*rows, important_[60:], (4, 2)).numbers()
        for stored, wanted, prompt in ((keys, restored[0], old_keys), (values, restored[1], old_values)):
            np.testing.assert_allclose(stored[0, :, 60:].transpose(0, 1).reshape(100, -1).numpy(), wanted, atol=1e-6)
            assert torch.equal(stored[:, :, :60], prompt[:, :, :60])
        assert float((keys[:, :, 60:] - old_keys[:, :, 60:]).abs().max()) > 1e-3


def test_newest_tokens_are_compressed_every_hundred(model: LlamaForCausalLM) -> None:
    long = run(model, length=60, new_tokens=130, bits_high=2, bits_low=2, tau=1.0)
    short = run(model, length=60, new_tokens=130, bits_high=16, bits_low=16, tau=1.0)
    curve = [r["curve/divergence"]["y"].values for r in (long, short)]
    assert curve[1].max() < 1e-8
    assert curve[0][101:].max() > 1e-6


# ---- knobs, replay, errors -------------------------------------------------------------------------------------------


def test_another_tau_is_what_a_run_with_it_would_choose_in_the_first_layer(model: LlamaForCausalLM) -> None:
    record, other = run(model, tau=0.9), run(model, tau=0.6)
    system = ZipVL(tau=0.6)
    replayed = system.rederive(record)
    np.testing.assert_array_equal(replayed.column("attention", "keep")[0], other.column("attention", "keep")[0])
    assert str(replayed.meter("cache_bytes")["provenance"]) == "estimated"
    same = ZipVL(tau=0.9).rederive(record)
    for name in ("attention", "curve/ratio", "curve/cache_bytes"):
        for variable in record.variables(name):
            np.testing.assert_array_equal(same.column(name, variable), record.column(name, variable))
    assert str(same.meter("cache_bytes")["provenance"]) == "derived"
    kept = [ZipVL(tau=t).rederive(record).column("attention", "keep").sum() for t in (0.5, 0.8, 0.95, 1.0)]
    assert kept == sorted(kept)


def test_what_the_paper_reports_stands_beside_and_no_slider_moves_it(model: LlamaForCausalLM) -> None:
    record = run(model, tau=0.8)
    for found in (record, ZipVL(tau=0.6).rederive(record)):
        row = found.meter("kept share, in the paper")
        assert (row["value"], row["provenance"]) == (0.528, "reported")
    assert record.meter("prefill")["low"] <= record.meter("prefill")["value"] <= record.meter("prefill")["high"]


def test_captions_say_what_is_skipped_and_what_is_only_an_estimate(model: LlamaForCausalLM) -> None:
    record = run(model, tau=0.8)
    assert "Estimated" not in record.text("kept_tokens")
    for moved in ({"tau": 0.6}, {"tau": 0.8, "count_sink": False}):
        live = ZipVL(**moved).rederive(record)
        assert "Estimated from the recorded run" in live.text("kept_tokens")
        assert str(live.meter("kept_share")["provenance"]) == "estimated"
    keys = run(model, tau=0.8, skip="keys")
    share = keys.column("attention", "keep_ratio").mean()
    assert f"so attention takes {share:.0%} of its multiplications." in keys.text("kept_tokens")


@pytest.mark.parametrize(
    ("kind", "changes", "sentence"),
    [
        (
            "DeepseekV3ForCausalLM",
            {},
            "ZipVL cannot run on it: layer 0 has keys of 16 and values of 8 numbers. Choose another model.",
        ),
        ("JambaForCausalLM", {"attn_layer_period": 2, "attn_layer_offset": 1}, "it has attention in 1 of its 2 layers"),
        (
            "MptForCausalLM",
            {"d_model": 32, "n_heads": 4, "n_layers": 2},
            "its attention cannot be captured: its forward pass cannot be followed",
        ),
        ("RwkvForCausalLM", {}, "no attention layer ran: it has none, or computes it in code of its own"),
        (
            "BartForConditionalGeneration",
            {"d_model": 32, "encoder_layers": 1, "decoder_layers": 1},
            "it reads with one stack and writes with another",
        ),
        ("Gemma2ForCausalLM", {}, "Gemma2ForCausalLM: ZipVL cannot run on it: layer 0 caps its scores. Choose another model."),
        ("GptOssForCausalLM", {}, "layer 0 has a learned sink"),
    ],
)
def test_models_that_cannot_be_thinned_out_say_why(kind: str, changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ModelError, match=re.escape(sentence)):
        wb.run("zipvl", model=make(kind, **changes), prompt=list(range(3, 33)), new_tokens=4, progress=False)


def test_work_of_a_mixture_counts_the_experts_that_a_token_uses() -> None:
    from workbench.systems.attention.zipvl_report import layer_macs

    dense, mixture = make("LlamaForCausalLM").model, make("MixtralForCausalLM").model
    attention = 4 * 32 * 32
    assert layer_macs(dense, 2) == attention + 3 * 32 * 48
    assert layer_macs(mixture, 2) == attention + 8 * 32 + 2 * 3 * 32 * 48  # the router, and two experts of eight


def test_fixed_ratio_keeps_the_same_share_in_every_layer(model: LlamaForCausalLM) -> None:
    record = run(model, fixed_ratio=0.5)
    np.testing.assert_array_equal(record["attention"]["keep"].values.sum(1), 45)


def test_work_of_attention_is_counted_with_the_probes(model: LlamaForCausalLM) -> None:
    record = run(model, tau=0.8)
    share = record.column("attention", "keep").mean(1)
    assert meter(record, "attention_work") == pytest.approx((share**2).mean() + 40 / 90)
    assert meter(run(model, tau=0.8, skip="keys"), "attention_work") > meter(record, "attention_work")
    every = run(model, tau=0.8, probes_recent=4096)
    assert every.group_attrs("attention")["probes"] == 90
    assert (share**2).mean() >= share.mean() ** 2  # what is saved is less than the mean share says


@pytest.mark.parametrize(
    ("knobs", "error", "sentence"),
    [
        ({"prompt": []}, InputError, "2 to"),
        ({"prompt": [4]}, InputError, "2 to"),
        ({"prompt": [1] * 600}, InputError, "Change the text"),
        ({"prompt": [1, 99]}, InputError, "ids from 0 to 69"),
        ({"tau": 1.2}, InputError, "tau"),
        ({"bits_low": 5}, InputError, "bits_low"),
        ({"model": "table-target", "prompt": [0, 1]}, InputError, "a language model with attention"),
        ({"model": state_space, "prompt": [1, 2, 3]}, ModelError, "no attention layer"),
        ({"image": "scene", "prompt": "auto"}, ModelError, "reads text only"),
    ],
)
def test_bad_input_is_one_sentence(model: LlamaForCausalLM, knobs: dict[str, Any], error: type[Exception], sentence: str) -> None:
    knobs = {name: value() if callable(value) else value for name, value in knobs.items()}
    with pytest.raises((error, KindError, ModelError), match=sentence):
        wb.run("zipvl", progress=False, **({"model": model, "prompt": [1, 2, 3]} | knobs))


def test_every_view_draws_the_record(model: LlamaForCausalLM) -> None:
    record = run(model, tau=0.8)
    for name in (n for n in ZipVL.shows if n not in ZipVL.sometimes):
        assert record.figure(name).data
        assert record.text(name)
    assert record.text("attention_map", selected=5)
    with pytest.raises(InputError, match="a head from 0 to 11"):
        record.figure("attention_map", selected=12)


def test_without_the_sink_the_others_must_hold_tau(model: LlamaForCausalLM) -> None:
    mass = np.array([50.0, 1.0, 1.0, 6.0, 2.0])
    assert zipvl.needed(mass, 0.8, True) == 1
    assert zipvl.needed(mass, 0.8, False) == 3  # the first, and 6 + 2 of 10
    assert zipvl.important(np.array([0.0, 1, 2, 3]), 2, 1, sink=True).tolist() == [True, False, False, True]
    counted = run(model, tau=0.7)
    live = ZipVL(model=model, tau=0.7, count_sink=False)
    moved = live.rederive(counted)
    alone = run(model, tau=0.7, count_sink=False)
    np.testing.assert_array_equal(
        moved["attention"]["keep"].values[0], alone["attention"]["keep"].values[0]
    )  # layer 0 has seen the same
    assert moved["attention"]["keep"].values[:, 0].all()
    assert np.isnan(moved.meter("divergence")["value"])
    assert moved.meter("divergence")["provenance"] == "estimated"


def test_the_texts_own_end_is_held_back(model: LlamaForCausalLM) -> None:
    ids = [int(i) for i in np.random.default_rng(0).integers(3, 70, 60)]
    record = wb.run(
        "zipvl",
        model=model,
        prompt=ids,
        compare_on="the text's own end",
        new_tokens=10,
        progress=False,
        tau=1.0,
        bits_high=16,
        bits_low=16,
    )
    assert record["text"]["token_id"].values.tolist() == ids
    assert record["text"]["generated"].values.sum() == 10
    with torch.inference_mode():
        law = model(torch.tensor([ids])).logits[0, 49:59].log_softmax(-1)
    truth = float(-law.gather(1, torch.tensor(ids[50:])[:, None]).mean().exp().log())
    row = record.meter("perplexity")
    assert row["baseline"] == pytest.approx(np.exp(truth), rel=1e-4)
    assert row["value"] == pytest.approx(row["baseline"], rel=1e-4)
    right = (law.argmax(-1).numpy() == np.array(ids[50:])).mean()
    assert record.meter("words_right")["value"] == record.meter("words_right")["baseline"] == pytest.approx(right)


@pytest.mark.model
def test_the_hidden_sentence_is_what_is_held_back() -> None:
    """The last words of the sentence that stands in the middle are compared, and the dense model knows them."""
    preset = ZipVL.presets["needle"]
    record = wb.run("zipvl", **preset | {"tau": 1.0, "bits_high": 16, "bits_low": 16, "prompt": data.needle(900)}, progress=False)
    text = record["text"]
    assert "".join(text["piece"].values[text["generated"].values]).strip() == "seven green lanterns."
    assert record.meter("words_right")["baseline"] == 1.0


def test_a_picture_is_read_before_its_question() -> None:
    record = wb.run("zipvl", **ZipVL.presets["picture"], progress=False)
    assert record["attention"]["keep"].shape == (8, 67)
    assert record["patches"]["keep"].shape == (8, 64)
    np.testing.assert_array_equal(record["patches"]["keep"].values, record["attention"]["keep"].values[:, :64])
    assert record.figure("patch_film").data
    live = ZipVL(**ZipVL.presets["picture"]).rederive(record)
    assert live["patches"]["keep"].values.sum() == record["patches"]["keep"].values.sum()


def test_recorded_heads_are_the_captured_ones(model: LlamaForCausalLM) -> None:
    """Any part of a recorded head agrees with the pooled map of the same layer."""
    from workbench.views.head_zoom import probabilities

    record = run(model, look_layer=2)
    pooled = record["attention"]["mass"].values[2, 3]
    mass, _, q_cuts = probabilities(record, 3, (0, 90), (0, 90))
    assert len(q_cuts) == 91
    from workbench.views.attention_grid import edges

    cuts = edges(90, len(pooled))
    for i in range(len(pooled)):
        row = np.nan_to_num(mass[cuts[i] : cuts[i + 1]]).mean(0)
        np.testing.assert_allclose(np.add.reduceat(row, cuts[:-1]), np.nan_to_num(pooled[i]), atol=2e-5)
    with pytest.raises(InputError, match="a layer from 0 to 2"):
        run(model, look_layer=3)


@pytest.mark.parametrize("other", ["another text", "another model"])
def test_two_texts_or_two_models_stand_side_by_side(model: LlamaForCausalLM, other: str) -> None:
    """Every picture of attention is drawn twice on one scale, whatever the length of the text and the shape of the model."""
    torch.manual_seed(1)
    config = LlamaConfig(
        vocab_size=70, hidden_size=24, intermediate_size=32, num_hidden_layers=2, num_attention_heads=3, num_key_value_heads=1,
        max_position_embeddings=512, eos_token_id=None,
    )  # fmt: skip
    second = run(LlamaForCausalLM(config).eval()) if other == "another model" else run(model, length=61)
    pair = wb.compare(run(model), second)
    for view in ("kept_tokens", "attention_overview", "head_zoom", "token_strip", "mass_curves", "cache_bytes"):
        assert view in pair.views
        axes = {trace.xaxis or "x" for trace in pair.figure(view).data}
        assert len(axes) >= 2, f"{view} draws one record only"
