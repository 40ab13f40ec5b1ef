"""The one-shot phase: one agent does the task without a plan."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from cmbagent.phases._builtin import BuiltinPhase
from cmbagent.phases.base import PhaseConfig


@dataclass
class OneShotPhaseConfig(PhaseConfig):
    """Settings of the one-shot phase.

    Attributes:
        max_rounds: upper limit of model calls.
        max_n_attempts: how often failing code is tried again.
        agent: who does the task.
        evaluate_plots: have a model that takes pictures judge new plots; the engineer mends what it finds.
        model: model of `agent`, unless `model_overrides` names one.
        engineer_model: model that writes code.
        researcher_model: model that writes text.
        web_surfer_model: kept for older programs; no agent uses it.
        plot_judge_model: model that judges plots; where it is known to take no pictures, the engineer's
            does, or one of a provider that there is a key for. `params["vlm_model"]` outranks it.
        camb_context_model: model of `camb_context` and `classy_context`.
        default_llm_model: model of agents without a setting of their own.
        default_formatter_model: model that gives a second opinion when two attempts fail alike.
        max_n_plot_evals: how many scripts' plots are judged at most; later ones are accepted.
        researcher_filename: name of the researcher's file; empty lets the text's heading decide.
        clear_work_dir: kept for older programs; a phase deletes nothing, the function `one_shot` does.
    """

    phase_type: str = "one_shot"
    max_rounds: int = 50
    max_n_attempts: int = 3
    agent: str = "engineer"
    evaluate_plots: bool = False
    model: str | None = None
    engineer_model: str = "gpt-4.1-2025-04-14"
    researcher_model: str = "gpt-4.1-2025-04-14"
    web_surfer_model: str = "gpt-4.1-2025-04-14"
    plot_judge_model: str = "o3-mini-2025-01-31"
    camb_context_model: str = "gpt-4.1-2025-04-14"
    default_llm_model: str = "gpt-4.1-2025-04-14"
    default_formatter_model: str = "o3-mini-2025-01-31"
    max_n_plot_evals: int = 1
    researcher_filename: str = "researcher_output.md"
    clear_work_dir: bool = False

    def __post_init__(self) -> None:
        """Let `model` count for the agent."""
        if self.model:
            self.model_overrides = {self.agent: self.model, **self.model_overrides}


class OneShotPhase(BuiltinPhase):
    """Have one agent do the task at once."""

    config_class: ClassVar[type[PhaseConfig] | None] = OneShotPhaseConfig
    _native_type: ClassVar[str] = "one_shot"
    _output: ClassVar[dict[str, tuple[str, str]]] = {
        "result": ("object", "the state at the end"),
        "chat_history": ("array", "the messages exchanged"),
        "output_files": ("array", "absolute paths of the files made"),
        "execution_time": ("number", "seconds of work"),
        "initialization_time": ("number", "seconds of preparation"),
        "shared": ("object", "execution_complete"),
    }

    @property
    def phase_type(self) -> str:
        """`one_shot`."""
        return "one_shot"

    @property
    def display_name(self) -> str:
        """`Execute` and the agent."""
        return f"Execute ({self.config.agent})"

    def get_required_agents(self) -> list[str]:
        """Return the one agent of the phase."""
        return [self.config.agent]
