"""Going on in directories that the original package wrote, without it being installed."""

import json
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

from cmbagent import deep_research, load_context
from cmbagent.errors import ConfigurationError
from cmbagent.testing import ModelServer, code, notes
from scripted import run

# Run apart: the classes of the original's pickles exist there and nowhere else.
ORIGINAL = r"""
import json, pickle, sys, types
from pathlib import Path

root, forgotten = Path(sys.argv[1]), json.loads(sys.argv[2])


def stand_in(module, name, **body):
    parts = module.split(".")
    for end in range(1, len(parts) + 1):
        path = ".".join(parts[:end])
        sys.modules.setdefault(path, types.ModuleType(path))
    cls = type(name, (), {"__module__": module, "__qualname__": name, **body})
    setattr(sys.modules[module], name, cls)
    return cls


def pydantic_state(self):
    return {"__dict__": dict(self.__dict__), "__pydantic_extra__": None,
            "__pydantic_fields_set__": {"data"}, "__pydantic_private__": None}


ContextVariables = stand_in(
    "autogen.agentchat.group.context_variables", "ContextVariables", __getstate__=pydantic_state
)
DataFrame = stand_in("pandas.core.frame", "DataFrame")
BlockManager = stand_in("pandas.core.internals.managers", "BlockManager")
Index = stand_in("pandas.core.indexes.base", "Index")

STEPS = [
    {"bullet_points": ["fit the peaks"], "sub_task": "fit", "sub_task_agent": "engineer"},
    {"bullet_points": ["take the ratio"], "sub_task": "compare", "sub_task_agent": "engineer"},
    {"bullet_points": ["say what it means"], "sub_task": "report", "sub_task_agent": "researcher"},
]


def write(name, text):
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return str(path)


rule = "=" * 48 + "    "


def nest(file, source, output):
    return (
        f"\nThe executed code was:\n\n```python\n# filename: codebase/{file}\n{source}\n```\n\n{rule}\n\n"
        "The output of the executed code was:\n\nExecution results:\n\n"
        f"Execution output: {output}\n\n\n{rule}\n{' ' * 24}"
    )


write_table = "open('data/peaks.csv', 'w').write('l,amp\\n220,5733\\n')"
sources = {1: ("fit.py", f"{write_table}\nprint('first peak at 220')"),
           2: ("ratio.py", "print('ratio is 0.4519')")}
outputs = {1: "first peak at 220", 2: "ratio is 0.4519"}
contents = {n: nest(*sources[n], outputs[n]) for n in (1, 2)}

write("planning/final_plan.json", json.dumps({"sub_tasks": STEPS}, indent=4, ensure_ascii=False))
write("control/data/peaks.csv", "l,amp\n220,5733\n")
image = write("control/data/peaks.png", "png")
for n, (file, source) in sources.items():
    write(f"control/codebase/{file}", f"# filename: codebase/{file}\n{source}")
    call = {"id": "c", "type": "function", "function": {"name": "record_status", "arguments": "{}"}}
    write(f"control/chats/chat_history_step_{n}.json", json.dumps([
        {"content": "the task", "role": "assistant"},
        {"content": "None", "tool_calls": [call], "name": "control", "role": "assistant"},
        {"content": "an earlier try", "name": "engineer_nest", "role": "user"},
        {"content": contents[n], "name": "engineer_nest", "role": "user"},
        {"content": "Session terminated.", "name": "_Group_Tool_Executor", "role": "tool"},
    ], indent=2))

for step in range(3):
    frame, manager, index = DataFrame(), BlockManager(), Index()
    manager.axes = [index]
    frame._mgr, frame._flags, frame.index = manager, {"allows": True}, index
    known = [n for n in range(1, step + 1) if n not in forgotten]
    context = ContextVariables()
    context.data = {
        "main_task": "the task", "improved_main_task": "the task", "final_plan": "\n**PLAN**\n",
        "number_of_steps_in_plan": 3, "current_plan_step_number": step or None,
        "previous_steps_execution_summary":
            "\n\n".join(f"### Step {n}\n{contents[n].strip()}" for n in known) or "\n",
        "displayed_images": [image] if step else [], "work_dir": str(root / "control"),
        "hardware_constraints": "a laptop", "engineer_append_instructions": "Use SI units.",
        "database_path": "data/", "codebase_path": "codebase/", "n_attempts": 0, "max_n_attempts": 3,
        "cost_dataframe": frame, "cost_report_path": "x", "perplexity_response": float("nan"),
    }
    path = root / f"context/context_step_{step}.pkl"
    path.parent.mkdir(exist_ok=True)
    with open(path, "wb") as file:
        pickle.dump(context, file)
"""


def original(root, *, forgotten=()):
    command = [sys.executable, "-I", "-c", ORIGINAL, str(root), json.dumps(list(forgotten))]
    subprocess.run(command, check=True, timeout=60)
    return root


