"""What the functions return: dicts whose keys can be read as attributes too."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from cmbagent import _core

if TYPE_CHECKING:
    from cmbagent.phases.base import PhaseResult
    from cmbagent.workflows.composer import WorkflowExecutor


class Result(dict[str, Any]):
    """A dict whose items are attributes as well."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"no result named {name!r}; there are {', '.join(map(str, self))}") from None


class RunResult(Result):
    """What a function that runs a workflow returns.

    A notebook shows what came of the run; `print` still shows all of it.
    """

    def _repr_html_(self) -> str:
        from cmbagent import _pages

        return _pages.outcome_html(self)

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        printer.text(f"<{self.get('status') or 'run'}: {', '.join(self)}>")


class FinalContext(Result):
    """The state at the end of a run, as callers read it: `[]`, `.get`, `.data`, `.to_dict()`."""

    @property
    def data(self) -> dict[str, Any]:
        """The context itself."""
        return self

    def to_dict(self) -> dict[str, Any]:
        """Return the context as a plain dict."""
        return dict(self)


class AgentInfo(Result):
    """An agent: `name`, `info` (its name and description), `llm_config` (its model), `cost_dict`."""

    @property
    def agent(self) -> AgentInfo:
        """The agent itself: programs for earlier versions look through a wrapper here."""
        return self


# Agents that models have no part in: what they say in a transcript is rendered.
_RENDERED = {
    "engineer_nest": "runs the engineer's scripts",
    "engineer_response_formatter": "renders the engineer's answers",
    "researcher_response_formatter": "renders the researcher's answers",
    "planner_response_formatter": "renders the planner's answers",
    "idea_maker_nest": "keeps the idea maker's lists",
    "idea_maker_response_formatter": "renders the idea maker's lists",
    "idea_hater_response_formatter": "renders the idea hater's lists",
    "executor": "runs scripts",
    "plot_judge": "judges plots",
    "plot_debugger": "says how to mend plots",
}


# Agents that work in no workflow; `CMBAgent.solve` may begin with one.
KEYWORD_FINDERS = {
    "aas_keyword_finder": "chooses keywords of the AAS journals",
    "aaai_keywords_finder": "chooses keywords of the AAAI conference",
    "list_keywords_finder": "chooses keywords from a list, or else of the UNESCO nomenclature",
}


def agent_names() -> list[str]:
    """Return the names of all agents, those whose messages are only rendered last."""
    known = [agent["name"] for agent in _core.roster()]
    return known + [name for name in (*KEYWORD_FINDERS, *_RENDERED) if name not in known]


def agents(models: Mapping[str, str | None], costs: Iterable[Mapping[str, Any]] = ()) -> dict[str, AgentInfo]:
    """Describe agents.

    Args:
        models: agent name → the model it uses; `None` where it uses none.
        costs: rows of a cost report, for `cost_dict`.
    """
    abilities = {agent["name"]: agent["abilities"] for agent in _core.roster()}
    rows = list(costs)
    return {
        name: AgentInfo(
            name=name,
            info={
                "name": name,
                "description": abilities.get(name) or {**KEYWORD_FINDERS, **_RENDERED}.get(name, ""),
            },
            llm_config={"model": model, "config_list": [{"model": model}]} if model else None,
            cost_dict=_cost_dict([row for row in rows if row.get("Agent") == name.replace("_", " ")]),
        )
        for name, model in models.items()
    }


def _cost_dict(rows: list[Mapping[str, Any]]) -> dict[str, list[Any]]:
    columns = {"Cost": "Cost ($)"}
    names = ("Agent", "Model", "Cost", "Prompt Tokens", "Completion Tokens", "Total Tokens")
    return {name: [row.get(columns.get(name, name)) for row in rows] for name in names}


