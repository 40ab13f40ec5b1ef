"""Approvals answered from elsewhere: another thread, another task, a web handler."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from cmbagent.approvals.request import ApprovalRequest, ApprovalResult
from cmbagent.errors import ConfigurationError


class QueueApprovalManager:
    """Keeps questions until someone answers them by id. All methods may be called from any thread.

    Args:
        on_request: called with each new `ApprovalRequest`, in the thread that asks, for example to send a
            message to whoever is to answer; what it raises ends the asking.
    """

    def __init__(self, on_request: Callable[[ApprovalRequest], Any] | None = None) -> None:
        self._on_request = on_request
        self._lock = threading.Lock()
        self._open: dict[str, tuple[ApprovalRequest, Future[ApprovalResult]]] = {}

    def create_approval_request(
        self,
        *,
        run_id: str,
        step_id: str,
        checkpoint_type: str,
        context_snapshot: dict[str, Any],
        message: str,
        options: list[str],
    ) -> ApprovalRequest:
        """Put a question; see `ApprovalRequest` for the arguments."""
        request = ApprovalRequest(run_id, step_id, checkpoint_type, context_snapshot, message, list(options))
        with self._lock:
            self._open[request.id] = (request, Future())
        if self._on_request is not None:
            try:
                self._on_request(request)
            except BaseException:
                self.withdraw(request.id)
                raise
        return request

    def pending(self) -> list[ApprovalRequest]:
        """Return the questions without an answer, oldest first."""
        with self._lock:
            return [request for request, answer in self._open.values() if not answer.done()]

    def answer(
        self,
        request_id: str,
        resolution: Any,
        user_feedback: str | None = None,
        modifications: Any = None,
    ) -> ApprovalResult:
        """Answer a question; nobody needs to wait for it yet.

        Args:
            request_id: the `id` of the question.
            resolution: one of its options, or the past form of one.
            user_feedback: words for the agents that follow.
            modifications: changes such as `{"plan": [steps]}`.

        Raises:
            ConfigurationError: no question of that id is open, the word is none of its options, or the
                changed plan cannot be carried out; in the last two cases the question stays open.
        """
        with self._lock:
            request, answer = self._entry(request_id)
            if answer.done():
                raise ConfigurationError(
                    f"the question {request_id!r} has been answered: {answer.result().resolution}"
                )
            result = request.accept(resolution, user_feedback, modifications)
            answer.set_result(result)
        return result

    def withdraw(self, request_id: str) -> None:
        """Forget a question; silent if there is none of that id."""
        with self._lock:
            self._open.pop(request_id, None)

    async def wait_for_approval_async(
        self, request_id: str, timeout_seconds: float | None = None
    ) -> ApprovalResult:
        """Wait for the answer without blocking the loop. Afterwards the question is forgotten.

        Args:
            request_id: the `id` of the question.
            timeout_seconds: how long to wait; `None` waits for ever.

        Raises:
            ConfigurationError: no question of that id is open.
            TimeoutError: nobody answered in time; the question is withdrawn.
        """
        with self._lock:
            _, answer = self._entry(request_id)
        loop, answered = asyncio.get_running_loop(), asyncio.Event()

        def wake(_: Future[ApprovalResult]) -> None:
            with contextlib.suppress(RuntimeError):  # the loop may have closed meanwhile
                loop.call_soon_threadsafe(answered.set)

        answer.add_done_callback(wake)
        try:
            async with asyncio.timeout(timeout_seconds):
                await answered.wait()
        except TimeoutError:
            raise self._late(request_id, timeout_seconds) from None
        finally:
            self.withdraw(request_id)
        return answer.result()

    def wait_for_approval(self, request_id: str, timeout_seconds: float | None = None) -> ApprovalResult:
        """Wait as `wait_for_approval_async` does, blocking the calling thread."""
        with self._lock:
            _, answer = self._entry(request_id)
        try:
            return answer.result(timeout_seconds)
        except TimeoutError:
            raise self._late(request_id, timeout_seconds) from None
        finally:
            self.withdraw(request_id)

    def _entry(self, request_id: str) -> tuple[ApprovalRequest, Future[ApprovalResult]]:
        try:
            return self._open[request_id]
        except KeyError:
            raise ConfigurationError(
                f"no approval request {request_id!r} is open; it never was, it was answered, or it timed out"
            ) from None

    @staticmethod
    def _late(request_id: str, seconds: float | None) -> TimeoutError:
        return TimeoutError(f"nobody answered the approval request {request_id} within {seconds} s")
