"""The runs of a server: they go on in a thread with an event loop of its own, away from the requests."""

from __future__ import annotations

import asyncio
import logging
import os
import threading
import time
import uuid
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from cmbagent.approvals.elsewhere import ElsewhereApprovalManager
from cmbagent.backend.settings import Settings
from cmbagent.errors import CmbagentError, ConfigurationError
from cmbagent.store import UNFINISHED, RunInfo, Store
from cmbagent.utils import get_api_keys_from_env
from cmbagent.workflows import WorkflowDefinition, WorkflowExecutor

Mode = Literal["now", "after_phase"]

logger = logging.getLogger("cmbagent.server")

START_SECONDS = 30.0
"""How long a run may take to begin."""

BLOCKED_SECONDS = 0.5
"""How long a run's first step may take before it counts as blocking its loop."""

SHUTDOWN_SECONDS = 10.0
"""How long runs may take to let go when the server ends."""


class BusyError(CmbagentError, RuntimeError):
    """As many runs as the server allows are in progress."""


class StatusError(CmbagentError, RuntimeError):
    """What is asked of a run does not go with its status."""


@dataclass
class Live:
    """A run that goes on in this process.

    Attributes:
        executor: what runs it.
        stopping: how it was told to stop, if it was.
        error: what it ended with.
    """

    executor: WorkflowExecutor
    stopping: Mode | None = None
    error: Exception | None = None


