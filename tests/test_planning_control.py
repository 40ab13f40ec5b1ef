import json
import pickle
import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

import cmbagent
from cmbagent import deep_research, planning_and_control, planning_and_control_context_carryover
from cmbagent.errors import ConfigurationError, MissingFileError
from cmbagent.phases import PhaseRegistry
from cmbagent.testing import Fault, code, ideas, notes
from scripted import STEPS, KeyManager, models, run, two_steps

# Arguments


def test_names_are_one_function():
    assert deep_research is planning_and_control_context_carryover
    assert cmbagent.workflows.deep_research is deep_research


def test_arguments_reach_the_phases(planned, tmp_path):
    keys = KeyManager()
    call = planned(
        deep_research,
        "the task",
        n_plan_reviews=2,
        max_plan_steps=6,
        max_n_attempts=10,
        max_rounds_planning=11,
        max_rounds_control=500,
        planner_model="p",
        plan_reviewer_model="r",
        engineer_model="e",
        researcher_model="s",
        idea_maker_model="i",
        idea_hater_model="h",
        plan_instructions="pi",
        engineer_instructions="ei",
        researcher_instructions="ri",
        hardware_constraints="hc",
        default_llm_model="d",
        default_formatter_model="f",
        researcher_filename="report",
        work_dir=tmp_path / "new" / "dir",
        api_keys=keys,
    )
    planning, control = call.phases
    assert Path(call.work_dir).is_dir()
    assert call.api_keys is keys
    assert planning["type"] == "planning"
    assert planning["config"] == {
        "max_rounds": 11,
        "max_plan_steps": 6,
        "n_plan_reviews": 2,
        "planner_model": "p",
        "plan_reviewer_model": "r",
        "plan_instructions": "pi",
        "engineer_instructions": "ei",
        "researcher_instructions": "ri",
        "hardware_constraints": "hc",
        "max_n_attempts": 10,
        "params": {"default_llm_model": "d", "default_formatter_model": "f"},
    }
    config = control["config"]
    assert (config["max_rounds"], config["max_n_attempts"]) == (500, 10)
    assert (config["engineer_model"], config["researcher_model"]) == ("e", "s")
    assert (config["idea_maker_model"], config["idea_hater_model"]) == ("i", "h")
    assert (config["engineer_instructions"], config["researcher_instructions"]) == ("ei", "ri")
    assert config["params"]["researcher_filename"] == "report"
    assert config["params"]["fail_softly"] is True


@pytest.mark.parametrize("function", [deep_research, planning_and_control])
def test_texts_may_be_none(planned, tmp_path, function):
    texts = ["plan_instructions", "engineer_instructions", "researcher_instructions", "hardware_constraints"]
    call = planned(function, "t", work_dir=str(tmp_path), **dict.fromkeys(texts))
    config = PhaseRegistry.create_from_dict(call.phases[0]).config
    assert [getattr(config, name) for name in texts] == [""] * 4


def test_arguments_of_other_versions(planned, tmp_path):
    with pytest.warns(
        UserWarning, match="ignores make_vector_stores, skip_rag_agents, use_massgen:"
    ) as caught:
        planned(
            deep_research, "t", work_dir=tmp_path, use_massgen=False, skip_rag_agents=True,
            make_vector_stores=False,
            web_surfer_model="w", retrieve_assistant_model="w", camb_context_model="c", plot_judge_model="j",
            parent_run_id="p", stage_name="s", approval_config=None,
        )  # fmt: skip
    assert len(caught) == 1
    with pytest.raises(TypeError, match="unexpected keyword argument 'nonsense'"):
        deep_research("t", work_dir=tmp_path, nonsense=1)


