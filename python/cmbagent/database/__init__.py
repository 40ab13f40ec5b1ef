"""Names that programs written for earlier versions import from here: approvals and their settings."""

from __future__ import annotations

from cmbagent.database.approval_types import (
    DEFAULT_CONFIGS,
    ApprovalCheckpoint,
    ApprovalConfig,
    ApprovalMode,
    ApprovalResolution,
    CheckpointType,
    get_approval_config,
)
from cmbagent.database.websocket_approval_manager import SimpleApprovalRequest, WebSocketApprovalManager

__all__ = [
    "DEFAULT_CONFIGS",
    "ApprovalCheckpoint",
    "ApprovalConfig",
    "ApprovalMode",
    "ApprovalResolution",
    "CheckpointType",
    "SimpleApprovalRequest",
    "WebSocketApprovalManager",
    "get_approval_config",
]
