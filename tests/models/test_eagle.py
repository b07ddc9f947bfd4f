"""The trained draft: what runs is what was trained, trees equal their paths, and no text changes."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from workbench import models
from workbench.errors import ModelError
from workbench.models import eagle
from workbench.models.fused import FusedSession, weights_of
from workbench.models.lookup import FirstMatch, LookupSession
from workbench.models.session import TableSession, chain_parents

from .conftest import make_llama
from .test_lookup import decode, greedy

sys.path.insert(0, str(Path(__file__).parents[2] / "recipes"))
from eagle_layer import EagleLayer
from eagle_smollm2 import packed

IDS = [5, 9, 200, 17, 5, 33, 120, 8, 299, 41]


@pytest.fixture(scope="module")
def target():
    return models.load(make_llama(seed=11))


@pytest.fixture(scope="module")
def layer(target):
    torch.manual_seed(5)
    layer = EagleLayer(target.model, torch.arange(0, 300, 2), 64).requires_grad_(False)
    for parameter in layer.parameters():
        if parameter.ndim == 2:
            parameter.copy_(torch.randn_like(parameter) * parameter.shape[1] ** -0.5)
    return layer


@pytest.fixture(scope="module")
def weights(layer, target, tmp_path_factory):
    folder = tmp_path_factory.mktemp("eagle")
    save_file(packed(layer), folder / "draft.safetensors")
    return eagle.read_weights(folder, target.model, "tiny")


@pytest.fixture
def session(target):
    return FusedSession(weights_of(target.model, "tiny"), 64)


def draft_for(session, weights, ids):
    """Return a draft session that has taken over the target's states of all of `ids` but the last."""
    draft = eagle.EagleSession(weights)
    session.forward(ids[:-1], chain_parents(len(ids) - 1))
    draft.commit(range(len(ids) - 1), ids[:-1], session)
    session.keep(range(len(ids) - 1))
    return draft


def test_runs_as_trained(target, layer, weights, session):
    """Depths 1, 2 and 3 of a drafted chain give the logits of the training module's roll-out (int8 rounding apart)."""
    chain = [44, 62]
    ids = torch.tensor([[*IDS, *chain]])
    hidden = target.model(ids, output_hidden_states=True).hidden_states[-1]
    rolled = layer.roll_out(hidden, ids, 3)
    draft = draft_for(session, weights, IDS)
    got = [draft.forward(IDS, chain_parents(len(IDS)), last_only=True)[0]]
    got += [draft.forward([token], [len(IDS) - 1 + i])[0] for i, token in enumerate(chain)]
    for depth, (logits, states) in enumerate(zip(got, rolled)):
        wanted = F.linear(states[0, len(IDS) - 1 + depth], layer.head).detach().numpy()
        assert np.isneginf(logits[1::2]).all()
        assert np.corrcoef(logits[::2], wanted)[0, 1] > 0.999
        np.testing.assert_allclose(logits[::2], wanted, atol=0.05 * np.abs(wanted).max())


def test_tree_rows_equal_their_paths(weights, session):
    draft = draft_for(session, weights, IDS)
    root = len(IDS) - 1
    draft.forward(IDS, chain_parents(len(IDS)), last_only=True)
    tree = draft.forward([40, 50, 60], [root, root, root])
    deeper = draft.forward([41, 51, 42], [root + 1, root + 2, root + 1])
    for path, got in (([40], tree[0]), ([60], tree[2]), ([40, 41], deeper[0]), ([50, 51], deeper[1]), ([40, 42], deeper[2])):
        draft.keep([])
        draft.forward(IDS, chain_parents(len(IDS)), last_only=True)
        for i, token in enumerate(path):
            plain = draft.forward([token], [root + i])
        np.testing.assert_allclose(plain[0][::2], got[::2], atol=1e-4)


