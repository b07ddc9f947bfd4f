"""The page at `/compare`: runs that a reader kept, side by side, on shared scales, with one scrubber for all of them.

The list holds the visitor's own runs (`shelf`) and the run that each paper ships. Whatever is chosen is drawn by the same
`Comparison` that `wb.compare` returns. A file that a reader uploads is checked like any record before it is kept.
"""

from __future__ import annotations

import base64
import binascii
import logging
import threading
import time
from functools import partial
from html import escape
from typing import Any

import panel as pn
import param

from widgets import messages, worker
from widgets.meters import STYLE, badge
from widgets.parts import Part, Picture, Scrubber, Tabs, address, asset, send_file, served
from widgets.recorded import recorded_run, ships_run
from widgets.shelf import MAX_BYTES, Kept, Shelf, is_key, new_key
from widgets.style import page_style
from widgets.turns import Turns, later
from workbench import system as systems
from workbench import theme as themes
from workbench import views
from workbench.comparison import Comparison
from workbench.errors import InputError, WorkbenchError, expected
from workbench.export import steps_of
from workbench.record import Record
from workbench.theme import number
from workbench.views.speed_quality import setting_labels

MOST = 4  # records side by side: more are too small to read
FEWEST = 2
MOST_OPEN = 96 << 20  # bytes of uploads that are not whole yet, over all pages of this process
STILL_S = 20.0  # from then on an upload that brings no further piece gives its room to others
MOST_POINTS = 24  # runs of the shelf that stand on the plane beside the chosen ones
PLANE = "speed_quality"
SHIPPED = "recorded:"
CHUNK = 1 << 20  # bytes of a file in one message; a browser sends no longer ones
log = logging.getLogger("workbench.page")
_decoding = threading.Semaphore(1)  # one upload is unpacked at a time: memory is bounded by one, not by the visitors


class List(Part):
    """Every run that can be chosen, with its name and note; upload, download, delete."""

    runs = param.List([], doc="One dict for each run: key, name, note, system, kept, size, own.")
    chosen = param.List([])
    most = param.Integer(MOST)
    max_bytes = param.Integer(MAX_BYTES)
    chunk = param.Integer(CHUNK)
    message = param.String("")
    tone = param.String("note")
    theme = param.String("light")
    ask_theme = param.Boolean(False)
    whole_page = param.Boolean(False)
    visitor = param.String("", doc="The key that the browser keeps.")
    app = param.String("", doc="Address of a page that serves every system; by default each has its own path.")
    light_page = param.String(themes.design("light").background)
    dark_page = param.String(themes.design("dark").background)

    _esm = asset("newest.js", "compare.js")


