"""Questions that are answered through the store, by whoever reads it there, such as a client of REST."""

from __future__ import annotations

import asyncio
from typing import Any, NoReturn

from cmbagent.approvals.request import ApprovalRequest


class ElsewhereApprovalManager:
    """Leaves every question to the store, where the engine puts it and looks for its answer.

    It answers nothing itself; it only knows how long to wait. It needs a run that is kept.
    """

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
        """Return the question; see `ApprovalRequest` for the arguments."""
        return ApprovalRequest(run_id, step_id, checkpoint_type, context_snapshot, message, list(options))

    async def wait_for_approval_async(
        self, request_id: str, timeout_seconds: float | None = None
    ) -> NoReturn:
        """Wait until the time is over; the engine ends the waiting when there is an answer.

        Args:
            request_id: the `id` of the question.
            timeout_seconds: how long to wait; `None` waits for ever.

        Raises:
            TimeoutError: nobody answered in time.
        """
        async with asyncio.timeout(timeout_seconds):
            await asyncio.Event().wait()
        raise AssertionError("an event that nobody sets was set")
