"""The files of a run: their names, that they are strict JSON, and that costs add up to what was billed."""

import json
import re
from pathlib import Path

import pytest

from cmbagent import control, deep_research, one_shot, planning_and_control
from cmbagent.callbacks import WorkflowCallbacks
from cmbagent.testing import Fault, ModelServer, Reply, code, notes, plan, review
from scripted import STEPS, run, two_steps

PRICES = {"gpt-4.1-2025-04-14": (2.0, 8.0), "o3-mini-2025-01-31": (1.1, 4.4)}
"""Dollars per million tokens, prompt and completion."""


def tree(root):
    """The files below a directory, with time stamps masked."""
    files = (str(f.relative_to(root)) for f in root.rglob("*") if f.is_file())
    return sorted(re.sub(r"\d{8}_\d{6}", "TIME", f) for f in files if not f.startswith(".store"))


def strictly(path):
    """A file's JSON; `NaN` and `Infinity`, which JSON does not have, are errors."""

    def refuse(token):
        raise AssertionError(f"{path} holds {token}")

    return json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)


PLANNING = [
    "planning/chats/chat_output_planning.json",
    "planning/cost/cost_report_TIME.json",
    "planning/final_plan.json",
    "planning/time/timing_report_planning_TIME.json",
]
STEP_FILES = [
    "control/chats/chat_history_step_1.json",
    "control/chats/chat_history_step_2.json",
    "control/chats/chat_output_engineer_step_1.json",
    "control/chats/chat_output_researcher_step_2.json",
    "control/chats/nested_chat_output_engineer_step_1_attempt_1.json",
    "control/codebase/plot.py",
    "control/data/plot_1.png",
]
# What the original does not have: the run's record, the full output of every script, and what confined it.
OURS = {".cmbagent-run.json"}


def compare(root, expected, log):
    found = tree(root)
    logs = [f for f in found if re.fullmatch(log, f)]
    told = [f for f in found if f.endswith("logs/sandbox.json")]
    assert (len(logs), len(told)) == (1, 1)
    assert [f for f in found if f not in {*OURS, *logs, *told}] == sorted(expected)


# Names


def test_files_of_deep_research(tmp_path):
    run(two_steps(), deep_research, "t", work_dir=tmp_path)
    expected = [
        *PLANNING, *STEP_FILES, "control/report.md",
        *(f"context/context_step_{n}.pkl" for n in (0, 1, 2)),
        *(f"control/cost/cost_report_step_{n}_TIME.json" for n in (1, 2)),
        *(f"control/time/timing_report_step_{n}_TIME.json" for n in (1, 2)),
    ]  # fmt: skip
    compare(tmp_path, expected, r"control/logs/.*\.log")


PLAIN = ["control/cost/cost_report_control_TIME.json", "control/time/timing_report_control_TIME.json"]


def test_files_of_planning_and_control(tmp_path):
    run(two_steps(), planning_and_control, "t", work_dir=tmp_path)
    compare(tmp_path, [*PLANNING, *STEP_FILES, "control/report.md", *PLAIN], r"control/logs/.*\.log")


def test_files_of_control(tmp_path):
    run(two_steps(), control, "t", plan=STEPS, work_dir=tmp_path)
    compare(tmp_path, [*STEP_FILES, "control/report.md", *PLAIN], r"control/logs/.*\.log")


def test_files_of_one_shot(tmp_path):
    common = [
        "chats/chat_output_step_1.json",
        "cost/cost_report_TIME.json",
        "time/timing_report_TIME.json",
    ]
    run(two_steps(), one_shot, "t", work_dir=tmp_path / "e")
    nested = "chats/nested_chat_output_engineer_step_1_attempt_1.json"
    compare(tmp_path / "e", [*common, nested, "codebase/plot.py", "data/plot_1.png"], r"logs/.*\.log")
    run(two_steps(), one_shot, "t", agent="researcher", work_dir=tmp_path / "r", researcher_filename="why")
    assert tree(tmp_path / "r") == sorted([*OURS, *common, "why.md"])
    assert not (tmp_path / "r" / "codebase").exists() and not (tmp_path / "r" / "data").exists()


# Contents


def test_check_19_20_contents_are_as_existing_readers_expect(tmp_path):
    run(two_steps(), deep_research, "t", work_dir=tmp_path)
    text = (tmp_path / "planning" / "final_plan.json").read_text()
    steps = json.loads(text)["sub_tasks"]
    assert list(steps[0]) == ["bullet_points", "sub_task", "sub_task_agent"]
    assert text == json.dumps({"sub_tasks": steps}, indent=4, ensure_ascii=False)
    script = (tmp_path / "control" / "codebase" / "plot.py").read_text()
    assert script.startswith("# filename: codebase/plot.py\n")
    report = (tmp_path / "control" / "report.md").read_text()
    assert report.startswith("<!-- filename: report.md -->\n") and not report.endswith("\n")

    history = strictly(tmp_path / "control" / "chats" / "chat_history_step_1.json")
    assert (history[0]["content"], history[0]["role"]) == ("t", "assistant")
    assert [m["name"] for m in history][-2:] == ["terminator", "_Group_Tool_Executor"]
    assert history[-1]["content"] == "Session terminated."
    chat = strictly(tmp_path / "planning" / "chats" / "chat_output_planning.json")
    assert all(list(m) == ["name", "content", "timestamp", "cost"] for m in chat)
    columns = ["Agent", "Model", "Cost", "Prompt Tokens", "Completion Tokens", "Total Tokens"]
    assert all(list(m["cost"]) == columns for m in chat)
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", chat[0]["timestamp"])
    nested = strictly(tmp_path / "control" / "chats" / "nested_chat_output_engineer_step_1_attempt_1.json")
    assert [m["name"] for m in nested] == ["engineer_response_formatter", "executor"]
    assert nested[1]["content"].startswith("Execution results:\n\nExecution output: ")

    (times,) = (tmp_path / "control" / "time").glob("timing_report_step_2_*.json")
    fields = strictly(times)
    assert list(fields) == ["initialization_time_control", "execution_time_control", "total_time"]
    assert fields["total_time"] == pytest.approx(sum(list(fields.values())[:2]))
    (times,) = (tmp_path / "planning" / "time").iterdir()
    assert "execution_time_planning" in strictly(times)
    (costs,) = (tmp_path / "planning" / "cost").iterdir()
    rows = strictly(costs)
    columns = ["Agent", "Cost ($)", "Prompt Tokens", "Completion Tokens", "Total Tokens", "Model"]
    assert all(list(row) == columns for row in rows)
    assert [row["Agent"] for row in rows] == ["planner", "plan reviewer", "Total"]