class Compare(pn.viewable.Viewer):
    """Kept runs side by side. Every session has its own; the shelf behind it is the visitor's.

    Args:
        app: address of a page that serves every system by `?system=`; by default each has its own path.
    """

    def __init__(self, app: str = "", **params: Any) -> None:
        super().__init__(**params)
        self._app = app
        asked = _asked("theme")
        self.theme = asked if asked in themes.DESIGNS else "light"
        self._turns = Turns(pn.state.curdoc)
        self._shelf: Shelf | None = None
        self._address = address()
        self._upload: dict[str, Any] = {}
        self._meters: dict[str, Record] = {}  # of runs that stand on the plane only
        self.comparison: Comparison | None = None
        self.keys: list[str] = []
        self.step = 0
        self.view = ""
        self._build(asked)
        self._list()

    def _build(self, asked: str) -> None:
        whole = served()
        self.list = List(on_message=self._heard, app=self._app, whole_page=whole, theme=self.theme, ask_theme=whole and not asked)
        self.tables = pn.pane.HTML("", stylesheets=[STYLE], sizing_mode="stretch_width", margin=0)
        self.tabs = Tabs(on_message=self._heard)
        self.picture = Picture(on_message=self._heard, visible=False)
        self.plane = Picture(on_message=self._heard, visible=False)
        self.scrubber = Scrubber(on_message=self._heard, whole_page=whole)
        main = self._column([self.tables, self.tabs, self.scrubber, self.picture, self.plane], "wb-compared")
        self._page = self._column([self.list, main], "wb-page")
        self._wear(self.theme)

    @staticmethod
    def _column(children: list[Any], name: str) -> pn.Column:
        return pn.Column(
            *children, css_classes=[name, "wb-column"], stylesheets=[page_style()], sizing_mode="stretch_width", margin=0
        )

    def __panel__(self) -> pn.Column:
        return self._page

    # ---- what the reader does ----------------------------------------------------------------------------------------

    def _heard(self, message: dict[str, Any]) -> None:
        if not messages.well_formed(message):
            return
        if not self._turns.ask(partial(self._answer, message), messages.size_of(message)):
            self._say(messages.TOO_MUCH, "error")

    def _answer(self, message: dict[str, Any]) -> None:
        actions = {
            "hello": self._on_hello, "choose": self._on_choose, "rename": self._on_rename, "delete": self._on_delete,
            "download": self._on_download, "upload": self._on_upload, "theme": self._on_theme, "tab": self._on_tab,
            "step": self._on_step, "dismiss": lambda _: self._say(""), "words": lambda _: self._draw(),
        }  # fmt: skip
        action = actions.get(message["kind"])
        if action is None:
            return
        try:
            action(message)
        except Exception as error:
            self._say(worker.sentence(error), "error")
        if message.get("seq"):
            self.scrubber.ack = int(message["seq"])

    def _say(self, text: str, tone: str = "note") -> None:
        self.list.param.update(message=text, tone=tone)

    def _on_hello(self, message: dict[str, Any]) -> None:
        """Take the key that the browser holds, or give it one."""
        if self._shelf is None:  # one page, one shelf: a browser that says another key later is not followed
            said = str(message.get("visitor", ""))
            key = said if is_key(said) else new_key()
            self._shelf = Shelf(key, self._address)
            self.list.visitor = key
        self._list()
        wanted = [k for k in _asked("runs").split(",") if k]
        if wanted and not self.keys:
            self._on_choose({"keys": wanted})

    def _own(self) -> Shelf:
        if self._shelf is None:
            raise InputError("Your shelf is not open yet. Reload the page.")
        return self._shelf

    def _list(self) -> None:
        own = [_row(kept) for kept in self._shelf.runs()] if self._shelf is not None else []
        self.list.runs = [*own, *_shipped()]
        known = {row["key"] for row in self.list.runs}
        if any(key not in known for key in self.keys):
            self._on_choose({"keys": [key for key in self.keys if key in known]})

    def _on_choose(self, message: dict[str, Any]) -> None:
        keys = list(dict.fromkeys(str(k) for k in message.get("keys", ())))
        if len(keys) > MOST:
            raise InputError(expected("compare", f"at most {MOST} runs at once", len(keys), then="Take one off"))
        runs = [run for key in keys for run in self._runs(key)]
        shown = runs[:MOST]
        self.keys = self.list.chosen = keys
        self.comparison = Comparison([r for _, r in shown], [n for n, _ in shown]) if len(shown) >= FEWEST else None
        self._say(
            ""
            if len(runs) == len(shown)
            else f"On show: the first {len(shown)} of {len(runs)} runs, those of a sweep counted one by one."
        )
        self._show()

    def _runs(self, key: str) -> list[tuple[str, Record]]:
        """Return a run of the list with its name; of a sweep every run that it left, named by what was varied."""
        record, name = self._record(key), self._name(key)
        if not record.settings():
            return [(name, record)]
        labels = setting_labels(record)
        return [(f"{name}: {labels[i]}", record.at(i)) for i in record.settings()]

    def _record(self, key: str) -> Record:
        if key.startswith(SHIPPED):
            record = recorded_run(key.removeprefix(SHIPPED))
            if record is None:
                raise InputError("compare: expected a run of the list, got another. Reload the page.")
            return record
        return self._own().record(key)

    def _name(self, key: str) -> str:
        return next((str(r["name"]) for r in self.list.runs if r["key"] == key), "run")

    def _on_rename(self, message: dict[str, Any]) -> None:
        name, note = message.get("name"), message.get("note")
        self._own().rename(
            str(message["key"]), name=None if name is None else str(name), note=None if note is None else str(note)
        )
        self._list()
        if str(message["key"]) in self.keys:
            self._on_choose({"keys": self.keys})

    def _on_delete(self, message: dict[str, Any]) -> None:
        self._own().delete(str(message["key"]))
        self._list()

    def _on_download(self, message: dict[str, Any]) -> None:
        key = str(message.get("key"))
        about = self._own().about(key)
        send_file(self.list, self._own().data(key), f"{about.name}.zarr.zip")

    def _on_upload(self, message: dict[str, Any]) -> None:
        """Put the pieces of a file together; after the last one check it and put it on the shelf."""
        data = assembled(self._upload, message)
        if data is None:
            return
        with _decoding:
            kept = self._own().upload(data, str(message.get("name", "")))
        self._list()
        self._say(f"“{kept.name}” is on your shelf.")

    def _on_theme(self, message: dict[str, Any]) -> None:
        if message.get("theme") in themes.DESIGNS:
            self._wear(str(message["theme"]))
            self._draw()

    def _wear(self, theme: str) -> None:
        self.theme = self.list.theme = theme
        classes = ["wb-page", "wb-column", *(["wb-dark"] if theme == "dark" else [])]
        later(lambda: self._page.param.update(css_classes=classes))

    def _on_tab(self, message: dict[str, Any]) -> None:
        names = self._pictures()
        self.view = names[max(0, min(int(message["index"]), len(names) - 1))] if names else ""
        self._show()

    def _on_step(self, message: dict[str, Any]) -> None:
        self.step = max(0, min(int(message["step"]), self.scrubber.count - 1))
        self.scrubber.step = self.step
        self._draw()

    # ---- drawing -----------------------------------------------------------------------------------------------------

    def _pictures(self) -> list[str]:
        """Return the views that every chosen record can draw, in the order the first one's page shows them."""
        if self.comparison is None:
            return []
        key = str(self.comparison.records[0].attrs.get("system"))
        shows = systems.get(key).shows if key in systems.registry() else ()
        shared = [name for name in self.comparison.views if name != PLANE]
        return sorted(shared, key=lambda n: shows.index(n) if n in shows else len(shows))

    def _show(self) -> None:
        """Bring the chosen runs on show, whole."""
        names = self._pictures()
        if self.view not in names:
            self.view = names[0] if names else ""
        questions = [views.get(n).question for n in names]
        self.tabs.param.update(labels=questions if len(names) > 1 else [], chosen=names.index(self.view) if self.view else 0)
        html = tables_html(self.comparison) if self.comparison is not None else _advice(len(self.keys))
        later(lambda: self.tables.param.update(object=html))
        count = max((len(s) for s in self._steps()), default=0)
        self.step = min(self.step, max(0, count - 1))
        self.scrubber.param.update(count=count, step=self.step)
        self._draw()

    def _steps(self) -> list[list[int]]:
        """Return the steps of each chosen run in the view on show."""
        if self.comparison is None or not self.view:
            return []
        view = views.get(self.view)
        return [steps_of(r, view) for r in self.comparison.records] if "step" in view.options() else []

    def _draw(self) -> None:
        """Draw the shared picture, each run at the scrubber's step (a shorter run stays at its last), and the plane."""
        comparison = self.comparison
        self.picture.visible = comparison is not None
        self.plane.visible = comparison is not None and PLANE in comparison.views
        if comparison is None:
            return
        steps = [s[min(self.step, len(s) - 1)] for s in self._steps() if s]
        options: dict[str, Any] = {"step": steps} if len(steps) == len(comparison.records) else {}
        if self.view:
            _fill(self.picture, comparison, self.view, self.theme, options)
        else:
            self.picture.param.update(
                figure="",
                caption="",
                title="",
                empty="These runs share no picture; their meters stand above. Choose runs of one paper, or of two that read the same input.",
            )
        if self.plane.visible:
            _fill_plane(self.plane, comparison.records[0], self._plane_points(comparison), comparison.labels[0], self.theme)

    def _plane_points(self, comparison: Comparison) -> list[tuple[str, Record]]:
        """Return the chosen runs after the first, then the newest others of its paper on the shelf: the front is of all of them."""
        points = list(zip(comparison.labels[1:], comparison.records[1:]))
        system = comparison.records[0].attrs.get("system")
        own = [r for r in self.list.runs if r["own"] and r["system"] == system and r["key"] not in self.keys][:MOST_POINTS]
        for row in own:
            if row["key"] not in self._meters:
                self._meters[row["key"]] = _meters_of(self._own().record(row["key"]))
        return [*points, *((str(r["name"]), self._meters[r["key"]]) for r in own if "meters" in self._meters[r["key"]])]


