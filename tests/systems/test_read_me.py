"""Read-ME: caches against brute force, batches against a plain reference, experts against the dense layers, and runs of small models."""

from __future__ import annotations

import copy
import itertools
from collections import Counter, OrderedDict
from typing import Any

import numpy as np
import pytest
import torch
import transformers

import workbench as wb
from workbench import models
from workbench.errors import InputError, ModelError, UnknownNameError
from workbench.instruments import neurons
from workbench.record import Record
from workbench.system import get
from workbench.systems.routing import experts as cut
from workbench.systems.routing import read_me_serving as report
from workbench.systems.routing import serving
from workbench.systems.routing.openmoe_report import joined
from workbench.systems.routing.read_me import TRAINED
from workbench.systems.routing.serving import Machine, Requests, Rules, most_hits, serve, stream

MACHINE = Machine(
    np.array([1, 4, 16, 64, 256]), np.array([5.0, 6, 9, 20, 60]), np.array([1.0, 1.5, 3, 8, 30]), np.array([4.0, 5, 6, 7]), 10
)


def traffic(seed: int, count: int = 12, experts: int = 4, longest: int = 14, stay: float = 0.6) -> Requests:
    """Return requests whose tokens mostly keep the expert of the token before."""
    rng = np.random.default_rng(seed)
    prompt, output = rng.integers(1, longest, count), rng.integers(0, longest, count)
    expert = rng.integers(0, experts, (count, 2 * longest))
    for t in range(1, expert.shape[1]):
        expert[:, t] = np.where(rng.random(count) < stay, expert[:, t - 1], expert[:, t])
    return Requests(expert, prompt, prompt + output, rng.exponential(1.0, count))


def traces(count: int, longest: int = 14, experts: int = 5) -> list[tuple[np.ndarray, int, int]]:
    """Return (trace, experts, slots) of many random traces, some with few experts."""
    rng = np.random.default_rng(8)
    out = []
    for _ in range(count):
        size = int(rng.integers(2, experts + 1))
        out.append((rng.integers(0, size, int(rng.integers(1, longest + 1))), size, int(rng.integers(1, min(4, size) + 1))))
    return out


# ---- caches -------------------------------------------------------------------------------------------------------------


def best_by_enumeration(trace: np.ndarray, slots: int) -> int:
    """Return the most hits of any cache that loads on every miss: dynamic programming over all cache states."""
    states: dict[frozenset[int], int] = {frozenset(): 0}
    for e in trace.tolist():
        following: dict[frozenset[int], int] = {}
        for held, hits in states.items():
            if e in held:
                options = [(held, hits + 1)]
            elif len(held) < slots:
                options = [(held | {e}, hits)]
            else:
                options = [((held - {gone}) | {e}, hits) for gone in held]
            for state, score in options:
                following[state] = max(following.get(state, -1), score)
        states = following
    return max(states.values())


def test_belady_with_the_whole_future_is_the_best_of_all_caches() -> None:
    for trace, experts, slots in traces(300):
        best = best_by_enumeration(trace, slots)
        assert most_hits(trace, slots, experts) == best
        assert stream(trace, slots, "belady", experts, lookahead=len(trace))[0].sum() == best
        for policy in ("lru", "lfu", "random"):
            assert stream(trace, slots, policy, experts)[0].sum() <= best


def lru_by_hand(trace: np.ndarray, slots: int) -> list[bool]:
    held: OrderedDict[int, None] = OrderedDict()
    hits = []
    for e in trace.tolist():
        hits.append(e in held)
        if e not in held and len(held) == slots:
            held.popitem(last=False)
        held[e] = None
        held.move_to_end(e)
    return hits


def lfu_by_hand(trace: np.ndarray, slots: int) -> list[bool]:
    """Fewest uses so far leaves (uses before it was loaded count too); of equals, the one used longest ago."""
    held: set[int] = set()
    hits = []
    for t, e in enumerate(trace.tolist()):
        past = trace[:t].tolist()
        hits.append(e in held)
        if e not in held and len(held) == slots:
            held.remove(min(held, key=lambda x: (past.count(x), len(past) - past[::-1].index(x))))
        held.add(e)
    return hits


def test_lru_and_lfu_against_plain_references_and_no_lookahead_is_lru() -> None:
    for trace, experts, slots in traces(200, longest=60, experts=7):
        lru = lru_by_hand(trace, slots)
        assert stream(trace, slots, "lru", experts)[0].tolist() == lru
        assert stream(trace, slots, "lfu", experts)[0].tolist() == lfu_by_hand(trace, slots)
        assert stream(trace, slots, "belady", experts, lookahead=0)[0].tolist() == lru


