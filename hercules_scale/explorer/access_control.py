"""Access control of the explorer: requests from its own pages only, elsewhere with a token.

Another site can make a browser send requests here, and can point its own host name here. So without
a token the host name must be that of this machine (DNS rebinding), and requests that change
something must come from the explorer's own pages (cross-site request forgery).
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from hercules_scale.endpoint import is_loopback_host

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    # No script can turn a string into elements.
    "require-trusted-types-for 'script'; trusted-types 'none'"
)
HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}
SAFE = ("GET", "HEAD")


@dataclass(frozen=True)
class AccessControl:
    """Passes requests on to an application, or refuses them.

    Attributes:
        app: The application.
        port: Port that it listens on.
        token: Secret that a browser must send; None where only this machine can connect.
    """

    app: ASGIApp
    port: int
    token: str | None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self.app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers[name] = value
            await send(message)

        answer = self._refused(Request(scope)) or self.app
        await answer(scope, receive, send_with_headers)

    def _refused(self, request: Request) -> Response | None:
        headers = request.headers
        host = headers.get("host", "")
        if self.token is None:
            name = urlsplit(f"//{host}").hostname or ""
            if not is_loopback_host(name):
                return PlainTextResponse(f"this explorer is not called {host!r}", 403)
        foreign = headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none")
        if request.method not in SAFE:
            # A browser names the page that a changing request comes from.
            origin = urlsplit(headers.get("origin", "")).netloc
            if foreign or not origin or origin != host:
                return PlainTextResponse("only the explorer's own pages may change anything", 403)
        elif foreign and request.url.path != "/":
            return PlainTextResponse("only the explorer's own pages may ask for this", 403)
        return None if self.token is None else self._stranger(request, headers)

    def _stranger(self, request: Request, headers: Headers) -> Response | None:
        assert self.token is not None
        # Cookies are shared by all ports of a host, so the name holds the port.
        cookie = f"hercules_scale_{self.port}"
        given = request.query_params.get("token")
        if request.url.path == "/" and given is not None and self._is_token(given):
            answer = RedirectResponse("/", 303)
            answer.set_cookie(cookie, self.token, httponly=True, samesite="strict")
            return answer
        bearer = headers.get("authorization", "").removeprefix("Bearer ")
        if self._is_token(request.cookies.get(cookie, "")) or self._is_token(bearer):
            return None
        return PlainTextResponse(
            "this explorer needs its token: open the address that it printed, which ends in "
            "/?token=…",
            401,
        )

    def _is_token(self, given: str) -> bool:
        assert self.token is not None
        return hmac.compare_digest(given.encode(), self.token.encode())
