"""Names of earlier versions whose work is no longer done, and what does it now."""

from __future__ import annotations

import sys
import warnings
from typing import Any

_DIALOGUE = "use human_in_the_loop() or hitl_interactive_workflow(), which ask a human between turns or steps"
_SWARM = "use planning_and_control_context_carryover(), or a WorkflowDefinition of your own phases"
_RECORDS = "what is known of runs is in cmbagent.store.Store, and a server's in its REST API"
_SEARCH = "give documents to a run with preprocess_task(), or as text in the task"

GONE = {
    "cmbagent.branching": "resume() goes on with a run, and restart_at_step= begins anew at an earlier step",
    "cmbagent.chat": _DIALOGUE,
    "cmbagent.config": "settings are arguments of the functions, and options= of all phases",
    "cmbagent.copilot": _DIALOGUE,
    "cmbagent.copilot_async": _DIALOGUE,
    "cmbagent.database.base": _RECORDS,
    "cmbagent.database.models": _RECORDS,
    "cmbagent.database.repository": _RECORDS,
    "cmbagent.database.session_manager": _RECORDS,
    "cmbagent.database.states": _RECORDS,
    "cmbagent.interactive_session": _DIALOGUE,
    "cmbagent.llm_provider": "models are reached by their names: get_model_config() says how, and "
    "agent_llm_configs, OPENAI_BASE_URL, ANTHROPIC_BASE_URL and GEMINI_BASE_URL lead elsewhere",
    "cmbagent.orchestrator": "a WorkflowExecutor runs phases, and its run() may be awaited beside others",
    "cmbagent.planned_task": "use planning_and_control_context_carryover()",
    "cmbagent.quick_task": "use one_shot()",
    "cmbagent.rag_utils": _SEARCH,
    "cmbagent.task_framework": _SWARM,
    "cmbagent.workflows.continue_swarm_copilot": _DIALOGUE,
    "cmbagent.workflows.copilot": _DIALOGUE,
    "cmbagent.workflows.full_swarm": _SWARM,
    "cmbagent.workflows.interactive_swarm": _DIALOGUE,
    "cmbagent.workflows.quick_swarm": "use one_shot()",
    "cmbagent.workflows.swarm_copilot": _DIALOGUE,
    "cmbagent.workflows.swarm_copilot_async": _DIALOGUE,
}
"""Modules and functions that this version does not have: their paths, and what to do."""


def missing(module: str, name: str) -> str:
    """Return what is said of a name that a module does not have."""
    instead = GONE.get(f"{module}.{name}")
    more = f"; it is no part of this version: {instead}" if instead else ""
    return f"module {module!r} has no attribute {name!r}{more}"


class _Signpost:
    """Says what to do when a module is imported that is gone; asked after everybody else."""

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> None:
        if fullname in GONE:
            raise ImportError(f"{fullname} is no part of this version: {GONE[fullname]}", name=fullname)


def put_up_signpost() -> None:
    """Have imports of what is gone fail with words; a second time changes nothing."""
    if not any(type(finder).__name__ == _Signpost.__name__ for finder in sys.meta_path):
        sys.meta_path.append(_Signpost())


def print_cmbagent_logo() -> None:
    """Print the package's name and version; nothing is shown at import any more."""
    from cmbagent import _core

    sys.stdout.write(f"cmbagent {_core.__version__}\n")


def make_rag_agents(make_new_rag_agents: Any = None) -> None:
    """Do nothing but say so: agents over vector stores are not part of this version.

    Args:
        make_new_rag_agents: the names of the agents wanted.
    """
    warnings.warn(
        f"make_rag_agents({make_new_rag_agents!r}) makes no agents: this version has no vector stores. "
        f"{_SEARCH.capitalize()}",
        UserWarning,
        stacklevel=2,
    )
