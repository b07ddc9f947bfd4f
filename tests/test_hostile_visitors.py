"""Whatever a browser, a link or an upload sends: the page answers with a sentence, never with a traceback, and asks nothing unbounded."""

from __future__ import annotations

import base64
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.ui.walk import Walk
from widgets import compare, controls, link
from widgets.shelf import Shelf, is_key, new_key
from workbench import system as systems
from workbench.cli import parse_knobs
from workbench.errors import InputError, UnknownNameError
from workbench.record import Record
from workbench.system import System
from workbench.tape import Tape

SYSTEMS = [entry.load() for entry in systems.registry().values() if not entry.error]


@pytest.mark.parametrize("visitor", ["", "..", "../../x", "0" * 31, "0" * 33, "G" * 32, "/" * 32])
def test_a_shelf_is_named_by_a_key_of_ours_only(visitor: str) -> None:
    assert not is_key(visitor)
    with pytest.raises(InputError, match="32 hexadecimal digits"):
        Shelf(visitor)


def test_a_visitor_reaches_only_their_own_shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORKBENCH_DATA", str(tmp_path))
    mine, yours = Shelf(new_key()), Shelf(new_key())
    kept = mine.keep(Walk(length=3, walkers=10).record(Tape()), "mine", "a note")
    assert [r.name for r in mine.runs()] == ["mine"]
    assert yours.runs() == []
    for key in (kept.key, f"../{mine.place.name}/{kept.key}", "x"):
        for act in (yours.record, yours.data, yours.delete, lambda k: yours.rename(k, name="yours")):
            with pytest.raises(UnknownNameError, match="on your shelf"):
                act(key)
    assert mine.record(kept.key).equals(mine.record(kept.key))


def test_a_full_shelf_and_a_large_file_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from widgets import shelf

    monkeypatch.setenv("WORKBENCH_DATA", str(tmp_path))
    record, mine = Walk(length=3, walkers=10).record(Tape()), Shelf(new_key())
    monkeypatch.setattr(shelf, "MAX_RUNS", 1)
    mine.keep(record)
    with pytest.raises(InputError, match="holds 1 runs already"):
        mine.keep(record)
    monkeypatch.setattr(shelf, "MAX_RUNS", 60)
    monkeypatch.setattr(shelf, "MAX_BYTES", 100)
    for act in (lambda: mine.keep(record), lambda: mine.upload(b"x" * 101, "large")):
        with pytest.raises(InputError, match="at most 0 MB"):
            act()
    assert len(list(mine.place.glob("*.zip"))) == 1


