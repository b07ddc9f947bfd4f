"""Where a page is opened decides its form, and it says so; pictures outlive the kernel; the ipywidgets twin follows the knobs."""

from __future__ import annotations

import base64
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import ipywidgets as ipw
import nbformat
import numpy as np
import plotly.io as pio
import pytest

import workbench as wb
from tests.ui.walk import VIEWS, Walk
from widgets.bench import Bench
from widgets.notebook import Twin
from workbench import hosts, views
from workbench import system as systems
from workbench.errors import UnknownNameError
from workbench.record import Record
from workbench.tape import Tape


def shell(monkeypatch: pytest.MonkeyPatch, *, kernel: bool, **names: Any) -> None:
    """Put this code into IPython's shell: one with a kernel, or the one of a terminal."""
    fake = SimpleNamespace(user_ns=names, **({"kernel": object()} if kernel else {}))
    monkeypatch.setattr(hosts, "_shell", lambda: fake)


@pytest.mark.parametrize(
    ("kernel", "names", "environment", "host"),
    [
        (False, {}, {}, "terminal"),
        (True, {}, {}, "jupyter"),
        (True, {}, {"VSCODE_PID": "1"}, "vscode"),
        (True, {"__vsc_ipynb_file__": "a.ipynb"}, {}, "vscode"),
        (True, {}, {"COLAB_NOTEBOOK_ID": "x"}, "colab"),
        (False, {}, {"VSCODE_PID": "1"}, "terminal"),
    ],
)
def test_the_host_is_found(
    monkeypatch: pytest.MonkeyPatch, kernel: bool, names: dict[str, str], environment: dict[str, str], host: str
) -> None:
    for name in ("VSCODE_PID", "COLAB_NOTEBOOK_ID"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    shell(monkeypatch, kernel=kernel, **names)
    assert hosts.detect() == host
    assert hosts.get("auto").name == host


def test_a_plain_python_is_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hosts, "_shell", lambda: None)
    assert hosts.detect() == "terminal"


@pytest.mark.usefixtures("toy")
def test_open_picks_a_form_and_says_which(capsys: pytest.CaptureFixture[str]) -> None:
    live = wb.open("toy", host="jupyter", steps=3)
    assert isinstance(live, Bench)
    assert "Jupyter: the live page" in capsys.readouterr().out
    for host in ("vscode", "colab"):
        twin = wb.open("toy", host=host, steps=3)
        assert isinstance(twin, Twin)
        assert twin.system.values()["steps"] == 3
        assert "the same knobs as ipywidgets" in capsys.readouterr().out
    plain = wb.open("toy", host="terminal")
    assert isinstance(plain, Bench)
    out, err = capsys.readouterr()
    assert out == ""
    assert "`workbench serve toy`" in err
    wb.open("toy", host="server")
    assert capsys.readouterr() == ("", "")
    with pytest.raises(UnknownNameError, match="Did you mean 'jupyter'"):
        wb.open("toy", host="jupiter")


def test_no_knob_is_called_like_an_argument_of_open() -> None:
    for entry in systems.registry().values():
        assert "host" not in entry.load().knob_names()


# ---- the twin --------------------------------------------------------------------------------------------------------


@pytest.fixture
def twin(monkeypatch: pytest.MonkeyPatch) -> Twin:
    monkeypatch.setattr(views, "registry", lambda: VIEWS)
    monkeypatch.setattr(pio.renderers, "default", hosts.PLAIN_JUPYTER)
    return Twin(Walk(), Walk(length=5).record(Tape()))


def curve(twin: Twin) -> np.ndarray:
    y = twin.picture.outputs[0]["data"]["application/vnd.plotly.v1+json"]["data"][1]["y"]
    return np.frombuffer(base64.b64decode(y["bdata"]), y["dtype"]) if isinstance(y, dict) else np.asarray(y, float)


def test_the_twin_has_every_knob_and_a_live_one_redraws(twin: Twin) -> None:
    assert list(twin.knobs) == Walk.knob_names()
    before = curve(twin)
    twin.knobs["threshold"].value = 0.5
    assert curve(twin).sum() > before.sum()
    assert "beyond the threshold" in twin.words.value
    twin.step.value = 4
    assert twin.words.value.startswith("After step 4")
    twin.view.value = "walk_paths"
    assert twin.picture.outputs[0]["data"]["application/vnd.plotly.v1+json"]["data"][0]["type"] == "histogram"


