"""Files made to do harm are refused with a sentence, quickly and in little memory, before anything in them is decoded."""

from __future__ import annotations

import io
import json
import resource
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numcodecs import Zstd

import workbench as wb
from tests.toy import Toy
from workbench import schema, views
from workbench.errors import RecordError, WorkbenchError
from workbench.export import record_summary
from workbench.record import Record
from workbench.record_groups import build_tree
from workbench.tape import Tape

Y = "curve/draws/y/zarr.json"


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return Toy(steps=4).record(Tape()).save(tmp_path_factory.mktemp("good") / "toy.zarr.zip").read_bytes()


def members(data: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return {i.filename: archive.read(i) for i in archive.infolist()}


def packed(blobs: dict[str, bytes] | list[tuple[str, bytes]], compression: int = zipfile.ZIP_STORED) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", compression) as archive:
        for name, blob in blobs.items() if isinstance(blobs, dict) else blobs:
            archive.writestr(name, blob)
    return stream.getvalue()


def changed(data: bytes, change: Callable[[dict[str, Any]], Any], member: str = Y) -> bytes:
    blobs = members(data)
    meta = json.loads(blobs[member])
    change(meta)
    return packed(blobs | {member: json.dumps(meta).encode()})


def put(**fields: Any) -> Callable[[dict[str, Any]], Any]:
    return lambda meta: meta.update(fields)


def chunks(*shape: int) -> dict[str, Any]:
    return {"name": "regular", "configuration": {"chunk_shape": list(shape)}}


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (put(shape=[10**12]), "unpacks to more than|more than 100000 chunks"),
        (put(shape=[10**12], chunk_grid=chunks(10**12)), "unpacks to more than"),
        (put(shape=[2**70], chunk_grid=chunks(2**70)), "unpacks to more than"),
        (put(chunk_grid=chunks(10**12)), "unpacks to more than"),
        (put(shape=[10**7], chunk_grid=chunks(1)), "more than 100000 chunks"),
        (put(shape=[-1]), "describes no plain array"),
        (put(shape="4"), "describes no plain array"),
        (put(shape=[1] * 40, chunk_grid=chunks(*[1] * 40)), "more than 100000 chunks|describes no plain array"),
        (put(data_type="object"), "describes no plain array"),
        (put(data_type={"name": "numpy.datetime64"}), "describes no plain array"),
        (put(data_type="int8"), "more than its array holds|could not be decoded|dtype"),
        (put(data_type="complex128"), "describes no plain array"),
        (put(storage_transformers=[{"name": "x"}]), "Only records written by Workbench"),
        (put(codecs=[{"name": "gzip", "configuration": {"level": 1}}]), "Only records written by Workbench"),
        (put(codecs=[]), "could not be decoded|damaged"),
        (put(node_type="script"), "is not readable"),
        (put(attributes=[]), "is not readable"),
        (put(dimension_names=["position"]), "dims"),
        (put(dimension_names=[None]), "could not be decoded|dims"),
        (put(fill_value="x"), "could not be decoded"),
    ],
)  # fmt: skip
def test_metadata_that_lies_is_refused(good: bytes, change: Callable[[dict[str, Any]], Any], sentence: str) -> None:
    with pytest.raises(RecordError, match=sentence):
        Record.from_bytes(changed(good, change))


def test_a_zip_bomb_is_refused_in_little_memory(good: bytes) -> None:
    """50 MB of zeros in 50 kB, twelve times: 600 MB for whoever unpacks before looking."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, blob in members(good).items():
            archive.writestr(name, blob)
        for i in range(12):
            archive.writestr(f"curve/draws/y/c/{i + 9}", b"\0" * (50 << 20))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(RecordError, match="unpacks to more than 256 MiB"):
        Record.from_bytes(stream.getvalue(), max_bytes=256 << 20)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 << 10


def test_a_compressed_chunk_that_unpacks_to_gigabytes_is_refused(good: bytes) -> None:
    frame = b"\x28\xb5\x2f\xfd" + bytes([0xE0]) + (8 << 30).to_bytes(8, "little") + b"\x01\x00\x00"
    with pytest.raises(RecordError, match="a chunk unpacks to more than its array holds"):
        Record.from_bytes(packed(members(good) | {"curve/draws/y/c/0": frame}))
    with pytest.raises(RecordError, match="unpacks to more than"):
        Record.from_bytes(packed(members(good) | {"curve/draws/curve/c/0": frame}))
    unknown = b"\x28\xb5\x2f\xfd" + bytes([0x00, 0x58]) + b"\x01\x00\x00"
    with pytest.raises(RecordError, match="does not say its size"):
        Record.from_bytes(packed(members(good) | {"curve/draws/y/c/0": unknown}))


def test_a_chunk_that_announces_more_texts_than_it_holds_is_refused_in_little_memory(good: bytes) -> None:
    """The decoder makes room for as many texts as the first four bytes say: 480 MB for these."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for count in (0, 3, 60_000_000, 2**32 - 1):
        chunk = Zstd(1).encode(count.to_bytes(4, "little") + b"\x01\x00\x00\x00a" * 4)
        with pytest.raises(RecordError, match="another number of texts than it says"):
            Record.from_bytes(packed(members(good) | {"curve/draws/curve/c/0": chunk}))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50 << 10


