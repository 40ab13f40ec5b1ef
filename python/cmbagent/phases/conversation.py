"""The conversation phase: an agent works, a human says what comes next, turn by turn."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from cmbagent.phases._ask import ask, fresh
from cmbagent.phases.base import Phase, PhaseConfig, PhaseContext, PhaseResult, PhaseStatus
from cmbagent.phases.one_shot import OneShotPhase, OneShotPhaseConfig

_MODEL = "gpt-4o-2024-11-20"
_OPTIONS = ["approve", "continue", "abort"]


@dataclass
class ConversationConfig(PhaseConfig):
    """Settings of a conversation.

    Attributes:
        max_rounds: upper limit of model calls, all turns together.
        max_n_attempts: how often failing code is tried again.
        agent: who works on the task.
        engineer_model: model of the engineer.
        researcher_model: model of the researcher.
        answer_seconds: how long to wait for each answer of the human.
    """

    phase_type: str = "conversation"
    max_rounds: int = 50
    max_n_attempts: int = 3
    agent: str = "engineer"
    engineer_model: str = _MODEL
    researcher_model: str = _MODEL
    answer_seconds: int = 3600


@dataclass
class _Talk:
    chat: list[dict[str, Any]] = field(default_factory=list)
    found: list[str] = field(default_factory=list)
    output: dict[str, Any] = field(default_factory=dict)
    files: list[str] = field(default_factory=list)
    said: str | None = None
    error: str | None = None


class ConversationPhase(Phase):
    """One-shot work, turn by turn, until the human is content."""

    config_class: ClassVar[type[PhaseConfig] | None] = ConversationConfig

    @property
    def phase_type(self) -> str:
        """`conversation`."""
        return "conversation"

    @property
    def display_name(self) -> str:
        """`Conversation (<agent>)`."""
        return f"Conversation ({self.config.agent})"

    async def execute(self, context: PhaseContext) -> PhaseResult:
        """Work in turns.

        Returns:
            COMPLETED with the context of the last turn under `result`; FAILED when there is none.
        """
        started = time.time()
        run, talk = context.run, _Talk()
        turn = 0
        while True:
            turn += 1
            await self._turn(context, talk, turn)
            if talk.error is not None or not await self._go_on(context, talk, turn):
                break
        seconds = time.time() - started
        setup = float(talk.output.get("initialization_time") or 0.0)
        times = {"initialization_time": setup, "execution_time": seconds - setup}
        await run.report_times(context.work_dir, times)
        context.output_data = {
            "result": talk.output.get("result") or {},
            "chat_history": talk.chat,
            "output_files": talk.files,
            "status": "completed" if talk.error is None else "failed",
            "error": talk.error,
            **times,
        }
        nothing = talk.error is not None and not talk.output
        status = PhaseStatus.FAILED if nothing else PhaseStatus.COMPLETED
        return PhaseResult(status, context, talk.error, talk.chat, {"total": seconds})

    async def _turn(self, context: PhaseContext, talk: _Talk, turn: int) -> None:
        config = self.config
        own = dataclasses.replace(fresh(context), task=_task(context.task, talk))
        names = (
            "max_rounds",
            "max_n_attempts",
            "agent",
            "engineer_model",
            "researcher_model",
            "model_overrides",
        )
        settings = {name: getattr(config, name) for name in names}
        # What earlier turns made is what later ones work on.
        params = {**config.params, "fail_softly": True, "keep_existing": turn > 1}
        phase = OneShotPhase(OneShotPhaseConfig(**settings, researcher_filename="", params=params))
        result = await phase.execute(own)
        # The first message is the task as the agent was given it; people wrote something shorter.
        first = {"name": "user" if talk.said is None else "admin", "role": "user", "content": talk.said}
        opening = result.chat_history[:1] if talk.said is None else [first]
        talk.chat += [*opening, *result.chat_history[1:]]
        if not result.succeeded:
            talk.error = result.error
            return
        talk.output = dict(result.output_data)
        talk.files += [file for file in talk.output.get("output_files") or [] if file not in talk.files]
        talk.found.append(_found(talk.output))

    async def _go_on(self, context: PhaseContext, talk: _Talk, turn: int) -> bool:
        failure = talk.output.get("error")
        state = f"The {self.config.agent} is done." if failure is None else str(failure)
        answer = await ask(
            context,
            f"{context.phase_id}_turn_{turn}",
            "custom",
            f"{state} Approve to end here, or continue and say what to do next.\n\n{talk.found[-1]}",
            _OPTIONS,
            self.config.answer_seconds,
        )
        if answer.error is not None or answer.nobody or answer.word != "continue":
            return False
        talk.said = answer.feedback or "Go on."
        return True


def _task(task: str, talk: _Talk) -> str:
    if talk.said is None:
        return task
    done = "\n\n".join(f"Turn {number}:\n{found}" for number, found in enumerate(talk.found, 1))
    return (
        f"{task}\n\nWhat was done so far (files it left are still there):\n\n{done}\n\n"
        f"What is wanted now:\n\n{talk.said}"
    )


def _found(output: Mapping[str, Any]) -> str:
    context = output.get("result") or {}
    summary = str(context.get("previous_steps_execution_summary") or "").strip()
    return summary or str(output.get("error") or "nothing was found")
