"""Approvals by a rule."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from cmbagent.approvals.queue import QueueApprovalManager
from cmbagent.approvals.request import ApprovalRequest, ApprovalResult

Policy = Callable[[ApprovalRequest], "str | ApprovalResult"]

# A failed step is not approved by trying it for ever or by leaving it out unseen: the failure stands.
_MEANINGS = {"approve": ("approve", "continue", "abort"), "reject": ("reject", "abort")}


class AutoApprovalManager(QueueApprovalManager):
    """Answers every question at once.

    Args:
        policy: an answer for all questions, or a function of the request that returns an answer, as a word
            or an `ApprovalResult`. `"approve"` also goes on after a step, `"reject"` also aborts there; a
            step that failed is aborted by both.

    Attributes:
        answered: the questions and their answers, in order.
    """

    def __init__(self, policy: str | Policy = "approve") -> None:
        super().__init__()
        self._policy = policy
        self.answered: list[tuple[ApprovalRequest, ApprovalResult]] = []

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
        """Put a question, and answer it; see `ApprovalRequest` for the arguments.

        Raises:
            ConfigurationError: the policy's answer is none of the options.
        """
        request = super().create_approval_request(
            run_id=run_id,
            step_id=step_id,
            checkpoint_type=checkpoint_type,
            context_snapshot=context_snapshot,
            message=message,
            options=options,
        )
        try:
            said = self._policy(request) if callable(self._policy) else self._word(request)
            if isinstance(said, ApprovalResult):
                result = self.answer(request.id, said.resolution, said.user_feedback, said.modifications)
            else:
                result = self.answer(request.id, said)
        except BaseException:
            self.withdraw(request.id)
            raise
        self.answered.append((request, result))
        return request

    def _word(self, request: ApprovalRequest) -> str:
        word = str(self._policy)
        return next((each for each in _MEANINGS.get(word, ()) if each in request.options), word)
