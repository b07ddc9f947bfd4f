"""The doors of a server: which requests come in, on what terms, and the headers that every answer carries.

A page carries a token, signed with the server's own secret, that names its session and holds its query. A session is made for
one page and handed to no other: an address cannot name one, and a socket needs a token that this server has written.
"""

from __future__ import annotations

import logging
import secrets
from typing import Any, cast
from urllib.parse import urlencode

from bokeh.server.views.session_handler import SessionHandler
from bokeh.server.views.ws import WSHandler
from bokeh.util.token import check_token_signature, get_session_id, get_token_payload
from panel.io.resources import LOCAL_DIST, patch_model_css
from tornado.web import ErrorHandler, HTTPError, RequestHandler

from widgets.operations import METRICS, STOPPING
from workbench.errors import expected

#: What names a session in an address or a header. Bokeh would join two visitors of the same name in one page.
NAMES_A_SESSION = ("bokeh-session-id", "bokeh-token")
MAX_VALUE = 4000  # bytes of one value in an address: more than any link of ours holds, and no number that Python refuses to read
log = logging.getLogger("workbench.server")


def headers(nonce: str) -> dict[str, str]:
    """Return the headers of every answer. Scripts run only from this server, or with the page's own number."""
    policy = [
        "default-src 'self'",
        f"script-src 'self' 'nonce-{nonce}' blob: 'unsafe-eval'",  # blob: and eval: how Panel loads a component's own script
        "style-src 'self' 'unsafe-inline'",
        "img-src 'self' data: blob:",
        "font-src 'self' data:",
        "connect-src 'self' blob:",
        "worker-src 'self' blob:",
        "object-src 'none'",
        "base-uri 'self'",
        "form-action 'self'",
        "frame-ancestors 'self'",
    ]
    return {
        "Content-Security-Policy": "; ".join(policy),
        "X-Content-Type-Options": "nosniff",
        "X-Frame-Options": "SAMEORIGIN",
        "Referrer-Policy": "same-origin",
        "Permissions-Policy": "camera=(), microphone=(), geolocation=(), payment=()",
        "Cross-Origin-Opener-Policy": "same-origin",
        "Server": "workbench",
    }


class Secured(RequestHandler):
    """Mixed in front of every handler of the server: headers, and the page's number on its own scripts."""

    def set_default_headers(self) -> None:
        super().set_default_headers()
        self.nonce = secrets.token_urlsafe(16)
        for name, value in headers(self.nonce).items():
            self.set_header(name, value)

    def write(self, chunk: Any) -> None:
        if isinstance(chunk, str) and "<script" in chunk and "html" in str(self._headers.get("Content-Type", "")):
            chunk = chunk.replace("<script", f'<script nonce="{self.nonce}"')
        super().write(chunk)

    def prepare(self) -> Any:
        if "%00" in self.request.path:
            raise HTTPError(404)  # no file has such a name, and the system's own functions refuse it with another error
        return super().prepare()

    def log_exception(self, kind: Any, error: Any, trace: Any) -> None:
        """Log what went wrong inside, without the query: a link holds what a visitor wrote."""
        if not isinstance(error, HTTPError):
            fields = {"method": self.request.method, "path": self.request.path}
            log.error("a request failed inside", extra={"fields": fields}, exc_info=(kind, error, trace))

    async def say(self, status: int, sentence: str) -> None:
        """Answer with one sentence."""
        self.set_status(status)
        if status == 503:
            self.set_header("Retry-After", "60")
        self.set_header("Content-Type", "text/plain; charset=utf-8")
        await self.finish(sentence)


class Gate:
    """Refuses a page, with a sentence, while too many are open or the server stops."""

    limit: int | None = None

    @classmethod
    def refuses(cls) -> str:
        if METRICS.stopping:
            return STOPPING
        if cls.limit is not None and METRICS.sessions() >= cls.limit:
            return f"{cls.limit} pages are open here already. Try again in a minute."
        return ""


