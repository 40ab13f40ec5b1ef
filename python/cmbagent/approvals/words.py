"""A question's parts in words, for terminals and pages alike."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from cmbagent.display import usage_text

if TYPE_CHECKING:
    from cmbagent.approvals.request import ApprovalRequest

_IDEAS_BLOCK = re.compile(r"\n*\*\*Ideas:\*\*\n(?:  (?:Idea \d+|Selected so far): .*\n?)*")
_PLAN_BLOCK = re.compile(r"\n*\*\*Plan:\*\*\n(?:  Step \d+: .*\n?)*")


def message(request: ApprovalRequest) -> str:
    """Return the question itself; without the plan or the ideas where these are shown beside it."""
    whole = request.message.strip()
    if ideas(request):
        whole = _IDEAS_BLOCK.sub("\n", whole).strip()
    return _PLAN_BLOCK.sub("\n", whole).strip() if request.plan else whole


def ideas(request: ApprovalRequest) -> list[Any]:
    """Return the research ideas asked about; none when the question is about something else."""
    given = request.context_snapshot.get("ideas")
    return given if isinstance(given, list) else []


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
