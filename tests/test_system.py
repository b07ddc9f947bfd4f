"""Knobs and the registry: nothing is clamped, nothing is half set, every wrong name gets the nearest right one."""

from __future__ import annotations

import json
import re
from importlib import metadata
from typing import Any

import numpy as np
import param
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.toy import Toy
from workbench import system as systems
from workbench.errors import InputError, UnknownNameError, WorkbenchError
from workbench.system import Branching, KnobInfo, Prompt, System
from workbench.tape import Tape

REAL = {name: entry for name, entry in systems.registry().items() if not entry.error}
ALL: list[type[System]] = [Toy, *(entry.load() for entry in REAL.values())]
KNOBS = [pytest.param(cls, info, id=f"{cls.key or 'toy'}-{name}") for cls in ALL for name, info in cls.knobs().items()]


def numeric(info: KnobInfo) -> bool:
    return isinstance(info.parameter, param.Number) and not isinstance(info.parameter, param.Boolean) and bool(info.bounds)


BOUNDED = [p for p in KNOBS if numeric(p.values[1])]


def test_every_registered_system_loads() -> None:
    broken = {name: entry.error for name, entry in systems.registry().items() if entry.error}
    assert broken == {}
    assert {point.name for point in metadata.entry_points(group=systems.ENTRY_POINTS)} == set(systems.registry())


@pytest.mark.parametrize(("cls", "info"), KNOBS)
def test_every_knob_is_documented(cls: type[System], info: KnobInfo) -> None:
    assert info.doc
    assert info.doc[0].isupper() or info.doc[0].isdigit()
    if isinstance(info.parameter, param.Number) and not isinstance(info.parameter, param.Boolean):
        assert info.bounds is not None
        assert None not in info.bounds


@pytest.mark.parametrize(("cls", "info"), BOUNDED)
@given(data=st.data())
def test_out_of_range_is_an_error_with_the_bounds(cls: type[System], info: KnobInfo, data: st.DataObject) -> None:
    low, high = info.bounds or (0, 0)
    whole = isinstance(info.parameter, param.Integer)
    below = st.integers(max_value=low - 1) if whole else st.floats(max_value=low, exclude_max=True, allow_nan=False)
    above = st.integers(min_value=high + 1) if whole else st.floats(min_value=high, exclude_min=True, allow_nan=False)
    value = data.draw(below | above)
    system = cls()
    before = system.values()
    with pytest.raises(InputError) as caught:
        system.set(**{info.name: value})
    assert f"from {low} to {high}" in str(caught.value)
    assert info.name in str(caught.value)
    assert system.values() == before


@pytest.mark.parametrize(("cls", "info"), BOUNDED)
@given(data=st.data())
def test_in_range_is_kept_exactly_and_a_text_gives_it_back(cls: type[System], info: KnobInfo, data: st.DataObject) -> None:
    low, high = info.bounds or (0, 0)
    whole = isinstance(info.parameter, param.Integer)
    value = data.draw(st.integers(low, high) if whole else st.floats(low, high))
    assert getattr(cls(**{info.name: value}), info.name) == value
    parsed = info.parse(json.dumps(value))
    assert parsed == value
    assert type(parsed) is type(value)


@pytest.mark.parametrize(("cls", "info"), BOUNDED)
@pytest.mark.parametrize("value", [float("nan"), "many", [1], {}])
def test_what_is_not_a_number_is_an_error(cls: type[System], info: KnobInfo, value: Any) -> None:
    with pytest.raises(InputError, match=info.name):
        cls(**{info.name: value})


@pytest.mark.parametrize(("cls", "info"), [p for p in KNOBS if p.values[1].choices])
def test_choices(cls: type[System], info: KnobInfo) -> None:
    for choice in info.choices or ():
        assert info.parse(str(choice)) == choice
        assert getattr(cls(**{info.name: choice}), info.name) == choice
    with pytest.raises(InputError, match=re.escape(f"{info.name}: expected one of {(info.choices or [''])[0]}")):
        cls(**{info.name: "no such choice"})


