"""Bodies of the requests and answers about phase types, workflows and runs."""

from __future__ import annotations

import math
from enum import StrEnum
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from cmbagent.backend.models.fields import (
    A_USAGE,
    DisplayName,
    Ended,
    Moment,
    PhaseId,
    PhaseType,
    Resumable,
    RunId,
    Started,
    Task,
    WorkDir,
    WorkflowId,
    WorkflowName,
)
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

    type: PhaseType
    config: dict[str, Any] = Field(
        default_factory=dict, description="Its settings.", examples=[{"max_plan_steps": 3}]
    )


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

    id: WorkflowId
    name: WorkflowName
    description: str = Field(
        description="What it does.", examples=["Planning followed by multi-step execution"]
    )
    phases: list[PhaseDefinitionResponse] = Field(description="Its phases, in order.")
    version: int = Field(description="Counts the changes, from 1.", examples=[1])
    is_system: bool = Field(
        description="Whether it belongs to the package; such a workflow cannot be changed.", examples=[True]
    )
    created_by: str | None = Field(default=None, description="Who made it.", examples=["me"])


class WorkflowListItemResponse(BaseModel):
    """A workflow in a list."""

    id: WorkflowId
    name: WorkflowName
    description: str = Field(
        description="What it does.", examples=["Planning followed by multi-step execution"]
    )
    num_phases: int = Field(description="How many phases it has.", examples=[2])
    is_system: bool = Field(description="Whether it belongs to the package.", examples=[True])


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

    run_id: RunId
    workflow_id: WorkflowId
    workflow_name: WorkflowName
    status: RunStatusEnum = Field(description="`pending`: it begins.", examples=["pending"])
    message: str = Field(description="The same in words.", examples=["Workflow run started"])
    num_phases: int = Field(description="How many phases it has.", examples=[2])


class PhaseExecutionResponse(BaseModel):
    """A phase of a run that was begun or skipped."""

    phase_id: PhaseId
    phase_type: PhaseType
    display_name: DisplayName
    status: PhaseStatusEnum = Field(description="Where the phase stands.", examples=["completed"])
    started_at: Started = None
    completed_at: Ended = None
    error: str | None = Field(
        default=None, description="Why it failed.", examples=["Step 2 failed after 4 attempts"]
    )
    timing: dict[str, float] = Field(
        default_factory=dict, description="Seconds; `total` is the whole phase.", examples=[{"total": 41.7}]
    )


class PhaseDetailResponse(PhaseExecutionResponse):
    """A phase of a run, with its settings and what it spent."""

    config: dict[str, Any] = Field(
        default_factory=dict, description="The settings it runs with.", examples=[{"max_plan_steps": 3}]
    )
    usage: dict[str, Any] | None = Field(
        default=None,
        description="Calls, tokens and dollars it spent, once it has ended.",
        examples=[A_USAGE],
    )


class WorkflowRunStatusResponse(BaseModel):
    """Where a run stands."""

    run_id: RunId
    workflow_id: WorkflowId
    workflow_name: WorkflowName
    status: RunStatusEnum = Field(description="`interrupted`: its process has gone.", examples=["running"])
    current_phase: int = Field(description="0-based index of the phase that was begun last.", examples=[1])
    total_phases: int = Field(description="How many phases the workflow has.", examples=[2])
    phase_results: list[PhaseExecutionResponse] = Field(
        description="The phases that were begun or skipped, in order."
    )
    total_time: float | None = Field(
        description="Seconds so far; `null` before it has begun.", examples=[52.3]
    )
    created_at: Moment
    completed_at: Ended = None
    error: str | None = Field(
        default=None,
        description="Why it failed.",
        examples=["Phase control failed: Step 2 failed after 4 attempts"],
    )
    task: Task
    work_dir: WorkDir
    resumable: Resumable


class WorkflowRunListItem(BaseModel):
    """A run in a list."""

    run_id: RunId
    workflow_id: WorkflowId
    workflow_name: WorkflowName
    status: RunStatusEnum = Field(description="Where it stands.", examples=["completed"])
    created_at: Moment
    completed_at: Ended = None
    resumable: Resumable


class ResumeRequest(Body):
    """How a run is taken up."""

    force: bool = Field(
        default=False, description="Go on although a setting, a template or the package has changed."
    )


class RetryRequest(ResumeRequest):
    """What of a run is done anew."""

    from_phase: int = Field(
        ge=0, le=10_000, description="0-based index of the first phase that is done anew.", examples=[1]
    )


class PhaseTypeInfo(BaseModel):
    """A phase type."""

    type: PhaseType
    display_name: DisplayName
    required_agents: list[str] = Field(
        description="The agents it may call.", examples=[["planner", "plan_reviewer"]]
    )
    description: str | None = Field(
        default=None,
        description="What it does.",
        examples=["Turn the task into a plan of steps, each with one agent in charge."],
    )


class PhaseConfigSchemaResponse(BaseModel):
    """The JSON Schema of a phase type's settings."""

    model_config = ConfigDict(populate_by_name=True)

    phase_type: PhaseType
    config_schema: dict[str, Any] = Field(
        alias="schema",
        description="JSON Schema; `{}` for a type that takes any settings.",
        examples=[
            {
                "type": "object",
                "properties": {"max_plan_steps": {"type": "integer", "minimum": 1, "default": 3}},
            }
        ],
    )


class WorkflowValidationRequest(Body):
    """Phases to be checked."""

    phases: list[PhaseDefinitionRequest] = Field(
        max_length=MOST_PHASES, description="The phases, in order.", examples=[[{"type": "control"}]]
    )


class WorkflowValidationResponse(BaseModel):
    """What is wrong with phases."""

    valid: bool = Field(description="Whether they can be run.", examples=[True])
    errors: list[str] = Field(
        description="Why they cannot; phases are counted from 1.",
        examples=[["Phase 1: Unknown phase type 'zz'"]],
    )
    warnings: list[str] = Field(
        description="What may be meant otherwise.",
        examples=[["Control phase without planning phase - ensure plan is provided externally"]],
    )


class SuccessResponse(BaseModel):
    """That something was done."""

    success: bool = Field(description="Always `true`; what goes wrong is an error.", examples=[True])
    message: str = Field(description="What was done.", examples=["Stop requested"])


class ErrorResponse(BaseModel):
    """What went wrong."""

    detail: str | list[dict[str, Any]] = Field(
        description="In words; of a malformed request each fault with its place.",
        examples=["Workflow 'zz' not found"],
    )
