"""Sweeps: threads, processes and a cluster give one record; killed, cancelled and failing ones lose nothing that was done."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import workbench as wb
from tests.slow import Slow, Weights, lines
from workbench import cli, sweep_pool
from workbench import system as systems
from workbench.errors import Cancelled, InputError, StorageError
from workbench.sweep_journal import Journal, digest
from workbench.sweeping import run_sweep
from workbench.tape import Tape

ROOT = Path(__file__).resolve().parent.parent
pytestmark = [pytest.mark.filterwarnings("ignore::ResourceWarning"), pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")]  # fmt: skip


@pytest.fixture(autouse=True)
def slow(monkeypatch: pytest.MonkeyPatch) -> None:
    entries = {**systems.registry(), "slow": systems.Entry("slow", "tests.slow:Slow")}
    monkeypatch.setattr(systems, "registry", lambda: entries)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Two worker processes of this machine."""
    from distributed import Client, LocalCluster

    with (
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address="127.0.0.1:0", silence_logs=logging.ERROR) as local,
        Client(local) as client,
    ):
        yield client


def settings(count: int) -> list[dict[str, Any]]:
    return [{"item": i} for i in range(count)]


def same(one: wb.Record, other: wb.Record) -> None:
    assert one.groups == other.groups
    for group in one.groups:
        assert one[group].identical(other[group])


def test_threads_processes_and_a_cluster_give_one_record(cluster: Any) -> None:
    grid = {"item": [3, 13, 5], "seed": [0, 1]}
    here = wb.sweep("slow", grid)
    same(here, wb.sweep("slow", grid, workers=3))
    same(here, wb.sweep("slow", grid, cluster))
    same(here, wb.sweep("slow", grid, cluster.scheduler.address))
    same(here, wb.sweep("slow", grid, "processes", workers=1))
    assert [bool(e) for e in here["settings"]["error"].values] == [False, False, True, True, False, False]
    assert "item: expected anything but 13" in here["settings"]["error"].values[2]


def test_threads_run_as_many_at_once_as_asked(tmp_path: Path) -> None:
    most, now, lock = [0], [0], threading.Lock()

    class Counting(Slow):
        def run(self, tape: Any) -> None:
            with lock:
                now[0] += 1
                most[0] = max(most[0], now[0])
            super().run(tape)
            with lock:
                now[0] -= 1

    for workers, wanted in ((None, 1), (3, 3)):
        most[0] = 0
        run_sweep(Counting, settings(3), {"pause_s": 0.3}, workers=workers)
        assert most[0] == wanted


def test_a_killed_worker_loses_nothing(cluster: Any, tmp_path: Path) -> None:
    """One of two workers is killed while it works: every setting is there, and none that had finished ran again."""
    trace, arrived = tmp_path / "trace", []
    shared = {"trace": str(trace), "pause_s": 0.3}
    victim = next(iter(cluster.run(os.getpid).values()))

    def kill(index: int, outcome: Any) -> None:
        arrived.append(index)
        if len(arrived) == 2:
            os.kill(victim, signal.SIGKILL)

    record = run_sweep("slow", settings(8), shared, client=cluster, arrived=kill)
    assert not any(record["settings"]["error"].values)
    np.testing.assert_array_equal(record["meters"]["value"].values[:, 0], 1.0 + np.arange(8))
    same_numbers = run_sweep("slow", settings(8), {})["meters"]["value"]
    np.testing.assert_array_equal(record["meters"]["value"], same_numbers)
    runs = Counter(int(words[1]) for words in lines(trace))
    assert set(runs) == set(range(8))
    assert all(runs[i] == 1 for i in arrived[:2])
    assert sum(runs.values()) <= 9  # at most the one that was between its last line and its file when it was killed


@pytest.mark.parametrize("workers", [1, 2])
def test_a_setting_that_kills_its_workers_is_a_sentence(tmp_path: Path, workers: int) -> None:
    """And those that stood in the queue of the workers it killed are not blamed."""
    import dask
    from distributed import Client, LocalCluster

    with dask.config.set({"distributed.scheduler.allowed-failures": 0}):
        with (
            LocalCluster(
                n_workers=workers, threads_per_worker=1, dashboard_address="127.0.0.1:0", silence_logs=logging.CRITICAL
            ) as local,
            Client(local) as client,
        ):
            record = run_sweep("slow", [{"item": i} for i in (0, 1, 666, 3, 4, 5)], {}, client=client, journal=tmp_path / "parts")
    errors = record["settings"]["error"].values
    assert "Every worker that took this setting died" in errors[2]
    assert [bool(e) for e in errors] == [False, False, True, False, False, False]
    assert Journal(tmp_path / "parts", Slow).found({"item": 666}) is None, "a lost worker is no result"


