"""The runs of a server: begun, taken up, steered, and let go when it ends."""

from __future__ import annotations

import logging
import os
import threading
import time
import uuid
import warnings
from collections.abc import Mapping
from pathlib import Path

from cmbagent._stream import EventLog
from cmbagent.approvals.elsewhere import ElsewhereApprovalManager
from cmbagent.backend.live import BusyError, Live, Mode
from cmbagent.backend.settings import Settings
from cmbagent.backend.standing import header_keys, told_status
from cmbagent.errors import CmbagentError, ConfigurationError
from cmbagent.store import UNFINISHED, RunInfo, Store
from cmbagent.utils import get_api_keys_from_env
from cmbagent.workflows import WorkflowDefinition, WorkflowExecutor

logger = logging.getLogger("cmbagent.server")

SHUTDOWN_SECONDS = 10.0
"""How long runs may take to let go when the server ends."""


class StatusError(CmbagentError, RuntimeError):
    """What is asked of a run does not go with its status."""


class Runs:
    """Starts runs, takes them up, and steers them, here or in other processes.

    All methods may be called from any thread; they wait until what is asked is done or on its way, never for
    a run's end.

    Args:
        store: where runs are kept.
        settings: the server's.
    """

    def __init__(self, store: Store, settings: Settings) -> None:
        self.store = store
        self.settings = settings
        self._live: dict[str, Live] = {}
        self._lock = threading.Lock()
        self._ending = False

    def live(self, run_id: str) -> Live | None:
        """Return the run if it goes on in this process."""
        return self._live.get(run_id)

    def log(self, run_id: str) -> EventLog | None:
        """Return the events of a run that goes on in this process."""
        live = self._live.get(run_id)
        return None if live is None else live.executor._log

    def told(self) -> dict[str, str]:
        """Return where runs stand that this process knows better than the store: id → word."""
        with self._lock:
            here = list(self._live.values())
        return {live.run_id: word for live in here if (word := live.word) is not None}

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

    def stop(self, info: RunInfo, mode: Mode) -> None:
        """Stop a run, here or in another process.

        Args:
            info: the run.
            mode: `now` cuts what is going on; `after_phase` lets the phase that runs come to its end.

        Raises:
            StatusError: it is not going on, or was told so already.
        """
        live = self._live.get(info.id)
        ended = info.status not in UNFINISHED
        if ended or (live is None and info.owner is None):
            raise StatusError(f"Cannot stop run with status '{info.status}'")
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
        """Have all runs let go, and none begin meanwhile; another server takes them up."""
        with self._lock:
            self._ending = True
            here = list(self._live.values())
        for live in here:
            live.executor._control.interrupt()
        limit = time.monotonic() + SHUTDOWN_SECONDS
        held = [live for live in here if not live.join(limit - time.monotonic())]
        if held:
            logger.warning("%d runs did not let go within %g s", len(held), SHUTDOWN_SECONDS)
        # Their leases are given back by the store's own thread.
        let_go = [live.run_id for live in here if live not in held]
        while time.monotonic() < limit and any(self._is_held(run_id) for run_id in let_go):
            time.sleep(0.01)
        # An application may be begun again.
        self._ending = False

    def _is_held(self, run_id: str) -> bool:
        row = self.store._core.run(run_id)
        return row is not None and row["owner"] is not None

    def _keys(self, keys: Mapping[str, str] | None) -> dict[str, str | None]:
        return {**get_api_keys_from_env(), **(keys or {})}

    def _launch(self, executor: WorkflowExecutor) -> None:
        live = Live(executor, self._forget)
        with self._lock:
            if self._ending:
                raise BusyError("this server is ending; ask another, or try again later")
            if live.run_id in self._live:
                raise StatusError(f"Run '{live.run_id}' is going on already")
            if len(self._live) >= self.settings.max_runs:
                raise BusyError(
                    f"{self.settings.max_runs} runs are in progress, as many as this server allows; "
                    "try again later"
                )
            self._live[live.run_id] = live
        live.begin()

    def _forget(self, live: Live) -> None:
        with self._lock:
            del self._live[live.run_id]
