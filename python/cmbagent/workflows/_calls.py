"""What the functions have in common: reading their arguments, and running a workflow for them."""

from __future__ import annotations

import dataclasses
import difflib
import inspect
import os
import warnings
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from cmbagent import _core
from cmbagent.errors import ConfigurationError, WorkDirError
from cmbagent.phases.base import PhaseConfig
from cmbagent.phases.registry import PhaseRegistry
from cmbagent.utils import resolve_work_dir
from cmbagent.workflows._limits import check_names
from cmbagent.workflows._tape import Tape
from cmbagent.workflows.composer import WorkflowDefinition, WorkflowExecutor
from cmbagent.workflows.utils import clean_work_dir, load_context, load_plan, plan_steps

MASSGEN_ARGUMENTS = frozenset(
    {"use_massgen", "massgen_config", "massgen_verbose", "massgen_enable_logging", "massgen_use_for_retries"}
)
RETRIEVAL_ARGUMENTS = frozenset({"skip_rag_agents", "make_vector_stores"})


Definition = dict[str, Any]
"""A phase as a workflow defines it: `type` and `config`."""

_DEFAULT_MODELS = ("default_llm_model", "default_formatter_model")
# Of these names arguments mean something else: the functions say them to the phases that they concern.
_NOT_FROM_ARGUMENTS = frozenset({"phase_type", "params", "clear_work_dir", "hitl_enabled"})


class Call:
    """One call of one of the functions: its arguments, and what they ask for.

    Attributes:
        arguments: the function's own parameters → what was given, or their defaults.
        tape: where model calls are recorded, or replayed from.
        work_dir: the absolute path of the work directory, which is there and was emptied if asked for.
    """

    def __init__(
        self, function: Callable[..., Any], arguments: Mapping[str, Any], known: Collection[str] = ()
    ) -> None:
        """Check the arguments and make the work directory.

        Args:
            function: the function called.
            arguments: its `locals()`, before anything else was put there.
            known: arguments of earlier versions that are accepted without effect.

        Raises:
            TypeError: there is an argument that no version had.
            ConfigurationError: arguments do not go together, or one cannot be used.
            MissingFileError: there is no tape to replay.
            WorkDirError: the work directory cannot be made.
        """
        self.arguments = dict(arguments)
        set_aside(function, self.arguments.pop("ignored", {}), known)
        get = self.arguments.get
        check_names(get("limits"))
        self.tape = Tape.of(get("record"), get("replay"), get("strict", False))
        if "researcher_filename" in self.arguments:
            self.arguments["researcher_filename"] = file_name(get("researcher_filename"))
        self.work_dir = prepare_work_dir(
            get("work_dir"), get("clear_work_dir", False), get("restart_at_step", -1), self.tape
        )

    def phase(self, phase_type: str, params: Mapping[str, Any] | None = None, **settings: Any) -> Definition:
        """Define a phase: the arguments that are settings of it, by their names, and what is said here.

        An argument that is `None` leaves the phase's own default.

        Args:
            phase_type: a registered type.
            params: its free settings; the models of agents without a setting of their own are added, where
                the phase has no such fields.
            **settings: fields of its config; they outrank the arguments.
        """
        config_class = PhaseRegistry.get(phase_type).config_class or PhaseConfig
        fields = {field.name for field in dataclasses.fields(config_class)} - _NOT_FROM_ARGUMENTS
        given = {name: value for name, value in self.arguments.items() if value is not None}
        config = {name: value for name, value in given.items() if name in fields}
        models = {name: given[name] for name in _DEFAULT_MODELS if name in given and name not in fields}
        return {"type": phase_type, "config": {**config, **settings, "params": {**models, **(params or {})}}}

    def run(
        self,
        workflow_id: str,
        name: str,
        phases: list[Definition],
        *,
        metadata: Mapping[str, Any] | None = None,
        shared_state: Mapping[str, Any] | None = None,
    ) -> WorkflowExecutor:
        """Run phases and return the executor with the results.

        With the argument `resume`, go on with the newest run of the same workflow in the work directory
        that was not completed; where there is none, begin one.

        Args:
            workflow_id: the workflow's id.
            name: its name.
            phases: definitions of its phases.
            metadata: noted in the run's metadata, where it is not `None`.
            shared_state: what the first phase finds there.
        """
        get = self.arguments.get
        executor = WorkflowExecutor(
            WorkflowDefinition(id=workflow_id, name=name, phases=phases),
            self.arguments["task"],
            self.work_dir,
            get("api_keys"),
            get("callbacks"),
            get("approval_manager"),
            shared_state,
            verbose=get("verbose"),
            options={**(get("options") or {}), **(get("limits") or {})},
            record=self.tape.record,
            replay=self.tape.replay,
            strict=self.tape.strict,
        )
        executor.context.metadata.update({k: v for k, v in (metadata or {}).items() if v is not None})
        if get("resume"):
            executor.take_up_earlier_run()
        executor.run_sync()
        return executor


