"""The file of a record: a zip of plain zarr arrays, read through an allow-list before anything is decoded."""

from __future__ import annotations

import json
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from workbench.errors import RecordError, StorageError, expected

#: Codecs that only move bytes. A record that names another one is refused before anything is decoded.
SAFE_CODECS = {"bytes", "zstd", "blosc", "gzip", "crc32c", "vlen-utf8"}
MAX_UNPACKED_BYTES = 4 << 30


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


def read_zip(data: bytes, name: str) -> dict[str, bytes]:
    import io

    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            if sum(i.file_size for i in archive.infolist()) > MAX_UNPACKED_BYTES:
                raise RecordError(f"{name!r} unpacks to more than {MAX_UNPACKED_BYTES >> 30} GiB. Split it into smaller runs.")
            return {i.filename: archive.read(i) for i in archive.infolist()}
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:  # RuntimeError: encrypted
        raise RecordError(
            f"{name!r} is not a whole Workbench record (not a complete zip file). Save it again with record.save()."
        ) from error


def refuse_unsafe(blobs: Mapping[str, bytes], name: str) -> None:
    """Refuse anything that is not a tree of plain zarr-3 arrays before a single chunk is decoded."""
    if "zarr.json" not in blobs:
        raise RecordError(f"{name!r} is a zip file but not a Workbench record. Save one with record.save().")
    for member, blob in blobs.items():
        if not member.endswith("zarr.json"):
            continue
        try:
            meta = json.loads(blob)
            codecs = {str(c["name"]) for c in meta.get("codecs", [])}
            version = meta["zarr_format"]
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise RecordError(f"{name!r} is damaged: {member} is not readable. Make the record again.") from error
        if version != 3 or codecs - SAFE_CODECS:
            raise RecordError(
                expected(f"{name!r}, member {member}", f"codecs of {sorted(SAFE_CODECS)}", f"{sorted(codecs)}")
                + " Only records written by Workbench are opened."
            )
