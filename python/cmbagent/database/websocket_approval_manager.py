"""Approvals by way of a web page: questions go out as events, answers come back as messages."""

from __future__ import annotations

import inspect
import json
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from cmbagent.approvals.queue import QueueApprovalManager
from cmbagent.approvals.request import ApprovalRequest, ApprovalResult
from cmbagent.errors import ConfigurationError
from cmbagent.workflows.restore import plain

DEFAULT_OPTIONS = ["approve", "reject", "modify"]
"""The options of a question that names none."""


@dataclass
class SimpleApprovalRequest:
    """A question, and its answer once there is one.

    Attributes:
        id: its identity, also as `approval_id` in events and messages.
        run_id: the run that asks.
        step_id: the place in the run that asks.
        checkpoint_type: why it asks.
        context_snapshot: what to decide upon.
        message: the question in words.
        options: the words that count as answers.
        status: `pending`, then the word of the answer; `expired` when nobody answered in time.
        resolution: the word of the answer.
        user_feedback: what the human added.
        modifications: what the human changed.
    """

    id: str
    run_id: str
    step_id: str
    checkpoint_type: str
    context_snapshot: dict[str, Any]
    message: str
    options: list[str]
    status: str = "pending"
    resolution: str | None = None
    user_feedback: str | None = None
    modifications: dict[str, Any] = field(default_factory=dict)


