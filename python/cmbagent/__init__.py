"""Agent workflows for science: plan, review, write code, run it on this machine, report.

The names below are loaded when they are first used, so that `import cmbagent` costs next to nothing.
Importing has no side effects: nothing is printed, no logging is configured, no directory is made, no key
is read.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from cmbagent import _former

if TYPE_CHECKING:
    from cmbagent._core import __version__
    from cmbagent._former import make_rag_agents, print_cmbagent_logo
    from cmbagent.agent import CMBAgent
    from cmbagent.callbacks import (
        PlanInfo,
        StepInfo,
        StepStatus,
        WorkflowCallbacks,
        WorkflowPhase,
        create_null_callbacks,
        create_print_callbacks,
        merge_callbacks,
    )
    from cmbagent.documents import (
        arxiv_filter,
        preprocess_task,
        process_folder,
        process_single_pdf,
        summarize_document,
        summarize_documents,
    )
    from cmbagent.errors import CmbagentError
    from cmbagent.keywords import (
        get_aas_keywords,
        get_keywords,
        get_keywords_from_aaai,
        get_keywords_from_string,
    )
    from cmbagent.utils import get_api_keys_from_env, get_model_config, work_dir_default
    from cmbagent.workflows import (
        SYSTEM_WORKFLOWS,
        WorkflowDefinition,
        WorkflowExecutor,
        clean_work_dir,
        get_workflow,
        list_workflows,
        load_context,
        load_plan,
    )
    from cmbagent.workflows._resume import resume
    from cmbagent.workflows.control import control
    from cmbagent.workflows.conversation import human_in_the_loop
    from cmbagent.workflows.one_shot import one_shot
    from cmbagent.workflows.planning_control import (
        deep_research,
        planning_and_control,
        planning_and_control_context_carryover,
    )

_HOMES = {
    "__version__": "_core",
    "CMBAgent": "agent",
    "CmbagentError": "errors",
    "PlanInfo": "callbacks",
    "StepInfo": "callbacks",
    "StepStatus": "callbacks",
    "WorkflowCallbacks": "callbacks",
    "WorkflowPhase": "callbacks",
    "create_null_callbacks": "callbacks",
    "create_print_callbacks": "callbacks",
    "merge_callbacks": "callbacks",
    "arxiv_filter": "documents",
    "preprocess_task": "documents",
    "process_folder": "documents",
    "process_single_pdf": "documents",
    "summarize_document": "documents",
    "summarize_documents": "documents",
    "get_aas_keywords": "keywords",
    "get_keywords": "keywords",
    "get_keywords_from_aaai": "keywords",
    "get_keywords_from_string": "keywords",
    "human_in_the_loop": "workflows",
    "make_rag_agents": "_former",
    "print_cmbagent_logo": "_former",
    "get_api_keys_from_env": "utils",
    "get_model_config": "utils",
    "work_dir_default": "utils",
    "SYSTEM_WORKFLOWS": "workflows",
    "WorkflowDefinition": "workflows",
    "WorkflowExecutor": "workflows",
    "clean_work_dir": "workflows",
    "control": "workflows",
    "deep_research": "workflows",
    "get_workflow": "workflows",
    "idea_generation": "workflows",
    "idea_to_execution": "workflows",
    "list_workflows": "workflows",
    "load_context": "workflows",
    "load_plan": "workflows",
    "one_shot": "workflows",
    "planning_and_control": "workflows",
    "planning_and_control_context_carryover": "workflows",
    "resume": "workflows._resume",
}

__all__ = [
    "SYSTEM_WORKFLOWS",
    "CMBAgent",
    "CmbagentError",
    "PlanInfo",
    "StepInfo",
    "StepStatus",
    "WorkflowCallbacks",
    "WorkflowDefinition",
    "WorkflowExecutor",
    "WorkflowPhase",
    "__version__",
    "arxiv_filter",
    "clean_work_dir",
    "control",
    "create_null_callbacks",
    "create_print_callbacks",
    "deep_research",
    "get_aas_keywords",
    "get_api_keys_from_env",
    "get_keywords",
    "get_keywords_from_aaai",
    "get_keywords_from_string",
    "get_model_config",
    "get_workflow",
    "human_in_the_loop",
    "idea_generation",
    "idea_to_execution",
    "list_workflows",
    "load_context",
    "load_plan",
    "make_rag_agents",
    "merge_callbacks",
    "one_shot",
    "planning_and_control",
    "planning_and_control_context_carryover",
    "preprocess_task",
    "print_cmbagent_logo",
    "process_folder",
    "process_single_pdf",
    "resume",
    "summarize_document",
    "summarize_documents",
    "work_dir_default",
]

_former.put_up_signpost()

# Their value may change between two uses, so they are looked up every time.
_CHANGING = frozenset({"work_dir_default"})


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(_former.missing(__name__, name))
    value = getattr(importlib.import_module(f"{__name__}.{home}"), name)
    if name not in _CHANGING:
        globals()[name] = value
    return value


def __dir__() -> list[str]:
    # What completion offers: the names that are meant to be used, and the modules loaded so far.
    modules = {name for name, value in globals().items() if isinstance(value, type(importlib))}
    return sorted(
        {*__all__, *modules, *(name for name in globals() if name.startswith("__"))} - {"importlib"}
    )