def set_aside(function: Callable[..., Any], extra: Mapping[str, Any], known: Collection[str]) -> None:
    """Deal with keyword arguments that have no effect.

    Args:
        function: the function called; its parameters are what a mistyped name may have meant.
        extra: what it got besides its own parameters.
        known: arguments of earlier versions that are accepted; using them is answered with one warning.

    Raises:
        TypeError: `extra` holds an argument that no version had.
    """
    for name in extra:
        if name not in known:
            near = difflib.get_close_matches(name, inspect.signature(function).parameters, n=1)
            hint = f". Did you mean {near[0]!r}?" if near else ""
            raise TypeError(f"{function.__name__}() got an unexpected keyword argument {name!r}{hint}")
    if extra:
        names = ", ".join(sorted(extra))
        warnings.warn(
            f"{function.__name__}() ignores {names}: kept for older programs, without effect here",
            UserWarning,
            stacklevel=4,
        )


def known_agent(name: str) -> str:
    """Return the name of an agent that a task can be given to.

    Raises:
        ConfigurationError: there is no such agent; the text names the nearest.
    """
    able = [agent["name"] for agent in _core.roster() if agent["can_step"]]
    if name in able:
        return name
    near = difflib.get_close_matches(str(name), able, n=2, cutoff=0.5)
    hint = f" Did you mean {' or '.join(map(repr, near))}?" if near else ""
    raise ConfigurationError(f"Unknown agent: {name}.{hint} A task can be given to: {', '.join(able)}")


def file_name(value: str | None) -> str:
    """Return the researcher's file name, or nothing when the agent shall choose one.

    The original's default is a sentence that asks the agent to choose; whatever has a blank in it is taken
    so.
    """
    name = str(value or "").strip()
    return "" if any(c.isspace() for c in name) else name


def prepare_work_dir(
    work_dir: str | os.PathLike[str] | None,
    clear: bool,
    restart_at_step: int = -1,
    tape: Tape = Tape(),  # noqa: B008 (it cannot be changed)
) -> str:
    """Make the work directory, and empty it if that was asked for.

    Args:
        work_dir: the caller's argument; `None` means the default directory.
        clear: only `True` itself deletes anything.
        restart_at_step: the caller's argument; going on from a step needs what is there.
        tape: what is not to be deleted.

    Returns:
        The absolute path.

    Raises:
        ConfigurationError: clearing and restarting were asked for at once, or the tape would be deleted.
        WorkDirError: the directory cannot be made.
    """
    place = resolve_work_dir(work_dir)
    if clear is True:
        if restart_at_step > 0:
            raise ConfigurationError(
                "clear_work_dir=True would delete what restart_at_step goes on from; leave one of them out"
            )
        tape.keep_from(place)
        clean_work_dir(place)
    try:
        Path(place).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise WorkDirError(
            f"the work directory {place} cannot be made: {error.strerror}; give another work_dir"
        ) from error
    return place


def restart_settings(work_dir: str, step: int) -> dict[str, Any]:
    """Read what is needed to go on at a step.

    Args:
        work_dir: the work directory of the earlier run.
        step: the step to start with, 1-based.

    Returns:
        `params` of the control phase.

    Raises:
        MissingFileError: the plan, or the context of the step before, is not there.
        ConfigurationError: the plan has no such step, or a file is damaged.
    """
    plan_path = Path(work_dir) / "planning" / "final_plan.json"
    steps = plan_steps(load_plan(plan_path), str(plan_path))
    if step > len(steps):
        raise ConfigurationError(
            f"restart_at_step={step}, but the plan in {plan_path} has {len(steps)} steps"
        )
    context_path = Path(work_dir) / "context" / f"context_step_{step - 1}.pkl"
    context = load_context(context_path)
    if not isinstance(context, dict):
        raise ConfigurationError(
            f"{context_path} holds a {type(context).__name__}; expected the context of a step"
        )
    return {
        "preloaded_plan": steps,
        "start_step": step,
        "restored_context": dict(context),
        "keep_existing": True,
    }


def approval_phases(
    approval_config: Any, hitl_after_planning: bool
) -> tuple[list[dict[str, Any]], bool, bool]:
    """Read where a human is to be asked.

    Args:
        approval_config: an object with `mode`, and optionally `timeout_seconds` and `default_on_timeout`.
        hitl_after_planning: ask after planning in any case.

    Returns:
        The checkpoint phases after planning, whether to ask after each step, and whether to ask when one
        fails.
    """
    mode = getattr(approval_config, "mode", None)
    mode = getattr(mode, "value", mode) or "none"
    unused = [
        n
        for n in ("custom_checkpoints", "auto_approve_patterns", "require_feedback_on_reject")
        if getattr(approval_config, n, None)
    ]
    if mode in ("manual", "copilot", "custom"):
        unused.append(f"mode={mode!r}")
    if unused:
        warnings.warn(
            f"approval_config: {', '.join(unused)} has no effect here; known modes are after_planning, "
            "before_each_step and on_error. For other questions, put hitl_checkpoint phases into a workflow",
            RuntimeWarning,
            stacklevel=4,
        )
    checkpoints: list[dict[str, Any]] = []
    if hitl_after_planning or mode in ("after_planning", "before_each_step"):
        settings: dict[str, Any] = {"checkpoint_type": "after_planning"}
        for name in ("timeout_seconds", "default_on_timeout"):
            value = getattr(approval_config, name, None)
            if value is not None:
                settings[name] = value
        checkpoints.append({"type": "hitl_checkpoint", "config": settings})
    return checkpoints, mode == "before_each_step", mode == "on_error"
