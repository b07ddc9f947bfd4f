"""Whatever a browser, a link or an upload sends: the page answers with a sentence, never with a traceback, and asks nothing unbounded."""

from __future__ import annotations

import base64
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.ui.walk import VIEWS, Walk
from widgets import bench, compare, controls, link, worker
from widgets.shelf import Shelf, is_key, new_key
from workbench import system as systems
from workbench import views
from workbench.cli import parse_knobs
from workbench.errors import InputError, UnknownNameError, WorkbenchError
from workbench.record import Record
from workbench.system import System
from workbench.tape import Tape

CASES, MANY = 500, 10_000
_SLOW = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large]
SYSTEMS = [entry.load() for entry in systems.registry().values() if not entry.error]

_TEXT = st.text(max_size=60) | st.sampled_from(["auto", "none", "nan", "1e400", "-1e400", "[1, 2]", "[[[[", "{}", "../../etc/passwd", "/etc/passwd", "~root", "data:image/png;base64,AAAA", "data:image/png;base64,*", "true", "9" * 400, "\0", "<script>", "a" * 9000])  # fmt: skip
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | _TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


def fuzz_knob(system: type[System], index: int, raw: Any) -> None:
    """Send anything to a knob as a visitor does: it is taken within its limits, or refused with a sentence."""
    made = system()
    name = made.knob_names()[index % len(made.knob_names())]
    sentence = "."
    try:
        made.set(**{name: controls.read(made, name, raw, public=True)})
    except WorkbenchError as error:
        sentence = str(error)
    assert sentence.endswith(".")
    value, limit = getattr(made, name), made.limits.get(name)
    if limit is not None and isinstance(value, (int, float)):
        assert value <= max(limit, system.knobs()[name].default or 0)


knob_cases = given(system=st.sampled_from(SYSTEMS), index=st.integers(0, 60), raw=_JSON)


@settings(max_examples=CASES, deadline=None, suppress_health_check=_SLOW)
@knob_cases
def test_any_value_of_any_knob_is_taken_or_refused_with_a_sentence(system: type[System], index: int, raw: Any) -> None:
    fuzz_knob(system, index, raw)


@pytest.mark.long
@settings(max_examples=MANY, deadline=None, suppress_health_check=_SLOW)
@knob_cases
def test_any_value_of_any_knob_ten_thousand_times(system: type[System], index: int, raw: Any) -> None:
    fuzz_knob(system, index, raw)


def fuzz_link(system: type[System], search: str) -> None:
    """Open a page by any address: what cannot be used is said, the rest holds, and the page's own link brings it back."""
    made = system()
    _, notes = link.restore(made, search, public=True)
    assert all(isinstance(note, str) and note for note in notes)
    again = system()
    _, notes = link.restore(again, link.query(made, {}), public=True)
    long = [
        n for n, v in made.values().items() if len(controls.spell(v)) > link.MAX_LINK or str(v).startswith(systems.OWN_PICTURE)
    ]
    kept = {n: v for n, v in made.values().items() if n not in long}
    np.testing.assert_equal({n: again.values()[n] for n in kept}, kept)


@st.composite
def links(draw: Any) -> tuple[type[System], str]:
    from urllib.parse import quote

    system = draw(st.sampled_from(SYSTEMS))
    names = st.sampled_from(system.knob_names()) | st.text(max_size=10)
    pairs = draw(st.lists(st.tuples(names, _TEXT), max_size=5))
    clean = draw(st.booleans())
    utf8 = [(n.encode("utf-8", "replace").decode(), v.encode("utf-8", "replace").decode()) for n, v in pairs]
    return system, "?" + "&".join(f"{quote(n)}={quote(v)}" if clean else f"{n}={v}" for n, v in utf8)


@settings(max_examples=CASES, deadline=None, suppress_health_check=_SLOW)
@given(case=links())
def test_any_link_opens_a_page(case: tuple[type[System], str]) -> None:
    fuzz_link(*case)


@pytest.mark.long
@settings(max_examples=MANY, deadline=None, suppress_health_check=_SLOW)
@given(case=links())
def test_any_link_opens_a_page_ten_thousand_times(case: tuple[type[System], str]) -> None:
    fuzz_link(*case)


@pytest.fixture(scope="module")
def walk() -> Iterator[bench.Bench]:
    """A page outside a browser that shows a run; nothing it is told starts one."""
    patch = pytest.MonkeyPatch()
    patch.setattr(views, "registry", lambda: VIEWS)
    patch.setattr(bench, "recorded_run", lambda key: Walk(length=3, walkers=10).record(Tape()))
    patch.setattr(worker, "QUEUE", worker.RunQueue(waiting=0))
    page = bench.Bench(Walk())
    page._public = True
    yield page
    page.close()
    patch.undo()


_KINDS = st.sampled_from(["live", "settle", "preset", "theme", "step", "click", "zoom", "words", "tab", "sweep", "close", "hello", "keep", "download", "run", "cancel", "painted", "", "__init__"])  # fmt: skip
_MESSAGES = st.builds(
    lambda kind, fields: fields | {"kind": kind},
    _KINDS,
    st.dictionaries(st.sampled_from(["values", "name", "theme", "step", "custom", "place", "x", "y", "index", "knob", "visitor", "what", "seq"]), _JSON, max_size=4),
)  # fmt: skip


def fuzz_message(page: Any, message: dict[str, Any]) -> None:
    page._say("")
    page._heard(message)
    text = page.header.message if hasattr(page, "header") else page.list.message
    assert "Traceback" not in text
    assert "Something went wrong inside" not in text


@settings(max_examples=CASES, deadline=None, suppress_health_check=_SLOW)
@given(message=_MESSAGES)
def test_any_message_leaves_the_page_alive(walk: bench.Bench, message: dict[str, Any]) -> None:
    fuzz_message(walk, message)


@pytest.mark.long
@settings(max_examples=MANY, deadline=None, suppress_health_check=_SLOW)
@given(message=_MESSAGES)
def test_any_message_leaves_the_page_alive_ten_thousand_times(walk: bench.Bench, message: dict[str, Any]) -> None:
    fuzz_message(walk, message)


_COMPARED = st.builds(
    lambda kind, fields: fields | {"kind": kind},
    st.sampled_from(["choose", "rename", "delete", "download", "upload", "theme", "tab", "step", "hello"]),
    st.dictionaries(st.sampled_from(["keys", "key", "name", "note", "index", "count", "data", "step", "theme", "visitor"]), _JSON, max_size=4),
)  # fmt: skip


@settings(max_examples=CASES, deadline=None, suppress_health_check=_SLOW)
@given(message=_COMPARED)
def test_any_message_leaves_the_page_that_compares_alive(
    message: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORKBENCH_DATA", str(tmp_path))
    page = compare.Compare()
    page._heard({"kind": "hello", "visitor": "0" * 32})
    fuzz_message(page, message)
    assert {p.name for p in tmp_path.iterdir()} <= {"runs"}, "something was written outside the shelf"


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
