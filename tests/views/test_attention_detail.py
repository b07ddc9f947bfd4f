"""Zooming into a head, and who looks at a token: against attention written out."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from plotly.io.json import to_json_plotly

from tests.views.simulator import record as simulate
from tests.views.simulator import run_attrs
from workbench.errors import InputError
from workbench.record import Record
from workbench.views import attention_overview, head_zoom


@pytest.fixture(scope="module")
def record():
    return simulate()


def written_out(record, head):
    """Return the whole matrix of one head, the slow way."""
    q, k = record.column("heads", "query")[head].astype(float), record.column("heads", "key")[0].astype(float)
    scores = np.where(np.tri(len(q), dtype=bool), q @ k.T, -np.inf)
    law = np.exp(scores - scores.max(-1, keepdims=True))
    return law / law.sum(-1, keepdims=True)


@pytest.mark.parametrize("head", [0, 1])
@pytest.mark.parametrize(("keys", "queries"), [((0, 40), (0, 40)), ((3, 9), (5, 30)), ((0, 1), (39, 40)), ((30, 40), (0, 20))])
def test_a_part_is_exact(record, head, keys, queries):
    mass, k_cuts, _q_cuts = head_zoom.probabilities(record, head, keys, queries)
    assert (np.diff(k_cuts) == 1).all()
    truth = written_out(record, head)[queries[0] : queries[1], keys[0] : keys[1]]
    future = np.arange(*keys)[None] > np.arange(*queries)[:, None]
    np.testing.assert_allclose(mass[~future], truth[~future], rtol=2e-5, atol=1e-6)
    assert np.isnan(mass[future]).all()


def test_a_coarse_part_pools_the_exact_one(record, monkeypatch):
    monkeypatch.setattr(head_zoom, "CELLS", 8)
    mass, k_cuts, q_cuts = head_zoom.probabilities(record, 1, (0, 40), (0, 40))
    truth = written_out(record, 1)
    for i in range(8):
        for j in range(i + 1):
            block = truth[q_cuts[i] : q_cuts[i + 1], k_cuts[j] : k_cuts[j + 1]].sum(1).mean()
            assert mass[i, j] == pytest.approx(block, rel=1e-4)
    np.testing.assert_allclose(np.nansum(mass, 1), 1, rtol=1e-5)


def many_heads(layers, heads):
    mass = np.random.default_rng(0).random((layers, heads, 16, 16), np.float32) * np.tri(16, dtype=np.float32)
    columns = {
        "mass": mass / mass.sum(-1, keepdims=True), "token_score": np.ones((layers, 20)), "keep": np.ones((layers, 20), bool), "keep_ratio": np.ones(layers),
        "sink_share": np.ones((layers, heads)),
    }  # fmt: skip
    return Record.from_columns({"attention": columns}, run_attrs(0, {}))


@pytest.mark.parametrize(("layers", "heads"), [(30, 9), (32, 32), (80, 64)])
def test_the_map_of_all_heads_stays_under_a_megabyte(layers, heads):
    spec = attention_overview.VIEW.spec(many_heads(layers, heads))
    assert len(to_json_plotly(spec)) < 950_000
    cells = np.array(spec["data"][0]["z"], float)
    assert cells.shape[0] % layers == cells.shape[1] % heads == 0


def test_of_a_large_bin_some_queries_stand_for_all_and_the_caption_says_so(record, monkeypatch):
    monkeypatch.setattr(head_zoom, "CELLS", 2)
    monkeypatch.setattr(head_zoom, "ASKED", 5)
    mass, _, q_cuts = head_zoom.probabilities(record, 1, (0, 40), (0, 40))
    truth = written_out(record, 1)
    for i, (a, b) in enumerate(itertools.pairwise(q_cuts)):
        asked = np.linspace(a, b - 1, 5).round().astype(int)
        np.testing.assert_allclose(
            mass[i, : i + 1], [truth[asked, :20].sum(1).mean(), truth[asked, 20:].sum(1).mean()][: i + 1], rtol=1e-4
        )
    assert "each row seen by 5 of its tokens" in record.text("head_zoom")


def test_the_picture_follows_the_window_and_stays_small(record):
    whole = record.figure("head_zoom", selected=2)
    part = record.figure("head_zoom", selected=2, window=(9.6, 20.2, 31.0, 25.0))
    assert tuple(part.layout.xaxis.range) == (9.5, 20.5)
    assert tuple(part.layout.yaxis.range) == (31.5, 24.5)
    assert whole.layout.meta == {"zoom": True}
    assert len(part.to_json()) < 200_000
    assert "single tokens" in record.text("head_zoom", selected=2, window=(9.6, 20.2, 31.0, 25.0))
    for odd in ((50.0, 60.0, 50.0, 60.0), (-9.0, -5.0, -3.0, -2.0), (5.2, 5.3, 7.1, 7.2)):
        assert record.figure("head_zoom", window=odd).data


def test_readers_of_a_token_are_its_column(record):
    shares = (record.column("readers", "received")[0, :, 7].astype(float) / 255) ** 2
    truth = np.mean([written_out(record, h) for h in (0, 1)], 0)[:, 7].reshape(10, 4).mean(1)
    np.testing.assert_allclose(shares, truth, atol=0.01)
    assert "Token 7" in record.text("token_readers", token=7)
    assert "Token 7" in record.text("token_strip", token=7)
    for view in ("token_readers", "token_strip"):
        with pytest.raises(InputError, match="position from 0"):
            record.figure(view, token=400)