def test_new_keys_from_one_address_share_its_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from widgets import shelf

    monkeypatch.setenv("WORKBENCH_DATA", str(tmp_path))
    record = Walk(length=3, walkers=10).record(Tape())
    size = Shelf(new_key()).keep(record).size
    monkeypatch.setattr(shelf, "max_from_address", 2 * size + size // 2)
    mine = Shelf(new_key(), "10.0.0.1")
    first = mine.keep(record)
    Shelf(new_key(), "10.0.0.1").keep(record)
    with pytest.raises(InputError, match="at most 0 MB from one address, got more"):
        Shelf(new_key(), "10.0.0.1").keep(record)
    np.testing.assert_equal(len(list(tmp_path.glob("runs/*/*.zip"))), 3)
    Shelf(new_key(), "10.0.0.2").keep(record)
    mine.delete(first.key)
    Shelf(new_key(), "10.0.0.1").keep(record)


def test_a_kill_between_the_two_files_of_a_kept_run_loses_nothing_that_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORKBENCH_DATA", str(tmp_path))
    record, mine = Walk(length=3, walkers=10).record(Tape()), Shelf(new_key())
    first = mine.keep(record, "first")
    with monkeypatch.context() as patch:
        patch.setattr(Shelf, "_write", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            mine.keep(record, "cut")
    (mine.place / ".half.partial").write_bytes(b"half")
    (mine.place / f"{new_key()}.json").write_text("{not json")
    assert [r.name for r in Shelf(mine.place.name).runs()] == ["first"]
    assert Shelf(mine.place.name).record(first.key).equals(record)


def test_pieces_of_an_upload_that_do_not_fit_are_refused() -> None:
    state: dict[str, Any] = {}
    piece = base64.b64encode(b"abc").decode()
    assert compare.assembled(state, {"index": 0, "count": 2, "data": piece}) is None
    assert compare.assembled(state, {"index": 1, "count": 2, "data": piece}) == b"abcabc"
    for wrong in (
        {"index": 1, "count": 2},
        {"index": 0, "count": 1000},
        {"index": -1, "count": 1},
        {"index": 0, "count": 1, "data": "*"},
        {},
    ):
        with pytest.raises(InputError, match="upload"):
            compare.assembled(state, {"data": piece} | wrong)
    with pytest.raises(InputError, match="one megabyte"):
        compare.assembled(state, {"index": 0, "count": 1, "data": base64.b64encode(b"x" * (compare.CHUNK + 1)).decode()})


def piece_of(index: int, count: int, size: int) -> dict[str, Any]:
    return {"index": index, "count": count, "data": base64.b64encode(b"x" * size).decode()}


def test_uploads_of_all_visitors_share_one_room_and_one_that_stands_still_gives_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compare, "MOST_OPEN", 250)
    monkeypatch.setattr(compare, "_open", {})
    now = [0.0]
    monkeypatch.setattr(compare.time, "monotonic", lambda: now[0])
    first, second, third = {}, {}, {}
    for state in (first, second):
        assert compare.assembled(state, piece_of(0, 2, 100)) is None
    with pytest.raises(InputError, match="expected room beside the uploads of others"):
        compare.assembled(third, piece_of(0, 2, 100))
    assert compare.assembled(second, piece_of(1, 2, 40)) == b"x" * 140  # whole: its room is free again
    assert compare.assembled(third, piece_of(0, 2, 100)) is None
    now[0] = compare.STILL_S + 1
    assert compare.assembled(second, piece_of(0, 3, 100)) is None  # the first has stood still and gives way
    with pytest.raises(InputError, match="Choose it again"):
        compare.assembled(first, piece_of(1, 2, 100))


def test_a_flood_of_messages_is_bounded_in_number_and_in_bytes() -> None:
    from widgets import turns

    held, line, done = turns.WAITING.taken, turns.Turns(), []

    def outer() -> None:  # while an act goes on, what is asked waits
        for i in range(turns.MOST_WAITING):
            assert line.ask(lambda i=i: done.append(i), 1000)
        assert not line.ask(lambda: done.append(-1), 1000)
        assert turns.WAITING.taken == held + turns.MOST_WAITING * 1000

    assert line.ask(outer)
    assert done == list(range(turns.MOST_WAITING))
    assert turns.WAITING.taken == held
    assert not line.ask(lambda: done.append(-1), turns.MOST_BYTES + 1)
    assert -1 not in done

    def closing() -> None:
        line.ask(lambda: done.append(-1), 1000)
        line.close()

    line.ask(closing)
    assert turns.WAITING.taken == held
    assert -1 not in done


def test_a_page_that_is_flooded_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    from widgets import messages, turns

    page = compare.Compare()
    monkeypatch.setattr(turns, "MOST_WAITING", 0)
    page._heard({"kind": "theme", "theme": "dark"})
    assert page.list.message == messages.TOO_MUCH
    assert messages.size_of({"kind": "live", "name": "abc", "values": {"image": "x" * 500, "tau": 0.5}}) == 507


def test_a_public_page_takes_no_more_tokens_than_its_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(controls, "max_tokens", 16)
    counted = [
        (cls, n) for cls in SYSTEMS for n, k in cls.knobs().items() if k.unit == "tokens" and k.bounds and k.bounds[1] > 20
    ]
    assert counted
    for cls, name in counted:
        with pytest.raises(InputError, match="at most"):
            controls.read(cls(), name, 20, public=True)


@pytest.mark.parametrize("cls", SYSTEMS, ids=lambda cls: cls.key)
def test_copied_commands_and_links_bring_every_preset_back(cls: type[System]) -> None:
    for values in cls.presets.values():
        made = cls(**values)
        words = shlex.split(link.command(made))
        assert words[:3] == ["workbench", "run", cls.key]
        assert words[-2:] == ["--out", "run.zarr.zip"]
        np.testing.assert_equal(cls(**parse_knobs(cls, words[3:-2])).values(), made.values())
        scope: dict[str, Any] = {}
        call = link.python(made).splitlines()[-1].removeprefix("record = wb.run")
        exec(f"found = (lambda name, **knobs: knobs){call}", scope)  # our own line, read back
        np.testing.assert_equal(cls(**scope["found"]).values(), made.values())


@pytest.mark.parametrize("cls", SYSTEMS, ids=lambda cls: cls.key)
def test_every_value_that_a_page_offers_to_sweep_is_one_that_the_knob_takes(cls: type[System]) -> None:
    offered = {spec["name"]: spec["sweep"] for spec in controls.spec(cls) if spec["sweep"]}
    assert offered, "no knob of this system can be swept"
    for name, values in offered.items():
        if len(values) > 1:
            np.testing.assert_equal(len(controls.read_values(cls(), name, ", ".join(values), public=True)), len(values))


def test_a_kept_record_says_what_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORKBENCH_DATA", str(tmp_path))
    kept = Shelf(new_key()).keep(
        Record.from_bytes(Walk(length=3, walkers=10).record(Tape()).save(tmp_path / "a.zip").read_bytes())
    )
    assert kept.system == "walk"
    assert kept.size > 0
