import json

import pytest

from cmbagent import control
from cmbagent.errors import ConfigurationError, MissingFileError
from scripted import STEPS, run, two_steps


def test_arguments_reach_the_phase(planned, tmp_path):
    call = planned(
        control, "t", plan=STEPS, max_rounds=9, engineer_instructions=None, hardware_constraints="h",
        engineer_model="e", work_dir=tmp_path,
    )  # fmt: skip
    (phase,) = call.phases
    config = phase["config"]
    assert (phase["type"], config["max_rounds"], config["engineer_model"]) == ("control", 9, "e")
    assert "engineer_instructions" not in config  # The phase's own default, the empty text.
    assert config["params"] == {"preloaded_plan": STEPS, "files": "plain", "fail_softly": True}
    assert call.shared_state == {"planning_context": {"hardware_constraints": "h"}}


def test_planning_arguments_are_ignored(planned, tmp_path):
    with pytest.warns(UserWarning, match="ignores max_plan_steps, planner_model:"):
        planned(control, "t", plan=STEPS, planner_model="p", max_plan_steps=3, work_dir=tmp_path)
    with pytest.raises(TypeError, match="unexpected keyword argument 'nonsense'"):
        control("t", plan=STEPS, work_dir=tmp_path, nonsense=1)


def test_plan_is_needed(tmp_path):
    with pytest.raises(ConfigurationError, match=r"control\(\) needs plan="):
        control("t", work_dir=tmp_path)
    with pytest.raises(MissingFileError, match="there is no plan at"):
        control("t", plan=tmp_path / "none.json", work_dir=tmp_path)
    with pytest.raises(ValueError, match="holds no steps"):
        control("t", plan={"other": 1}, work_dir=tmp_path)


def test_plan_in_the_directory_that_is_cleared(planned, tmp_path):
    (tmp_path / "plan.json").write_text(json.dumps({"sub_tasks": STEPS}))
    call = planned(control, "t", plan=tmp_path / "plan.json", work_dir=tmp_path, clear_work_dir=True)
    assert call.phases[0]["config"]["params"]["preloaded_plan"] == STEPS
    assert list(tmp_path.iterdir()) == []


def test_whole_run(tmp_path):
    (tmp_path / "plan.json").write_text(json.dumps({"sub_tasks": STEPS}))
    (tmp_path / "mine.txt").write_text("x")
    server = two_steps()
    result = run(server, control, "t", plan=str(tmp_path / "plan.json"), work_dir=tmp_path)
    assert server.agents() == ["engineer", "researcher"]
    assert result["status"] == "completed"
    assert result["execution_time_control"] >= 0
    assert list((tmp_path / "control" / "time").glob("timing_report_control_*.json"))
    assert (tmp_path / "mine.txt").exists()
