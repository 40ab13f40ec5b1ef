"""A question to a human, and its answer."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from cmbagent._repr import short_repr
from cmbagent.approvals import plan as plans
from cmbagent.errors import ConfigurationError


@dataclass(frozen=True)
class ApprovalResult:
    """An answer.

    Attributes:
        resolution: the option that was chosen.
        user_feedback: what the human added, `None` for nothing.
        modifications: what the human changed, such as `{"plan": [steps]}`, `None` for nothing.
    """

    resolution: str
    user_feedback: str | None = None
    modifications: dict[str, Any] | None = None


@dataclass
class ApprovalRequest:
    """A question.

    Attributes:
        run_id: the run that asks.
        step_id: the place in the run that asks: a phase's id, or `{phase_id}_step_{n}`.
        checkpoint_type: why it asks, such as `after_planning`, `after_step`, `on_error`.
        context_snapshot: what to decide upon: `task`, `spent`, and for a plan `plan` and `estimate`.
        message: the question in words.
        options: the words that count as answers.
        id: the question's own id.
        created_at: unix seconds.
    """

    run_id: str
    step_id: str
    checkpoint_type: str
    context_snapshot: dict[str, Any]
    message: str
    options: list[str]
    id: str = field(default_factory=lambda: str(uuid.uuid4()))
    created_at: float = field(default_factory=time.time)

    def __repr__(self) -> str:
        return short_repr(self)

    def _repr_html_(self) -> str:
        from cmbagent import _pages

        return _pages.request_html(self)

    @property
    def plan(self) -> list[dict[str, Any]]:
        """The plan asked about, step by step; empty when the question is about something else."""
        try:
            return plans.checked(self.context_snapshot.get("plan"))
        except ConfigurationError:
            return []

    @property
    def spent(self) -> dict[str, Any] | None:
        """What the run has used: `calls`, `prompt_tokens`, `completion_tokens`, `cost` in dollars, …."""
        spent = self.context_snapshot.get("spent")
        return dict(spent) if isinstance(spent, Mapping) else None

    @property
    def estimate(self) -> dict[str, Any] | None:
        """What carrying out the plan may use; a guess, and labelled so.

        Returns:
            `calls`, `cost` in dollars (`None` where prices are not known) and `basis`, which says how it was
            reckoned; `None` when the question is not about a plan that is still to be carried out.
        """
        estimate = self.context_snapshot.get("estimate")
        return dict(estimate) if isinstance(estimate, Mapping) else None

    def accept(
        self, resolution: Any, user_feedback: str | None = None, modifications: Any = None
    ) -> ApprovalResult:
        """Check an answer.

        Args:
            resolution: an option of the question, or its past form (`approved`); an enum member stands for
                its value.
            user_feedback: words for the agents that follow.
            modifications: a mapping; a plan is expected under `plan`. A bare list of steps is taken for one.

        Raises:
            ConfigurationError: the word is none of the options, or the changed plan cannot be carried out.
        """
        word = option_of(resolution, self.options)
        if isinstance(modifications, list) and modifications:
            modifications = {"plan": modifications}
        if modifications is not None and not isinstance(modifications, Mapping):
            raise ConfigurationError(
                "modifications must be a mapping such as {'plan': [steps]}, "
                f"not {type(modifications).__name__}"
            )
        changes = dict(modifications or {})
        for name in ("plan", "final_plan"):
            if changes.get(name) is not None:
                changes[name] = plans.checked(changes[name])
        return ApprovalResult(word, (user_feedback or "").strip() or None, changes or None)


def option_of(word: Any, options: Iterable[str]) -> str:
    """Return the option a word stands for.

    Args:
        word: an option or its past form, in any case: `approve`, `Approved`; an enum member stands for its
            value.
        options: the words that count.

    Raises:
        ConfigurationError: it is none of them.
    """
    said = str(getattr(word, "value", word)).strip().lower()
    known = list(options)
    for option in known:
        if said == option.lower() or said in _past(option.lower()):
            return option
    raise ConfigurationError(f"the answer {said!r} is none of the options {known}; the question stays open")


def _past(option: str) -> tuple[str, ...]:
    # The engine counts the same forms.
    if option.endswith("y"):
        return (f"{option[:-1]}ied",)
    if option.endswith("e"):
        return (f"{option}d",)
    return (f"{option}ed", f"{option}{option[-1:]}ed")
