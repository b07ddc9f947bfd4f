"""A light twin of the live page on ipywidgets, for notebook hosts where Panel's live messages do not get through.

The same knobs, the same views, one picture at a time; runs happen in the kernel, in the foreground.
"""

from __future__ import annotations

from typing import Any

import ipywidgets as ipw
import plotly.graph_objects as go
from plotly.io import to_html

from widgets import controls
from widgets.worker import sentence
from workbench import views
from workbench.record import Record
from workbench.system import KnobInfo, System


def notebook_bench(system: System, record: Record | None = None) -> ipw.Widget:
    """Return knobs, a run button, a choice of view and its picture as one ipywidget.

    Args:
        system: the system with the knob values to start from.
        record: a run to show before the first one is made.
    """
    return _Twin(system, record).page


class _Twin:
    def __init__(self, system: System, record: Record | None) -> None:
        self.system, self.record = system, record
        self.view = ipw.Dropdown(description="view")
        self.step = ipw.IntSlider(0, 0, 0, description="step", continuous_update=False)
        self.run = ipw.Button(description="Run", button_style="primary")
        self.message, self.picture, self.words = ipw.HTML(), ipw.Output(), ipw.HTML()
        self.knobs = {name: _widget(info, system) for name, info in system.knobs().items()}
        for name, widget in self.knobs.items():
            widget.observe(lambda change, name=name: self._moved(name, change["new"]), "value")
        self.run.on_click(lambda _: self._run())
        for widget in (self.view, self.step):
            widget.observe(lambda _: self._draw(), "value")
        left = ipw.VBox([*self.knobs.values(), self.run], layout=ipw.Layout(width="340px"))
        right = ipw.VBox([self.message, ipw.HBox([self.view, self.step]), self.picture, self.words])
        self.page = ipw.HBox([left, right])
        if record is not None:
            self._show(record)

    def _moved(self, name: str, raw: Any) -> None:
        try:
            self.system.set(**{name: controls.read(self.system, name, raw, public=False)})
            self.message.value = ""
            if self.system.knobs()[name].live and self.record is not None:
                self.record = self.system.rederive(self.record)
                self._draw()
        except Exception as error:
            self.message.value = sentence(error)

    def _run(self) -> None:
        self.message.value = "running ..."
        try:
            self._show(self.system.record())
            self.message.value = ""
        except Exception as error:
            self.message.value = sentence(error)

    def _show(self, record: Record) -> None:
        self.record = record
        found = views.for_record(record)
        self.view.options = [(view.question, view.name) for view in sorted(found, key=self._rank)]
        self._draw()

    def _rank(self, view: views.View) -> int:
        return self.system.shows.index(view.name) if view.name in self.system.shows else len(self.system.shows)

    def _draw(self) -> None:
        if self.record is None or self.view.value is None:
            return
        view = views.get(self.view.value)
        if view.steps:
            self.step.max = max(0, int(self.record[view.steps]["step"].values.max(initial=0)))
        options = {"step": self.step.value} if "step" in view.options() else {}
        figure = view.figure(self.record, **options)
        self.words.value = view.describe(self.record, **options)
        self._display(figure)

    def _display(self, figure: go.Figure) -> None:
        """Show a figure as HTML with its own plotly.js: figure widgets fail in several hosts."""
        html = to_html(figure, include_plotlyjs="require", full_html=False)
        self.picture.outputs = ({"output_type": "display_data", "data": {"text/html": html}, "metadata": {}},)


def _widget(info: KnobInfo, system: System) -> ipw.Widget:
    """Return the ipywidget of a knob, with its present value."""
    value, kind = controls.shown(system)[info.name], controls.kind(info)
    common: dict[str, Any] = {"description": info.label, "tooltip": info.doc, "style": {"description_width": "110px"}}
    if kind == "check":
        return ipw.Checkbox(bool(value), **common)
    if kind == "choice":
        return ipw.Dropdown(options=[controls.spell(c) for c in info.choices or ()], value=value, **common)
    if kind == "range" and value is not None:
        low, high = info.bounds or (0, 1)
        make = ipw.IntSlider if isinstance(info.default, int) else ipw.FloatSlider
        return make(value=value, min=low, max=high, step=controls.spec(type(system))[_at(info, system)]["step"], **common)
    return (ipw.Textarea if kind == "text" else ipw.Text)(controls.spell(value), continuous_update=False, **common)


def _at(info: KnobInfo, system: System) -> int:
    return system.knob_names().index(info.name)