def control_result(executor: WorkflowExecutor, *, planned: bool) -> RunResult:
    """Build the result of a run that ended with a control phase.

    Args:
        executor: the executor after its run.
        planned: whether a planning phase belongs to the function that was called.

    Returns:
        `chat_history` (all steps), `final_context`, `status`, `error`, timings in seconds, and what else
        the run produced; see `README.md`.
    """
    control = _find(executor, "control")
    planning = _find(executor, "planning")
    output = control.output_data if control else {}
    steps = output.get("step_results") or []
    last = steps[-1] if steps else {}
    result = _common(executor, control)
    result["chat_history"] = list(control.chat_history) if control else []
    result["final_context"] = FinalContext(output.get("final_context") or {})
    for name in ("initialization_time", "execution_time"):
        if name in last:
            result[f"{name}_control"] = last[name]
    result["step_results"] = steps
    result["step_summaries"] = output.get("step_summaries") or []
    if planned:
        result["planning_chat_history"] = list(planning.chat_history) if planning else []
        if planning:
            result["initialization_time_planning"] = planning.timing.get("initialization", 0.0)
            result["execution_time_planning"] = planning.timing.get("total", 0.0)
    result["plan"] = executor.context.plan
    return result


def idea_result(executor: WorkflowExecutor) -> RunResult:
    """Build the result of a run that made ideas.

    Args:
        executor: the executor after its run.

    Returns:
        `ideas`, `reviews`, `selected_idea` (as a human left it), `chat_history`, `final_context`, and what
        else the run produced.
    """
    phase = _find(executor, "idea_generation")
    output = phase.output_data if phase else {}
    selected = executor.context.shared_state.get("selected_idea") or output.get("selected_idea")
    result = _common(executor, phase)
    result["chat_history"] = list(phase.chat_history) if phase else []
    result["ideas"] = output.get("ideas") or []
    result["reviews"] = output.get("reviews") or []
    result["selected_idea"] = selected
    result["final_context"] = FinalContext({**(output.get("final_context") or {}), "selected_idea": selected})
    return result


def whole_control_times(result: RunResult) -> RunResult:
    """Replace the last step's times by those of all steps together."""
    for name in ("initialization_time", "execution_time"):
        times = [step[name] for step in result["step_results"] if name in step]
        if times:
            result[f"{name}_control"] = sum(times)
    return result


def one_shot_result(
    executor: WorkflowExecutor, models: Mapping[str, str | None], phase_type: str = "one_shot"
) -> RunResult:
    """Build the result of a one-shot run.

    Args:
        executor: the executor after its run.
        models: the agents to describe, with their models.
        phase_type: the phase that did the work.

    Returns:
        `chat_history`, `final_context`, the agents by name, `initialization_time` and `execution_time` in
        seconds, `status`, `error`, and what else the run produced.
    """
    phase = _find(executor, phase_type)
    output = phase.output_data if phase else {}
    result = _common(executor, phase)
    result["chat_history"] = list(phase.chat_history or output.get("chat_history") or []) if phase else []
    result["final_context"] = FinalContext(output.get("result") or {})
    result["initialization_time"] = output.get("initialization_time", 0.0)
    result["execution_time"] = output.get("execution_time", 0.0)
    result.update(agents(models, result["final_context"].get("cost_dataframe") or ()))
    return result


def conversation_result(executor: WorkflowExecutor, engineer: str, researcher: str) -> RunResult:
    """Build the result of a conversation: that of a one-shot run, with the messages of all turns.

    Args:
        executor: the executor after its run.
        engineer: the engineer's model.
        researcher: the researcher's model.
    """
    models = {
        "engineer": engineer,
        "engineer_nest": None,
        "engineer_response_formatter": None,
        "researcher": researcher,
        "researcher_response_formatter": None,
    }
    return one_shot_result(executor, models, "conversation")


def _common(executor: WorkflowExecutor, last: PhaseResult | None) -> RunResult:
    context = executor.context
    output = last.output_data if last else {}
    return RunResult(
        chat_history=[],
        final_context=FinalContext(),
        status=output.get("status") or executor.outcome,
        error=output.get("error") or (last.error if last else None),
        run_id=context.run_id,
        workflow_id=context.workflow_id,
        phase_timings=dict(context.phase_timings),
        total_time=context.phase_timings.get("total", 0.0),
        output_files=list(context.output_files),
        work_dir=context.work_dir,
    )


def _find(executor: WorkflowExecutor, phase_type: str) -> PhaseResult | None:
    found = [r for r in executor.results if executor.phase_type_of(r) == phase_type]
    return found[-1] if found else None
