import pytest

from workbench.errors import Cancelled
from workbench.progress import watched


def test_interrupt_becomes_cancelled() -> None:
    with pytest.raises(Cancelled, match="demo was interrupted"), watched("demo", progress=False):
        raise KeyboardInterrupt


def test_bar_shows_on_request_and_not_by_itself(capsys: pytest.CaptureFixture[str]) -> None:
    with watched("quiet") as tape:
        tape.step(1, 2)
    assert capsys.readouterr().err == ""
    with watched("loud", progress=True) as tape:
        tape.step(1, 2, phase="walking")
    shown = capsys.readouterr()
    assert shown.err != ""
    assert shown.out == ""