@pytest.mark.parametrize(
    ("policy", "ahead", "hits"),
    [
        ("lru", 0, "0000000000"),
        ("lfu", 0, "0000000000"),
        ("belady", 0, "0000000000"),
        ("belady", 1, "0001010101"),
        ("belady", 9, "0001010101"),
    ],
)
def test_a_cycle_of_three_in_two_slots(policy: str, ahead: int, hits: str) -> None:
    """0 1 2 0 1 2 ...: LRU never hits; seeing the next use is enough for the best, every second."""
    found = stream(np.arange(10) % 3, 2, policy, 3, lookahead=ahead)[0]
    assert "".join(str(int(h)) for h in found) == hits


def residents(trace: np.ndarray, hit: np.ndarray, evicted: np.ndarray) -> list[set[int]]:
    """Return the cache's content after each use, from what it wrote down."""
    held: set[int] = set()
    out = []
    for e, h, gone in zip(trace.tolist(), hit.tolist(), evicted.tolist()):
        assert h == (e in held)
        if gone >= 0:
            assert gone in held
        held = (held - {gone}) | {e}
        out.append(set(held))
    return out


def test_a_larger_lru_cache_holds_all_that_a_smaller_one_holds() -> None:
    for trace, experts, _ in traces(60, longest=50, experts=6):
        contents = [residents(trace, *stream(trace, k, "lru", experts)) for k in range(1, experts + 1)]
        for small, large in itertools.pairwise(contents):
            assert all(a <= b for a, b in zip(small, large))
        assert all(len(held) <= k for k, content in enumerate(contents, 1) for held in content)


def test_even_independent_draws() -> None:
    """LRU hits k/N of an i.i.d. even stream; Belady at N = 7 hits .449, .632, .764, .864 with the whole future."""
    draws, experts = 20_000, 7
    trace = np.random.default_rng(3).integers(0, experts, draws)
    for slots, belady in zip((2, 3, 4, 5), (0.449, 0.632, 0.764, 0.864)):
        share = slots / experts
        assert abs(stream(trace, slots, "lru", experts)[0].mean() - share) < 3 * (share * (1 - share) / draws) ** 0.5 + 1e-3
        assert abs(most_hits(trace, slots, experts) / draws - belady) < 0.01


def test_the_published_rows_are_those_of_even_draws_among_six() -> None:
    """The reading aid on the page: k/6 is the reported LRU row; Belady's is reached with the next one to three *other* draws known."""
    lru = np.array(report.REPORTED["LRU, reported"]) / 100
    np.testing.assert_allclose(lru, np.arange(2, 6) / 6, atol=0.025)
    trace = np.random.default_rng(5).integers(0, 6, 20_000)
    reported = np.array(report.REPORTED["Belady, reported"]) / 100
    rows = [np.array([stream(trace, k, "belady", 6, lookahead=a)[0].mean() for k in range(2, 6)]) for a in (0, 1, 3, len(trace))]
    assert (rows[0] < reported).all()
    assert (reported < rows[3]).all()
    assert (rows[1] < reported).any()
    assert (rows[2] > reported).all()


def test_more_lookahead_helps_on_average() -> None:
    rng = np.random.default_rng(2)
    many = [rng.integers(0, 6, 300) for _ in range(30)]
    means = [np.mean([stream(t, 3, "belady", 6, lookahead=a)[0].mean() for t in many]) for a in (0, 1, 2, 4, 8, 32, 300)]
    assert (np.diff(means) >= 0).all()
    assert means[-1] > means[0] + 0.1


# ---- batches ----------------------------------------------------------------------------------------------------------------


def batches_by_hand(asked: Requests, served: Any, rules: Rules) -> list[dict[int, int]]:
    """Return {request: tokens} of each batch, formed by a plain reference at the simulation's own times."""
    count = len(asked.prompt)
    done, known, out = [0] * count, [0] * count, []
    for now in served.start_ms:
        for r in range(count):
            if served.arrival_ms[r] <= now and known[r] == 0:
                known[r] = int(asked.prompt[r])
        take = one_batch(asked, done, known, rules)
        out.append(take)
        for r, n in take.items():
            done[r] += n
            if done[r] == known[r] < asked.length[r]:
                known[r] += 1
    assert done == asked.length.tolist()
    return out


