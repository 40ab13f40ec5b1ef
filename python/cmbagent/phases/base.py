"""What a phase is: its config, the context it works on, the result it returns.

These are plain dataclasses and one abstract class. The engine works on the objects themselves, so a phase may
change its context in place, rebind its fields or return another one.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Any, ClassVar

from cmbagent._repr import short_repr
from cmbagent.errors import ConfigurationError

if TYPE_CHECKING:
    from cmbagent._core import RunHandle


class PhaseStatus(Enum):
    """Where a phase stands."""

    PENDING = "pending"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    SKIPPED = "skipped"
    PAUSED = "paused"
    WAITING_APPROVAL = "waiting_approval"


class DefaultSeconds(int):
    """A number of seconds that nobody chose.

    It equals the plain number everywhere; only its type tells a default from the same figure set on purpose.
    """


@dataclass
class PhaseConfig:
    """Settings every phase has. Subclass it as a dataclass to add a phase's own.

    Attributes:
        phase_type: the type under which the phase is registered.
        enabled: `False` skips the phase.
        timeout_seconds: limit for the phase in seconds. It acts only when it was set: the default merely
            reads 3600. Time spent waiting for a human does not count.
        max_retries: how often the phase is run again after it failed.
        model_overrides: agent name → model, before any other choice of a model.
        params: further settings, free in form; not shown, since they may hold keys.
    """

    phase_type: str
    enabled: bool = True
    timeout_seconds: int = DefaultSeconds(3600)
    max_retries: int = 0
    model_overrides: dict[str, str] = field(default_factory=dict)
    params: dict[str, Any] = field(default_factory=dict, repr=False)

    def explicit_timeout(self) -> float | None:
        """Return the limit in seconds if one was set, `None` while it is the default."""
        if self.timeout_seconds is None or isinstance(self.timeout_seconds, DefaultSeconds):
            return None
        return float(self.timeout_seconds)


@dataclass
class PhaseContext:
    """What a phase is given, and where it puts what it makes.

    Attributes:
        workflow_id: the workflow's id.
        run_id: the run's id.
        phase_id: `phase_{index}_{type}` within a workflow.
        task: the user's task, verbatim.
        work_dir: absolute path of the work directory.
        shared_state: carried from phase to phase.
        input_data: the output of the phase before.
        output_data: what this phase hands on; items of its `shared` key go into `shared_state`.
        api_keys: provider name → key, or any object that can be subscripted so.
        callbacks: the caller's callbacks.
        started_at: unix seconds.
        completed_at: unix seconds.
    """

    workflow_id: str
    run_id: str
    phase_id: str
    task: str
    work_dir: str
    shared_state: dict[str, Any] = field(default_factory=dict)
    input_data: dict[str, Any] = field(default_factory=dict)
    output_data: dict[str, Any] = field(default_factory=dict)
    api_keys: Any = field(default_factory=dict, repr=False)
    callbacks: Any = field(default=None, repr=False)
    started_at: float | None = None
    completed_at: float | None = None

    @property
    def run(self) -> RunHandle:
        """The run this phase is part of: models, humans and observations through the engine's door.

        `await context.run.call(prompt, agent="reader", schema={…})`, `await context.run.execute(code)`,
        `await context.run.ask(message, options)` and `await context.run.observe(what, function)` are
        recorded, limited and cancelled like those of the built-in phases, and so are `download(url, path)`
        and `read_pdf(path)`; `report_costs(directory)` and `report_times(directory, times)` write what
        such phases write. A phase that is executed on its own gets a run of its own.
        """
        from cmbagent import _core, _current

        run = _current.get()
        return _core.open_run(self) if run is None else run

    def __repr__(self) -> str:
        return short_repr(self)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as a dict, without keys and callbacks; the values are the same objects."""
        return {
            "workflow_id": self.workflow_id,
            "run_id": self.run_id,
            "phase_id": self.phase_id,
            "task": self.task,
            "work_dir": self.work_dir,
            "shared_state": self.shared_state,
            "input_data": self.input_data,
            "output_data": self.output_data,
            "started_at": self.started_at,
            "completed_at": self.completed_at,
        }

    def copy_for_next_phase(self, next_phase_id: str) -> PhaseContext:
        """Make the context of the phase that follows.

        Args:
            next_phase_id: its `phase_id`.

        Returns:
            A context whose `input_data` is this one's `output_data` and whose `shared_state` is a new dict:
            this one's, overlaid with `output_data["shared"]`. Values are handed over, not copied.

        Raises:
            ConfigurationError: `output_data["shared"]` is no mapping.
        """
        shared = {} if self.output_data is None else self.output_data.get("shared")
        shared = {} if shared is None else shared
        if not isinstance(shared, Mapping):
            raise ConfigurationError(
                f"output_data['shared'] of {self.phase_id} must be a dict of items for later phases, "
                f"not {type(shared).__name__}"
            )
        return PhaseContext(
            workflow_id=self.workflow_id,
            run_id=self.run_id,
            phase_id=next_phase_id,
            task=self.task,
            work_dir=self.work_dir,
            shared_state={**self.shared_state, **shared},
            input_data=self.output_data,
            api_keys=self.api_keys,
            callbacks=self.callbacks,
        )


