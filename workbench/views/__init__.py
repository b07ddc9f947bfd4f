"""Pictures of groups. A view names the groups it draws; any record that has them can be drawn.

A view is a pure function from a record to a plotly figure, with a text twin that says the same in words. It never runs a
model and never imports Panel. To add one: a file in this package with a `VIEW = View(...)`, listed in `_FILES`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from inspect import signature
from typing import TYPE_CHECKING, Any

from workbench import hosts
from workbench.errors import RecordError, WorkbenchError, expected, unknown

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from workbench.record import Record

#: Modules of this package that hold one `VIEW` each, in the order they are offered.
_FILES = (
    "token_tree",
    "rejection_ladder",
    "text_strip",
    "step_timeline",
    "acceptance_by_rank",
    "length_and_budget",
    "lossless_monitor",
    "latency_profile",
    "kept_tokens",
    "mass_curves",
    "attention_overview",
    "attention_map",
    "head_zoom",
    "token_strip",
    "token_readers",
    "cache_bytes",
    "patch_film",
    "budget_curves",
    "schedule",
    "search_trace",
    "rank_agreement",
    "thresholds",
    "kept_by_kind",
    "depth_maps",
    "cost_curve",
    "error_split",
    "movers_found",
    "uncertainty_maps",
    "ghost_speed",
    "threshold_sweep",
    "volume_slice",
    "depth_wipe",
    "point_cloud",
    "routing_map",
    "routed_text",
    "expert_load",
    "spikiness",
    "information",
    "drop_curve",
    "drop_quality",
    "router_film",
    "token_card",
    "expert_card",
    "expert_transitions",
    "layer_overlap",
    "cache_timeline",
    "hit_rates",
    "serving_latency",
    "expert_perplexity",
    "keep_curve",
    "mask_overlap",
    "layer_choice",
    "load_times",
    "claims",
    "commit_film",
    "commit_map",
    "tokens_accuracy",
    "bits_lost",
    "why_broke",
    "oracle_gap",
    "bits_rounds",
    "ledger",
    "explored",
    "fewer_rounds",
    "cost_knee",
    "knob_curve",
    "speed_quality",
)


@dataclass(frozen=True)
class View:
    """A picture of some groups.

    Attributes:
        name: the name in `record.figure(name)`.
        groups: groups the record must have ("tree", "curve/latency").
        question: the reader's question the picture answers; its title.
        reading: how to read it: what each mark and colour means.
        draw: `(record, *, theme="light", title="", **options) -> plain dict of a plotly figure`, in milliseconds.
        say: `(record, **options) -> str`, the text twin.
        caption: `(record, **options) -> str`, one sentence of what to see now.
        steps: group whose `step` column a scrubber moves through, or "".
        wide: the picture needs the whole width, so two of them are compared one under the other.
        drag: `(record, name, x) -> knobs`: what it means to let go of the label called `name` at x; None where nothing can be dragged.
            Such a picture says so in its layout, `meta.drag`.
        lasting: what is selected in it belongs to the whole run and stays selected while the reader steps.
    """

    name: str
    groups: tuple[str, ...]
    question: str
    reading: str
    draw: Callable[..., dict[str, Any]]
    say: Callable[..., str]
    caption: Callable[..., str]
    steps: str = ""
    wide: bool = False
    drag: Callable[[Record, str, float], dict[str, Any]] | None = None
    lasting: bool = False

    def spec(self, record: Record, *, title: bool = True, **options: Any) -> dict[str, Any]:
        """Return the picture as a plain dict `{"data": [...], "layout": {...}}`: what a page sends on a slider's path.

        Args:
            record: must have this view's groups.
            title: draw the question above the picture; False leaves it to the page.
            options: `theme` ("light", "dark") and the view's own (`step=3`).
        Raises:
            RecordError: the record lacks a group this view draws.
            UnknownNameError, InputError: an option that the view does not know, or a value out of range.
        """
        self.require(record)
        self._known(self.draw, options)
        with self._stumbling():
            spec = self.draw(record, title=self.question if title else "", **options)
        broken = record.group_attrs("text").get("broken")
        if broken:
            mark_broken(spec, str(options.get("theme", "light")))
        return spec

    def figure(self, record: Record, **options: Any) -> go.Figure:
        """Return the picture as a plotly Figure; options and errors as in `spec`."""
        import plotly.graph_objects as go

        spec = self.spec(record, **options)
        hosts.keep_pictures()
        # Checking every property costs 20-30 ms here; the tests check what the views emit, once.
        return go.Figure(spec["data"], spec["layout"], _validate=False)

    def text(self, record: Record, **options: Any) -> str:
        """Return the same in words or a small table."""
        self.require(record)
        own = self._own(self.say, options)
        with self._stumbling():
            return self.say(record, **own)

    def describe(self, record: Record, **options: Any) -> str:
        """Return the caption: one sentence of what to see now."""
        self.require(record)
        own = self._own(self.caption, options)
        with self._stumbling():
            return self.caption(record, **own)

    @contextmanager
    def _stumbling(self) -> Iterator[None]:
        """Say which picture cannot be drawn where a record's numbers contradict each other: its file may come from anybody."""
        try:
            yield
        except WorkbenchError:
            raise
        except (ArithmeticError, LookupError, MemoryError, TypeError, ValueError) as error:
            reason = f"{type(error).__name__}: {error}"[:120]
            raise RecordError(
                f"view {self.name!r}: this record's numbers cannot be drawn ({reason}). Make the record again."
            ) from error

    def options(self) -> tuple[str, ...]:
        """Return the names of the options that the picture takes."""
        return tuple(n for n, p in signature(self.draw).parameters.items() if p.kind is p.KEYWORD_ONLY)

    def _known(self, function: Callable[..., Any], options: dict[str, Any]) -> None:
        strange = [name for name in options if name not in signature(function).parameters]
        if strange:
            raise unknown(f"option of view {self.name!r}", strange[0], self.options())

    def _own(self, function: Callable[..., Any], options: dict[str, Any]) -> dict[str, Any]:
        """Return the options that words need: they have no theme, but a misspelt one is still an error."""
        self._known(self.draw, options)
        return {name: value for name, value in options.items() if name in signature(function).parameters}

    def require(self, record: Record) -> None:
        """Raise `RecordError` if the record lacks a group this view draws."""
        missing = [g for g in self.groups if g not in record]
        if missing:
            raise RecordError(
                expected(f"view {self.name!r}", f"a record with the group {missing[0]!r}", ", ".join(record.groups) or "none")
            )

    def draws(self, record: Record) -> bool:
        """Return whether the record has every group this view needs."""
        return all(g in record for g in self.groups)


