"""The idea phase: research ideas are made, criticised and one is selected."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from cmbagent.phases._builtin import BuiltinPhase
from cmbagent.phases.base import PhaseConfig


@dataclass
class IdeaGenerationPhaseConfig(PhaseConfig):
    """Settings of the idea phase.

    Attributes:
        max_rounds: upper limit of model calls.
        n_ideas: how many ideas are made.
        n_reviews: how often they are criticised and improved.
        idea_maker_model: model that makes ideas.
        idea_hater_model: model that criticises them.
    """

    phase_type: str = "idea_generation"
    max_rounds: int = 50
    n_ideas: int = 3
    n_reviews: int = 1
    idea_maker_model: str = "gpt-4.1-2025-04-14"
    idea_hater_model: str = "o3-mini-2025-01-31"


class IdeaGenerationPhase(BuiltinPhase):
    """Make and review research ideas on the task, and select one."""

    config_class: ClassVar[type[PhaseConfig] | None] = IdeaGenerationPhaseConfig
    _native_type: ClassVar[str] = "idea_generation"
    _output: ClassVar[dict[str, tuple[str, str]]] = {
        "ideas": ("array", "the ideas"),
        "reviews": ("array", "what the critic said"),
        "selected_idea": ("object", "the idea to go on with"),
        "idea_context": ("object", "the state at the end"),
        "shared": ("object", "ideas, selected_idea"),
    }

    @property
    def phase_type(self) -> str:
        """`idea_generation`."""
        return "idea_generation"

    @property
    def display_name(self) -> str:
        """`Generate Ideas`."""
        return "Generate Ideas"

    def get_required_agents(self) -> list[str]:
        """Return the agents of the phase, under the names older programs know."""
        return ["idea_maker", "idea_hater", "idea_setter"]
