"""One simulated record for all pictures; a record of the real system where it is needed."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import pytest

from tests.views.geometry_groups import DEPTH_VIEWS
from tests.views.geometry_groups import record as depths
from tests.views.simulator import record as simulate
from workbench.record import Record


@pytest.fixture
def record(request: pytest.FixtureRequest) -> Record:
    """A simulated run with every group that the views draw; for views of depth, a small run on a ray-cast street."""
    name = getattr(request.node, "callspec", None) and request.node.callspec.params.get("name")
    return depths() if name in DEPTH_VIEWS else simulated()


@lru_cache(maxsize=1)
def simulated() -> Record:
    return simulate()


@pytest.fixture(scope="session")
def real() -> Record:
    """A run of recursive speculative decoding on table models, its output law checked."""
    import workbench as wb
    from workbench.models import TableLM

    rng = np.random.default_rng(3)
    target = rng.dirichlet(np.full(6, 0.6), 6)
    draft = 0.6 * target + 0.4 * rng.dirichlet(np.full(6, 0.7), 6)
    return wb.run(
        "rsd", target=TableLM(target), draft=TableLM(draft), prompt=[0, 3, 2], max_new_tokens=16, temperature=1.0, seed=1,
        method="rsd-s", depth=2, width=3, num_samples=200,
    )  # fmt: skip
