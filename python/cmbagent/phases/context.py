"""The state of a whole workflow, as the caller gets it back."""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Mapping, Sized
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from cmbagent._jsonable import jsonable
from cmbagent._repr import short_repr
from cmbagent.errors import ConfigurationError
from cmbagent.phases.base import PhaseContext, PhaseResult

_FORMAT = "cmbagent.WorkflowContext"


@dataclass
class WorkflowContext:
    """What a workflow run knows; `WorkflowExecutor.run` returns it.

    Attributes:
        workflow_id: the workflow's id.
        run_id: the run's id.
        task: the user's task, verbatim.
        work_dir: absolute path of the work directory.
        api_keys: provider name → key; never shown, never saved.
        plan: the plan's steps.
        plan_file_path: the plan on disk.
        current_step: the step reached, 1-based; 0 before the first.
        total_steps: how many steps the plan has.
        step_results: what the control phase returned per step.
        step_summaries: what each step found, as text.
        approvals: every checkpoint's outcome.
        user_feedback: what humans wrote at checkpoints.
        shared_state: carried from phase to phase.
        agent_state: kept for phases of the user's.
        output_files: absolute paths of the files made.
        phase_timings: phase_id → seconds, and `total` once the run has ended.
        metadata: phase_id → the phase's `output_data`.
    """

    workflow_id: str
    run_id: str
    task: str
    work_dir: str
    api_keys: Any = field(repr=False)
    plan: list[dict[str, Any]] | None = None
    plan_file_path: str | None = None
    current_step: int = 0
    total_steps: int = 0
    step_results: list[Any] = field(default_factory=list)
    step_summaries: list[str] = field(default_factory=list)
    approvals: list[dict[str, Any]] = field(default_factory=list)
    user_feedback: list[str] = field(default_factory=list)
    shared_state: dict[str, Any] = field(default_factory=dict)
    agent_state: dict[str, Any] = field(default_factory=dict)
    output_files: list[str] = field(default_factory=list)
    phase_timings: dict[str, float] = field(default_factory=dict)
    metadata: dict[str, Any] = field(default_factory=dict)

    def _repr_html_(self) -> str:
        from cmbagent import _pages

        return _pages.context_html(self)

    def __repr__(self) -> str:
        return short_repr(self)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as a dict of the same objects, without `api_keys` and `agent_state`."""
        left_out = {"api_keys", "agent_state"}
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name not in left_out}

    def to_json(self) -> str:
        """Return `to_dict()` as JSON; what JSON cannot hold is written as its text, endless things as `…`."""
        return json.dumps(jsonable(self.to_dict()), indent=2)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the context to a file that `load` reads.

        API keys are left out, and so are items of `shared_state` whose name starts with `_`. Values other
        than plain ones (numbers, text, containers, dates, paths) are replaced by a note of their type.

        Args:
            path: the file; missing parent directories are created.
        """
        from cmbagent.workflows.restore import plain

        state = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "api_keys"}
        state["shared_state"] = {k: v for k, v in self.shared_state.items() if not str(k).startswith("_")}
        target = Path(path).expanduser()
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(pickle.dumps({"format": _FORMAT, "state": plain(state)}, protocol=4))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> WorkflowContext:
        """Read a context that `save` wrote.

        The file is data: nothing in it is executed. `api_keys` is empty afterwards.

        Args:
            path: the file.

        Returns:
            The context.

        Raises:
            MissingFileError: there is no such file.
            ConfigurationError: the file is no saved context, or names something that could run code.
        """
        from cmbagent.workflows.restore import load_pickle

        saved = load_pickle(path)
        state = saved.get("state") if isinstance(saved, dict) and saved.get("format") == _FORMAT else None
        if not isinstance(state, dict):
            raise ConfigurationError(
                f"{path} is no saved workflow context; expected a file made by WorkflowContext.save"
            )
        known = {f.name for f in fields(cls)} - {"api_keys"}
        return cls(api_keys={}, **{k: v for k, v in state.items() if k in known})

    def to_phase_context(self, phase_id: str) -> PhaseContext:
        """Make the context of a phase that follows no other one.

        Args:
            phase_id: its `phase_id`.

        Returns:
            A context whose `shared_state` is this one's, with the plan and the steps beside it.
        """
        return PhaseContext(
            workflow_id=self.workflow_id,
            run_id=self.run_id,
            phase_id=phase_id,
            task=self.task,
            work_dir=self.work_dir,
            shared_state={
                "plan": self.plan,
                "current_step": self.current_step,
                "total_steps": self.total_steps,
                "step_results": self.step_results,
                "agent_state": self.agent_state,
                **self.shared_state,
            },
            api_keys=self.api_keys,
        )

    def update_from_phase_result(self, result: PhaseResult) -> None:
        """Take over what a phase made.

        Args:
            result: the phase's result; its `output_data` becomes `metadata[phase_id]`, the items under
                `shared` go into `shared_state`, and plan, steps, approvals and files into their fields.
        """
        phase_id, output = result.context.phase_id, result.context.output_data
        if result.timing:
            self.phase_timings[phase_id] = result.timing.get("total", 0)
        # Whatever a phase put out: an array or a table has no truth value.
        if output is None or (isinstance(output, Sized) and len(output) == 0):
            return
        self.metadata[phase_id] = output
        if not isinstance(output, Mapping):
            return
        shared = output.get("shared")
        shared = shared if isinstance(shared, Mapping) else {}
        self.shared_state.update(shared)
        self._take_plan(output, shared)
        self._take_steps(output, shared)
        self._take_approval(phase_id, output)
        files = output.get("output_files")
        if isinstance(files, list | tuple):
            self.output_files.extend(file for file in files if file not in self.output_files)

    def _take_plan(self, output: Mapping[str, Any], shared: Mapping[str, Any]) -> None:
        changes = (output.get("modifications"), shared.get("user_modifications"))
        edited = [each.get("plan") for each in changes if isinstance(each, Mapping)]
        plans = [*edited, shared.get("plan_steps"), output.get("final_plan")]
        steps = next((each for each in plans if isinstance(each, list) and each), None)
        if steps is not None:
            self.plan, self.total_steps = steps, len(steps)
        elif shared.get("plan") is not None:
            self.plan = shared["plan"]
        path = output.get("plan_file_path")
        if isinstance(path, str | os.PathLike) and str(path):
            self.plan_file_path = str(path)

    def _take_steps(self, output: Mapping[str, Any], shared: Mapping[str, Any]) -> None:
        results = output.get("step_results")
        if isinstance(results, list):
            self.step_results = results
            reached = [
                r["step"] for r in results if isinstance(r, Mapping) and isinstance(r.get("step"), int)
            ]
            self.current_step = max(reached, default=self.current_step)
        if "current_step" in shared:
            self.current_step = shared["current_step"]
        if isinstance(output.get("step_summaries"), list):
            self.step_summaries = output["step_summaries"]

    def _take_approval(self, phase_id: str, output: Mapping[str, Any]) -> None:
        if "approval_status" not in output:
            return
        outcome = {k: output.get(k) for k in ("approval_status", "user_feedback", "modifications")}
        self.approvals.append({"phase_id": phase_id, **outcome})
        if isinstance(outcome["user_feedback"], str) and outcome["user_feedback"]:
            self.user_feedback.append(outcome["user_feedback"])
