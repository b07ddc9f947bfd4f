"""A visitor without a browser: speaks to a served page what its scripts speak, over the same websocket.

The page is fetched, its token opens the socket, the document is read, and from then on every change that the server sends is
applied to a plain dict for each part of the page. What a part's script would send (`model.send_msg`) goes through `send`.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import re
from typing import Any

from tornado.httpclient import AsyncHTTPClient, HTTPRequest
from tornado.websocket import WebSocketClientConnection, websocket_connect

_TOKEN = re.compile(r'"token":\s*"([^"]+)"')
MOST_BYTES = 100 << 20


class Visitor:
    """One open page.

    Args:
        address: of the server, "http://127.0.0.1:5006".
        path: page and query, "rsd?depth=3".
    """

    def __init__(self, address: str, path: str) -> None:
        self.address, self.path = address.rstrip("/"), path
        self.parts: dict[str, dict[str, Any]] = {}  # id of a part's data -> its fields
        self.search = ""  # what the server wrote into the address bar
        self.files: list[dict[str, Any]] = []  # what the server handed out
        self.received = 0  # bytes
        self.documents: list[str] = []  # whole documents, as the server wrote them
        self._models: dict[str, tuple[str, str]] = {}  # id of a model -> kind of part, id of its data
        self._welcome = False
        self._numbers = itertools.count(1)
        self._news = asyncio.Event()
        self._socket: WebSocketClientConnection | None = None
        self._reader: asyncio.Task[None] | None = None

    async def open(self, *, ready: bool = True) -> Visitor:
        """Fetch the page, connect, and read its document; say that it is ready, upon which a page may begin a run.

        Raises:
            ConnectionError: the server refused the page or the socket.
        """
        answer = await AsyncHTTPClient().fetch(f"{self.address}/{self.path}", raise_error=False, request_timeout=60)
        found = _TOKEN.search(answer.body.decode(errors="replace")) if answer.code == 200 else None
        if found is None:
            raise ConnectionError(f"{self.path}: {answer.code} {(answer.body or b'')[:120]!r}")
        where = f"{self.address.replace('http', 'ws', 1)}/{self.path.split('?')[0]}/ws"
        request = HTTPRequest(where, headers={"Origin": self.address}, request_timeout=60)
        self._socket = await websocket_connect(request, subprotocols=["bokeh", found[1]], max_message_size=MOST_BYTES)
        self._reader = asyncio.create_task(self._listen())
        await self.until(lambda: self._welcome, "a word of welcome")
        await self._write("PULL-DOC-REQ", {})
        await self.until(lambda: bool(self._models), "its document")
        if ready:
            await self._event("document_ready", [])
        return self

    async def close(self) -> None:
        """Leave as a closed tab does."""
        if self._socket is not None:
            self._socket.close()
        if self._reader is not None:
            await asyncio.wait([self._reader], timeout=10)

    @property
    def gone(self) -> bool:
        """Whether the connection was lost."""
        return self._reader is None or self._reader.done()

    def part(self, kind: str, **fields: Any) -> dict[str, Any]:
        """Return the first part of a kind ("Header", "Picture", ...) whose fields are these."""
        for name, data in self._models.values():
            if name == kind and all(self.parts[data].get(k) == v for k, v in fields.items()):
                return self.parts[data]
        raise KeyError(f"no {kind} with {fields}")

    async def send(self, part: str, message: dict[str, Any]) -> None:
        """Send what the script of a part sends."""
        model = next(m for m, (name, _) in self._models.items() if name == part)
        await self._event("data_event", [["model", {"id": model}], ["data", _map(message)]])

    async def until(self, holds: Any, what: str, seconds: float = 60.0) -> None:
        """Wait until something holds of what the server has sent.

        Raises:
            ConnectionError: the connection was lost, or it did not happen in time.
        """
        loop = asyncio.get_running_loop()
        end = loop.time() + seconds
        while not holds():
            if self._reader is not None and self._reader.done():
                raise ConnectionError(f"{self.path}: the connection was lost before {what}")
            if loop.time() > end:
                raise ConnectionError(f"{self.path}: waited {seconds:g} s for {what}")
            self._news.clear()
            try:
                await asyncio.wait_for(self._news.wait(), 0.5)
            except TimeoutError:
                continue

    async def _event(self, name: str, entries: list[Any]) -> None:
        event = {"type": "event", "name": name, "values": {"type": "map", "entries": entries}}
        await self._write("PATCH-DOC", {"events": [{"kind": "MessageSent", "msg_type": "bokeh_event", "msg_data": event}]})

    async def _write(self, kind: str, content: dict[str, Any]) -> None:
        if self._socket is None:
            raise ConnectionError("not open")
        for frame in ({"msgid": str(next(self._numbers)), "msgtype": kind}, {}, content):
            await self._socket.write_message(json.dumps(frame))

    async def _listen(self) -> None:
        """Read messages until the connection ends: header, metadata, content, then two frames for each buffer."""
        while (first := await self._frame()) is not None:
            header = json.loads(first)
            await self._frame()
            content = await self._frame()
            for _ in range(2 * int(header.get("num_buffers", 0))):
                await self._frame()
            if content is None:
                break
            if header["msgtype"] == "PULL-DOC-REPLY":
                self.documents.append(content if isinstance(content, str) else content.decode())
            self._take(header["msgtype"], json.loads(content))
            self._news.set()
        self._news.set()

    async def _frame(self) -> str | bytes | None:
        assert self._socket is not None
        frame = await self._socket.read_message()
        self.received += len(frame or "")
        return frame

    def _take(self, kind: str, content: dict[str, Any]) -> None:
        self._welcome |= kind == "ACK"
        if kind == "PULL-DOC-REPLY":
            self._learn(content["doc"]["roots"])
        for event in content.get("events", ()) if kind == "PATCH-DOC" else ():
            if event["kind"] == "ModelChanged":
                self._learn(event["new"])
                self._changed(event["model"]["id"], event["attr"], event["new"])
            elif event["kind"] == "MessageSent":
                values = _plain(event.get("msg_data", {}).get("values", {}))
                if isinstance(values, dict) and isinstance(values.get("data"), dict) and "file" in values["data"]:
                    self.files.append(values["data"])

    def _changed(self, model: str, field: str, new: Any) -> None:
        if model in self.parts:
            self.parts[model][field] = _plain(new)
        elif field == "search" and isinstance(new, str):
            self.search = new

    def _learn(self, tree: Any) -> None:
        """Remember every part in a document's tree: which model it is, and the fields of its data."""
        if isinstance(tree, list):
            for item in tree:
                self._learn(item)
        if not isinstance(tree, dict):
            return
        attributes = tree.get("attributes", {})
        data = attributes.get("data") if isinstance(attributes, dict) else None
        if "class_name" in attributes and isinstance(data, dict) and "id" in data:
            self._models[tree["id"]] = (attributes["class_name"], data["id"])
            self.parts[data["id"]] = {k: _plain(v) for k, v in data.get("attributes", {}).items()}
        for value in tree.values():
            if isinstance(value, (dict, list)):
                self._learn(value)


def _map(value: Any) -> Any:
    """Return a value as the protocol writes it: a mapping is a list of entries."""
    if isinstance(value, dict):
        return {"type": "map", "entries": [[k, _map(v)] for k, v in value.items()]}
    return [_map(v) for v in value] if isinstance(value, list) else value


def _plain(value: Any) -> Any:
    """Return the reverse of `_map`; anything else the protocol knows stays as it is."""
    if isinstance(value, dict):
        if value.get("type") == "map":
            return {k: _plain(v) for k, v in value.get("entries", ())}
        return value
    return [_plain(v) for v in value] if isinstance(value, list) else value