def test_default_work_dir(planned, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert planned(deep_research, "t").work_dir == str(Path.cwd() / "cmbagent_output")


def test_approvals(planned, tmp_path):
    def types(**kwargs):
        return [p["type"] for p in planned(deep_research, "t", work_dir=tmp_path, **kwargs).phases]

    asked = ["planning", "hitl_checkpoint", "control"]
    config = SimpleNamespace(mode=SimpleNamespace(value="before_each_step"), timeout_seconds=9)
    assert types() == ["planning", "control"]
    assert types(hitl_after_planning=True) == asked
    assert types(approval_config=SimpleNamespace(mode="after_planning")) == asked
    assert types(approval_config=SimpleNamespace(mode="none")) == ["planning", "control"]
    _, checkpoint, control = planned(deep_research, "t", work_dir=tmp_path, approval_config=config).phases
    assert checkpoint["config"] == {"checkpoint_type": "after_planning", "timeout_seconds": 9}
    assert control["config"]["hitl_after_each_step"] is True
    on_error = planned(
        deep_research, "t", work_dir=tmp_path, approval_config=SimpleNamespace(mode="on_error")
    )
    assert on_error.phases[-1]["config"]["hitl_enabled"] is True


# Restarting


@pytest.fixture
def earlier(tmp_path):
    (tmp_path / "planning").mkdir()
    (tmp_path / "planning" / "final_plan.json").write_text(json.dumps({"sub_tasks": STEPS}))
    (tmp_path / "context").mkdir()
    (tmp_path / "context" / "context_step_1.pkl").write_bytes(pickle.dumps({"main_task": "t"}))
    return tmp_path


def test_restart_skips_planning(planned, earlier):
    call = planned(deep_research, "t", work_dir=earlier, restart_at_step=2, hitl_after_planning=True)
    (control,) = call.phases
    params = control["config"]["params"]
    assert (params["preloaded_plan"], params["start_step"], params["keep_existing"]) == (STEPS, 2, True)
    assert params["restored_context"] == {"main_task": "t"}


@pytest.mark.parametrize("step", [-1, 0])
def test_no_restart(planned, earlier, step):
    assert len(planned(deep_research, "t", work_dir=earlier, restart_at_step=step).phases) == 2


def test_restart_that_cannot_work(earlier):
    with pytest.raises(MissingFileError, match=r"context_step_0\.pkl"):
        deep_research("t", work_dir=earlier, restart_at_step=1)
    with pytest.raises(ConfigurationError, match="has 2 steps"):
        deep_research("t", work_dir=earlier, restart_at_step=3)
    with pytest.raises(ConfigurationError, match="leave one of them out"):
        deep_research("t", work_dir=earlier, restart_at_step=2, clear_work_dir=True)
    with pytest.raises(FileNotFoundError, match="there is no plan at"):
        deep_research("t", work_dir=earlier / "other", restart_at_step=2)


# Whole runs, against scripted models


DEN_FENCE = re.compile(r"```[ \t]*(?:markdown)[ \t]*\r?\n(.*)\r?\n[ \t]*```", re.DOTALL)


def test_whole_run_as_a_paper_writer_calls_it(tmp_path):
    server = two_steps()
    result = run(
        server,
        planning_and_control_context_carryover,
        "the task",
        n_plan_reviews=1,
        max_plan_steps=6,
        max_n_attempts=10,
        max_rounds_control=500,
        hardware_constraints="",
        plan_instructions=None,
        work_dir=tmp_path / "experiment",
        api_keys=KeyManager(),
    )
    assert server.agents() == ["planner", "plan_reviewer", "planner", "engineer", "researcher"]
    last = next(m for m in result["chat_history"][::-1] if m["name"] == "researcher_response_formatter")
    body = re.sub(r"^<!--.*?-->\s*\n", "", DEN_FENCE.findall(last["content"])[0])
    assert body.startswith("# Report")
    assert "```python\nx\n```" in body
    assert body.rstrip().endswith("4.25 K")
    assert result["chat_history"][0]["content"] == "the task"
    assert result["chat_history"][0]["role"] == "assistant"
    assert result["planning_chat_history"]
    json.dumps([result["chat_history"], result["final_context"]])
    (plot,) = result["final_context"]["displayed_images"]
    assert Path(plot).is_absolute()
    shutil.move(plot, tmp_path)
    assert (tmp_path / "plot_1.png").exists()
    assert "### Step 1" in result["final_context"].get("previous_steps_execution_summary")
    assert (Path(result["final_context"]["work_dir"]) / "data").is_dir()
    assert result["final_context"].data["main_task"] == "the task"
    assert result["status"] == "completed"
    assert result["execution_time_control"] >= 0 and result["initialization_time_control"] >= 0
    assert result.phase_timings["total"] == result["total_time"]


def test_files_of_a_run(tmp_path):
    run(two_steps(), deep_research, "t", work_dir=tmp_path)
    plan = json.loads((tmp_path / "planning" / "final_plan.json").read_text())
    assert [set(s) for s in plan["sub_tasks"]] == [{"sub_task", "sub_task_agent", "bullet_points"}] * 2
    for number in (0, 1, 2):
        assert (tmp_path / "context" / f"context_step_{number}.pkl").exists()
    for number in (1, 2):
        control = tmp_path / "control"
        assert (control / "chats" / f"chat_history_step_{number}.json").exists()
        assert list((control / "cost").glob(f"cost_report_step_{number}_*.json"))
        assert list((control / "time").glob(f"timing_report_step_{number}_*.json"))
    assert cmbagent.load_context(tmp_path / "context" / "context_step_2.pkl")["main_task"] == "t"


def test_run_without_plots(tmp_path):
    server = two_steps(engineer=code("print(1)", filename="one.py"))
    assert run(server, deep_research, "t", work_dir=tmp_path)["final_context"]["displayed_images"] == []


def test_engineer_writes_into_the_control_directory(tmp_path):
    server = two_steps(engineer=code("open('results.md', 'w').write('x')", filename="w.py"))
    run(server, deep_research, "t", work_dir=tmp_path)
    assert (tmp_path / "control" / "results.md").read_text() == "x"


def test_restart_after_an_interrupted_run(tmp_path):
    with pytest.raises(cmbagent.CmbagentError):
        run(two_steps(researcher=Fault.status(401)), deep_research, "t", work_dir=tmp_path)
    server = two_steps(researcher=notes("# Again"))
    result = run(server, deep_research, "t", work_dir=tmp_path, restart_at_step=2)
    assert server.agents() == ["researcher"]
    assert "power 4.25 K" in server.prompts("researcher")[0]
    assert (tmp_path / "control" / "data" / "plot_1.png").exists()
    assert "### Step 1" in result["final_context"]["previous_steps_execution_summary"]


def test_exhausted_attempts_are_returned(tmp_path):
    server = two_steps(engineer=code("raise SystemExit(3)", filename="bad.py"))
    result = run(server, deep_research, "t", work_dir=tmp_path, max_n_attempts=1)
    assert result["status"] == "failed"
    assert "Step 1 failed after 2 attempts" in result["error"]
    assert server.agents().count("engineer") == 2
    assert result["chat_history"] and result["final_context"]


def test_missing_key_is_named(tmp_path, monkeypatch):
    with two_steps() as server:
        # An address of one's own may do without a key; Google's does not.
        monkeypatch.setenv("OPENAI_BASE_URL", server.variables["OPENAI_BASE_URL"])
        with pytest.raises(cmbagent.CmbagentError, match="GEMINI"):
            deep_research("t", work_dir=tmp_path, api_keys={"OPENAI": "x"}, engineer_model="gemini-2.5-pro")


def test_plain_planning_and_control(tmp_path):
    result = run(two_steps(), planning_and_control, "t", work_dir=str(tmp_path))
    names = [m["name"] for m in result["chat_history"]]
    assert "engineer" in names and "researcher_response_formatter" in names
    for name in ("planning", "control"):
        assert result[f"execution_time_{name}"] >= 0
        assert result[f"initialization_time_{name}"] >= 0
    assert list((tmp_path / "control" / "time").glob("timing_report_control_*.json"))
    assert not (tmp_path / "context").exists()


def test_ideas_as_a_paper_writer_reads_them(tmp_path):
    server = models([("idea_maker", "make ideas")], idea_maker=ideas(("Lensing", "measure it")))
    result = run(server, deep_research, "t", work_dir=tmp_path)
    content = next(m for m in reversed(result["chat_history"]) if m["name"] == "idea_maker_nest")["content"]
    assert "Project Idea:" in re.sub(r"\*\*Ideas\*\*\s*\n- Idea 1:", "Project Idea:", content)
