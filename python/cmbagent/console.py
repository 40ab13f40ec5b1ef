"""Approvals at the terminal: a workflow's questions are answered by whoever sits there."""

from __future__ import annotations

import asyncio
import sys
import threading
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any


@dataclass
class ConsoleRequest:
    """A question that waits for its answer.

    Attributes:
        id: Its identity.
        message: The question.
        options: The words that count as answers.
        resolution: The word chosen, once there is one.
        user_feedback: What the human added, ``None`` for nothing.
        modifications: Always ``None``: a plan is edited through feedback here.
    """

    message: str
    options: list[str]
    id: str = field(default_factory=lambda: str(uuid.uuid4()))
    resolution: str | None = None
    user_feedback: str | None = None
    modifications: dict[str, Any] | None = None


class ConsoleApprovals:
    """An approval manager that asks on standard input.

    Args:
        ask: Reads a line after showing a prompt; ``None`` is ``input``.
    """

    def __init__(self, ask: Callable[[str], str] | None = None) -> None:
        self._ask = ask or input
        self._requests: dict[str, ConsoleRequest] = {}

    def create_approval_request(
        self,
        *,
        run_id: str,
        step_id: str,
        checkpoint_type: str,
        context_snapshot: dict[str, Any],
        message: str,
        options: list[str],
    ) -> ConsoleRequest:
        """Registers a question; it is asked when :meth:`wait_for_approval_async` is awaited.

        Args:
            run_id: The run that asks.
            step_id: The place in the run that asks.
            checkpoint_type: Why it asks, such as ``after_planning``.
            context_snapshot: The state to decide upon; the display has shown what matters of it.
            message: The question.
            options: The words that count as answers.
        """
        request = ConsoleRequest(message, list(options))
        self._requests[request.id] = request
        return request

    async def wait_for_approval_async(
        self, request_id: str, timeout_seconds: float | None = None
    ) -> ConsoleRequest:
        """Asks until one of the options is answered.

        Args:
            request_id: The ``id`` of the request.
            timeout_seconds: How long to wait; ``None`` waits for ever.

        Raises:
            ValueError: when no request has that id.
            TimeoutError: when nobody answered in time.
            EOFError: when standard input is closed.
        """
        if request_id not in self._requests:
            raise ValueError(f"expected the id of an open approval request, got {request_id!r}")
        request = self._requests[request_id]
        loop = asyncio.get_running_loop()
        answered: asyncio.Future[tuple[str, str]] = loop.create_future()

        def settle(outcome: tuple[str, str] | BaseException) -> None:
            if answered.done():
                return
            if isinstance(outcome, BaseException):
                answered.set_exception(outcome)
            else:
                answered.set_result(outcome)

        def listen() -> None:
            try:
                outcome: tuple[str, str] | BaseException = self._dialogue(request)
            except BaseException as problem:
                outcome = problem
            if not loop.is_closed():
                loop.call_soon_threadsafe(settle, outcome)

        # A daemon: a thread that sits in `input` cannot be ended and must not keep the process alive.
        threading.Thread(target=listen, name="cmbagent-approval", daemon=True).start()
        word, feedback = await asyncio.wait_for(answered, timeout_seconds)
        request.resolution, request.user_feedback = word, feedback or None
        del self._requests[request_id]
        return request

    def _dialogue(self, request: ConsoleRequest) -> tuple[str, str]:
        """The chosen option and the feedback."""
        names = "/".join(request.options)
        while True:
            said = self._read(f"{names} > ").lower()
            fits = [each for each in request.options if said and each.lower().startswith(said)]
            if said in request.options:
                fits = [said]
            if len(fits) == 1:
                break
            sys.stderr.write(f"Please answer with one of: {', '.join(request.options)}\n")
        feedback = "" if fits[0].startswith("approve") else self._read("your words (empty for none) > ")
        return fits[0], feedback

    def _read(self, prompt: str) -> str:
        try:
            return self._ask(prompt).strip()
        except EOFError as end:
            raise EOFError("no answer came: standard input is closed") from end
