"""Keywords for a text, chosen by a model from a controlled vocabulary.

Three vocabularies come with the package: the UNESCO nomenclature, the keywords of the AAAI conference, and
those of the journals of the American Astronomical Society. Whatever the model answers, only words of the
vocabulary are returned.
"""

from __future__ import annotations

import difflib
import os
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from cmbagent.errors import ConfigurationError
from cmbagent.keywords import vocabulary
from cmbagent.keywords.finder import Finder, unesco
from cmbagent.keywords.result import Keywords, LinkedKeywords
from cmbagent.utils import default_agents_llm_model
from cmbagent.workflows._calls import set_aside
from cmbagent.workflows._helper import make_place, perform

if TYPE_CHECKING:
    from cmbagent._core import RunHandle

__all__ = [
    "Keywords",
    "LinkedKeywords",
    "get_aas_keywords",
    "get_keywords",
    "get_keywords_from_aaai",
    "get_keywords_from_string",
]

KINDS = ("unesco", "aaai", "aas")
"""The vocabularies, by the names that `kw_type` takes."""


def get_keywords(
    input_text: str,
    n_keywords: int = 5,
    work_dir: str | os.PathLike[str] | None = None,
    api_keys: Any = None,
    kw_type: str = "unesco",
    *,
    model: str | None = None,
    callbacks: Any = None,
    verbose: bool | None = None,
    options: Mapping[str, Any] | None = None,
    **ignored: Any,
) -> Keywords | LinkedKeywords:
    """Choose keywords for a text.

    Args:
        input_text: the text.
        n_keywords: the most keywords to choose.
        work_dir: where the reports of time and cost go; `None` means `cmbagent_output` in the current
            directory.
        api_keys: provider name → key, or any object that can be subscripted so; `None` reads the environment.
        kw_type: the vocabulary: `unesco` (four calls of the model, one for each level of the
            nomenclature), `aaai` or `aas` (one call each).
        model: the model that chooses.
        callbacks: see `cmbagent.callbacks`.
        verbose: `True` shows the run, `False` does not, `None` leaves it to the environment.
        options: settings such as `agent_llm_configs`, see `WorkflowExecutor`.
        **ignored: arguments of other versions without effect here; a warning names them.

    Returns:
        For `unesco` and `aaai` a list of keywords that has `keys()`, `values()` and `items()` too; for `aas`
        a dict keyword → address in the Unified Astronomy Thesaurus.

    Raises:
        ValueError: there is no such vocabulary, or `n_keywords` is below 1.
        CmbagentError: the model could not be reached.
    """
    set_aside(get_keywords, ignored, set(ignored))
    more: dict[str, Any] = {"callbacks": callbacks, "verbose": verbose, "options": options}
    if kw_type == "aas":
        return get_aas_keywords(input_text, n_keywords, work_dir, api_keys, model=model, **more)
    if kw_type == "aaai":
        return get_keywords_from_aaai(input_text, n_keywords, work_dir, api_keys, model=model, **more)
    if kw_type != "unesco":
        near = difflib.get_close_matches(str(kw_type), KINDS, n=1)
        hint = f". Did you mean {near[0]!r}?" if near else ""
        raise ConfigurationError(
            f"kw_type={kw_type!r} is no vocabulary; expected one of {', '.join(KINDS)}{hint}"
        )
    model = model or default_agents_llm_model["list_keywords_finder"]

    async def choose(run: RunHandle) -> list[str]:
        return await unesco(Finder(run, "list_keywords_finder", model, input_text), n_keywords)

    return Keywords(_run(choose, n_keywords, work_dir, api_keys, **more))


def get_keywords_from_aaai(
    input_text: str,
    n_keywords: int = 6,
    work_dir: str | os.PathLike[str] | None = None,
    api_keys: Any = None,
    *,
    model: str | None = None,
    callbacks: Any = None,
    verbose: bool | None = None,
    options: Mapping[str, Any] | None = None,
) -> Keywords:
    """Choose keywords of the AAAI conference; the parameters are those of `get_keywords`.

    Returns:
        A list of keywords, each with its area in front, such as `"ML: Bayesian Learning"`.

    Raises:
        ValueError: `n_keywords` is below 1.
        CmbagentError: the model could not be reached.
    """
    agent = "aaai_keywords_finder"
    more = {"callbacks": callbacks, "verbose": verbose, "options": options}
    return Keywords(
        _from_list(agent, vocabulary.aaai(), input_text, n_keywords, work_dir, api_keys, model, **more)
    )


