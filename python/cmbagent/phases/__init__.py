"""Phases, the building blocks of workflows, and the registry of their types."""

from __future__ import annotations

from cmbagent.phases.base import Phase, PhaseConfig, PhaseContext, PhaseResult, PhaseStatus
from cmbagent.phases.context import WorkflowContext
from cmbagent.phases.control import ControlPhase, ControlPhaseConfig
from cmbagent.phases.conversation import ConversationConfig, ConversationPhase
from cmbagent.phases.execution_manager import (
    PhaseEventType,
    PhaseExecutionConfig,
    PhaseExecutionManager,
    WorkflowCancelledException,
    managed_phase_execution,
)
from cmbagent.phases.hitl_checkpoint import (
    CheckpointType,
    HITLCheckpointConfig,
    HITLCheckpointPhase,
    HITLCheckpointPhaseConfig,
)
from cmbagent.phases.hitl_control import HITLControlPhase, HITLControlPhaseConfig
from cmbagent.phases.hitl_planning import HITLPlanningPhase, HITLPlanningPhaseConfig
from cmbagent.phases.idea_generation import IdeaGenerationPhase, IdeaGenerationPhaseConfig
from cmbagent.phases.one_shot import OneShotPhase, OneShotPhaseConfig
from cmbagent.phases.planning import PlanningPhase, PlanningPhaseConfig
from cmbagent.phases.registry import PhaseRegistry

__all__ = [
    "CheckpointType",
    "ControlPhase",
    "ControlPhaseConfig",
    "ConversationConfig",
    "ConversationPhase",
    "HITLCheckpointConfig",
    "HITLCheckpointPhase",
    "HITLCheckpointPhaseConfig",
    "HITLControlPhase",
    "HITLControlPhaseConfig",
    "HITLPlanningPhase",
    "HITLPlanningPhaseConfig",
    "IdeaGenerationPhase",
    "IdeaGenerationPhaseConfig",
    "OneShotPhase",
    "OneShotPhaseConfig",
    "Phase",
    "PhaseConfig",
    "PhaseContext",
    "PhaseEventType",
    "PhaseExecutionConfig",
    "PhaseExecutionManager",
    "PhaseRegistry",
    "PhaseResult",
    "PhaseStatus",
    "PlanningPhase",
    "PlanningPhaseConfig",
    "WorkflowCancelledException",
    "WorkflowContext",
    "managed_phase_execution",
]

PhaseRegistry.register_class("planning", PlanningPhase)
PhaseRegistry.register_class("control", ControlPhase)
PhaseRegistry.register_class("one_shot", OneShotPhase)
PhaseRegistry.register_class("hitl_checkpoint", HITLCheckpointPhase)
PhaseRegistry.register_class("idea_generation", IdeaGenerationPhase)
PhaseRegistry.register_class("hitl_planning", HITLPlanningPhase)
PhaseRegistry.register_class("hitl_control", HITLControlPhase)
PhaseRegistry.register_class("conversation", ConversationPhase)
