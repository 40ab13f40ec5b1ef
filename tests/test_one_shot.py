import json
import threading
from pathlib import Path

import pytest

from cmbagent import one_shot
from cmbagent.callbacks import WorkflowCallbacks
from cmbagent.errors import ConfigurationError
from cmbagent.testing import ModelServer, code, notes
from scripted import run


def config(call):
    (phase,) = call.phases
    assert phase["type"] == "one_shot"
    return phase["config"]


def test_arguments_reach_the_phase(planned, tmp_path):
    call = planned(
        one_shot, "t", max_rounds=10, max_n_attempts=7, agent="researcher", engineer_model="gpt-oss-120b",
        researcher_model="r", default_llm_model="d", default_formatter_model="f",
        researcher_filename="report", max_n_plot_evals=2,
        work_dir=str(tmp_path), clear_work_dir=True,
    )  # fmt: skip
    assert config(call) == {
        "max_rounds": 10, "max_n_attempts": 7, "agent": "researcher", "evaluate_plots": False,
        "max_n_plot_evals": 2, "engineer_model": "gpt-oss-120b", "researcher_model": "r",
        "web_surfer_model": "gpt-4.1-2025-04-14", "plot_judge_model": "o3-mini-2025-01-31",
        "camb_context_model": "gpt-4.1-2025-04-14", "default_llm_model": "d", "default_formatter_model": "f",
        "researcher_filename": "report", "params": {"fail_softly": True},
    }  # fmt: skip


def test_other_names(planned, tmp_path):
    assert (
        config(planned(one_shot, "t", work_dir=tmp_path, initial_agent="researcher"))["agent"] == "researcher"
    )
    renamed = config(planned(one_shot, "t", work_dir=tmp_path, default_llm_model_arg="x"))
    assert renamed["default_llm_model"] == "x"
    assert config(planned(one_shot, "t", work_dir=tmp_path, inject_wrong_plot=False))["agent"] == "engineer"
    with pytest.warns(UserWarning, match="ignores inject_wrong_plot, massgen_verbose:"):
        planned(
            one_shot,
            "t",
            work_dir=tmp_path,
            inject_wrong_plot="axes",
            massgen_verbose=True,
        )
    with pytest.raises(TypeError, match="unexpected keyword argument 'nonsense'"):
        one_shot("t", work_dir=tmp_path, nonsense=1)


# Whole runs, against scripted models


WRITE = """
from pathlib import Path
Path("data").mkdir(exist_ok=True)
Path("data/result.csv").write_text("1")
print(6 * 7)
"""


def server():
    return ModelServer({"engineer": code(WRITE, filename="answer.py"), "researcher": notes("# Why")})


def test_engineer(tmp_path):
    models = server()
    result = run(
        models, one_shot, "six times seven", max_rounds=10, agent="engineer", engineer_model="gpt-oss-120b",
        work_dir=str(tmp_path), clear_work_dir=True,
    )  # fmt: skip
    assert models.agents() == ["engineer"]
    assert f"{result['execution_time']:.2f} {result['initialization_time']:.2f}"
    assert result["engineer"].name == "engineer"
    assert result["engineer"].llm_config["model"] == "gpt-oss-120b"
    context = result["final_context"]
    assert Path(context["work_dir"], context["database_path"], "result.csv").read_text() == "1"
    assert context["final_plan"] == "Step 1: solve the main task."
    assert context.data["displayed_images"] == []
    names = [m["name"] for m in result["chat_history"]]
    assert names[0] == "user" and {"engineer", "engineer_nest"} <= set(names)
    assert "42" in next(m["content"] for m in result["chat_history"] if m["name"] == "engineer_nest")
    json.dumps(result)
    assert list((tmp_path / "time").glob("timing_report_*.json"))
    assert list((tmp_path / "cost").glob("cost_report_*.json"))


def test_model_counts_for_the_agent(tmp_path):
    models = server()
    run(models, one_shot, "t", model="gpt-mine", work_dir=tmp_path)
    assert [call.model for call in models.calls] == ["gpt-mine"]


def test_researcher(tmp_path):
    models = server()
    result = run(
        models, one_shot, "why", initial_agent="researcher", researcher_filename="report", work_dir=tmp_path
    )
    assert models.agents() == ["researcher"]
    assert (tmp_path / "report.md").exists()
    assert any(m["name"] == "researcher_response_formatter" for m in result["chat_history"])


def test_cost_callback(tmp_path):
    heard = []
    run(server(), one_shot, "t", work_dir=tmp_path, callbacks=WorkflowCallbacks(on_cost_update=heard.append))
    assert isinstance(heard[-1]["total_cost"], (int, float))
    rows = sum(r["Total Tokens"] for r in heard[-1]["records"])
    assert heard[-1]["total_tokens"] == rows > 0


def test_unknown_agent(tmp_path):
    with pytest.raises((ConfigurationError, RuntimeError, ValueError), match="enginer"):
        run(server(), one_shot, "t", agent="enginer", work_dir=tmp_path)


def test_clearing_needs_true(tmp_path):
    (tmp_path / "mine.txt").write_text("x")
    run(server(), one_shot, "t", work_dir=tmp_path)
    assert (tmp_path / "mine.txt").exists()
    run(server(), one_shot, "t", work_dir=tmp_path, clear_work_dir=True)
    assert not (tmp_path / "mine.txt").exists()


def test_two_threads(tmp_path):
    results, here = {}, Path.cwd()
    with server() as models, models.environment():

        def one(name):
            results[name] = one_shot(f"task {name}", work_dir=tmp_path / name, api_keys={"OPENAI": "sk-test"})

        threads = [threading.Thread(target=one, args=(name,)) for name in "ab"]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert [results[n]["chat_history"][0]["content"] for n in "ab"] == ["task a", "task b"]
    assert all((tmp_path / n / "data" / "result.csv").exists() for n in "ab")
    assert Path.cwd() == here


def test_a_setting_of_the_wrong_kind_is_named(tmp_path):
    with pytest.raises(ConfigurationError) as raised:
        one_shot("t", work_dir=tmp_path, max_rounds="many")
    assert str(raised.value) == (
        'configuration of phase one_shot: max_rounds: invalid type: string "many", '
        "expected a whole number, 0 or more"
    )
