"""From arrays to the groups of a record: dims, dtypes and units as the schema has them, and the check that they are so."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from workbench import schema
from workbench.errors import RecordError, expected, unknown

if TYPE_CHECKING:
    import xarray as xr


#: Units of arrays that say a place in another array, and how many places there can be.
INDICES = ("step", "node", "rank", "round", "layer", "position", "expert", "text", "trial", "level", "batch")
MOST_PLACES = 1_000_000


def build_tree(parts: Mapping[str, xr.Dataset]) -> xr.DataTree:
    """Return the groups as a tree in one order, the schema's, so that a file needs to keep none.

    Raises:
        RecordError: a group and its subgroup disagree about a dimension (`curve` beside `curve/latency`).
    """
    import xarray as xr

    try:
        return xr.DataTree.from_dict({path: parts[path] for path in sorted(parts, key=place)})
    except ValueError as error:
        sentence = " ".join(str(error).split(chr(10))[0].split())
        raise RecordError(f"Record groups do not fit together: {sentence} Give sibling groups names of their own.") from error


def place(path: str) -> tuple[bool, int, int, str]:
    """Sort a sweep's runs last and by number, groups as the schema lists them."""
    segments, kinds = path.strip("/").split("/"), list(schema.GROUPS)
    in_run = segments[0] == "runs" and len(segments) > 1 and segments[1].isdigit()
    kind = schema.kind_of(path)
    return in_run, int(segments[1]) if in_run else 0, kinds.index(kind) if kind in kinds else -1, path


def dataset(group: str, values: Mapping[str, np.ndarray], attrs: Mapping[str, Any] | None = None) -> xr.Dataset:
    """Return one group as a Dataset with the schema's dims, dtypes and units.

    Variables that the schema does not name are kept on the group's first dimension.
    """
    import xarray as xr

    kind = schema.kind_of(group)
    if kind not in schema.GROUPS:
        raise RecordError(str(unknown("record group", group, schema.GROUPS)))
    out: dict[str, Any] = {}
    for name, value in values.items():
        variable = schema.GROUPS[kind].index.get(name)
        array = _normal(np.asarray(value), variable.dtype if variable else None)
        out[name] = (_dims(kind, variable, array), array, _units(variable, attrs))
    return xr.Dataset(out, attrs=dict(attrs or {}))


def typed(group: str, values: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Return a group's arrays in the schema's dtypes; an array that has its dtype already is passed through."""
    kind = schema.kind_of(group)
    if kind not in schema.GROUPS:
        raise RecordError(str(unknown("record group", group, schema.GROUPS)))
    known = schema.GROUPS[kind].index
    return {n: _normal(np.asarray(v), known[n].dtype if n in known else None) for n, v in values.items()}


def _normal(array: np.ndarray, dtype: str | None) -> np.ndarray:
    if dtype == "str" or (dtype is None and array.dtype.kind in "UTO"):
        return array.astype(object, copy=False)
    return array if dtype is None else array.astype(dtype, copy=False)


def _dims(kind: str, variable: schema.Variable | None, array: np.ndarray) -> tuple[str, ...]:
    if kind in schema.OPEN_GROUPS:
        dims = schema.OPEN_GROUPS[kind]
    elif variable is None:
        dims = schema.GROUPS[kind].variables[0].dims[:1]
    else:
        dims = variable.dims
    extra = array.ndim - len(dims)
    return (*(("setting",) if extra == 1 and kind == "meters" else ()), *dims)


def _units(variable: schema.Variable | None, attrs: Mapping[str, Any] | None) -> dict[str, str]:
    """Return what an array says of itself: its unit, and its provenance where it was not recorded as it happened."""
    if variable is None:
        return {}
    units = {"units": str((attrs or {}).get(variable.unit, variable.unit))} if variable.unit else {}
    return units | ({"provenance": variable.provenance} if variable.provenance else {})


def validate_group(path: str, data: xr.Dataset) -> None:
    kind = schema.kind_of(path)
    if kind not in schema.GROUPS:
        raise RecordError(str(unknown("record group", path, schema.GROUPS)))
    for variable in schema.GROUPS[kind].variables:
        if variable.name not in data.variables:
            if variable.optional:
                continue
            raise RecordError(expected(f"group {path!r}", f"a variable {variable.name!r}", f"{sorted(map(str, data.variables))}"))
        found = data[variable.name]
        dims = tuple(d for d in found.dims if d != "setting")
        if dims != variable.dims:
            raise RecordError(expected(f"{path}.{variable.name}", f"dims {variable.dims}", f"dims {dims}"))
        if variable.dtype == "str" and found.dtype.kind not in "UTO":
            raise RecordError(expected(f"{path}.{variable.name}", "text", f"dtype {found.dtype}"))
        if variable.dtype != "str" and found.dtype != np.dtype(variable.dtype):
            raise RecordError(expected(f"{path}.{variable.name}", f"dtype {variable.dtype}", f"dtype {found.dtype}"))
        if variable.unit in INDICES and found.dtype.kind == "i" and found.size:
            _validate_index(f"{path}.{variable.name}", variable.unit, found.values, data)
    if kind == "meters":
        _validate_meters(path, data)
    if kind == "tree":
        _validate_tree(path, data)


def _validate_index(where: str, unit: str, values: np.ndarray, data: xr.Dataset) -> None:
    """Refuse places that no array of ours has: a table made for the greatest of them would fill the memory."""
    top = data.sizes["expert"] if unit == "expert" and "expert" in data.sizes else MOST_PLACES
    low, high = int(values.min()), int(values.max())
    if low < -1 or high >= top:
        raise RecordError(expected(where, f"{unit}s from -1 to {top - 1}", f"{low} to {high}", then="Make the record again"))


def _validate_tree(path: str, data: xr.Dataset) -> None:
    """Refuse a node whose parent does not stand before it: whoever walked up from there would never arrive."""
    node, parent = data["node"].values, data["parent"].values
    wrong = np.flatnonzero((parent >= node) | ((parent < 0) != (node == 0)))
    if len(wrong):
        got = f"{int(parent[wrong[0]])} of node {int(node[wrong[0]])} (row {int(wrong[0])})"
        raise RecordError(
            expected(f"{path}.parent", "a node before its child, -1 for the root", got, then="Make the record again")
        )


def _validate_meters(path: str, data: xr.Dataset) -> None:
    allowed = {"provenance": schema.PROVENANCES, "kind": schema.KINDS, "better": schema.DIRECTIONS}
    for name, words in allowed.items():
        strange = sorted({str(v) for v in data[name].values.ravel()} - set(words))
        if strange:
            raise RecordError(expected(f"{path}.{name}", f"one of {', '.join(words)}", ", ".join(strange)))


def as_objects(data: xr.Dataset) -> xr.Dataset:
    """Give text arrays one dtype whatever the reader made of them, so that a round trip is exact.

    The Dataset is built anew: an index variable keeps its old dtype under `assign`.
    """
    import xarray as xr

    arrays = {n: v.values.astype(object) if v.dtype.kind in "UT" else v.values for n, v in data.variables.items()}
    return xr.Dataset({n: (data.variables[n].dims, a, data.variables[n].attrs) for n, a in arrays.items()}, attrs=data.attrs)


def as_texts(data: xr.Dataset) -> xr.Dataset:
    """Give text arrays numpy's string type: of an empty array of objects a writer cannot tell that it holds text."""
    texts = {str(n): v.astype(np.dtypes.StringDType()) for n, v in data.variables.items() if v.dtype == object}
    return data.assign(texts)
