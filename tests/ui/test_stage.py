"""What a page draws first, and when it draws again: no browser needed."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from widgets.bench import Bench
from widgets.stage import FEW, Slot, _equal
from workbench import system as systems


@pytest.fixture
def page() -> Iterator[Bench]:
    bench = Bench(systems.get("prodepth")())
    yield bench
    bench.close()


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Collect the names of the views that are drawn, in order."""
    names: list[str] = []
    draw = Slot.draw

    def noted(slot: Slot, *arguments: object) -> None:
        names.append(slot.view.name if slot.view is not None else "")
        draw(slot, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(Slot, "draw", noted)
    return names


def test_a_move_draws_the_hero_first_and_once_and_leaves_nothing_stale(page: Bench, drawn: list[str]) -> None:
    page._heard({"kind": "live", "values": {"object_speed": 0.2}})
    assert drawn[0] == "depth_maps"
    assert drawn.count("depth_maps") == 1
    assert "error_split" in drawn
    assert not any(slot.picture.stale for slot in page.stage.slots.values())
    assert page.record is not None
    assert page.record.knobs["object_speed"] == 0.2


def test_a_hero_drawn_for_another_reason_meanwhile_is_drawn_again(page: Bench) -> None:
    assert page.record is not None
    page.system.set(object_speed=-0.4)
    led = page.system.led(page.record)
    assert led is not None
    page.stage.lead(led, page._options())
    ahead = page.stage.slots["hero"].picture.figure
    page.stage.option_changed("selected", page._options())  # a click, answered from the record before the move
    assert page.stage.slots["hero"].picture.figure != ahead
    page._rederive()
    assert page.stage.slots["hero"].picture.figure == ahead


def test_arrays_that_differ_in_one_place_differ() -> None:
    one = np.zeros((7, FEW), np.float32)
    one[0, 0] = np.nan
    for place in ((0, 1), (3, 17), (6, FEW - 1)):
        other = one.copy()
        assert _equal(one, other)
        other[place] = 1
        assert not _equal(one, other)
