"""The server itself: threads, sockets, the script, and the record of calls."""

from __future__ import annotations

import contextlib
import json
import os
import select
import socket
import socketserver
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, TypeAlias, Union
from urllib.parse import urlsplit

from cmbagent.testing import wire
from cmbagent.testing.replies import Fault, Reply
from cmbagent.testing.wire import Call

Answer: TypeAlias = Union[str, Mapping[str, Any], Reply, Fault, "Callable[[Call], Answer]"]
Script: TypeAlias = Union[Mapping[str, "Answer | Sequence[Answer]"], "Callable[[Call], Answer]"]

_REASONS = {200: "OK", 400: "Bad Request", 404: "Not Found", 429: "Too Many Requests", 500: "Server Error"}
_MAX_BODY = 256 * 1024 * 1024
_SLICE_SECONDS = 0.05


class ScriptError(AssertionError):
    """The script does not fit what happened; the message lists the calls so far."""


class ModelServer:
    """A server of scripted models on ``127.0.0.1``, at a port that the system chooses.

    Args:
        script: Agent name → answer, list of answers, or callable; ``"*"`` stands for all agents not
            named. A bare callable answers everybody. An answer is text, a dict (sent as JSON text), a
            `Reply`, a `Fault`, or a callable that is given the `Call` and returns
            one of these. A single answer repeats for ever; a list is used up one item a request and then
            fails, naming the agent.
        delay: Seconds before each answer, or a callable that is given the `Call` and returns them.

    Attributes:
        calls: Every request so far, in order of arrival.
        errors: What the script could not serve, in words; also sent to the client with status 400.

    Used as a context manager. Safe for many clients at once.

    """

    def __init__(self, script: Script, *, delay: float | Callable[[Call], float] = 0.0) -> None:
        self.calls: list[Call] = []
        self.errors: list[str] = []
        self._script = script
        self._used: dict[str, int] = {}
        self._delay = delay
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._sockets: set[socket.socket] = set()
        self._server = _Listener(self)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    def __enter__(self) -> ModelServer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stops listening and closes every connection; a hanging answer ends at once."""
        self._closing.set()
        self._server.shutdown()
        self._server.server_close()
        with self._lock:
            for each in self._sockets:
                with contextlib.suppress(OSError):
                    each.shutdown(socket.SHUT_RDWR)
        self._thread.join(timeout=5)

    @property
    def url(self) -> str:
        """The address, such as ``http://127.0.0.1:40213``."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    @property
    def api_keys(self) -> dict[str, str]:
        """Keys that this server accepts, as it accepts any."""
        return {name: f"test-key-{name.lower()}" for name in ("OPENAI", "GEMINI", "ANTHROPIC", "MISTRAL")}

    @property
    def variables(self) -> dict[str, str]:
        """The environment variables that send every provider's requests here, past any proxy."""
        direct = {
            name: ",".join(filter(None, (os.environ.get(name), "127.0.0.1")))
            for name in ("NO_PROXY", "no_proxy")
        }
        return {
            "OPENAI_BASE_URL": f"{self.url}/v1",
            "ANTHROPIC_BASE_URL": self.url,
            "GEMINI_BASE_URL": self.url,
            **direct,
        }

    @contextlib.contextmanager
    def environment(self) -> Iterator[ModelServer]:
        """Sets `variables` in this process and puts the former values back at the end."""
        variables = self.variables
        former = {name: os.environ.get(name) for name in variables}
        os.environ.update(variables)
        try:
            yield self
        finally:
            for name, text in former.items():
                if text is None:
                    os.environ.pop(name, None)
                else:
                    os.environ[name] = text

    def agents(self) -> list[str]:
        """The agents in the order of their calls."""
        return [each.agent for each in list(self.calls)]

    def prompts(self, agent: str) -> list[str]:
        """The user's side of every call to that agent, in order."""
        return [each.prompt for each in list(self.calls) if each.agent == agent]

    def assert_calls(self, expected: Sequence[str]) -> None:
        """Checks which agents were called, in order.

        Raises:
            ScriptError: when the order differs; the message shows both and what the script lacked.

        """
        found = self.agents()
        if found != list(expected):
            lacks = "".join(f"\n  script: {each}" for each in self.errors)
            wanted, came = ", ".join(expected) or "none", ", ".join(found) or "none"
            message = f"expected calls: {wanted}\n  actual calls: {came}"
            raise ScriptError(message + lacks)

    # --- what a connection's thread asks for ---

    def _record(
        self, provider: wire.Provider, path: str, body: dict[str, Any], headers: dict[str, str]
    ) -> Call:
        with self._lock:
            call = wire.read(provider, path, body, headers, time.time(), len(self.calls) + 1)
            self.calls.append(call)
        return call

    def _answer(self, call: Call) -> Reply | Fault:
        """The script's next answer to this call."""
        try:
            answer = self._next(call)
            while callable(answer):
                answer = answer(call)
        except Exception as problem:
            text = (
                str(problem) if isinstance(problem, ScriptError) else f"{type(problem).__name__}: {problem}"
            )
            message = f"ModelServer: agent {call.agent or 'without a name'!r}: {text}"
            self.errors.append(message)
            return Fault.status(400, message)
        if isinstance(answer, str):
            return Reply(answer)
        if isinstance(answer, Mapping):
            return Reply(json.dumps(answer, ensure_ascii=False))
        return answer

    def _next(self, call: Call) -> Answer:
        if callable(self._script):
            return self._script
        with self._lock:
            key = call.agent if call.agent in self._script else "*"
            if key not in self._script:
                known = ", ".join(self._script) or "nobody"
                raise ScriptError(
                    f"not in the script, which has {known}; calls so far: {', '.join(self.agents())}"
                )
            entry = self._script[key]
            if isinstance(entry, (str, Mapping, Reply, Fault)) or callable(entry):
                return entry
            used = self._used.get(key, 0)
            if used >= len(entry):
                raise ScriptError(
                    f"the {len(entry)} scripted answers are used up; calls so far: {', '.join(self.agents())}"
                )
            self._used[key] = used + 1
            return entry[used]

    def _pause(self, call: Call) -> None:
        seconds = self._delay(call) if callable(self._delay) else self._delay
        if seconds > 0:
            self._closing.wait(seconds)


