"""One place sets the thread pools."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from workbench import threads
from workbench.errors import InputError


def run_fresh(code, **environment):
    import os

    keep = {k: v for k, v in os.environ.items() if not k.startswith(("NUMBA_", "OMP_", "WORKBENCH_", "GOMP_"))}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=keep | environment)
    return done.stdout.strip()


def test_environment_decides_the_size_of_every_pool():
    code = "from workbench import threads; import torch; threads.configure(); print(threads.report())"
    report = eval(run_fresh(code, WORKBENCH_THREADS="1"))
    assert (report["numba_threads"], report["torch_threads"]) == (1, 1)
    assert threads.wanted(3) == 3


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="one OpenMP under both is a matter of Linux's linker")
def test_torch_and_numba_share_one_openmp():
    code = (
        "from workbench import threads; threads.prepare(); import torch; torch.ones(9).sum();"
        "print(len(threads.report()['openmp_libraries']), threads.report()['layer'])"
    )
    count, layer = run_fresh(code).split()
    if layer != "omp":
        pytest.skip(f"Numba runs on {layer} here")
    assert count == "1"


def test_compiled_code_lives_in_a_folder_of_this_source_version():
    code = "from workbench import kernels; import numba; print(numba.config.CACHE_DIR)"
    assert Path(run_fresh(code)).parent == Path(threads._cache()).parent
    assert run_fresh(code, NUMBA_CACHE_DIR="/tmp/elsewhere") == "/tmp/elsewhere"


@pytest.mark.parametrize("bad", [0, -1, "many", None])
def test_a_bad_number_of_threads_is_an_error(monkeypatch, bad):
    monkeypatch.setenv("WORKBENCH_THREADS", "no" if bad is None else "")
    with pytest.raises(InputError, match="whole number of at least 1"):
        threads.wanted(bad)


def test_workqueue_calls_are_serialised(monkeypatch):
    monkeypatch.setattr(threads, "_layer", lambda: "workqueue")
    assert threads.guard() is threads._workqueue_lock


def test_a_package_that_another_thread_is_still_importing_is_not_taken_for_whole(tmp_path: Path) -> None:
    """A page replays a run while torch still loads in the background: kernels must not look into half of it."""
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").write_text(
        "import time\nfrom torch import gate\ngate.inside.set()\ngate.go.wait(30)\nclass Tensor: pass\n"
    )
    (tmp_path / "torch" / "gate.py").write_text("import threading\ninside, go = threading.Event(), threading.Event()\n")
    code = """
import sys, threading
import numpy as np
from workbench import kernels, threads
thread = threading.Thread(target=lambda: __import__("torch"))
thread.start()
while not hasattr(sys.modules.get("torch.gate"), "go"): pass
sys.modules["torch.gate"].inside.wait(30)
half = threads.whole("torch")
slot = kernels.expert_dispatch(np.zeros((4, 1), np.int64), np.ones((4, 1), np.float32), 2, 2).slot
sys.modules["torch.gate"].go.set()
thread.join()
print([half is None, hasattr(threads.whole("torch"), "Tensor"), slot.shape[0] == 4])
"""
    assert eval(run_fresh(code, PYTHONPATH=str(tmp_path))) == [True, True, True]
