"""ATP's masks, losses and gradients against hand figures, finite differences and the pruned run itself."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.instruments.test_vision import picture, tiny
from workbench.instruments.vision import Scores, VisionReader
from workbench.systems.attention import atp_llava
from workbench.systems.attention import atp_modules as atp


@pytest.fixture(scope="module")
def reader():
    return VisionReader(tiny())


def fixed(theta_r, theta_s, patches=16):
    """Return a module that asks the same of everything."""
    module = atp.PruneModule(patches)
    for part, theta in ((module.redundancy, theta_r), (module.spatial, theta_s)):
        torch.nn.init.zeros_(part.weight)
        torch.nn.init.constant_(part.bias, float(torch.logit(torch.tensor(theta, dtype=torch.float64))))
    return module.requires_grad_(False)


def seen(rows=3, patches=16, seed=0):
    rng = torch.Generator().manual_seed(seed)
    own, cross = (torch.rand(rows, patches, generator=rng) for _ in range(2))
    return Scores(1, cross, own, torch.ones(rows, patches, dtype=torch.bool))


def glance(reader):
    return reader.glance([picture(1)], ["what colour is this"])


def test_thresholds_of_zero_prune_nothing(reader):
    g = glance(reader)
    rule = atp.Pruner([fixed(1e-9, 1e-9)] * 2, [0, 2], g.grid)
    logits, state = reader.answer(g, rule, at=[0, 2], own=True)
    assert [int(k) for k in state.kept] == [16] * 4
    torch.testing.assert_close(logits, reader.answer(g)[0], rtol=1e-5, atol=1e-5)


def test_thresholds_of_one_leave_the_text_alone(reader):
    g = glance(reader)
    rule = atp.Pruner([fixed(1 - 1e-9, 1 - 1e-9)], [1], g.grid, offset_r=1.0, offset_s=1.0, at_least=0)
    logits, _ = reader.answer(g, rule, at=[1], own=True, mode="remove")
    state = reader.advance(g, reader.start(g), 2)
    state.hidden, state.where = state.hidden[:, 16:], state.where[16:]
    torch.testing.assert_close(logits, reader.finish(reader.advance(g, state)), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("theta_r", [0.7, 0.8, 0.9])
def test_steep_soft_masks_are_the_removed_tokens(reader, theta_r):
    """The key identity: soft masks of temperature 1e4 answer like tokens that are really gone."""
    g = glance(reader)
    module = [fixed(theta_r, 0.5)] * 2
    hard = atp.Pruner(module, [0, 1], g.grid)
    removed, state = reader.answer(g, hard, at=[0, 1], own=True, mode="remove")
    margins = [float(m.abs().min()) for d in hard.decisions for m in (d.redundancy - d.theta_r, d.spatial - d.theta_s)]
    assert min(margins) > 1e-3
    assert 0 < int(state.kept[-1]) < 16
    soft, _ = reader.answer(g, atp.Pruner(module, [0, 1], g.grid, temperature=1e4), at=[0, 1], own=True)
    torch.testing.assert_close(soft, removed, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("temperature", [1.0, 10.0, 100.0])
def test_the_larger_of_two_soft_masks_is_either_passing(temperature):
    scores = seen()
    soft = atp.Pruner([fixed(0.6, 0.5)], [1], (4, 4), temperature=temperature)(scores)
    hard = atp.Pruner([fixed(0.6, 0.5)], [1], (4, 4), at_least=0)(scores)
    assert torch.equal(soft > 0.5, hard)


def test_gradients_of_thresholds_by_finite_differences():
    scores = seen()
    scores = Scores(1, scores.cross.double(), scores.own.double(), scores.alive)
    module = fixed(0.5, 0.5).double()
    biases = [module.redundancy.bias, module.spatial.bias]

    def kept():
        return atp.Pruner([module], [1], (4, 4), temperature=10.0)(scores).sum()

    for bias in biases:
        bias.requires_grad_(True)
        (slope,) = torch.autograd.grad(kept(), bias)
        with torch.no_grad():
            bias += 1e-5
            up = kept()
            bias -= 2e-5
            down = kept()
            bias += 1e-5
        assert abs(float(slope) - float(up - down) / 2e-5) < 1e-4
        assert float(slope) <= 0  # a higher threshold keeps fewer
        bias.requires_grad_(False)


def test_the_budget_loss_falls_when_a_threshold_rises():
    """d L_atp / d theta_r is negative for every module and picture, through the chain of later masks."""
    first, second = (torch.full((3, 1), 0.4, requires_grad=True) for _ in range(2))

    class Given(torch.nn.Module):
        def __init__(self, theta):
            super().__init__()
            self.theta = theta

        def forward(self, own, cross):
            return self.theta, torch.full_like(self.theta, 0.9)

    rule, scores = atp.Pruner([Given(first), Given(second)], [0, 1], (4, 4), temperature=10.0), seen()
    one = rule(Scores(0, scores.cross, scores.own, scores.alive))
    two = one * rule(Scores(1, scores.cross, scores.own, scores.alive))
    later, _ = atp.objective([torch.full((3,), 16.0), one.sum(-1), two.sum(-1)], [0, 1], 16, 0.5)
    for slope in torch.autograd.grad(later, [first, second]):
        assert (slope < 0).all()


def test_a_training_step_moves_the_thresholds(reader):
    g = glance(reader)
    modules = [atp.PruneModule(16) for _ in range(2)]
    rule = atp.Pruner(modules, [0, 1], g.grid, temperature=10.0)
    with torch.enable_grad():
        logits, state = reader.answer(g, rule, at=[0, 1], own=True)
        later, target = atp.objective([k.float() for k in state.kept], [0, 1], 16, 0.3)
        (logits[0, 3] + later + target).backward()
    for module in modules:
        assert float(module.redundancy.weight.grad.abs().sum()) > 0
        assert float(module.mix.weight.grad.abs().sum()) > 0


def test_the_budget_loss_by_hand():
    """Counts 300, 150, 60 behind layers 4, 14 and 24 of 32, 576 tokens."""
    counts = [576] * 4 + [300] * 10 + [150] * 10 + [60] * 8
    later, target = atp.objective([torch.tensor([float(c)]) for c in counts], [3, 13, 23], 576, np.mean(counts) / 576 - 0.05)
    assert abs(float(later) - 8.229) < 5e-4
    assert abs(float(target) - 0.05) < 1e-6


def test_grids_keep_what_their_strides_say():
    for stride, number in ((2, 144), (3, 64), (4, 36), (6, 16)):
        assert int((atp.spatial_scores((24, 24), [stride]) > 0).sum()) == number
    nested = atp.spatial_scores((24, 24), (2, 4, 8))
    kept = [set(torch.nonzero(nested > theta).flatten().tolist()) for theta in (0.1, 0.5, 0.9)]
    assert [len(k) for k in kept] == [144, 36, 9]
    assert kept[2] < kept[1] < kept[0]
    mixed = atp.spatial_scores((24, 24), (2, 3))
    table = np.array(
        [
            [(1 - 3 / 9 if r % 3 == 0 and c % 3 == 0 else 0.25 if r % 2 == 0 and c % 2 == 0 else -100) for c in range(24)]
            for r in range(24)
        ]
    )
    np.testing.assert_allclose(mixed.numpy(), table.reshape(-1), rtol=1e-6)


def test_a_token_that_is_kept_says_why():
    rule = atp.Pruner([fixed(0.6, 0.5)], [1], (4, 4))
    rule(seen())
    decision = rule.decisions[0]
    reason = decision.reason()
    assert ((reason > 0) == decision.mask.numpy()).all()
    assert ((reason & 1 > 0) == (decision.mask_r & decision.mask).numpy()).all()
    assert ((reason & 2 > 0) == (decision.mask_s & decision.mask).numpy()).all()


def test_at_least_one_token_stays():
    rule = atp.Pruner([fixed(0.99, 0.99)], [1], (4, 4), offset_r=1.0, offset_s=1.0)
    assert (rule(seen()).sum(-1) == 1).all()


def test_the_replay_of_recorded_scores_is_the_rule():
    """What a slider computes from the recorded scores is what the modules decided, module by module, at the same offsets."""
    scores, rules = seen(rows=5, seed=4), []
    for offset in (0.0, 0.15):
        rule = atp.Pruner([fixed(0.5, 0.5), fixed(0.6, 0.9)], [1, 2], (4, 4), offset_r=offset, offset_s=offset)
        first = rule(scores)
        rule(Scores(2, scores.cross, scores.own, first & scores.alive))
        rules.append(rule)
    group = atp_llava._thresholds(rules[0])
    keep, reason = atp_llava.survivors(group, 0.15, 0.15, "both")
    np.testing.assert_array_equal(keep[0], rules[1].decisions[0].mask.numpy())
    np.testing.assert_array_equal(keep[1], rules[1].decisions[1].mask.numpy())
    np.testing.assert_array_equal(reason[0], rules[1].decisions[0].reason())
