"""Where a run asks a human, as the functions' `approval_config=` says it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any


class ApprovalMode(str, Enum):  # noqa: UP042  (a member's text is read as `ApprovalMode.X` by older programs)
    """When a human is asked."""

    NONE = "none"
    AFTER_PLANNING = "after_planning"
    BEFORE_EACH_STEP = "before_each_step"
    ON_ERROR = "on_error"
    MANUAL = "manual"
    COPILOT = "copilot"
    CUSTOM = "custom"


class CheckpointType(str, Enum):  # noqa: UP042
    """What a human is asked about. `cmbagent.phases` has another enum of this name, for its checkpoints."""

    AFTER_PLANNING = "after_planning"
    BEFORE_STEP = "before_step"
    ON_ERROR = "on_error"
    MANUAL_PAUSE = "manual_pause"
    CUSTOM = "custom"
    BEFORE_CODE_EXECUTION = "before_code_execution"
    BEFORE_FILE_EDIT = "before_file_edit"
    BEFORE_FILE_DELETE = "before_file_delete"
    BEFORE_COMMAND_EXECUTION = "before_command_execution"


class ApprovalResolution(str, Enum):  # noqa: UP042
    """How a question was answered."""

    APPROVED = "approved"
    REJECTED = "rejected"
    MODIFIED = "modified"
    RETRY = "retry"
    SKIP = "skip"
    ABORT = "abort"


@dataclass
class ApprovalCheckpoint:
    """A question of the caller's own.

    Attributes:
        checkpoint_type: what it is about.
        message: the question.
        options: the words that count as answers.
        allow_feedback: whether free text may be added.
        step_number: the step it belongs to, 1-based.
        step_type: the kind of step it belongs to.
        condition: takes the run's context and says whether to ask.
        metadata: anything else.
    """

    checkpoint_type: CheckpointType
    message: str
    options: list[str] = field(default_factory=lambda: ["approve", "reject", "modify"])
    allow_feedback: bool = True
    step_number: int | None = None
    step_type: str | None = None
    condition: Callable[[Mapping[str, Any]], bool] | None = None
    metadata: dict[str, Any] = field(default_factory=dict)

    def should_trigger(self, context: Mapping[str, Any]) -> bool:
        """Return whether to ask, given the run's context; without a condition, always."""
        return True if self.condition is None else bool(self.condition(context))


@dataclass
class ApprovalConfig:
    """Where and how a run asks.

    Attributes:
        mode: when a human is asked.
        custom_checkpoints: questions of the caller's own.
        timeout_seconds: how long to wait for an answer, in seconds; `None` leaves the default.
        default_on_timeout: `approve` or `reject`, when no answer comes.
        require_feedback_on_reject: whether a rejection needs a reason.
        auto_approve_patterns: names of operations that need no approval.
    """

    mode: ApprovalMode = ApprovalMode.NONE
    custom_checkpoints: list[ApprovalCheckpoint] = field(default_factory=list)
    timeout_seconds: int | None = None
    default_on_timeout: str = "reject"
    require_feedback_on_reject: bool = False
    auto_approve_patterns: list[str] = field(default_factory=list)

    def is_enabled(self) -> bool:
        """Return whether anyone is asked at all."""
        return self.mode != ApprovalMode.NONE

    def requires_approval_at_planning(self) -> bool:
        """Return whether a finished plan is put before a human."""
        return self.mode in (ApprovalMode.AFTER_PLANNING, ApprovalMode.BEFORE_EACH_STEP)

    def requires_approval_before_steps(self) -> bool:
        """Return whether each step is put before a human."""
        return self.mode == ApprovalMode.BEFORE_EACH_STEP

    def requires_approval_on_error(self) -> bool:
        """Return whether a failed step is put before a human."""
        return self.mode in (ApprovalMode.ON_ERROR, ApprovalMode.BEFORE_EACH_STEP)

    def requires_copilot_approvals(self) -> bool:
        """Return whether single operations (code, files, commands) are put before a human."""
        return self.mode == ApprovalMode.COPILOT


DEFAULT_CONFIGS: dict[str, ApprovalConfig] = {
    "autonomous": ApprovalConfig(),
    "review_plan": ApprovalConfig(ApprovalMode.AFTER_PLANNING),
    "step_by_step": ApprovalConfig(ApprovalMode.BEFORE_EACH_STEP),
    "error_recovery": ApprovalConfig(ApprovalMode.ON_ERROR),
    "copilot": ApprovalConfig(
        ApprovalMode.COPILOT, auto_approve_patterns=["read_file", "search", "list_files"]
    ),
}
"""Configurations by name."""


def get_approval_config(name: str = "autonomous") -> ApprovalConfig:
    """Return the configuration of that name; an unknown name asks nobody (`autonomous`)."""
    return DEFAULT_CONFIGS.get(name, DEFAULT_CONFIGS["autonomous"])