def mark_broken(spec: dict[str, Any], theme: str) -> None:
    """Add the mark that a deliberately wrong algorithm carries wherever it shows."""
    from workbench.theme import design

    ink, layout = design(theme).ink("rejected"), spec["layout"]
    room = layout["margin"]["t"]  # the mark gets a line of its own, under the title and above what the view put there
    mark = {
        "text": "<b>✕ broken on purpose</b>", "xref": "paper", "yref": "paper", "x": 1, "y": 1, "xanchor": "right", "yanchor": "bottom",
        "yshift": room - (40 if "title" in layout else 8), "showarrow": False, "font": {"color": ink, "size": 13}, "bordercolor": ink, "borderwidth": 1.5, "borderpad": 3,
    }  # fmt: skip
    layout["annotations"] = [*layout.get("annotations", ()), mark]
    layout["margin"] = layout["margin"] | {"t": room + 30}


@cache
def registry() -> dict[str, View]:
    """Return every view by name, in the order they are offered."""
    views = [import_module(f"{__name__}.{name}").VIEW for name in _FILES]
    return {view.name: view for view in views}


def get(name: str) -> View:
    """Return a view by name; an unknown name is an error that names the nearest."""
    if name not in registry():
        raise unknown("view", name, registry())
    return registry()[name]


def for_record(record: Record) -> list[View]:
    """Return the views that can draw a record."""
    return [view for view in registry().values() if view.draws(record)]
