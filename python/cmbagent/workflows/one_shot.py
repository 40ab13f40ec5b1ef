"""Have one agent do a task at once, without a plan."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from cmbagent.utils import default_agents_llm_model, default_formatter_model
from cmbagent.utils import default_llm_model as _default_llm_model
from cmbagent.workflows._calls import MASSGEN_ARGUMENTS, RETRIEVAL_ARGUMENTS, Call, known_agent
from cmbagent.workflows.results import RunResult, one_shot_result

_MODELS = default_agents_llm_model
_IGNORED = MASSGEN_ARGUMENTS | RETRIEVAL_ARGUMENTS | {"inject_wrong_plot"}


def one_shot(
    task: str,
    max_rounds: int = 50,
    max_n_attempts: int = 3,
    engineer_model: str = _MODELS["engineer"],
    researcher_model: str = _MODELS["researcher"],
    web_surfer_model: str = _MODELS["web_surfer"],
    plot_judge_model: str = _MODELS["plot_judge"],
    camb_context_model: str = _MODELS["camb_context"],
    default_llm_model: str = _default_llm_model,
    default_formatter_model: str = default_formatter_model,
    researcher_filename: str | None = None,
    agent: str = "engineer",
    work_dir: str | os.PathLike[str] | None = None,
    api_keys: Any = None,
    clear_work_dir: bool = False,
    evaluate_plots: bool = False,
    max_n_plot_evals: int = 1,
    callbacks: Any = None,
    initial_agent: str | None = None,
    model: str | None = None,
    verbose: bool | None = None,
    options: Mapping[str, Any] | None = None,
    record: str | os.PathLike[str] | None = None,
    replay: str | os.PathLike[str] | None = None,
    strict: bool = False,
    resume: bool = False,
    limits: Mapping[str, Any] | None = None,
    **ignored: Any,
) -> RunResult:
    """Have one agent do a task at once.

    Args:
        task: the task, verbatim.
        max_rounds: upper limit of model calls.
        max_n_attempts: how often failing code is tried again.
        engineer_model: model of the engineer.
        researcher_model: model of the researcher.
        web_surfer_model: kept for older programs; no agent uses it.
        plot_judge_model: model that judges plots; where it takes no pictures, the engineer's does, or one
            of a provider that there is a key for.
        camb_context_model: model of `camb_context` and `classy_context`.
        default_llm_model: model of agents without a setting of their own.
        default_formatter_model: model that gives a second opinion when two attempts fail alike.
        researcher_filename: name of the researcher's file; `None`, or a sentence, lets the agent choose.
        agent: who does the task: `engineer`, `researcher`, `idea_maker`, `idea_hater`; `camb_context` and
            `classy_context` read the library's documentation, then the engineer goes on.
        work_dir: where files go; `None` means `cmbagent_output` in the current directory.
        api_keys: provider name → key, or any object that can be subscripted so; `None` reads the environment.
        clear_work_dir: `True` deletes the contents of `work_dir` first.
        evaluate_plots: have a model that takes pictures judge new plots; the engineer mends what it finds.
        max_n_plot_evals: how many scripts' plots are judged at most; later ones are accepted.
        callbacks: see `cmbagent.callbacks`.
        initial_agent: another name for `agent`.
        model: model of the agent, whichever it is.
        verbose: `True` shows the run, `False` does not, `None` leaves it to the environment.
        options: settings for every phase, see `WorkflowExecutor`.
        record: a new file in which every model call is written down, see `docs/replay.md`.
        replay: a file written so: calls are answered from it, without a model, a key or a network.
        strict: whether a request that differs from the recorded one is an error; else it is a warning.
        resume: go on with the run of the same task in `work_dir`, if there is one that a crash, a stop or an
            error has ended; one that is completed gives its results again.
        limits: what the run may take, such as `{"max_cost": 2.0, "max_llm_calls": 50}`, and how fast; see
            `docs/limits.md`. Reaching one raises `OverLimitError`; `resume=True` with a higher one goes on.
        **ignored: arguments of earlier versions without effect here; a warning names them.

    Returns:
        A dict with `chat_history`, `final_context`, `initialization_time` and `execution_time` (seconds),
        the agents (`engineer`, `researcher`, … with `name`, `info`, `llm_config`), `status`, `error`,
        `run_id` and more.

    Raises:
        CmbagentError: a model could not be reached, the agent is unknown, or an argument cannot be used.
    """
    arguments = locals()
    # One released version called these two parameters differently.
    for name in ("default_llm_model", "default_formatter_model"):
        arguments[name] = ignored.pop(f"{name}_arg", arguments[name])
    if not ignored.get("inject_wrong_plot"):
        ignored.pop("inject_wrong_plot", None)
    agent = arguments["agent"] = known_agent(initial_agent or agent)
    call = Call(one_shot, arguments, _IGNORED)
    executor = call.run("one_shot", "One Shot", [call.phase("one_shot", {"fail_softly": True})])
    return one_shot_result(
        executor,
        {
            "engineer": (model if agent == "engineer" else None) or engineer_model,
            "engineer_response_formatter": None,
            "researcher": (model if agent == "researcher" else None) or researcher_model,
            "researcher_response_formatter": None,
            "plot_judge": plot_judge_model,
            "plot_debugger": None,
        },
    )