def one_batch(asked: Requests, done: list[int], known: list[int], rules: Rules) -> dict[int, int]:
    """Take token after token: the slowest way to say what a batch is."""
    take: Counter[int] = Counter()
    rows = range(len(done))
    waits = lambda r: done[r] + take[r] < known[r]  # noqa: E731
    if rules.batching == "expert-aware":
        while sum(take.values()) < rules.max_tokens and any(map(waits, rows)):
            queues: dict[int, list[int]] = {}
            for r in rows:
                at = done[r] + take[r]
                while at < known[r] and asked.expert[r, at] == asked.expert[r, done[r] + take[r]]:
                    queues.setdefault(int(asked.expert[r, at]), []).append(r)
                    at += 1
            best = max(queues, key=lambda e: (len(queues[e]), -e))
            for r in queues[best]:
                if sum(take.values()) < rules.max_tokens:
                    take[r] += 1
        return dict(take)
    decoding = [r for r in rows if done[r] >= asked.prompt[r]]
    fresh = [r for r in rows if done[r] < asked.prompt[r]]
    order = {"fifo": list(rows), "decode-first": decoding + fresh, "prefill-first": fresh + decoding}[rules.batching]
    for r in order:
        while sum(take.values()) < rules.max_tokens and waits(r):
            take[r] += 1
    return dict(take)


@pytest.mark.parametrize("batching", serving.BATCHINGS)
def test_batches_are_those_of_a_plain_reference_and_lose_no_token(batching: str) -> None:
    for seed in range(8):
        asked = traffic(seed)
        rules = Rules(batching=batching, max_tokens=(3, 8, 64)[seed % 3], arrival_rate=30.0, cache_size=2)
        served = serve(asked, MACHINE, rules)
        by_hand = batches_by_hand(asked, served, rules)
        assert [sum(take.values()) for take in by_hand] == served.tokens.tolist()
        assert served.tokens.max() <= rules.max_tokens
        assert served.tokens.sum() == asked.length.sum()
        done = Counter[int]()
        for b, take in enumerate(by_hand):  # in order within a request, each token once; and the experts are theirs
            needs = Counter(int(asked.expert[r, done[r] + i]) for r, n in take.items() for i in range(n))
            mine = served.use_batch == b
            assert needs == dict(zip(served.use_expert[mine].tolist(), served.use_tokens[mine].tolist()))
            done.update(take)


def test_with_one_expert_batches_by_expert_are_first_come() -> None:
    asked = traffic(3)
    alone = Requests(asked.expert * 0, asked.prompt, asked.length, asked.gap)
    found = [serve(alone, MACHINE, Rules(batching=b, max_tokens=9, cache_size=1)) for b in ("fifo", "expert-aware")]
    for one, other in zip(*found):
        np.testing.assert_array_equal(one, other)


def test_batches_by_expert_hold_fewer_experts_when_there_is_a_choice() -> None:
    asked = traffic(4, count=60, longest=30, stay=0.8)
    fewer = [
        serve(asked, MACHINE, Rules(batching=b, max_tokens=16, arrival_rate=500.0)).distinct.mean()
        for b in ("expert-aware", "fifo")
    ]
    assert fewer[0] < 0.8 * fewer[1]


def test_the_clock_of_a_single_request() -> None:
    """Three tokens of prompt on experts 0 0 1, one more on 1: two batches whose milliseconds can be added up by hand."""
    asked = Requests(np.array([[0, 0, 1, 1]]), np.array([3]), np.array([4]), np.array([2.0]))
    machine = Machine(np.array([1, 2, 3]), np.array([10.0, 11, 13]), np.array([2.0, 3, 5]), np.array([20.0, 40]), 4)
    slow = serve(asked, machine, Rules(cache_size=2, arrival_rate=10.0, prefetch=False))
    assert slow.start_ms.tolist() == [200.0, 200 + 60 + 13 + 3 + 2]
    assert slow.load_ms.tolist() == [60.0, 0.0]
    assert slow.compute_ms.tolist() == [18.0, 12.0]
    assert slow.latency_ms.tolist() == [60 + 18 + 12.0]
    ahead = serve(asked, machine, Rules(cache_size=2, arrival_rate=10.0, prefetch=True))
    load, compute = 60 / 4, 18 / 4  # of one layer; the first layer's load is waited for
    np.testing.assert_allclose(ahead.total_ms, [load + 3 * max(load, compute) + compute, 12.0])
    one_slot = serve(asked, machine, Rules(cache_size=1, arrival_rate=10.0, prefetch=False))
    assert one_slot.hit.tolist() == [False, False, True]
    assert one_slot.evicted.tolist() == [-1, 0, -1]


