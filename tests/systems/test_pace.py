"""The thread choice: quiet machines stay on all threads, busy ones move to one and come back."""

from __future__ import annotations

from workbench.models.pace import FIRST_TRIAL, Pace, _Work


def test_quiet_calls_never_leave_all_threads() -> None:
    work = _Work()
    for _ in range(100):
        assert work.alone == 0
        Pace._learn(work, 0.020, alone=False)


def test_a_stall_moves_to_one_thread_and_a_recovery_moves_back() -> None:
    work = _Work()
    for _ in range(5):
        Pace._learn(work, 0.020, alone=False)
    Pace._learn(work, 0.500, alone=False)
    assert work.alone == 1  # one call alone, to know what it takes
    Pace._learn(work, 0.040, alone=True)
    Pace._learn(work, 0.500, alone=False)
    assert work.alone == FIRST_TRIAL
    for _ in range(FIRST_TRIAL):
        Pace._learn(work, 0.040, alone=True)
    assert work.alone == 0
    Pace._learn(work, 0.500, alone=False)
    assert work.alone == 2 * FIRST_TRIAL
    work.alone = 0
    Pace._learn(work, 0.021, alone=False)
    assert work.alone == 0
    assert work.patience == FIRST_TRIAL
