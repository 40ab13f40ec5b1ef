"""Keeping a run in the store, and going on with one that is there."""

from __future__ import annotations

import functools
import platform
import re
import sys
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol, overload

from cmbagent import _core, _current
from cmbagent.approvals import QueueApprovalManager, default_manager
from cmbagent.display import make_display
from cmbagent.errors import ConfigurationError, JournalError
from cmbagent.store import RunInfo, Store, StoreLike, open_store, real
from cmbagent.workflows._limits import without_limits

if TYPE_CHECKING:
    import os
    from collections.abc import Callable

    from cmbagent.phases import WorkflowContext
    from cmbagent.workflows.composer import WorkflowDefinition, WorkflowExecutor

SECRET = "$secret"
"""Stands in the store for a value that looks like a key."""

_SECRET_NAME = re.compile(r"key|token|secret|passw|credential|authorization", re.IGNORECASE)
_COUNT_NAME = re.compile(r"tokens$|^max_", re.IGNORECASE)


def masked(value: Any, secrets: frozenset[str]) -> Any:
    """Copy containers, with the values of names that look like a key's, and known keys, left out."""
    if isinstance(value, Mapping):
        return {name: masked_item(name, item, secrets) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [masked(item, secrets) for item in value]
    if isinstance(value, str) and any(secret in value for secret in secrets):
        return SECRET
    return value


def masked_item(name: Any, item: Any, secrets: frozenset[str]) -> Any:
    """Mask one item of a mapping by its name, or what is in it."""
    hidden = isinstance(name, str) and _SECRET_NAME.search(name) and not _COUNT_NAME.search(name)
    return SECRET if hidden and isinstance(item, str) and item else masked(item, secrets)


def hidden_paths(value: Any, path: str = "") -> list[str]:
    """List where masked values stood."""
    if value == SECRET:
        return [path]
    items: Any = ()
    if isinstance(value, Mapping):
        items = value.items()
    elif isinstance(value, list):
        items = enumerate(value)
    return [found for name, item in items for found in hidden_paths(item, f"{path}.{name}".lstrip("."))]


def describe(executor: WorkflowExecutor) -> dict[str, Any]:
    """Say what a later life needs to make the executor again; no key is in it."""
    keys = executor.api_keys
    secrets = (
        frozenset(v for v in keys.values() if isinstance(v, str) and len(v) > 5)
        if isinstance(keys, Mapping)
        else frozenset()
    )
    private = {k: v for k, v in executor.initial_shared_state.items() if not str(k).startswith("_")}
    return {
        "workflow": masked(executor.workflow.to_dict(), secrets),
        "task": executor.task,
        "options": masked(executor.options, secrets),
        "limits": executor.limits,
        "rates": executor.rates,
        "initial_shared_state": masked(private, secrets),
        "tape": {"record": executor.record, "replay": executor.replay, "strict": executor.strict},
        "package": _core.__version__,
        "python": platform.python_version(),
        "argv": sys.argv[:1],
        "origin": executor._origin,
    }


def differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Name what differs between what a run was begun with and what it would go on with."""
    found = [f"the {name}" for name in ("task", "options") if then.get(name) != now.get(name)]
    before, after = then.get("workflow", {}), now["workflow"]
    if before.get("id") != after["id"]:
        found.append(f"the workflow ({before.get('id')!r} then, {after['id']!r} now)")
    old, new = before.get("phases", []), after["phases"]
    kinds = [[phase["type"] for phase in phases] for phases in (old, new)]
    if kinds[0] != kinds[1]:
        found.append(f"the phases ({' → '.join(kinds[0])} then, {' → '.join(kinds[1])} now)")
    else:
        for index, (one, other) in enumerate(zip(old, new, strict=True)):
            # A limit may be raised from one life to the next.
            one, other = (without_limits(each.get("config") or {}) for each in (one, other))
            names = sorted({*one, *other}, key=str)
            changed = [str(name) for name in names if one.get(name) != other.get(name)]
            if changed:
                found.append(f"{', '.join(changed)} of phase {index} ({kinds[1][index]})")
    return found


async def begin(executor: WorkflowExecutor) -> _core.Journal | None:
    """Take the executor's run over for this process.

    Returns:
        Its journal; `None` when the run is not kept.

    Raises:
        JournalError: the store cannot be used, or another process runs the run.
        WorkDirError: another run works in the directory.
    """
    above = _current.get()
    # Before anything is waited for: runs that a phase makes at once keep their order on a tape.
    own_tape = executor.record is not None or executor.replay is not None
    executor._number_within = None if above is None or own_tape else above.next_number()
    if above is not None and not above.durable:
        return None
    try:
        store = open_store(executor.store)
    except JournalError as error:
        if executor.store is not None:
            raise
        warnings.warn(f"this run will not survive a crash: {error}", RuntimeWarning, stacklevel=4)
        return None
    if store is None:
        return None
    about = describe(executor)
    guards = any(phase.phase_type in ("planning", "control") for phase in executor.phases)
    # One that a phase made may be there from an earlier life of that phase.
    expected = executor._resuming or above is not None
    then = store._core.about(executor.context.run_id)[0] if expected else None
    resuming = then is not None
    if then is not None:
        changed = differences(then, about)
        if changed and not executor._forced:
            raise JournalError(
                f"run {executor.context.run_id} was begun with something else: {'; '.join(changed)} differ. "
                "Pass force=True to go on all the same (what is finished stays), or begin a new run"
            )
    journal = await store._core.begin(
        executor.context.run_id,
        about,
        real(executor.work_dir),
        parent=None if above is None else above.run_id,
        root=None if above is None else above.root_id,
        guards=guards,
        # One that was deleted meanwhile is not begun again.
        rewind=resuming or executor._resuming,
    )
    if resuming and journal.attempt is not None:
        executor._attempt = journal.attempt
        if executor._from_phase is not None:
            journal.rewind(executor._from_phase)
    return journal


def load(
    target: str | Any | None,
    store: StoreLike,
    *,
    run_id: str | None = None,
) -> tuple[Store, RunInfo, dict[str, Any]]:
    """Find a run and what it was begun with.

    Raises:
        ConfigurationError: it is not there, or cannot be resumed.
    """
    opened = open_store(store)
    if opened is None:
        raise ConfigurationError(
            "there is no store to resume from: CMBAGENT_STORE is :memory:, so runs are not kept; unset it"
        )
    wanted = run_id if run_id is not None else target
    if wanted is None:
        raise ConfigurationError("say what to resume: run_id=…, or the work directory of a run")
    info = opened.find(wanted) if run_id is None else opened.run(run_id)
    if info.about.get("imported"):
        raise ConfigurationError(
            f"run {info.id} was imported: it can be shown and replayed, not resumed, for what it would load "
            "is somebody else's"
        )
    if info.helper:
        raise ConfigurationError(
            f"run {info.id} was made by the function {info.workflow_id}; call that again, it is not resumed"
        )
    about, lost = opened._core.about(info.id)
    if about is None:
        raise ConfigurationError(
            f"run {info.id} was deleted meanwhile; `cmbagent runs` lists those there are"
        )
    hidden = hidden_paths(about)
    if lost or hidden:
        names = ", ".join([*lost, *hidden])
        warnings.warn(
            f"run {info.id} is resumed without what could not be kept: {names}", RuntimeWarning, stacklevel=4
        )
    return opened, info, without_hidden(about)


def without_hidden(value: Any) -> Any:
    """Leave masked values out: a key comes from the environment or the caller again."""
    if isinstance(value, dict):
        return {name: without_hidden(item) for name, item in value.items() if item != SECRET}
    if isinstance(value, list):
        return [without_hidden(item) for item in value if item != SECRET]
    return value


def tell_how_to_go_on(executor: WorkflowExecutor, why: str) -> None:
    """Say on standard error how the run is resumed, when it is kept and its display is not turned off.

    The command line has words of its own, and says them always.
    """
    words = executor._resume_words
    if executor.durable and (words or make_display(executor.verbose) is not None):
        sys.stderr.write(f"{why}. To go on: {words or resume_call(executor)}\n")
        sys.stderr.flush()


def resume_call(executor: WorkflowExecutor) -> str:
    """Return the call that goes on with the executor's run."""
    store = executor.store
    named = "" if store is None else f", store={str(store.path if isinstance(store, Store) else store)!r}"
    return f"cmbagent.resume({executor.context.run_id!r}{named})"


def executor_of(
    cls: type[WorkflowExecutor],
    run_id: str | None = None,
    store: StoreLike = None,
    *,
    work_dir: str | os.PathLike[str] | None = None,
    api_keys: Any = None,
    callbacks: Any = None,
    approval_manager: Any = None,
    workflow: WorkflowDefinition | None = None,
    verbose: bool | None = None,
    limits: Mapping[str, Any] | None = None,
    force: bool = False,
) -> WorkflowExecutor:
    """Make the executor of a run that a crash, a stop or an error has ended; `run` then goes on with it.

    What is finished is not repeated: finished phases are taken up as they were, finished model calls and
    scripts of the phase that was under way are replayed from their records. A call or script that was
    cut short is made again. The plan's step whose failure ended the run is done anew.

    Args:
        cls: the class of the executor.
        run_id: the run, or the beginning of its id.
        store: where it is kept; `None` is the user's own store.
        work_dir: in place of `run_id`: the newest run in this directory.
        api_keys: as for the executor; keys are never kept.
        callbacks: as for the executor.
        approval_manager: as for the executor.
        workflow: a changed definition; needs `force`.
        verbose: as for the executor.
        limits: the run's limits from now on, such as `{"max_cost": 5}`; those left out stay as they were.
        force: go on although the workflow, the task, a setting or a template has changed.

    Returns:
        An executor whose `run` or `run_sync` goes on with the run.

    Raises:
        ConfigurationError: there is no such run.
        JournalError: another process runs it, or something has changed and `force` is not set; both are
            raised by `run`.
    """
    from cmbagent.workflows.composer import WorkflowDefinition

    opened, info, about = load(work_dir, store, run_id=run_id)
    if approval_manager is None and any(not asked["settled"] for asked in opened.questions(info.id)):
        # What a human was asked is not approved by itself now, for want of a terminal.
        approval_manager = default_manager() or QueueApprovalManager()
    executor = cls(
        workflow or WorkflowDefinition.from_dict(about["workflow"]),
        about["task"],
        info.work_dir,
        api_keys,
        callbacks,
        approval_manager,
        about["initial_shared_state"],
        verbose=verbose,
        store=opened,
        options={
            **about["options"],
            "rates": about.get("rates"),
            **(about.get("limits") or {}),
            **(limits or {}),
        },
        **about["tape"],
    )
    executor.context.run_id = info.id
    executor._resuming, executor._forced = True, force
    return executor


class _TakeUp(Protocol):
    def __call__(
        self,
        run_id: str | None = None,
        store: StoreLike = None,
        *,
        work_dir: str | os.PathLike[str] | None = None,
        api_keys: Any = None,
        callbacks: Any = None,
        approval_manager: Any = None,
        workflow: WorkflowDefinition | None = None,
        verbose: bool | None = None,
        limits: Mapping[str, Any] | None = None,
        force: bool = False,
    ) -> WorkflowExecutor: ...


class ResumeMethod:
    """`resume` of an executor ends a pause; that of the class takes up a run that is kept."""

    @overload
    def __get__(self, instance: None, owner: type[WorkflowExecutor]) -> _TakeUp: ...
    @overload
    def __get__(self, instance: WorkflowExecutor, owner: type[WorkflowExecutor]) -> Callable[[], None]: ...
    def __get__(self, instance: WorkflowExecutor | None, owner: type[WorkflowExecutor]) -> Any:
        """Return the one or the other."""
        if instance is not None:
            return instance._control.resume
        method = functools.partial(executor_of, owner)
        return functools.update_wrapper(method, executor_of)


def resume(
    target: str | os.PathLike[str],
    *,
    store: StoreLike = None,
    api_keys: Any = None,
    callbacks: Any = None,
    approval_manager: Any = None,
    verbose: bool | None = None,
    limits: Mapping[str, Any] | None = None,
    force: bool = False,
) -> WorkflowContext:
    """Go on with a run that a crash, a stop or an error has ended, and wait for its end.

    Args:
        target: the run's id, its beginning, or the work directory whose newest run is meant.
        store: where it is kept; `None` is the user's own store.
        api_keys: provider name → key; `None` reads the environment. Keys are never kept.
        callbacks: see `cmbagent.callbacks`.
        approval_manager: asks humans.
        verbose: `True` shows the run, `False` does not, `None` leaves it to the environment.
        limits: the run's limits from now on, such as `{"max_cost": 5}`; those left out stay as they were.
        force: go on although a setting, a template or the package has changed.

    Returns:
        The workflow's context, as `WorkflowExecutor.run_sync` returns it.

    Raises:
        ConfigurationError: there is no such run.
        JournalError: another process runs it, or something has changed.
        Exception: as for `WorkflowExecutor.run`.
    """
    from cmbagent.workflows.composer import WorkflowExecutor

    # Where a directory is taken, an id is too.
    executor = WorkflowExecutor.resume(
        store=store,
        work_dir=target,
        api_keys=api_keys,
        callbacks=callbacks,
        approval_manager=approval_manager,
        verbose=verbose,
        limits=limits,
        force=force,
    )
    return executor.run_sync()