def test_objects_reach_each_worker_once(cluster: Any, tmp_path: Path) -> None:
    """A loaded model in a shared knob is unpacked once in every worker, not once for every setting."""
    trace = tmp_path / "unpacked"
    cluster.run(lambda: 0)
    record = run_sweep("slow", settings(10), {"model": Weights(str(trace))}, client=cluster)
    assert not any(record["settings"]["error"].values)
    unpacked = Counter(words[1] for words in lines(trace))
    assert unpacked
    assert len(unpacked) <= 3, "two workers, and the process that makes it"
    assert max(unpacked.values()) <= 2
    assert sum(unpacked.values()) < 10


def _loads(names: list[str]) -> int:
    from workbench.models import hub

    return sum(hub.load(name) is hub.load(name) for name in names)


def test_a_named_model_is_loaded_once_in_a_worker(cluster: Any) -> None:
    assert set(cluster.run(_loads, ["table-target"]).values()) == {1}


def test_a_cancel_reaches_the_workers(cluster: Any, tmp_path: Path) -> None:
    trace, tape = tmp_path / "trace", Tape()
    threading.Timer(1.0, tape.cancel.set).start()
    began = time.monotonic()
    with pytest.raises(Cancelled):
        run_sweep("slow", settings(6), {"pause_s": 20, "trace": str(trace)}, client=cluster, tape=tape)
    assert time.monotonic() - began < 6
    quick = run_sweep("slow", settings(2), {}, client=cluster)  # the workers are free again
    assert not any(quick["settings"]["error"].values)
    assert time.monotonic() - began < 12
    assert lines(trace) == []


def test_a_cancel_in_threads_keeps_what_was_finished(tmp_path: Path) -> None:
    tape = Tape()
    count = []

    def arrived(index: int, outcome: Any) -> None:
        count.append(index)
        if len(count) == 2:
            tape.cancel.set()

    with pytest.raises(Cancelled):
        run_sweep("slow", settings(5), {"pause_s": 0.1}, journal=tmp_path / "parts", tape=tape, arrived=arrived)
    assert len(list((tmp_path / "parts").glob("*.run.zarr.zip"))) == 2


SCRIPT = """
import sys
from tests.slow import Slow
from workbench.sweeping import run_sweep
if __name__ == "__main__":
    trace, journal, where = sys.argv[1:]
    record = run_sweep(Slow, [{"item": i} for i in (0, 1, 2, 13, 4, 5)], {"trace": trace, "pause_s": 0.25}, client=where, journal=journal)
    print(*record["meters"]["value"].values.ravel())
"""


@pytest.mark.parametrize("where", ["threads", "processes"])
def test_a_sweep_that_was_killed_goes_on_where_it_stood(where: str, tmp_path: Path) -> None:
    """kill -9 in the middle, the same call again: nothing that had finished runs a second time."""
    trace, journal, script = tmp_path / "trace", tmp_path / "parts", tmp_path / "go.py"
    script.write_text(SCRIPT)
    command = [sys.executable, str(script), str(trace), str(journal), where]
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    first = subprocess.Popen(
        command, cwd=ROOT, env=env, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 60
    while len(list(journal.glob("*.run.zarr.zip"))) < 3:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    finished = len(list(journal.glob("*.run.zarr.zip")))
    assert not list(journal.glob("*.partial")) or finished < 6
    second = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=120)
    assert second.returncode == 0, second.stderr
    runs = Counter(words[1] for words in lines(trace))
    assert set(runs) == {"0", "1", "2", "4", "5"}
    assert sum(runs.values()) <= 5 + 2  # what was on its way when it was killed may run again, what had finished may not
    assert "settings were done already" in second.stderr
    whole = run_sweep("slow", [{"item": i} for i in (0, 1, 2, 13, 4, 5)], {})
    np.testing.assert_array_equal(np.array(second.stdout.split(), float), whole["meters"]["value"].values.ravel())


def test_a_finished_setting_is_never_run_again(tmp_path: Path) -> None:
    trace, journal = tmp_path / "trace", tmp_path / "parts"
    shared = {"trace": str(trace)}
    first = run_sweep("slow", [*settings(3), {"item": 13}], shared, journal=journal)
    same(first, run_sweep("slow", [*settings(3), {"item": 13}], shared, journal=journal))
    assert len(lines(trace)) == 3
    longer = run_sweep("slow", settings(5), shared, journal=journal)
    assert len(lines(trace)) == 5
    np.testing.assert_array_equal(longer["meters"]["value"].values[:, 0], 1.0 + np.arange(5))
    run_sweep("slow", settings(3), shared | {"seed": 1}, journal=journal)
    assert len(lines(trace)) == 8, "another seed is another setting"