@pytest.mark.parametrize("function", [deep_research, planning_and_control, control, one_shot])
def test_lesson_31_json_is_json(tmp_path, function):
    arguments = {"plan": STEPS} if function is control else {}
    # A model without a price, and a script that prints what JSON does not have.
    engineer = code("print(float('nan'), float('inf'))", filename="nan.py")
    result = run(
        two_steps(engineer=engineer), function, "t", work_dir=tmp_path, engineer_model="m-local", **arguments
    )
    files = [f for f in tmp_path.rglob("*.json") if not f.name.startswith(".")]
    assert files
    for file in files:
        strictly(file)
    for part in (result["final_context"], result["chat_history"], result):
        assert json.loads(json.dumps(part, allow_nan=False)) == part


# Money


class Meter:
    """Answers with a different number of tokens each time, and counts what it bills."""

    def __init__(self):
        self.billed = []

    def __call__(self, answer):
        def reply(call):
            text = answer if isinstance(answer, str) else json.dumps(answer)
            number = len(self.billed) + 1
            tokens = (100 * number + 7, 10 * number + 3)
            self.billed.append((call.model, *tokens))
            return Reply(text, prompt_tokens=tokens[0], completion_tokens=tokens[1])

        return reply

    @property
    def tokens(self):
        return sum(prompt + completion for _, prompt, completion in self.billed)

    @property
    def dollars(self):
        return sum((p * PRICES[m][0] + c * PRICES[m][1]) / 1e6 for m, p, c in self.billed)


def test_check_31_lesson_19_costs_are_what_the_server_billed(tmp_path):
    """With a repaired plan, a script that fails first, and a call that is sent again but not billed."""
    bill = Meter()
    two = plan(("engineer", "compute"), ("researcher", "write"))
    server = ModelServer(
        {
            "planner": [bill("no plan"), bill(two), bill(two)],
            "plan_reviewer": [Fault.status(429, headers={"Retry-After": "0"}), bill(review("Name units."))],
            "engineer": [
                bill(code("raise ValueError(1)", filename="a.py")),
                bill(code("print(1)", filename="a.py")),
            ],
            "researcher": [bill(notes("# R"))],
        }
    )
    heard = []
    callbacks = WorkflowCallbacks(on_cost_update=heard.append)
    result = run(server, deep_research, "t", work_dir=tmp_path, callbacks=callbacks)
    assert len(bill.billed) == 7 and len(server.calls) == 8

    reports = [strictly(f) for f in sorted(tmp_path.glob("*/cost/*.json"))]
    assert len(reports) == len(heard) == 3
    for rows in reports:
        *agents, total = rows
        assert total["Agent"] == "Total" and total["Model"] is None
        for column in ("Cost ($)", "Prompt Tokens", "Completion Tokens", "Total Tokens"):
            assert total[column] == pytest.approx(sum(row[column] for row in agents))
    assert sum(rows[-1]["Total Tokens"] for rows in reports) == bill.tokens
    assert sum(rows[-1]["Prompt Tokens"] for rows in reports) == sum(b[1] for b in bill.billed)
    assert sum(rows[-1]["Cost ($)"] for rows in reports) == pytest.approx(bill.dollars)
    assert sum(h["total_tokens"] for h in heard) == bill.tokens
    assert sum(h["total_cost"] for h in heard) == pytest.approx(bill.dollars)
    for told in heard:
        assert told["total_tokens"] == sum(row["Total Tokens"] for row in told["records"])
        assert "Total" not in [row["Agent"] for row in told["records"]]
        assert Path(told["cost_json_path"]).exists()
    last = result["final_context"]
    assert last["cost_dataframe"] == strictly(Path(last["cost_report_path"])) == reports[1]


def test_costs_of_a_one_shot(tmp_path):
    bill = Meter()
    server = ModelServer({"engineer": bill(code("print(1)", filename="a.py"))})
    result = run(server, one_shot, "t", work_dir=tmp_path)
    total = result["final_context"]["cost_dataframe"][-1]
    assert (total["Total Tokens"], total["Cost ($)"]) == (bill.tokens, pytest.approx(bill.dollars))


def test_a_model_without_a_price_costs_null_and_is_named(tmp_path):
    heard = []
    callbacks = WorkflowCallbacks(on_cost_update=heard.append)
    run(two_steps(), one_shot, "t", work_dir=tmp_path, engineer_model="qwen3:30b", callbacks=callbacks)
    (report,) = (tmp_path / "cost").iterdir()
    assert [row["Cost ($)"] for row in strictly(report)] == [None, None]
    assert list(heard[0]["unpriced_models"]) == ["qwen3:30b"]
    assert heard[0]["total_tokens"] > 0
