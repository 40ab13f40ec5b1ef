"""`CMBAgent`: the class that programs for earlier versions solve tasks with."""

from __future__ import annotations

import copy
import difflib
import json
import os
import sys
import time
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cmbagent import _core
from cmbagent import _costs as cost_table
from cmbagent.callbacks import WorkflowCallbacks, merge_callbacks
from cmbagent.errors import ConfigurationError
from cmbagent.utils import (
    default_agents_llm_model,
    default_formatter_model,
    default_llm_model,
    default_temperature,
    default_top_p,
    get_api_keys_from_env,
    resolve_work_dir,
)
from cmbagent.workflows._calls import prepare_work_dir
from cmbagent.workflows.control import control
from cmbagent.workflows.conversation import human_in_the_loop
from cmbagent.workflows.one_shot import one_shot
from cmbagent.workflows.planning_control import planning_and_control, planning_and_control_context_carryover
from cmbagent.workflows.results import (
    KEYWORD_FINDERS,
    AgentInfo,
    FinalContext,
    Result,
    agent_names,
    agents,
)
from cmbagent.workflows.utils import clean_work_dir

_WHOLE = ("planning_and_control", "planning_and_control_context_carryover", "deep_research")
_CHAT = ("chat", "human_in_the_loop")
_MODES = (*_WHOLE, "one_shot", *_CHAT)
# Who the original lets begin when a task is to be planned.
_PLANNERS = ("task_improver", "task_recorder", "planner", "plan_setter", "planner_response_formatter")
# Arguments of the original that have no effect here, and the value that asks for nothing.
_WITHOUT_EFFECT: dict[str, Any] = {
    "cache_seed": None,
    "platform": "oai",
    "model": "gpt4o",
    "llm_api_type": None,
    "make_vector_stores": False,
    "reset_assistant": False,
    "agent_descriptions": None,
    "select_speaker_prompt": None,
    "select_speaker_message": None,
    "intro_message": None,
    "set_allowed_transitions": None,
    "skip_executor": False,
}
_QUIET = frozenset(
    {"agent_list", "chunking_strategy", "skip_memory", "skip_rag_software_formatter", "skip_rag_agents",
     "agent_type", "default_llm_config_list", "max_round"}
)  # fmt: skip
# What runs begin with, unless told otherwise, under the names that contexts have for it.
_SETTINGS_OF_RUNS = {"feedback_left": 1, "maximum_number_of_steps_in_plan": 3, "max_n_attempts": 3}
_SETTINGS = frozenset(
    {"model", "api_key", "api_type", "base_url", "reasoning_effort", "temperature", "top_p", "max_tokens",
     "stream"}
)  # fmt: skip


@dataclass
class ChatResult:
    """What was said while a task was solved.

    Attributes:
        chat_history: the messages, each with `name`, `role` and `content`.
        summary: the last message's content.
        cost: dollars, tokens and model of each agent, as in a cost report.
    """

    chat_history: list[dict[str, Any]] = field(default_factory=list)
    summary: str = ""
    cost: list[dict[str, Any]] = field(default_factory=list)


