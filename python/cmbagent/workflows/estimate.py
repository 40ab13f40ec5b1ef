"""What a run will ask its models, and what that may cost, before any model is asked."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from cmbagent import _core
from cmbagent.workflows._limits import without_limits

if TYPE_CHECKING:
    from cmbagent.workflows.composer import WorkflowExecutor


@dataclass(frozen=True)
class ExpectedCall:
    """One call that a run is expected to make.

    Attributes:
        agent: who speaks.
        model: the model asked.
        phase_index: the phase's place in the workflow, from 0.
        step: the step of the plan, from 1; 0 outside steps.
        system: the system prompt.
        prompt: the prompt, with placeholders in parentheses for what earlier calls and scripts will say.
        prompt_tokens: about how many tokens the two have.
        max_output_tokens: the longest answer in tokens.
        tries: how often the call is made at most; the engineer is asked again when a script fails.
        cost_low: dollars for one usual answer; `None` when the model has no price.
        cost_high: dollars for all tries with the longest answers and long earlier results.
    """

    agent: str
    model: str
    phase_index: int
    step: int
    system: str = field(repr=False)
    prompt: str = field(repr=False)
    prompt_tokens: int
    max_output_tokens: int
    tries: int
    cost_low: float | None
    cost_high: float | None


@dataclass(frozen=True)
class Estimate:
    """What a run is expected to ask and to cost; `print` shows it as a table.

    The plan is not known yet, so the steps are as many as it may have: engineer's steps and a researcher's
    report at the end.

    Attributes:
        calls: the expected calls, in order.
        left_out: the types of phases that were not rehearsed, since they are the user's own code.
    """

    calls: list[ExpectedCall]
    left_out: list[str]

    @property
    def cost_low(self) -> float:
        """Dollars if every call is made once and answered at usual length."""
        return sum(call.cost_low or 0.0 for call in self.calls)

    @property
    def cost_high(self) -> float:
        """Dollars if every try is needed and every answer is as long as it can be."""
        return sum(call.cost_high or 0.0 for call in self.calls)

    @property
    def unpriced_models(self) -> list[str]:
        """Models without a price; they are in neither cost."""
        return sorted({call.model for call in self.calls if call.cost_high is None})

    def __str__(self) -> str:
        rows = [f"{'step':>4}  {'agent':<14} {'model':<26} {'prompt tokens':>13} {'tries':>5}  cost ($)"]
        for call in self.calls:
            cost = "no price" if call.cost_high is None else f"{call.cost_low:.4f} – {call.cost_high:.4f}"
            rows.append(
                f"{call.step or '':>4}  {call.agent:<14} {call.model:<26} {call.prompt_tokens:>13} "
                f"{call.tries:>5}  {cost}"
            )
        calls = "1 call" if len(self.calls) == 1 else f"{len(self.calls)} calls"
        rows.append(
            f"{calls} expected; cost ${self.cost_low:.4f} – ${self.cost_high:.4f} (the high end: every "
            "try is needed, every answer is as long as it can be)"
        )
        if self.unpriced_models:
            rows.append(f"Not in the cost, for want of a price: {', '.join(self.unpriced_models)}")
        if self.left_out:
            rows.append(f"Not rehearsed, since they are code of your own: {', '.join(self.left_out)}")
        return "\n".join(rows)

    def prompts(self) -> str:
        """Return all prompts in full, each under a heading."""
        parts = [
            f"=== {number}. {call.agent} ({call.model})\n{call.system}\n\n--- user\n{call.prompt}"
            for number, call in enumerate(self.calls, start=1)
        ]
        return "\n\n".join(parts)


async def estimate(executor: WorkflowExecutor) -> Estimate:
    """Rehearse an executor's run in a directory that is thrown away; the executor stays as it is."""
    from cmbagent.approvals import AutoApprovalManager

    own = [type(phase).__module__.partition(".")[0] == "cmbagent" for phase in executor.phases]
    definitions = executor.workflow.phases
    phases = [
        {**each, "config": without_limits(each.get("config") or {})}
        for each, known in zip(definitions, own, strict=True)
        if known
    ]
    left_out = [str(each["type"]) for each, known in zip(definitions, own, strict=True) if not known]
    configs = [phase.config for phase in executor.phases]
    steps = max((getattr(config, "max_plan_steps", 0) for config in configs), default=0) or 3
    tries = 1 + max((getattr(config, "max_n_attempts", 0) for config in configs), default=0)
    with tempfile.TemporaryDirectory(prefix="cmbagent-estimate-") as place:
        rehearsed = type(executor)(
            replace(executor.workflow, phases=phases),
            executor.task,
            place,
            {},
            approval_manager=AutoApprovalManager("approve"),
            initial_shared_state=executor.initial_shared_state,
            verbose=False,
            store=":memory:",
            options=executor.options,
        )
        calls = await _core.rehearse(rehearsed, steps, tries)
    return Estimate([ExpectedCall(**call) for call in calls], left_out)
