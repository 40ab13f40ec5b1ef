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

    work_dir_default: Path

__all__ = [
    "API_KEY_VARIABLES",
    "default_agents_llm_model",
    "default_formatter_model",
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
    if name == "work_dir_default":
        return _utils.work_dir_default
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
