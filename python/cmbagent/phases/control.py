"""The control phase: the steps of a plan are carried out, one after the other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from cmbagent.phases._builtin import BuiltinPhase
from cmbagent.phases.base import PhaseConfig


@dataclass
class ControlPhaseConfig(PhaseConfig):
    """Settings of the control phase.

    Attributes:
        max_rounds: upper limit of model calls in a step.
        max_n_attempts: how often failing code is tried again.
        execute_all_steps: run the whole plan; otherwise only step `step_number`.
        step_number: the step to run, 1-based.
        hitl_enabled: ask the human after each step, and when a step fails.
        hitl_after_each_step: ask the human after each step.
        engineer_model: model that writes code.
        researcher_model: model that writes text.
        web_surfer_model: kept for older programs; no agent uses it.
        retrieve_assistant_model: kept for older programs; no agent uses it.
        idea_maker_model: model that makes ideas.
        idea_hater_model: model that criticises them.
        camb_context_model: model of `camb_context` and `classy_context`.
        plot_judge_model: model that judges plots; where it is known to take no pictures, the engineer's
            does, or one of a provider that there is a key for. `params["vlm_model"]` outranks it.
        engineer_instructions: the user's wishes for the engineer.
        researcher_instructions: the user's wishes for the researcher.
        evaluate_plots: have a model that takes pictures judge new plots; the engineer mends what it finds.
        max_n_plot_evals: how many scripts' plots are judged in a step at most; later ones are accepted.
    """

    phase_type: str = "control"
    max_rounds: int = 100
    max_n_attempts: int = 3
    execute_all_steps: bool = True
    step_number: int | None = None
    hitl_enabled: bool = False
    hitl_after_each_step: bool = False
    engineer_model: str = "gpt-4.1-2025-04-14"
    researcher_model: str = "gpt-4.1-2025-04-14"
    web_surfer_model: str = "gpt-4.1-2025-04-14"
    retrieve_assistant_model: str = "gpt-4.1-2025-04-14"
    idea_maker_model: str = "gpt-4.1-2025-04-14"
    idea_hater_model: str = "o3-mini-2025-01-31"
    camb_context_model: str = "gpt-4.1-2025-04-14"
    plot_judge_model: str = "o3-mini-2025-01-31"
    engineer_instructions: str = ""
    researcher_instructions: str = ""
    evaluate_plots: bool = False
    max_n_plot_evals: int = 1


class ControlPhase(BuiltinPhase):
    """Carry out the plan found in the input, in `shared_state` or in `config.params['preloaded_plan']`."""

    config_class: ClassVar[type[PhaseConfig] | None] = ControlPhaseConfig
    _native_type: ClassVar[str] = "control"
    _output: ClassVar[dict[str, tuple[str, str]]] = {
        "step_results": ("array", "per step: step, context, summary, status and durations in seconds"),
        "final_context": ("object", "the state after the last step"),
        "step_summaries": ("array", "what each step found, as text"),
        "output_files": ("array", "absolute paths of the files made"),
        "status": ("string", "completed or failed"),
        "error": ("string", "why the steps ended early"),
        "shared": ("object", "execution_complete, final_context"),
    }

    @property
    def phase_type(self) -> str:
        """`control`."""
        return "control"

    @property
    def display_name(self) -> str:
        """`Execution`."""
        return "Execution"

    def get_required_agents(self) -> list[str]:
        """Return the agents of the phase, under the names older programs know."""
        return ["control", "control_starter", "engineer", "researcher"]
