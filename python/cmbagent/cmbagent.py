"""The functions under the module path that older programs import them from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cmbagent import utils as _utils
from cmbagent.agent import CMBAgent
from cmbagent.documents import preprocess_task, summarize_document, summarize_documents
from cmbagent.keywords import (
    get_aas_keywords,
    get_keywords,
    get_keywords_from_aaai,
    get_keywords_from_string,
)
from cmbagent.utils import get_api_keys_from_env, get_model_config
from cmbagent.workflows import (
    clean_work_dir,
    control,
    deep_research,
    human_in_the_loop,
    load_context,
    load_plan,
    one_shot,
    planning_and_control,
    planning_and_control_context_carryover,
)

if TYPE_CHECKING:
    from cmbagent.utils import work_dir_default

__all__ = [
    "CMBAgent",
    "clean_work_dir",
    "control",
    "deep_research",
    "get_aas_keywords",
    "get_api_keys_from_env",
    "get_keywords",
    "get_keywords_from_aaai",
    "get_keywords_from_string",
    "get_model_config",
    "human_in_the_loop",
    "load_context",
    "load_plan",
    "one_shot",
    "planning_and_control",
    "planning_and_control_context_carryover",
    "preprocess_task",
    "summarize_document",
    "summarize_documents",
    "work_dir_default",
]


def __getattr__(name: str) -> Any:
    if name == "work_dir_default":
        return _utils.work_dir_default
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