def go_on(root, step):
    fit = code("print('first peak at 220')", filename="again.py")
    ratio = code("print('ratio is 0.4519')", filename="again.py")
    script = {
        "engineer": [fit, ratio][step - 1 :],
        "researcher": notes("# Meaning\n\nThe ratio is 0.4519."),
    }
    server = ModelServer(script)
    return server, run(server, deep_research, "the task", work_dir=root, restart_at_step=step)


@pytest.mark.parametrize(
    ("step", "agents"),
    [(1, ["engineer", "engineer", "researcher"]), (2, ["engineer", "researcher"]), (3, ["researcher"])],
)
def test_check_16_17_restart_in_a_directory_of_the_original(tmp_path, step, agents):
    original(tmp_path)
    server, result = go_on(tmp_path, step)
    server.assert_calls(agents)
    context = result["final_context"]
    summary = context["previous_steps_execution_summary"]
    assert [line for line in summary.splitlines() if line.startswith("### Step")] == [
        "### Step 1", "### Step 2", "### Step 3",
    ]  # fmt: skip
    assert "first peak at 220" in summary and "0.4519" in summary
    assert (context["hardware_constraints"], context["current_status"]) == ("a laptop", "completed")
    assert (tmp_path / "control" / "codebase" / "fit.py").exists()
    assert not (tmp_path / ".previous").exists()
    json.dumps(result, allow_nan=False)
    assert [row["Agent"] for row in context["cost_dataframe"]][-1] == "Total"
    assert [r["step"] for r in result["step_results"]] == list(range(step, 4))
    plain = pickle.loads((tmp_path / "context" / "context_step_3.pkl").read_bytes())
    assert type(plain) is dict and plain["main_task"] == "the task"


def test_earlier_plots_tables_and_instructions_are_known(tmp_path):
    original(tmp_path)
    server, result = go_on(tmp_path, 2)
    assert str(tmp_path / "control" / "data" / "peaks.png") in result["final_context"]["displayed_images"]
    prompt = server.prompts("engineer")[0]
    assert "data/peaks.csv" in prompt and "columns l, amp" in prompt and "step 1" in prompt
    assert "first peak at 220" in prompt and "Use SI units." in prompt


def test_lesson_09_a_step_that_the_original_forgot(tmp_path):
    """It restarts with an empty summary: after resuming at 2 its contexts know nothing of step 1."""
    original(tmp_path, forgotten=[1])
    forgetful = load_context(tmp_path / "context" / "context_step_2.pkl")
    assert "### Step 1" not in forgetful["previous_steps_execution_summary"]
    server, result = go_on(tmp_path, 3)
    summary = result["final_context"]["previous_steps_execution_summary"]
    assert summary.index("### Step 1") < summary.index("first peak at 220") < summary.index("### Step 2")
    assert "an earlier try" not in summary
    assert "first peak at 220" in server.prompts("researcher")[0]


def test_a_step_of_which_nothing_is_left_is_named(tmp_path, caplog):
    original(tmp_path, forgotten=[1])
    (tmp_path / "control" / "chats" / "chat_history_step_1.json").unlink()
    _, result = go_on(tmp_path, 3)
    assert result["status"] == "completed"
    assert "what these steps found is not known" in caplog.text and "chats: 1" in caplog.text


def test_a_second_restart_still_knows_what_the_original_left(tmp_path):
    original(tmp_path)
    go_on(tmp_path, 2)
    server, result = go_on(tmp_path, 3)
    server.assert_calls(["researcher"])
    assert "data/peaks.csv" in server.prompts("researcher")[0]
    assert str(tmp_path / "control" / "data" / "peaks.png") in result["final_context"]["displayed_images"]


class Evil:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return Path.touch, (self.marker,)


def test_lesson_23_a_restart_executes_nothing_from_the_directory(tmp_path):
    original(tmp_path)
    marker = tmp_path / "marker"
    (tmp_path / "context" / "context_step_1.pkl").write_bytes(pickle.dumps({"main_task": Evil(marker)}))
    with pytest.raises(ConfigurationError, match="could run code when loaded"):
        deep_research("the task", work_dir=tmp_path, restart_at_step=2)
    assert not marker.exists()


def test_a_restart_of_our_own_run_lists_the_files_of_earlier_steps(tmp_path):
    from scripted import two_steps

    table = "from pathlib import Path\nPath('data').mkdir(exist_ok=True)\n"
    table += "Path('data/table.csv').write_text('x,y\\n1,2\\n')\nprint('x = 1')"
    run(two_steps(engineer=code(table, filename="t.py")), deep_research, "t", work_dir=tmp_path)
    server = two_steps()
    run(server, deep_research, "t", work_dir=tmp_path, restart_at_step=2)
    server.assert_calls(["researcher"])
    prompt = server.prompts("researcher")[0]
    assert "data/table.csv" in prompt and "columns x, y" in prompt
