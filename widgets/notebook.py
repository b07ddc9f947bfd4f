"""A light twin of the live page on ipywidgets, for notebook hosts where Panel's live messages do not get through.

The same knobs, the same views, one picture at a time; runs happen in the kernel, in the foreground. It opens on the run that
the system ships, so that there is a picture before any model is loaded.
"""

from __future__ import annotations

from html import escape
from typing import Any

import ipywidgets as ipw

from widgets import controls
from widgets.recorded import recorded_run
from widgets.worker import sentence
from workbench import export, hosts, views
from workbench.errors import WorkbenchError
from workbench.record import Record
from workbench.system import KnobInfo, System


class Twin:
    """Knobs, presets, a run button, a choice of view, its picture and its words as one ipywidget (`.page`).

    Args:
        system: the system with the knob values to start from.
        record: a run to show before the first one is made.
        ran: without a record, open on the run that the system ships, and with its knobs.
    """

    def __init__(self, system: System, record: Record | None = None, *, ran: bool = True) -> None:
        self.system = system
        shipped = recorded_run(system.key) if record is None else None
        self.record = record or shipped
        if shipped is not None and ran:
            self._take_knobs(shipped)
        self._quiet = False  # a control that is only brought up to date has not been moved
        self.view = ipw.Dropdown(description="view", layout=ipw.Layout(width="420px"))
        self.step = ipw.IntSlider(0, 0, 0, description="step", continuous_update=False)
        self.run = ipw.Button(description="Run", button_style="primary", tooltip="run with these knobs, in this kernel")
        self.message, self.picture, self.words = ipw.HTML(), ipw.Output(), ipw.HTML()
        self.meters = ipw.HTML()
        self.knobs = {name: _widget(info, system) for name, info in system.knobs().items()}
        for name, widget in self.knobs.items():
            widget.observe(lambda change, name=name: self._moved(name, change["new"]), "value")
        self.run.on_click(lambda _: self._run())
        for widget in (self.view, self.step):
            widget.observe(lambda _: self._draw(), "value")
        presets = [self._preset(name) for name in type(system).presets]
        left = ipw.VBox([ipw.HBox(presets), *self.knobs.values(), self.run], layout=ipw.Layout(width="360px"))
        right = ipw.VBox([self.message, self.meters, ipw.HBox([self.view, self.step]), self.picture, self.words])
        self.page = ipw.HBox([left, right])
        if self.record is not None:
            self._show(system.rederive(self.record), "the recorded run" if shipped is not None else "")

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> Any:
        return self.page._repr_mimebundle_(include=include, exclude=exclude)

    def _take_knobs(self, record: Record) -> None:
        known = {n: v for n, v in record.knobs.items() if n in self.system.knob_names()}
        for name, value in known.items():
            try:
                self.system.set(**{name: value})
            except WorkbenchError:
                continue  # a record of an older version may hold a value that is gone

    def _preset(self, name: str) -> ipw.Widget:
        button = ipw.Button(description=name, layout=ipw.Layout(width="auto"))
        button.on_click(lambda _: self._choose(name))
        return button

    def _choose(self, name: str) -> None:
        self.system.set(**type(self.system).presets[name])
        self._refresh()
        self._derive()

    def _moved(self, name: str, raw: Any) -> None:
        if self._quiet:
            return
        try:
            self.system.set(**{name: controls.read(self.system, name, raw, public=False)})
            self._say("")
            if self.system.knobs()[name].live:
                self._derive()
        except Exception as error:
            self._say(sentence(error))
            self._refresh()

    def _derive(self) -> None:
        if self.record is not None:
            self.record = self.system.rederive(self.record)
            self._draw()

    def _refresh(self) -> None:
        """Show the values that hold: a refused one goes."""
        self._quiet = True
        for name, widget in self.knobs.items():
            widget.value = _shown(self.system.knobs()[name], self.system)
        self._quiet = False

    def _run(self) -> None:
        self._say("running ...")
        self.run.disabled = True
        try:
            self._show(self.system.record(), "measured here")
        except Exception as error:
            self._say(sentence(error))
        finally:
            self.run.disabled = False

    def _say(self, text: str) -> None:
        self.message.value = escape(text)

    def _show(self, record: Record, said: str) -> None:
        self.record = record
        found = sorted(views.for_record(record), key=self._rank)
        kept, names = self.view.value, [v.name for v in found]
        self.view.options = [(view.question, view.name) for view in found]
        self.view.value = kept if kept in names else next(iter(names), None)
        self._say(said)
        self._draw()

    def _rank(self, view: views.View) -> int:
        return self.system.shows.index(view.name) if view.name in self.system.shows else len(self.system.shows)

    def _draw(self) -> None:
        if self.record is None or self.view.value is None:
            return
        view = views.get(self.view.value)
        steps = export.steps_of(self.record, view)
        self.step.max = max(steps, default=0)
        self.step.layout.visibility = "visible" if steps else "hidden"
        options = {"step": self.step.value} if steps and "step" in view.options() else {}
        try:
            figure, said = view.figure(self.record, **options), view.describe(self.record, **options)
        except WorkbenchError as error:
            self._say(str(error))
            return
        self.picture.outputs = ({"output_type": "display_data", "data": hosts.bundle(figure), "metadata": {}},)
        self.words.value = escape(said)
        self.meters.value = export.meters_table(self.record)


def _shown(info: KnobInfo, system: System) -> Any:
    """Return a knob's present value as its widget holds it."""
    value, kind = controls.shown(system)[info.name], controls.kind(info)
    if kind == "check":
        return bool(value)
    return value if kind == "choice" or _slides(info) else controls.spell(value)


def _slides(info: KnobInfo) -> bool:
    """Return whether a knob is a slider here: one that may choose by itself ("auto") is written."""
    return controls.kind(info) == "range" and info.default is not None and not getattr(info.parameter, "allow_None", False)


def _widget(info: KnobInfo, system: System) -> ipw.Widget:
    """Return the ipywidget of a knob, with its present value."""
    value, kind = _shown(info, system), controls.kind(info)
    wide = ipw.Layout(width="340px")
    common: dict[str, Any] = {
        "description": info.label,
        "tooltip": info.doc,
        "style": {"description_width": "130px"},
        "layout": wide,
    }
    choices = info.choices or list(getattr(info.parameter, "names", ()))
    names = [controls.spell(c) for c in choices]
    if kind == "check":
        return ipw.Checkbox(value, **common)
    if kind == "choice":
        return ipw.Dropdown(options=names, value=value, **common)
    if kind == "picture":
        return ipw.Dropdown(options=list(dict.fromkeys([*names, value])), value=value, **common)
    if _slides(info):
        low, high = info.bounds or (0, 1)
        make = ipw.IntSlider if isinstance(info.default, int) else ipw.FloatSlider
        return make(value=value, min=low, max=high, step=controls._step(info), continuous_update=info.live, **common)
    if names:
        return ipw.Combobox(value=value, options=names, ensure_option=False, continuous_update=False, **common)
    return (ipw.Textarea if kind == "text" else ipw.Text)(value, continuous_update=False, **common)
