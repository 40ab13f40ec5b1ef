"""Approval managers: how a run's questions reach a human, and the answers come back.

A workflow's manager is any object with two methods: `create_approval_request`, which takes six keywords and
returns an object with an `id`, and `wait_for_approval_async(id, timeout_seconds=)`, which returns an object
with `resolution`, `user_feedback` and `modifications`. The package brings three, and one for web applications
in `cmbagent.database.websocket_approval_manager`:

* `ConsoleApprovalManager` asks whoever sits at the terminal or the notebook;
* `QueueApprovalManager` holds the questions until another thread or task answers them by id;
* `AutoApprovalManager` answers by a rule.

Without a manager, `default_manager` decides: see there.
"""

from __future__ import annotations

from cmbagent.approvals.auto import AutoApprovalManager
from cmbagent.approvals.choice import default_manager, is_interactive
from cmbagent.approvals.console import ConsoleApprovalManager
from cmbagent.approvals.queue import QueueApprovalManager
from cmbagent.approvals.request import ApprovalRequest, ApprovalResult, option_of

__all__ = [
    "ApprovalRequest",
    "ApprovalResult",
    "AutoApprovalManager",
    "ConsoleApprovalManager",
    "QueueApprovalManager",
    "default_manager",
    "is_interactive",
    "option_of",
]
