"""Runs that a reader keeps: named, annotated, on disk, so that they outlive the page and the server.

Each visitor has a folder of their own, named by a random key that their browser holds; nobody can list another's. A run is
one record file and one small file with its name and note, each written under a temporary name and renamed: a kill at any
moment loses nothing that was there. No name that a browser sends ever becomes part of a path.
"""

from __future__ import annotations

import json
import os
import re
import threading
import uuid
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from platformdirs import user_data_path

from workbench.errors import InputError, StorageError, UnknownNameError, WorkbenchError, expected
from workbench.record import Record

MAX_RUNS = 60  # that one visitor keeps
MAX_BYTES = 24 << 20  # of one kept record
MAX_TOTAL = 4 << 30  # of all visitors together
#: Bytes that one network address may have kept since this process started; None for no limit of its own.
max_from_address: int | None = None
MAX_NAME, MAX_NOTE = 80, 2000
_KEY = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True)
class Kept:
    """What the shelf says of a run without opening its record.

    Attributes:
        live: live knobs that had moved since the run, by their values: the record is the run itself, with all it measured.
    """

    key: str
    name: str
    note: str
    system: str
    kept: str
    size: int
    live: dict[str, Any] = field(default_factory=dict)


def folder() -> Path:
    """Return where kept runs lie: `WORKBENCH_DATA`, else the user's own data folder."""
    return Path(os.environ.get("WORKBENCH_DATA") or user_data_path("workbench", appauthor=False)) / "runs"


def new_key() -> str:
    """Return a key that nobody guesses."""
    return uuid.uuid4().hex


def is_key(text: str) -> bool:
    """Return whether a text is a key of ours (and so safe as the name of a file)."""
    return _KEY.fullmatch(text) is not None