def _meters_of(record: Record) -> Record:
    """Return a record's meters alone: what the plane needs of a run that is not on show."""
    single = "meters" in record and not record.settings()
    columns = {"meters": {n: record.column("meters", n) for n in record.variables("meters")}} if single else {}
    return Record.from_columns(columns, record.attrs)


def _fill(picture: Picture, comparison: Comparison, name: str, theme: str, options: dict[str, Any]) -> None:
    from plotly.io.json import to_json_plotly

    view = views.get(name)
    try:
        spec = comparison.spec(name, theme=theme, title=False, **options)
        words = comparison.text(name, **options) if picture.wants_words else ""
        fields = {"figure": to_json_plotly(spec), "empty": "", "caption": _captions(comparison, view, options), "twin": words}
    except WorkbenchError as error:
        fields = {"figure": "", "caption": "", "twin": "", "empty": str(error)}
    picture.param.update(title=view.question, reading=view.reading, drawing=picture.drawing + 1, **fields)


def _captions(comparison: Comparison, view: views.View, options: dict[str, Any]) -> str:
    """Return what each run's own caption says, under its name."""
    said = []
    for i, (label, record) in enumerate(zip(comparison.labels, comparison.records)):
        own = {k: v[i] for k, v in options.items()}
        said.append(f"{label}: {view.describe(record, **own)}")
    return "\n".join(said)