def get_keywords_from_string(
    input_text: str,
    keywords_string: str,
    n_keywords: int,
    work_dir: str | os.PathLike[str] | None = None,
    api_keys: Any = None,
    *,
    model: str | None = None,
    callbacks: Any = None,
    verbose: bool | None = None,
    options: Mapping[str, Any] | None = None,
) -> Keywords:
    """Choose keywords from a vocabulary of one's own; the other parameters are those of `get_keywords`.

    Args:
        input_text: the text.
        keywords_string: the vocabulary: one keyword a line, or all in one line with commas between them.
        n_keywords: the most keywords to choose.
        work_dir: where the reports of time and cost go.
        api_keys: as for `get_keywords`.
        model: the model that chooses.
        callbacks: see `cmbagent.callbacks`.
        verbose: as for `get_keywords`.
        options: as for `get_keywords`.

    Returns:
        A list of keywords.

    Raises:
        ValueError: the vocabulary is empty, or `n_keywords` is below 1.
        CmbagentError: the model could not be reached.
    """
    separator = "\n" if "\n" in keywords_string.strip() else ","
    words = [word.strip() for word in keywords_string.split(separator) if word.strip()]
    if not words:
        raise ConfigurationError("keywords_string holds no keywords; expected them with commas between them")
    agent = "list_keywords_finder"
    more = {"callbacks": callbacks, "verbose": verbose, "options": options}
    return Keywords(_from_list(agent, words, input_text, n_keywords, work_dir, api_keys, model, **more))


def get_aas_keywords(
    input_text: str,
    n_keywords: int = 5,
    work_dir: str | os.PathLike[str] | None = None,
    api_keys: Any = None,
    *,
    model: str | None = None,
    callbacks: Any = None,
    verbose: bool | None = None,
    options: Mapping[str, Any] | None = None,
) -> LinkedKeywords:
    """Choose keywords of the AAS journals; the parameters are those of `get_keywords`.

    Returns:
        A dict keyword → address in the Unified Astronomy Thesaurus.

    Raises:
        ValueError: `n_keywords` is below 1.
        CmbagentError: the model could not be reached.
    """
    agent, known = "aas_keyword_finder", vocabulary.aas()
    more = {"callbacks": callbacks, "verbose": verbose, "options": options}
    found = _from_list(agent, known, input_text, n_keywords, work_dir, api_keys, model, **more)
    return LinkedKeywords((name, known[name]) for name in found)


def _from_list(
    agent: str,
    words: Iterable[str],
    about: str,
    n_keywords: int,
    work_dir: str | os.PathLike[str] | None,
    api_keys: Any,
    model: str | None,
    **more: Any,
) -> list[str]:
    async def choose(run: RunHandle) -> list[str]:
        finder = Finder(run, agent, model or default_agents_llm_model[agent], about)
        return (await finder.choose({"Keywords": words}, f"Choose at most {n_keywords}."))[:n_keywords]

    return _run(choose, n_keywords, work_dir, api_keys, **more)


def _run(
    choose: Callable[[RunHandle], Awaitable[list[str]]],
    n_keywords: int,
    work_dir: str | os.PathLike[str] | None,
    api_keys: Any,
    **more: Any,
) -> list[str]:
    if n_keywords < 1:
        raise ConfigurationError(f"n_keywords={n_keywords}: expected 1 or more")
    place = make_place(work_dir)
    begun = time.time()

    async def work(run: RunHandle) -> list[str]:
        started = time.time()
        found = await choose(run)
        times = {"initialization_time": started - begun, "execution_time": time.time() - started}
        await run.report_times(place, times)
        await run.report_costs(place / "cost")
        return found

    return perform("keywords", "Keywords", work, "Choose keywords", place, api_keys=api_keys, **more)
