"""Read-ME: experts against the dense layers, batches that change no token, and runs of small models."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
import transformers

import workbench as wb
from tests.systems.test_read_me_serving import MACHINE, batches_by_hand
from workbench import models
from workbench.errors import InputError, ModelError, UnknownNameError
from workbench.instruments import neurons
from workbench.record import Record
from workbench.system import get
from workbench.systems.routing import experts as cut
from workbench.systems.routing import read_me_report, read_me_serving, serving
from workbench.systems.routing.read_me import TRAINED
from workbench.systems.routing.serving import Requests, Rules, serve

# ---- experts cut out of dense layers ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def small() -> Any:
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=60, hidden_size=16, intermediate_size=40, num_hidden_layers=3, num_attention_heads=2, num_key_value_heads=1, pad_token_id=0, eos_token_id=0
    )  # fmt: skip
    return transformers.LlamaForCausalLM(config).eval().requires_grad_(False)


def test_a_mask_keeps_the_largest_and_splits_into_shared_and_own() -> None:
    means = np.random.default_rng(1).random((3, 4, 40)).astype(np.float32)
    for ratio in (0.1, 0.5, 0.8, 1.0):
        chosen = cut.masks(means, ratio)
        assert (chosen.sum(-1) == round(40 * ratio)).all()
        assert (np.where(chosen, means, np.inf).min(-1) >= np.where(chosen, -np.inf, means).max(-1)).all()
        shared = cut.permanent(chosen)
        own = chosen & ~shared[:, None]
        assert ((own | shared[:, None]) == chosen).all()
        assert not (own & shared[:, None]).any()
        brute = [[[(a & b).sum() / (a | b).sum() for b in layer] for a in layer] for layer in chosen]
        np.testing.assert_allclose(cut.shared_share(chosen), brute)


def test_an_extracted_expert_is_the_dense_layer_with_the_others_silent(small: Any) -> None:
    chosen = cut.masks(np.random.default_rng(2).random((3, 4, 40)), 0.4)
    x = torch.randn(9, 16)
    for block, layer in zip(neurons.feed_forward(small), chosen):
        for mask in layer:
            acts = block.act_fn(block.gate_proj(x)) * block.up_proj(x)
            silent = block.down_proj(acts * torch.from_numpy(mask.astype(np.float32)))
            torch.testing.assert_close(cut.extract(block, mask)(x), silent, rtol=0, atol=1e-6)
        everything = cut.extract(block, np.ones(40, bool))
        assert torch.equal(everything(x), block(x))


def greedy_alone(model: Any, masks: np.ndarray, table: np.ndarray, prompt: np.ndarray, count: int) -> list[int]:
    """Return prompt and greedy continuation of one request read by itself, each token with its own expert's neurons only."""
    ids, mask = prompt.tolist(), torch.from_numpy(masks.astype(np.float32))
    for _ in range(count):
        chosen = torch.from_numpy(table[ids])
        with neurons.watching(lambda layer, acts, chosen=chosen: acts * mask[layer][chosen]):
            ids.append(int(neurons.view(model)(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1].argmax()))
    return ids


class Served:
    """Requests read together: attention by request, each expert's extracted layer once for all tokens of a batch that need it."""

    def __init__(self, model: Any, masks: np.ndarray, table: np.ndarray, prompts: list[np.ndarray]) -> None:
        self.model, self.table = model, table
        self.parts = [[cut.extract(b, m) for m in layer] for b, layer in zip(neurons.feed_forward(model), masks)]
        self.ids = [prompt.tolist() for prompt in prompts]
        self.done = [0] * len(prompts)
        self.inputs = [[torch.zeros(0, 16) for _ in prompts] for _ in self.parts]  # of each layer, of the tokens read so far

    def read(self, take: dict[int, int]) -> None:
        """Read the next tokens of some requests as one batch; whoever has read all it knows writes its next token."""
        core, order = self.model.model, sorted(take)
        fresh = {r: self.ids[r][self.done[r] : self.done[r] + take[r]] for r in order}
        assert all(len(fresh[r]) == take[r] for r in order), "a token is read before it is written"
        expert = torch.from_numpy(self.table[[t for r in order for t in fresh[r]]])
        hidden = core.embed_tokens(torch.tensor([t for r in order for t in fresh[r]]))
        for block, parts, kept in zip(core.layers, self.parts, self.inputs):
            seen = []
            for r, rows in zip(order, hidden.split([take[r] for r in order])):
                kept[r] = torch.cat([kept[r], rows])
                where = core.rotary_emb(kept[r][None], torch.arange(len(kept[r]))[None])
                looked = block.self_attn(block.input_layernorm(kept[r])[None], position_embeddings=where, attention_mask=None)[0]
                seen.append(looked[0, -take[r] :])
            hidden = hidden + torch.cat(seen)
            x, out = block.post_attention_layernorm(hidden), torch.zeros_like(hidden)
            for e, part in enumerate(parts):
                out[expert == e] = part(x[expert == e])
            hidden = hidden + out
        ends = hidden.split([take[r] for r in order])
        for r, rows in zip(order, ends):
            self.done[r] += take[r]
            if self.done[r] == len(self.ids[r]):
                self.ids[r].append(int(self.model.lm_head(core.norm(rows[-1:])).argmax()))


