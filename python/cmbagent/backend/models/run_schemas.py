"""Bodies of the requests and answers about what a run asks, makes, says and spends."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, Field

from cmbagent.backend.models.fields import Moment, PhaseType, RunId, Usage, WorkDir
from cmbagent.backend.models.phase_schemas import Body


class ApprovalResponse(BaseModel):
    """A question that a run has asked."""

    approval_id: str = Field(description="The question's id.", examples=["0.1.0.0.0.0.0"])
    run_id: RunId
    step_id: str = Field(description="What asks.", examples=["phase_1_hitl_checkpoint"])
    checkpoint_type: str = Field(description="Why it asks.", examples=["after_planning"])
    message: str = Field(
        description="The question.", examples=["The plan is ready. Approve it, reject it, or change it."]
    )
    options: list[str] = Field(
        description="The words that are answers.", examples=[["approve", "reject", "modify"]]
    )
    context: dict[str, Any] = Field(
        description="What to decide upon: `task`, `spent`, and for a plan `plan`.",
        examples=[{"task": "Analyze CMB temperature fluctuations", "plan": []}],
    )
    asked_at: Moment
    timeout_seconds: int | None = Field(
        description="How long the run waits for the answer, in seconds.", examples=[3600]
    )
    status: Literal["open", "answered"] = Field(description="Whether it waits for an answer.")
    resolution: str | None = Field(
        default=None, description="The option that was chosen, or `timeout`, `error`.", examples=["approve"]
    )
    user_feedback: str | None = Field(
        default=None, description="What the human wrote.", examples=["Use fewer steps."]
    )


class ApprovalRequestBody(Body):
    """An answer."""

    resolution: str = Field(
        max_length=200, description="One of the question's options.", examples=["approve"]
    )
    user_feedback: str | None = Field(
        default=None, description="Words for the agents that follow.", examples=["Use fewer steps."]
    )
    modifications: dict[str, Any] | None = Field(
        default=None,
        description='Changes: `{"plan": [steps]}` is executed as it was edited.',
        examples=[{"plan": [{"sub_task": "…", "sub_task_agent": "engineer", "bullet_points": ["…"]}]}],
    )


class FileEntry(BaseModel):
    """A file of a run."""

    path: str = Field(description="Relative to the run's work directory.", examples=["data/spectrum.png"])
    size: int = Field(description="Bytes.", examples=[48213])
    modified_at: Moment
    media_type: str = Field(description="As its name tells.", examples=["image/png"])


class FileListResponse(BaseModel):
    """The files of a run."""

    work_dir: WorkDir
    files: list[FileEntry] = Field(description="By path.")
    truncated: bool = Field(description="Whether there are more than are listed.", examples=[False])


class CostLine(BaseModel):
    """What was spent on one thing."""

    name: str = Field(description="A phase's id or an agent.", examples=["engineer"])
    usage: Usage


class CostResponse(BaseModel):
    """What a run has spent."""

    run_id: RunId
    total: Usage
    phases: list[CostLine] = Field(description="By phase, in order.")
    agents: list[CostLine] = Field(description="By agent.")


class ChatMessage(BaseModel):
    """A message between the agents of a run."""

    seq: int = Field(description="Its number among the run's events.", examples=[31])
    at: Moment
    phase: PhaseType
    phase_index: int = Field(description="The phase's place in the workflow, from 0.", examples=[0])
    step: int = Field(description="The step of the plan, from 1; 0 outside steps.", examples=[1])
    name: str = Field(description="Who says it.", examples=["engineer"])
    role: str = Field(description="`user`, `assistant` or `tool`.", examples=["assistant"])
    content: str = Field(description="What is said.", examples=["**Code Explanation:** …"])


class ChatResponse(BaseModel):
    """The messages of a run, in order."""

    run_id: RunId
    messages: list[ChatMessage] = Field(description="In order.")
    next_after: int | None = Field(
        description="`after` of the next page; `null` when there is no more now.", examples=[31]
    )


class HealthResponse(BaseModel):
    """That the server serves."""

    status: Literal["ok"] = Field(description="It can read its store.")
    version: str = Field(description="The package's.", examples=["0.1.0"])
