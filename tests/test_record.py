"""Records: an exact round trip, whatever they hold, and a clear refusal of everything that is not one."""

from __future__ import annotations

import errno
import json
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from workbench import schema
from workbench.errors import InputError, RecordError, StorageError, UnknownNameError, WorkbenchError
from workbench.record import Record

ATTRS: dict[str, Any] = {
    "system": "toy",
    "knobs": {"prompt": "π ≈ 3"},
    "seed": 0,
    "created": "2026-01-01T00:00:00+00:00",
    "versions": {"python": "3.11"},
    "device": "a processor",
    "kernels": {},
    "workbench_version": "0.1.0",
    "schema_version": schema.SCHEMA_VERSION,
}


def curve(n: int = 3) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(n)
    y = rng.normal(size=n)
    return {"curve": np.array(["a"] * n, object), "x": np.arange(n) + 0.1, "y": y, "y_low": y - np.inf, "y_high": y * np.nan}


def text(pieces: list[str]) -> dict[str, np.ndarray]:
    n = len(pieces)
    return {
        "token_id": np.arange(n),
        "piece": np.array(pieces, object),
        "generated": np.ones(n, bool),
        "step": np.full(n, -1),
        "source": np.array(["prompt"] * n, object),
    }


def record(**groups: dict[str, np.ndarray]) -> Record:
    return Record.from_columns(groups or {"curve": curve()}, ATTRS, {"curve": {"x_label": "step"}} if not groups else None)


def assert_same(a: Record, b: Record) -> None:
    """Bits, not values: NaN payloads, -0.0 and dtypes included."""
    assert a.groups == b.groups
    assert a.attrs == b.attrs
    for group in a.groups:
        assert a[group].attrs == b[group].attrs
        for name, variable in a[group].variables.items():
            other = b[group].variables[name]
            assert (variable.dims, variable.dtype, variable.attrs) == (other.dims, other.dtype, other.attrs)
            if variable.dtype == object:
                assert variable.values.tolist() == other.values.tolist()
            else:
                assert variable.values.tobytes() == other.values.tobytes()


@pytest.mark.parametrize(
    "made",
    [
        record,
        lambda: record(curve=curve(0)),
        lambda: record(text=text(["", " ", "␣\n", "naïve", "𝔘", "مرحبا", "\x00", "a" * 5000])),
        lambda: record(**{"text": text([]), "curve/width": curve(1), "curve/latency": curve(7)}),
        lambda: Record.from_columns({}, ATTRS),
        lambda: record(samples={"token_id": np.zeros((3, 0), int)}, maps={"depth_true": np.full((5, 7), np.nan, np.float32)}),
    ],
)
def test_round_trip_is_exact(made: Callable[[], Record], tmp_path: Path) -> None:
    first = made()
    second = Record.load(first.save(tmp_path / "a.zarr.zip"))
    assert_same(first, second)
    assert first.equals(second)
    again = second.save(tmp_path / "b.zarr.zip")
    assert again.read_bytes() == (tmp_path / "a.zarr.zip").read_bytes(), "a loaded record saves to the same bytes"


@settings(max_examples=15, deadline=None)
@given(
    y=hnp.arrays(np.float64, st.integers(0, 9), elements=st.floats(allow_nan=True, allow_infinity=True)),
    words=st.lists(st.text(max_size=6).filter(lambda t: t.isprintable()), max_size=5),
)
def test_round_trip_of_anything(y: np.ndarray, words: list[str], tmp_path_factory: pytest.TempPathFactory) -> None:
    columns = {"curve": np.array(["c"] * len(y), object), "x": y, "y": y, "y_low": y, "y_high": y}
    first = record(curve=columns, text=text(words))
    assert_same(first, Record.load(first.save(tmp_path_factory.mktemp("r") / "a.zarr.zip")))


def test_values_survive_and_have_units(tmp_path: Path) -> None:
    loaded = Record.load(record(text=text(["a", "b"])).save(tmp_path / "a.zarr.zip"))
    np.testing.assert_array_equal(loaded["text"]["token_id"], [0, 1])
    assert loaded["text"]["token_id"].attrs["units"] == "token id"
    assert loaded.knobs == {"prompt": "π ≈ 3"}


def test_file_is_one_zip_without_duplicates(tmp_path: Path) -> None:
    path = record().save(tmp_path / "a.zarr.zip")
    names = zipfile.ZipFile(path).namelist()
    assert len(names) == len(set(names))
    assert os.listdir(tmp_path) == ["a.zarr.zip"]


def test_a_saved_file_may_be_read_by_whom_any_new_file_may(tmp_path: Path) -> None:
    (tmp_path / "plain").touch()
    assert record().save(tmp_path / "a.zarr.zip").stat().st_mode == (tmp_path / "plain").stat().st_mode


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9, 0.999])
def test_truncated_file_is_refused(share: float, tmp_path: Path) -> None:
    path = record().save(tmp_path / "a.zarr.zip")
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(RecordError, match="not a whole Workbench record"):
        Record.load(path)


def test_every_flipped_byte_is_seen_or_harmless(tmp_path: Path) -> None:
    """A damaged file is an error of ours, or reads as what was saved; it never reads as something else."""
    first = record()
    data = bytearray(first.save(tmp_path / "a.zarr.zip").read_bytes())
    for position in range(0, len(data), 61):
        damaged = data.copy()
        damaged[position] ^= 0xFF
        try:
            loaded = Record.from_bytes(bytes(damaged))
        except WorkbenchError:
            continue
        assert_same(first, loaded)