@torch.inference_mode()
@pytest.mark.parametrize("batching", serving.BATCHINGS)
def test_batching_changes_the_order_and_no_generated_token(small: Any, batching: str) -> None:
    rng = np.random.default_rng(11)
    masks, table, new = cut.masks(rng.random((3, 4, 40)), 0.4), rng.integers(0, 4, 60), 8
    prompts = [rng.integers(1, 60, n) for n in (5, 3, 9, 4, 6)]
    small = copy.deepcopy(small)
    for block in neurons.feed_forward(small):  # as it is drawn at random, its experts are too faint to change a token
        for part in (block.gate_proj, block.up_proj, block.down_proj):
            part.weight.mul_(12)
    alone = [greedy_alone(small, masks, table, prompt, new) for prompt in prompts]
    assert alone != [greedy_alone(small, masks, table * 0, prompt, new) for prompt in prompts], "the experts decide tokens"
    sizes = np.array([len(prompt) for prompt in prompts])
    expert = np.stack([np.pad(table[a], (0, 32 - len(a))) for a in alone])
    asked = Requests(expert, sizes, sizes + new - 1, rng.exponential(0.1, len(prompts)))
    rules = Rules(batching=batching, max_tokens=7, arrival_rate=30.0, cache_size=2)
    batches, server = batches_by_hand(asked, serve(asked, MACHINE, rules), rules), Served(small, masks, table, prompts)
    assert max(len(take) for take in batches) > 2, "requests share batches"
    for take in batches:
        server.read(take)
    assert server.ids == alone


def test_activation_means_are_those_of_the_inputs_of_down_proj(small: Any) -> None:
    ids = np.random.default_rng(3).integers(0, 60, (3, 7))
    inputs: dict[int, list[torch.Tensor]] = {}
    hooks = [
        block.down_proj.register_forward_pre_hook(lambda m, a, i=i: inputs.setdefault(i, []).append(a[0].abs()))
        for i, block in enumerate(neurons.feed_forward(small))
    ]
    small(input_ids=torch.from_numpy(ids), use_cache=False)
    for hook in hooks:
        hook.remove()
    wanted = torch.stack([torch.cat(inputs[i]).mean((0, 1)) for i in range(3)])
    np.testing.assert_allclose(neurons.activation_means(small, ids), wanted, rtol=1e-5)


def test_overlap_is_a_count_and_the_loss_has_the_gradient_of_its_differences() -> None:
    rng = np.random.default_rng(4)
    acts, chosen = torch.from_numpy(rng.standard_normal((5, 20))), torch.from_numpy(rng.random((3, 20)) < 0.5)
    found = cut.overlap(acts, chosen)
    for t, row in enumerate(acts.abs().numpy()):
        top = set(np.argsort(-row)[:10].tolist())
        assert found[t].tolist() == [len(top & set(np.flatnonzero(m).tolist())) for m in chosen.numpy()]
    logits = torch.from_numpy(rng.standard_normal((4, 3))).requires_grad_()
    scores = torch.from_numpy(rng.standard_normal((4, 6, 3)) * 2)
    assert torch.autograd.gradcheck(lambda x: cut.distillation(x, scores), (logits,))
    law = logits.detach().softmax(-1)
    by_hand = np.mean([[float((law[t] * (law[t] / scores[t, l].softmax(-1)).log()).sum()) for l in range(6)] for t in range(4)])  # noqa: E741
    assert float(cut.distillation(logits.detach(), scores)) == pytest.approx(by_hand)


