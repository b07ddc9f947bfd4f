"""What a fresh checkout promises: a light import, exact versions, and text that stays true."""

from __future__ import annotations

import re
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
HEAVY = {
    "torch",
    "transformers",
    "numba",
    "cupy",
    "panel",
    "bokeh",
    "xarray",
    "zarr",
    "plotly",
    "param",
    "numpy",
    "pandas",
    "dask",
}


def imported_by(code: str) -> set[str]:
    show = f"{code}\nimport sys; print(*sorted({{m.partition('.')[0] for m in sys.modules}}))"
    done = subprocess.run([sys.executable, "-c", show], capture_output=True, text=True, check=True)
    return set(done.stdout.splitlines()[-1].split())


def test_import_is_light() -> None:
    assert imported_by("import workbench") & HEAVY == set()


def test_listing_systems_loads_no_model_library() -> None:
    found = imported_by("import workbench; rows = workbench.catalog().rows; assert rows")
    assert found & {"torch", "transformers", "numba", "cupy", "panel", "xarray"} == set()


def test_import_is_quick() -> None:
    """Best of five cold processes, the interpreter's own start taken off."""

    def seconds(code: str) -> float:
        start = time.perf_counter()
        subprocess.run([sys.executable, "-c", code], check=True)
        return time.perf_counter() - start

    bare = min(seconds("pass") for _ in range(5))
    ours = min(seconds("import workbench") for _ in range(5))
    print(f"import workbench: {1e3 * (ours - bare):.0f} ms beside {1e3 * bare:.0f} ms for the interpreter")
    assert ours - bare < 0.5


def _canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_constraints_are_exact_and_name_every_dependency() -> None:
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line and not line.startswith("#")]
    assert all(re.fullmatch(r"[a-z0-9-]+==[0-9][0-9a-z.]*", line) for line in lines), "one exact public version a line"
    pinned = {line.partition("==")[0] for line in lines}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    wanted = [*project["dependencies"], *extras["dev"], *extras["cuda"]]
    names = {_canonical(re.match(r"[\w.-]+", requirement).group()) for requirement in wanted}  # type: ignore[union-attr]
    assert names <= pinned
    assert "torch==2.13.0" in lines


def test_installed_versions_are_those_of_the_constraints() -> None:
    from importlib import metadata

    pins = dict(line.strip().split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    names = [_canonical(re.match(r"[\w.-]+", r).group()) for r in project["dependencies"]]  # type: ignore[union-attr]
    found = {name: metadata.version(name).partition("+")[0] for name in names}
    assert found == {name: pins[name] for name in names}


@pytest.mark.parametrize(
    "target", ["serve", "test", "lab", "bench", "lint", "model", "gpu-test", "gpu-bench", "binder-proof", "nightly", "audit"]
)
def test_make_knows_its_targets(target: str) -> None:
    done = subprocess.run(["make", "-n", target], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_serve_honours_port() -> None:
    done = subprocess.run(["make", "-n", "serve", "PORT=6123"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "serve --port 6123" in done.stdout
