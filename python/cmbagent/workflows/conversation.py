"""Work on a task with an agent in turns."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from cmbagent.phases.conversation import ConversationConfig
from cmbagent.workflows._calls import MASSGEN_ARGUMENTS, RETRIEVAL_ARGUMENTS, Call, known_agent
from cmbagent.workflows.results import RunResult, conversation_result


def human_in_the_loop(
    task: str,
    work_dir: str | os.PathLike[str] | None = None,
    max_rounds: int = 50,
    max_n_attempts: int = 3,
    engineer_model: str = ConversationConfig.engineer_model,
    researcher_model: str = ConversationConfig.researcher_model,
    web_surfer_model: str = ConversationConfig.engineer_model,
    agent: str = "engineer",
    api_keys: Any = None,
    *,
    approval_manager: Any = None,
    clear_work_dir: bool = False,
    callbacks: Any = None,
    initial_agent: str | None = None,
    options: Mapping[str, Any] | None = None,
    verbose: bool | None = None,
    record: str | os.PathLike[str] | None = None,
    replay: str | os.PathLike[str] | None = None,
    strict: bool = False,
    resume: bool = False,
    limits: Mapping[str, Any] | None = None,
    **ignored: Any,
) -> RunResult:
    """Work on a task with an agent: after each of its turns, say what comes next or that it is done.

    Args:
        task: the task, verbatim.
        work_dir: where files go; `None` means `cmbagent_output` in the current directory.
        max_rounds: upper limit of model calls, all turns together.
        max_n_attempts: how often failing code is tried again in a turn.
        engineer_model: model of the engineer.
        researcher_model: model of the researcher.
        web_surfer_model: kept for older programs; no agent uses it.
        agent: who works on the task, such as `engineer` or `researcher`.
        api_keys: provider name → key, or any object that can be subscripted so; `None` reads the environment.
        approval_manager: asks the human: `continue`, with what to do next as feedback, or `approve`. `None`
            asks at the terminal or notebook; where nobody sits, there is one turn.
        clear_work_dir: `True` deletes the contents of `work_dir` first.
        callbacks: see `cmbagent.callbacks`.
        initial_agent: another name for `agent`.
        options: settings for every phase, see `WorkflowExecutor`.
        verbose: `True` shows the run, `False` does not, `None` leaves it to the environment.
        record: a new file in which every model call is written down, see `docs/replay.md`.
        replay: a file written so: calls are answered from it, without a model, a key or a network.
        strict: whether a request that differs from the recorded one is an error; else it is a warning.
        resume: go on with the run of the same task in `work_dir`, if there is one that a crash, a stop or an
            error has ended; one that is completed gives its results again.
        limits: what the run may take, such as `{"max_cost": 2.0}`, and how fast; see `docs/limits.md`.
        **ignored: arguments of earlier versions without effect here; a warning names them.

    Returns:
        A dict with `chat_history` (all turns; what the human said has the name `admin`), `final_context`,
        `initialization_time` and `execution_time` (seconds), the agents (`engineer`, `researcher`, …),
        `status`, `error`, `run_id` and more.

    Raises:
        ValueError: there is no such agent; the text names the nearest.
        CmbagentError: a model could not be reached in the first turn, or an argument cannot be used.
    """
    arguments = {**locals(), "agent": known_agent(initial_agent or agent)}
    call = Call(human_in_the_loop, arguments, MASSGEN_ARGUMENTS | RETRIEVAL_ARGUMENTS)
    executor = call.run("human_in_the_loop", "Human in the Loop", [call.phase("conversation")])
    return conversation_result(executor, engineer_model, researcher_model)
