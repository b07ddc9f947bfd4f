"""What a page keeps of a run whose live knobs have moved since: no browser needed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from widgets.bench import Bench
from widgets.controls import kind
from widgets.recorded import recorded_run, ships_run
from widgets.shelf import Shelf, new_key
from workbench import system as systems
from workbench.record import Record

KEYS = [key for key, entry in systems.registry().items() if not entry.error and ships_run(key)]


def meters(record: Record | None) -> dict[str, tuple[float, str]]:
    assert record is not None
    names = (record.column("meters", n) for n in ("meter", "value", "provenance"))
    return {str(m): (float(v), str(p)) for m, v, p in zip(*names, strict=True)}


def same(found: dict[str, tuple[float, str]], wanted: dict[str, tuple[float, str]]) -> None:
    assert {m: p for m, (_, p) in found.items()} == {m: p for m, (_, p) in wanted.items()}
    np.testing.assert_allclose([v for v, _ in found.values()], [v for v, _ in wanted.values()], rtol=1e-5)


def far(system: systems.System, name: str) -> float:
    """Return the end of a slider that is farther from where it stands."""
    low, high = system.knobs()[name].bounds or (0, 1)
    here = getattr(system, name)
    return low if here - low > high - here else high


@pytest.mark.parametrize("key", KEYS)
def test_a_kept_run_is_the_run_itself_and_opens_as_it_was_left(key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORKBENCH_DATA", str(tmp_path))
    page = Bench(systems.get(key)())
    run, visitor = meters(page.record), new_key()
    sliders = [
        n
        for n, info in page.system.knobs().items()
        if info.live and kind(info) == "range" and getattr(page.system, n) is not None
    ]
    if not sliders:
        pytest.skip("no live slider")
    before = {name: getattr(page.system, name) for name in sliders[:2]}
    page._heard({"kind": "hello", "visitor": visitor})
    for name in before:
        page._heard({"kind": "live", "values": {name: far(page.system, name)}})
    page._heard({"kind": "keep", "name": "left here"})
    (kept,) = Shelf(visitor).runs()
    same(meters(Shelf(visitor).record(kept.key)), meters(recorded_run(key)))
    again = Bench(systems.get(key)())
    again._wanted = kept.key
    again._heard({"kind": "hello", "visitor": visitor})
    assert {n: getattr(again.system, n) for n in before} == {n: getattr(page.system, n) for n in before}
    same(meters(again.record), meters(page.record))
    for name, value in before.items():
        again._heard({"kind": "live", "values": {name: value}})
    same(meters(again.record), run)
    page.close()
    again.close()
