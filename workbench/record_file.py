"""The file of a record: a zip of plain zarr arrays, read through an allow-list before anything is decoded."""

from __future__ import annotations

import json
import math
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from workbench.errors import RecordError, StorageError, expected

#: The codecs that Workbench writes (and a checksum). A record that names another one is refused before anything is decoded.
SAFE_CODECS = {"bytes", "zstd", "vlen-utf8", "crc32c"}
#: The types of arrays that Workbench writes, with the bytes of one element (a text counts as a pointer).
ITEM_BYTES = {
    "bool": 1, "int8": 1, "int16": 2, "int32": 4, "int64": 8, "uint8": 1, "uint16": 2, "uint32": 4, "uint64": 8,
    "float16": 2, "float32": 4, "float64": 8, "string": 8,
}  # fmt: skip
MAX_UNPACKED_BYTES = 4 << 30
MAX_MEMBERS, MAX_CHUNKS, MAX_DIMS, MAX_META_BYTES = 200_000, 100_000, 8, 1 << 20
_MAGIC = b"\x28\xb5\x2f\xfd"


def write_zip(stream: Any, blobs: Mapping[str, bytes]) -> None:
    with zipfile.ZipFile(stream, "w", compression=zipfile.ZIP_STORED) as archive:
        for name in sorted(blobs):  # fixed order and date: the same record is the same file
            archive.writestr(zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0)), blobs[name])


def read_file(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise StorageError(
            f"Opening the record {str(path)!r} failed: {error.strerror}. Check the path, or make one with record.save()."
        ) from error


def read_zip(data: bytes, name: str, max_bytes: int = MAX_UNPACKED_BYTES) -> dict[str, bytes]:
    """Return the members of a zip file, after its own table of contents has been found harmless."""
    import io

    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = archive.infolist()
            _refuse_members([m.filename for m in members], name)
            if sum(m.file_size for m in members) > max_bytes:
                raise RecordError(f"{name!r} unpacks to more than {max_bytes >> 20} MiB. Split it into smaller runs.")
            if any(m.compress_type != zipfile.ZIP_STORED for m in members):
                raise RecordError(
                    f"{name!r} was packed again: its members are compressed by the zip file. Use the file that record.save() wrote."
                )
            return {m.filename: archive.read(m) for m in members if not m.is_dir()}
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, OSError, ValueError) as error:
        if isinstance(error, RecordError):
            raise
        raise RecordError(  # RuntimeError: encrypted; OSError and ValueError: offsets that point nowhere
            f"{name!r} is not a whole Workbench record (not a complete zip file). Save it again with record.save()."
        ) from error


def _refuse_members(names: list[str], name: str) -> None:
    """Refuse names that would leave a folder if they were ever unpacked, repeated ones, and too many."""
    if len(names) > MAX_MEMBERS:
        raise RecordError(f"{name!r} has more than {MAX_MEMBERS} members. Only records written by Workbench are opened.")
    strange = next((n for n in names if n.startswith(("/", "\\")) or ".." in n.split("/") or "\\" in n or ":" in n), None)
    if strange is not None:
        raise RecordError(
            f"{name!r} names a file outside itself ({strange[:60]!r}). Only records written by Workbench are opened."
        )
    if len(set(names)) < len(names):
        raise RecordError(f"{name!r} holds a member twice. Save it again with record.save().")


def refuse_unsafe(blobs: Mapping[str, bytes], name: str, max_bytes: int = MAX_UNPACKED_BYTES) -> None:
    """Refuse anything that is not a tree of plain zarr-3 arrays of a bounded size, before a single chunk is decoded."""
    if "zarr.json" not in blobs:
        raise RecordError(f"{name!r} is a zip file but not a Workbench record. Save one with record.save().")
    total = 0
    for member in (m for m in blobs if m.rsplit("/", 1)[-1] == "zarr.json"):
        meta = _meta(blobs[member], member, name)
        if meta["node_type"] == "array":
            total += _array_bytes(meta, member.removesuffix("zarr.json"), blobs, member, name, max_bytes)
        if total > max_bytes:
            raise RecordError(f"{name!r} unpacks to more than {max_bytes >> 20} MiB. Split it into smaller runs.")


