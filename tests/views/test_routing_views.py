"""Pictures of routing against counts by brute force: the map from afar and near, cards, linked selections, and what is sent at full size."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest

from tests.views import routing, serving
from tests.views.simulator import run_attrs
from workbench import views
from workbench.errors import InputError
from workbench.export import dumps
from workbench.record import Record

NAMES = (
    "routing_map", "routed_text", "expert_load", "spikiness", "information", "drop_curve", "drop_quality", "router_film", "token_card", "expert_card",
    "expert_transitions", "layer_overlap", "claims",
)  # fmt: skip


def made(seed: int = 3, **sizes: int) -> Record:
    groups, attrs = routing.groups(seed, **sizes)
    return Record.from_columns(groups, run_attrs(seed, {}), attrs)


@pytest.fixture(scope="module")
def small() -> Record:
    return made()


@pytest.fixture(scope="module")
def large() -> Record:
    """10 002 tokens, 32 layers, 64 experts."""
    return made(layers=32, experts=64, length=1667)


def traces(spec: dict[str, Any], name: str) -> list[dict[str, Any]]:
    return [t for t in spec["data"] if t.get("name") == name]


def test_the_map_from_afar_is_the_share_of_each_stretch(large: Record) -> None:
    expert, dropped = (large.column("routing", n)[5] for n in ("expert", "dropped"))
    heat, bars = views.get("routing_map").spec(large, step=5)["data"]
    z, centre = np.array(heat["z"]), np.array(heat["x"])
    assert z.shape == (64, 200)
    np.testing.assert_allclose(z.sum(0), 1, atol=0.04)  # rounded to three places, 64 of them
    for column in (0, 77, 199):
        stretch = np.array_split(np.arange(len(expert)), 200)[column]
        assert centre[column] == pytest.approx(stretch.mean())
        truth = Counter(expert[stretch].ravel().tolist())
        np.testing.assert_allclose(z[:, column], [round(truth[e] / (2 * len(stretch)), 3) for e in range(64)], atol=1e-9)
        assert bars["y"][column] == pytest.approx(dropped[stretch].mean(), abs=1e-4)


def test_the_map_near_shows_each_choice_taken_or_dropped(small: Record) -> None:
    routes = small["routing"]
    spec = views.get("routing_map").spec(small, step=1, window=(10.0, 39.0, 0.0, 0.0))
    expert, dropped = routes["expert"].values[1, 10:40], routes["dropped"].values[1, 10:40]
    for name, hit in (("taken", ~dropped), ("dropped", dropped)):
        (marks,) = traces(spec, name)
        seen = set(zip(marks["x"], marks["y"]))
        assert seen == {(10 + t, int(expert[t, c])) for t, c in zip(*np.nonzero(hit))}
    assert dropped.any()
    z = np.array(spec["data"][0]["z"])
    assert z.shape == (4, 30)
    np.testing.assert_allclose(z.sum(0), 1, atol=2e-3)  # all four experts are candidates


@pytest.mark.parametrize("layer", [0, 1])
@pytest.mark.parametrize("own", [0, 1])
def test_a_chosen_expert_is_followed_in_the_text_and_in_every_layer(small: Record, layer: int, own: int) -> None:
    """Expert 2 of either layer: the same tokens are ringed in the text and marked in the map of either layer."""
    expert, chosen = small["routing"]["expert"].values, 4 * own + 2
    mine = np.flatnonzero((expert[own] == 2).any(1))
    text = views.get("routed_text").spec(small, step=layer, selected=chosen)
    (ring,) = traces(text, "goes to the chosen expert")
    assert sum(v is None for v in ring["x"]) in {len(mine), len(mine) - 1}  # one box a token, with gaps between them
    near = views.get("routing_map").spec(small, step=layer, selected=chosen)
    (rings,) = traces(near, "tokens of the chosen expert")
    assert set(zip(rings["x"], rings["y"])) == {(int(t), int(e)) for t in mine for e in expert[layer, t]}
    assert any(s["type"] == "rect" for s in near["layout"]["shapes"]) == (layer == own)
    share = np.array(views.get("expert_load").spec(small, selected=chosen)["data"][0]["z"])[layer]
    np.testing.assert_allclose(share, np.bincount(expert[layer, mine].ravel(), minlength=4) / (2 * len(mine)), atol=1e-4)
    assert f"Expert 2 of layer {1 + 2 * own} takes" in views.get("routed_text").describe(small, selected=chosen)


def test_a_chosen_expert_from_afar_is_a_line(large: Record) -> None:
    mine = (large["routing"]["expert"].values[3] == 9).any(1)
    (line,) = traces(views.get("routing_map").spec(large, step=20, selected=3 * 64 + 9), "tokens of the chosen expert")
    truth = [mine[part].mean() for part in np.array_split(np.arange(len(mine)), 200)]
    np.testing.assert_allclose(line["y"], truth, atol=1e-4)


def test_cards_count_what_is_there(small: Record) -> None:
    routes = small["routing"]
    ids, first = routes["token_id"].values, routes["expert"].values[1, :, 0]
    bars = views.get("token_card").spec(small, step=1, token=7)["data"][0]
    same = ids == ids[7]
    np.testing.assert_allclose(bars["y"], np.bincount(first[same], minlength=4) / same.sum(), atol=1e-4)
    assert f"occurs {same.sum()} times" in views.get("token_card").describe(small, step=1, token=7)
    taken, given = views.get("expert_card").spec(small, selected=4 + 3)["data"]
    truth = sorted(Counter(ids[first == 3].tolist()).items(), key=lambda item: (-item[1], item[0]))[:10]
    np.testing.assert_allclose(taken["x"], [n / (first == 3).sum() for _, n in truth], atol=1e-4)
    np.testing.assert_allclose(given["x"], [n / (ids == token).sum() for token, n in truth], atol=1e-4)


def test_an_expert_or_token_that_is_not_there_names_the_bounds(small: Record) -> None:
    for name in ("routing_map", "routed_text", "expert_load", "expert_card"):
        with pytest.raises(InputError, match="an expert from 0 to 7"):
            small.figure(name, selected=8)
    for name in ("routed_text", "token_card"):
        with pytest.raises(InputError, match="a token from 0 to 95"):
            small.figure(name, token=96)


@pytest.mark.parametrize("name", NAMES)
def test_ten_thousand_tokens_32_layers_64_experts_are_pooled_before_they_are_sent(large: Record, name: str) -> None:
    view, sent = views.get(name), []
    for options in ({}, {"step": 31}, {"selected": 700}, {"window": (500.0, 599.0, 0.0, 0.0), "step": 3, "selected": 200}):
        known = {k: v for k, v in options.items() if k in view.options()}
        sent.append(len(dumps(view.spec(large, **known))))
    assert max(sent) < 1_000_000
    assert max(sent) < 400_000 or name == "routed_text"


def test_a_click_selects_in_every_picture_stays_through_the_layers_and_lets_go() -> None:
    """On the page of the recorded run: the tokens of a clicked expert are ringed in the text, also after a step to another layer."""
    from widgets.bench import Bench
    from workbench.systems.routing.openmoe import OpenMoE

    bench = Bench(OpenMoE())
    bench._heard({"kind": "click", "place": "hero", "custom": 3})
    assert bench.selected == 3
    places = [p for p, slot in bench.stage.slots.items() if slot.view is not None and slot.view.name == "routed_text"]
    assert places
    assert "goes to the chosen expert" in bench.stage.slots[places[0]].picture.figure
    bench._heard({"kind": "step", "step": 1})
    assert (bench.step, bench.selected) == (1, 3)
    assert "tokens of the chosen expert" in bench.stage.slots["hero"].picture.figure
    bench._heard({"kind": "click", "place": "hero", "custom": 3})
    assert bench.selected is None
    assert "chosen expert" not in bench.stage.slots["hero"].picture.figure


def test_names_of_hit_rates_stand_as_the_lines_lie_at_the_size_on_show() -> None:
    for seed in range(4):
        groups, attrs = serving.groups(seed)
        record = Record.from_columns(groups, run_attrs(seed, {}), attrs)
        size = record.group_attrs("curve/hit_rate")["cache_size"]
        lines = [t for t in views.get("hit_rates").draw(record)["data"] if "reported" not in t["name"]]
        heights = [t["y"][t["x"].index(size)] for t in lines]
        assert heights == sorted(heights, reverse=True)
