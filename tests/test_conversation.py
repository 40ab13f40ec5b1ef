"""`human_in_the_loop`: an agent works in turns, a human says what comes next (check 38)."""

import json
from functools import partial

import pytest

from cmbagent import human_in_the_loop
from cmbagent.approvals import AutoApprovalManager, ConsoleApprovalManager
from cmbagent.approvals.request import ApprovalResult
from cmbagent.errors import OverLimitError
from cmbagent.testing import Fault, ModelServer, code, notes
from scripted import run

FIRST = code(
    "from pathlib import Path\nPath('data').mkdir(exist_ok=True)\nPath('data/a.txt').write_text('1')\n"
    "print('A = 41')",
    filename="a.py",
)
SECOND = code(
    "from pathlib import Path\nprint('file is there:', Path('data/a.txt').exists())", filename="b.py"
)


def says(*words):
    """A manager that answers one after the other; a text stands for `continue` with that feedback."""
    left = list(words)

    def policy(request):
        word = left.pop(0)
        if word in request.options:
            return ApprovalResult(word, None, None)
        return ApprovalResult("continue", word, None)

    return AutoApprovalManager(policy)


def test_check_38_turns_until_the_human_is_content(tmp_path):
    server = ModelServer({"engineer": [FIRST, SECOND]})
    manager = says("Add one.", "approve")
    result = run(
        server, human_in_the_loop, "compute A", max_rounds=50, agent="engineer", engineer_model="gpt-4o",
        work_dir=str(tmp_path), approval_manager=manager,
    )  # fmt: skip
    server.assert_calls(["engineer", "engineer"])
    assert server.calls[0].model == "gpt-4o"
    second = server.prompts("engineer")[1]
    assert "compute A" in second and "A = 41" in second and "Add one." in second
    assert "A = 41" in manager.answered[0][0].message and "approve" in manager.answered[0][0].options
    # What the first turn made is still there in the second.
    assert "file is there: True" in result["final_context"]["previous_steps_execution_summary"]
    names = [message["name"] for message in result["chat_history"]]
    assert names[0] == "user" and names.count("admin") == 1 and names.count("engineer") == 2
    assert [m["content"] for m in result["chat_history"] if m["name"] in ("user", "admin")] == [
        "compute A",
        "Add one.",
    ]
    assert set(result) >= {
        "chat_history", "final_context", "engineer", "engineer_nest", "engineer_response_formatter",
        "researcher", "researcher_response_formatter", "initialization_time", "execution_time",
    }  # fmt: skip
    assert (result["status"], result["engineer"].llm_config["model"]) == ("completed", "gpt-4o")
    assert result["execution_time"] >= 0 and json.dumps(result)
    (times,) = tmp_path.glob("timing_report_*.json")
    assert set(json.loads(times.read_text())) == {"initialization_time", "execution_time", "total_time"}
    rows = [r for f in (tmp_path / "cost").glob("*.json") for r in json.loads(f.read_text())]
    assert sum(r["Total Tokens"] for r in rows if r["Agent"] == "engineer") > 0


def test_at_a_terminal_the_human_says_what_comes_next(tmp_path):
    server, lines = ModelServer({"engineer": [FIRST, SECOND]}), iter(["c", "Add one.", "approve"])
    manager = ConsoleApprovalManager(lambda prompt: next(lines), lambda text: None)
    result = run(server, human_in_the_loop, "compute A", tmp_path, approval_manager=manager)
    assert [m["content"] for m in result["chat_history"] if m["name"] == "admin"] == ["Add one."]
    assert "Add one." in server.prompts("engineer")[1] and next(lines, None) is None


def test_where_nobody_sits_there_is_one_turn(tmp_path):
    server = ModelServer({"researcher": notes("# Why")})
    result = run(server, human_in_the_loop, "why", tmp_path, initial_agent="researcher")
    assert (server.agents(), result["status"]) == (["researcher"], "completed")
    assert server.calls[0].model == "gpt-4o-2024-11-20"


def test_an_answer_without_words_and_one_that_ends_it(tmp_path):
    server = ModelServer({"engineer": [FIRST, SECOND, SECOND]})
    result = run(server, human_in_the_loop, "t", tmp_path, approval_manager=says("continue", "abort"))
    assert [m["content"] for m in result["chat_history"] if m["name"] == "admin"] == ["Go on."]
    assert len(server.calls) == 2


def test_a_script_that_fails_is_told_to_the_human(tmp_path):
    server = ModelServer({"engineer": [code("1 / 0", filename="a.py"), SECOND], "second_opinion": "no"})
    manager = says("Do something else.", "approve")
    result = run(server, human_in_the_loop, "t", tmp_path, max_n_attempts=0, approval_manager=manager)
    assert "failed after" in manager.answered[0][0].message
    assert result["status"] == "completed" and len(server.calls) == 2


def test_the_limit_on_calls_counts_all_turns_and_loses_nothing(tmp_path):
    server = ModelServer({"engineer": [FIRST, SECOND]})
    result = run(
        server, human_in_the_loop, "t", tmp_path, max_rounds=1, approval_manager=says("More.", "More.")
    )
    assert result["status"] == "failed" and "max_rounds=1" in result["error"]
    assert "A = 41" in result["final_context"]["previous_steps_execution_summary"]


def test_trouble_in_the_first_turn_is_raised(tmp_path):
    with pytest.raises(ValueError, match=r"Unknown agent: enginer. Did you mean 'engineer'"):
        human_in_the_loop("t", tmp_path, agent="enginer")
    with pytest.raises(RuntimeError, match="401"):
        run(ModelServer({"engineer": Fault.status(401, "no")}), human_in_the_loop, "t", tmp_path)
    with pytest.raises(TypeError, match="Did you mean 'max_rounds'"):
        human_in_the_loop("t", tmp_path, max_round=3)


def test_options_and_warnings(tmp_path):
    server = ModelServer({"engineer": FIRST})
    settings = {"agent_llm_configs": {"engineer": {"model": "gpt-mine"}}}
    with pytest.warns(UserWarning, match="ignores use_massgen"):
        run(server, human_in_the_loop, "t", tmp_path, options=settings, use_massgen=True)
    assert server.calls[0].model == "gpt-mine"


def test_recorded_and_replayed(tmp_path):
    tape, server = tmp_path / "tape.jsonl", ModelServer({"engineer": [FIRST, SECOND]})
    says_so = {"approval_manager": says("More.", "approve")}
    first = run(server, human_in_the_loop, "t", tmp_path / "a", record=tape, **says_so)
    says_so = {"approval_manager": says("More.", "approve")}
    again = human_in_the_loop("t", tmp_path / "b", replay=tape, strict=True, **says_so)
    names = [message["name"] for message in first["chat_history"]]
    assert [message["name"] for message in again["chat_history"]] == names
    assert len(server.calls) == 2


def test_a_limit_ends_it_and_a_higher_one_goes_on(tmp_path):
    server = ModelServer({"engineer": [FIRST, SECOND]})
    with server, server.environment():
        talk = partial(human_in_the_loop, "t", tmp_path, api_keys=server.api_keys)
        with pytest.raises(OverLimitError, match="max_llm_calls"):
            talk(approval_manager=says("More."), limits={"max_llm_calls": 1})
        again = talk(resume=True, approval_manager=says("approve"), limits={"max_llm_calls": 2})
    server.assert_calls(["engineer", "engineer"])
    assert again["status"] == "completed"
    assert [m["content"] for m in again["chat_history"] if m["name"] == "admin"] == ["More."]
