"""What a page draws first, and when it draws again: no browser needed."""

from __future__ import annotations

from collections.abc import Callable, Iterator

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


def test_tabs_follow_when_a_picture_comes_or_goes(page: Bench) -> None:
    """Nothing moves at speed 0: who finds the movers is no question there, and no tab asks it."""
    page.system.set(study=False, object_speed=0.0)
    page._show(page.system.record(), "measured")
    question = "Which doubt finds what moves?"
    assert not any(question in label for label in page.tabs.labels)
    page._heard({"kind": "live", "values": {"object_speed": 0.4}})
    assert any(question in label for label in page.tabs.labels)
    page._heard({"kind": "live", "values": {"object_speed": 0.0}})
    assert not any(question in label for label in page.tabs.labels)


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


class _Session:
    """The line of acts of a page that a browser shows, without one: what waits for a time stands in `timers`."""

    served = True

    def __init__(self) -> None:
        self.timers: list[Callable[[], None]] = []

    def ask(self, act: Callable[[], None], size: int = 0) -> bool:
        self.add(act)
        return True

    def add(self, act: Callable[[], None]) -> None:
        act()

    def after(self, seconds: float, act: Callable[[], None]) -> None:
        self.timers.append(act)

    def close(self) -> None: ...


def stale(page: Bench) -> bool:
    return any(slot.picture.stale for slot in page.stage.slots.values())


@pytest.mark.parametrize("key", ["prodepth", "zipvl"], ids=["with groups of its own", "drawn from all"])
@pytest.mark.parametrize("answers", [True, False], ids=["painted", "silent"])
def test_the_rest_of_a_move_waits_for_the_hero(key: str, answers: bool, drawn: list[str]) -> None:
    page = Bench(systems.get(key)())
    page._turns = session = _Session()  # type: ignore[assignment]
    knob = {"prodepth": {"object_speed": 0.2}, "zipvl": {"tau": 0.5}}[key]
    drawn.clear()
    page._heard({"kind": "live", "values": knob})
    assert drawn == [page.stage.slots["hero"].view.name]  # type: ignore[union-attr]
    assert stale(page)
    if answers:
        page._heard({"kind": "painted", "place": "left"})
        assert stale(page)
        page._heard({"kind": "painted", "place": "hero"})
    else:
        for timer in session.timers:  # grows while the first follows
            timer()
    assert not stale(page)
    count = len(drawn)
    for timer in session.timers:
        timer()  # too late: all is drawn
    assert len(drawn) == count
    page.close()


def test_arrays_that_differ_in_one_place_differ() -> None:
    one = np.zeros((7, FEW), np.float32)
    one[0, 0] = np.nan
    for place in ((0, 1), (3, 17), (6, FEW - 1)):
        other = one.copy()
        assert _equal(one, other)
        other[place] = 1
        assert not _equal(one, other)
