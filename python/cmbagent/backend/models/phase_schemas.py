"""Bodies of the requests and answers under `/api/phases`."""

from __future__ import annotations

import math
from enum import StrEnum
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from cmbagent.phases import CheckpointType, PhaseStatus
from cmbagent.phases.hitl_checkpoint import HITLCheckpointConfig

PhaseStatusEnum = PhaseStatus
CheckpointTypeEnum = CheckpointType

MOST_PHASES = 100
MOST_CHARACTERS = 10_000
DEEPEST = 50


class RunStatusEnum(StrEnum):
    """Where a run stands."""

    PENDING = "pending"
    RUNNING = "running"
    WAITING_APPROVAL = "waiting_approval"
    PAUSED = "paused"
    STOPPING = "stopping"
    STOPPED = "stopped"
    CANCELLED = "cancelled"
    FAILED = "failed"
    COMPLETED = "completed"
    INTERRUPTED = "interrupted"


class Body(BaseModel):
    """What a client sends: fields that are not known are refused, and so is what JSON cannot give back."""

    model_config = ConfigDict(extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _sound(cls, data: Any) -> Any:
        _walk(data, 0)
        return data


def _walk(value: Any, depth: int) -> None:
    if depth > DEEPEST:
        raise ValueError(f"the body is nested more than {DEEPEST} deep")
    if isinstance(value, str):
        if any("\ud800" <= character <= "\udfff" for character in value):
            raise ValueError("a text has half of a surrogate pair")
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError("a number is not finite")
    elif isinstance(value, int):
        if abs(value) >= 2**63:
            raise ValueError("a whole number has more than 63 bits")
    elif isinstance(value, dict):
        for name, item in value.items():
            _walk(name, depth + 1)
            _walk(item, depth + 1)
    elif isinstance(value, list):
        for item in value:
            _walk(item, depth + 1)


class PhaseDefinitionRequest(Body):
    """A phase of a workflow."""

    type: str = Field(
        description="A phase type, as GET /types lists them.", max_length=200, examples=["planning"]
    )
    config: dict[str, Any] = Field(
        default_factory=dict,
        description="Settings of the phase; GET /types/{type}/config-schema lists them.",
        examples=[{"max_plan_steps": 3}],
    )


class PhaseDefinitionResponse(BaseModel):
    """A phase of a workflow."""

    type: str
    config: dict[str, Any] = Field(default_factory=dict)


class PhaseConfigBase(BaseModel):
    """Settings that every phase has."""

    enabled: bool = True
    timeout_seconds: int = 3600
    max_retries: int = 0


class PlanningPhaseConfigRequest(PhaseConfigBase):
    """The planning phase's own settings; the config schema lists them all."""

    max_rounds: int = 50
    max_plan_steps: int = 3
    n_plan_reviews: int = 1


class ControlPhaseConfigRequest(PhaseConfigBase):
    """The control phase's own settings; the config schema lists them all."""

    max_rounds: int = 100
    max_n_attempts: int = 3
    execute_all_steps: bool = True
    step_number: int | None = None
    hitl_enabled: bool = False
    hitl_after_each_step: bool = False


class OneShotPhaseConfigRequest(PhaseConfigBase):
    """The one-shot phase's own settings; the config schema lists them all."""

    max_rounds: int = 50
    max_n_attempts: int = 3
    agent: str = "engineer"


class HITLCheckpointConfigRequest(PhaseConfigBase):
    """The checkpoint's own settings."""

    checkpoint_type: CheckpointTypeEnum = CheckpointType.AFTER_PLANNING
    require_approval: bool = True
    default_on_timeout: Literal["approve", "reject"] = "reject"
    show_plan: bool = True
    custom_message: str = ""
    options: list[str] = Field(default_factory=lambda: list(HITLCheckpointConfig().options))


class IdeaGenerationConfigRequest(PhaseConfigBase):
    """The idea generation phase's own settings; the config schema lists them all."""

    max_rounds: int = 50
    n_ideas: int = 3
    n_reviews: int = 1


class WorkflowDefinitionCreate(Body):
    """A workflow to be kept."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {
                    "name": "Reviewed research",
                    "description": "A plan that a human approves, then its execution",
                    "phases": [
                        {"type": "planning", "config": {"max_plan_steps": 5}},
                        {"type": "hitl_checkpoint"},
                        {"type": "control"},
                    ],
                }
            ]
        },
    )

    name: str = Field(min_length=1, max_length=MOST_CHARACTERS, description="Name for people.")
    description: str = Field(max_length=MOST_CHARACTERS, description="What the workflow does.")
    phases: list[PhaseDefinitionRequest] = Field(max_length=MOST_PHASES, description="Its phases, in order.")
    created_by: str | None = Field(default=None, max_length=MOST_CHARACTERS, description="Who made it.")


class WorkflowDefinitionResponse(BaseModel):
    """A workflow."""

    id: str
    name: str
    description: str
    phases: list[PhaseDefinitionResponse]
    version: int = Field(description="Counts the changes, from 1.")
    is_system: bool = Field(
        description="Whether it belongs to the package; such a workflow cannot be changed."
    )
    created_by: str | None = None


class WorkflowListItemResponse(BaseModel):
    """A workflow in a list."""

    id: str = Field(examples=["deep_research"])
    name: str = Field(examples=["Deep Research"])
    description: str = Field(examples=["Planning followed by multi-step execution"])
    num_phases: int = Field(examples=[2])
    is_system: bool = Field(examples=[True])


class WorkflowRunRequest(Body):
    """A run to be started."""

    task: str = Field(
        min_length=1,
        description="The task, in your words.",
        examples=["Analyze CMB temperature fluctuations"],
    )
    work_dir: str | None = Field(
        default=None,
        max_length=MOST_CHARACTERS,
        description="Where the run gets a directory of its own: relative to the server's root, or below it.",
        examples=["~/cmbagent_output"],
    )
    config_overrides: dict[str, dict[str, Any]] | None = Field(
        default=None,
        description="Settings for this run: phase type, or 0-based index of a phase → field → value.",
        examples=[{"planning": {"max_plan_steps": 2}, "1": {"max_n_attempts": 1}}],
    )
    hitl_enabled: bool = Field(
        default=False, description="Ask a human after each step, too; checkpoints of the workflow always ask."
    )


class WorkflowRunResponse(BaseModel):
    """A run that was started."""

    run_id: str = Field(examples=["0b8f6d0e-1b2c-4f3a-9d5e-7a6b5c4d3e2f"])
    workflow_id: str = Field(examples=["deep_research"])
    workflow_name: str = Field(examples=["Deep Research"])
    status: RunStatusEnum
    message: str = Field(examples=["Workflow run started"])
    num_phases: int = Field(examples=[2])


class PhaseExecutionResponse(BaseModel):
    """A phase of a run that was begun or skipped."""

    phase_id: str = Field(examples=["phase_0_planning"])
    phase_type: str = Field(examples=["planning"])
    display_name: str = Field(examples=["Planning"])
    status: PhaseStatusEnum
    started_at: str | None = Field(default=None, description="ISO 8601, UTC.")
    completed_at: str | None = Field(default=None, description="ISO 8601, UTC.")
    error: str | None = None
    timing: dict[str, float] = Field(default_factory=dict, description="Seconds; `total` is the whole phase.")


class PhaseDetailResponse(PhaseExecutionResponse):
    """A phase of a run, with its settings and what it spent."""

    config: dict[str, Any] = Field(default_factory=dict, description="The settings it runs with.")
    usage: dict[str, Any] | None = Field(
        default=None, description="Calls, tokens and dollars, once it has ended."
    )


class WorkflowRunStatusResponse(BaseModel):
    """Where a run stands."""

    run_id: str
    workflow_id: str
    workflow_name: str
    status: RunStatusEnum
    current_phase: int = Field(description="0-based index of the phase that was begun last.")
    total_phases: int
    phase_results: list[PhaseExecutionResponse]
    total_time: float | None = Field(description="Seconds so far; `null` before it has begun.")
    created_at: str = Field(description="ISO 8601, UTC.")
    completed_at: str | None = None
    error: str | None = Field(default=None, description="Why it failed.")
    task: str
    work_dir: str
    resumable: Literal["yes", "no", "needs key"] = Field(
        description="Whether POST …/resume has something to do; `needs key`: only with the key it began with."
    )


class WorkflowRunListItem(BaseModel):
    """A run in a list."""

    run_id: str
    workflow_id: str
    workflow_name: str
    status: RunStatusEnum
    created_at: str = Field(description="ISO 8601, UTC.")
    completed_at: str | None = Field(default=None, description="ISO 8601, UTC.")
    resumable: Literal["yes", "no", "needs key"]


class ResumeRequest(Body):
    """How a run is taken up."""

    force: bool = Field(
        default=False, description="Go on although a setting, a template or the package has changed."
    )


class RetryRequest(ResumeRequest):
    """What of a run is done anew."""

    from_phase: int = Field(
        ge=0, le=10_000, description="0-based index of the first phase that is done anew."
    )


class PhaseTypeInfo(BaseModel):
    """A phase type."""

    type: str = Field(examples=["planning"])
    display_name: str = Field(examples=["Planning"])
    required_agents: list[str] = Field(examples=[["planner", "plan_reviewer"]])
    description: str | None = None


class PhaseConfigSchemaResponse(BaseModel):
    """The JSON Schema of a phase type's settings."""

    model_config = ConfigDict(populate_by_name=True)

    phase_type: str
    config_schema: dict[str, Any] = Field(alias="schema")


class WorkflowValidationRequest(Body):
    """Phases to be checked."""

    phases: list[PhaseDefinitionRequest] = Field(max_length=MOST_PHASES)


class WorkflowValidationResponse(BaseModel):
    """What is wrong with phases."""

    valid: bool
    errors: list[str]
    warnings: list[str]


class SuccessResponse(BaseModel):
    """That something was done."""

    success: bool
    message: str


class ErrorResponse(BaseModel):
    """What went wrong."""

    detail: str | list[dict[str, Any]]


class ApprovalResponse(BaseModel):
    """A question that a run has asked."""

    approval_id: str
    run_id: str
    step_id: str = Field(examples=["phase_1_hitl_checkpoint"])
    checkpoint_type: str = Field(examples=["after_planning"])
    message: str
    options: list[str] = Field(
        description="The words that are answers.", examples=[["approve", "reject", "modify"]]
    )
    context: dict[str, Any] = Field(
        description="What to decide upon: `task`, `spent`, and for a plan `plan`."
    )
    asked_at: str = Field(description="ISO 8601, UTC.")
    timeout_seconds: int | None = Field(description="How long the run waits for the answer.")
    status: Literal["open", "answered"]
    resolution: str | None = None
    user_feedback: str | None = None


class ApprovalRequestBody(Body):
    """An answer."""

    resolution: str = Field(
        max_length=200, description="One of the question's options.", examples=["approve"]
    )
    user_feedback: str | None = Field(default=None, description="Words for the agents that follow.")
    modifications: dict[str, Any] | None = Field(
        default=None,
        description='Changes: `{"plan": [steps]}` is executed as it was edited.',
        examples=[{"plan": [{"sub_task": "…", "sub_task_agent": "engineer", "bullet_points": ["…"]}]}],
    )


class FileEntry(BaseModel):
    """A file of a run."""

    path: str = Field(description="Relative to the run's work directory.", examples=["data/spectrum.png"])
    size: int = Field(description="Bytes.")
    modified_at: str = Field(description="ISO 8601, UTC.")
    media_type: str = Field(examples=["image/png"])


class FileListResponse(BaseModel):
    """The files of a run."""

    work_dir: str
    files: list[FileEntry]
    truncated: bool = Field(description="Whether there are more than are listed.")


class CostLine(BaseModel):
    """What was spent on one thing."""

    name: str
    usage: dict[str, Any]


class CostResponse(BaseModel):
    """What a run has spent: calls, tokens, dollars (`cost`, `null` where a price is not known)."""

    run_id: str
    total: dict[str, Any]
    phases: list[CostLine]
    agents: list[CostLine]


class ChatMessage(BaseModel):
    """A message between the agents of a run."""

    seq: int
    at: str
    phase: str
    phase_index: int
    step: int
    name: str
    role: str
    content: str


class ChatResponse(BaseModel):
    """The messages of a run, in order."""

    run_id: str
    messages: list[ChatMessage]
    next_after: int | None = Field(description="`after` of the next page; `null` when there is no more now.")


class HealthResponse(BaseModel):
    """That the server serves."""

    status: Literal["ok"]
    version: str