class Runs:
    """Starts runs, steers them, and takes up those that an earlier server has left.

    All methods may be called from any thread but the one of the runs; they wait until what is asked is done
    or on its way, never for a run's end.

    Args:
        store: where runs are kept.
        settings: the server's.
    """

    def __init__(self, store: Store, settings: Settings) -> None:
        self.store = store
        self.settings = settings
        self._live: dict[str, Live] = {}
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._starting = 0

    def live(self, run_id: str) -> Live | None:
        """Return the run if it goes on in this process."""
        return self._live.get(run_id)

    def count(self) -> int:
        """Return how many runs go on in this process."""
        return len(self._live)

    def place(self, work_dir: str | None) -> Path:
        """Return the directory that a `work_dir` of a request means.

        Args:
            work_dir: absolute, with `~`, or below the server's root; `None` is the root.

        Raises:
            ConfigurationError: it lies outside the server's root.
        """
        root = self.settings.base
        if "\0" in (work_dir or ""):
            raise ConfigurationError("work_dir has a character that no path may have")
        given = (
            Path(work_dir or "").expanduser()
            if work_dir and work_dir.startswith("~")
            else Path(work_dir or "")
        )
        place = Path(os.path.realpath(root / given))
        if place != root and root not in place.parents:
            raise ConfigurationError(
                f"work_dir must lie below this server's root {self.settings.root}; give a path relative to "
                "it, or start the server with another --root"
            )
        return place

    def start(
        self,
        workflow: WorkflowDefinition,
        task: str,
        work_dir: str | None = None,
        keys: Mapping[str, str] | None = None,
    ) -> WorkflowExecutor:
        """Begin a run; it is in the store when this returns.

        Args:
            workflow: what to run.
            task: the task.
            work_dir: the run gets a directory of its own below it; see `place`.
            keys: provider name → key, for this run alone and never kept; others come from the environment.

        Raises:
            ConfigurationError: `work_dir` lies outside the root, or the workflow cannot be run.
            BusyError: too many runs are in progress.
            JournalError: the store cannot be used.
        """
        run_id = str(uuid.uuid4())
        place = self.place(work_dir) / run_id
        executor = WorkflowExecutor(
            workflow,
            task,
            place,
            self._keys(keys),
            approval_manager=ElsewhereApprovalManager(),
            verbose=False,
            store=self.store,
        )
        executor.context.run_id = run_id
        executor._origin = {"server": True, "keys": sorted(keys or {})}
        self._launch(executor)
        return executor

    def take_up(
        self,
        info: RunInfo,
        keys: Mapping[str, str] | None = None,
        *,
        from_phase: int | None = None,
        force: bool = False,
    ) -> WorkflowExecutor:
        """Go on with a run that no process runs.

        Args:
            info: the run.
            keys: as for `start`.
            from_phase: have this phase (0-based) and those after it done anew.
            force: go on although a setting, a template or the package has changed.

        Raises:
            StatusError: it is being run, there is nothing left to do, or it lacks a key.
            ConfigurationError: it cannot be resumed, or has no such phase.
            BusyError: too many runs are in progress.
            JournalError: another process was faster, or something has changed.
        """
        if info.owner is not None:
            raise StatusError(f"Cannot resume run with status '{info.status}'")
        if info.status == "completed" and from_phase is None:
            raise StatusError("Cannot resume run with status 'completed'; retry takes a phase to do anew")
        lacking = [name for name in header_keys(info) if name not in (keys or {})]
        if lacking:
            raise StatusError(
                f"Run '{info.id}' needs key: it was started with the key of {', '.join(lacking)} in a "
                "header, which is not kept; send it again"
            )
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            executor = WorkflowExecutor.resume(
                info.id,
                self.store,
                api_keys=self._keys(keys),
                approval_manager=ElsewhereApprovalManager(),
                verbose=False,
                force=force,
            )
        for each in warned:
            logger.warning("%s", each.message)
        if from_phase is not None and not 0 <= from_phase < len(executor.phases):
            raise ConfigurationError(
                f"run '{info.id}' has no phase {from_phase}; expected 0 to {len(executor.phases) - 1}"
            )
        executor._from_phase = from_phase
        self._launch(executor)
        return executor

    def take_up_all(self) -> list[str]:
        """Go on with what earlier servers have left unfinished; those that need a key wait for it.

        Returns:
            The ids of the runs that go on.
        """
        taken = []
        for info in reversed(self.store.runs()):
            if info.parent is not None or not is_left(info) or header_keys(info):
                continue
            try:
                self.take_up(info)
            except (CmbagentError, ValueError, TypeError) as error:
                # One that cannot go on keeps no other from it; its status tells that it waits.
                logger.warning("run %s could not be taken up: %s", info.id, error)
            else:
                taken.append(info.id)
        return taken

    def stop(self, info: RunInfo, mode: Mode) -> None:
        """Stop a run, here or in another process.

        Args:
            info: the run.
            mode: `now` cuts what is going on; `after_phase` lets the phase that runs come to its end.

        Raises:
            StatusError: it is not going on, or was told so already.
        """
        live = self._live.get(info.id)
        if live is None and (info.owner is None or info.status not in UNFINISHED):
            raise StatusError(f"Cannot stop run with status '{told_status(info)}'")
        if live is not None:
            with self._lock:
                if live.stopping == "now" or (live.stopping and mode == "after_phase"):
                    raise StatusError("Cannot stop run with status 'stopping'")
                live.stopping = mode
            if mode == "now":
                live.executor.cancel()
            else:
                live.executor.stop()
        else:
            self.store.demand(info.id, "cancel" if mode == "now" else "stop")

    def pause(self, info: RunInfo) -> None:
        """Hold a run before what comes next.

        Raises:
            StatusError: it is not going on.
        """
        live = self._live.get(info.id)
        if live is not None and live.stopping is None:
            live.executor.pause()
        elif live is None and info.owner is not None and info.status in UNFINISHED:
            self.store.demand(info.id, "pause")
        else:
            raise StatusError(f"Cannot pause run with status '{told_status(info, live)}'")

    def go_on(self, info: RunInfo) -> None:
        """End the pause of a run that some process runs."""
        live = self._live.get(info.id)
        if live is not None:
            live.executor._control.resume()
        else:
            self.store.demand(info.id, "resume")

    def close(self) -> None:
        """Have all runs let go; the next server takes them up."""
        loop, thread = self._loop, self._thread
        if loop is None or thread is None:
            return
        left = list(self._live)
        limit = time.monotonic() + SHUTDOWN_SECONDS
        try:
            asyncio.run_coroutine_threadsafe(self._end(), loop).result(SHUTDOWN_SECONDS)
            # Their leases are given back by the store's own thread.
            while time.monotonic() < limit and any(self._is_held(run_id) for run_id in left):
                time.sleep(0.01)
        except TimeoutError:
            logger.warning("%d runs did not let go within %g s", self.count(), SHUTDOWN_SECONDS)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(0.5)
        self._loop = self._thread = None

    def _is_held(self, run_id: str) -> bool:
        row = self.store._core.run(run_id)
        return row is not None and row["owner"] is not None

    async def _end(self) -> None:
        for live in self._live.values():
            live.executor._control.interrupt()
        if self._tasks:
            await asyncio.wait(self._tasks)

    def _keys(self, keys: Mapping[str, str] | None) -> dict[str, str | None]:
        return {**get_api_keys_from_env(), **(keys or {})}

    def _launch(self, executor: WorkflowExecutor) -> None:
        with self._lock:
            if len(self._live) + self._starting >= self.settings.max_runs:
                raise BusyError(
                    f"{self.settings.max_runs} runs are in progress, as many as this server allows; "
                    "try again later"
                )
            self._starting += 1
        try:
            self._wait(executor)
        finally:
            with self._lock:
                self._starting -= 1

    def _wait(self, executor: WorkflowExecutor) -> None:
        given_up = threading.Event()
        begun = asyncio.run_coroutine_threadsafe(self._begin(executor, given_up), self._the_loop())
        limit = time.monotonic() + START_SECONDS
        while time.monotonic() < limit:
            try:
                return begun.result(BLOCKED_SECONDS)
            except TimeoutError:
                if begun.done():
                    return begun.result()
                # Its first phase computes without awaiting.
                if executor._journal is not None:
                    return None
        given_up.set()
        raise BusyError(
            f"no run could begin within {START_SECONDS:g} s: a phase computes without awaiting and holds up "
            "all runs; have it use asyncio.to_thread"
        )

    def _the_loop(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                self._thread = threading.Thread(
                    target=self._main, args=(self._loop,), name="cmbagent-runs", daemon=True
                )
                self._thread.start()
            return self._loop

    @staticmethod
    def _main(loop: asyncio.AbstractEventLoop) -> None:
        asyncio.set_event_loop(loop)
        try:
            loop.run_forever()
        finally:
            loop.close()

    async def _begin(self, executor: WorkflowExecutor, given_up: threading.Event) -> None:
        run_id = executor.context.run_id
        if given_up.is_set():
            return
        if run_id in self._live:
            raise StatusError(f"Run '{run_id}' is going on already")
        live = self._live[run_id] = Live(executor)
        task = asyncio.get_running_loop().create_task(self._run(live))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        # Its first step makes the log of this run; the run is in the store once that says anything, or ends.
        await asyncio.sleep(0)
        async for _ in executor._log.stream():
            break
        if live.error is not None and not executor._log.begun:
            raise live.error

    async def _run(self, live: Live) -> None:
        run_id = live.executor.context.run_id
        try:
            await live.executor.run()
        except Exception as error:
            # What went wrong later is in the run's own record; here it is only worth a line.
            live.error = error
            logger.info("run %s ended: %s", run_id, type(error).__name__)
        finally:
            del self._live[run_id]


def header_keys(info: RunInfo) -> list[str]:
    """Return the providers whose keys a run was given in a header."""
    keys: list[str] = info.about.get("origin", {}).get("keys", [])
    return keys


def is_left(info: RunInfo) -> bool:
    """Return whether a server has left the run without having finished it."""
    by_server = bool(info.about.get("origin", {}).get("server"))
    return by_server and info.owner is None and info.status == "interrupted"


def told_status(info: RunInfo, live: Live | None = None) -> str:
    """Return a run's status in a word, as clients are told it."""
    if live is not None:
        word = live.executor.get_status().get("status")
        if word in ("paused", "stopping"):
            return str(word)
    return info.status


def resumable(info: RunInfo, live: Live | None = None) -> str:
    """Return whether a run can be taken up: `yes`, `no`, or `needs key`."""
    # One that has ended is let go in a moment.
    going_on = info.status in UNFINISHED and (live is not None or info.owner is not None)
    if going_on or info.status == "completed" or info.about.get("imported") or info.helper:
        return "no"
    return "needs key" if header_keys(info) else "yes"
