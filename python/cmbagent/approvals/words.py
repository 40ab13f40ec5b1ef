"""A question's parts in words, for terminals and pages alike."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from cmbagent.display import usage_text

if TYPE_CHECKING:
    from cmbagent.approvals.request import ApprovalRequest

_PLAN_BLOCK = re.compile(r"\n*\*\*Plan:\*\*\n(?:  Step \d+: .*\n?)*")


def message(request: ApprovalRequest) -> str:
    """Return the question itself; without the plan where that is shown as a table."""
    whole = request.message.strip()
    return _PLAN_BLOCK.sub("\n", whole).strip() if request.plan else whole


def money(request: ApprovalRequest) -> list[str]:
    """Return what was spent and, labelled as an estimate, what is to come; a line each, none if not known."""
    lines = []
    if (spent := request.spent) is not None:
        lines.append(f"Spent so far: {_calls(spent.get('calls', 0))}, {usage_text(spent)}")
    if (estimate := request.estimate) is not None:
        cost = estimate.get("cost")
        price = "at a cost that cannot be told" if cost is None else f"${cost:.4f}"
        lines.append(f"Still to come (estimate): about {_calls(estimate['calls'])}, {price}")
        lines.append(f"  ({estimate['basis']})")
    return lines


def _calls(count: Any) -> str:
    return f"{count} model call{'' if count == 1 else 's'}"
