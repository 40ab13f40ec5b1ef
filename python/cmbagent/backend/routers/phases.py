"""Phase types and workflows; `router` has everything under `/api/phases` and can be mounted anywhere."""

from __future__ import annotations

import re
from typing import Annotated, Any

from fastapi import APIRouter, Header, HTTPException, Query, Response

from cmbagent.backend.definitions import StaleVersionError, check
from cmbagent.backend.hub import Hub, TheHub
from cmbagent.backend.models.fields import TypeInPath, WorkflowInPath
from cmbagent.backend.models.phase_schemas import (
    PhaseConfigSchemaResponse,
    PhaseTypeInfo,
    SuccessResponse,
    WorkflowDefinitionCreate,
    WorkflowDefinitionResponse,
    WorkflowListItemResponse,
    WorkflowValidationRequest,
    WorkflowValidationResponse,
)
from cmbagent.backend.routers import approvals, events, files, runs
from cmbagent.backend.routers.route import ERRORS, Route
from cmbagent.phases import PhaseRegistry
from cmbagent.phases.schema import config_schema, description
from cmbagent.workflows import SYSTEM_WORKFLOWS, WorkflowDefinition

router = APIRouter(prefix="/api/phases", tags=["Phases & Workflows"], route_class=Route, responses=ERRORS)

IfMatch = Annotated[
    str | None, Header(description='The version that is meant, as the header `ETag` gives it: `"3"`.')
]


@router.get("/types", summary="List all phase types")
def list_phase_types() -> list[PhaseTypeInfo]:
    """List all phase types, those of users included."""
    return [_type_info(phase_type) for phase_type in PhaseRegistry.list_all()]


@router.get("/types/{phase_type}", summary="Describe a phase type")
def get_phase_type(phase_type: TypeInPath) -> PhaseTypeInfo:
    """Describe a phase type."""
    if not PhaseRegistry.is_registered(phase_type):
        raise HTTPException(
            404, f"Phase type '{phase_type}' not found. Available: {PhaseRegistry.list_all()}"
        )
    return _type_info(phase_type)


@router.get("/types/{phase_type}/config-schema", summary="Describe a phase type's settings")
def get_config_schema(phase_type: TypeInPath) -> PhaseConfigSchemaResponse:
    """Return the JSON Schema of a phase type's settings; `{}` for a type that takes any."""
    if not PhaseRegistry.is_registered(phase_type):
        raise HTTPException(404, f"Phase type '{phase_type}' not found")
    schema = config_schema(PhaseRegistry.get(phase_type))
    return PhaseConfigSchemaResponse(phase_type=phase_type, schema=schema)


def _type_info(phase_type: str) -> PhaseTypeInfo:
    info = PhaseRegistry.get_info(phase_type)
    return PhaseTypeInfo(**info, description=description(PhaseRegistry.get(phase_type)))


@router.get("/workflows", summary="List all workflows")
def list_workflows(
    hub: TheHub, include_system: Annotated[bool, Query(description="List the package's, too.")] = True
) -> list[WorkflowListItemResponse]:
    """List the workflows, those of the package first."""
    system = list(SYSTEM_WORKFLOWS.values()) if include_system else []
    return [
        WorkflowListItemResponse(
            id=each.id,
            name=each.name,
            description=each.description,
            num_phases=len(each.phases),
            is_system=each.is_system,
        )
        for each in [*system, *hub.definitions.all()]
    ]


@router.post("/workflows", summary="Keep a new workflow")
def create_workflow(
    body: WorkflowDefinitionCreate, hub: TheHub, response: Response
) -> WorkflowDefinitionResponse:
    """Keep a new workflow, once its phases and their settings are found in order."""
    phases = [phase.model_dump() for phase in body.phases]
    made = hub.definitions.create(body.name, body.description, phases, body.created_by)
    return _told(made, response)


