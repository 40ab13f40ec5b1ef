"""API keys, default models and the default work directory.

Everything lives in `cmbagent.utils.utils` and is available from here too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cmbagent.utils import utils as _utils
from cmbagent.utils.utils import (
    API_KEY_VARIABLES,
    default_agents_llm_model,
    default_formatter_model,
    default_llm_model,
    default_max_round,
    default_temperature,
    default_top_p,
    get_api_keys_from_env,
    get_model_config,
    resolve_work_dir,
)

if TYPE_CHECKING:
    from pathlib import Path

    AAS_keywords_dict: dict[str, str]
    AAS_keywords_string: str
    default_agent_llm_configs: dict[str, dict[str, Any]]
    default_llm_config_list: list[dict[str, Any]]
    work_dir_default: Path

__all__ = [
    "API_KEY_VARIABLES",
    "AAS_keywords_dict",
    "AAS_keywords_string",
    "default_agent_llm_configs",
    "default_agents_llm_model",
    "default_formatter_model",
    "default_llm_config_list",
    "default_llm_model",
    "default_max_round",
    "default_temperature",
    "default_top_p",
    "get_api_keys_from_env",
    "get_model_config",
    "resolve_work_dir",
    "work_dir_default",
]


def __getattr__(name: str) -> Any:
    if name in _utils._LATE:
        return getattr(_utils, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