def test_the_router_needs_no_model_and_sees_no_later_token() -> None:
    torch.manual_seed(1)
    gate = cut.PreGate(torch.randn(90, 24) @ torch.randn(24, 80), 4)
    gate.module.eval()
    ids = torch.randint(0, 90, (2, 12))
    with torch.inference_mode():
        before, changed = gate.logits(ids), ids.clone()
        changed[:, 7] = (changed[:, 7] + 1) % 90
        after = gate.logits(changed)
    torch.testing.assert_close(after[:, :7], before[:, :7], rtol=0, atol=1e-6)
    assert not torch.allclose(after[:, 7:], before[:, 7:], atol=1e-4)


# ---- runs -------------------------------------------------------------------------------------------------------------------------

QUICK = {
    "model": "lab-target",
    "router": "domain",
    "windows": 1,
    "length": 16,
    "requests": 12,
    "experts": 4,
    "cache_size": 2,
    "arrival_rate": 50.0,
    "bandwidth": 0.1,
}


@pytest.fixture(scope="module")
def run() -> Record:
    return wb.run("read_me", **QUICK, study=True)


def test_a_run_of_any_dense_model(run: Record) -> None:
    assert {
        "traffic",
        "routing",
        "perplexity",
        "masks",
        "service",
        "loads",
        "batches",
        "uses",
        "strategies",
        "claims",
        "curve/keep",
    } <= set(run.groups)
    assert [str(n) for n in run["traffic"]["router"].values] == ["domain", "table", "random"]
    assert run["strategies"]["shown"].values.sum() == 1
    assert run.meter("throughput")["provenance"] == "predicted"
    assert run.meter("perplexity")["provenance"] == "measured"
    lengths = run["traffic"]["prompt"].values + run["traffic"]["output"].values
    assert run["batches"]["tokens"].values.sum() == lengths.sum() == run["routing"].sizes["token"]
    assert np.isfinite(run["meters"]["value"].values).all()
    assert (run["loads"]["bytes"].values > 0).all()


def test_a_live_knob_serves_the_same_requests_as_a_new_run_would(run: Record) -> None:
    """Everything that is derived depends on the recorded requests and costs alone; a knob back is the record back."""
    system = get("read_me")(**QUICK, study=True)
    for knobs in (
        {"policy": "lru"},
        {"cache_size": 1},
        {"batching": "fifo"},
        {"router": "random"},
        {"prefetch": False},
        {"loading": "measured copy"},
        {"permanent": False},
    ):
        system.set(**knobs)
        moved = system.rederive(run)
        assert not moved["batches"].equals(run["batches"]) or not moved["uses"].equals(run["uses"])
        system.set(**{n: QUICK.get(n, system.knobs()[n].default) for n in knobs})
    again = system.rederive(moved)
    for group in run.groups:
        assert again[group].equals(run[group]), group


def test_bounds_of_reading_are_over_texts_and_hold_the_truth_for_few_of_them() -> None:
    """Texts differ, their tokens are alike: with two texts of each of six kinds 95 % of the bounds hold the truth, not 85 %."""
    rng, inside, shares = np.random.default_rng(3), [], []
    for _ in range(1500):
        level = rng.normal(2.0, 0.3, 12)
        _, low, high = read_me_report._perplexity(np.repeat(level[:, None], 50, 1), 6)
        inside.append(low <= np.exp(2.0) <= high)
        each = rng.normal(0.5, 0.1, 3)
        _, low, high = read_me_report._over_texts(np.repeat(each[:, None], 50, 1))
        shares.append(low <= 0.5 <= high)
    assert abs(np.mean(inside) - 0.95) < 0.02
    assert abs(np.mean(shares) - 0.95) < 0.02
    assert np.isnan(read_me_report._over_texts(np.ones((1, 50)))[1])


def test_without_a_permanent_part_each_load_brings_the_whole_expert(run: Record) -> None:
    config = models.load(QUICK["model"]).model.config
    whole = run.column("masks", "kept").sum(0) * config.intermediate_size * 3 * config.hidden_size * 4  # three products, fp32
    own = run.column("loads", "bytes")
    np.testing.assert_allclose(own + read_me_serving.shared_bytes(run), whole, rtol=1e-5)
    for loading in ("bandwidth", "measured copy"):
        plain, more = (read_me_serving.machine_of(run, loading, 1.0, p).load_ms for p in (True, False))
        np.testing.assert_allclose(more.sum() / plain.sum(), whole.sum() / own.sum(), rtol=1e-5)
    system, moved = get("read_me")(**QUICK, study=True), {}
    for permanent in (True, False):
        system.set(permanent=permanent)
        moved[permanent] = system.rederive(run).meter("loaded")["value"]
    assert moved[False] > moved[True] > 0


