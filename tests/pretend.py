"""A device that is not there: tensors say that they lie on it, and every operation checks that its tensors lie together.

torch's own slot for devices of others (`privateuse1`) is given to a tensor that holds a processor's tensor. What a GPU would refuse
is refused here: operations on tensors of two places, `numpy()`, an index on the device into host memory. So a forgotten `.to(device)`
is found on a machine without a GPU.
"""

from __future__ import annotations

import contextlib
import copy
import functools
from collections.abc import Iterator
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

NAME = "pretend"
_aten = torch.ops.aten
#: May take tensors of two places: copies, and a host index into the device.
_COPIES = {_aten.copy_.default, _aten._to_copy.default}
_INDEXED = {_aten.index.Tensor, _aten.index_put_.default, _aten.index_put.default, _aten._index_put_impl_.default}


class There(torch.Tensor):
    """A tensor on the device; `held` is what it really is."""

    held: torch.Tensor

    @staticmethod
    def __new__(cls, held: torch.Tensor) -> There:
        with torch.inference_mode(False):
            made = torch.Tensor._make_wrapper_subclass(
                cls,
                held.size(),
                strides=held.stride(),
                storage_offset=held.storage_offset(),
                dtype=held.dtype,
                device=f"{NAME}:0",
            )
        made.held = held
        return made

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})

    def __repr__(self) -> str:  # type: ignore[override]
        return f"There({self.held!r})"

    def tolist(self) -> Any:
        return self.held.tolist()

    def __deepcopy__(self, memo: dict[int, Any]) -> There:
        return memo.setdefault(id(self), There(copy.deepcopy(self.held, memo)))


def _run(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """Do an operation in host memory; its results lie where its tensors do, or where it was told."""
    if _composite(func):
        with _Device():
            return func.decompose(*args, **kwargs)
    given = [t for t in tree_flatten((args, kwargs))[0] if isinstance(t, torch.Tensor)]
    there = [t for t in given if isinstance(t, There)]
    told = kwargs.get("device")
    on_device = torch.device(told).type == NAME if told is not None else bool(there)
    if told is not None and on_device:
        kwargs = kwargs | {"device": torch.device("cpu")}
    if func not in _COPIES and there:
        strangers = [t for t in given if not isinstance(t, There) and t.ndim]
        indexed = func in _INDEXED and isinstance(args[0], There) and not any(t is other for t in strangers for other in args[2:])
        if strangers and not indexed:
            raise RuntimeError(f"{func}: expected all tensors on one device, found some on {NAME}:0 and some on cpu")
    home = {id(t.held): t for t in there}
    if func is _aten.histc.default:  # a GPU counts whole numbers, the processor does not
        args = (args[0].float(), *args[1:])
    with torch.inference_mode(False), torch.no_grad():
        out = func(*tree_map(_held, args), **tree_map(_held, kwargs))
    if func is _aten.copy_.default:
        return args[0]

    def place(t: Any) -> Any:
        if not isinstance(t, torch.Tensor) or isinstance(t, There):
            return t
        if id(t) in home:
            return home[id(t)]
        return There(t) if on_device else t

    return tree_map(place, out)


@functools.cache
def _composite(func: Any) -> bool:
    """Return whether an operation is written in others, which then come here one by one."""
    name = getattr(func, "name", None)
    return name is not None and torch._C._dispatch_has_kernel_for_dispatch_key(name(), "CompositeImplicitAutograd")


def _held(t: Any) -> Any:
    return t.held if isinstance(t, There) else t


class _Device(TorchDispatchMode):
    """Lets factories make tensors on the device."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


class _Whole(TorchFunctionMode):
    """Runs what torch would hand to a kernel of the device by itself."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.nn.functional.scaled_dot_product_attention and any(issubclass(t, There) for t in types):
            return _run(func, args, kwargs or {})
        if func in (torch.Tensor.__getitem__, torch.Tensor.__setitem__) and isinstance(args[0], There):
            at = args[1] if isinstance(args[1], tuple) else (args[1],)
            args = (args[0], tuple(torch.tensor(i) if isinstance(i, list) else i for i in at), *args[2:])
        if func in (torch.tensor, torch.as_tensor) and (place := (kwargs or {}).get("device")) is not None:
            return func(*args, **{k: v for k, v in kwargs.items() if k != "device"}).to(place)
        return func(*args, **(kwargs or {}))


class _Module:
    """What torch asks of the device's module."""

    def is_available(self) -> bool:
        return True

    def device_count(self) -> int:
        return 1

    def current_device(self) -> int:
        return 0

    def _is_in_bad_fork(self) -> bool:
        return False

    def manual_seed_all(self, seed: int) -> None:
        pass


def possible() -> bool:
    """Return whether this torch lets Python code be a device."""
    return hasattr(torch.utils.backend_registration, "_setup_privateuseone_for_python_backend")


@contextlib.contextmanager
def device() -> Iterator[str]:
    """Let the device be there inside the block; give its name."""
    if torch._C._get_privateuse1_backend_name() != NAME:
        torch.utils.backend_registration._setup_privateuseone_for_python_backend(NAME, _Module())
    with _Device(), _Whole():
        yield NAME


def move(model: Any) -> Any:
    """Return the model with its weights on the device (what `model.to("cuda")` does)."""
    made: dict[int, tuple[Any, Any]] = {}  # with what was there: an id that is free again would be taken for it

    def there(t: Any) -> Any:
        if id(t) not in made:
            moved = There(t.detach())
            made[id(t)] = t, torch.nn.Parameter(moved, requires_grad=False) if isinstance(t, torch.nn.Parameter) else moved
        return made[id(t)][1]

    for module in model.modules():
        for held in (module._parameters, module._buffers):
            held.update({name: there(t) for name, t in held.items() if t is not None})
    return model
