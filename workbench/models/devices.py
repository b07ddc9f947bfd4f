"""Where a model lies: the one place that asks, so that a model which was moved to a GPU, or spread over several, works everywhere.

Inputs go to the device of the model (`beside`), results come back as numpy arrays (`.cpu().numpy()`), and what is derived from a
model is derived anew when the model has moved (`made_once`).
"""

from __future__ import annotations

import functools
import threading
import weakref
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np

Made = TypeVar("Made")


def device_of(model: Any) -> Any:
    """Return the device that token ids go to: that of the first weights that lie on one (offloaded weights lie on none)."""
    import torch

    parameters: Any = getattr(model, "parameters", tuple)
    return next((p.device for p in parameters() if p.device.type != "meta"), torch.device("cpu"))


def beside(model: Any, numbers: Any) -> Any:
    """Return an array (or lists of numbers) as a tensor on the device that the model reads from."""
    import torch

    return torch.from_numpy(np.asarray(numbers)).to(device_of(model))


def made_once(make: Callable[[Any], Made]) -> Callable[[Any], Made]:
    """Return `make(model)` as a function that works once for each model and place: a moved model leaves old buffers behind in a view."""
    made: weakref.WeakKeyDictionary[Any, dict[Any, Made]] = weakref.WeakKeyDictionary()
    lock = threading.Lock()

    @functools.wraps(make)
    def kept(model: Any) -> Made:
        place = device_of(model)
        with lock:
            places = made[model] if model in made else {}  # noqa: SIM401 - get fails on what no weak reference can hold
            if place not in places:
                places[place] = make(model)  # refuses what is no model
                made[model] = places
            return places[place]

    return kept
