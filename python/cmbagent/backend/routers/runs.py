"""Runs: begun, watched, steered, taken up, deleted."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, HTTPException, Query, Response

from cmbagent.backend.definitions import configured
from cmbagent.backend.hub import Hub, TheHub, TheKeys, iso
from cmbagent.backend.live import Mode
from cmbagent.backend.models.fields import RunInPath, WorkflowInPath
from cmbagent.backend.models.phase_schemas import (
    PhaseDetailResponse,
    PhaseExecutionResponse,
    ResumeRequest,
    RetryRequest,
    RunStatusEnum,
    SuccessResponse,
    WorkflowRunListItem,
    WorkflowRunRequest,
    WorkflowRunResponse,
    WorkflowRunStatusResponse,
)
from cmbagent.backend.models.run_schemas import ChatMessage, ChatResponse, CostLine, CostResponse
from cmbagent.backend.progress import PhaseProgress, Progress
from cmbagent.backend.routers.route import Route
from cmbagent.backend.standing import resumable, told_status
from cmbagent.phases import PhaseRegistry
from cmbagent.store import UNFINISHED, RunInfo, _info

router = APIRouter(route_class=Route)

ENDED = ("stopped", "cancelled", "failed", "completed")
PAGE = 1000
"""Events that are read at once."""
TOTAL = "X-Total-Count"
"""The header that tells how many runs there are on all pages together."""


@router.post("/workflows/{workflow_id}/run", summary="Start a run of a workflow")
def run_workflow(
    workflow_id: WorkflowInPath, body: WorkflowRunRequest, hub: TheHub, keys: TheKeys
) -> WorkflowRunResponse:
    """Start a run; it goes on in the server, in a directory of its own below `work_dir`.

    Keys come from the server's environment. A header such as `X-OpenAI-Api-Key` brings one for this run
    alone; it is never kept, so that after a restart of the server the run waits for it.
    """
    definition = hub.definitions.get(workflow_id)
    if definition is None:
        raise HTTPException(404, f"Workflow '{workflow_id}' not found")
    if len(body.task) > hub.settings.max_task:
        raise HTTPException(
            422,
            f"the task has {len(body.task)} characters; this server takes at most {hub.settings.max_task}",
        )
    definition = configured(definition, body.config_overrides, body.hitl_enabled)
    executor = hub.runs.start(definition, body.task, body.work_dir, keys)
    return _started(executor.context.run_id, definition.id, definition.name, len(executor.phases), "started")


def _started(run_id: str, workflow_id: str, name: str, phases: int, what: str) -> WorkflowRunResponse:
    return WorkflowRunResponse(
        run_id=run_id,
        workflow_id=workflow_id,
        workflow_name=name,
        status=RunStatusEnum.PENDING,
        message=f"Workflow run {what}",
        num_phases=phases,
    )


@router.get(
    "/runs",
    summary="List runs",
    responses={
        200: {"headers": {TOTAL: {"description": "How many on all pages.", "schema": {"type": "integer"}}}}
    },
)
def list_runs(
    hub: TheHub,
    response: Response,
    workflow_id: Annotated[str | None, Query(description="Only those of this workflow.")] = None,
    status: Annotated[RunStatusEnum | None, Query(description="Only those that stand so.")] = None,
    limit: Annotated[int, Query(ge=1, le=1000, description="How many at most.")] = 50,
    offset: Annotated[int, Query(ge=0, le=2**31 - 1, description="How many are passed over.")] = 0,
) -> list[WorkflowRunListItem]:
    """List runs, the newest first; those that a notebook or the command line began, too."""
    wanted = {
        "workflow_id": workflow_id,
        "status": None if status is None else status.value,
        "top_level": True,
        "told": hub.runs.told(),
    }
    rows = hub.store._core.runs({**wanted, "limit": limit, "offset": offset})
    response.headers[TOTAL] = str(hub.store._core.count_runs(wanted))
    found = [(info, told_status(info, hub.runs.live(info.id))) for info in map(_info, rows)]
    return [
        WorkflowRunListItem(
            run_id=info.id,
            workflow_id=info.workflow_id,
            workflow_name=_name(info),
            status=RunStatusEnum(word),
            created_at=iso(info.created),
            completed_at=iso(info.updated) if word in ENDED else None,
            resumable=resumable(info, hub.runs.live(info.id)),
        )
        for info, word in found
    ]


@router.get("/runs/{run_id}", summary="Show where a run stands")
def get_run(run_id: RunInPath, hub: TheHub) -> WorkflowRunStatusResponse:
    """Show where a run stands, phase by phase, while it goes on and afterwards."""
    info = hub.run(run_id)
    live = hub.runs.live(run_id)
    progress = hub.progress.of(info)
    word = told_status(info, live)
    return WorkflowRunStatusResponse(
        run_id=run_id,
        workflow_id=info.workflow_id,
        workflow_name=_name(info),
        status=RunStatusEnum(word),
        current_phase=progress.current,
        total_phases=len(_phases(info)),
        phase_results=[
            PhaseExecutionResponse(**_told(each)) for each in _phase_results(info, progress, word)
        ],
        total_time=progress.seconds(info.owner is not None and word in UNFINISHED),
        created_at=iso(info.created),
        completed_at=iso(progress.finished_at) if word in ENDED else None,
        error=progress.error if word in ENDED else None,
        task=info.task,
        work_dir=info.work_dir,
        resumable=resumable(info, live),
    )


@router.get("/runs/{run_id}/phases", summary="Show the phases of a run")
def get_run_phases(run_id: RunInPath, hub: TheHub) -> list[PhaseDetailResponse]:
    """Show the phases of a run that were begun or skipped, with their settings and what they spent."""
    info = hub.run(run_id)
    word = told_status(info, hub.runs.live(run_id))
    found = _phase_results(info, hub.progress.of(info), word)
    return [PhaseDetailResponse(**_told(each), config=each.config, usage=each.usage) for each in found]


@router.post("/runs/{run_id}/stop", summary="Stop a run")
def stop_run(
    run_id: RunInPath,
    hub: TheHub,
    mode: Annotated[
        Mode, Query(description="`now` cuts what is going on; `after_phase` lets the phase come to its end.")
    ] = "now",
) -> SuccessResponse:
    """Stop a run; no phase begins any more."""
    hub.runs.stop(hub.run(run_id), mode)
    return SuccessResponse(success=True, message="Stop requested")


@router.post("/runs/{run_id}/pause", summary="Hold a run")
def pause_run(run_id: RunInPath, hub: TheHub) -> SuccessResponse:
    """Hold a run before its next model call, script, question or phase; what is in flight goes on."""
    hub.runs.pause(hub.run(run_id))
    return SuccessResponse(success=True, message="Pause requested")


@router.post("/runs/{run_id}/resume", summary="Let a run go on")
def resume_run(
    run_id: RunInPath, hub: TheHub, keys: TheKeys, body: ResumeRequest | None = None
) -> WorkflowRunResponse:
    """End the pause of a run, or take up one that was stopped, failed, or was left by a server that has gone.

    What is finished is not repeated.
    """
    info = hub.settled(run_id)
    if hub.runs.live(run_id) is not None or (info.owner is not None and info.status in UNFINISHED):
        hub.runs.go_on(info)
    else:
        hub.runs.take_up(info, keys, force=body.force if body else False)
    return _started(info.id, info.workflow_id, _name(info), len(_phases(info)), "resumed")


@router.post("/runs/{run_id}/retry", summary="Do phases of a run anew")
def retry_run(run_id: RunInPath, body: RetryRequest, hub: TheHub, keys: TheKeys) -> WorkflowRunResponse:
    """Take up a run that has ended, and do a phase and those after it anew."""
    info = hub.settled(run_id)
    begun = hub.progress.of(info).phases
    if body.from_phase > max(begun, default=-1) + 1:
        raise HTTPException(400, f"Run '{run_id}' has not come to phase {body.from_phase} yet")
    hub.runs.take_up(info, keys, from_phase=body.from_phase, force=body.force)
    return _started(info.id, info.workflow_id, _name(info), len(_phases(info)), "resumed")


@router.delete("/runs/{run_id}", summary="Delete a run")
def delete_run(
    run_id: RunInPath,
    hub: TheHub,
    files: Annotated[bool, Query(description="Delete its work directory, too.")] = False,
) -> SuccessResponse:
    """Delete the record of a run that has ended; with `files`, all that it made as well."""
    info = hub.settled(run_id)
    if info.owner is not None:
        raise HTTPException(
            409, f"Cannot delete run with status '{told_status(info, hub.runs.live(run_id))}'; stop it first"
        )
    place = Path(info.work_dir)
    if files and not (place.name == run_id and hub.settings.base in place.parents):
        raise HTTPException(403, f"{place} was not made by this server; delete it yourself")
    for each in hub.store.with_children([info]):
        hub.store.delete(each.id)
    hub.progress.forget(run_id)
    if files:
        shutil.rmtree(place, ignore_errors=True)
    return SuccessResponse(success=True, message=f"Run '{run_id}' deleted")


@router.get("/runs/{run_id}/cost", summary="Show what a run has spent")
def get_cost(run_id: RunInPath, hub: TheHub) -> CostResponse:
    """Show what a run has spent: calls, tokens and dollars, as a whole, by phase and by agent."""
    info = hub.run(run_id)
    agents: dict[str, dict[str, Any]] = {}
    phases: dict[str, dict[str, Any]] = {}
    total: dict[str, Any] = {}
    for kind, data in _events(hub, run_id):
        if kind == "call_finished":
            phase = f"phase_{data['phase_index']}_{data['phase']}"
            for sums, name in ((agents, data["agent"]), (phases, phase)):
                sums[name] = _sum(sums.get(name, {}), data["usage"])
            total = _sum(total, data["usage"])
    known = hub.progress.of(info).usage
    return CostResponse(
        run_id=run_id,
        total=known or total or _sum({}, {}),
        phases=[CostLine(name=name, usage=usage) for name, usage in phases.items()],
        agents=[CostLine(name=name, usage=usage) for name, usage in sorted(agents.items())],
    )


_COUNTS = ("calls", "prompt_tokens", "completion_tokens", "cached_tokens", "reasoning_tokens")


def _sum(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    summed: dict[str, Any] = {name: (one.get(name) or 0) + (other.get(name) or 0) for name in _COUNTS}
    costs = [each["cost"] for each in (one, other) if each]
    # What has no known price makes the sum unknown.
    summed["cost"] = None if None in costs else sum(costs)
    unpriced = [*one.get("unpriced_models", []), *other.get("unpriced_models", [])]
    summed["unpriced_models"] = list(dict.fromkeys(unpriced))
    return summed


@router.get("/runs/{run_id}/chat", summary="Show the messages of a run")
def get_chat(
    run_id: RunInPath,
    hub: TheHub,
    after: Annotated[int, Query(ge=0, le=2**53, description="Only messages after this number.")] = 0,
    limit: Annotated[int, Query(ge=1, le=1000, description="How many at most.")] = 200,
) -> ChatResponse:
    """Show the messages between the agents of a run, in order."""
    hub.run(run_id)
    found: list[ChatMessage] = []
    for kind, data in _events(hub, run_id, after):
        if kind == "message":
            if len(found) == limit:
                return ChatResponse(run_id=run_id, messages=found, next_after=found[-1].seq)
            fields = {name: data[name] for name in ("seq", "phase", "phase_index", "step", "name", "role")}
            found.append(ChatMessage(**fields, at=iso(data["at"]), content=data["content"] or ""))
    return ChatResponse(run_id=run_id, messages=found, next_after=None)


def _events(hub: Hub, run_id: str, after: int = 0) -> Any:
    while True:
        page = hub.store.events(run_id, after + 1, PAGE)
        yield from page
        if len(page) < PAGE:
            return
        after = page[-1][1]["seq"]


def _phases(info: RunInfo) -> list[dict[str, Any]]:
    phases: list[dict[str, Any]] = info.about.get("workflow", {}).get("phases", [])
    return phases


def _name(info: RunInfo) -> str:
    return str(info.about.get("workflow", {}).get("name", info.workflow_id))


def _phase_results(info: RunInfo, progress: Progress, word: str) -> list[PhaseProgress]:
    found = [each for _, each in sorted(progress.phases.items())]
    if word == "interrupted":
        # A process that was killed told of no end; the phase goes on when the run is resumed.
        found = [replace(each, status="paused") if each.status == "running" else each for each in found]
    kinds = [phase["type"] for phase in _phases(info)]
    refused = max(progress.phases, default=-1) + 1
    if word == "failed" and not any(each.status == "failed" for each in found) and refused < len(kinds):
        # A phase that refuses its input does not begin, so that no event tells of it.
        kind = kinds[refused]
        name = PhaseRegistry.create(kind).display_name if PhaseRegistry.is_registered(kind) else kind
        at = progress.finished_at
        found.append(PhaseProgress(refused, kind, name, "failed", at, at, progress.error))
    return found


def _told(phase: PhaseProgress) -> dict[str, Any]:
    return {
        "phase_id": f"phase_{phase.index}_{phase.phase_type}",
        "phase_type": phase.phase_type,
        "display_name": phase.display_name,
        "status": phase.status,
        "started_at": iso(phase.started_at),
        "completed_at": iso(phase.completed_at),
        "error": phase.error,
        "timing": {} if phase.seconds is None else {"total": phase.seconds},
    }