@dataclass
class PhaseResult:
    """How a phase ended.

    Attributes:
        status: its final status.
        context: the context the workflow goes on with.
        error: why it failed.
        chat_history: the messages exchanged, each with `name`, `role` and `content`.
        timing: durations in seconds; `total` is the whole phase.
    """

    status: PhaseStatus
    context: PhaseContext
    error: str | None = None
    chat_history: list[dict[str, Any]] = field(default_factory=list)
    timing: dict[str, float] = field(default_factory=dict)

    def __repr__(self) -> str:
        return short_repr(self)

    @property
    def succeeded(self) -> bool:
        """Whether the phase completed; a skipped one did not."""
        return self.status == PhaseStatus.COMPLETED

    @property
    def needs_approval(self) -> bool:
        """Whether the phase waits for a human."""
        return self.status == PhaseStatus.WAITING_APPROVAL

    @property
    def output_data(self) -> dict[str, Any]:
        """What the phase made: the context's `output_data`."""
        return self.context.output_data

    @property
    def error_message(self) -> str | None:
        """The same as `error`."""
        return self.error

    def _repr_html_(self) -> str:
        from cmbagent import _pages

        return _pages.result_html(self)


class Phase(ABC):
    """One unit of a workflow.

    A subclass gives its type and name and does its work in `execute`. With `config_class` set to a dataclass
    derived from `PhaseConfig`, the phase gets that config when it is built from a definition or without one.
    """

    config_class: ClassVar[type[PhaseConfig] | None] = None
    _status: PhaseStatus = PhaseStatus.PENDING

    def __init__(self, config: Any = None) -> None:
        """Keep the config; without one, build the default config of the class."""
        if config is None:
            config = self.config_class() if self.config_class else PhaseConfig(phase_type=self.phase_type)  # type: ignore[call-arg]
        self.config = config
        self._status = PhaseStatus.PENDING

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self._status.value}>"

    @property
    @abstractmethod
    def phase_type(self) -> str:
        """The type under which the phase is registered."""

    @property
    @abstractmethod
    def display_name(self) -> str:
        """The phase's name for people."""

    @property
    def status(self) -> PhaseStatus:
        """Where the phase stands."""
        return self._status

    @abstractmethod
    async def execute(self, context: PhaseContext) -> PhaseResult:
        """Do the phase's work.

        Args:
            context: task, directories and state; results go into its `output_data`.

        Returns:
            The outcome. An exception ends the workflow and reaches the caller as it is.
        """

    def validate_input(self, context: PhaseContext) -> list[str]:
        """Return what is wrong with the input, one sentence each; an empty list lets the phase start.

        Args:
            context: what `execute` would be given.
        """
        return []

    def get_required_agents(self) -> list[str]:
        """Return the names of the agents the phase may call."""
        return []

    def get_output_schema(self) -> dict[str, Any]:
        """Return a JSON schema of the phase's `output_data`."""
        return {}

    def can_skip(self, context: PhaseContext) -> bool:
        """Return whether the workflow goes on without this phase.

        Args:
            context: what `execute` would be given.
        """
        return not self.config.enabled