def _meta(blob: bytes, member: str, name: str) -> dict[str, Any]:
    """Return a node's metadata, checked for what it may say."""
    try:
        if len(blob) > MAX_META_BYTES:
            raise ValueError("too long")
        meta = json.loads(blob)
        listed = [str(c["name"]) for c in meta.get("codecs", [])]
        codecs = set(listed)
        version, attributes = meta["zarr_format"], meta.get("attributes", {})
        if version == 3 and (meta["node_type"] not in {"array", "group"} or not isinstance(attributes, dict)):
            raise ValueError("neither array nor group")
        if len(listed) > len(codecs):
            raise ValueError("packed twice")  # only the outer size could be known before unpacking
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise RecordError(f"{name!r} is damaged: {member} is not readable. Make the record again.") from error
    if version != 3 or codecs - SAFE_CODECS or meta.get("storage_transformers"):
        raise RecordError(
            expected(f"{name!r}, member {member}", f"codecs of {sorted(SAFE_CODECS)}", f"{sorted(codecs)}")
            + " Only records written by Workbench are opened."
        )
    return meta


def _array_bytes(meta: dict[str, Any], folder: str, blobs: Mapping[str, bytes], member: str, name: str, max_bytes: int) -> int:
    """Return how many bytes an array takes once it is decoded; one that lies about it is refused."""
    try:
        shape, chunk = _dims(meta["shape"]), _dims(meta["chunk_grid"]["configuration"]["chunk_shape"])
        item = ITEM_BYTES[meta["data_type"]]
        regular = meta["chunk_grid"]["name"] == "regular" and len(shape) == len(chunk) <= MAX_DIMS and 0 not in chunk
        count = math.prod(-(-s // c) for s, c in zip(shape, chunk)) if regular else MAX_CHUNKS + 1
    except (KeyError, TypeError, ValueError) as error:
        raise RecordError(f"{name!r} is damaged: {member} describes no plain array. Make the record again.") from error
    if count > MAX_CHUNKS:
        raise RecordError(
            f"{name!r}, member {member}: more than {MAX_CHUNKS} chunks. Only records written by Workbench are opened."
        )
    text = meta["data_type"] == "string"
    whole = math.prod(min(s, 1 << 62) for s in shape) * item
    packed = any(c["name"] == "zstd" for c in meta["codecs"])
    inside = [b for m, b in blobs.items() if packed and m.startswith(f"{folder}c") and not m.endswith("zarr.json")]
    sizes = [_content_bytes(blob, member, name) for blob in inside]
    most = math.prod(chunk) * item + 8  # a checksum may stand behind the data
    if not text and any(size > most for size in sizes):
        raise RecordError(f"{name!r}, member {member}: a chunk unpacks to more than its array holds. The file is damaged.")
    if text and sum(sizes) <= max_bytes:
        stored = [b for m, b in blobs.items() if m.startswith(f"{folder}c") and not m.endswith("zarr.json")]
        if any(_texts_in(blob, packed) != math.prod(chunk) for blob in stored):
            raise RecordError(
                f"{name!r}, member {member}: a chunk holds another number of texts than it says. The file is damaged."
            )
    return whole + math.prod(chunk) * item + (sum(sizes) if text else 0)


def _texts_in(blob: bytes, packed: bool) -> int:
    """Return how many texts a chunk says it holds; the decoder makes room for as many at once."""
    from numcodecs import Zstd

    try:
        data = Zstd().decode(blob) if packed else blob
    except (RuntimeError, ValueError):
        return -1
    return int.from_bytes(data[:4], "little") if len(data) >= 4 else -1


def _dims(values: Any) -> list[int]:
    if not isinstance(values, list) or not all(isinstance(v, int) and not isinstance(v, bool) and v >= 0 for v in values):
        raise ValueError("not a shape")
    return values


def _content_bytes(blob: bytes, member: str, name: str) -> int:
    """Return the size that a zstd frame says it unpacks to; a frame that does not say it is refused.

    The decoder reserves this much at once, so that a few bytes could ask for all memory.
    """
    if len(blob) < 6 or blob[:4] != _MAGIC:
        raise RecordError(f"{name!r}, member {member}: a chunk is not compressed as it says. The file is damaged.")
    flags = blob[4]
    single, width = bool(flags & 0x20), (0, 2, 4, 8)[flags >> 6]
    width = width or (1 if single else 0)
    start = 5 + (0 if single else 1) + (0, 1, 2, 4)[flags & 3]
    if not width or len(blob) < start + width:
        raise RecordError(
            f"{name!r}, member {member}: a chunk does not say its size. Only records written by Workbench are opened."
        )
    return int.from_bytes(blob[start : start + width], "little") + (256 if width == 2 else 0)