class NewPage(Secured):
    """Mixed in front of what makes a session (a page, a page's script): the gate, and a session of its own for every page."""

    async def get(self, *args: Any, **kwargs: Any) -> None:
        if sentence := self._unfit():
            await self.say(400, sentence)
        elif sentence := Gate.refuses():
            await self.say(503, sentence)
        else:
            self.request.uri = _address(self.request.path, self.request.arguments)  # Panel takes a second question mark amiss
            await cast(Any, super()).get(*args, **kwargs)

    async def options(self, *args: Any, **kwargs: Any) -> None:
        if "Origin" not in self.request.headers:
            raise HTTPError(405)
        await cast(Any, super()).options(*args, **kwargs)

    def _unfit(self) -> str:
        """Return why no page can be made of this address, in a sentence; "" where one can."""
        for name in NAMES_A_SESSION:
            if name in self.request.arguments or name in self.request.headers:
                return expected(name, "no name of a session", "one", then="Open the page without it")
        if self.request.host.count(":") > 1:
            return expected("host", "a name or four numbers", "another", then="Open the page under the name of its machine")
        for name, values in self.request.arguments.items():
            if not all(map(_is_text, [name.encode("latin-1"), *values])):
                return expected("address", "text in UTF-8", "other bytes", then="Copy the link again")
            if (longest := max(map(len, values))) > MAX_VALUE:
                return expected("address", f"values of at most {MAX_VALUE} bytes", longest, name[:40], "Shorten the link")
        return ""


class PageSocket(Secured):
    """Mixed in front of a page's socket: it needs a token of this server, and the gate's leave where its session is not here."""

    application: Any
    application_context: Any

    async def prepare(self) -> None:
        await cast(Any, super()).prepare()
        session = self._named()
        if self._finished:
            return
        if not session:
            await self.say(403, expected("token", "one that this server has written", "another", then="Reload the page"))
        elif not self._here(session) and (sentence := Gate.refuses()):
            await self.say(503, sentence)

    async def _async_open(self, token: str) -> None:
        """Make the page first where this process does not hold it: as its address asked, with styles from this server.

        The page may have been written by another process that shares the port, or have waited too long for its browser.
        """
        session_id = get_session_id(token)
        if not self._here(session_id):
            asked = get_token_payload(token).get("arguments", {})
            self.request.uri = _address(self.request.path.removesuffix("/ws"), asked)
            session = await self.application_context.create_session_if_needed(session_id, self.request, token)
            session.document._template_variables["dist_url"] = LOCAL_DIST
            for root in session.document.roots:
                patch_model_css(root, dist_url=LOCAL_DIST)  # as Panel does for a page that it writes
        await cast(Any, super())._async_open(token)

    def _here(self, session: str) -> bool:
        return any(known.id == session for known in self.application_context.sessions)

    def _named(self) -> str:
        """Return the id of the session that the request's token names; "" where the token is not ours."""
        token = self.request.headers.get("Sec-WebSocket-Protocol", "").rpartition(",")[2].strip()
        app = self.application
        try:
            ours = check_token_signature(token, secret_key=app.secret_key, signed=app.sign_sessions)
            return str(get_session_id(token)) if ours else ""
        except (ValueError, KeyError, TypeError):
            return ""


def _address(path: str, arguments: dict[str, list[bytes]]) -> str:
    """Return a page's path and query, with every character of the query that means something there quoted."""
    query = urlencode(arguments, doseq=True, encoding="latin-1")  # Tornado's names are bytes in disguise
    return (path or "/") + (f"?{query}" if query else "")


def _is_text(value: bytes) -> bool:
    try:
        value.decode()
    except UnicodeDecodeError:
        return False
    return True


def _secured(handler: type[RequestHandler]) -> type[RequestHandler]:
    mixin = NewPage if issubclass(handler, SessionHandler) else PageSocket if issubclass(handler, WSHandler) else Secured
    return type(f"{mixin.__name__}{handler.__name__}", (mixin, handler), {})


def secure(application: Any) -> None:
    """Give every handler of a Tornado application the headers, and what makes a session its gate."""
    application.settings |= {"default_handler_class": _secured(ErrorHandler), "default_handler_args": {"status_code": 404}}
    routers = [application.wildcard_router, application.default_router]
    for rule in (r for router in routers for r in router.rules):
        target = rule.target
        if isinstance(target, type) and issubclass(target, RequestHandler) and not issubclass(target, Secured):
            rule.target = _secured(target)
