"""What one run left behind: named groups of labelled arrays with units, provenance and versions, in one file.

A `Record` wraps an `xarray.DataTree`; `workbench/schema.md` says what each group holds. Saving writes one zarr (format 3)
zip file under a temporary name and renames it, so a reader never finds half a file. Loading reads plain arrays through an
allow-list of codecs: nothing in a record is ever executed.
"""

from __future__ import annotations

import contextlib
import json
import os
import uuid
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from workbench import schema
from workbench.errors import InputError, RecordError, StorageError, UnknownNameError, WorkbenchError, expected, unknown
from workbench.record_file import MAX_UNPACKED_BYTES, read_file, read_zip, refuse_unsafe, write_zip
from workbench.record_groups import as_objects, as_texts, build_tree, dataset, place, typed, validate_group

if TYPE_CHECKING:
    import plotly.graph_objects as go
    import xarray as xr


class Record:
    """Groups of labelled arrays that one run (or one sweep) left behind.

    `record["tree"]` is an `xarray.Dataset`; `record.groups` lists the names; `record.attrs` says what ran. `record.views()`
    lists the pictures that can be drawn from it; `record.figure(name)` draws one; `record.text(name)` says it in words.
    """

    def __init__(self, tree: xr.DataTree) -> None:
        self._tree: xr.DataTree | None = tree
        self._base: Record | None = None  # what this record shares, while its own tree is not built
        self._fresh: dict[str, dict[str, np.ndarray]] = {}  # replaced groups, in the schema's dtypes
        self._fresh_attrs: dict[str, dict[str, Any]] = {}
        self._moved: dict[str, Any] = {}  # live knobs that the replaced groups were made with
        self._columns: dict[tuple[str, str], np.ndarray] = {}

    @property
    def tree(self) -> xr.DataTree:
        """The record as an `xarray.DataTree`; built on first use where groups were replaced (a slider does not wait for it)."""
        if self._tree is None:
            assert self._base is not None
            parts: dict[str, Any] = {"/": self._base.tree.to_dataset(inherit=False).assign_attrs(self.attrs)}
            parts |= {g: self._base[g] for g in self._base.groups}
            parts |= {g: dataset(g, values, self._fresh_attrs[g]) for g, values in self._fresh.items()}
            self._tree = build_tree(parts)
        return self._tree

    @classmethod
    def from_columns(
        cls,
        columns: Mapping[str, Mapping[str, np.ndarray]],
        attrs: Mapping[str, Any],
        group_attrs: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> Record:
        """Return a validated record from plain columns.

        Args:
            columns: `{group: {variable: array}}`, each array with the dims the schema gives that variable.
            attrs: attributes of the record (see `schema.ATTRS`); versions and knobs may be mappings.
            group_attrs: attributes of single groups, such as a curve's axis labels.
        Raises:
            RecordError: a group or variable does not fit the schema.
        """
        import xarray as xr

        datasets = {g: dataset(g, values, (group_attrs or {}).get(g)) for g, values in columns.items()}
        return cls(build_tree({"/": xr.Dataset(attrs=_plain_attrs(attrs)), **datasets})).validate()

    def with_groups(
        self,
        columns: Mapping[str, Mapping[str, np.ndarray]],
        group_attrs: Mapping[str, Mapping[str, Any]] | None = None,
        knobs: Mapping[str, Any] | None = None,
    ) -> Record:
        """Return a record that shares this one's arrays and has these groups added or replaced, made with these live `knobs`.

        A replaced group keeps its attributes where `group_attrs` gives no others.
        """
        made = Record.__new__(Record)
        made._tree, made._base, made._columns = None, self.as_run, {}
        made._fresh = self._fresh | {g: typed(g, values) for g, values in columns.items()}
        made._fresh_attrs = self._fresh_attrs | {
            g: dict((group_attrs or {}).get(g) or (self.group_attrs(g) if g in self else {})) for g in columns
        }
        made._moved = self._moved | dict(knobs or {})
        return made

    @property
    def as_run(self) -> Record:
        """The record as its run or its file left it, without the groups that were replaced since."""
        return self if self._base is None else self._base

    @property
    def attrs(self) -> dict[str, Any]:
        """What ran: system, knobs (JSON), seed, versions (JSON), device, kernels (JSON), ..."""
        kept = {str(n): v for n, v in self.as_run.tree.attrs.items()}
        return kept | _plain_attrs({"knobs": json.loads(kept.get("knobs", "{}")) | self._moved} if self._moved else {})

    @property
    def knobs(self) -> dict[str, Any]:
        """The knob values of the run; of a live knob that has moved since, the value that made the groups it changes."""
        return json.loads(self.attrs.get("knobs", "{}"))

    @cached_property
    def groups(self) -> tuple[str, ...]:
        """Paths of the groups that hold arrays, in the schema's order ("tree", "curve/latency", "runs/0/tree")."""
        if self._base is not None:
            return tuple(sorted({*self._base.groups, *self._fresh}, key=place))
        return tuple(node.path.strip("/") for node in self.tree.subtree if node.path != "/" and node.data_vars)

    def __contains__(self, group: str) -> bool:
        return group in self.groups

    def __getitem__(self, group: str) -> xr.Dataset:
        """Return a group as an `xarray.Dataset`; an unknown name is an error that names the nearest one."""
        if group not in self:
            raise unknown("record group", group, self.groups)
        if self._base is not None and group not in self._fresh:
            return self._base[group]
        node: Any = self.tree[group]
        return node.to_dataset(inherit=False)

    def variables(self, group: str) -> tuple[str, ...]:
        """Return the names of a group's arrays; none for a group that is not there."""
        if group in self._fresh:
            return tuple(self._fresh[group])
        if self._base is not None:
            return self._base.variables(group)
        return tuple(map(str, self.tree[group].variables)) if group in self else ()

    def group_attrs(self, group: str) -> dict[str, Any]:
        """Return the attributes of a group (labels of a curve's axes, say); none for a group that is not there."""
        if group in self._fresh:
            return self._fresh_attrs[group]
        if self._base is not None:
            return self._base.group_attrs(group)
        return {str(k): v for k, v in self.tree[group].attrs.items()} if group in self else {}

    def column(self, group: str, variable: str) -> np.ndarray:
        """Return one array as numpy without building a Dataset (the path a slider takes)."""
        if group in self._fresh and variable in self._fresh[group]:
            return self._fresh[group][variable]
        if self._base is not None and group not in self._fresh:
            return self._base.column(group, variable)
        if (group, variable) in self._columns:
            return self._columns[group, variable]
        try:
            self._columns[group, variable] = self.tree[group].variables[variable].values
            return self._columns[group, variable]
        except (KeyError, AttributeError):  # no such group, no such variable, or the path is a variable's own
            known = [f"{g}.{v}" for g in self.groups for v in self[g]]
            raise unknown("record variable", f"{group}.{variable}", known) from None

    def meter(self, name: str, setting: int | None = None) -> dict[str, Any]:
        """Return one row of the group `meters` as a dict; in a sweep's record, that of one setting."""
        table = self["meters"]
        if "setting" in table.dims:
            if setting is None or not 0 <= setting < table.sizes["setting"]:
                raise InputError(expected("setting", f"an index below {table.sizes['setting']} (this is a sweep)", setting))
            table = table.isel(setting=setting)
        rows = {str(m): i for i, m in enumerate(table["meter"].values)}
        if name not in rows:
            raise unknown("meter", name, rows)
        values = {str(k): v.values[rows[name]] for k, v in table.variables.items()}
        return {k: v.item() if isinstance(v, np.generic) else v for k, v in values.items()}

    def at(self, setting: int) -> Record:
        """Return one run of a sweep as a record of its own."""
        import xarray as xr

        prefix = f"runs/{setting}/"
        parts: dict[str, Any] = {g.removeprefix(prefix): self[g] for g in self.groups if g.startswith(prefix)}
        if not parts:
            raise self._no_run(setting)
        attrs = self.tree[f"runs/{setting}"].attrs
        return Record(build_tree({"/": xr.Dataset(attrs=attrs), **parts}))

    def _no_run(self, setting: int) -> WorkbenchError:
        """Say why a setting has no run: it failed, there are fewer, or this is not a sweep."""
        if "settings" not in self:
            return InputError(expected("record", "one of a sweep", repr(self), then="Leave out the setting"))
        errors = self["settings"]["error"].values
        if 0 <= setting < len(errors):
            return RecordError(f"Setting {setting} left no run, it failed: {errors[setting]}")
        return UnknownNameError(expected("setting", f"an index below {len(errors)}", setting))

    def validate(self) -> Record:
        """Return self if every group fits the schema.

        Raises:
            RecordError: naming the group, the variable, what was expected and what was found.
        """
        missing = [a for a in schema.ATTRS if a not in self.tree.attrs]
        if missing:
            raise RecordError(expected("record attributes", ", ".join(schema.ATTRS), f"none of {', '.join(missing)}"))
        version = self.tree.attrs["schema_version"]
        if isinstance(version, bool) or not isinstance(version, (int, np.integer)) or version < 1:
            raise RecordError(expected("record schema_version", "a whole number from 1", repr(version)))
        for name in ("knobs", "versions", "kernels"):
            _require_json(name, self.tree.attrs[name])
        if version > schema.SCHEMA_VERSION:
            raise RecordError(
                expected("record schema", f"version {schema.SCHEMA_VERSION} or older", f"version {version}")
                + " Install a newer Workbench to open this file."
            )
        for group in self.groups:
            validate_group(group, self[group])
        return self

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the record as one zip file, atomically, and return its path.

        Raises:
            StorageError: the folder does not exist or the disk is full; an older file of that name stays as it was.
        """
        target = _path(path)
        blobs = self._encode()
        partial = target.with_name(f".{target.name}.{uuid.uuid4().hex}.partial")
        try:
            with open(partial, "xb") as stream:
                write_zip(stream, blobs)
                stream.flush()
                os.fsync(stream.fileno())
            os.replace(partial, target)
        except OSError as error:
            reason = error.strerror or str(error)
            raise StorageError(
                f"Saving a record to {str(target)!r} failed: {reason}. Choose another folder or free some space."
            ) from error
        finally:  # also when the reader interrupts: no half-written file stays
            with contextlib.suppress(OSError):
                partial.unlink(missing_ok=True)
        return target

    def _encode(self) -> dict[str, bytes]:
        """Return the record as zarr members: `{name in the zip: bytes}`."""
        import zarr

        store = zarr.storage.MemoryStore()
        # No fill value: NaN is data here, and a decoder that replaced it would break the exact round trip.
        encoding = {f"/{g}": {str(v): {"_FillValue": None} for v in self[g].data_vars} for g in self.groups}
        self.tree.map_over_datasets(as_texts).to_zarr(store, consolidated=False, zarr_format=3, encoding=encoding)
        return {name: buffer.to_bytes() for name, buffer in store._store_dict.items()}

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Record:
        """Return the record in a file, exactly as it was saved.

        Raises:
            StorageError: no such file, or it cannot be read.
            RecordError: not a record, truncated, of a newer schema, or naming a codec outside the allow-list.
        """
        return cls.from_bytes(read_file(_path(path)), name=str(path))

    @classmethod
    def from_bytes(cls, data: bytes, name: str = "upload", max_bytes: int = MAX_UNPACKED_BYTES) -> Record:
        """Return the record in the bytes of a saved file (an upload, say).

        Args:
            max_bytes: most memory that its arrays may take; said by the file before anything is unpacked.
        """
        import xarray as xr
        import zarr

        blobs = read_zip(data, name, max_bytes)
        refuse_unsafe(blobs, name, max_bytes)
        buffer = zarr.core.buffer.default_buffer_prototype().buffer
        store = zarr.storage.MemoryStore({k: buffer.from_bytes(v) for k, v in blobs.items()}, read_only=True)
        try:
            tree = xr.open_datatree(store, engine="zarr", consolidated=False, zarr_format=3, mask_and_scale=False)  # type: ignore[arg-type]
            parts = {n.path: as_objects(n.to_dataset(inherit=False).load()) for n in tree.subtree}
            tree = build_tree(parts)
        except Exception as error:
            raise RecordError(
                f"{name!r} could not be decoded ({type(error).__name__}): the file is damaged. Make the record again."
            ) from error
        return cls(tree).validate()

    def views(self) -> list[str]:
        """Return the names of the views that can draw this record; of a sweep, those that can draw its runs too."""
        from workbench import views

        one = next((self.at(i) for i in self.settings()), None)
        return [v.name for v in views.registry().values() if v.draws(self) or (one is not None and v.draws(one))]

    def settings(self) -> list[int]:
        """Return the settings of a sweep that left a run, in order; none in any other record."""
        found = {int(g.split("/")[1]) for g in self.groups if g.startswith("runs/")}
        return sorted(found)

    def figure(self, view: str, *, setting: int | None = None, **options: Any) -> go.Figure:
        """Return a view of this record as a plotly figure.

        Args:
            view: a name from `record.views()`.
            setting: index of the run to draw in a sweep's record; without it the first runs stand side by side.
            options: the view's own (`step=3`, `theme="dark"`).
        """
        from workbench import views

        if setting is None and self.settings() and not views.get(view).draws(self):
            from workbench.comparison import of_settings

            return of_settings(self, view).figure(view, **options)
        return views.get(view).figure(self if setting is None else self.at(setting), **options)

    def text(self, view: str, *, setting: int | None = None, **options: Any) -> str:
        """Return what the view shows, in words or a small table; of a sweep, for the first runs in turn."""
        from workbench import views

        if setting is None and self.settings() and not views.get(view).draws(self):
            from workbench.comparison import of_settings

            return of_settings(self, view).text(view, **options)
        return views.get(view).text(self if setting is None else self.at(setting), **options)

    def html(self, path: str | os.PathLike[str]) -> Path:
        """Write one self-contained page that works offline (its step scrubber still moves), and return its path."""
        from workbench.export import write_html

        return write_html(self, Path(path))

    def image(
        self, path: str | os.PathLike[str], view: str, *, width: int = 900, height: int = 480, scale: float = 2.0, **options: Any
    ) -> Path:
        """Write one picture as a file and return its path; the ending says the format (.png, .svg, .pdf, .jpg, .webp).

        Args:
            view: a name from `record.views()`.
            width, height: in pixels. scale: pixels of the file for each of them (.svg and .pdf have none).
            options: as in `figure`.
        Raises:
            InputError: another ending, or kaleido, which draws without a page, is not installed.
            StorageError: the folder does not exist or the disk is full.
        """
        from workbench.export import write_image

        return write_image(self.figure(view, **options), _path(path), width=width, height=height, scale=scale)

    def __repr__(self) -> str:
        return f"<Record of {self.attrs.get('system', '?')!r}: {', '.join(self.groups) or 'no groups'}>"

    def _repr_html_(self) -> str:
        from workbench.export import record_summary

        return record_summary(self)

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        return {"text/plain": repr(self), "text/html": self._repr_html_()}

    def equals(self, other: Record) -> bool:
        """Return whether both hold the same groups, arrays (NaN equal to NaN) and attributes."""
        return self.tree.identical(other.tree)


def _path(path: Any) -> Path:
    """Return a path, or our own error for what cannot be one."""
    if not isinstance(path, (str, os.PathLike)) or not str(path).strip() or "\0" in str(path):
        raise InputError(expected("path", "the name of a file", repr(path)))
    return Path(path)


def _require_json(name: str, text: Any) -> None:
    try:
        found = json.loads(text) if text != "" else {}
    except (TypeError, ValueError):
        found = None
    if not isinstance(found, dict):
        raise RecordError(expected(f"record attribute {name!r}", "a JSON object", repr(text)[:60]))


def _plain_attrs(attrs: Mapping[str, Any]) -> dict[str, Any]:
    return {k: json.dumps(v, ensure_ascii=False) if isinstance(v, (dict, list)) else v for k, v in attrs.items()}
