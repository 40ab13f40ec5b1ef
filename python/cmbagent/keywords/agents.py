"""The agents that choose keywords, as programs for earlier versions begin with them in `CMBAgent.solve`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cmbagent import _core, keywords
from cmbagent.workflows.results import FinalContext, RunResult


def solve(name: str, task: str, context: Mapping[str, Any], work_dir: str, **settings: Any) -> RunResult:
    """Have one of `KEYWORD_FINDERS` choose keywords.

    Args:
        name: the agent.
        task: the text, unless the context has another one.
        context: the run's; `text_input_for_AAS_keyword_finder` is the text, `N_AAS_keywords` the most
            keywords to choose, `AAS_keywords_string` the vocabulary of an agent that may have another one.
        work_dir: where the reports go.
        settings: `api_keys`, `model`, `callbacks`, `verbose`, `options` of the keyword functions.

    Returns:
        `chat_history`, whose first message of the role `user` lists the keywords, one behind a dash a line,
        and `final_context` with `aas_keywords`, a dict keyword → address.
    """
    about = str(context.get("text_input_for_AAS_keyword_finder") or task)
    count = int(context.get("N_AAS_keywords") or 5)
    words = str(context.get("AAS_keywords_string") or "").strip()
    found: Any
    if name == "aas_keyword_finder":
        found = keywords.get_aas_keywords(about, count, work_dir, **settings)
    elif words:
        found = keywords.get_keywords_from_string(about, words, count, work_dir, **settings)
    elif name == "aaai_keywords_finder":
        found = keywords.get_keywords_from_aaai(about, count, work_dir, **settings)
    else:
        found = keywords.get_keywords(about, count, work_dir, **settings)
    said = "\n".join(["Keywords:", *(f"-{keyword}" for keyword in found)])
    state = {**_core.initial_context(), **context, "main_task": task, "work_dir": work_dir}
    return RunResult(
        chat_history=[
            {"name": "user", "role": "assistant", "content": task},
            {"name": name, "role": "user", "content": said},
        ],
        final_context=FinalContext({**state, "aas_keywords": dict(found.items())}),
        status="completed",
        error=None,
        work_dir=work_dir,
    )
