"""What a sweep has finished, on disk, so that a sweep that was killed goes on where it stood.

One file for each finished setting, written atomically under a name that is the digest of what ran: system, version, every
knob value. The same sweep finds its own files, a longer grid reuses them, and another system or another value never does.
"""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import uuid
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from workbench import schema
from workbench import system as systems
from workbench.errors import InputError, StorageError, WorkbenchError, expected
from workbench.record import Record

Outcome = Record | str  #: what a setting left: its record, or the sentence of its error


class Journal:
    """Finished settings in a folder (made if it is not there).

    Args:
        folder: where they are kept; None keeps nothing.
        system: class of the system that is swept.
    Raises:
        StorageError: the folder cannot be made.
    """

    def __init__(self, folder: str | os.PathLike[str] | None, system: type[systems.System]) -> None:
        self.system, self.folder = system, Path(folder) if folder is not None else None
        if self.folder is None:
            return
        try:
            self.folder.mkdir(exist_ok=True)
        except OSError as error:
            reason = error.strerror or str(error)
            raise StorageError(f"The sweep's folder {str(folder)!r} cannot be made: {reason}. Choose another.") from error

    def found(self, knobs: Mapping[str, Any]) -> Outcome | None:
        """Return what a setting left in an earlier call; None where it has not finished (or its file is damaged)."""
        if self.folder is None:
            return None
        record, sentence = self._paths(knobs)
        try:
            if sentence.exists():
                return str(json.loads(sentence.read_text(encoding="utf-8"))["error"])
            return Record.load(record) if record.exists() else None
        except (WorkbenchError, ValueError, KeyError, TypeError):
            return None  # run it again: a file that cannot be read is as good as none

    def keep(self, knobs: Mapping[str, Any], outcome: Outcome) -> None:
        """Write what a setting left."""
        if self.folder is None:
            return
        record, sentence = self._paths(knobs)
        if record.exists() or sentence.exists():
            return  # a worker that shares this folder was faster
        if isinstance(outcome, Record):
            outcome.save(record)
            return
        partial = sentence.with_name(f".{sentence.name}.{uuid.uuid4().hex}.partial")
        partial.write_text(json.dumps({"error": outcome}, ensure_ascii=False), encoding="utf-8")
        os.replace(partial, sentence)

    def forget(self) -> None:
        """Remove the folder with everything this system's sweep put there."""
        if self.folder is None:
            return
        for pattern in ("*.run.zarr.zip", "*.error.json", ".*.partial"):
            for path in self.folder.glob(pattern):
                path.unlink(missing_ok=True)
        if not any(self.folder.iterdir()):
            self.folder.rmdir()

    def _paths(self, knobs: Mapping[str, Any]) -> tuple[Path, Path]:
        assert self.folder is not None
        name = digest(self.system, knobs)
        return self.folder / f"{name}.run.zarr.zip", self.folder / f"{name}.error.json"


def digest(system: type[systems.System], knobs: Mapping[str, Any]) -> str:
    """Return a name of one setting: equal exactly where system, version and all knob values are.

    Raises:
        InputError: a knob holds an object that has neither a name nor a form that can be written down.
    """
    made = system(**knobs)
    values = {name: _fingerprint(name, getattr(made, name)) for name in system.knob_names()}
    version = metadata.version("inference-workbench")  # another one may measure otherwise: its settings are run again
    whole = [system.key, f"{system.__module__}.{system.__qualname__}", version, schema.SCHEMA_VERSION, values]
    return hashlib.blake2b(json.dumps(whole, sort_keys=True).encode(), digest_size=12).hexdigest()


def _fingerprint(name: str, value: Any) -> Any:
    """Return JSON that stands for a value; objects by their content, because two tables share a type and no name."""
    if isinstance(value, (str, bool, int, float, type(None))):
        return value
    if isinstance(value, (list, tuple)):
        return [_fingerprint(name, v) for v in value]
    if isinstance(value, np.generic):
        return value.item()
    try:
        return f"{type(value).__name__} {hashlib.blake2b(pickle.dumps(value), digest_size=12).hexdigest()}"
    except Exception as error:  # anything may go wrong inside a stranger's __reduce__
        wanted = "a value with a name, or one that can be pickled"
        raise InputError(expected(name, wanted, type(value).__name__, then="Sweep it without `journal`")) from error
