"""Every error a user can meet: one sentence of what, one of what to do.

`WorkbenchError` is the common base; each subclass is also the built-in error that it is (ValueError, KeyError, ...),
so code that knows nothing of Workbench can still catch it.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class WorkbenchError(Exception):
    """Base of every documented error. `str(error)` is fit to be shown to a reader."""

    def __str__(self) -> str:  # KeyError would print the repr of its argument
        return str(self.args[0]) if self.args else type(self).__name__


class InputError(WorkbenchError, ValueError):
    """An argument is out of range, of the wrong shape, or does not fit another argument."""


class KindError(WorkbenchError, TypeError):
    """An argument is of the wrong kind (a number where a text is expected, say)."""


class UnknownNameError(WorkbenchError, KeyError):
    """A system, knob, view, group or model of that name does not exist here."""


class RecordError(WorkbenchError, ValueError):
    """A file or tree of arrays is not a valid Workbench record."""


class StorageError(WorkbenchError, OSError):
    """A file could not be read or written."""

    def __str__(self) -> str:
        return WorkbenchError.__str__(self)


class ModelError(WorkbenchError, ValueError):
    """A model cannot be found, loaded, or used for what was asked."""


class KernelError(WorkbenchError, RuntimeError):
    """A kernel backend was asked for that cannot run here."""


class Cancelled(WorkbenchError):
    """The run was cancelled by its owner; nothing of it is kept."""


def expected(what: str, wanted: object, got: object, where: str = "", then: str = "") -> str:
    """Return the house sentence: `<what>: expected <wanted>, got <got> (<where>). <then>.`"""
    place = f" ({where})" if where else ""
    advice = f" {then.rstrip('.')}." if then else ""
    return f"{what}: expected {wanted}, got {got}{place}.{advice}"


def unknown(kind: str, name: object, known: Iterable[str], then: str = "") -> UnknownNameError:
    """Return an error that names the nearest valid name."""
    names = sorted(known)
    near = difflib.get_close_matches(str(name), names, n=1, cutoff=0.4)
    guess = f" Did you mean {near[0]!r}?" if near else ""
    listing = ", ".join(names[:12]) + (", ..." if len(names) > 12 else "")
    advice = f" {then.rstrip('.')}." if then else ""
    return UnknownNameError(f"{kind}: expected one of {listing or '(none)'}, got {name!r}.{guess}{advice}")
