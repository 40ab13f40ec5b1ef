"""Whether the server serves, and what it counts."""

from __future__ import annotations

from fastapi import APIRouter, Request
from fastapi.responses import PlainTextResponse

from cmbagent import _core
from cmbagent.backend import metrics
from cmbagent.backend.hub import TheHub
from cmbagent.backend.models.run_schemas import HealthResponse
from cmbagent.backend.routers.route import ERRORS, Route

router = APIRouter(tags=["Server"], route_class=Route, responses=ERRORS)


@router.get("/api/health", summary="Ask whether the server serves")
def health(hub: TheHub) -> HealthResponse:
    """Answer when the server can read its store; no token is needed."""
    hub.store._core.run("")
    return HealthResponse(status="ok", version=_core.__version__)


@router.get("/metrics", summary="Count", response_class=PlainTextResponse)
def count(request: Request, hub: TheHub) -> PlainTextResponse:
    """Give the server's counts in the text format of Prometheus."""
    lines = metrics.of_runs(hub.store._core.tally(), hub.runs.count(), hub.feeds.listeners)
    meter: metrics.Meter = request.state.meter
    text = "\n".join([*lines, *meter.lines(), ""])
    return PlainTextResponse(text, media_type="text/plain; version=0.0.4")
