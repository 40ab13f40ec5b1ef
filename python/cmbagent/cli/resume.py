"""`cmbagent resume`: going on with a run that is kept."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from cmbagent.cli import _complete, _detach
from cmbagent.cli._app import AsJson, Debug, Detach, Plain, Quiet, UsageError, Yes, app
from cmbagent.cli._definition import asks, missing_keys
from cmbagent.cli._perform import manager_of, perform
from cmbagent.cli._screen import Screen
from cmbagent.cli._store import name_of, the_run, the_store
from cmbagent.cli._told import Told

if TYPE_CHECKING:
    from cmbagent.store import RunInfo, Store


@app.command()
def resume(
    context: typer.Context,
    run: Annotated[
        str | None,
        typer.Argument(
            metavar="[RUN|DIR]",
            help="A run's id, its beginning, or its work directory; else the newest.",
            autocompletion=_complete.runs,
        ),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Go on although something has changed since.")
    ] = False,
    max_cost: Annotated[float | None, typer.Option(min=0, help="The run's limit in dollars.")] = None,
    max_tokens: Annotated[int | None, typer.Option(min=0, help="The run's limit in tokens.")] = None,
    max_llm_calls: Annotated[int | None, typer.Option(min=0, help="The run's limit of model calls.")] = None,
    max_wall_seconds: Annotated[float | None, typer.Option(min=0, help="The run's limit in seconds.")] = None,
    yes: Yes = False,
    detach: Detach = False,
    plain: Plain = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Go on with a run that a crash, a stop or an error has ended, or end its pause.

    What is finished is not repeated. Without an argument the newest run that can be resumed is meant; a
    terminal asks first.
    """
    limits = {
        "max_cost": max_cost,
        "max_tokens": max_tokens,
        "max_llm_calls": max_llm_calls,
        "max_wall_seconds": max_wall_seconds,
    }
    limits = {name: value for name, value in limits.items() if value is not None}
    told = Told(debug, as_json)
    with told:
        store = the_store()
        info = _newest(store, yes) if run is None else the_run(store, run)
        if info.owner is not None and info.status == "paused":
            store.demand(info.id, "resume")
            where = f"in process {info.owner['pid']} on {info.owner['host']}"
            told.say({"run": info.id, "demand": "resume"}, f"Run {info.id} goes on, {where}.")
            return
        manager = _detach.manager() if detach else manager_of(as_json)
        executor = _executor(store, info, force, quiet, limits, manager)
        if detach:
            _detach.begin(told, context, executor)
            return
        perform(told, executor, Screen(quiet, plain, as_json))


def _newest(store: Store, yes: bool) -> RunInfo:
    from cmbagent.approvals.choice import is_interactive

    found = next((info for info in store.runs() if info.resumable and info.parent is None), None)
    if found is None:
        raise UsageError(f"The store {store.path} has no run that can be resumed; `cmbagent runs` lists all.")
    if yes:
        return found
    if not is_interactive():
        raise UsageError(f"Name the run, or say --yes to the newest: {name_of(found)}")
    typer.confirm(f"Resume {name_of(found)}?", default=True, abort=True)
    return found


def _executor(
    store: Store, info: RunInfo, force: bool, quiet: bool, limits: dict[str, Any], manager: Any
) -> Any:
    from cmbagent.errors import ConfigurationError
    from cmbagent.phases import PhaseRegistry
    from cmbagent.utils import get_api_keys_from_env
    from cmbagent.workflows import WorkflowExecutor

    phases = info.about.get("workflow", {}).get("phases") or []
    unknown = [p["type"] for p in phases if p["type"] not in PhaseRegistry.list_all()]
    if unknown:
        raise UsageError(
            f"Run {info.id} has phases that only your own program knows: {', '.join(unknown)}. Resume it "
            f"there: import what registers them, then cmbagent.resume({info.id!r})."
        )
    open_questions = any(not each["settled"] and not each["answer"] for each in store.questions(info.id))
    if manager is None and open_questions and any(asks(phase) for phase in phases):
        raise UsageError(
            f"Run {info.id} asks a question, and standard input is no terminal. Answer it with cmbagent "
            f"approve {info.id} or reject, resume it in a terminal, or set CMBAGENT_HITL."
        )
    keys = get_api_keys_from_env()
    try:
        executor = WorkflowExecutor.resume(
            info.id,
            store,
            api_keys=keys,
            approval_manager=manager,
            verbose=False if quiet else None,
            force=force,
            limits=limits,
        )
    except ConfigurationError as error:
        raise UsageError(str(error)) from None
    lacks = [] if info.status == "completed" else missing_keys(executor.phases, keys)
    if lacks:
        raise UsageError("No key for " + "; for ".join(lacks) + ".")
    return executor