@router.post("/workflows/validate", summary="Check the phases of a workflow")
def validate_workflow(body: WorkflowValidationRequest) -> WorkflowValidationResponse:
    """Check phases without keeping them: types, settings, order. Phases are counted from 1."""
    errors, warnings = check([phase.model_dump() for phase in body.phases])
    return WorkflowValidationResponse(valid=not errors, errors=errors, warnings=warnings)


@router.get("/workflows/{workflow_id}", summary="Show a workflow")
def get_workflow(
    workflow_id: WorkflowInPath,
    hub: TheHub,
    response: Response,
    version: Annotated[
        int | None, Query(ge=1, le=2**31 - 1, description="An earlier version; without it, the newest.")
    ] = None,
) -> WorkflowDefinitionResponse:
    """Show a workflow; the header `ETag` holds its version."""
    found = _find(hub, workflow_id)
    if version is not None and version != found.version:
        earlier = [each for each in hub.definitions.versions(workflow_id) if each.version == version]
        if not earlier:
            raise HTTPException(
                404, f"Workflow '{workflow_id}' has no version {version}; its newest is {found.version}"
            )
        found = earlier[0]
    return _told(found, response)


@router.get("/workflows/{workflow_id}/versions", summary="List the versions of a workflow")
def list_versions(workflow_id: WorkflowInPath, hub: TheHub) -> list[WorkflowDefinitionResponse]:
    """List all versions of a workflow, the newest first."""
    _find(hub, workflow_id)
    return [_response(each) for each in hub.definitions.versions(workflow_id)]


@router.put("/workflows/{workflow_id}", summary="Change a workflow")
def update_workflow(
    workflow_id: WorkflowInPath,
    body: WorkflowDefinitionCreate,
    hub: TheHub,
    response: Response,
    if_match: IfMatch = None,
) -> WorkflowDefinitionResponse:
    """Keep a new version of a workflow; runs that go on keep the version they were begun with."""
    before = _changeable(hub, workflow_id, if_match, "modify")
    before.created_by = body.created_by or before.created_by
    phases = [phase.model_dump() for phase in body.phases]
    return _told(hub.definitions.update(before, body.name, body.description, phases), response)


@router.delete("/workflows/{workflow_id}", summary="Delete a workflow")
def delete_workflow(workflow_id: WorkflowInPath, hub: TheHub, if_match: IfMatch = None) -> SuccessResponse:
    """Delete a workflow with all its versions; its runs stay."""
    try:
        hub.definitions.delete(_changeable(hub, workflow_id, if_match, "delete"))
    except StaleVersionError:
        # Whoever was faster may have deleted it.
        _find(hub, workflow_id)
        raise
    return SuccessResponse(success=True, message=f"Workflow '{workflow_id}' deleted")


def _find(hub: Hub, workflow_id: str) -> WorkflowDefinition:
    found = hub.definitions.get(workflow_id)
    if found is None:
        raise HTTPException(404, f"Workflow '{workflow_id}' not found")
    return found


def _changeable(hub: Hub, workflow_id: str, if_match: str | None, verb: str) -> WorkflowDefinition:
    found = _find(hub, workflow_id)
    if found.is_system:
        raise HTTPException(403, f"Cannot {verb} system workflows")
    wanted = re.findall(r'[^\s,"]+', (if_match or "").replace("W/", ""))
    if if_match is not None and "*" not in wanted and str(found.version) not in wanted:
        raise HTTPException(
            412, f"Workflow '{workflow_id}' is at version {found.version}, not {if_match}: read it again"
        )
    return found


def _told(definition: WorkflowDefinition, response: Response) -> WorkflowDefinitionResponse:
    response.headers["ETag"] = f'"{definition.version}"'
    return _response(definition)


def _response(definition: WorkflowDefinition) -> WorkflowDefinitionResponse:
    fields: dict[str, Any] = definition.to_dict()
    return WorkflowDefinitionResponse(**fields)


router.include_router(runs.router)
router.include_router(approvals.router)
router.include_router(events.router)
router.include_router(files.router)
