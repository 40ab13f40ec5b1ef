"""What stands in many bodies and paths, described once."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import Path
from pydantic import Field

A_RUN = "0b8f6d0e-1b2c-4f3a-9d5e-7a6b5c4d3e2f"
A_TIME = "2026-11-30T21:04:05.678+00:00"
A_USAGE = {
    "calls": 6,
    "prompt_tokens": 8120,
    "completion_tokens": 1904,
    "cached_tokens": 0,
    "reasoning_tokens": 320,
    "cost": 0.0315,
    "unpriced_models": [],
}

RunId = Annotated[str, Field(description="The run's id.", examples=[A_RUN])]
WorkflowId = Annotated[str, Field(description="The workflow's id.", examples=["deep_research"])]
WorkflowName = Annotated[
    str, Field(description="The workflow's name for people.", examples=["Deep Research"])
]
PhaseType = Annotated[
    str, Field(description="The phase's type, as GET /types lists them.", examples=["planning"])
]
PhaseId = Annotated[
    str, Field(description="Index and type of the phase in its workflow.", examples=["phase_0_planning"])
]
DisplayName = Annotated[str, Field(description="The phase's name for people.", examples=["Planning"])]
Moment = Annotated[str, Field(description="ISO 8601, UTC.", examples=[A_TIME])]
Started = Annotated[str | None, Field(description="When it began; ISO 8601, UTC.", examples=[A_TIME])]
Ended = Annotated[str | None, Field(description="When it ended; ISO 8601, UTC.", examples=[A_TIME])]
Task = Annotated[
    str,
    Field(description="The task, in the user's words.", examples=["Analyze CMB temperature fluctuations"]),
]
WorkDir = Annotated[
    str,
    Field(description="The run's directory, absolute.", examples=[f"/home/me/cmbagent_output/{A_RUN}"]),
]
Usage = Annotated[
    dict[str, Any],
    Field(
        description="Calls, tokens and dollars; `cost` is `null` where a price is not known.",
        examples=[A_USAGE],
    ),
]
Resumable = Annotated[
    Literal["yes", "no", "needs key"],
    Field(
        description="Whether POST …/resume has something to do; `needs key`: only with the key of its begin.",
        examples=["no"],
    ),
]

RunInPath = Annotated[str, Path(description="The run's id.")]
WorkflowInPath = Annotated[str, Path(description="The workflow's id.")]
ApprovalInPath = Annotated[str, Path(description="The question's id.")]
TypeInPath = Annotated[str, Path(description="A phase type, as GET /types lists them.")]
FileInPath = Annotated[str, Path(description="Its path below the run's work directory.")]
