"""Workflow definitions of users: kept in the store, checked before they are."""

from __future__ import annotations

import dataclasses
import json
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

from cmbagent import _core
from cmbagent.errors import CmbagentError, ConfigurationError
from cmbagent.phases import PhaseRegistry
from cmbagent.phases.schema import config_schema, problems
from cmbagent.store import Store
from cmbagent.workflows import SYSTEM_WORKFLOWS, WorkflowDefinition
from cmbagent.workflows._resume import hidden_paths, masked

Phases = Sequence[Mapping[str, Any]]

EMPTY = "Workflow must have at least one phase"
NO_PLAN = "Control phase without planning phase - ensure plan is provided externally"
_PLANNING = ("planning", "hitl_planning")
_CONTROL = ("control", "hitl_control")


class StaleVersionError(CmbagentError, RuntimeError):
    """Somebody else has changed the workflow meanwhile."""


def check(phases: Phases) -> tuple[list[str], list[str]]:
    """Say what is wrong with the phases of a workflow.

    Args:
        phases: dicts of `type` and `config`.

    Returns:
        Errors, with which it cannot be run, and warnings; phases are counted from 1.
    """
    errors = [] if phases else [EMPTY]
    warnings = []
    seen: list[str] = []
    for number, phase in enumerate(phases, 1):
        kind, config = phase["type"], dict(phase.get("config") or {})
        if not PhaseRegistry.is_registered(kind):
            errors.append(f"Phase {number}: Unknown phase type '{kind}'")
            seen.append(kind)
            continue
        place = f"Phase {number} ({kind})"
        faults = problems(config_schema(PhaseRegistry.get(kind)), config)
        errors += [f"{place}: Invalid config - {fault}" for fault in faults]
        if not faults:
            try:
                made = PhaseRegistry.create_from_dict({"type": kind, "config": config})
                _core.check_limits(made.config.params)
            except (TypeError, ValueError) as error:
                errors.append(f"{place}: Invalid config - {error}")
        errors += [
            f"{place}: Invalid config - {path} looks like a key, and keys are not kept: set it in the "
            "server's environment, or send it with each run in a header"
            for path in _keys(config)
        ]
        if kind in _CONTROL and not any(each in _PLANNING for each in seen):
            warnings.append(NO_PLAN)
        elif (
            kind == "hitl_checkpoint"
            and not seen
            and config.get("checkpoint_type", "after_planning") != "custom"
        ):
            warnings.append(f"{place} comes first: there is nothing to decide about yet")
        seen.append(kind)
    return errors, list(dict.fromkeys(warnings))


def _keys(config: Mapping[str, Any]) -> list[str]:
    before = set(hidden_paths(dict(config)))
    return [path for path in hidden_paths(masked(config, frozenset())) if path not in before] + sorted(before)


def checked(phases: Phases) -> list[dict[str, Any]]:
    """Return phases that can be run, as plain dicts.

    Raises:
        ConfigurationError: they cannot; the text says why.
    """
    for phase in phases:
        if not PhaseRegistry.is_registered(phase["type"]):
            raise ConfigurationError(f"Unknown phase type: {phase['type']}")
    errors, _ = check(phases)
    if errors:
        raise ConfigurationError("; ".join(errors))
    return [{"type": phase["type"], "config": dict(phase.get("config") or {})} for phase in phases]


class Definitions:
    """The workflows that a server knows: those of the package, and those kept in a store."""

    def __init__(self, store: Store) -> None:
        self._core = store._core

    def all(self) -> list[WorkflowDefinition]:
        """Return those in the store, in the order in which they were made."""
        return [_definition(row) for row in self._core.workflows()]

    def get(self, workflow_id: str) -> WorkflowDefinition | None:
        """Return a workflow's newest version; `None` when there is none of that id."""
        if workflow_id in SYSTEM_WORKFLOWS:
            return SYSTEM_WORKFLOWS[workflow_id]
        versions = self.versions(workflow_id)
        return versions[0] if versions else None

    def versions(self, workflow_id: str) -> list[WorkflowDefinition]:
        """Return all versions of a workflow, the newest first."""
        if workflow_id in SYSTEM_WORKFLOWS:
            return [SYSTEM_WORKFLOWS[workflow_id]]
        return [_definition(row) for row in self._core.workflow_versions(workflow_id)]

    def create(
        self, name: str, description: str, phases: Phases, created_by: str | None = None
    ) -> WorkflowDefinition:
        """Keep a new workflow.

        Raises:
            ConfigurationError: its phases cannot be run.
        """
        made = WorkflowDefinition("", name, description, checked(phases), created_by=created_by)
        while True:
            made.id = f"custom_{uuid.uuid4().hex[:8]}"
            if self._core.keep_workflow(made.id, 0, _body(made)):
                return made

    def update(
        self, before: WorkflowDefinition, name: str, description: str, phases: Phases
    ) -> WorkflowDefinition:
        """Keep a new version of a workflow.

        Args:
            before: the version that is changed.
            name: as for `create`.
            description: as for `create`.
            phases: as for `create`.

        Raises:
            ConfigurationError: its phases cannot be run.
            StaleVersionError: there is a newer version than `before`.
        """
        made = dataclasses.replace(
            before, name=name, description=description, phases=checked(phases), version=before.version + 1
        )
        if not self._core.keep_workflow(made.id, before.version, _body(made)):
            raise _stale(before)
        return made

    def delete(self, before: WorkflowDefinition) -> None:
        """Delete a workflow with all its versions; runs of it stay.

        Raises:
            StaleVersionError: there is a newer version than `before`, or it is gone.
        """
        if not self._core.drop_workflow(before.id, before.version):
            raise _stale(before)


def _stale(before: WorkflowDefinition) -> StaleVersionError:
    return StaleVersionError(
        f"Workflow '{before.id}' was changed by someone else after version {before.version}: "
        "read it again, then change that"
    )


def _body(definition: WorkflowDefinition) -> str:
    return json.dumps(definition.to_dict(), ensure_ascii=False)


def _definition(row: Mapping[str, Any]) -> WorkflowDefinition:
    definition = WorkflowDefinition.from_dict(json.loads(row["body"]))
    definition.version = row["version"]
    return definition


def configured(
    definition: WorkflowDefinition, overrides: Mapping[str, Mapping[str, Any]] | None, hitl_enabled: bool
) -> WorkflowDefinition:
    """Return a copy of a workflow with the settings of one run.

    Args:
        definition: the workflow; it stays as it is.
        overrides: phase type, or 0-based index of a phase as text → config field → value.
        hitl_enabled: have the human asked after each step, too; `False` takes no question away.

    Raises:
        ConfigurationError: a key names no phase of the workflow, or a phase cannot be run so.
    """
    phases = [{"type": p["type"], "config": dict(p.get("config") or {})} for p in definition.phases]
    kinds = [phase["type"] for phase in phases]
    for key, settings in (overrides or {}).items():
        if key.isascii() and key.isdigit() and len(key) < 6 and int(key) < len(phases):
            chosen = [phases[int(key)]]
        else:
            chosen = [phase for phase in phases if phase["type"] == key]
        if not chosen:
            raise ConfigurationError(
                f"config_overrides names {key!r}, which is no phase of '{definition.id}'; expected one of "
                f"{', '.join(dict.fromkeys(kinds))}, or an index from 0 to {len(phases) - 1}"
            )
        for phase in chosen:
            phase["config"].update(settings)
    for phase in phases if hitl_enabled else []:
        if phase["type"] == "control":
            phase["config"]["hitl_enabled"] = True
    return dataclasses.replace(definition, phases=checked(phases))
