"""Questions of phases that are made of built-in ones.

A question is a checkpoint phase of its own, executed within the run: so it is recorded, told to listeners,
checked and, if need be, put again like every other, and the time a human takes counts for no limit.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from cmbagent.phases.base import PhaseContext
from cmbagent.phases.hitl_checkpoint import HITLCheckpointConfig, HITLCheckpointPhase


@dataclass
class Answer:
    """What came of a question.

    Attributes:
        word: the option chosen; `None` when nobody was there to ask, or nobody answered.
        feedback: what the human added.
        plan: the plan as the human changed it; `None` when it was not changed.
        output: the checkpoint's output.
        error: why there is no answer, when one was needed.
    """

    word: str | None
    feedback: str | None
    plan: list[dict[str, Any]] | None
    output: dict[str, Any]
    error: str | None = None

    @property
    def nobody(self) -> bool:
        """Whether there was nobody to ask."""
        return bool(self.output.get("no_hitl_manager"))


async def ask(
    context: PhaseContext,
    place: str,
    checkpoint_type: str,
    message: str,
    options: list[str],
    seconds: int,
    *,
    plan: list[dict[str, Any]] | None = None,
    **shared: Any,
) -> Answer:
    """Put a question.

    Args:
        context: the context of the phase that asks.
        place: the question's `step_id`.
        checkpoint_type: why it is asked.
        message: the question.
        options: the words that count as answers.
        seconds: how long to wait.
        plan: the plan to show.
        shared: further items of the shared state, such as `current_step`.
    """
    own = fresh(context, phase_id=place)
    own.shared_state.update(shared)
    if plan is not None:
        own.input_data = {"final_plan": plan}
    config = HITLCheckpointConfig(
        checkpoint_type=checkpoint_type,
        custom_message=message,
        options=options,
        timeout_seconds=seconds,
        show_plan=plan is not None,
    )
    result = await HITLCheckpointPhase(config).execute(own)
    output = dict(result.output_data)
    word = output.get("resolution")
    return Answer(
        word,
        output.get("user_feedback"),
        output.get("final_plan"),
        output,
        # A rejection is an answer, too.
        None if word or result.succeeded else result.error,
    )


def fresh(context: PhaseContext, **changes: Any) -> PhaseContext:
    """Return a context for a phase within a phase: the same run, state of its own, nothing in the output."""
    return dataclasses.replace(
        context, **{"shared_state": dict(context.shared_state), "output_data": {}, **changes}
    )


def all_feedback(context: PhaseContext) -> list[str]:
    """Return what humans have written in the run so far, oldest first."""
    known = context.shared_state.get("all_hitl_feedback")
    return [str(each) for each in known] if isinstance(known, list) else []
