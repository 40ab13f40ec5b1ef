"""Helper functions that act through a run of their own: so their calls are limited, costed and told of."""

from __future__ import annotations

import os
import time
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from cmbagent.phases.base import Phase, PhaseConfig, PhaseContext, PhaseResult, PhaseStatus
from cmbagent.utils import resolve_work_dir
from cmbagent.workflows.composer import WorkflowDefinition, WorkflowExecutor

if TYPE_CHECKING:
    from cmbagent._core import RunHandle

T = TypeVar("T")
Work = Callable[["RunHandle"], Awaitable[T]]


class HelperPhase(Phase):
    """The one phase of such a run; it is in no registry.

    Args:
        name: its type.
        title: its name for people.
        work: what it does with the run; what it returns is the function's result.
        options: its `config.params`.
    """

    def __init__(self, name: str, title: str, work: Work[Any], options: Mapping[str, Any]) -> None:
        self._name, self._title, self._work = name, title, work
        super().__init__(PhaseConfig(phase_type=name, params=dict(options)))

    @property
    def phase_type(self) -> str:
        """The helper's name."""
        return self._name

    @property
    def display_name(self) -> str:
        """The helper's name for people."""
        return self._title

    async def execute(self, context: PhaseContext) -> PhaseResult:
        """Do the work; its result is `output_data["result"]`."""
        started = time.time()
        context.output_data = {"result": await self._work(context.run)}
        return PhaseResult(PhaseStatus.COMPLETED, context, timing={"total": time.time() - started})


def perform(
    name: str,
    title: str,
    work: Work[T],
    task: str,
    work_dir: str | os.PathLike[str] | None,
    *,
    api_keys: Any = None,
    callbacks: Any = None,
    verbose: bool | None = None,
    options: Mapping[str, Any] | None = None,
) -> T:
    """Do some work in a run.

    Args:
        name: the run's name: its workflow's id and its phase's type.
        title: the name for people.
        work: gets the run, and returns the result.
        task: what the run is about.
        work_dir: where files go.
        api_keys: provider name → key, or any object that can be subscripted so; `None` reads the environment.
        callbacks: see `cmbagent.callbacks`.
        verbose: `True` shows the run, `False` does not, `None` leaves it to the environment.
        options: settings of the phase, see `WorkflowExecutor`.

    Returns:
        What `work` returned.
    """
    executor = WorkflowExecutor(
        WorkflowDefinition(id=name, name=title),
        task,
        work_dir,
        api_keys,
        callbacks,
        verbose=verbose,
    )
    executor.phases = [HelperPhase(name, title, work, options or {})]
    executor.run_sync()
    result: T = executor.results[-1].output_data["result"]
    return result


def make_place(work_dir: str | os.PathLike[str] | None) -> Path:
    """Make the work directory, and return its absolute path."""
    place = Path(resolve_work_dir(work_dir))
    place.mkdir(parents=True, exist_ok=True)
    return place