def _fill_plane(picture: Picture, record: Record, others: list[tuple[str, Record]], label: str, theme: str) -> None:
    from plotly.io.json import to_json_plotly

    view = views.get(PLANE)
    spec = view.spec(record, title=False, theme=theme, others=others, label=label)
    twin = view.text(record, others=others) if picture.wants_words else ""
    picture.param.update(
        title=view.question, reading=view.reading, figure=to_json_plotly(spec), caption=view.describe(record, others=others),
        twin=twin, drawing=picture.drawing + 1,
    )  # fmt: skip


def tables_html(comparison: Comparison) -> str:
    """Return two tables: the knobs that differ, and the meters with their changes against the first run."""
    head = "".join(f"<th scope='col'>{escape(label)}</th>" for label in comparison.labels)
    rows = [(row, all(v is not None for v in row["values"])) for row in comparison.knobs]
    knobs, alone = ("".join(_knob_row(row) for row, shared in rows if shared is wanted) for wanted in (True, False))
    meters = "".join(_meter(row) for row in comparison.meters)
    first = f"<table class='sides'><caption>Knobs that differ</caption><tr><td></td>{head}</tr>{knobs}</table>" if knobs else ""
    if alone:  # runs of different papers: the list of what only one of them has is long, and rarely the question
        first += f"<details><summary>Knobs that not all of them have</summary><table class='sides'><tr><td></td>{head}</tr>{alone}</table></details>"
    first = first or "<p>Every knob is the same.</p>"
    second = f"<table class='sides'><caption>Meters, changes against the first</caption><tr><td></td>{head}</tr>{meters}</table>"
    return f"<div class='compared' tabindex='0' role='region' aria-label='tables'>{first}{second if meters else ''}</div>"


def _knob_row(row: dict[str, Any]) -> str:
    cells = "".join(f"<td>{_knob(v)}</td>" for v in row["values"])
    return f"<tr><th scope='row'>{escape(row['knob'].replace('_', ' '))}</th>{cells}</tr>"


def _knob(value: Any) -> str:
    text = "–" if value is None else str(value)
    return f"<span title='{escape(text)}'>{escape(text if len(text) <= 60 else text[:59] + '…')}</span>"


