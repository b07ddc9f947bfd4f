"""Anything at all, sent to knobs, links, messages, uploads and record files: only documented errors, and the page lives on.

500 cases of each here; `make nightly` runs 10,000 (`WORKBENCH_FUZZ=nightly`).
"""

from __future__ import annotations

import base64
import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.test_hostile_records import changed, members, put
from tests.toy import Toy
from tests.ui.walk import VIEWS, Walk
from widgets import bench, compare, controls, link, worker
from widgets.shelf import Shelf, new_key
from workbench import system as systems
from workbench import views
from workbench.errors import WorkbenchError
from workbench.record import Record
from workbench.system import PictureInput, System
from workbench.tape import Tape

CASES = 10_000 if os.environ.get("WORKBENCH_FUZZ") == "nightly" else 500
SYSTEMS = [entry.load() for entry in systems.registry().values() if not entry.error]
cases = settings(
    max_examples=CASES,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)
pytestmark = pytest.mark.timeout(3600 if CASES > 500 else 600)

_TEXT = st.text(max_size=60) | st.sampled_from(["auto", "none", "nan", "1e400", "-1e400", "[1, 2]", "[[[[", "{}", "../../etc/passwd", "/etc/passwd", "~root", "data:image/png;base64,AAAA", "data:image/png;base64,*", "true", "9" * 400, "\0", "<script>", "a" * 9000])  # fmt: skip
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | _TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
#: Places of a file to overwrite, and the bytes to put there.
_EDITS = st.lists(st.tuples(st.integers(0, 1 << 20), st.integers(0, 255)), max_size=12)


def edited(data: bytes, edits: list[tuple[int, int]], cut: int) -> bytes:
    raw = bytearray(data)
    for place, value in edits:
        raw[place % len(raw)] = value
    return bytes(raw[: len(raw) - cut % len(raw)])


# ---- knobs and links -------------------------------------------------------------------------------------------------


@cases
@given(system=st.sampled_from(SYSTEMS), index=st.integers(0, 60), raw=_JSON)
def test_any_value_of_any_knob_is_taken_or_refused_with_a_sentence(system: type[System], index: int, raw: Any) -> None:
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


@st.composite
def links(draw: Any) -> tuple[type[System], str]:
    system = draw(st.sampled_from(SYSTEMS))
    names = st.sampled_from(system.knob_names()) | st.text(max_size=10)
    pairs = draw(st.lists(st.tuples(names, _TEXT), max_size=3))
    clean = draw(st.booleans())
    utf8 = [(n.encode("utf-8", "replace").decode(), v.encode("utf-8", "replace").decode()) for n, v in pairs]
    return system, "?" + "&".join(f"{quote(n)}={quote(v)}" if clean else f"{n}={v}" for n, v in utf8)


@cases
@given(case=links())
def test_any_link_opens_a_page_whose_own_link_brings_it_back(case: tuple[type[System], str]) -> None:
    system, search = case
    made, again = system(), system()
    _, notes = link.restore(made, search, public=True)
    assert all(isinstance(note, str) and note for note in notes)
    _, notes = link.restore(again, link.query(made, {}), public=True)
    kept = {n: v for n, v in made.values().items() if n not in link.left_out(made)}
    np.testing.assert_equal({n: again.values()[n] for n in kept}, kept)


# ---- messages --------------------------------------------------------------------------------------------------------


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


def messages(kinds: list[str], fields: list[str]) -> Any:
    known = st.dictionaries(st.sampled_from(fields), _JSON, max_size=4)
    return st.builds(lambda kind, more: more | {"kind": kind}, st.sampled_from(kinds), known)


def send(page: Any, message: dict[str, Any]) -> None:
    page._say("")
    page._heard(message)
    text = page.header.message if hasattr(page, "header") else page.list.message
    assert "Traceback" not in text
    assert "Something went wrong inside" not in text


_KINDS = ["live", "settle", "preset", "theme", "step", "click", "zoom", "words", "tab", "sweep", "close", "hello", "keep", "download", "run", "cancel", "painted", "", "__init__"]  # fmt: skip
_FIELDS = ["values", "name", "theme", "step", "custom", "place", "x", "y", "index", "knob", "visitor", "what", "seq"]


