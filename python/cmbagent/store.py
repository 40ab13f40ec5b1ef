"""The store: one file with the records of all runs of a user, from which they are resumed.

It is the file that `store=` names, else `CMBAGENT_STORE`, else `$XDG_STATE_HOME/cmbagent/store.db`
(`~/.local/state/cmbagent/store.db`). `:memory:` in its place means that runs are not kept.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Union

from cmbagent import _core
from cmbagent.errors import ConfigurationError, JournalError

MEMORY = ":memory:"
"""In place of a store: runs are not kept."""

StoreLike = Union[str, "os.PathLike[str]", "Store", None]

UNFINISHED = ("pending", "running", "waiting_approval", "paused", "stopping")
"""The statuses of a run that goes on, or was held."""


@dataclass(frozen=True)
class RunInfo:
    """A run as the store knows it.

    Attributes:
        id: the run's id.
        workflow_id: its workflow.
        task: its task, verbatim.
        work_dir: absolute path of its work directory.
        status: a word: running, waiting_approval, paused, stopping, stopped, cancelled, failed, completed, or
            interrupted when its process has gone.
        usage: what it has spent, in the form of the events' `usage`; empty before it said so.
        created: seconds since 1970.
        updated: seconds since 1970 of the last change of its status.
        parent: the run whose phase made it, if one did.
        owner: `pid` and `host` of the process that runs it now, if one does.
        about: what it was begun with: `workflow`, `task`, `options`, `package`, ….
    """

    id: str
    workflow_id: str
    task: str
    work_dir: str
    status: str
    usage: dict[str, Any]
    created: float
    updated: float
    parent: str | None
    owner: dict[str, Any] | None
    about: dict[str, Any]

    @property
    def helper(self) -> bool:
        """Whether it is the run of a function such as `get_keywords`, which is called again, not resumed."""
        return (self.about.get("workflow") or {}).get("phases") == []

    @property
    def resumable(self) -> bool:
        """Whether `resume` has something to do: it is not completed, and no process runs it."""
        kept = self.about.get("imported") or self.helper
        return self.owner is None and self.status != "completed" and not kept


def _wanted(
    work_dir: str | os.PathLike[str] | None, workflow_id: str | None, status: str | None, top_level: bool
) -> dict[str, Any]:
    place = None if work_dir is None else real(work_dir)
    return {"work_dir": place, "workflow_id": workflow_id, "status": status, "top_level": top_level}


def _info(row: dict[str, Any]) -> RunInfo:
    about = row["about"] or {}
    return RunInfo(
        id=row["id"],
        workflow_id=about.get("workflow", {}).get("id", ""),
        task=about.get("task", ""),
        work_dir=row["work_dir"],
        status=row["status"],
        usage=row["usage"] or {},
        created=row["created"],
        updated=row["updated"],
        parent=row["parent"],
        owner=row["owner"],
        about=about,
    )


class Store:
    """A store of runs.

    Args:
        path: its file, made when there is none; `None` is the user's own.

    Raises:
        JournalError: it cannot be made or read, is no store, or was written by a newer version.
    """

    def __init__(self, path: str | os.PathLike[str] | None = None) -> None:
        self._core = _core.Store(None if path is None else os.fspath(path))

    @property
    def path(self) -> Path:
        """Its file."""
        return Path(self._core.path)

    @property
    def network(self) -> str | None:
        """The network file system it is on, such as `NFS`; `None` on a local disk."""
        return self._core.network

    @property
    def schema(self) -> int:
        """The version of its tables."""
        return self._core.schema

    def __repr__(self) -> str:
        return f"Store({str(self.path)!r})"

    def runs(
        self,
        work_dir: str | os.PathLike[str] | None = None,
        *,
        workflow_id: str | None = None,
        status: str | None = None,
        top_level: bool = False,
        limit: int | None = None,
        offset: int = 0,
    ) -> list[RunInfo]:
        """List the runs, the newest first.

        Args:
            work_dir: only those in this directory.
            workflow_id: only those of this workflow.
            status: only those that stand so, a word as `RunInfo.status` has it.
            top_level: only those that no phase of another run made.
            limit: how many at most; `None` means all.
            offset: how many are passed over.

        Returns:
            What is known of each.

        Raises:
            JournalError: the store cannot be read.
        """
        wanted = _wanted(work_dir, workflow_id, status, top_level)
        rows = self._core.runs({**wanted, "limit": limit, "offset": offset})
        return [_info(row) for row in rows]

    def count(
        self,
        work_dir: str | os.PathLike[str] | None = None,
        *,
        workflow_id: str | None = None,
        status: str | None = None,
        top_level: bool = False,
    ) -> int:
        """Return how many runs `runs` finds with these arguments, on all pages together.

        Raises:
            JournalError: the store cannot be read.
        """
        return self._core.count_runs(_wanted(work_dir, workflow_id, status, top_level))

    def run(self, run_id: str) -> RunInfo:
        """Return the run with this id, or whose id begins so.

        Args:
            run_id: the id, or its beginning.

        Raises:
            ConfigurationError: there is none, or more than one begins so.
        """
        row = self._core.run(run_id)
        if row is not None:
            return _info(row)
        near = [info for info in self.runs() if run_id and info.id.startswith(run_id)]
        if len(near) == 1:
            return near[0]
        if near:
            ids = ", ".join(info.id for info in near[:5])
            raise ConfigurationError(f"more than one run begins with {run_id!r}: {ids}; give more of its id")
        raise ConfigurationError(
            f"the store {self.path} has no run {run_id!r}; `cmbagent runs` lists those it has"
        )

    def find(self, target: str | os.PathLike[str]) -> RunInfo:
        """Return the run that `target` means: a run's id, its beginning, or a work directory's newest run.

        Args:
            target: an existing directory is taken for a work directory.

        Raises:
            ConfigurationError: there is none.
        """
        if Path(target).expanduser().is_dir():
            runs = [info for info in self.runs(target) if info.parent is None and not info.helper]
            if not runs:
                raise ConfigurationError(
                    f"the store {self.path} knows of no run in {real(target)}; "
                    "`cmbagent runs` lists those it has"
                )
            return runs[0]
        return self.run(os.fspath(target))

    def records(self, run_id: str, start: int = 1) -> list[dict[str, Any]]:
        """Return a run's records.

        Args:
            run_id: the run's whole id.
            start: the number of the first one, from 1.

        Returns:
            Dicts of `seq`, `at` (unix seconds), `position` and `entry`.
        """
        records: list[dict[str, Any]] = self._core.records(run_id, start)
        return records

    def events(
        self, run_id: str, start: int = 1, limit: int | None = None
    ) -> list[tuple[str, dict[str, Any]]]:
        """Return a run's events from number `start` on, as `docs/events.md` lists them.

        Args:
            run_id: the run.
            start: the first number.
            limit: how many at most; `None` means all.

        Returns:
            Pairs of kind and fields.
        """
        records = self._core.events(run_id, start, limit)
        about = (self._core.run(run_id) or {}).get("about") or {} if records else {}
        phases = [phase["type"] for phase in about.get("workflow", {}).get("phases", [])]
        events = []
        for record in records:
            entry, position = record["entry"], record["position"]
            index, within = position["phase"], position["phase"] < len(phases)
            common = {
                "run_id": run_id,
                "seq": record["seq"],
                "at": record["at"],
                "phase": phases[index] if within else "",
                "phase_index": index if within else 0,
                "step": position["step"],
                "agent": "",
            }
            events.append((entry["kind"], {**common, **entry["data"]}))
        return events

    def questions(self, run_id: str) -> list[dict[str, Any]]:
        """Return what a run has asked.

        Args:
            run_id: the run's whole id.

        Returns:
            Dicts of `id`, `asked` (unix seconds), `question`, `answer` and `settled`.
        """
        questions: list[dict[str, Any]] = self._core.questions(run_id)
        return questions

    def answer(
        self,
        run_id: str,
        question: str,
        resolution: str,
        user_feedback: str | None = None,
        modifications: dict[str, Any] | None = None,
    ) -> None:
        """Answer a question of a run; one that is not running finds the answer when it is resumed.

        Args:
            run_id: the run.
            question: the question's id.
            resolution: one of the question's options, or its past form (`approved`).
            user_feedback: free text.
            modifications: changes, such as `{"plan": […]}`.

        Raises:
            ConfigurationError: the resolution is none of the options, or the changed plan cannot be
                carried out.
            JournalError: there is no such open question.
        """
        from cmbagent.approvals import ApprovalRequest

        asked = next((each["question"] for each in self.questions(run_id) if each["id"] == question), None)
        if asked is None:
            raise JournalError(
                f"run {run_id} has no question {question!r}; `cmbagent show {run_id}` lists those it has"
            )
        names = ("step_id", "checkpoint_type", "context_snapshot", "message", "options")
        request = ApprovalRequest(run_id, **{name: asked[name] for name in names})
        result = request.accept(resolution, user_feedback, modifications)
        self._core.answer(run_id, question, result.resolution, result.user_feedback, result.modifications)

    def demand(self, run_id: str, what: str) -> None:
        """Demand something of a run that some process runs, on this host or elsewhere.

        Args:
            run_id: the run.
            what: `stop` (before the next phase), `cancel` (now), `pause`, `resume`.

        Raises:
            JournalError: no process runs it.
        """
        self._core.demand(run_id, what)

    def delete(self, run_id: str) -> None:
        """Delete a run's records; its work directory stays as it is.

        Args:
            run_id: the run's whole id.

        Raises:
            JournalError: a process runs it, or there is no such run.
        """
        self._core.delete(run_id)

    def with_children(self, runs: Iterable[RunInfo]) -> list[RunInfo]:
        """Return these runs, each once, and those that their phases made, the newest first."""
        found = {info.id for info in runs}
        known = self.runs()
        size = -1
        while size != len(found):
            size = len(found)
            found |= {info.id for info in known if info.parent in found}
        return [info for info in known if info.id in found]

    def delete_all(self, runs: Iterable[RunInfo]) -> None:
        """Delete the records of several runs, and give the disk back what they took.

        Args:
            runs: the runs.

        Raises:
            JournalError: a process runs one of them; those before it are deleted.
        """
        for info in runs:
            self.delete(info.id)
        self._core.shrink()

    def prune(self, days: float) -> list[RunInfo]:
        """Delete the records of runs that ended, or were left, more than `days` days ago.

        Args:
            days: may be a fraction.

        Returns:
            The runs that were deleted, those that their phases made included.
        """
        old = self.older_than(days)
        self.delete_all(old)
        return old

    def older_than(self, days: float) -> list[RunInfo]:
        """List the runs that ended, or were left, more than `days` days ago, and those that they made."""
        limit = time.time() - days * 86400
        old = (info for info in self.runs() if info.owner is None and info.updated < limit)
        return self.with_children(old)


def open_store(store: StoreLike) -> Store | None:
    """Open what a `store=` argument names.

    Returns:
        The store; `None` when runs are not to be kept.
    """
    if isinstance(store, Store):
        return store
    named = os.environ.get("CMBAGENT_STORE", "").strip() if store is None else os.fspath(store)
    if named == MEMORY:
        return None
    return Store(named or None)


def real(path: str | os.PathLike[str]) -> str:
    """Return a directory's one absolute path, symbolic links resolved."""
    return os.path.realpath(Path(path).expanduser())
