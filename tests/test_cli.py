"""The command line: what stands on stdout, what on stderr, and the four exit codes."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import workbench as wb
from workbench import cli
from workbench.errors import Cancelled

pytestmark = pytest.mark.usefixtures("toy")


def lines(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.strip()]


def test_list(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.call(["list", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert {row["name"] for row in rows} == {row["name"] for row in wb.catalog().rows}
    assert cli.call(["list"]) == 0
    assert "rsd" in capsys.readouterr().out


def test_run_prints_json_and_nothing_else(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "toy.zarr.zip"
    line = ["run", "toy", "--steps", "3", "--scale=0.5", "--seed", "4", "--loud", "true", "--width", "[2, 1]"]
    assert cli.call([*line, "--prompt", "naïve ␣ --out", "--out", str(path), "--json"]) == 0
    out, err = capsys.readouterr()
    found = json.loads(out)
    assert found["attrs"]["system"] == "toy"
    assert found["attrs"]["knobs"]["width"] == [2, 1]
    assert found["attrs"]["knobs"]["prompt"] == "naïve ␣ --out"
    assert found["meters"]["draws_per_call"]["value"] == 3.0
    assert found["meters"]["worst"]["value"] is None
    assert "must not reach stdout" in err
    record = wb.load(path)
    assert record.knobs == found["attrs"]["knobs"]


def test_run_prints_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.call(["run", "toy", "--max-new-tokens", "3"]) == 2
    assert cli.call(["run", "toy"]) == 0
    out = capsys.readouterr().out
    assert "draws_per_call" in out
    assert "one draw" in out


def test_help_names_the_knobs(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.call(["run", "toy", "--help"]) == 0
    out = capsys.readouterr().out
    assert "--threshold" in out
    assert "1..50" in out
    assert cli.call(["--help"]) == 0
    assert "sweep" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("line", "code", "sentence"),
    [
        ("run toyy", 2, "Did you mean 'toy'"),
        ("run", 2, "NAME: expected the key of a system"),
        ("run toy --stepz 3", 2, "Did you mean 'steps'"),
        ("run toy --steps 99", 2, "steps: expected a whole number from 1 to 50 draws, got 99"),
        ("run toy --steps many", 2, "steps: expected a number, got 'many'"),
        ("run toy --steps", 2, "--steps: expected a value after it"),
        ("run toy steps 3", 2, "expected --KNOB VALUE, got 'steps'"),
        ("run toy --mode odd", 2, "mode: expected one of plain, fails, breaks, extra, got 'odd'"),
        ("run toy --mode breaks", 1, "Unexpected ZeroDivisionError: a bug. Run it again with --debug for the traceback."),
        ("run toy --out /nowhere/a.zarr.zip", 1, "The folder of '/nowhere/a.zarr.zip' does not exist"),
        ("nothing", 2, "No such command 'nothing'"),
        ("list --jso", 2, "No such option"),
        ("serve nothing", 2, "system: expected one of"),
        ("serve --port many", 2, "--port"),
        ("models push", 2, "Did you mean 'pull'"),
        ("export /nowhere.zarr.zip --html /tmp/a.html", 1, "Opening the record '/nowhere.zarr.zip' failed"),
        ("sweep toy --out /tmp/a.zarr.zip", 2, "--grid"),
        ("sweep toy --grid steps --out /tmp/a.zarr.zip", 2, "--grid: expected KNOB=a,b,c, got 'steps'"),
        ("sweep toy --grid stepz=1 --out /tmp/a.zarr.zip", 2, "Did you mean 'steps'"),
        ("sweep toy --grid steps=1,99 --out /tmp/a.zarr.zip", 2, "Setting 1: steps: expected a whole number"),
    ],
)
def test_errors_are_one_sentence_on_stderr(line: str, code: int, sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.call(line.split()) == code
    out, err = capsys.readouterr()
    assert sentence in err
    assert len(lines(err)) == 1
    assert "Traceback" not in err
    assert line.startswith("run") or not out


def test_debug_adds_the_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.call(["run", "toy", "--mode", "breaks", "--debug"]) == 1
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize("error", [Cancelled("Cancelled after 2 of 5."), KeyboardInterrupt()])
def test_cancelled_is_130(error: BaseException, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def stop(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("workbench.api.run", stop)
    assert cli.call(["run", "toy", "--out", str(tmp_path / "a.zarr.zip")]) == 130
    assert not os.listdir(tmp_path)


def test_sweep_saves_one_record(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "sweep.zarr.zip"
    grid = ["--grid", "steps=1,2", "--grid", "width=[2,1],3"]
    assert cli.call(["sweep", "toy", *grid, "--scale", "0.5", "--out", str(path)]) == 0
    out, err = capsys.readouterr()
    assert not out
    assert f"Saved {path}" in err
    record = wb.load(path)
    assert record["settings"]["width"].values.tolist() == ["[2, 1]", "3"] * 2
    np_scale = record["settings"]["scale"].values.tolist()
    assert np_scale == [0.5] * 4


def test_a_sweep_with_failures_is_saved_and_says_so(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "sweep.zarr.zip"
    assert cli.call(["sweep", "toy", "--grid", "mode=plain,fails", "--out", str(path)]) == 1
    assert "1 of 2 settings failed; the first: mode: expected anything but 'fails'" in capsys.readouterr().err
    assert wb.load(path)["meters"].sizes["setting"] == 2


def test_models_and_doctor(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.call(["models"]) == 0
    assert "smollm2-135m" in capsys.readouterr().out
    assert cli.call(["doctor"]) == 0
    out = capsys.readouterr().out
    for section in ("versions", "device", "threads", "models", "kernels", "browser"):
        assert section in out


def test_module_runs_and_listing_is_light() -> None:
    code = "import sys; from workbench import cli; assert cli.call(['list', '--json']) == 0; print(*sys.modules, file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)
    heavy = {"torch", "transformers", "numba", "cupy", "panel", "xarray"}
    assert heavy & {name.partition(".")[0] for name in done.stderr.split()} == set()
    done = subprocess.run([sys.executable, "-m", "workbench", "run", "rsdd"], capture_output=True, text=True)
    assert done.returncode == 2
    assert "Did you mean 'rsd'" in done.stderr


def test_control_c_of_a_real_run_is_130_and_leaves_nothing(tmp_path: Path) -> None:
    tables = ["--target", "table-target", "--draft", "table-draft", "--prompt", "[0]", "--num-samples", "1000000"]
    command = [sys.executable, "-m", "workbench", "run", "rsd", *tables, "--max-new-tokens", "4", "--depth", "2", "--width", "2"]
    path = tmp_path / "a.zarr.zip"
    process = subprocess.Popen(
        [*command, "--out", str(path), "--json"],
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        # A job in the background of a script inherits an ignored Ctrl-C, and Python then installs no handler for it.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    try:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.communicate(timeout=8)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130
    assert not out
    assert "Traceback" not in err
    assert not os.listdir(tmp_path)