def test_all_neurons_kept_is_the_dense_model_exactly() -> None:
    record = wb.run("read_me", **QUICK | {"keep": 1.0})
    rows = record["perplexity"]
    values = {(str(k), str(r)): float(v) for k, r, v in zip(rows["kind"].values, rows["reader"].values, rows["value"].values)}
    for (kind, _), value in values.items():
        assert value == values[kind, "dense"]
    assert (record["masks"]["permanent"].values == 1).all()
    assert (record["loads"]["bytes"].values == 0).all()
    assert record.meter("active_parameters")["value"] == record.meter("active_parameters")["baseline"]


def test_one_expert_for_all_tokens_is_the_model_with_its_neurons_zeroed(small: Any) -> None:
    """The reading with masks against another way to silence neurons: their rows of down_proj set to zero in a copy."""
    system = get("read_me")(**QUICK)
    system._loaded = models.load(small)
    chosen = cut.masks(np.random.default_rng(2).random((3, 2, 40)), 0.3)
    ids = np.random.default_rng(5).integers(0, 60, (2, 9))
    found = system.read(ids, torch.from_numpy(chosen.astype(np.float32)), np.ones(ids.shape, np.int8))
    silent = copy.deepcopy(small)
    for block, mask in zip(neurons.feed_forward(silent), chosen[:, 1]):
        block.down_proj.weight[:, ~torch.from_numpy(mask)] = 0
    law = silent(input_ids=torch.from_numpy(ids)).logits[:, :-1].log_softmax(-1)
    wanted = -law.gather(2, torch.from_numpy(ids[:, 1:])[..., None])[..., 0]
    np.testing.assert_allclose(found, wanted, atol=1e-5)


@pytest.mark.model
def test_smollm2_is_routed_from_ids_alone() -> None:
    """The trained router gives the same routes from a copy of the embedding table alone: there is no model for it to look at."""
    system = get("read_me")(windows=1, length=16, requests=6)
    system.prepare()
    ids, kind, *_ = system.asked()
    before = system.choices(ids, kind)["learned"]
    assert (before == kind[:, None]).mean() > 0.7
    gate, _ = cut.load_pregate(TRAINED, system._loaded.model.get_input_embeddings().weight.clone())
    np.testing.assert_array_equal(gate.choose(ids, 6), before)
    assert gate.choose(ids, 2).max() == 1


# ---- bad input --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("knobs", "says"),
    [
        ({"cache_size": 0}, "from 1 to 6"),
        ({"cache_size": 5, "experts": 3}, "1 to 3"),
        ({"keep": 0.0}, "from 0.05 to 1.0"),
        ({"lookahead": 65}, "from 0 to 64"),
        ({"lookahead": 2.5}, "whole number"),
        ({"batching": "best"}, "fifo, decode-first"),
        ({"policy": "mru"}, "lru, lfu, belady"),
        ({"arrival_rate": float("nan")}, "from 0.5 to 50"),
        ({"router": "learned"}, "'domain', 'table', 'random' for a model without a trained router"),
        ({"experts": 1}, "from 2 to 6"),
    ],
)
def test_bad_knobs(knobs: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        wb.run("read_me", **QUICK | knobs)


def test_a_mixture_is_no_dense_model_and_a_strange_knob_is_named() -> None:
    with pytest.raises(ModelError, match="dense gated feed-forward"):
        wb.run("read_me", **QUICK | {"model": "moe-8"})
    with pytest.raises(UnknownNameError, match="cache_size"):
        wb.run("read_me", cachesize=2)
    block = neurons.feed_forward(models.load("lab-target").model)[0]
    with pytest.raises(InputError, match="keeps 1 to"):
        cut.masks(np.zeros((1, 1, 4)), 0.05)
    linear = type(
        "Block", (), {"gate_proj": torch.nn.Linear(2, 2), "up_proj": block.up_proj, "down_proj": block.down_proj, "act_fn": None}
    )
    with pytest.raises(ModelError, match="without offsets"):
        cut.extract(linear, np.ones(2, bool))


def test_knobs_that_do_not_fit_a_record_are_refused(run: Record) -> None:
    with pytest.raises(InputError, match="experts of this run"):
        get("read_me")(**QUICK | {"experts": 6, "cache_size": 5}).rederive(run)
    with pytest.raises(InputError, match="those of this run"):
        get("read_me")(**QUICK | {"router": "learned"}).rederive(run)