class CMBAgent:
    """Solves tasks with models of one's choice; nothing is read, made or deleted until `solve`.

    Args:
        temperature: of models that take one.
        top_p: nucleus sampling, of models that take it.
        timeout: seconds that one call of a model may take; `None` sets no limit.
        llm_api_key: the OpenAI key, when `api_keys` is not given.
        verbose: `True` shows the run, anything else leaves it to the environment.
        agent_instructions: agent → wishes, for `engineer`, `researcher` and `planner`.
        agent_temperature: agent → temperature.
        agent_top_p: agent → top_p.
        default_llm_model: model of agents without a setting of their own.
        default_formatter_model: model that gives a second opinion when two attempts fail alike.
        agent_llm_configs: agent → dict with `model`, and optionally `api_key`, `api_type`, `base_url`,
            `reasoning_effort`, `temperature`, `top_p`, `max_tokens`, `stream`.
        shared_context: what the context of runs begins with; it is copied.
        work_dir: where files go; `None` means `cmbagent_output` in the current directory.
        clear_work_dir: `True` deletes the contents of `work_dir` before each task.
        mode: what `solve` does unless told otherwise: `planning_and_control`,
            `planning_and_control_context_carryover` (or `deep_research`), `one_shot`, or `chat` (or
            `human_in_the_loop`).
        chat_agent: who works in mode `chat`.
        api_keys: provider name → key, or any object that can be subscripted so; `None` reads the environment.
        callbacks: see `cmbagent.callbacks`.
        approval_manager: asks the human in mode `chat`.
        **ignored: arguments of earlier versions without effect here; one warning names those that ask for
            something.

    Attributes:
        final_context: the context at the end of the last task.
        chat_result: what was said, with `chat_history`.
        result: all that the function behind returned.
        shared_context: what the context of runs begins with.
        agents: all agents, with `name`, `info` and `llm_config`.
        agent_names: their names.
        last_agent: who spoke last.
        work_dir: the absolute path, as text.
        step: the `step` of the last task.

    Raises:
        ValueError: there is no such mode.
    """

    def __init__(
        self,
        *,
        temperature: float = default_temperature,
        top_p: float = default_top_p,
        timeout: float | None = None,
        llm_api_key: str | None = None,
        verbose: bool | None = None,
        agent_instructions: Mapping[str, str] | None = None,
        agent_temperature: Mapping[str, float] | None = None,
        agent_top_p: Mapping[str, float] | None = None,
        default_llm_model: str = default_llm_model,
        default_formatter_model: str = default_formatter_model,
        agent_llm_configs: Mapping[str, Mapping[str, Any]] | None = None,
        shared_context: Mapping[str, Any] | None = None,
        work_dir: str | os.PathLike[str] | None = None,
        clear_work_dir: bool = False,
        mode: str = "planning_and_control",
        chat_agent: str | None = None,
        api_keys: Any = None,
        callbacks: Any = None,
        approval_manager: Any = None,
        **ignored: Any,
    ) -> None:
        self.mode = _known_mode(mode)
        self.chat_agent = chat_agent
        self.work_dir = resolve_work_dir(work_dir)
        self.verbose = verbose or None
        self.default_llm_model = default_llm_model
        self.default_formatter_model = default_formatter_model
        self.api_keys = api_keys
        if api_keys is None and llm_api_key:
            self.api_keys = {**get_api_keys_from_env(), "OPENAI": llm_api_key}
        self.clear_work_dir_bool = clear_work_dir
        self.agent_llm_configs = {name: dict(given) for name, given in (agent_llm_configs or {}).items()}
        own = copy.deepcopy(dict(shared_context or {}))
        self.shared_context = FinalContext({**_core.initial_context(), **_SETTINGS_OF_RUNS, **own})
        self.step: Any = None
        self.result = Result()
        self.final_context = FinalContext()
        self.chat_result = ChatResult()
        self.last_agent: AgentInfo | None = None
        self._timeout = timeout
        self._instructions = dict(agent_instructions or {})
        self._callbacks = callbacks
        self._approval_manager = approval_manager
        self._rows: list[dict[str, Any]] = []
        self._sample(temperature, top_p, agent_temperature or {}, agent_top_p or {})
        self._warn(ignored)
        self.init_agents()

    def __repr__(self) -> str:
        return f"<CMBAgent: mode {self.mode!r}, work_dir {self.work_dir!r}>"

    def init_agents(self) -> None:
        """Describe the agents anew, after `agent_llm_configs` was changed."""
        models: dict[str, str | None] = dict.fromkeys(agent_names())
        for name in (*(agent["name"] for agent in _core.roster()), *KEYWORD_FINDERS):
            own = self.agent_llm_configs.get(name, {}).get("model")
            # The roster's general model gives way to the caller's default.
            models[name] = own or default_agents_llm_model.get(name, self.default_llm_model)
        self.agents = list(agents(models, self._rows).values())
        self.agent_names = [agent.name for agent in self.agents]

    def solve(
        self,
        task: str,
        initial_agent: str = "task_improver",
        shared_context: Mapping[str, Any] | None = None,
        mode: str = "default",
        step: Any = None,
        max_rounds: int = 10,
    ) -> None:
        """Solve a task; the outcome is in `final_context`, `chat_result` and `result`.

        Args:
            task: the task, verbatim.
            initial_agent: `planner` (or `task_improver`) has the task planned first; any other agent does it
                at once. `aas_keyword_finder`, `aaai_keywords_finder` and `list_keywords_finder` choose
                keywords for it, see `cmbagent.keywords.agents`.
            shared_context: what the run's context has besides the instance's `shared_context`. The items
                `feedback_left` (rounds of review), `maximum_number_of_steps_in_plan`, `max_n_attempts`,
                `planner_append_instructions`, `engineer_append_instructions`,
                `researcher_append_instructions`, `hardware_constraints` and `researcher_filename` are
                settings of the run; `final_plan` as a list of steps is carried out without planning.
            mode: `default` is the instance's.
            step: kept as the attribute `step`.
            max_rounds: upper limit of model calls; with a plan, of planning and of each step.

        Raises:
            ValueError: there is no such mode or agent; the text names the nearest.
            CmbagentError: planning failed, a model could not be reached, or an argument cannot be used.
        """
        mode = self.mode if mode in ("default", None) else _known_mode(mode)
        self.step = step
        context = {**self.shared_context, **dict(shared_context or {})}
        self._rows = []
        started = time.time()
        rests = self._rests()
        try:
            self.result = self._run(task, mode, initial_agent, context, max_rounds)
        except BaseException:
            # What failed was paid for too, and `display_cost` is to say so.
            for report in self._rests() - rests:
                self._rows += json.loads(report.read_text(encoding="utf-8"))[:-1]
            raise
        # What the run did not touch stays as the caller put it.
        own = {key: value for key, value in context.items() if key not in _core.initial_context()}
        self.final_context = FinalContext({**own, **self.result["final_context"]})
        history = [*self.result.get("planning_chat_history", []), *self.result["chat_history"]]
        last = history[-1] if history else {}
        self.chat_result = ChatResult(history, str(last.get("content") or ""), cost_table.total(self._rows))
        self.final_context["cost_dataframe"] = cost_table.total(self._rows)
        self.result.setdefault("execution_time", time.time() - started)
        self.init_agents()
        named = [message["name"] for message in reversed(history) if message["name"] in self.agent_names]
        self.last_agent = self.get_agent_object_from_name(named[0]) if named else None

    def _run(self, task: str, mode: str, initial_agent: str, context: dict[str, Any], rounds: int) -> Result:
        if initial_agent in KEYWORD_FINDERS:
            return self._find_keywords(initial_agent, task, context)
        settings: dict[str, Any] = {
            "work_dir": self.work_dir,
            "clear_work_dir": self.clear_work_dir_bool,
            "api_keys": self.api_keys,
            "max_n_attempts": context["max_n_attempts"],
            "callbacks": self._heard(),
            "verbose": self.verbose,
            "options": self._options(),
            "engineer_model": self._model("engineer"),
            "researcher_model": self._model("researcher"),
        }
        planned = initial_agent in _PLANNERS
        if mode in _CHAT:
            agent = self.chat_agent or ("engineer" if planned else initial_agent)
            settings |= {"agent": agent, "approval_manager": self._approval_manager}
            return human_in_the_loop(task, max_rounds=rounds, **settings)
        defaults = {
            "default_llm_model": self.default_llm_model,
            "default_formatter_model": self.default_formatter_model,
            "researcher_filename": context["researcher_filename"],
        }
        if not planned or mode == "one_shot":
            agent = "engineer" if planned else initial_agent
            return one_shot(task, max_rounds=rounds, agent=agent, **defaults, **settings)
        settings |= {
            "engineer_instructions": self._wish("engineer", context),
            "researcher_instructions": self._wish("researcher", context),
            "idea_maker_model": self._model("idea_maker"),
            "idea_hater_model": self._model("idea_hater"),
            "hardware_constraints": context["hardware_constraints"],
        }
        if isinstance(context.get("final_plan"), list):
            return control(task, context["final_plan"], max_rounds=rounds, **settings)
        settings |= {
            "max_rounds_planning": rounds,
            "max_rounds_control": rounds,
            "max_plan_steps": context["maximum_number_of_steps_in_plan"],
            "n_plan_reviews": context["feedback_left"],
            "plan_instructions": self._wish("planner", context),
            "planner_model": self._model("planner"),
            "plan_reviewer_model": self._model("plan_reviewer"),
        }
        carry_over = mode != "planning_and_control"
        plan = planning_and_control_context_carryover if carry_over else planning_and_control
        return plan(task, **defaults, **settings)

    def _find_keywords(self, agent: str, task: str, context: dict[str, Any]) -> Result:
        from cmbagent.keywords import agents as finders

        return finders.solve(
            agent,
            task,
            context,
            prepare_work_dir(self.work_dir, self.clear_work_dir_bool),
            api_keys=self.api_keys,
            model=self._model(agent),
            callbacks=self._heard(),
            verbose=self.verbose,
            options=self._options(),
        )

    def _rests(self) -> set[Path]:
        """The reports of what runs that failed have cost besides."""
        return set((Path(self.work_dir) / "cost").glob("cost_report_rest_*.json"))

    def _heard(self) -> WorkflowCallbacks:
        """The caller's callbacks, and what takes down the costs."""
        heard = WorkflowCallbacks(on_cost_update=lambda cost: self._rows.extend(cost["records"]))
        return merge_callbacks(heard, self._callbacks)

    def _model(self, agent: str) -> str:
        model: str = self.get_agent_object_from_name(agent).llm_config["model"]
        return model

    def _wish(self, agent: str, context: Mapping[str, Any]) -> str:
        words = (self._instructions.get(agent), context.get(f"{agent}_append_instructions"))
        return "\n\n".join(str(each).strip() for each in words if each and str(each).strip())

    def _options(self) -> dict[str, Any]:
        options: dict[str, Any] = {"agent_llm_configs": self.agent_llm_configs}
        if self._timeout is not None:
            options["call_deadline_seconds"] = float(self._timeout)
        return options

    def _sample(
        self, temperature: float, top_p: float, own_t: Mapping[str, float], own_p: Mapping[str, float]
    ) -> None:
        """Enter temperatures into the agents' settings; those given there win."""
        for agent in _core.roster():
            name = agent["name"]
            wanted = {
                "temperature": own_t.get(name, None if temperature == default_temperature else temperature),
                "top_p": own_p.get(name, None if top_p == default_top_p else top_p),
            }
            wanted = {key: value for key, value in wanted.items() if value is not None}
            if wanted:
                self.agent_llm_configs[name] = {**wanted, **self.agent_llm_configs.get(name, {})}

    def _warn(self, ignored: Mapping[str, Any]) -> None:
        """Name at once all that asks for something and has no effect."""
        idle = [
            name
            for name, value in ignored.items()
            if name not in _QUIET and (name not in _WITHOUT_EFFECT or value != _WITHOUT_EFFECT[name])
        ]
        able = {"engineer", "researcher", "planner", "executor"}
        idle += [f"agent_instructions[{name!r}]" for name in self._instructions if name not in able]
        idle += [
            f"agent_llm_configs[{name!r}]" for name in self.agent_llm_configs if name not in agent_names()
        ]
        for agent, settings in self.agent_llm_configs.items():
            idle += [f"agent_llm_configs[{agent!r}][{name!r}]" for name in settings if name not in _SETTINGS]
        if idle:
            warnings.warn(
                f"CMBAgent() ignores {', '.join(sorted(idle))}: without effect here",
                UserWarning,
                stacklevel=3,
            )

    def get_agent_object_from_name(self, name: str) -> AgentInfo:
        """Return an agent: `name`, `info`, `llm_config`, `cost_dict`.

        Raises:
            ValueError: there is none of that name; the text names the nearest.
        """
        for agent in self.agents:
            if agent.name == name:
                return agent
        near = difflib.get_close_matches(str(name), self.agent_names, n=2, cutoff=0.5)
        hint = f" Did you mean {' or '.join(map(repr, near))}?" if near else ""
        raise ConfigurationError(f"Unknown agent: {name}.{hint} There are: {', '.join(self.agent_names)}")

    def get_agent_from_name(self, name: str) -> AgentInfo:
        """Do the same as `get_agent_object_from_name`."""
        return self.get_agent_object_from_name(name)

    def filter_and_combine_agent_names(self, input_list: Iterable[str]) -> str:
        """Return the names that are agents', with commas between them."""
        return ", ".join(name for name in input_list if name in self.agent_names)

    def clear_work_dir(self) -> None:
        """Delete the contents of the work directory.

        Raises:
            WorkDirError: it is the home directory, the root of a file system or a directory above the
                current one.
        """
        clean_work_dir(self.work_dir)

    def clear_cache(self) -> None:
        """Do nothing: no answers are cached."""

    def set_planner_instructions(self) -> None:
        """Do nothing, as ever; `agent_instructions={"planner": …}` sets them."""

    def show_plot(self, plot_name: str) -> Any:
        """Return a plot of the work directory as a picture for notebooks.

        Args:
            plot_name: path of the file, relative to the work directory.

        Raises:
            ImportError: IPython is not installed.
        """
        from IPython.display import Image

        return Image(  # type: ignore[no-untyped-call]
            filename=str(Path(self.work_dir) / plot_name)
        )

    def display_cost(self, name_append: str | None = None) -> Any:
        """Print what the last task has cost, agent by agent, and write it to `cost/` in the work directory.

        Args:
            name_append: part of the report's file name.

        Returns:
            A pandas `DataFrame` with the columns `Agent`, `Cost ($)`, `Prompt Tokens`, `Completion Tokens`,
            `Total Tokens`, `Model`, whose last row has the index `Total`; without pandas, its rows as dicts.
        """
        rows = cost_table.total(self._rows)
        report = cost_table.write(rows, Path(self.work_dir) / "cost", name_append)
        sys.stdout.write(f"{cost_table.markdown(rows)}\nCost report: {report}\n")
        self.final_context["cost_report_path"] = str(report)
        return cost_table.frame(rows)


def _known_mode(mode: str) -> str:
    if mode in _MODES:
        return mode
    near = difflib.get_close_matches(str(mode), _MODES, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    raise ConfigurationError(f"mode={mode!r} is not known.{hint} Expected one of {', '.join(_MODES)}")
