"""The events of a run as they happen: Server-Sent Events, and a WebSocket."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import APIRouter, Header, HTTPException, Query, Response, WebSocket, WebSocketDisconnect
from fastapi.responses import StreamingResponse

from cmbagent.backend.feed import Told, TooManyListenersError, read
from cmbagent.backend.guard import PROTOCOL
from cmbagent.backend.hub import Hub, TheHub
from cmbagent.backend.models.fields import RunInPath
from cmbagent.backend.routers.route import Route
from cmbagent.store import UNFINISHED

router = APIRouter(route_class=Route)

After = Annotated[
    int | None, Query(ge=0, le=2**53, description="Only events after this number; 0 begins with the first.")
]
Live = Annotated[
    bool,
    Query(description="Also events without a number: what models and scripts say while they do."),
]

_EVENT = {
    "type": "object",
    "properties": {
        "id": {"type": "string", "description": "Its number in the run; events that are not kept have none."},
        "event": {"type": "string", "description": "Its kind, such as `step_started`."},
        "data": {"type": "string", "description": "Its fields as JSON."},
    },
    "required": ["event", "data"],
}


@router.get(
    "/runs/{run_id}/events",
    summary="Listen to a run",
    response_class=StreamingResponse,
    responses={
        200: {"content": {"text/event-stream": {"schema": _EVENT}}},
        204: {"description": "The run has ended, and nothing is new."},
    },
)
async def listen(
    run_id: RunInPath,
    hub: TheHub,
    after: After = None,
    live: Live = True,
    last_event_id: Annotated[
        str | None, Header(description="The number of the last event that is known.", examples=["17"])
    ] = None,
) -> Response:
    """Send a run's events as Server-Sent Events: what has happened, then what happens, until its end.

    The `id` of each is its number in the run. Whoever comes again with `Last-Event-ID` gets those after it,
    none lost and none twice; when there are none any more, 204 has browsers stop asking. `after` in its place
    is for clients that cannot send headers. Events without `id` (`call_text`, `script_output`, `call_retry`)
    come only while they happen, from the server that runs the run, and are left out for slow listeners.
    """
    start = after
    if last_event_id is not None:
        if not (last_event_id.isascii() and last_event_id.isdigit() and len(last_event_id) <= 16):
            raise HTTPException(400, "the header Last-Event-ID must be the number of an event")
        start = int(last_event_id)
    over = await asyncio.to_thread(_nothing_more, hub, run_id, start or 0)
    if over and start is not None:
        return Response(status_code=204)
    hub.feeds.admit()
    stream = _frames(hub.feeds.follow(run_id, start or 0, hub.settings.keep_alive_seconds, live=live))
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    return StreamingResponse(stream, media_type="text/event-stream", headers=headers)


def _nothing_more(hub: Hub, run_id: str, after: int) -> bool:
    info = hub.run(run_id)
    going_on = info.owner is not None and info.status in UNFINISHED
    return not going_on and not read(hub.store, run_id, after + 1, 1)


async def _frames(told: AsyncIterator[Told | None]) -> AsyncIterator[str]:
    # Proxies and clients learn at once that the stream stands.
    yield ": listening\n\n"
    async with contextlib.aclosing(told) as events:  # type: ignore[type-var]
        async for event in events:
            yield ": alive\n\n" if event is None else event.frame


@router.websocket("/runs/{run_id}/events")
async def listen_by_websocket(
    socket: WebSocket, run_id: RunInPath, hub: TheHub, after: int = 0, live: bool = True
) -> None:
    """Send a run's events as texts `{"kind": …, "data": {…}}`; closed with 1000 when the run has ended."""
    offered = [each for each in socket.scope.get("subprotocols", []) if each.startswith(PROTOCOL)]
    try:
        await asyncio.to_thread(hub.run, run_id)
        hub.feeds.admit()
    except (HTTPException, TooManyListenersError) as error:
        missing = isinstance(error, HTTPException)
        await socket.close(4404 if missing else 1013, str(getattr(error, "detail", error))[:120])
        return
    await socket.accept(offered[0] if offered else None)
    sending = asyncio.create_task(
        _send(socket, hub.feeds.follow(run_id, max(0, after), hub.settings.keep_alive_seconds, live=live))
    )
    gone = asyncio.create_task(_until_gone(socket))
    try:
        await asyncio.wait({sending, gone}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in (sending, gone):
            task.cancel()
    ended = await asyncio.gather(sending, gone, return_exceptions=True)
    if not isinstance(ended[0], BaseException):
        with contextlib.suppress(RuntimeError, WebSocketDisconnect):
            await socket.close(1000)


async def _send(socket: WebSocket, told: AsyncIterator[Told | None]) -> None:
    async with contextlib.aclosing(told) as events:  # type: ignore[type-var]
        async for event in events:
            # The protocol has pings of its own for a silent connection.
            if event is not None:
                await socket.send_text(f'{{"kind":"{event.kind}","data":{event.text}}}')


async def _until_gone(socket: WebSocket) -> None:
    while (await socket.receive())["type"] != "websocket.disconnect":
        pass
