import datetime
import json
import pickle
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from cmbagent.errors import ConfigurationError, MissingFileError
from cmbagent.phases import PhaseContext, PhaseResult, PhaseStatus, WorkflowContext

STEPS = [{"sub_task": "a", "sub_task_agent": "engineer", "bullet_points": ["b"]}]


def workflow_context(**kwargs):
    return WorkflowContext("w", "r", "the task", "/tmp/x", {"OPENAI": "sk-secret-key"}, **kwargs)


def result(output, phase_id="phase_0_planning", total=1.5):
    context = PhaseContext("w", "r", phase_id, "the task", "/tmp/x", output_data=output)
    return PhaseResult(PhaseStatus.COMPLETED, context, timing={"total": total})


def test_to_dict_and_json():
    context = workflow_context(plan=STEPS, metadata={"path": Path("/a")})
    assert list(context.to_dict()) == [
        "workflow_id", "run_id", "task", "work_dir", "plan", "plan_file_path", "current_step", "total_steps",
        "step_results", "step_summaries", "approvals", "user_feedback", "shared_state", "output_files",
        "phase_timings", "metadata",
    ]  # fmt: skip
    assert json.loads(context.to_json())["plan"] == STEPS
    assert "sk-secret-key" not in context.to_json() + repr(context)


def test_save_and_load(tmp_path):
    when = datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC)
    rows = [1, (2, {3}), b"x"]
    context = workflow_context(
        plan=STEPS,
        shared_state={
            "_approval_manager": object(),
            "rows": rows,
            "again": rows,
            "when": when,
            7: Path("/p"),
        },
        metadata={"odd": lambda: None, "api_keys": {"OPENAI": "sk-secret-key"}, "nan": float("nan")},
        agent_state={"deep": {"api_keys": "sk-secret-key"}},
    )
    path = tmp_path / "new" / "context.pkl"
    context.save(path)
    assert b"sk-secret-key" not in path.read_bytes()
    assert "_approval_manager" in context.shared_state
    loaded = WorkflowContext.load(path)
    assert (loaded.task, loaded.plan, loaded.api_keys) == ("the task", STEPS, {})
    assert loaded.shared_state["rows"] == rows
    assert loaded.shared_state["again"] is loaded.shared_state["rows"]
    assert loaded.shared_state["when"] == when
    assert loaded.shared_state[7] == Path("/p")
    assert "_approval_manager" not in loaded.shared_state
    assert loaded.metadata["odd"] == {"$opaque": "builtins.function"}
    assert loaded.metadata["nan"] != loaded.metadata["nan"]


def test_load_refuses_what_is_no_context(tmp_path):
    with pytest.raises(MissingFileError, match="no file"):
        WorkflowContext.load(tmp_path / "none")
    (tmp_path / "a").write_bytes(pickle.dumps({"task": "x"}))
    with pytest.raises(ConfigurationError, match=r"WorkflowContext\.save"):
        WorkflowContext.load(tmp_path / "a")


def test_to_phase_context():
    context = workflow_context(plan=STEPS, shared_state={"mine": 1, "current_step": 9})
    phase = context.to_phase_context("phase_0_x")
    assert phase.shared_state == {
        "plan": STEPS, "current_step": 9, "total_steps": 0, "step_results": [], "agent_state": {}, "mine": 1,
    }  # fmt: skip
    assert (phase.phase_id, phase.input_data, phase.callbacks) == ("phase_0_x", {}, None)
    assert phase.api_keys is context.api_keys


def test_update_from_planning():
    context = workflow_context()
    output = {"plan_file_path": "/f.json", "shared": {"plan_steps": STEPS, "current_step": 0, "x": 1}}
    context.update_from_phase_result(result(output))
    assert (context.plan, context.total_steps, context.plan_file_path) == (STEPS, 1, "/f.json")
    assert context.shared_state == {"plan_steps": STEPS, "current_step": 0, "x": 1}
    assert context.metadata["phase_0_planning"] is output
    assert context.phase_timings == {"phase_0_planning": 1.5}


def test_update_from_control():
    context = workflow_context()
    steps = [{"step": 1}, {"step": 2}]
    output = {"step_results": steps, "step_summaries": ["### Step 1"], "output_files": ["/a", "/b"]}
    context.update_from_phase_result(result(output, "phase_1_control"))
    context.update_from_phase_result(result({"output_files": ["/b", "/c"]}, "phase_2_x"))
    assert (context.step_results, context.step_summaries, context.current_step) == (steps, ["### Step 1"], 2)
    assert context.output_files == ["/a", "/b", "/c"]


def test_update_from_checkpoint():
    context = workflow_context(plan=[{"sub_task": "old"}])
    output = {"approval_status": "modified", "user_feedback": "shorter", "modifications": {"plan": STEPS}}
    context.update_from_phase_result(result(output, "phase_1_hitl_checkpoint"))
    assert context.plan == STEPS
    assert context.approvals == [{"phase_id": "phase_1_hitl_checkpoint", **output}]
    assert context.user_feedback == ["shorter"]


@pytest.mark.parametrize("output", [{}, None, [1], "text"])
def test_update_from_odd_output(output):
    context = workflow_context()
    context.update_from_phase_result(result(output))
    assert context.metadata == ({"phase_0_planning": output} if output else {})
    assert context.plan is None


def test_update_from_arrays_and_tables():
    """They are neither true nor false."""
    array, table = np.zeros(3), pd.DataFrame({"x": [1]})
    context = workflow_context(plan=STEPS, plan_file_path="/f.json")
    names = [
        "plan_steps", "final_plan", "modifications", "output_files", "plan_file_path", "step_results",
        "user_feedback", "approval_status",
    ]  # fmt: skip
    for value in (array, table):
        context.update_from_phase_result(result(dict.fromkeys(names, value)))
        context.update_from_phase_result(result({"shared": dict.fromkeys(names, value)}, "phase_1_y"))
        context.update_from_phase_result(result(value, "phase_2_z"))
        assert context.metadata["phase_2_z"] is value
        assert context.shared_state["plan_steps"] is value
    assert (context.plan, context.plan_file_path, context.output_files) == (STEPS, "/f.json", [])
    assert context.user_feedback == []


def test_what_a_notebook_shows_of_a_context_fits_a_cell():
    from cmbagent.phases import PhaseContext, PhaseResult, PhaseStatus

    context = WorkflowContext(
        "w", "r", "Measure " * 500, "/d", {"OPENAI": "sk-secret"}, plan=[{}, {}], metadata={"a": "x" * 10**5}
    )
    text = repr(context)
    assert text.startswith("WorkflowContext(workflow_id='w', run_id='r', task='Measure ")
    assert "plan=<2 items>" in text and "metadata=<1: 'a'>" in text
    assert "shared_state" not in text and "sk-secret" not in text
    assert len(text) < 400
    phase = PhaseContext("w", "r", "p", "t", "/d", output_data={str(n): "y" * 10**4 for n in range(50)})
    assert "output_data=<50: '0', '1'" in repr(phase)
    result = PhaseResult(PhaseStatus.FAILED, phase, error="no data", chat_history=[{"content": "z" * 10**4}])
    assert "error='no data', chat_history=<1 item>" in repr(result)
    assert len(repr(result)) < 600