class WebSocketApprovalManager:
    """Asks through a web socket. The open questions are shared by the whole process.

    Args:
        ws_send_event: called with the event's name and its data, in the thread that asks.
        run_id: the run, for questions that do not name theirs.
        db_factory: taken for older programs, with a warning: answers are kept by the run itself.
    """

    _desk: ClassVar[QueueApprovalManager] = QueueApprovalManager()
    _requests: ClassVar[dict[str, SimpleApprovalRequest]] = {}

    def __init__(
        self,
        ws_send_event: Callable[[str, dict[str, Any]], Any],
        run_id: str,
        db_factory: Callable[[], Any] | None = None,
    ) -> None:
        self.ws_send_event: Callable[[str, dict[str, Any]], Any] | None = ws_send_event
        self.run_id = run_id
        if db_factory is not None:
            warnings.warn(
                "db_factory is not used: questions and answers belong to the record of the run",
                RuntimeWarning,
                stacklevel=2,
            )

    def __getstate__(self) -> dict[str, Any]:
        """Leave the connection out of pickles and copies."""
        return {**self.__dict__, "ws_send_event": None}

    def create_approval_request(
        self,
        run_id: str,
        step_id: str,
        checkpoint_type: str,
        context_snapshot: dict[str, Any],
        message: str,
        options: list[str] | None = None,
    ) -> SimpleApprovalRequest:
        """Put a question and send it as the event `approval_requested`.

        Args:
            run_id: the run that asks.
            step_id: the place in the run that asks.
            checkpoint_type: why it asks.
            context_snapshot: what to decide upon; sent along as far as JSON can hold it.
            message: the question in words.
            options: the words that count as answers.

        Raises:
            RuntimeError: the event could not be sent; the question is taken back.
        """
        asked = self._desk.create_approval_request(
            run_id=run_id or self.run_id,
            step_id=step_id or "",
            checkpoint_type=checkpoint_type,
            context_snapshot=dict(context_snapshot or {}),
            message=message,
            options=list(options or DEFAULT_OPTIONS),
        )
        request = SimpleApprovalRequest(
            asked.id,
            asked.run_id,
            asked.step_id,
            checkpoint_type,
            asked.context_snapshot,
            message,
            asked.options,
        )
        self._requests[request.id] = request
        try:
            self._send(asked)
        except Exception as error:
            self._forget(request.id)
            raise RuntimeError(
                "the approval request could not be sent to the page, so nobody could answer it: "
                f"{type(error).__name__}: {error}. Connect the page and run again"
            ) from error
        return request

    def _send(self, request: ApprovalRequest) -> None:
        if self.ws_send_event is None:
            raise ConnectionError("ws_send_event is None; a manager that was pickled lost its connection")
        sent = self.ws_send_event(
            "approval_requested",
            {
                "approval_id": request.id,
                "step_id": request.step_id,
                "action": request.checkpoint_type,
                "description": request.message,
                "message": request.message,
                "options": request.options,
                "checkpoint_type": request.checkpoint_type,
                "context": _jsonable(request.context_snapshot),
            },
        )
        if inspect.iscoroutine(sent):
            sent.close()
            raise TypeError("ws_send_event must be a plain function; a coroutine would never be awaited")

    async def wait_for_approval_async(
        self, approval_id: str, timeout_seconds: float | None = 3600
    ) -> SimpleApprovalRequest:
        """Wait for the answer without blocking the loop; it may have come already.

        Args:
            approval_id: the `id` of the question.
            timeout_seconds: how long to wait; `None` waits for ever.

        Raises:
            ValueError: no question of that id is open.
            TimeoutError: nobody answered in time; the question is withdrawn.
        """
        request = self._get(approval_id)
        try:
            result = await self._desk.wait_for_approval_async(approval_id, timeout_seconds)
        finally:
            self._forget(approval_id)
        return _filled(request, result)

    def wait_for_approval(
        self, approval_id: str, timeout_seconds: float | None = 3600, poll_interval: float = 1.0
    ) -> SimpleApprovalRequest:
        """Wait as `wait_for_approval_async` does, blocking the calling thread.

        `poll_interval` is taken for older programs: nothing is polled here.
        """
        request = self._get(approval_id)
        try:
            result = self._desk.wait_for_approval(approval_id, timeout_seconds)
        finally:
            self._forget(approval_id)
        return _filled(request, result)

    @classmethod
    def resolve(
        cls,
        approval_id: str,
        resolution: Any,
        user_feedback: str | None = None,
        modifications: Any = None,
    ) -> bool:
        """Answer a question; nobody needs to wait for it yet.

        Args:
            approval_id: the `id` of the question.
            resolution: one of its options, or the past form of one (`approved`).
            user_feedback: words for the agents that follow.
            modifications: changes such as `{"plan": [steps]}`, or JSON of them.

        Returns:
            `False` when no question of that id waits for an answer.

        Raises:
            ValueError: the word is none of the options, or the changed plan cannot be carried out; the
                question stays open.
        """
        request = cls._requests.get(approval_id)
        if request is None or not cls.has_pending(approval_id):
            return False
        if isinstance(modifications, str):
            modifications = _changes(modifications)
        # The word stays as it was said, and before the answer is given away: pages compare it with theirs.
        request.resolution = str(getattr(resolution, "value", resolution)).strip().lower()
        try:
            result = cls._desk.answer(approval_id, resolution, user_feedback, modifications or None)
        except ConfigurationError:
            request.resolution = None
            raise
        _filled(request, result)
        return True

    @classmethod
    def resolve_from_db(
        cls,
        approval_id: str,
        resolution: Any,
        user_feedback: str | None = None,
        modifications: Any = None,
    ) -> bool:
        """Do what `resolve` does; the name is that of older programs."""
        return cls.resolve(approval_id, resolution, user_feedback, modifications)

    @classmethod
    def resolve_message(cls, message: Mapping[str, Any]) -> dict[str, Any]:
        """Answer a question with a message of a page and return the data of `approval_received`.

        Args:
            message: `approval_id`, `approved` (a bool, which wins) or `resolution`, and optionally `feedback`
                and `modifications`; without a word it counts as `rejected`.

        Raises:
            ValueError: no such question waits, the word is none of its options, or the changed plan cannot be
                carried out.
        """
        approval_id = str(message.get("approval_id", ""))
        approved = message.get("approved")
        word = message.get("resolution") or "rejected"
        if approved is not None:
            word = "approved" if approved else "rejected"
        feedback = message.get("feedback") or message.get("user_feedback")
        if not cls.resolve(approval_id, word, feedback, message.get("modifications")):
            raise ConfigurationError(f"no approval request {approval_id!r} waits for an answer")
        return {
            "approval_id": approval_id,
            "approved": word in ("approved", "modified"),
            "resolution": word,
            "feedback": feedback,
        }

    @classmethod
    def has_pending(cls, approval_id: str) -> bool:
        """Return whether a question of that id waits for an answer."""
        return any(request.id == approval_id for request in cls._desk.pending())

    @classmethod
    def get_all_pending(cls) -> list[SimpleApprovalRequest]:
        """Return the questions that wait for an answer, oldest first."""
        return [cls._requests[request.id] for request in cls._desk.pending() if request.id in cls._requests]

    @classmethod
    def _get(cls, approval_id: str) -> SimpleApprovalRequest:
        try:
            return cls._requests[approval_id]
        except KeyError:
            raise ConfigurationError(f"Approval {approval_id} not found") from None

    @classmethod
    def _forget(cls, approval_id: str) -> None:
        request = cls._requests.pop(approval_id, None)
        cls._desk.withdraw(approval_id)
        if request is not None and request.status == "pending":
            request.status = "expired"


def _filled(request: SimpleApprovalRequest, result: ApprovalResult) -> SimpleApprovalRequest:
    request.status = request.resolution = request.resolution or result.resolution
    request.user_feedback = result.user_feedback
    request.modifications = dict(result.modifications or {})
    return request


def _changes(text: str) -> Any:
    if not text.strip():
        return None
    try:
        return json.loads(text)
    except ValueError as error:
        raise ConfigurationError(f"modifications are no JSON: {error}") from error


def _jsonable(context: Mapping[str, Any]) -> dict[str, Any]:
    made: dict[str, Any] = json.loads(json.dumps(plain(dict(context)), default=str, skipkeys=True))
    return made
