"""One paper's method: its knobs declared once, `run(tape)` to do the work, `derive(record)` to recompute what live knobs change.

From the declaration of the knobs follow the command line, the page's controls, the link that restores a run, the checks of
bounds and the sweep. A *run* knob needs the model and takes effect in a new run; a *live* knob (`live=True`) only changes
what `derive` computes from recorded arrays.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from importlib import metadata
from typing import Any, ClassVar

import numpy as np
import param

from workbench import schema
from workbench.errors import InputError, WorkbenchError, expected, unknown
from workbench.record import Record
from workbench.tape import NullTape, Tape

ENTRY_POINTS = "workbench.systems"
OWN_PICTURE = "your own picture"
Columns = dict[str, dict[str, np.ndarray]]


_EXTRA = {"unit": "", "live": False, "symbol": "", "advanced": False}


@cache
def _knob_type(kind: type[param.Parameter]) -> type[param.Parameter]:
    """Return `kind` with the slots a knob adds. param keeps Parameters slotted, so extras need a subclass."""
    defaults = dict(kind._slot_defaults, **_EXTRA)
    return type(f"Knob{kind.__name__}", (kind,), {"__slots__": list(_EXTRA), "_slot_defaults": defaults})


def knob(kind: type[param.Parameter], default: Any, **options: Any) -> Any:
    """Return a declared knob: a param Parameter of `kind` that also knows its unit and whether it is live.

    Args:
        kind: `param.Integer`, `param.Number`, `param.Selector`, `param.Boolean`, or one of the kinds below.
        default: value when nobody sets it.
        options: those of `kind` (`bounds`, `step`, `objects`, `doc`, `label`) and
            `unit` (text), `live` (acts on recorded arrays), `symbol` (the paper's letter), `advanced` (folded away).
    """
    extras = {name: options.pop(name, value) for name, value in _EXTRA.items()}
    parameter = _knob_type(kind)(default=default, **options)
    for name, value in extras.items():
        setattr(parameter, name, value)
    return parameter


class Prompt(param.Parameter):
    """A text, or a list of token ids."""

    def _validate_value(self, val: Any, allow_None: bool) -> None:
        ids = isinstance(val, (list, tuple, np.ndarray)) and all(isinstance(t, (int, np.integer)) for t in val)
        if not (ids or isinstance(val, str)):
            raise ValueError(expected("prompt", "a text or a list of token ids", type(val).__name__))

    def _validate(self, val: Any) -> None:
        self._validate_value(val, False)


class ModelName(param.Parameter):
    """A model's name, a loaded model, a table model, or a bare Hugging Face module. `names` are offered on the page."""

    __slots__ = ["names"]
    _slot_defaults = dict(param.Parameter._slot_defaults, names=())

    def __init__(self, default: Any = None, *, names: tuple[str, ...] = (), **options: Any) -> None:
        super().__init__(default, **options)
        self.names = names


class PictureInput(param.Parameter):
    """A picture by name, or an (h, w, 3) array of numbers in [0, 1]. `names` are offered on the page, beside an upload."""

    __slots__ = ["names"]
    _slot_defaults = dict(param.Parameter._slot_defaults, names=())

    def __init__(self, default: Any = None, *, names: tuple[str, ...] = (), **options: Any) -> None:
        super().__init__(default, **options)
        self.names = names

    def _validate(self, val: Any) -> None:
        named = isinstance(val, str) and val in self.names
        array = isinstance(val, np.ndarray) and val.ndim == 3 and val.shape[2] == 3 and np.isfinite(val).all()
        if not named and not (array and val.min() >= 0 and val.max() <= 1):
            got = f"an array of shape {val.shape}" if isinstance(val, np.ndarray) else repr(val)[:60]
            wanted = f"one of {', '.join(self.names)}, or an (h, w, 3) array of finite numbers in [0, 1]"
            raise ValueError(expected(self.name or "image", wanted, got))


class Branching(param.Parameter):
    """A whole number, a list of whole numbers (one for each level), or None where the knob can choose by itself."""

    __slots__ = ["bounds"]
    _slot_defaults = dict(param.Parameter._slot_defaults, bounds=(1, 8))

    def __init__(self, default: Any = None, *, bounds: tuple[int, int] = (1, 8), **options: Any) -> None:
        super().__init__(default, **options)
        self.bounds = bounds

    def _validate(self, val: Any) -> None:
        low, high = self.bounds
        values = [] if val is None else list(val) if isinstance(val, (list, tuple)) else [val]
        whole = all(isinstance(v, (int, np.integer)) and not isinstance(v, bool) and low <= v <= high for v in values)
        if not whole or (isinstance(val, (list, tuple)) and not values):
            raise ValueError(expected(self.name or "width", f"whole numbers from {low} to {high}", repr(val)))


@dataclass(frozen=True)
class KnobInfo:
    """What a control, a command-line option or a link needs to know of a knob."""

    name: str
    parameter: param.Parameter

    @property
    def live(self) -> bool:
        return bool(getattr(self.parameter, "live", False))

    @property
    def unit(self) -> str:
        return str(getattr(self.parameter, "unit", ""))

    @property
    def symbol(self) -> str:
        return str(getattr(self.parameter, "symbol", ""))

    @property
    def advanced(self) -> bool:
        return bool(getattr(self.parameter, "advanced", False))

    @property
    def default(self) -> Any:
        return self.parameter.default

    @property
    def label(self) -> str:
        return str(self.parameter.label)

    @property
    def doc(self) -> str:
        return str(self.parameter.doc or "").strip()

    @property
    def bounds(self) -> tuple[Any, Any] | None:
        return getattr(self.parameter, "bounds", None)

    @property
    def choices(self) -> list[Any] | None:
        objects = getattr(self.parameter, "objects", None)
        return list(objects) if objects is not None else None

    def parse(self, text: str) -> Any:
        """Return the value that a command line or a link spells as `text`."""
        if isinstance(self.parameter, param.Boolean):
            words = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
            if text.lower() not in words:
                raise InputError(expected(self.name, "true or false", repr(text)))
            return words[text.lower()]
        if isinstance(self.parameter, PictureInput) and text.startswith("data:"):
            return _uploaded(text)
        if isinstance(self.parameter, (ModelName, PictureInput, param.Selector)):
            named = {str(c): c for c in self.choices or ()}
            return named.get(text, text)
        if isinstance(self.parameter, (Prompt, param.String)):
            return _ids_or_text(text) if isinstance(self.parameter, Prompt) else text
        try:
            return json.loads(text) if text.lower() not in {"auto", "none"} else None
        except (ValueError, RecursionError) as error:
            raise InputError(expected(self.name, "a number", repr(text[:60]))) from error


def _uploaded(text: str) -> np.ndarray:
    """Return the picture of a data URL, as a page sends an upload."""
    import base64
    import binascii

    from workbench.instruments.vision import read_image

    try:
        data = base64.b64decode(text.partition(",")[2], validate=True)
    except (binascii.Error, ValueError) as error:
        raise InputError(expected("image", "a picture file", "something unreadable", then="Choose another file")) from error
    return read_image(data)


def _ids_or_text(text: str) -> Any:
    """Read `[1, 2, 3]` as token ids; anything else is the text itself."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return text
    return value if isinstance(value, list) and all(isinstance(v, int) for v in value) else text


class System(param.Parameterized):
    """Base of every paper's method. Subclasses set the class attributes, declare knobs, and write `run` and `derive`."""

    key: ClassVar[str] = ""
    title: ClassVar[str] = ""
    year: ClassVar[int] = 0
    arxiv: ClassVar[str] = ""
    family: ClassVar[str] = ""
    asks: ClassVar[str] = ""
    shows: ClassVar[tuple[str, ...]] = ()  # names of views, the hero first
    sometimes: ClassVar[tuple[str, ...]] = ()  # those of them that only some settings give
    presets: ClassVar[dict[str, dict[str, Any]]] = {}
    follows: ClassVar[dict[str, str]] = {}  # live knob -> run knob that makes its estimate true on release
    limits: ClassVar[dict[str, int]] = {}  # knob -> largest value (or length) that a served page accepts
    notes: ClassVar[str] = ""  # what differs from the paper, what is reported and unverified

    seed = knob(param.Integer, 0, bounds=(0, 2**31 - 1), doc="Seed of every random draw of the run.", advanced=True)

    def __init__(self, **knobs: Any) -> None:
        super().__init__()
        self.set(**knobs)

    def set(self, **knobs: Any) -> None:
        """Set knobs; an unknown name or a value out of range is an error and changes nothing."""
        before = {name: getattr(self, name) for name in knobs if name in self.knob_names()}
        try:
            for name, value in knobs.items():
                self._set_one(name, value)
        except WorkbenchError:
            self.param.update(**before)
            raise

    def _set_one(self, name: str, value: Any) -> None:
        if name not in self.knob_names():
            raise unknown(f"knob of {self.key}", name, self.knob_names())
        number = isinstance(self.param[name], (param.Number, Branching)) and not isinstance(self.param[name], param.Boolean)
        if number and isinstance(value, bool):
            raise InputError(self._explain(name, value, TypeError("a truth value is no number")))
        try:
            setattr(self, name, value)
        except (ValueError, TypeError) as error:
            raise InputError(self._explain(name, value, error)) from None

    def _explain(self, name: str, value: Any, error: Exception) -> str:
        info = self.knobs()[name]
        if info.choices:
            return expected(name, "one of " + ", ".join(map(str, info.choices)), repr(value))
        if info.bounds:
            low, high = info.bounds
            unit = f" {info.unit}" if info.unit else ""
            kind = "a whole number" if isinstance(info.parameter, (param.Integer, Branching)) else "a number"
            return expected(name, f"{kind} from {low} to {high}{unit}", repr(value))
        text = str(error)
        return text if text.startswith(name) else f"{name}: {text}"

    @classmethod
    def knobs(cls) -> dict[str, KnobInfo]:
        """Return the knobs in the order they are declared, `seed` last."""
        order = {n: i for i, base in enumerate(reversed(cls.__mro__)) for n in vars(base)}
        names = [n for n in cls.param if n != "name"]
        names.sort(key=lambda n: (n == "seed", order.get(n, 0)))
        return {n: KnobInfo(n, cls.param[n]) for n in names}

    @classmethod
    def knob_names(cls) -> list[str]:
        """Return the names of all knobs."""
        return list(cls.knobs())

    def values(self) -> dict[str, Any]:
        """Return the present knob values, models by name, ready for JSON."""
        return {name: plain(getattr(self, name)) for name in self.knob_names()}

    def pictures_of(self, record: Record) -> dict[str, np.ndarray]:
        """Return the knobs whose value was a picture of the reader's own, taken from the record's group `image`."""
        own = [n for n, v in record.knobs.items() if str(v).startswith(OWN_PICTURE) and n in self.knob_names()]
        return {n: record.column("image", "pixels").astype(np.float32) / 255 for n in own}

    def prepare(self) -> None:
        """Load what the run needs and check knobs against each other; raise before any work is done."""

    def warm(self) -> None:
        """Load models and compile kernels ahead of a reader's first run (a page calls this in the background)."""

    def run(self, tape: NullTape) -> None:
        """Do the paper's work, writing what happens to the tape."""
        raise NotImplementedError

    def derive(self, record: Record) -> Columns:
        """Return the groups that follow from recorded arrays and the live knobs. Must take milliseconds."""
        return {}

    def lead(self, record: Record) -> Columns:
        """Return what the first picture draws of `derive`, where all of it would keep a moving slider waiting; else nothing."""
        return {}

    def record(self, tape: Tape | None = None) -> Record:
        """Run with these knobs and return the record, derived groups included.

        Raises:
            WorkbenchError: bad input, or the run was cancelled (`Cancelled`); nothing half-written is returned.
        """
        from workbench import kernels

        tape = tape or Tape()
        self.prepare()
        with kernels.used() as used:
            self.run(tape)
        measured = Record.from_columns(tape.columns(), self._attrs(used), tape.attrs)
        return Record(self.rederive(measured).tree)  # with what follows from it: what a moved knob replaces comes back with it

    def rederive(self, record: Record) -> Record:
        """Return the record with `derive`'s groups recomputed for the present live knobs.

        What an earlier replay made is set aside first, so that a knob moved there and back shows the run itself again.
        """
        run = record.as_run
        groups = self.derive(run)
        labels = groups.pop("attrs", {})
        live = {name: plain(getattr(self, name)) for name, info in self.knobs().items() if info.live}
        return run.with_groups(groups, labels, live) if groups else run  # type: ignore[arg-type]

    def led(self, record: Record) -> Record | None:
        """Return the record with `lead`'s groups for the present live knobs, to draw the first picture; None where there are none."""
        groups = self.lead(record.as_run)
        labels = groups.pop("attrs", {})
        return record.with_groups(groups, labels) if groups else None  # type: ignore[arg-type]

    def _attrs(self, used: Mapping[str, Any]) -> dict[str, Any]:
        return {
            "system": self.key,
            "knobs": self.values(),
            "seed": int(self.seed),
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "versions": versions(),
            "device": device_name(),
            "kernels": dict(used),
            "workbench_version": metadata.version("inference-workbench"),
            "schema_version": schema.SCHEMA_VERSION,
        }


def plain(value: Any) -> Any:
    """Return a knob's value as JSON can hold it: a model becomes its name."""
    if isinstance(value, (str, bool, int, float, type(None))):
        return value
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray) and value.ndim == 3:
        digest = hashlib.blake2b(value.tobytes(), digest_size=3).hexdigest()
        return f"{OWN_PICTURE} {digest}"  # the picture itself stands in a record's group `image`
    if isinstance(value, (list, tuple, np.ndarray)):
        return [plain(v) for v in value]
    return str(getattr(value, "name", None) or getattr(value, "name_or_path", None) or type(value).__name__)