@cases
@given(message=messages(_KINDS, _FIELDS))
def test_any_message_leaves_the_page_alive(walk: bench.Bench, message: dict[str, Any]) -> None:
    send(walk, message)


_COMPARED = ["choose", "rename", "delete", "download", "upload", "theme", "tab", "step", "hello"]
_COMPARED_FIELDS = ["keys", "key", "name", "note", "index", "count", "data", "step", "theme", "visitor"]


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[compare.Compare, Path]]:
    patch, place = pytest.MonkeyPatch(), tmp_path_factory.mktemp("data")
    patch.setenv("WORKBENCH_DATA", str(place))
    yield compare.Compare(), place
    patch.undo()


@cases
@given(message=messages(_COMPARED, _COMPARED_FIELDS))
def test_any_message_leaves_the_page_that_compares_alive(compared: tuple[compare.Compare, Path], message: dict[str, Any]) -> None:
    page, place = compared
    page._heard({"kind": "hello", "visitor": "0" * 32})
    send(page, message)
    assert {p.name for p in place.iterdir()} <= {"runs"}, "something was written outside the shelf"


# ---- files -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return Toy(steps=4).record(Tape()).save(tmp_path_factory.mktemp("good") / "toy.zarr.zip").read_bytes()


@cases
@given(edits=_EDITS, cut=st.integers(0, 1 << 16))
def test_any_bytes_are_a_record_or_a_sentence(good: bytes, edits: list[tuple[int, int]], cut: int) -> None:
    sentence = "."
    try:
        Record.from_bytes(edited(good, edits, cut % 4 if cut % 3 else cut)).validate()
    except WorkbenchError as error:
        sentence = str(error)
    assert sentence.endswith((".", ")"))


_META = st.sampled_from(["shape", "chunk_grid", "data_type", "codecs", "fill_value", "attributes", "dimension_names", "node_type", "zarr_format", "chunk_key_encoding"])  # fmt: skip
_PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@cases
@given(member=st.integers(0, 99), field=_META, value=_PLAIN)
def test_any_metadata_is_a_record_or_a_sentence(good: bytes, member: int, field: str, value: Any) -> None:
    names = sorted(m for m in members(good) if m.endswith("zarr.json"))
    try:
        Record.from_bytes(changed(good, put(**{field: value}), names[member % len(names)]))
    except WorkbenchError:
        return


@cases
@given(edits=_EDITS, cut=st.integers(0, 3), name=_TEXT)
def test_any_upload_is_kept_whole_or_leaves_nothing(
    good: bytes, edits: list[tuple[int, int]], cut: int, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORKBENCH_DATA", str(tmp_path))
    shelf = Shelf(new_key())
    try:
        kept = shelf.upload(edited(good, edits, cut), name)
    except WorkbenchError:
        assert not list(shelf.place.glob("*")) if shelf.place.exists() else True
        return
    assert shelf.record(kept.key).groups
    assert "/" not in kept.key
    assert {p.name for p in tmp_path.iterdir()} == {"runs"}
    shelf.delete(kept.key)


@pytest.fixture(scope="module")
def photos() -> list[bytes]:
    from PIL import Image

    found = []
    for kind in ("PNG", "JPEG", "WEBP", "BMP"):
        stream = io.BytesIO()
        Image.fromarray(np.random.default_rng(0).integers(0, 255, (12, 16, 3), dtype=np.uint8)).save(stream, kind)
        found.append(stream.getvalue())
    return found


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning", "ignore::UserWarning:PIL")
@cases
@given(which=st.integers(0, 3), edits=_EDITS, cut=st.integers(0, 200))
def test_any_picture_is_taken_or_refused_with_a_sentence(
    photos: list[bytes], which: int, edits: list[tuple[int, int]], cut: int
) -> None:
    takes = [(cls, n) for cls in SYSTEMS for n, k in cls.knobs().items() if isinstance(k.parameter, PictureInput)]
    cls, name = takes[which % len(takes)]
    sentence = "."
    data = base64.b64encode(edited(photos[which], edits, cut)).decode()
    try:
        pixels = controls.read(cls(), name, f"data:image/png;base64,{data}", public=True)
    except WorkbenchError as error:
        sentence = str(error)
    else:
        assert pixels.ndim == 3
        assert 0 <= pixels.min() <= pixels.max() <= 1
    assert sentence.endswith(".")
