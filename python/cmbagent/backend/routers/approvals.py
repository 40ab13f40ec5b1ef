"""Questions of runs, and their answers."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, HTTPException

from cmbagent.approvals import ApprovalRequest
from cmbagent.backend.hub import Hub, TheHub, iso
from cmbagent.backend.models.fields import ApprovalInPath, RunInPath
from cmbagent.backend.models.run_schemas import ApprovalRequestBody, ApprovalResponse
from cmbagent.backend.routers.route import Route
from cmbagent.errors import ConfigurationError

router = APIRouter(route_class=Route)


@router.get("/runs/{run_id}/approvals", summary="List the questions of a run")
def list_approvals(run_id: RunInPath, hub: TheHub) -> list[ApprovalResponse]:
    """List what a run has asked, in order; those that are `open` wait for an answer."""
    hub.run(run_id)
    return [_response(run_id, row) for row in hub.store.questions(run_id)]


@router.get("/runs/{run_id}/approvals/{approval_id}", summary="Show a question of a run")
def get_approval(run_id: RunInPath, approval_id: ApprovalInPath, hub: TheHub) -> ApprovalResponse:
    """Show a question."""
    return _response(run_id, _find(hub, run_id, approval_id))


@router.post("/runs/{run_id}/approvals/{approval_id}", summary="Answer a question of a run")
def answer_approval(
    run_id: RunInPath, approval_id: ApprovalInPath, body: ApprovalRequestBody, hub: TheHub
) -> ApprovalResponse:
    """Answer a question with one of its options, and words or an edited plan if you like.

    A run that waits goes on within a second; one that is not running finds the answer when it is resumed.
    """
    row = _find(hub, run_id, approval_id)
    question = row["question"]
    if row["settled"] or row["answer"] is not None:
        raise HTTPException(409, f"Approval '{approval_id}' was answered already")
    request = ApprovalRequest(
        run_id, question["step_id"], question["checkpoint_type"], {}, question["message"], question["options"]
    )
    try:
        result = request.accept(body.resolution, body.user_feedback, body.modifications)
    except ConfigurationError as error:
        raise HTTPException(422, str(error)) from error
    hub.store.answer(run_id, approval_id, result.resolution, result.user_feedback, result.modifications)
    return _response(run_id, _find(hub, run_id, approval_id))


def _find(hub: Hub, run_id: str, approval_id: str) -> dict[str, Any]:
    hub.run(run_id)
    for row in hub.store.questions(run_id):
        if row["id"] == approval_id:
            return row
    raise HTTPException(404, f"Approval '{approval_id}' not found")


def _response(run_id: str, row: dict[str, Any]) -> ApprovalResponse:
    question, answer = row["question"], row["answer"] or {}
    snapshot = question["context_snapshot"]
    return ApprovalResponse(
        approval_id=row["id"],
        run_id=run_id,
        step_id=question["step_id"],
        checkpoint_type=question["checkpoint_type"],
        message=question["message"],
        options=question["options"],
        context=snapshot if isinstance(snapshot, dict) else {"context": snapshot},
        asked_at=iso(row["asked"]),
        timeout_seconds=question.get("timeout_seconds"),
        status="answered" if row["settled"] or answer else "open",
        resolution=answer.get("resolution") or answer.get("how"),
        user_feedback=answer.get("user_feedback"),
    )
