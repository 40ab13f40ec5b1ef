"""What every request has to pass: the right host and origin, the token, and the limits of size."""

from __future__ import annotations

import hmac
import json
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from cmbagent.backend.settings import Settings

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

OPEN_PATHS = ("/api/health",)
"""What is answered without a token: it says nothing of any run."""

PROTOCOL = "cmbagent.token."
"""A browser's WebSocket cannot send the header `Authorization`; it offers this and the token as protocol."""

_HEADERS = ((b"x-content-type-options", b"nosniff"), (b"referrer-policy", b"no-referrer"))


class Guard:
    """ASGI middleware that refuses what must not reach the application."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self.app = app
        self.settings = settings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer it with what is wrong."""
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        headers = {name.lower(): value.decode("latin-1") for name, value in scope["headers"]}
        refusal = self._refusal(scope, headers)
        if refusal is not None:
            await _refuse(scope, receive, send, *refusal)
        elif scope["type"] == "websocket":
            await self.app(scope, receive, send)
        else:
            await self._http(scope, receive, send, headers)

    def _refusal(self, scope: Scope, headers: dict[bytes, str]) -> tuple[int, str] | None:
        settings = self.settings
        host = headers.get(b"host", "")
        if not settings.is_asked_for(host):
            return (
                400,
                f"the header Host names {host[:100]!r}, which this server is not; "
                "see `cmbagent serve --allow-host`",
            )
        origin = headers.get(b"origin")
        if origin is not None and urlsplit(origin).netloc.lower() != host.lower():
            return 403, "pages of other origins may not use this server"
        if len(scope.get("raw_path") or b"") + len(scope.get("query_string") or b"") > settings.max_path:
            return 414, f"the path and query have more than {settings.max_path} characters"
        if settings.token is not None and scope["path"] not in OPEN_PATHS:
            given = _token(headers, scope["type"] == "websocket")
            if given is None:
                return 401, "a token is needed: send the header `Authorization: Bearer <CMBAGENT_TOKEN>`"
            if not hmac.compare_digest(given.encode("latin-1", "replace"), settings.token.encode()):
                return 401, "the token is not this server's"
        return None

    async def _http(self, scope: Scope, receive: Receive, send: Send, headers: dict[bytes, str]) -> None:
        limit = self.settings.max_body
        declared = headers.get(b"content-length", "0")
        if not (declared.isascii() and declared.isdigit()):
            await _refuse(scope, receive, send, 400, "the header Content-Length is no number")
            return
        too_large = f"the body has more than {limit} bytes"
        if int(declared[:20]) > limit:
            await _refuse(scope, receive, send, 413, too_large)
            return
        body = b""
        if int(declared[:20]) or b"transfer-encoding" in headers:
            parts: list[bytes] = []
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    return
                parts.append(message.get("body", b""))
                if sum(map(len, parts)) > limit:
                    await _refuse(scope, receive, send, 413, too_large)
                    return
                if not message.get("more_body", False):
                    break
            body = b"".join(parts)
        read = False

        async def replay() -> Message:
            nonlocal read
            if read:
                return await receive()
            read = True
            return {"type": "http.request", "body": body, "more_body": False}

        async def dress(message: Message) -> None:
            if message["type"] == "http.response.start":
                known = {name.lower() for name, _ in message["headers"]}
                message["headers"] = [
                    *message["headers"],
                    *(each for each in _HEADERS if each[0] not in known),
                ]
            await send(message)

        await self.app(scope, replay, dress)


def _token(headers: dict[bytes, str], websocket: bool) -> str | None:
    kind, _, token = headers.get(b"authorization", "").partition(" ")
    if kind.lower() == "bearer":
        return token.strip()
    if websocket:
        for offered in headers.get(b"sec-websocket-protocol", "").split(","):
            if offered.strip().startswith(PROTOCOL):
                return offered.strip().removeprefix(PROTOCOL)
    return None


async def _refuse(scope: Scope, receive: Receive, send: Send, status: int, detail: str) -> None:
    if scope["type"] == "websocket":
        await receive()
        # Before it is accepted, a close is answered as 403.
        await send({"type": "websocket.close", "code": 1008, "reason": detail[:120]})
        return
    body = json.dumps({"detail": detail}).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        *_HEADERS,
    ]
    if status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    if status in (400, 413):
        # What is left of the body is not read.
        headers.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
