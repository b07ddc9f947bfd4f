"""A link, a copied call and a copied command bring back exactly the knobs of the page."""

from __future__ import annotations

import shlex
from typing import Any

import numpy as np
import pytest

import workbench as wb
from widgets import link
from widgets.recorded import recorded_run
from workbench import api, cli
from workbench import system as systems
from workbench.cli import parse_knobs
from workbench.errors import Cancelled

KEYS = sorted(systems.registry())


def opened(key: str, search: str) -> systems.System:
    """Return a system with the knobs that a page opens on: the recorded run's unless the address names a knob."""
    made, kept = systems.get(key)(), recorded_run(key)
    if kept is not None and not link.names_knob(made, search):
        made.set(**{n: v for n, v in kept.knobs.items() if n in made.knob_names()})
    _, notes = link.restore(made, search, public=True)
    assert notes == []
    return made


@pytest.mark.parametrize("key", KEYS)
def test_a_page_at_its_defaults_is_not_mistaken_for_the_recorded_run(key: str) -> None:
    made = systems.get(key)()
    np.testing.assert_equal(opened(key, link.query(made, {})).values(), made.values())


def test_an_empty_text_is_a_value_too() -> None:
    made = systems.get("rsd")(prompt="", depth=2)
    np.testing.assert_equal(opened("rsd", link.query(made, {"step": "3"})).values(), made.values())


def test_long_texts_stay_out_of_the_address_and_are_named() -> None:
    made = systems.get("rsd")(prompt="word " * 400, depth=2)
    assert link.left_out(made) == ["prompt"]
    assert "prompt" not in link.query(made, {})


@pytest.mark.parametrize("prompt", ['it\'s "quoted" $HOME `ls` \\ \n second line', "--out x", "␣ 🙂 é", [1, 2, 3]])
def test_what_is_copied_runs_as_it_stands(monkeypatch: pytest.MonkeyPatch, prompt: Any) -> None:
    made = systems.get("rsd")(prompt=prompt, width=[3, 2], depth=2, method="rsd-c", temperature=0.35, seed=7)
    asked: list[tuple[str, dict[str, Any]]] = []
    monkeypatch.setattr(wb, "run", lambda name, **knobs: asked.append((name, knobs)), raising=False)
    exec(link.python(made), {})  # our own text, whole
    name, knobs = asked[0]
    assert systems.get(name)(**knobs).values() == made.values()
    words = shlex.split(link.command(made))
    assert words[:3] == ["workbench", "run", "rsd"]
    assert words[-2:] == ["--out", "run.zarr.zip"]
    assert systems.get("rsd")(**parse_knobs(systems.get("rsd"), words[3:-2])).values() == made.values()


@pytest.mark.parametrize(
    "prompt", ["--help", "--json", "--debug", "--out", "--out=evil", "--", "-1", "--depth 5", "it's", "a\nb", "$HOME"]
)
def test_a_copied_command_runs_what_the_page_shows(prompt: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Through the command line itself: a text that looks like an option is a text."""
    asked: list[dict[str, Any]] = []

    def run(name: str, **knobs: Any) -> None:
        asked.append(knobs)
        raise Cancelled("enough")

    monkeypatch.setattr(api, "run", run)
    made = systems.get("rsd")(prompt=prompt, depth=2)
    words = shlex.split(link.command(made))
    assert cli.call(words[1:]) == cli.CANCELLED
    assert asked == [{"prompt": prompt, "depth": 2}]


def test_a_model_passed_as_an_object_is_no_text_that_loads_it() -> None:
    from workbench.models import TableLM

    table = TableLM([[0.5, 0.5], [0.9, 0.1]])
    system = systems.get("rsd")(target=table, draft=table, prompt=[0])
    assert {"target", "draft"} <= set(link.left_out(system))
    code = link.python(system)
    assert "target = ...  # the object that you passed (TableLM)" in code
    assert "target=target, draft=draft" in code.replace("prompt=[0], ", "")
    assert "# target: the object that you passed (TableLM) has no spelling here; use the Python call" in link.command(system)
    assert "--target" not in link.command(system)