def test_what_is_packed_twice_is_refused(good: bytes) -> None:
    def twice(meta: dict[str, Any]) -> None:
        meta["codecs"] = [*meta["codecs"], meta["codecs"][-1]]

    with pytest.raises(RecordError, match="is not readable"):
        Record.from_bytes(changed(good, twice))
    for kind in (zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        data = packed(members(good), kind)
        with pytest.raises(RecordError, match="was packed again"):
            Record.from_bytes(data)
        broken = bytearray(data)
        broken[120:140] = b"\xff" * 20
        with pytest.raises(RecordError):
            Record.from_bytes(bytes(broken))


@pytest.mark.parametrize("name", ["../evil", "curve/../../evil", "/etc/passwd", "..\\evil", "C:/evil"])
def test_names_that_leave_the_file_are_refused(good: bytes, name: str, tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="names a file outside itself"):
        Record.from_bytes(packed(members(good) | {name: b"x"}))


def test_a_member_twice_is_refused(good: bytes) -> None:
    with pytest.warns(UserWarning, match="Duplicate"):
        data = packed([*members(good).items(), ("zarr.json", b"{}")])
    with pytest.raises(RecordError, match="holds a member twice"):
        Record.from_bytes(data)


def test_metadata_of_endless_depth_is_refused(good: bytes) -> None:
    deep = b'{"zarr_format": 3, "node_type": "group", "attributes": ' + b'{"a":' * 100_000 + b"1" + b"}" * 100_001
    with pytest.raises(RecordError, match="is not readable"):
        Record.from_bytes(packed(members(good) | {"curve/zarr.json": deep}))


SCRIPT = "<script>alert(1)</script><img src=x onerror=alert(2)>"


def test_script_in_attributes_and_arrays_is_only_text(good: bytes, tmp_path: Path) -> None:
    """Whatever a stranger wrote into a record is shown as text, on the page, in the offline file and in a comparison."""

    def poisoned(value: str) -> Record:
        attrs = {"system": SCRIPT, "device": SCRIPT, "created": SCRIPT, "knobs": json.dumps({SCRIPT: value})}
        return Record.from_bytes(changed(good, lambda meta: meta["attributes"].update(attrs), "zarr.json"))

    record, other = poisoned(SCRIPT), poisoned("plain")
    shown = [record_summary(record), record._repr_html_(), wb.compare(record, other)._repr_html_()]
    if record.views():
        shown.append(record.html(tmp_path / "a.html").read_text(encoding="utf-8").split("<script>", 1)[0])
    for text in shown:
        assert "<script>alert" not in text
        assert "<img src=x" not in text
        assert "&lt;script&gt;" in text


def test_the_untouched_file_still_opens(good: bytes) -> None:
    record = Record.from_bytes(good)
    np.testing.assert_equal(len(record["curve/draws"]["y"]), 4)


# ---- numbers that contradict each other --------------------------------------------------------------------------------

SHIPPED = sorted(p.name.split(".")[0] for p in (Path(wb.__file__).parent / "recorded").glob("*.zarr.zip"))


def bent(record: Record, group: str, variable: str, value: Any) -> Record:
    """Return the record as a file would bring it whose array holds this value somewhere."""
    parts: dict[str, Any] = {"/": record.tree.to_dataset(inherit=False)} | {g: record[g] for g in record.groups}
    values = record.column(group, variable).copy()
    values.reshape(-1)[values.size // 2] = value
    data = parts[group].assign({variable: (parts[group][variable].dims, values)})
    return Record(build_tree(parts | {group: data})).validate()


@pytest.mark.parametrize("key", SHIPPED)
def test_whatever_number_a_file_holds_a_picture_is_drawn_or_refused_with_a_sentence(key: str) -> None:
    record = wb.load(Path(wb.__file__).parent / "recorded" / f"{key}.zarr.zip")
    rng = np.random.default_rng(0)
    before, drawn, refused = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, 0, 0
    for group in record.groups:
        kind = schema.kind_of(group)
        for variable in record.variables(group):
            values = record.column(group, variable)
            if values.dtype.kind not in "if" or not values.size:
                continue
            info = np.iinfo(values.dtype) if values.dtype.kind == "i" else None
            value = (
                [info.min, info.max, -2, min(info.max, 999_999)][rng.integers(4)]
                if info
                else [np.nan, np.inf, -1e30][rng.integers(3)]
            )
            try:
                found = bent(record, group, variable, value)
            except RecordError:
                refused += 1
                continue
            for name in found.views():
                if not any(schema.kind_of(g) == kind for g in views.get(name).groups):
                    continue
                try:
                    with np.errstate(all="ignore"):
                        found.figure(name)
                        found.text(name)
                    drawn += 1
                except WorkbenchError:
                    refused += 1
    assert drawn
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 700_000  # kB


@pytest.mark.parametrize(
    ("group", "variable", "value", "sentence"),
    [
        ("tree", "step", 2**31 - 1, "tree.step: expected steps from -1 to 999999"),
        ("text", "step", -(2**31), "text.step: expected steps from -1 to 999999"),
        ("tree", "parent", 10**6 - 1, "tree.parent: expected a node before its child"),
        ("tree", "node", 10**6 - 1, "tree.parent"),
    ],
)
def test_places_that_no_array_has_are_refused_on_load(group: str, variable: str, value: int, sentence: str) -> None:
    record = wb.load(Path(wb.__file__).parent / "recorded" / "rsd.zarr.zip")
    if variable == "node":  # a child whose parent would be itself
        parents = record.column("tree", "parent")
        value = int(parents[len(parents) // 2])
    with pytest.raises(RecordError, match=sentence):
        bent(record, group, variable, value)


def test_an_expert_that_the_model_does_not_have_is_refused() -> None:
    record = wb.load(Path(wb.__file__).parent / "recorded" / "openmoe.zarr.zip")
    with pytest.raises(RecordError, match=r"routing\.expert: expected experts from -1 to 7"):
        bent(record, "routing", "expert", 8)
