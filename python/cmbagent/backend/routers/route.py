"""How the package's errors are told to clients."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import HTTPException, Request, Response
from fastapi.routing import APIRoute

from cmbagent.backend.definitions import StaleVersionError
from cmbagent.backend.feed import TooManyListenersError
from cmbagent.backend.live import BusyError
from cmbagent.backend.models.phase_schemas import ErrorResponse
from cmbagent.backend.runner import StatusError
from cmbagent.errors import CmbagentError, ConfigurationError, JournalError, WorkDirError

_STATUS: list[tuple[type[CmbagentError], int]] = [
    (StaleVersionError, 409),
    (StatusError, 400),
    (BusyError, 503),
    (TooManyListenersError, 503),
    (ConfigurationError, 400),
    (WorkDirError, 409),
    (JournalError, 409),
]

_MEANT = {
    400: "What is asked cannot be done as it is",
    401: "A token is needed, or is not the server's",
    403: "It may not be done",
    404: "There is no such thing",
    409: "Somebody else is at it",
    412: "It was changed meanwhile",
    413: "The body is too large",
    414: "The path is too long",
    422: "The request is not of the form that is expected",
    503: "Too much is going on",
}

ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorResponse, "description": text} for status, text in _MEANT.items()
}
"""The answers to what goes wrong, for the OpenAPI document."""


class Route(APIRoute):
    """A route that answers the package's errors with their text, in whatever application it is mounted."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return the handler."""
        handle = super().get_route_handler()

        async def translated(request: Request) -> Response:
            try:
                return await handle(request)
            except CmbagentError as error:
                for kind, status in _STATUS:
                    if isinstance(error, kind):
                        raise HTTPException(status, str(error)) from error
                raise

        return translated
