"""The tape: columns as written, laps, progress, and a cancel that answers at the next step."""

from __future__ import annotations

import threading
import time
from typing import Any

import numpy as np
import pytest

from workbench.errors import Cancelled
from workbench.tape import NullTape, Progress, Tape


def test_scalars_repeat_to_the_longest_array() -> None:
    tape = Tape()
    tape.write("tree", step=0, node=np.arange(3), piece=["a", "b", "c"], kind="first")
    tape.write("tree", step=1, node=[0], piece=["dé"], kind="second, longer")
    columns = tape.columns()["tree"]
    np.testing.assert_array_equal(columns["step"], [0, 0, 0, 1])
    np.testing.assert_array_equal(columns["node"], [0, 1, 2, 0])
    assert columns["piece"].tolist() == ["a", "b", "c", "dé"]
    assert columns["kind"].tolist() == ["first"] * 3 + ["second, longer"]


def test_an_empty_chunk_adds_no_rows() -> None:
    tape = Tape()
    tape.write("tree", step=0, node=np.array([], int))
    tape.write("tree", step=1, node=[4, 5])
    np.testing.assert_array_equal(tape.columns()["tree"]["step"], [1, 1])


def test_columns_may_be_read_while_the_run_goes_on() -> None:
    tape = Tape()
    tape.write("curve", x=1.0)
    early = tape.columns()
    tape.write("curve", x=2.0)
    np.testing.assert_array_equal(early["curve"]["x"], [1.0])
    np.testing.assert_array_equal(tape.columns()["curve"]["x"], [1.0, 2.0])


def test_columns_while_another_thread_writes() -> None:
    tape, stop = Tape(), threading.Event()

    def write() -> None:
        for i in range(2_000):
            if stop.is_set():
                return
            tape.write(f"curve/{i % 50}", x=float(i), y=float(i))

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for _ in range(20):
            for columns in tape.columns().values():
                np.testing.assert_array_equal(columns["x"], columns["y"])
    finally:
        stop.set()
        writer.join()


def test_a_group_that_is_being_begun_is_not_there_yet() -> None:
    class Begun(dict[str, list[dict[str, Any]]]):
        """Another thread's `write`, stopped between the group and its first rows."""

        def setdefault(self, group: str, rows: Any = None) -> Any:
            rows = super().setdefault(group, rows)
            seen.append(tape.columns())
            return rows

    seen: list[dict[str, Any]] = []
    tape = Tape()
    tape._rows = Begun()
    tape.write("curve", x=1.0)
    tape.write("curve", x=2.0)
    assert [list(columns.get("curve", {}).get("x", [])) for columns in seen] == [[], [1.0]]
    assert "curve" not in seen[0]


def test_attributes_of_a_group_add_up() -> None:
    tape = Tape()
    tape.describe("curve", x_label="step")
    tape.describe("curve", y_label="ms")
    assert tape.attrs == {"curve": {"x_label": "step", "y_label": "ms"}}


def test_laps_add_up_by_name_and_start_again() -> None:
    tape = Tape()
    for _ in range(2):
        with tape.timed("draft"):
            time.sleep(0.01)
    with pytest.raises(ZeroDivisionError), tape.timed("fails"):
        raise ZeroDivisionError
    lap = tape.lap()
    assert set(lap) == {"draft", "fails"}
    assert lap["draft"] >= 20
    assert tape.lap() == {}


def test_null_tape_has_the_same_calls_and_keeps_nothing() -> None:
    assert {n for n in vars(NullTape) if not n.startswith("_")} - {"recording"} <= set(dir(Tape))
    tape = NullTape()
    tape.write("tree", node=[1])
    with tape.timed("draft"):
        pass
    assert tape.lap() == {}
    assert not tape.recording
    assert Tape.recording


@pytest.mark.parametrize("kind", [NullTape, Tape])
def test_step_reports_and_answers_a_cancel(kind: type[NullTape]) -> None:
    seen: list[Progress] = []
    cancel = threading.Event()
    tape = kind(lambda progress, _: seen.append(progress), cancel)
    tape.step(1, 3, "a", "decoding")
    cancel.set()
    with pytest.raises(Cancelled, match="Cancelled after 2 of 3"):
        tape.step(2, 3)
    assert seen == [Progress(1, 3, "a", "decoding")]
