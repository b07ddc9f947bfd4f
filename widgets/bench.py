"""The live page of any system, built from its knobs, its views and its meters. It knows no paper.

How a move travels. A *live* knob sends its newest value and waits for the answer before it sends the next; the page
recomputes the derived groups (`System.rederive`), redraws the pictures that draw one of them, and answers. A *run* knob
settles on release: the run goes to the process-wide queue (`worker.QUEUE`), the old picture stays, dimmed, until a partial
picture and then the record replace it. What a page does, it does in one line (`turns.Turns`): one act at a time, in order.
"""

from __future__ import annotations

import math
import time
import uuid
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from typing import Any

import panel as pn
import param

from widgets import controls, link, messages, meters, operations, worker
from widgets.keeping import Keeping, kept_key
from widgets.parts import Controls, Header, Picture, Scrubber, Tabs, address, served
from widgets.recorded import recorded_run
from widgets.running import Run
from widgets.stage import PLANE, Slot, Stage, changed_groups
from widgets.style import page_style
from widgets.sweeps import Sweep, Sweeping
from widgets.turns import Turns, later
from workbench import theme as themes
from workbench.errors import InputError, WorkbenchError, unknown
from workbench.record import Record
from workbench.system import System

OWN_KEYS = ("theme", "step", "kept")  # what a link may say beside the knobs
PATIENCE_S = 0.3  # that a page waits for its browser to have painted the hero, before it goes on with the other pictures