@pytest.mark.parametrize("policy", serving.POLICIES)
@pytest.mark.parametrize("batching", ["fifo", "expert-aware"])
def test_a_replay_of_the_same_cache_gives_the_same_hits(policy: str, batching: str) -> None:
    """Two ways through the code: the cache inside the clock, and the cache over what was written down."""
    for seed in range(4):
        rules = Rules(batching, policy, 2, lookahead=6, max_tokens=12, arrival_rate=40.0, at_hand_first=seed > 1, seed=seed)
        served = serve(traffic(seed, count=20), MACHINE, rules, keep_plans=True)
        np.testing.assert_array_equal(serving.replay(served, rules, 4), served.hit)
        assert 0 < served.hit.sum() < len(served.hit)


def test_plans_hold_what_is_queued_and_nothing_else() -> None:
    """All requests are there from the start and generate nothing: the plan is the truth. What is generated later is not in it."""
    asked = traffic(6, count=16)
    still = Requests(asked.expert, asked.length, asked.length, asked.gap * 0)
    served = serve(still, MACHINE, Rules(max_tokens=10, cache_size=2, at_hand_first=False), keep_plans=True)
    for b in range(len(served.tokens)):
        later = served.use_expert[served.use_batch > b][: serving.MOST_AHEAD]
        assert served.plans[b, : served.planned[b]].tolist() == later.tolist()
    lonely = Requests(asked.expert[:1], asked.prompt[:1], asked.prompt[:1] + 5, np.zeros(1))
    assert serve(lonely, MACHINE, Rules(cache_size=2), keep_plans=True).planned.tolist() == [0] * 6


@pytest.mark.parametrize("at_hand", [False, True])
def test_no_policy_beats_the_bound_and_a_cache_for_all_misses_once(at_hand: bool) -> None:
    rules = Rules(max_tokens=16, arrival_rate=100.0, at_hand_first=at_hand)
    served = serve(traffic(9, count=40, longest=25), MACHINE, rules, keep_plans=True)
    rows = joined(report.hit_curves(served, rules, 4))
    rate = {n: rows["y"][rows["curve"] == n] for n in dict.fromkeys(rows["curve"])}
    bound = rate["the most any cache can hit"]
    for name in ("Belady, as far as the queue tells", "LRU", "LFU", "random"):
        assert (rate[name] <= bound + 1e-12).all()
        assert rate[name][-1] == bound[-1] == 1 - 4 / len(served.use_expert)
    assert rate["Belady, as far as the queue tells"].mean() > rate["LRU"].mean()


def best_of_batches(batches: list[set[int]], slots: int) -> int:
    """Return the most hits if a batch takes its experts in any order and any `slots` of what was there or needed may stay: all of it tried."""
    states: dict[frozenset[int], int] = {frozenset(): 0}
    for batch in batches:
        following: dict[frozenset[int], int] = {}
        for held, hits in states.items():
            pool = sorted(held | batch)
            for kept in itertools.combinations(pool, min(slots, len(pool))):
                state, score = frozenset(kept), hits + len(held & batch)
                following[state] = max(following.get(state, -1), score)
        states = following
    return max(states.values())


def test_the_bound_of_batches_is_the_best_of_all_caches_and_at_hand_first_serves_what_is_there() -> None:
    rng = np.random.default_rng(6)
    for _ in range(150):
        batches = [set(rng.choice(5, int(rng.integers(1, 5)), replace=False).tolist()) for _ in range(int(rng.integers(1, 8)))]
        uses = np.array([e for batch in batches for e in batch])
        batch = np.repeat(np.arange(len(batches)), [len(b) for b in batches])
        for slots in (1, 2, 3):
            assert most_hits(uses, slots, 5, batch) == best_of_batches(batches, slots)
    served = serve(traffic(2, count=30), MACHINE, Rules(max_tokens=12, cache_size=2, arrival_rate=60.0, at_hand_first=True))
    before = np.vstack([np.zeros((1, 4), bool), served.resident[:-1]])
    for b in range(len(served.tokens)):
        mine = served.use_batch == b
        assert served.hit[mine].sum() == before[b][served.use_expert[mine]].sum()


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
    ):
        system.set(**knobs)
        moved = system.rederive(run)
        assert not moved["batches"].equals(run["batches"]) or not moved["uses"].equals(run["uses"])
        system.set(**{n: QUICK.get(n, system.knobs()[n].default) for n in knobs})
    again = system.rederive(moved)
    for group in run.groups:
        assert again[group].equals(run[group]), group


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
