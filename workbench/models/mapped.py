"""Packed weights in files that every process maps: a page server and a notebook then hold one copy between them.

Off unless WORKBENCH_SHARE_WEIGHTS=1 (the small container of `binder/` sets it): memory of one's own is backed by larger pages.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock

#: Makes room for one array, by name, shape and dtype; `fill` is called with it, unless a file already holds what it would write.
Room = Callable[[str, tuple[int, ...], Any, Callable[[np.ndarray], None]], np.ndarray]


def own_memory(name: str, shape: tuple[int, ...], dtype: Any, fill: Callable[[np.ndarray], None]) -> np.ndarray:
    """Return a filled array in this process's own memory, at an address that whole vectors can be loaded from."""
    import torch

    array = torch.empty(shape, dtype=torch.from_numpy(np.empty(0, dtype)).dtype).numpy()
    fill(array)
    return array


def room_for(module: Any, name: str, dtype: str) -> Room:
    """Return the room for the packed weights of a model: files where sharing is asked for, own memory otherwise."""
    if os.environ.get("WORKBENCH_SHARE_WEIGHTS") != "1":
        return own_memory
    from workbench.models.hub import cache_folder

    folder = cache_folder() / "packed" / f"{Path(name).name}-{dtype}-{fingerprint(module)}"
    return lambda key, shape, kind, fill: _mapped(folder / f"{key}.npy", shape, kind, fill)


def fingerprint(module: Any) -> str:
    """Return a hash of a model's shapes and of all its small tensors: another checkpoint has others."""
    digest = blake2b(digest_size=8)
    for name, tensor in module.state_dict().items():
        digest.update(f"{name} {tuple(tensor.shape)}".encode())
        digest.update((tensor if tensor.ndim == 1 else tensor[:1]).detach().numpy().tobytes())
    return digest.hexdigest()


def _mapped(path: Path, shape: tuple[int, ...], dtype: Any, fill: Callable[[np.ndarray], None]) -> np.ndarray:
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{path}.lock"):
        if not path.exists():
            with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
                made = np.lib.format.open_memmap(Path(scratch) / path.name, "w+", dtype, shape)
                fill(made)
                made.flush()
                shutil.move(Path(scratch) / path.name, path)
    return np.asarray(np.load(path, mmap_mode="c", allow_pickle=False))