class _Listener(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True
    block_on_close = False
    request_queue_size = 512

    def __init__(self, model_server: ModelServer) -> None:
        self.model_server = model_server
        super().__init__(("127.0.0.1", 0), _Connection)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Keeps quiet about clients that went away; anything else is the script's error."""
        problem = sys.exception()
        if not isinstance(problem, (ConnectionError, TimeoutError)):
            self.model_server.errors.append(f"ModelServer: {type(problem).__name__}: {problem}")


class _Gone(ConnectionError):
    """The client closed, or the fault says that we do."""


class _Connection(socketserver.StreamRequestHandler):
    """One connection: HTTP/1.1 with keep-alive, read and written by hand for speed and for faults."""

    server: _Listener
    disable_nagle_algorithm = True

    def handle(self) -> None:
        owner = self.server.model_server
        with owner._lock:
            owner._sockets.add(self.connection)
        try:
            while not owner._closing.is_set() and self._serve_one(owner):
                pass
        except ConnectionError:
            pass
        finally:
            with owner._lock:
                owner._sockets.discard(self.connection)

    def _serve_one(self, owner: ModelServer) -> bool:
        request = self.rfile.readline(65536)
        if not request.strip():
            return False
        method, target, _ = request.decode("latin-1").split(" ", 2)
        headers: dict[str, str] = {}
        while (line := self.rfile.readline(65536).decode("latin-1")).strip():
            name, _, text = line.partition(":")
            headers[name.strip()] = text.strip()
        lower = {name.lower(): text for name, text in headers.items()}
        size = int(lower.get("content-length", "0"))
        if size > _MAX_BODY or "chunked" in lower.get("transfer-encoding", ""):
            self._send(
                411, {"error": {"message": "send the request with a Content-Length of at most 256 MB"}}
            )
            return False
        raw = self.rfile.read(size)
        path = urlsplit(target).path
        provider = wire.provider_of(path)
        if method != "POST" or provider is None:
            return self._no_call(method, path)
        try:
            body = json.loads(raw)
        except ValueError:
            self._send(400, wire.error(provider, 400, "the request's body is not JSON"))
            return True
        started = time.perf_counter()
        call = owner._record(provider, path, body, headers)
        try:
            answer = owner._answer(call)
            owner._pause(call)
            if isinstance(answer, Fault):
                self._misbehave(owner, call, answer)
            else:
                call.reply = answer.text
                self._send_reply(call, answer, "alt=sse" in target)
        finally:
            call.seconds = time.perf_counter() - started
        return lower.get("connection", "").lower() != "close"

    def _no_call(self, method: str, path: str) -> bool:
        if method == "GET" and path.endswith("/models"):
            self._send(200, {"object": "list", "data": []})
        else:
            self._send(
                404,
                {"error": {"message": f"{method} {path}: no such method here", "type": "not_found_error"}},
            )
        return True

    def _send_reply(self, call: Call, reply: Reply, sse: bool) -> None:
        if not call.stream:
            self._send(200, wire.whole(call, reply))
        elif call.provider == "gemini" and not sse:
            self._send(200, [json.loads(each[6:]) for each in wire.stream(call, reply)])
        else:
            body = b"".join(_chunk(each) for each in wire.stream(call, reply))
            self._write(_stream_head() + body + b"0\r\n\r\n")

    def _misbehave(self, owner: ModelServer, call: Call, fault: Fault) -> None:
        if fault.kind == "status":
            body = (
                fault.body if fault.body is not None else wire.error(call.provider, fault.code, fault.message)
            )
            self._send(fault.code, body, fault.headers)
            return
        if fault.kind == "garbage":
            self._send(200, fault.body or "", {"Content-Type": "text/html"})
            return
        if fault.kind == "error_in_stream" and not call.stream:
            self._send(fault.code, wire.error(call.provider, fault.code, fault.message))
            return
        if fault.kind in ("drop", "hang"):
            self._keep_waiting(owner, call, fault.seconds)
            raise _Gone
        pieces = self._pieces(call, fault.reply)
        if fault.kind == "trickle":
            for each in pieces:
                self._write(each)
                owner._closing.wait(fault.seconds)
            return
        for each in pieces[: max(2, len(pieces) // 2)]:
            self._write(each)
        if fault.kind == "error_in_stream":
            data = json.dumps(wire.error(call.provider, fault.code, fault.message))
            name = "event: error\n" if call.provider == "anthropic" else ""
            self._write(_chunk(f"{name}data: {data}\n\n") + b"0\r\n\r\n")
            return
        self._keep_waiting(owner, call, fault.seconds)
        raise _Gone

    def _keep_waiting(self, owner: ModelServer, call: Call, seconds: float) -> None:
        give_up = time.monotonic() + seconds
        while (left := give_up - time.monotonic()) > 0 and not owner._closing.is_set():
            # Whoever waits for an answer sends nothing: there is something to read once it has closed.
            if select.select([self.connection], [], [], min(left, _SLICE_SECONDS))[0]:
                call.left = True
                return

    def _pieces(self, call: Call, reply: Reply) -> list[bytes]:
        """The whole answer's bytes, head first, in the pieces in which a fault sends them."""
        if call.stream:
            return [_stream_head(), *(_chunk(each) for each in wire.stream(call, reply)), b"0\r\n\r\n"]
        body = json.dumps(wire.whole(call, reply)).encode()
        size = -(-len(body) // 8)
        return [
            _head(200, len(body), {}),
            *(body[start : start + size] for start in range(0, len(body), size)),
        ]

    def _send(self, status: int, body: Any, headers: Mapping[str, str] | None = None) -> None:
        data = body.encode() if isinstance(body, str) else json.dumps(body).encode()
        self._write(_head(status, len(data), headers or {}) + data)

    def _write(self, data: bytes) -> None:
        self.connection.sendall(data)


def _head(status: int, size: int, headers: Mapping[str, str]) -> bytes:
    merged = {
        "Content-Type": "application/json",
        "Content-Length": str(size),
        "x-request-id": "test",
        **headers,
    }
    lines = "".join(f"{name}: {text}\r\n" for name, text in merged.items())
    return f"HTTP/1.1 {status} {_REASONS.get(status, 'Status')}\r\n{lines}\r\n".encode("latin-1")


def _stream_head() -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


def _chunk(text: str) -> bytes:
    data = text.encode()
    return b"%x\r\n%b\r\n" % (len(data), data)