def test_a_damaged_part_is_run_again(tmp_path: Path) -> None:
    trace, journal = tmp_path / "trace", tmp_path / "parts"
    first = run_sweep("slow", settings(2), {"trace": str(trace)}, journal=journal)
    path = sorted(journal.glob("*.run.zarr.zip"))[0]
    path.write_bytes(path.read_bytes()[:100])
    same(first, run_sweep("slow", settings(2), {"trace": str(trace)}, journal=journal))
    assert len(lines(trace)) == 3


def test_two_tables_are_two_settings() -> None:
    from workbench.models import TableLM

    a, b = TableLM(np.eye(2)), TableLM(np.eye(2)[::-1])
    assert digest(Slow, {"model": a}) == digest(Slow, {"model": TableLM(np.eye(2))})
    assert digest(Slow, {"model": a}) != digest(Slow, {"model": b})
    with pytest.raises(InputError, match="Sweep it without `journal`"):
        digest(Slow, {"model": threading.Lock()})


def test_a_system_that_others_cannot_import_is_said_at_once(cluster: Any) -> None:
    class Local(Slow):
        pass

    with pytest.raises(InputError, match="Move the class into a module, or sweep it in threads"):
        run_sweep(Local, settings(2), {}, client=cluster)


def test_wrong_places_and_counts_are_sentences(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="workers: expected a whole number from 1, got 0"):
        wb.sweep("slow", {"item": [1]}, workers=0)
    with pytest.raises(StorageError, match=r"The sweep's folder .* cannot be made"):
        wb.sweep("slow", {"item": [1]}, journal=tmp_path / "no" / "such")


def test_the_command_line_resumes_and_tidies_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trace, out = tmp_path / "trace", tmp_path / "sweep.zarr.zip"
    line = ["sweep", "slow", "--grid", "item=" + ",".join(map(str, range(12))), "--trace", str(trace), "--out", str(out)]
    real, count = sweep_pool.run_setting, []

    def twice(*args: Any) -> Any:
        count.append(1)
        if len(count) == 5:
            raise KeyboardInterrupt
        return real(*args)

    monkeypatch.setattr(sweep_pool, "run_setting", twice)
    assert cli.call(line) == 130
    assert not out.exists()
    monkeypatch.setattr(sweep_pool, "run_setting", real)
    assert cli.call(line) == 0
    assert [words[1] for words in lines(trace)] == [str(i) for i in range(12)]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["sweep.zarr.zip", "trace"]
    assert cli.call([*line[:-1], str(tmp_path / "b.zarr.zip"), "--scheduler", "threads", "--workers", "2"]) == 0
    assert wb.load(tmp_path / "b.zarr.zip").attrs["ran_on"] == "2 of dask's threads"


def test_what_the_machine_failed_is_run_again_by_the_same_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    trace, out = tmp_path / "trace", tmp_path / "sweep.zarr.zip"
    line = ["sweep", "slow", "--grid", "item=0,1,2,13", "--trace", str(trace), "--out", str(out)]
    plain, full = (
        Slow.run,
        [MemoryError("no room"), OSError(28, "No space left"), RuntimeError("DefaultCPUAllocator: can't allocate memory")],
    )

    def unlucky(self: Slow, tape: Any) -> None:
        if full and self.item != 13:
            raise full.pop()
        plain(self, tape)

    monkeypatch.setattr(Slow, "run", unlucky)
    assert cli.call(line) == 1
    said = capsys.readouterr().err
    assert "3 of 4 settings were lost to the machine" in said or "Every setting failed" in said
    assert cli.call(line) == 1  # setting 13 fails by itself, whatever the machine
    errors = wb.load(out)["settings"]["error"].values.tolist()
    assert [bool(e) for e in errors] == [False, False, False, True]
    assert not out.with_name(f"{out.name}.parts").exists()


def test_another_version_runs_its_settings_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    before = digest(Slow, {"item": 1})
    monkeypatch.setattr("importlib.metadata.version", lambda name: "99")
    assert digest(Slow, {"item": 1}) != before


def test_a_knob_twice_in_a_grid_is_an_error() -> None:
    with pytest.raises(InputError, match=r"--grid: expected item once, with all its values, got it twice\. Write item=a,b,c"):
        cli.parse_grid(Slow, ["item=1,2", "item=3"])


def test_every_view_can_draw_a_sweep() -> None:
    """A picture of single runs is drawn once for each setting, on shared scales; its words name each setting."""
    tables = {"prompt": [0], "target": "table-target", "draft": "table-draft", "max_new_tokens": 3}
    record = wb.sweep("rsd", {"depth": [1, 2]}, **tables)
    assert {"speed_quality", "token_tree", "text_strip"} <= set(record.views())
    for name in record.views():
        assert record.figure(name).data, name
        assert record.text(name), name
    assert "depth 2" in record.text("token_tree")
    drawn = record.figure("token_tree").data
    alone = [record.figure("token_tree", setting=i).data for i in (0, 1)]
    assert len(drawn) == sum(map(len, alone))
