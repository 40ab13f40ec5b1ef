"""The checkpoint phase: a human approves, rejects or changes what was made so far."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import ClassVar

from cmbagent.phases._builtin import BuiltinPhase
from cmbagent.phases.base import PhaseConfig, PhaseContext


class CheckpointType(Enum):
    """What is put before the human."""

    AFTER_PLANNING = "after_planning"
    BEFORE_STEP = "before_step"
    AFTER_STEP = "after_step"
    BEFORE_EXECUTION = "before_execution"
    AFTER_EXECUTION = "after_execution"
    CUSTOM = "custom"


_DISPLAY_NAMES = {
    "after_planning": "Review Plan",
    "before_step": "Approve Step",
    "after_step": "Review Step Result",
    "after_execution": "Review Results",
}


@dataclass
class HITLCheckpointConfig(PhaseConfig):
    """Settings of the checkpoint.

    Attributes:
        checkpoint_type: what is asked about, a value of `CheckpointType`.
        require_approval: `False` skips the checkpoint.
        timeout_seconds: how long to wait for the answer, in seconds.
        default_on_timeout: `approve` or `reject`, when no answer comes.
        show_plan: put the plan into the question.
        custom_message: the question's first lines.
        options: the words that count as answers.
        show_context: send the state along with the question.
    """

    phase_type: str = "hitl_checkpoint"
    timeout_seconds: int = 3600
    checkpoint_type: str = "after_planning"
    require_approval: bool = True
    default_on_timeout: str = "reject"
    show_plan: bool = True
    custom_message: str = ""
    options: list[str] = field(default_factory=lambda: ["approve", "reject", "modify"])
    show_context: bool = False

    def explicit_timeout(self) -> float | None:
        """Return `None`: here `timeout_seconds` is the wait for an answer and limits nothing else."""
        return None


HITLCheckpointPhaseConfig = HITLCheckpointConfig


class HITLCheckpointPhase(BuiltinPhase):
    """Ask the workflow's approval manager; without one, approve and say so."""

    config_class: ClassVar[type[PhaseConfig] | None] = HITLCheckpointConfig
    _native_type: ClassVar[str] = "hitl_checkpoint"
    _output: ClassVar[dict[str, tuple[str, str]]] = {
        "approval_status": (
            "string",
            "approved, modified, rejected, auto_approved, timeout_auto_approved, …",
        ),
        "resolution": ("string", "the option that was chosen, where someone was asked"),
        "user_feedback": ("string", "what the human wrote"),
        "modifications": ("object", "what the human changed, such as the plan"),
        "shared": ("object", "hitl_feedback, hitl_approved, user_modifications"),
    }

    @property
    def phase_type(self) -> str:
        """`hitl_checkpoint`."""
        return "hitl_checkpoint"

    @property
    def display_name(self) -> str:
        """The question in two words, by checkpoint type."""
        kind = self.config.checkpoint_type
        return _DISPLAY_NAMES.get(getattr(kind, "value", kind), "Checkpoint")

    def can_skip(self, context: PhaseContext) -> bool:
        """Return whether nobody needs to be asked."""
        return not (self.config.enabled and self.config.require_approval)