class Bench(Sweeping, Keeping, pn.viewable.Viewer):
    """The live page of a system: displays itself in JupyterLab, `.servable()` under `panel serve`.

    Args:
        system: the system with the knob values to start from.
        app: address of a page that serves every system by `?system=`; by default each page has its own path.
    Example:
        >>> import workbench as wb
        >>> wb.open("rsd", depth=4)
    """

    theme: Any = param.Selector(default="light", objects=list(themes.DESIGNS), doc="Design of page and pictures.")
    step = param.Integer(0, bounds=(0, None), doc="Step of the run on show.")
    token = param.Parameter(None, doc="Position of the token that the reader clicked last.")
    window = param.Parameter(None, doc="The part of a zoomable picture on show: two abscissae, two ordinates; None for all.")
    selected = param.Parameter(None, doc="What the reader clicked last in a picture (the mark's own data).")

    def __init__(self, system: System, app: str = "", **params: Any) -> None:
        super().__init__(**params)
        self._app = app
        _load_extension()
        self.system = system
        self.record: Record | None = None
        self.history: list[Run] = []
        self._number = 0  # of the run on show; 0 is the recorded one
        self._id = uuid.uuid4().hex[:8]
        self._turns = Turns(pn.state.curdoc)
        self._job: worker.Job | None = None
        self._sweep: Sweep | None = None
        self._visitor = ""  # the browser's key, once it has said hello
        self._wanted = ""  # the kept run that the link names
        self._foreign: dict[str, str] = {}  # what else it says: the page's address goes on saying it
        self._warming: Future[None] | None = None
        self._next: Callable[[], None] | None = None  # what follows when the hero is painted
        self._ran_with: dict[str, Any] = {}
        self._public = served()
        self._address = address()
        self._build()
        self._open()

    # ---- what stands where -------------------------------------------------------------------------------------------

    def _build(self) -> None:
        cls, whole = type(self.system), self._public
        self.header = Header(
            on_message=self._heard, bench=self._id, title=cls.title, year=cls.year, arxiv=cls.arxiv, question=cls.asks,
            whole_page=whole, light_page=themes.design("light").background, dark_page=themes.design("dark").background,
            home=self._app or "./", compare=f"{self._app}?page=compare" if self._app else "./compare",
        )  # fmt: skip
        self.controls = Controls(
            on_message=self._heard,
            bench=self._id,
            spec=controls.spec(cls),
            values=controls.shown(self.system),
            presets=list(cls.presets),
        )
        self.stage = Stage(cls.shows, self._picture)
        self.sweep_slot = Slot(self._picture("sweep"))
        self.sweep_slot.picture.closable = True
        self.scrubber = Scrubber(on_message=self._heard, bench=self._id, whole_page=whole)
        self.tabs = Tabs(on_message=self._heard, bench=self._id)
        self.meters = pn.pane.HTML("", stylesheets=[meters.STYLE], sizing_mode="stretch_width", margin=0)
        self.growing = pn.pane.HTML("", stylesheets=[meters.STYLE], sizing_mode="stretch_width", margin=0, visible=False)
        self._page = self._layout()

    def _picture(self, place: str) -> Picture:
        return Picture(
            on_message=lambda message: self._heard({"place": place, **message}),
            bench=self._id,
            visible=place == "hero",
            lead=place == "hero",
        )

    def _layout(self) -> pn.Column:
        slots = {name: slot.picture for name, slot in self.stage.slots.items()}
        center = _column([slots["hero"], self.scrubber, self.growing, slots["strip"], self.sweep_slot.picture], "wb-center")
        side = _column([self.meters, slots["plane"]], "wb-side")
        body = _column([_column([self.controls], "wb-controls"), center, side], "wb-body")
        pair = _column([slots["left"], slots["right"]], "wb-pair")
        more = _column([self.tabs, pair], "wb-more")
        return _column([self.header, body, more], "wb-page")

    def __panel__(self) -> pn.Column:
        return self._page

    # ---- opening -----------------------------------------------------------------------------------------------------

    def _open(self) -> None:
        """Paint a recorded run at once, restore what the link holds, and load the model in the background."""
        notes: list[str] = []
        other: dict[str, str] = {}
        kept = recorded_run(self.system.key)
        if pn.state.location is not None and self._public:
            search = pn.state.location.search
            if kept is not None and not link.names_knob(self.system, search):
                self._try_set(kept.knobs)
            other, notes = link.restore(self.system, search, public=True)
            self._wanted = kept_key(search)
            self._foreign = {name: text for name, text in other.items() if name not in OWN_KEYS}
            pn.state.on_session_destroyed(lambda _: self.close())
        self._wear(other["theme"] if other.get("theme") in themes.DESIGNS else self.theme)
        self.header.ask_theme = self._public and "theme" not in other
        if kept is not None:
            self._ran_with = {n: v for n, v in kept.knobs.items() if n in self.system.knob_names()}
            self._show(self.system.rederive(kept), "recorded")
            self.stage.mark_live(set(self.system.derive(kept)))
            self._go_to(_whole(other.get("step")))
        else:
            self.stage.slots["hero"].picture.empty = "Nothing has run yet. Press Run, or change a knob."
        self._refresh_controls()
        if notes:
            self._say(" ".join(notes) + " The default is used.")
        if (kept is None or self._needs_run()) and not self._wanted:
            # A word from a run that ends before the session is attached to its browser would be lost.
            pn.state.onload(lambda: self._heard({"kind": "run"}))

    def _try_set(self, knobs: dict[str, Any]) -> None:
        for name, value in knobs.items():
            try:
                self.system.set(**{name: value})
            except WorkbenchError:
                continue  # a record of an older version may hold a knob or a value that is gone

    def _warm(self) -> None:
        """Load the model in the background, once the first picture stands: before that it would only keep the reader waiting."""
        if self._warming is not None:
            return
        self._warming = worker.warm(self.system)
        if self._warming is None or self._warming.done():
            return
        if not self.header.detail:
            self.header.detail = "the model loads in the background"
        self._warming.add_done_callback(lambda _: self._on_page(self._warmed))

    def _warmed(self) -> None:
        if self.header.detail == "the model loads in the background":
            self.header.detail = (
                "the model is ready" if self._warming and not self._warming.exception() else "the model did not load"
            )

    # ---- what the reader does ----------------------------------------------------------------------------------------

    def _heard(self, message: dict[str, Any]) -> None:
        """Have done what a control asks, in its turn; a message that no script of ours sends is not acted on."""
        if not messages.well_formed(message):
            return
        if not self._turns.ask(partial(self._answer, message, time.perf_counter()), messages.size_of(message)):
            later(lambda: self.header.param.update(message=messages.TOO_MUCH, tone="error"))

    def _answer(self, message: dict[str, Any], asked: float) -> None:
        """Do what a control asked; an error of ours becomes a sentence on the page, any other a plain one and a log entry."""
        actions: dict[str, Callable[[dict[str, Any]], None]] = {
            "live": self._on_live, "settle": self._on_settle, "run": lambda _: self._start(), "preset": self._on_preset,
            "cancel": lambda _: self.cancel(), "theme": self._on_theme, "step": self._on_step, "click": self._on_click, "zoom": self._on_zoom,
            "painted": self._on_painted, "words": self._on_words, "tab": self._on_tab, "dismiss": lambda _: self._say(""),
            "sweep": self._on_sweep, "close": lambda _: self._close_sweep(), "hello": self._on_hello, "keep": self._on_keep,
            "download": self._on_download, "drag": self._on_drag,
        }  # fmt: skip
        action = actions.get(message["kind"])
        if action is None:
            return
        try:
            action(message)
        except Exception as error:
            self._say(worker.sentence(error), "error")
            self._refresh_controls()
        if message.get("seq"):
            part, name = {"step": (self.scrubber, "ack"), "settle": (self.controls, "heard")}.get(
                message["kind"], (self.controls, "ack")
            )
            setattr(part, name, int(message["seq"]))
        if message["kind"] == "live":
            operations.METRICS.took("move", time.perf_counter() - asked)

    def _set(self, values: dict[str, Any]) -> None:
        self.system.set(**{n: controls.read(self.system, n, raw, public=self._public) for n, raw in values.items()})
        if self.header.tone == "error":
            self._say("")

    def _on_live(self, message: dict[str, Any]) -> None:
        self._set(message["values"])
        first = self.system.led(self.record) if self.record is not None else None
        if first is None:
            self._rederive()
            return
        drawing = self._hero.drawing
        self.stage.lead(first, self._options())
        self._once_painted(drawing, self._rederive)

    def _on_settle(self, message: dict[str, Any]) -> None:
        before = self.system.values()
        self._set(message["values"])
        self._refresh_controls()
        if self.system.values() == before and not self._needs_run():
            return
        self._rederive()
        self._follow_estimate(message["values"])
        if self._needs_run() or self._wants_truth(message["values"]):
            self._start()

    def _wants_truth(self, moved: dict[str, Any]) -> bool:
        """Return whether a live knob that is its own partner was let go where numbers are only estimated: run it truly."""
        partners = getattr(self.system, "follows", {})
        return self._estimated() and any(partners.get(name) == name for name in moved)

    def _follow_estimate(self, moved: dict[str, Any]) -> None:
        """Where a replayed live knob left numbers that are only estimated, set the run knob that makes the same run truly."""
        partners = getattr(self.system, "follows", {})
        if self._estimated() and any(name in partners for name in moved):
            self.system.set(**{partners[name]: getattr(self.system, name) for name in moved if name in partners})
            self._refresh_controls()

    def _on_preset(self, message: dict[str, Any]) -> None:
        presets = type(self.system).presets
        if message["name"] not in presets:
            raise unknown("preset", message["name"], presets)
        self.system.set(**presets[message["name"]])
        self._refresh_controls()
        self._rederive()
        if self._needs_run():
            self._start()

    def _on_theme(self, message: dict[str, Any]) -> None:
        if message["theme"] not in themes.DESIGNS:
            return
        self._wear(message["theme"])
        self.stage.option_changed("theme", self._options())
        self._draw_sweep()
        self._write_link()

    def _wear(self, theme: str) -> None:
        self.theme = self.header.theme = theme
        classes = ["wb-page", "wb-column", *(["wb-dark"] if theme == "dark" else [])]
        later(lambda: self._page.param.update(css_classes=classes))

    def _on_step(self, message: dict[str, Any]) -> None:
        self._go_to(int(message["step"]))

    def _on_words(self, message: dict[str, Any]) -> None:
        if message.get("place") == "sweep":
            self._draw_sweep()
            return
        slot = self.stage.slots.get(str(message.get("place")))
        if self.record is not None and slot is not None:
            slot.draw(self.record, self._options())

    def _on_tab(self, message: dict[str, Any]) -> None:
        self.stage.show_pair(int(message["index"]))
        self.tabs.chosen = self.stage.pair
        self.stage.draw_stale(self._options())

    def _on_click(self, message: dict[str, Any]) -> None:
        """Follow a click: on the plane to that run; elsewhere the mark is selected, or its step is shown."""
        mark, place = message.get("custom"), message["place"]
        if place not in {"sweep", *self.stage.slots}:
            return
        mark = mark[0] if isinstance(mark, list) and mark else mark
        if not isinstance(mark, (int, float)) or not math.isfinite(mark):
            return
        if place == "sweep":
            self._on_sweep_click(int(mark))
            return
        view = self.stage.slots[place].view
        if view is not None and view.name == PLANE:
            self._bring_back(int(mark))
        elif view is not None and "token" in view.options():
            self.token = int(mark)
            self.stage.option_changed("token", self._options())
        elif view is not None and "selected" in view.options():
            self.selected = None if view.lasting and self.selected == int(mark) else int(mark)  # a second click lets go
            self.stage.option_changed("selected", self._options())
        elif view is not None and "step" in view.options():
            self._go_to(int(mark))

    def _on_drag(self, message: dict[str, Any]) -> None:
        """Set the knobs that a label dragged to another place asks for; the picture is drawn anew even where nothing changed."""
        slot, x = self.stage.slots.get(message["place"]), message.get("x")
        if slot is None or slot.view is None or slot.view.drag is None or self.record is None:
            return
        if isinstance(x, (int, float)) and math.isfinite(x):
            slot.picture.again += 1
            self._on_settle({"values": slot.view.drag(self.record, message["name"], x)})

    def _on_zoom(self, message: dict[str, Any]) -> None:
        """Draw a part of a picture at the detail that fits it; the whole again where no part is named."""
        window = [*(message.get("x") or ()), *(message.get("y") or ())]
        finite = len(window) == 4 and all(isinstance(v, (int, float)) and math.isfinite(v) for v in window)
        self.window = (window[0], window[1], window[2], window[3]) if finite else None
        self.stage.option_changed("window", self._options())

    def _bring_back(self, index: int) -> None:
        others = [run for run in self.history if run.number != self._number]
        if not 0 <= index < len(others):
            return
        self.cancel()
        run = others[index]
        self._bring(run.record, run.knobs, run.number, f"run {run.number} of this page")

    def _bring(self, record: Record, knobs: dict[str, Any], number: int, detail: str = "") -> None:
        """Bring an earlier run on show, with the knobs that made it."""
        self.system.set(**knobs | self.system.pictures_of(record))
        self._ran_with, self._number = self.system.values(), number
        self._refresh_controls()
        self._show(record, "measured", detail or f"run {number} of this page")

    def _go_to(self, step: int) -> None:
        count = self.stage.steps()
        self.step = self.scrubber.step = max(0, min(step, count - 1))
        if not self.stage.lasting():
            self.selected = None
        self.stage.option_changed("step", self._options())
        self._write_link()

    # ---- drawing -----------------------------------------------------------------------------------------------------

    def _options(self) -> dict[str, Any]:
        others = [(f"run {run.number}", run.record) for run in self.history if run.number != self._number]
        return {
            "theme": self.theme,
            "step": self.step,
            "selected": self.selected,
            "others": others,
            "token": self.token,
            "window": self.window,
        }

    def _show(self, record: Record, state: str, detail: str = "") -> None:
        """Bring a record on show, whole."""
        self.token = self.window = self.selected = None
        self.record = record
        self.stage.record = record
        count = self.stage.steps()
        self.step = min(self.step, max(0, count - 1))
        self.stage.show(record, self._options())
        self.stage.dim(False)
        self.scrubber.param.update(count=count, step=self.step)
        self._write_tabs()
        self._write_meters(record)
        self._grow("")
        self.header.param.update(state=state, detail=detail, progress=-1.0)
        self._write_link()

    def _rederive(self) -> None:
        """Recompute what the live knobs change and redraw only what it touches: the hero at once, the rest right after."""
        if self.record is None:
            return
        new = self.system.rederive(self.record)
        only = changed_groups(self.record, new)
        self.record = new
        drawing = self._hero.drawing
        self.stage.show(new, self._options(), only=only, hero_first=True)
        self._write_tabs()  # a group that comes or goes brings its picture or takes it
        if "meters" in only:
            self._write_meters(new)
        if self.stage.any_stale():
            self._once_painted(drawing, lambda: self.stage.draw_stale(self._options()))

    @property
    def _hero(self) -> Picture:
        return self.stage.slots["hero"].picture

    def _once_painted(self, drawing: int, change: Callable[[], None]) -> None:
        """Make a change when the hero stands that was drawn since drawing number `drawing`; at once where none was.

        What is computed while the browser draws takes the processor from it: on two cores that is a fifth of the repaint.
        A browser that does not answer (hidden, busy, none at all) is waited for `PATIENCE_S`. The newest change replaces one
        that waits: each is made of the record and the knobs of its own moment.
        """
        self._next = change
        if self._turns.served and self._hero.drawing != drawing:
            self._turns.after(PATIENCE_S, lambda: self._go_on(change))
        else:
            self._on_page(lambda: self._go_on(change))

    def _go_on(self, change: Callable[[], None] | None) -> None:
        if change is not None and self._next is change:
            self._next = None
            self._change(change)

    def _on_painted(self, message: dict[str, Any]) -> None:
        self._warm()
        if message.get("place") == "hero":
            self._go_on(self._next)

    def _refresh_controls(self) -> None:
        self.controls.param.update(values=controls.shown(self.system), fresh=self.controls.fresh + 1)
        self.header.param.update(
            python=link.python(self.system), command=link.command(self.system), lacks=", ".join(link.left_out(self.system))
        )
        self._write_link()

    def _write_link(self) -> None:
        if self._public:
            extra = {"theme": self.theme if self.theme != "light" else "", "step": str(self.step) if self.step else ""}
            self.header.search = link.query(self.system, self._foreign | extra)

    def _write_tabs(self) -> None:
        labels = self.stage.tabs if len(self.stage.tabs) > 1 else []
        if (labels, self.stage.pair) != (self.tabs.labels, self.tabs.chosen):
            self.tabs.param.update(labels=labels, chosen=self.stage.pair)

    def _write_meters(self, record: Record) -> None:
        html = meters.html(record)
        later(lambda: self.meters.param.update(object=html))

    def _grow(self, text: str) -> None:
        """Show the text that a run has made so far; none takes it off the page."""
        html = meters.growing(text) if text else ""
        later(lambda: self.growing.param.update(object=html, visible=bool(text)))

    def _say(self, message: str, tone: str = "note") -> None:
        self.header.param.update(message=message, tone=tone)

    def _on_page(self, change: Callable[[], None]) -> None:
        """Make a change in its turn, after what the reader asked before. May be called from any thread."""
        self._turns.add(partial(self._change, change))

    def _change(self, change: Callable[[], None]) -> None:
        try:
            change()
        except Exception as error:  # a page must outlive a picture that cannot be drawn
            self._say(worker.sentence(error), "error")

    def close(self) -> None:
        """Stop this page's run and forget its records (called when its session ends)."""
        self._turns.close()
        self.cancel()
        self._job = None
        self.record = self.stage.record = None
        self.history = []
        self._sweep = None


def _whole(text: str | None) -> int:
    return int(text) if text and text.isdecimal() and len(text) < 10 else 0


def _column(children: list[Any], name: str) -> pn.Column:
    return pn.Column(
        *children, css_classes=[name, "wb-column"], stylesheets=[page_style()], sizing_mode="stretch_width", margin=0
    )


def _load_extension() -> None:
    """Load Panel's notebook support where this is a notebook and nobody has; elsewhere there is nothing to load."""
    if not served() and not pn.extension._loaded:
        pn.extension(inline=True)  # scripts from the installed packages: a notebook must work without a network


__all__ = ["Bench", "InputError"]