def _members(source: Record, tmp_path: Path) -> dict[str, bytes]:
    path = source.save(tmp_path / "source.zarr.zip")
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def _pack(members: dict[str, bytes], path: Path) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


def test_newer_schema_is_refused(tmp_path: Path) -> None:
    members = _members(record(), tmp_path)
    root = json.loads(members["zarr.json"])
    root["attributes"]["schema_version"] = schema.SCHEMA_VERSION + 1
    path = _pack(members | {"zarr.json": json.dumps(root).encode()}, tmp_path / "newer.zarr.zip")
    with pytest.raises(RecordError, match=r"version 1 or older, got version 2.*newer Workbench"):
        Record.load(path)


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"readme.txt": b"hello"}, "not a Workbench record"),
        ({}, "not a Workbench record"),
        ({"zarr.json": b"not json"}, "damaged"),
        ({"zarr.json": b"[]"}, "damaged"),
        ({"zarr.json": b'{"zarr_format": 3, "codecs": [7]}'}, "damaged"),
        ({"zarr.json": b'{"zarr_format": 2}'}, "Only records written by Workbench"),
        ({"zarr.json": b'{"zarr_format": 3, "node_type": "group", "attributes": {}}'}, "record attributes"),
    ],
)
def test_foreign_zip_is_refused(members: dict[str, bytes], message: str, tmp_path: Path) -> None:
    with pytest.raises(RecordError, match=message):
        Record.load(_pack(members, tmp_path / "foreign.zip"))


@pytest.mark.parametrize("codec", ["numcodecs.pickle", "pickle", "sharding_indexed", "numcodecs.json2"])
def test_codec_outside_the_list_is_refused_before_decoding(codec: str, tmp_path: Path) -> None:
    members = _members(record(), tmp_path)
    name = "curve/y/zarr.json"
    meta = json.loads(members[name])
    meta["codecs"].append({"name": codec, "configuration": {}})
    with pytest.raises(RecordError, match=f"curve/y.*{codec}.*Only records written by Workbench"):
        Record.load(_pack(members | {name: json.dumps(meta).encode()}, tmp_path / "unsafe.zarr.zip"))


def test_missing_file_and_folder(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="No such file"):
        Record.load(tmp_path / "none.zarr.zip")
    with pytest.raises(StorageError, match="Is a directory"):
        Record.load(tmp_path)
    with pytest.raises(StorageError, match=r"No such file or directory.*Choose another folder"):
        record().save(tmp_path / "none" / "a.zarr.zip")


def _full(*_: Any, **__: Any) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("place", ["os.fsync", "os.replace", "zipfile.ZipFile.writestr"])
def test_full_disk_keeps_the_old_file_and_leaves_no_partial(place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = record().save(tmp_path / "a.zarr.zip")
    before = path.read_bytes()
    monkeypatch.setattr(place, _full)
    with pytest.raises(StorageError, match=r"No space left on device.*free some space"):
        record(curve=curve(9)).save(path)
    monkeypatch.undo()
    assert os.listdir(tmp_path) == ["a.zarr.zip"]
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.pop("y"), "a variable 'y'"),
        (lambda c: c.update(y=np.zeros((3, 2))), "dim"),
    ],
)
def test_what_does_not_fit_the_schema_is_named(change: Callable[[dict[str, Any]], Any], message: str) -> None:
    columns = curve()
    change(columns)
    with pytest.raises((RecordError, ValueError), match=message):
        record(curve=columns)


def test_unknown_names_give_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="'curve'"):
        record()["curv"]
    with pytest.raises(UnknownNameError, match=r"Did you mean 'curve\.y'"):
        record().column("curve", "yy")
    with pytest.raises(InputError, match="expected one of a sweep"):
        record().at(0)
    with pytest.raises(RecordError, match="Did you mean 'curve'"):
        record(cruve=curve())


def test_group_and_subgroup_of_other_size_is_an_error_of_ours() -> None:
    with pytest.raises(RecordError, match="do not fit together"):
        record(**{"curve": curve(1), "curve/latency": curve(7)})


def test_schema_page_is_the_generated_one() -> None:
    page = Path(schema.__file__).with_name("schema.md").read_text("utf-8")
    assert page == schema.markdown(), "write it again: python -m workbench.schema > workbench/schema.md"


@pytest.mark.parametrize("version", ["abc", None, 1.9, 0, True])
def test_a_strange_schema_version_is_refused(version) -> None:
    made = record()
    made.tree.attrs["schema_version"] = version
    with pytest.raises(RecordError, match="schema_version"):
        made.validate()


@pytest.mark.parametrize("name", ["knobs", "versions", "kernels"])
def test_attributes_that_are_not_json_are_refused(name) -> None:
    made = record()
    made.tree.attrs[name] = "{oops"
    with pytest.raises(RecordError, match=name):
        made.validate()


@pytest.mark.parametrize("path", [None, 7, "", "a\0b"])
def test_what_is_no_path_is_refused(path) -> None:
    with pytest.raises(WorkbenchError, match="name of a file"):
        Record.load(path)
    with pytest.raises(WorkbenchError, match="name of a file"):
        record().save(path)


def test_an_interrupted_save_leaves_nothing_half_written(tmp_path, monkeypatch) -> None:
    from workbench import record as module

    def interrupted(stream, blobs) -> None:
        stream.write(b"PK")
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "write_zip", interrupted)
    with pytest.raises(KeyboardInterrupt):
        record().save(tmp_path / "run.zarr.zip")
    assert not list(tmp_path.iterdir())
