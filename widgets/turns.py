"""Who does the work of a page, and when its browser hears of it: one thing at a time, in the order in which it was asked for.

What a reader asks takes tens of milliseconds (a replay, a picture) and the server's loop must never wait so long for one page.
So every page has a line of acts: a reader's messages, and the news of its runs. Threads of a small pool take one act of a page
at a time, and what the act changes in the page's parts is collected and handed over on the loop, under the document's lock, in
one message. Nothing but the loop ever touches a document: Bokeh's documents lose what two threads tell them at once.
"""

from __future__ import annotations

import logging
import sys
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from typing import Any

import dask.base  # noqa: F401  # xarray imports it when it is first asked; two threads that ask together find half a package
import panel as pn
from panel.io.state import set_curdoc

log = logging.getLogger("workbench.page")
THREADS = 4  # pages answered at the same time; runs have their own queue
SWITCH_S = 5e-4  # the loop, which brings news to the browser, waits at most so long for the interpreter while an act computes
MOST_WAITING = 50  # acts of one page; the scripts of a page wait for answers, so that a reader never has so many
MOST_BYTES = 256 << 20  # of what browsers sent and no page has dealt with yet, over all pages of this process
_here = threading.local()  # .news: what the act on this thread has changed so far


@cache
def _pool() -> ThreadPoolExecutor:
    sys.setswitchinterval(SWITCH_S)
    return ThreadPoolExecutor(THREADS, thread_name_prefix="workbench-page")


class Room:
    """Bytes that all pages of this process share."""

    def __init__(self, most: int) -> None:
        self.most, self.taken = most, 0
        self._lock = threading.Lock()

    def take(self, size: int) -> bool:
        """Return whether there was room, and take it."""
        with self._lock:
            if self.taken + size > self.most:
                return False
            self.taken += size
            return True

    def give(self, size: int) -> None:
        """Give room back."""
        with self._lock:
            self.taken -= size


WAITING = Room(MOST_BYTES)


def later(change: Callable[[], Any]) -> None:
    """Make a change of a page's parts: at the end of the act that goes on on this thread, at once where none does."""
    news = getattr(_here, "news", None)
    if news is None:
        change()
    else:
        news.append(change)


class Turns:
    """The line of acts of one page.

    Args:
        document: the page's document; None, or one without a session (a notebook, a script): acts are done where they are
            asked for, still one at a time.
    """

    def __init__(self, document: Any = None) -> None:
        self._document = document
        #: Whether the page stands in a session of a web server.
        self.served = document is not None and document.session_context is not None
        self._waiting: deque[tuple[Callable[[], None], int]] = deque()  # acts, and the bytes that they hold
        self._news: deque[Callable[[], Any]] = deque()
        self._lock = threading.Lock()  # of the two lines, never held during an act
        self._working = False
        self._acting = threading.RLock()  # without a session: one thread acts at a time
        self._closed = False

    def ask(self, act: Callable[[], None], size: int = 0) -> bool:
        """Have done what a browser asks, as `add`; return False, and do nothing, where too much waits already.

        Args:
            size: bytes that the act holds until it is done.
        """
        with self._lock:
            if len(self._waiting) >= MOST_WAITING or not WAITING.take(size):
                return False
        self.add(act, size)
        return True

    def add(self, act: Callable[[], None], size: int = 0) -> None:
        """Have an act done after all that this page was asked before. May be called from any thread."""
        with self._lock:
            if self._closed:
                WAITING.give(size)
                return
            self._waiting.append((act, size))
            if self.served and self._working:
                return
            start = self.served
            self._working = self._working or start
        if start:
            _pool().submit(self._work)
        else:
            self._work_here()

    def after(self, seconds: float, act: Callable[[], None]) -> None:
        """Have an act done in its turn once some time has passed; at once where there is no session."""
        context = self._document.session_context if self.served else None
        if context is None:
            self.add(act)
            return
        loop = context.server_context.application_context.io_loop
        loop.add_callback(loop.call_later, seconds, self.add, act)

    def close(self) -> None:
        """Do nothing more, and forget what waits."""
        with self._lock:
            self._closed = True
            WAITING.give(sum(size for _, size in self._waiting))
            self._waiting.clear()
            self._news.clear()

    # ---- in a session ------------------------------------------------------------------------------------------------

    def _work(self) -> None:
        """Do one act on a thread of the pool, then make room for another page."""
        with self._lock:
            act, size = self._waiting.popleft() if self._waiting else (None, 0)
        if act is not None:
            self._act(act)
            WAITING.give(size)
        with self._lock:
            self._working = bool(self._waiting)
            again = self._working
        if again:
            _pool().submit(self._work)

    def _act(self, act: Callable[[], None]) -> None:
        news: list[Callable[[], Any]] = []
        _here.news = news
        try:
            with set_curdoc(self._document):
                act()
        except Exception:
            log.exception("a page could not do what it was asked")
        finally:
            _here.news = None
        context = self._document.session_context  # None once the session is gone
        if news and context is not None:
            with self._lock:
                self._news.extend(news)
            context.server_context.application_context.io_loop.add_callback(self._hand_over)

    async def _hand_over(self) -> None:
        """Bring everything that is new to the browser. Runs on the server's loop."""
        context = self._document.session_context
        if context is not None and not context.destroyed:
            await context.with_locked_document(self._tell)

    async def _tell(self, document: Any) -> None:
        with set_curdoc(document), pn.io.hold(document):  # all of it in one message: a figure never without its number
            self._spread()

    def _spread(self) -> None:
        while True:
            with self._lock:
                change = self._news.popleft() if self._news else None
            if change is None:
                return
            try:
                change()
            except Exception:
                log.exception("a part of a page could not be changed")

    # ---- without one -------------------------------------------------------------------------------------------------

    def _work_here(self) -> None:
        with self._acting:
            if self._working:
                return  # an act has asked for another: it follows when the first is done
            self._working = True
            try:
                while self._waiting:
                    act, size = self._waiting.popleft()
                    try:
                        with pn.io.hold():
                            act()
                    finally:
                        WAITING.give(size)
            finally:
                self._working = False


class Posted:
    """A Panel part whose changes wait for the end of the act that makes them (see `later`). Mix it in before the Panel class.

    Its browser half says all it has to say in messages. Nothing it holds is taken back from there: Panel would otherwise take
    what an act sets in several parts at once for a reader's own change, and set it again when newer values stand already.
    """

    _linked_properties: tuple[str, ...] = ()

    def _apply_update(self, events: Any, msg: Any, model: Any, ref: Any) -> bool:
        later(partial(super()._apply_update, events, msg, model, ref))  # type: ignore[misc]
        return True

    def _send_msg(self, data: Any) -> None:
        later(partial(super()._send_msg, data))  # type: ignore[misc]
