"""Workflows: their definitions, those of the package, and the executor that runs them."""

from __future__ import annotations

import asyncio
import difflib
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from cmbagent import _core, _current, _events, _loop, _pages, _preempt
from cmbagent._background import BackgroundRun, warn_where_nobody_can_answer
from cmbagent._stream import EventLog, EventStream
from cmbagent.approvals import default_manager
from cmbagent.errors import ConfigurationError
from cmbagent.phases import PhaseRegistry, PhaseResult, WorkflowContext
from cmbagent.store import open_store
from cmbagent.utils import get_api_keys_from_env, resolve_work_dir
from cmbagent.workflows import _limits, _resume
from cmbagent.workflows._interactive import INTERACTIVE_WORKFLOWS
from cmbagent.workflows._resume import ResumeMethod
from cmbagent.workflows._tape import Tape

if TYPE_CHECKING:
    import os

    from cmbagent.phases import Phase
    from cmbagent.store import StoreLike
    from cmbagent.workflows.estimate import Estimate


@dataclass
class WorkflowDefinition:
    """A workflow as a sequence of phases.

    Attributes:
        id: unique name.
        name: name for people.
        description: what it does.
        phases: per phase `{"type": …, "config": {…}}`; `config` may be left out.
        version: counts the changes.
        is_system: whether it belongs to the package.
        created_by: who made it.
    """

    id: str
    name: str
    description: str = ""
    phases: list[dict[str, Any]] = field(default_factory=list)
    version: int = 1
    is_system: bool = False
    created_by: str | None = None

    def _repr_html_(self) -> str:
        return _pages.workflow_html(self)

    def _repr_markdown_(self) -> str:
        return _pages.workflow_markdown(self)

    def to_dict(self) -> dict[str, Any]:
        """Return the definition as a dict of its own."""
        return {
            "id": self.id,
            "name": self.name,
            "description": self.description,
            "phases": copy_containers(self.phases),
            "version": self.version,
            "is_system": self.is_system,
            "created_by": self.created_by,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> WorkflowDefinition:
        """Build a definition from a dict such as `to_dict` returns.

        Args:
            data: `id`, `name` and `phases`; what else is missing takes its default.

        Returns:
            The definition; it shares no container with `data`.

        Raises:
            KeyError: `id`, `name` or `phases` is missing.
        """
        return cls(
            id=data["id"],
            name=data["name"],
            description=data.get("description", ""),
            phases=copy_containers(data["phases"]),
            version=data.get("version", 1),
            is_system=data.get("is_system", False),
            created_by=data.get("created_by"),
        )


def copy_containers(value: Any) -> Any:
    """Copy the dicts and lists in a value; everything else is shared."""
    if isinstance(value, dict):
        return {key: copy_containers(item) for key, item in value.items()}
    if isinstance(value, list):
        return [copy_containers(item) for item in value]
    return value


SYSTEM_WORKFLOWS: dict[str, WorkflowDefinition] = {
    entry["id"]: WorkflowDefinition.from_dict(entry)
    for entry in [*_core.system_workflows(), *INTERACTIVE_WORKFLOWS]
}
"""The package's workflows by id."""

DEEP_RESEARCH_WORKFLOW = SYSTEM_WORKFLOWS["deep_research"]
DEEP_RESEARCH_HITL_WORKFLOW = SYSTEM_WORKFLOWS["deep_research_hitl"]
DEEP_RESEARCH_FULL_HITL_WORKFLOW = SYSTEM_WORKFLOWS["deep_research_full_hitl"]
ONE_SHOT_WORKFLOW = SYSTEM_WORKFLOWS["one_shot"]
ONE_SHOT_RESEARCHER_WORKFLOW = SYSTEM_WORKFLOWS["one_shot_researcher"]
IDEA_GENERATION_WORKFLOW = SYSTEM_WORKFLOWS["idea_generation"]
IDEA_TO_EXECUTION_WORKFLOW = SYSTEM_WORKFLOWS["idea_to_execution"]


def get_workflow(workflow_id: str) -> WorkflowDefinition:
    """Return a workflow of the package.

    Args:
        workflow_id: its id, such as `deep_research`.

    Raises:
        ValueError: there is none of that id; the text lists those there are.
    """
    try:
        return SYSTEM_WORKFLOWS[workflow_id]
    except KeyError:
        near = difflib.get_close_matches(str(workflow_id), SYSTEM_WORKFLOWS, n=1)
        hint = f". Did you mean {near[0]!r}?" if near else ""
        raise ConfigurationError(
            f"Unknown workflow: {workflow_id}. Available: {list(SYSTEM_WORKFLOWS)}{hint}"
        ) from None


def list_workflows() -> list[dict[str, Any]]:
    """Describe the package's workflows: `id`, `name`, `description`, `num_phases`, `is_system`."""
    return [
        {
            "id": workflow.id,
            "name": workflow.name,
            "description": workflow.description,
            "num_phases": len(workflow.phases),
            "is_system": workflow.is_system,
        }
        for workflow in SYSTEM_WORKFLOWS.values()
    ]


class WorkflowExecutor:
    """Runs a workflow.

    Everything about the definition is checked here, before any directory is made or any model is asked.

    Args:
        workflow: what to run; it is not changed.
        task: the task, verbatim for all agents.
        work_dir: where files go; `~` is expanded, missing directories are made when the run starts.
        api_keys: provider name → key, or any object that can be subscripted so; `None` reads the environment.
        callbacks: the caller's callbacks, see `cmbagent.callbacks`.
        approval_manager: asks humans at checkpoints; `None` leaves it to
            `cmbagent.approvals.default_manager`: whoever sits at the terminal or notebook is asked, and where
            nobody does, checkpoints approve by themselves.
        initial_shared_state: put into `shared_state` before the first phase.
        verbose: `True` shows the run, `False` does not, `None` leaves it to the environment.
        store: where the run is kept, so that it can be resumed after a crash: a file or a
            `cmbagent.store.Store`; `None` is the user's own store, `":memory:"` keeps nothing.
        options: settings for every phase's `config.params` that the phase does not set itself, such as
            `script_timeout_seconds`, `env_passthrough`, `agent_llm_configs`, `prompts`, `allowed_agents`,
            `model_fallbacks`, `call_deadline_seconds`, `turn_deadline_seconds`, and
            those of `docs/sandbox.md`: `sandbox`, `write_paths`, `read_paths`, `network`, `allow_install`,
            `script_memory_gb`, `script_disk_gb`, `script_processes`; also the
            run's limits (`max_cost`, …, `on_limit`, `cheaper_model`, `unpriced`) and `rates`, see
            `docs/limits.md`.
        max_cost: the run's limit in dollars, as all limits for its phases and nested runs together; a phase
            has limits of its own in its `config.params`.
        max_tokens: the run's limit in tokens, of prompts and answers.
        max_llm_calls: the run's limit of model calls.
        max_wall_seconds: the run's limit in seconds; waiting for humans does not count.
        record: a new file in which every model call is written down, see `docs/replay.md`.
        replay: a file written so: calls are answered from it, without a model, a key or a network.
        strict: whether a request that differs from the recorded one is an error; else it is a warning.

    Attributes:
        phases: the phases, built.
        context: the `WorkflowContext`; it is what `run` returns.
        results: the result of every phase that ran.
        skipped: the indexes of the phases that were skipped.
        current_phase_index: 0-based.
        outcome: how the last run ended: completed, stopped, paused or waiting_approval; `None` before, and
            after an exception. `get_status()["status"]` knows more.

    Raises:
        ValueError: a phase's type is not registered, a limit cannot be used, or `record`, `replay` and
            `strict` do not go together.
        TypeError: `workflow` is no definition, `api_keys` is one text, or a phase's config has a field that
            the phase does not know.
        FileNotFoundError: there is no file to replay.
    """

    def __init__(
        self,
        workflow: WorkflowDefinition,
        task: str,
        work_dir: str | os.PathLike[str] | None,
        api_keys: Any = None,
        callbacks: Any = None,
        approval_manager: Any = None,
        initial_shared_state: Mapping[str, Any] | None = None,
        *,
        verbose: bool | None = None,
        store: StoreLike = None,
        options: Mapping[str, Any] | None = None,
        max_cost: float | None = None,
        max_tokens: int | None = None,
        max_llm_calls: int | None = None,
        max_wall_seconds: float | None = None,
        record: str | os.PathLike[str] | None = None,
        replay: str | os.PathLike[str] | None = None,
        strict: bool = False,
    ) -> None:
        if isinstance(workflow, (str, Mapping)):
            raise TypeError(
                f"workflow must be a WorkflowDefinition, not a {type(workflow).__name__}; "
                "get_workflow(id) and WorkflowDefinition.from_dict(data) make one"
            )
        if isinstance(api_keys, (str, bytes)):
            # It can be subscripted, but holds no key under a provider's name; and it is not to be shown.
            raise TypeError(
                f"api_keys must be provider name → key, such as {{'OPENAI': …}}, not a "
                f"{type(api_keys).__name__}; leave it out to read the environment"
            )
        self.workflow = workflow
        self.task = task
        self.work_dir = resolve_work_dir(work_dir)
        self.api_keys = get_api_keys_from_env() if api_keys is None else api_keys
        self.callbacks = callbacks
        self.approval_manager = default_manager() if approval_manager is None else approval_manager
        self.verbose = verbose
        given = {
            "max_cost": max_cost,
            "max_tokens": max_tokens,
            "max_llm_calls": max_llm_calls,
            "max_wall_seconds": max_wall_seconds,
        }
        self.options, self.limits, self.rates = _limits.split(options, given)
        self.record, self.replay, self.strict = Tape.of(record, replay, strict)
        self.phases: list[Phase] = [
            PhaseRegistry.create_from_dict(copy_containers(p)) for p in workflow.phases
        ]
        for phase in self.phases:
            _core.check_limits(phase.config.params)
            phase.config.params = {**self.options, **phase.config.params}
        self.store = store
        self.initial_shared_state = dict(initial_shared_state or {})
        above = _current.get()
        self.context = WorkflowContext(
            workflow_id=workflow.id,
            run_id=str(uuid.uuid4()) if above is None else above.child_run_id(),
            task=task,
            work_dir=self.work_dir,
            api_keys=self.api_keys,
            shared_state=dict(self.initial_shared_state),
        )
        self.current_phase_index = 0
        self.results: list[PhaseResult] = []
        self.skipped: list[int] = []
        self.outcome: str | None = None
        self._control = _core.Control()
        self._attempt = 0
        self._number_within: int | None = None
        self._journal: _core.Journal | None = None
        self._resuming = False
        self._forced = False
        self._resume_words: str | None = None
        self._from_phase: int | None = None
        self._origin: dict[str, Any] = {}
        self._log = EventLog()

    def __repr__(self) -> str:
        phases = " → ".join(type(phase).__name__ for phase in self.phases)
        return (
            f"<WorkflowExecutor of {self.workflow.id!r} in {self.work_dir!r}: {phases}; "
            f"{len(self.results)} of {len(self.phases)} phases run>"
        )

    async def run(self) -> WorkflowContext:
        """Run the phases in order.

        Returns:
            The workflow's context. After `stop()` it holds what the phases made until then.

        Raises:
            ValueError: a phase refused its input: `Phase {type} validation failed: […]`.
            RuntimeError: a phase failed: `Phase {type} failed: {reason}`.
            OverLimitError: the next call would exceed a limit; the run can be resumed with a higher one. It
                is a `RuntimeError`, too.
            ConfigurationError: the tape cannot be read, or there is another file to record to.
            RunStoppedError: the run was cancelled, by `cancel()` or because `should_continue` said no; it is
                a `RuntimeError`, too.
            Exception: whatever a phase of the user's raised, unchanged.
        """
        _loop.ensure_not_forked()
        self.outcome = None
        log = self._fresh_log()
        try:
            if self.rates:
                _core.set_rates(self.rates)
            self._journal = await _resume.begin(self)
            self._resuming = False
            with _loop.heartbeat():
                run = _core.run_workflow(self)
                self._attempt += 1
                self.outcome = await run
        except (asyncio.CancelledError, KeyboardInterrupt):
            _resume.tell_how_to_go_on(self, "Interrupted")
            raise
        finally:
            if self._journal is not None:
                self._journal.release()
            log.close()
        return self.context

    def take_up_earlier_run(self, *, force: bool = False) -> bool:
        """Make the next `run` go on with the newest run of the same workflow in `work_dir`.

        A run that is completed is taken up too: it gives its results again, without any call.

        Args:
            force: go on although the workflow, the task, a setting or a template has changed.

        Returns:
            Whether there is such a run; if not, the next `run` begins a new one.
        """
        opened = open_store(self.store)
        earlier = [] if opened is None else opened.runs(self.work_dir)
        own = [
            info
            for info in earlier
            if info.workflow_id == self.workflow.id and info.parent is None and not info.about.get("imported")
        ]
        # Several tasks may share a directory; but an unfinished one of another task is worth a word.
        wanted = [info for info in own if info.task == self.task] or [
            i for i in own if i.status != "completed"
        ]
        if not wanted:
            return False
        self.context.run_id = wanted[0].id
        self._resuming, self._forced = True, force
        return True

    def estimate(self) -> Estimate:
        """Say what the run will ask its models and what that may cost, without asking any.

        The phases are rehearsed with placeholders for answers and results, in a directory that is thrown
        away. Neither scripts nor phases of the user's own are run.

        Returns:
            The expected calls with their prompts, and a range of the cost.

        Raises:
            ConfigurationError: a setting cannot be used.
        """
        from cmbagent.workflows.estimate import estimate

        return _loop.run_sync(lambda: estimate(self), lambda: f"the estimate of {self.workflow.id!r}")

    def run_sync(self) -> WorkflowContext:
        """Do what `run` does, from synchronous code; also inside a running loop, such as a notebook's.

        Returns:
            The workflow's context.

        Raises:
            KeyboardInterrupt: Ctrl-C was pressed; the run was cancelled.
            SystemExit: with status 75, after SIGTERM or SIGUSR1 reached the main thread that waits here, when
                the program leaves them to the system and the run is kept: another process can resume it.
            Exception: as for `run`.
        """
        with _preempt.heeded(self):
            return _loop.run_sync(self.run, self._describe)

    def start(self) -> BackgroundRun[WorkflowContext]:
        """Do what `run` does, in the background: a notebook's cell, or the script, goes on at once.

        The phases run in a helper thread with an event loop of its own, and so do the callbacks; progress is
        shown as ever. A run whose handle was dropped goes on, and this executor still steers it. The end of
        the interpreter cancels the run.

        A notebook takes no input for a cell that has ended: where humans are to be asked, give the executor
        a `QueueApprovalManager`.

        Returns:
            The handle: `result(timeout=None)`, `stop()`, `cancel()`, `pause()`, `resume()`, `status()`,
            `done()`, and `await handle`.

        Raises:
            ForkError: this process was forked from one in which the engine had started.
        """
        warn_where_nobody_can_answer(self.approval_manager, self.phases)
        self._fresh_log()
        return BackgroundRun(self.run, self._control, self.get_status, self._describe)

    def events(self) -> EventStream:
        """Listen to the run: `async for kind, data in executor.events()`.

        What has happened so far comes first, so that a late listener misses no numbered event; those without
        a number (`call_text`, `script_output`) come only while they happen. The iterator ends after
        `run_finished`, or when a run ends that could not even start. Called before the run, it waits for
        it; after it, it gives the events of the last run. Every call makes an iterator of its own, and each
        may be read in another task or in another thread's loop.

        Returns:
            An asynchronous iterator of `Event`s: pairs of `kind` and `data`, as `docs/events.md` lists them.
        """
        return self._log.stream()

    def stop(self) -> None:
        """Stop the run before its next phase; `run` then returns what there is. From any thread.

        The phase that runs goes on to its end, and so does a question it asks; `cancel` ends it at once. This
        is for good: the executor begins no phase any more. A run of the last phase is then completed.
        """
        self._control.stop()

    def cancel(self) -> None:
        """Cancel the run now; `run` then raises `RunStoppedError`. From any thread.

        The model call in flight is cut, and the script that runs is killed with everything it started. A
        phase of Python sees `asyncio.CancelledError` where it waits, and has no say in whether the run goes
        on; one that blocks its loop ends where it next awaits. What the call had used until then counts as
        spent. This is for good, also after `stop` and during a pause.
        """
        self._control.cancel()

    def pause(self) -> None:
        """Hold the run before its next model call, script, question or phase. From any thread.

        What is in flight goes on to its end; the event `run_paused` says when the run is held. The event loop
        stays free meanwhile, and the time does not count for `timeout_seconds`. `resume`, `stop` and `cancel`
        end the pause. A run that has not begun is held before its first phase.
        """
        self._control.pause()

    resume = ResumeMethod()
    """On an executor, `resume()` ends a pause; on the class, `resume(run_id)` takes up a run that is kept."""

    def get_status(self) -> dict[str, Any]:
        """Say where the run stands; also while it goes on.

        Returns:
            `workflow_id`, `run_id`, `current_phase` (0-based), `total_phases`, `phase_results` (per phase
            that ran:
            `phase_id`, `phase_type`, `status`, `error`), `skipped` (indexes) once a phase was skipped, and
            `status` once a run has begun: `running`, `waiting_approval` (while a human is asked), `paused`
            (from `pause` on), `stopping` (after `stop` or `cancel`), or how it ended: `completed`, `stopped`,
            `cancelled`, `failed`, `interrupted`, `paused`, `waiting_approval`.
        """
        status: dict[str, Any] = {
            "workflow_id": self.workflow.id,
            "run_id": self.context.run_id,
            "current_phase": self.current_phase_index,
            "total_phases": len(self.phases),
            "phase_results": [
                {
                    "phase_id": result.context.phase_id,
                    "phase_type": self.phase_type_of(result),
                    "status": result.status.value,
                    "error": result.error,
                }
                for result in list(self.results)
            ],
        }
        if self.skipped:
            status["skipped"] = list(self.skipped)
        word = self._status_word()
        if word is not None:
            status["status"] = word
        return status

    def phase_type_of(self, result: PhaseResult) -> str:
        """Return the type of the phase a result came from."""
        # Phase ids are `phase_{index}_{type}`.
        prefix, _, rest = result.context.phase_id.partition("_")
        index, separator, phase_type = rest.partition("_")
        known = prefix == "phase" and separator and index.isdigit()
        return phase_type if known else result.context.phase_id

    @property
    def durable(self) -> bool:
        """Whether the run that was begun last is kept in a store, so that it can be resumed."""
        return self._journal is not None

    def _describe(self) -> str:
        index = self.current_phase_index
        name = self.phases[index].phase_type if index < len(self.phases) else "none"
        return f"phase {name!r} of workflow {self.workflow.id!r}"

    def _status_word(self) -> str | None:
        if self._log.closed or self._log.status is None:
            return self._log.status
        if self._control.ending:
            return "stopping"
        return "paused" if self._control.paused else self._log.status

    def _fresh_log(self) -> EventLog:
        # Those who listened before the first run hear it; another run has a log of its own.
        if self._log.closed:
            self._log = EventLog()
        return self._log

    def _make_listener(self) -> _events.Listener:
        return _events.make_listener(
            self.callbacks, self.verbose, self._final_context, self._settings, self._log
        )

    def _settings(self, index: int) -> Mapping[str, Any]:
        settings: Mapping[str, Any] = vars(self.phases[index].config)
        return settings

    def _final_context(self) -> Any:
        for result in reversed(self.results):
            output = result.context.output_data
            for name in ("final_context", "result"):
                if isinstance(output, Mapping) and isinstance(output.get(name), Mapping):
                    return output[name]
        return self.context.shared_state.get("final_context", {})