def _meter(row: dict[str, Any]) -> str:
    unit = f" <small>{escape(row['unit'])}</small>" if row["unit"] not in {"", "1"} else ""
    tones = {True: "good", False: "bad"}
    cells = []
    for value, how, text in zip(row["values"], row["provenances"], row["changes"], strict=True):
        better = any(w in text for w in ("faster", "better", "cheaper"))
        tone = tones[better] if text.startswith(("▲", "▼")) else "same"
        figure = f"{number(value)}{unit} {badge(how)}" if value == value else number(value)
        cells.append(f"<td>{figure} <small class='change {tone}'>{escape(text)}</small></td>")
    return f"<tr><th scope='row'>{escape(row['meter'].replace('_', ' '))}</th>{''.join(cells)}</tr>"


def _advice(chosen: int) -> str:
    text = "Choose two or more runs." if not chosen else "Choose one more run to stand beside it."
    return f"<p class='empty'>{text} A live page keeps its run with “keep”; a file that somebody sent you comes in with “upload”.</p>"


def _row(kept: Kept) -> dict[str, Any]:
    return {
        "key": kept.key,
        "name": kept.name,
        "note": kept.note,
        "system": kept.system,
        "kept": kept.kept,
        "size": kept.size,
        "own": True,
    }


def _shipped() -> list[dict[str, Any]]:
    """Return the runs that the papers ship, as rows of the list."""
    rows = []
    for key, entry in systems.registry().items():
        if not entry.error and ships_run(key):
            title = entry.load().title
            rows.append(
                {
                    "key": SHIPPED + key,
                    "name": f"{title}, as shipped",
                    "note": "",
                    "system": key,
                    "kept": "",
                    "size": 0,
                    "own": False,
                }
            )
    return rows


def _asked(name: str) -> str:
    values = pn.state.session_args.get(name, [b""]) if served() else [b""]
    return values[0].decode(errors="replace")


def assembled(state: dict[str, Any], message: dict[str, Any]) -> bytes | None:
    """Add one piece of a file that a browser sends; return the whole after the last piece.

    Raises:
        InputError: the pieces do not follow each other, cannot be read, or make more than `MAX_BYTES`.
    """
    index, count = message.get("index"), message.get("count")
    fits = isinstance(index, int) and isinstance(count, int) and 0 <= index < count <= MAX_BYTES // CHUNK + 1
    if index == 0:
        _drop(state)
        state.update(pieces=[], count=count)
    if not fits or state.get("count") != count or len(state.get("pieces", ())) != index:
        _drop(state)
        raise InputError(
            expected("upload", f"a file of at most {MAX_BYTES >> 20} MB in order", "something else", then="Choose it again")
        )
    try:
        piece = base64.b64decode(str(message.get("data", "")), validate=True)
    except (binascii.Error, ValueError) as error:
        _drop(state)
        raise InputError("upload: expected a file, got something unreadable. Choose it again.") from error
    if len(piece) > CHUNK:
        _drop(state)
        raise InputError("upload: expected pieces of one megabyte, got a larger one. Choose the file again.")
    _make_room(state, len(piece))
    state["pieces"].append(piece)
    if index + 1 < count:
        return None
    whole = b"".join(state["pieces"])
    _drop(state)
    return whole


_open: dict[int, dict[str, Any]] = {}  # uploads that go on, of all pages of this process
_opening = threading.Lock()


def _make_room(state: dict[str, Any], size: int) -> None:
    """Count a piece among all that wait for their last one; uploads that stand still make room for those that go on.

    Raises:
        InputError: too many go on at once.
    """
    with _opening:
        state["touched"] = time.monotonic()
        _open[id(state)] = state
        held = {key: sum(map(len, s.get("pieces", ()))) for key, s in _open.items()}
        for key in sorted(held, key=lambda k: _open[k]["touched"]):
            if sum(held.values()) + size <= MOST_OPEN:
                return
            if time.monotonic() - _open[key]["touched"] > STILL_S:
                _open.pop(key).clear()  # its next piece is told to begin again
                held.pop(key)
        if sum(held.values()) + size > MOST_OPEN:
            _open.pop(id(state), None)
            state.clear()
            raise InputError("upload: expected room beside the uploads of others, got none. Try again in a minute.")


def _drop(state: dict[str, Any]) -> None:
    with _opening:
        _open.pop(id(state), None)
        state.clear()
