"""Who may ask, and how: the API key, requests of other pages, sizes, and headers that hold a page to its own server."""

from __future__ import annotations

import hmac
import time
from collections.abc import Callable
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

#: What is answered without a key: pages without content, and what machines watch.
OPEN = ("/docs", "/openapi.json", "/health", "/metrics", "/review")
#: Bytes that a request may have.
MOST_BYTES = 4 << 20
LOCAL = ("localhost", "127.0.0.1", "::1")
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


class Guard:
    """Refuses what may not be asked, with one sentence; counts and times all answers."""

    def __init__(self, app: ASGIApp, key: str, local: bool, answered: Callable[[str, int, float], None]) -> None:
        """`key`, `local`: `app_of`; `answered` is told of each answer: its route, status and seconds."""
        self.app, self.key, self.local, self.answered = app, key.encode(), local, answered

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        begin, status = time.perf_counter(), 500

        async def told(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        refused = self.refused(scope["method"], scope["path"], Headers(scope=scope))
        answer = JSONResponse({"detail": refused[1]}, refused[0], _asks(refused[0])) if refused else self.app
        try:
            await answer(scope, receive, told)
        finally:
            route = getattr(scope.get("route"), "path", "other")
            self.answered(route, status, time.perf_counter() - begin)

    def refused(self, method: str, path: str, headers: Headers) -> tuple[int, str] | None:
        """Status and reason for a request that is not answered, None for one that is."""
        host, origin = headers.get("host", ""), headers.get("origin")
        if self.local and urlsplit(f"//{host}").hostname not in LOCAL:
            return 421, f"host {host!r} is no name of this machine; start the server with --api-key-env to use others"
        if method not in ("GET", "HEAD", "OPTIONS"):
            if origin is not None and urlsplit(origin).netloc != host:
                return 403, f"a page of {origin!r} may not ask here"
            if not headers.get("content-length", "").isdigit():
                return 411, "the request does not say how long it is"
            if int(headers["content-length"]) > MOST_BYTES:
                return 413, f"the request has {headers['content-length']} bytes, at most {MOST_BYTES} are read"
        if self.key and not (path in OPEN or path.startswith("/static/")) and not self._known(headers):
            return 401, "the API key is missing or wrong; send it as Authorization: Bearer KEY"
        return None

    def _known(self, headers: Headers) -> bool:
        kind, _, given = headers.get("authorization", "").partition(" ")
        return kind.lower() == "bearer" and hmac.compare_digest(given.strip().encode(), self.key)


def _asks(status: int) -> dict[str, str]:
    return {"WWW-Authenticate": "Bearer"} if status == 401 else {}
