"""The server's application."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse

from cmbagent import _core
from cmbagent.backend.guard import Guard
from cmbagent.backend.hub import Hub
from cmbagent.backend.leftovers import Leftovers
from cmbagent.backend.metrics import Meter
from cmbagent.backend.routers import register_routers
from cmbagent.backend.settings import Settings
from cmbagent.store import StoreLike


def create_app(store: StoreLike = None, settings: Settings | None = None) -> FastAPI:
    """Make the application that `cmbagent serve` serves.

    Args:
        store: where workflows and runs are kept, as `store=` of an executor.
        settings: how it is reached and what it allows; `None` takes the token from the environment.

    Returns:
        An ASGI application. While it serves it takes up what others have left; its end lets runs go.

    Raises:
        ConfigurationError: it would be reached from elsewhere without a token, or there is no store.
        JournalError: the store cannot be used.
    """
    settings = settings or Settings.from_environment()
    settings.check()
    hub = Hub(store, settings)

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        leftovers = Leftovers(hub.runs, settings.take_up_seconds)
        if settings.resume:
            await asyncio.to_thread(leftovers.begin)
        yield
        await asyncio.to_thread(leftovers.end)
        await asyncio.to_thread(hub.runs.close)

    app = FastAPI(
        title="cmbagent",
        version=_core.__version__,
        description="Run, watch, approve and stop workflows of research agents.",
        lifespan=lifespan,
    )
    app.state.cmbagent = hub
    register_routers(app)
    app.add_middleware(Guard, settings=settings)
    app.add_middleware(Meter)
    app.add_exception_handler(RequestValidationError, _malformed)
    app.add_exception_handler(Exception, _failed)
    return app


async def _malformed(_: Request, error: Exception) -> JSONResponse:
    # What came is left out: it may hold a key.
    faults = error.errors() if isinstance(error, RequestValidationError) else []
    detail = [{"loc": list(each["loc"]), "msg": each["msg"], "type": each["type"]} for each in faults]
    return JSONResponse({"detail": detail}, status_code=422)


async def _failed(_: Request, __: Exception) -> JSONResponse:
    # What went wrong is in the server's log.
    return JSONResponse({"detail": "the server failed at this; its log says why"}, status_code=500)
