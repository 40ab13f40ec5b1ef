"""What the server counts, in the text format of Prometheus."""

from __future__ import annotations

import threading
import time
from collections import Counter
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from starlette.types import ASGIApp, Message, Receive, Scope, Send

_BOUNDS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)


class Meter:
    """ASGI middleware that counts requests and the seconds until their answer begins."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app
        self._lock = threading.Lock()
        self._answers: Counter[tuple[str, str, int]] = Counter()
        self._buckets: Counter[float] = Counter()
        self._seconds = 0.0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, and look at its answer."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began = time.perf_counter()

        async def look(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._count(scope, message["status"], time.perf_counter() - began)
            await send(message)

        scope.setdefault("state", {})["meter"] = self
        await self.app(scope, receive, look)

    def _count(self, scope: Scope, status: int, seconds: float) -> None:
        route = _route(scope)
        with self._lock:
            self._answers[(scope["method"], route, status)] += 1
            self._seconds += seconds
            for bound in _BOUNDS:
                if seconds <= bound:
                    self._buckets[bound] += 1

    def lines(self) -> list[str]:
        """Return the counts as lines."""
        with self._lock:
            answers, buckets, seconds = Counter(self._answers), Counter(self._buckets), self._seconds
        total = sum(answers.values())
        lines = ["# TYPE cmbagent_http_requests_total counter"]
        for (method, route, status), count in sorted(answers.items()):
            labels = f'method="{_escaped(method)}",route="{_escaped(route)}",status="{status}"'
            lines.append(f"cmbagent_http_requests_total{{{labels}}} {count}")
        lines.append("# TYPE cmbagent_http_request_seconds histogram")
        lines += [
            f'cmbagent_http_request_seconds_bucket{{le="{bound}"}} {buckets[bound]}' for bound in _BOUNDS
        ]
        lines.append(f'cmbagent_http_request_seconds_bucket{{le="+Inf"}} {total}')
        lines += [
            f"cmbagent_http_request_seconds_sum {seconds}",
            f"cmbagent_http_request_seconds_count {total}",
        ]
        return lines


def of_runs(tally: Iterable[Mapping[str, Any]], live: int, listeners: int) -> list[str]:
    """Return lines about the runs of a store.

    Args:
        tally: per status how many runs there are and what they have spent.
        live: how many go on in this process.
        listeners: how many connections listen to events.
    """
    rows = list(tally)
    return [
        "# TYPE cmbagent_runs gauge",
        *(f'cmbagent_runs{{status="{row["status"]}"}} {row["runs"]}' for row in rows),
        "# TYPE cmbagent_runs_in_progress gauge",
        f"cmbagent_runs_in_progress {live}",
        "# TYPE cmbagent_event_listeners gauge",
        f"cmbagent_event_listeners {listeners}",
        "# TYPE cmbagent_model_calls gauge",
        f"cmbagent_model_calls {sum(row['calls'] for row in rows)}",
        "# TYPE cmbagent_model_tokens gauge",
        f'cmbagent_model_tokens{{kind="prompt"}} {sum(row["prompt_tokens"] for row in rows)}',
        f'cmbagent_model_tokens{{kind="completion"}} {sum(row["completion_tokens"] for row in rows)}',
        "# TYPE cmbagent_model_dollars gauge",
        f"cmbagent_model_dollars {sum(row['cost'] for row in rows)}",
    ]


def _route(scope: Scope) -> str:
    """The path with names in place of ids, of which there is no end; empty for what no route takes."""
    if "endpoint" not in scope:
        return ""
    path: str = scope["path"]
    for name, value in scope.get("path_params", {}).items():
        path = path.replace(f"/{value}", f"/{{{name}}}", 1)
    return path


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