def test_the_twin_runs_refuses_and_takes_presets(twin: Twin) -> None:
    twin.knobs["branching"].value = "99"
    assert "branching: expected" in twin.message.value
    assert twin.knobs["branching"].value == "auto", "the value that holds is shown"
    twin.knobs["motto"].value = "<img src=x onerror=alert(1)>"
    twin.knobs["length"].value = 3
    twin.run.click()
    assert twin.message.value == "measured here"
    assert twin.record.knobs["length"] == 3
    twin.knobs["motto"].value = "boom"
    twin.run.click()
    assert "Something went wrong inside" in twin.message.value
    presets = [b for b in twin.page.children[0].children[0].children if b.description == "small"]
    presets[0].click()
    assert twin.knobs["length"].value == 8
    assert twin.system.values()["walkers"] == 50


@pytest.mark.parametrize("key", sorted(systems.registry()))
def test_the_twin_of_every_system_opens_on_its_recorded_run(key: str) -> None:
    made = Twin(systems.get(key)())
    assert isinstance(made.record, Record)
    assert list(made.knobs) == systems.get(key).knob_names()
    assert made.words.value
    assert isinstance(made.page, ipw.HBox)
    assert made.system.values() == {**made.system.values(), **{n: v for n, v in made.record.knobs.items() if n in made.knobs}}


# ---- what nbconvert keeps --------------------------------------------------------------------------------------------

CELLS = """import workbench as wb
from widgets.recorded import recorded_run
record = recorded_run("rsd")
record
---
record.figure("token_tree", step=1)
---
record.figure("text_strip")
---
wb.compare(record, record).figure("text_strip")
---
wb.open("rsd", **record.knobs)
---
wb.open("rsd", host="vscode").page.children[1].children[3].outputs[0]["data"]["text/html"][:4]"""


@pytest.fixture(scope="module")
def executed(tmp_path_factory: pytest.TempPathFactory) -> Any:
    from nbclient import NotebookClient

    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(c) for c in CELLS.split("\n---\n")])
    return NotebookClient(
        book, timeout=240, kernel_name="python3", resources={"metadata": {"path": str(tmp_path_factory.mktemp("nb"))}}
    ).execute()


@pytest.mark.notebook
@pytest.mark.ui
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning", "ignore:Your element with mimetype")
def test_a_notebook_turned_into_html_keeps_its_pictures(executed: Any, browser: Any, tmp_path: Path) -> None:
    from nbconvert import HTMLExporter

    outputs = [o for c in executed.cells for o in c.outputs]
    shown = [o for o in outputs if "application/vnd.plotly.v1+json" in o.get("data", {})]
    assert len(shown) == 3, "JupyterLab and code hosts draw from this"
    loaders = [o for o in outputs if "workbenchPlotly ??=" in o.get("data", {}).get("text/html", "")]
    assert len(loaders) == 1, "plotly's script stands in the notebook once"
    assert len(loaders[0]["data"]["text/html"]) < 2_500_000, "Jupyter's server cuts what is above three megabytes"
    assert executed.cells[-1].outputs[-1]["data"]["text/plain"] == "'<div'"
    html, _ = HTMLExporter().from_notebook_node(executed)
    page = tmp_path / "book.html"
    page.write_text(html, encoding="utf-8")
    tab = browser.new_page()
    tab.route("**/*", lambda route: route.continue_() if route.request.url.startswith("file:") else route.abort())
    tab.goto(page.as_uri(), wait_until="domcontentloaded")
    tab.wait_for_function("() => document.querySelectorAll('.js-plotly-plot .main-svg').length >= 2 * 3")
    tab.locator("figure.picture[data-drawn] .js-plotly-plot").first.wait_for()
    assert tab.evaluate("document.querySelectorAll('.js-plotly-plot').length") == 3, "beside those of the live page"
    assert "Record of rsd" in tab.inner_text("body")
    tab.close()