def test_rows_in_one_call_equal_rows_level_by_level(weights, session):
    draft = draft_for(session, weights, IDS)
    root = len(IDS) - 1
    together = draft.forward([*IDS, 40, 41, 42], [*chain_parents(len(IDS)), root, root + 1, root + 1])
    draft.keep([])
    draft.forward(IDS, chain_parents(len(IDS)))
    apart = [draft.forward([40], [root]), draft.forward([41, 42], [root + 1, root + 1])]
    np.testing.assert_allclose(together[-3:, ::2], np.concatenate(apart)[:, ::2], atol=1e-4)


def test_states_are_the_targets_after_acceptance(target, weights, session):
    """After commits of any length the draft's next law is that of a draft that reads the whole text at once."""
    draft = draft_for(session, weights, IDS)
    text = list(IDS)
    for accepted, final in (([], 3), ([44, 62], 7), ([12], 250)):
        draft.forward(text[draft.length :], chain_parents(len(text) - draft.length), last_only=True)
        path = [text[-1], *accepted]
        session.forward(path, chain_parents(len(path)))
        draft.commit(range(len(path)), path, session)
        session.keep(range(len(path)))
        text += [*accepted, final]
        assert draft.length == len(text) - len(accepted) - 1  # rows that read true states are not read again
    got = draft.forward(text[draft.length :], chain_parents(len(text) - draft.length), last_only=True)
    fresh_target = FusedSession(weights_of(target.model, "tiny"), 64)
    fresh = draft_for(fresh_target, weights, text)
    wanted = fresh.forward(text, chain_parents(len(text)), last_only=True)
    np.testing.assert_allclose(got[:, ::2], wanted[:, ::2], atol=1e-3)


@pytest.mark.filterwarnings("ignore:invalid value encountered in subtract:RuntimeWarning")
@pytest.mark.parametrize("branching", [[1, 1, 1], [2, 2], [4]])
def test_greedy_text_is_the_targets(target, weights, branching):
    start = lambda: FusedSession(weights_of(target.model, "tiny"), 64)  # noqa: E731
    plain = greedy(start, IDS, 25)
    assert decode(start, eagle.EagleSession(weights), IDS, 25, branching)[0] == plain
    both = FirstMatch(LookupSession(300, IDS), eagle.EagleSession(weights), 3)
    assert decode(start, both, IDS, 25, branching)[0] == plain


def test_rewind_forgets_the_states_too(weights, session):
    other = IDS[::-1]
    used = draft_for(session, weights, IDS)
    session.rewind(0)
    used.rewind(0)
    session.forward(other[:-1], chain_parents(len(other) - 1))
    used.commit(range(len(other) - 1), other[:-1], session)
    session.rewind(0)
    fresh = draft_for(session, weights, other)
    got, wanted = (d.forward(other, chain_parents(len(other)), last_only=True) for d in (used, fresh))
    np.testing.assert_array_equal(got, wanted)


def test_rewind_goes_back_to_the_state_before(weights, session):
    draft = draft_for(session, weights, IDS)
    wanted = draft.forward(IDS[:5], chain_parents(5), last_only=True)
    draft.keep(range(5))
    draft.rewind(4)
    assert draft.length == 4
    got = draft.forward(IDS[4:5], [-1])
    np.testing.assert_allclose(got[:, ::2], wanted[:, ::2], atol=1e-4)


def test_another_target_is_refused(layer, tmp_path, target):
    save_file(packed(layer), tmp_path / "draft.safetensors")
    stranger = make_llama(seed=12)
    stranger.model.norm.weight.data += 0.5
    with pytest.raises(ModelError, match="trained for"):
        eagle.read_weights(tmp_path, stranger, "stranger")
    with pytest.raises(ModelError, match="trained for"):
        eagle.read_weights(tmp_path, make_llama(dim=96), "wider")


def test_a_session_without_states_is_refused(target):
    with pytest.raises(ModelError, match="hidden states"):
        eagle.open_eagle(target, TableSession(np.eye(3)))


def test_missing_weights_say_how_to_make_them(tmp_path, target):
    with pytest.raises(ModelError, match=r"recipes/eagle_smollm2\.py"):
        eagle.read_weights(tmp_path, target.model, "tiny")