class Shelf:
    """The kept runs of one visitor.

    Args:
        visitor: their key; anything else is an error, so that no path can be made of it.
        address: where they come from ("" where there is no server): keys are free, the room is shared.
    """

    def __init__(self, visitor: str, address: str = "") -> None:
        if not is_key(visitor):
            raise InputError(expected("visitor", "a key of 32 hexadecimal digits", repr(visitor)[:40]))
        self.place = folder() / visitor
        self._address = address

    def runs(self) -> list[Kept]:
        """Return every kept run, the newest first; files that cannot be read are left out."""
        found = [kept for path in self.place.glob("*.json") if (kept := self._read(path)) is not None]
        return sorted(found, key=lambda k: k.kept, reverse=True)

    def _read(self, path: Path) -> Kept | None:
        try:
            return Kept(**json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return None

    def keep(self, record: Record, name: str = "", note: str = "") -> Kept:
        """Put a record on the shelf: the run as it ran, and beside it how far its live knobs have moved since.

        Raises:
            InputError: the shelf is full, or the record is too large; the sentence has the numbers.
            StorageError: the disk is full.
        """
        if len(self.runs()) >= MAX_RUNS:
            raise InputError(f"Your shelf holds {MAX_RUNS} runs already. Delete one on the page that compares runs.")
        try:
            self.place.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StorageError(f"Runs cannot be kept here: {error.strerror or error}. Set WORKBENCH_DATA to a folder.") from error
        key = new_key()
        run = record.as_run
        path = run.save(self._record(key))
        size = path.stat().st_size
        if size > MAX_BYTES or _total(size) > MAX_TOTAL:
            path.unlink()
            wanted = f"at most {MAX_BYTES >> 20} MB" if size > MAX_BYTES else "room on the server's shelf"
            raise InputError(expected("record", wanted, f"{size / 1e6:.1f} MB", then="Download it instead"))
        try:
            _book(self._address, path, size)
        except InputError:
            path.unlink()
            raise
        system = str(record.attrs.get("system"))
        ran, when = run.knobs, datetime.now(UTC).isoformat(timespec="seconds")
        live = {n: v for n, v in record.knobs.items() if n not in ran or ran[n] != v}
        kept = Kept(key, _line(name) or _name(record), note[:MAX_NOTE], system, when, size, live)
        self._write(kept)
        return kept

    def record(self, key: str) -> Record:
        """Return a kept record."""
        self.about(key)
        return Record.load(self._record(key))

    def data(self, key: str) -> bytes:
        """Return a kept record as the bytes of its file."""
        self.about(key)
        return self._record(key).read_bytes()

    def about(self, key: str) -> Kept:
        """Return what the shelf says of a run."""
        kept = self._read(self._about(key)) if is_key(key) else None
        if kept is None:
            raise UnknownNameError("kept run: expected one that is on your shelf, got another. Reload the page.")
        return kept

    def rename(self, key: str, *, name: str | None = None, note: str | None = None) -> Kept:
        """Change a run's name or note."""
        kept = self.about(key)
        fields = asdict(kept) | {
            k: v for k, v in {"name": name and _line(name), "note": note and note[:MAX_NOTE]}.items() if v is not None
        }
        changed = Kept(**fields)
        self._write(changed if changed.name else Kept(**fields | {"name": kept.name}))
        return self.about(key)

    def delete(self, key: str) -> None:
        """Take a run off the shelf."""
        self.about(key)
        self._about(key).unlink(missing_ok=True)  # first: without it the record is not on the shelf
        self._record(key).unlink(missing_ok=True)

    def upload(self, data: bytes, name: str) -> Kept:
        """Put a file that a browser sent on the shelf, after it has been checked like any record.

        Raises:
            InputError: too large. RecordError: not a record, or one that is not safe to open.
        """
        if len(data) > MAX_BYTES:
            raise InputError(expected("upload", f"at most {MAX_BYTES >> 20} MB", f"{len(data) / 1e6:.1f} MB"))
        record = Record.from_bytes(data, name=_line(name) or "upload", max_bytes=8 * MAX_BYTES)
        return self.keep(record, name=_line(name).removesuffix(".zip").removesuffix(".zarr"))

    def _record(self, key: str) -> Path:
        return self.place / f"{key}.zarr.zip"

    def _about(self, key: str) -> Path:
        return self.place / f"{key}.json"

    def _write(self, kept: Kept) -> None:
        path = self._about(kept.key)
        partial = path.with_name(f".{path.name}.{uuid.uuid4().hex}.partial")
        try:
            partial.write_text(json.dumps(asdict(kept), ensure_ascii=False), encoding="utf-8")
            os.replace(partial, path)
        except OSError as error:
            partial.unlink(missing_ok=True)
            raise StorageError(f"The run's name could not be saved: {error.strerror or error}. Free some space.") from error


_booked: dict[str, dict[Path, int]] = {}  # address -> the files kept from there, and their sizes
_booking = threading.Lock()


def _book(address: str, path: Path, size: int) -> None:
    """Count a file among those of an address; refuse it where they would take more than `max_from_address`."""
    if max_from_address is None or not address:
        return
    with _booking:
        there = {p: s for p, s in _booked.get(address, {}).items() if p.exists()}
        if sum(there.values()) + size > max_from_address:
            wanted = f"at most {max_from_address >> 20} MB from one address"
            raise InputError(expected("shelf", wanted, "more", then="Delete kept runs, or download this one instead"))
        _booked[address] = there | {path: size}


def _total(new: int) -> int:
    """Return how many bytes all visitors' runs take, the new one included."""
    return sum(path.stat().st_size for path in folder().glob("*/*.zarr.zip")) if new else 0


def _line(text: object) -> str:
    """Return a text as one short line without control characters."""
    return " ".join("".join(c for c in str(text or "") if c.isprintable()).split())[:MAX_NAME]


def _name(record: Record) -> str:
    """Return a name for a run that got none: its system, and the knobs that differ from the defaults."""
    from workbench import system as systems
    from workbench.system import plain

    key = str(record.attrs.get("system"))
    try:
        defaults = {n: plain(k.default) for n, k in systems.get(key).knobs().items()}
    except WorkbenchError:
        return key
    changed = [f"{n} {v}" for n, v in record.knobs.items() if n in defaults and v != defaults[n] and len(str(v)) <= 20]
    return _line(", ".join([key, *changed[:4]]))
