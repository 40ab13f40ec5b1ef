"""API keys from the environment, default models, the default work directory.

Nothing is read and nothing is created when this module is imported.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cmbagent.errors import MissingKeyError

if TYPE_CHECKING:
    AAS_keywords_dict: dict[str, str]
    AAS_keywords_string: str
    default_agent_llm_configs: dict[str, dict[str, Any]]
    default_llm_config_list: list[dict[str, Any]]
    work_dir_default: Path

API_KEY_VARIABLES = {
    "OPENAI": "OPENAI_API_KEY",
    "GEMINI": "GEMINI_API_KEY",
    "ANTHROPIC": "ANTHROPIC_API_KEY",
    "MISTRAL": "MISTRAL_API_KEY",
}
"""Provider name, as used in `api_keys`, and the environment variable that holds its key."""

_WRITER = "gpt-4.1-2025-04-14"
_REASONER = "o3-mini-2025-01-31"
_TOOL_USER = "gpt-4o-2024-11-20"

default_llm_model = _WRITER
default_formatter_model = _REASONER
default_max_round = 50
default_temperature = 0.00001
default_top_p = 0.05

default_agents_llm_model = {
    "engineer": _WRITER,
    "researcher": _WRITER,
    "planner": _WRITER,
    "idea_maker": _WRITER,
    "camb_context": _WRITER,
    "web_surfer": _WRITER,
    "retrieve_assistant": _WRITER,
    "summarizer": _WRITER,
    "plan_reviewer": _REASONER,
    "idea_hater": _REASONER,
    "plot_judge": _REASONER,
    "aas_keyword_finder": _REASONER,
    "aaai_keywords_finder": _WRITER,
    "list_keywords_finder": _WRITER,
    "task_improver": _REASONER,
    "perplexity": _REASONER,
    "summarizer_response_formatter": _REASONER,
    "task_recorder": _TOOL_USER,
    "plot_debugger": _TOOL_USER,
    "classy_sz": _TOOL_USER,
    "camb": _TOOL_USER,
    "classy": _TOOL_USER,
    "cobaya": _TOOL_USER,
    "planck": _TOOL_USER,
}
"""Agent name and the model it uses when the caller names none."""


def get_api_keys_from_env() -> dict[str, str | None]:
    """Read the API keys of all providers from the environment, now.

    Returns:
        A dict with exactly the keys OPENAI, GEMINI, ANTHROPIC and MISTRAL, from the variables
        `<NAME>_API_KEY`; `None` where a variable is unset.
    """
    return {provider: os.environ.get(variable) for provider, variable in API_KEY_VARIABLES.items()}


def get_model_config(model: str, api_keys: Any = None) -> dict[str, Any]:
    """Say how a model is reached, chosen by its name.

    Names are matched by what they contain, never against a fixed list: `o3` and everything unknown speak
    OpenAI's dialect (local servers too), `gemini` Google's, `claude` Anthropic's.

    Args:
        model: model name, in short or dated form.
        api_keys: anything that can be subscripted with a provider name; `None` reads the environment.
            Only the provider of this model is looked up.

    Returns:
        A dict with `model`, `api_key` and `api_type`, and `reasoning_effort` for o3 models.

    Raises:
        MissingKeyError: `api_keys` has no entry for the provider.
    """
    if "o3" in model:
        return {**_config(model, "OPENAI", "openai", api_keys), "reasoning_effort": "medium"}
    if "gemini" in model:
        return _config(model, "GEMINI", "google", api_keys)
    if "claude" in model:
        return _config(model, "ANTHROPIC", "anthropic", api_keys)
    return _config(model, "OPENAI", "openai", api_keys)


def _config(model: str, provider: str, api_type: str, api_keys: Any) -> dict[str, Any]:
    keys = get_api_keys_from_env() if api_keys is None else api_keys
    try:
        key = keys[provider]
    except (KeyError, AttributeError) as error:
        # Key holders are often no dicts: those that map names to attributes answer with AttributeError.
        raise MissingKeyError(
            f"model {model!r} needs the key {provider!r}, which api_keys does not have; "
            f"pass api_keys={{{provider!r}: ...}} or set {API_KEY_VARIABLES[provider]}"
        ) from error
    return {"model": model, "api_key": key, "api_type": api_type}


def resolve_work_dir(work_dir: str | os.PathLike[str] | None) -> str:
    """Turn a caller's work directory into an absolute path; nothing is created.

    Args:
        work_dir: path, relative or with `~`; `None` or empty means `work_dir_default`.

    Returns:
        The absolute path as a string.
    """
    path = Path(work_dir) if work_dir else _default_work_dir()
    return os.path.abspath(path.expanduser())  # noqa: PTH100 - resolve() would follow the user's links


def _default_work_dir() -> Path:
    return Path.cwd() / "cmbagent_output"


def _aas_keywords() -> dict[str, str]:
    from cmbagent.keywords import vocabulary

    return dict(vocabulary.aas())


# Asked for at each use, so that nothing is read before it is wanted, and the default directory follows the
# current one instead of the one at import.
_LATE: dict[str, Callable[[], Any]] = {
    "AAS_keywords_dict": _aas_keywords,
    "AAS_keywords_string": lambda: ", ".join(_aas_keywords()),
    "default_agent_llm_configs": lambda: {
        agent: get_model_config(model) for agent, model in default_agents_llm_model.items()
    },
    "default_llm_config_list": lambda: [get_model_config(default_llm_model)],
    "work_dir_default": _default_work_dir,
}


def __getattr__(name: str) -> Any:
    if name in _LATE:
        return _LATE[name]()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