def versions() -> dict[str, str]:
    """Return the versions that decide a run's numbers."""
    names = ("numpy", "numba", "torch", "transformers", "xarray", "zarr")
    found = {"python": platform.python_version()}
    for name in names:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


@cache
def device_name() -> str:
    """Return the processor (and GPU, if one is used) as a reader would name it."""
    import os

    from workbench import threads

    torch = threads.whole("torch")
    if torch is not None and torch.cuda.is_available():
        return str(torch.cuda.get_device_name())
    model = platform.processor() or platform.machine()
    try:
        with open("/proc/cpuinfo") as lines:
            model = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), model)
    except OSError:
        pass
    return f"{model}, {os.cpu_count()} cores"


@dataclass(frozen=True)
class Entry:
    """A registered system, or the reason why it cannot be loaded."""

    key: str
    target: str
    error: str = ""

    def load(self) -> type[System]:
        if self.error:
            raise WorkbenchError(f"System {self.key!r} is registered but cannot be loaded: {self.error}.")
        module, _, name = self.target.partition(":")
        return getattr(importlib.import_module(module), name)


@cache
def registry() -> dict[str, Entry]:
    """Return every system of the entry-point group `workbench.systems`, broken ones with their reason."""
    found: dict[str, Entry] = {}
    for point in sorted(metadata.entry_points(group=ENTRY_POINTS), key=lambda p: p.name):
        found[point.name] = _entry(point.name, point.value)
    return found


def _entry(key: str, target: str) -> Entry:
    entry = Entry(key, target)
    try:
        entry.load()
    except Exception as error:  # a broken plug-in must not hide the others
        return Entry(key, target, error=f"{type(error).__name__}: {error}")
    return entry


def get(name: str) -> type[System]:
    """Return a system's class by its key; an unknown key is an error that names the nearest."""
    if name not in registry():
        raise unknown("system", name, registry(), "List them with workbench.catalog()")
    return registry()[name].load()