@pytest.mark.parametrize(("cls", "info"), [p for p in KNOBS if isinstance(p.values[1].parameter, Branching)])
def test_branching(cls: type[System], info: KnobInfo) -> None:
    low, high = info.bounds or (0, 0)
    for text, value in {str(low): low, f"[{low}, {high}]": [low, high], "none": None, "auto": None}.items():
        assert info.parse(text) == value
    for wrong in (low - 1, high + 1, [low, high + 1], [], [1.5], True, "two"):
        with pytest.raises(InputError, match=f"from {low} to {high}"):
            cls(**{info.name: wrong})


@given(ids=st.lists(st.integers(0, 10**6)), text=st.text())
def test_a_prompt_is_a_text_or_ids(ids: list[int], text: str) -> None:
    info = Toy.knobs()["prompt"]
    assert isinstance(info.parameter, Prompt)
    assert info.parse(json.dumps(ids)) == ids
    assert Toy(prompt=ids).prompt == ids
    assert Toy(prompt=text).prompt == text
    for wrong in (3, None, ["a"], [1.5], {"a": 1}):
        with pytest.raises(InputError, match="prompt: expected a text or a list of token ids"):
            Toy(prompt=wrong)


@given(text=st.text().filter(lambda t: not t.lstrip().startswith("[")))
def test_a_text_prompt_is_read_as_it_stands(text: str) -> None:
    assert Toy.knobs()["prompt"].parse(text) == text


@pytest.mark.parametrize(("text", "value"), [("true", True), ("No", False), ("1", True), ("0", False)])
def test_truth_values(text: str, value: bool) -> None:
    assert Toy.knobs()["loud"].parse(text) is value
    with pytest.raises(InputError, match="loud: expected true or false, got 'maybe'"):
        Toy.knobs()["loud"].parse("maybe")


def test_a_wrong_number_says_so() -> None:
    with pytest.raises(InputError, match="steps: expected a number, got 'many'"):
        Toy.knobs()["steps"].parse("many")


def test_unknown_names_get_the_nearest(toy: type[System]) -> None:
    with pytest.raises(UnknownNameError, match=r"knob of toy.*Did you mean 'steps'"):
        toy(stepz=3)
    with pytest.raises(UnknownNameError, match=r"Did you mean 'toy'.*workbench\.catalog"):
        systems.get("toyy")


def test_a_wrong_knob_changes_none() -> None:
    system = Toy(steps=3)
    with pytest.raises(InputError):
        system.set(steps=4, scale=9.0)
    assert (system.steps, system.scale) == (3, 1.0)


def test_a_broken_plug_in_is_listed_with_its_reason() -> None:
    entry = systems._entry("broken", "workbench.nowhere:Nothing")
    assert "ModuleNotFoundError" in entry.error
    with pytest.raises(WorkbenchError, match=r"'broken' is registered but cannot be loaded.*nowhere"):
        entry.load()


def test_a_run_is_the_same_whatever_the_tape() -> None:
    seen: list[int] = []
    plain = Toy(seed=3).record()
    watched = Toy(seed=3).record(Tape(lambda p, _: seen.append(p.done)))
    np.testing.assert_array_equal(plain["curve/draws"]["y"], watched["curve/draws"]["y"])
    assert seen == [1, 2, 3, 4, 5]


def test_a_live_knob_derives_from_the_recorded_arrays() -> None:
    system = Toy(steps=50)
    record = system.record()
    system.set(threshold=0.0)
    assert system.rederive(record)["curve/above"]["y"].item() == 1.0
    system.set(threshold=1.0)
    assert system.rederive(record)["curve/above"]["y"].item() == 0.0
    assert system.rederive(record)["curve/draws"].identical(record["curve/draws"])


def test_the_record_says_what_ran() -> None:
    record = Toy(seed=3, width=[2, 1]).record()
    assert record.knobs == Toy(seed=3, width=[2, 1]).values()
    assert record.attrs["seed"] == 3
    assert json.loads(record.attrs["versions"])["numpy"] == np.__version__
    assert record.attrs["workbench_version"] == metadata.version("inference-workbench")
