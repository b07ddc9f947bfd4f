"""The part of a live page that keeps its runs and hands them out: shelf, download, offline page. It knows no paper either."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from widgets import worker
from widgets.parts import send_file
from widgets.running import Running
from widgets.shelf import Shelf, is_key, new_key
from workbench.errors import InputError, WorkbenchError
from workbench.record import Record


class Keeping(Running):
    """What a page does with a run that its reader wants to have. Mixed into `Bench`."""

    _wanted: str

    def _on_hello(self, message: dict[str, Any]) -> None:
        """Take the key that the browser holds for its shelf, or give it one; open the kept run that the link names."""
        if self._visitor:
            return  # one page, one shelf: a browser that says another key is not followed
        said = str(message.get("visitor", ""))
        self._visitor = said if is_key(said) else new_key()
        self.header.visitor = self._visitor
        wanted, self._wanted = self._wanted, ""
        if wanted:
            kept = self._shelf.about(wanted)
            record = self._shelf.record(wanted)
            if kept.system != self.system.key:
                raise InputError(f"This kept run is one of {kept.system!r}. Open it on that page.")
            if record.settings():
                raise InputError(
                    f"“{kept.name}” is a sweep of {len(record.settings())} runs. Choose it on the page that compares runs."
                )
            self.cancel()
            known = {n: v for n, v in record.knobs.items() if n in self.system.knob_names()}
            self._bring(record, known, 0, f"kept as “{kept.name}”")
            moved = {n: v for n, v in kept.live.items() if n in self.system.knob_names()}
            if moved:
                self.system.set(**moved)
                self._refresh_controls()
                self._rederive()

    @property
    def _shelf(self) -> Shelf:
        return Shelf(self._visitor, self._address)

    def _on_keep(self, message: dict[str, Any]) -> None:
        """Put the run on show on the visitor's shelf."""
        if not self._visitor:
            raise InputError("This page has no shelf. Save the run with `bench.record.save(path)` instead.")
        kept = self._shelf.keep(self._whole(), str(message.get("name") or ""), str(message.get("note") or ""))
        self._say(f"Kept as “{kept.name}”.", "kept")

    def _whole(self) -> Record:
        """Return the run on show."""
        if self.record is None:
            raise InputError("Nothing has run yet. Press Run first.")
        return self.record

    def _on_download(self, message: dict[str, Any]) -> None:
        """Send the run on show as a file: the record at once, the offline page as soon as the queue has made it."""
        record, name = self._whole(), f"{self.system.key}-seed-{self.system.seed}"
        if message.get("what") != "page":  # what was measured must not be lost to a knob that has moved since
            send_file(self.header, file_of(record.as_run, "run.zarr.zip", Record.save), f"{name}.zarr.zip")
            return
        self._say("The offline page is being written.")

        def told(job: worker.Job) -> None:
            result, error, state = job.result, job.error, job.state
            self._on_page(lambda: self._page_written(state, result, error, f"{name}.html"))

        worker.QUEUE.submit(lambda _: file_of(record, "run.html", Record.html), told, self._owner)

    def _page_written(self, state: str, data: Any, error: Exception | None, name: str) -> None:
        if state == "done" and data is not None:
            send_file(self.header, data, name)
            self._say("")
        elif state in {"failed", "cancelled"}:
            self._say(worker.sentence(error or WorkbenchError("The offline page was not written. Try again.")), "error")


def file_of(record: Record, name: str, write: Callable[[Record, Path], Path]) -> bytes:
    """Return the bytes of the file that `write` makes of a record."""
    with tempfile.TemporaryDirectory(prefix="workbench-") as folder:
        return write(record, Path(folder) / name).read_bytes()


def kept_key(search: str) -> str:
    """Return the key of the kept run that a link names; "" where it names none."""
    from urllib.parse import parse_qs

    found = parse_qs(search.lstrip("?")).get("kept", [""])[0]
    return found if is_key(found) else ""
