import json
import logging
import threading

from cmbagent import _events, _loop
from cmbagent._events import Listener, LogSink
from cmbagent.callbacks import StepStatus, WorkflowCallbacks

BASE = {"run_id": "r", "seq": 1, "at": 10.0, "phase": "control", "phase_index": 1, "step": 0, "agent": ""}
STEPS = [{"sub_task": "a", "sub_task_agent": "engineer", "bullet_points": ["b"]}]
USAGE = {"calls": 1, "prompt_tokens": 3, "completion_tokens": 4, "cost": 0.5, "unpriced_models": []}


def event(listener, kind, **data):
    listener.event(kind, {**BASE, **data})


def recorder():
    """Callbacks that note the name and arguments of every call."""
    heard = []

    def note(name):
        return lambda *arguments: heard.append((name, *arguments))

    hooks = [f for f in WorkflowCallbacks.__dataclass_fields__ if f.startswith("on_")]
    return heard, WorkflowCallbacks(**{name: note(name) for name in hooks})


def run_of_one_step(listener):
    event(
        listener, "run_started", task="the task", work_dir="/w", workflow_id="i", workflow_name="n",
        phases=["planning", "control"], phase="", phase_index=0,
    )  # fmt: skip
    config = {
        "planner_model": "p",
        "plan_reviewer_model": "r",
        "max_plan_steps": 3,
        "n_plan_reviews": 1,
        "x": 1,
    }
    planning = {"phase": "planning", "phase_index": 0}
    event(listener, "phase_started", display_name="Planning", config=config, **planning)
    event(listener, "plan_ready", steps=STEPS, plan_text="text", seconds=2.0, path="/f", **planning)
    event(listener, "phase_started", display_name="Execution", config={})
    step = {"step": 1, "number": 1, "total": 1, "sub_task": "a", "step_agent": "engineer"}
    event(listener, "step_started", instructions="- b", **step)
    event(listener, "call_started", model="m", prompt_characters=9, agent="engineer", step=1)
    event(listener, "call_text", delta="x", agent="engineer", step=1)
    event(listener, "call_finished", model="m", seconds=1.0, usage=USAGE, text="t", agent="engineer", step=1)
    event(listener, "message", name="engineer", role="user", content="c", agent="engineer", step=1)
    event(
        listener, "script_finished", file="f.py", success=True, exit="0", seconds=1.0, output="out",
        code="print()", log_path="/l", agent="engineer", step=1,
    )  # fmt: skip
    event(
        listener, "step_finished", status="completed", seconds=3.0, summary="s", error=None, files=["/a"],
        usage=USAGE, **{**step, "at": 13.0},
    )  # fmt: skip
    event(
        listener, "cost", cost_json_path="/c", total_cost=0.5, total_tokens=7,
        records=[{"Agent": "engineer"}], unpriced_models=[],
    )  # fmt: skip
    event(listener, "run_finished", status="completed", seconds=5.0, usage=USAGE, error=None)


def test_callbacks_in_the_order_older_programs_expect():
    heard, callbacks = recorder()
    run_of_one_step(Listener(callbacks, final_context=lambda: {"done": 1}))
    assert [h[:2] if h[0] == "on_phase_change" else h[0] for h in heard] == [
        "on_workflow_start",
        ("on_phase_change", "planning"),
        ("on_phase_change", "planning"),
        "on_planning_start",
        "on_planning_complete",
        ("on_phase_change", "control"),
        ("on_phase_change", "control"),
        ("on_phase_change", "control"),
        "on_step_start",
        "on_agent_start",
        "on_agent_complete",
        "on_agent_message",
        "on_code_execution",
        "on_step_complete",
        "on_cost_update",
        "on_workflow_complete",
    ]
    calls = {h[0]: h[1:] for h in heard}
    assert [h[2] for h in heard if h[0] == "on_phase_change"] == [0, None, 1, None, 1]
    assert calls["on_planning_start"] == (
        "the task",
        {"planner_model": "p", "plan_reviewer_model": "r", "max_plan_steps": 3, "n_plan_reviews": 1},
    )
    plan = calls["on_planning_complete"][0]
    assert (plan.task, plan.num_steps, plan.steps, plan.plan_text, plan.planning_time) == (
        "the task", 1, STEPS, "text", 2.0,
    )  # fmt: skip
    step = calls["on_step_complete"][0]
    assert (step.status, step.goal, step.summary) == (StepStatus.COMPLETED, "a", "s")
    assert (step.started_at, step.completed_at, step.execution_time) == (10.0, 13.0, 3.0)
    assert calls["on_code_execution"] == ("engineer", "print()", "python", "out")
    assert calls["on_agent_message"][:3] == ("engineer", "user", "c")
    assert calls["on_cost_update"][0]["total_cost"] == 0.5
    assert calls["on_cost_update"][0]["total_tokens"] == 7
    assert calls["on_workflow_complete"] == ({"done": 1}, 5.0)


def test_failed_step_is_named():
    heard, callbacks = recorder()
    listener = Listener(callbacks)
    event(
        listener, "step_finished", number=2, total=3, status="failed", seconds=1.0, summary="", error="why",
        files=[], usage=USAGE, sub_task="b", step_agent="engineer", step=2,
    )  # fmt: skip
    event(
        listener, "run_finished", status="failed", seconds=1.0, usage=USAGE, error="Phase control failed: x"
    )
    assert [h[0] for h in heard] == ["on_step_failed", "on_workflow_failed"]
    assert heard[0][1].error == "why"
    assert heard[1][1:] == ("Phase control failed: x", 2)


def test_other_news_is_progress():
    heard, callbacks = recorder()
    listener = Listener(callbacks)
    event(
        listener, "script_started", file="f.py", attempt=1, attempts=4, limit_seconds=None, code="secret = 1"
    )
    event(listener, "file_written", path="/p.png", what="plot")
    event(listener, "warning", message="careful")
    event(listener, "approval_requested", checkpoint_type="c", message="m", options=[], request_id="1")
    event(listener, "approval_received", resolution="approved", user_feedback=None)
    event(listener, "run_finished", status="stopped", seconds=1.0, usage=USAGE, error=None)
    assert [h[1] for h in heard] == [
        "Running f.py", "Wrote /p.png", "careful", "Waiting for approval", "Approval: approved",
        "Workflow stopped",
    ]  # fmt: skip
    assert "code" not in heard[0][2]


def test_tool_calls_of_a_message():
    heard, callbacks = recorder()
    call = {"id": "1", "function": {"name": "record", "arguments": json.dumps({"n": 1})}}
    event(Listener(callbacks), "message", name="control", role="assistant", content="None", tool_calls=[call])
    assert heard[1] == ("on_tool_call", "control", "record", {"n": 1}, None)


def test_unknown_events_and_bad_data_do_no_harm(caplog):
    listener = Listener(None)
    event(listener, "something_new")
    with caplog.at_level(logging.ERROR, "cmbagent"):
        event(listener, "plan_ready")
    assert "plan_ready could not be passed on" in caplog.text


def test_failing_sink_is_left_out():
    seen = []

    class Bad:
        def event(self, kind, data):
            seen.append("bad")
            raise OSError

    class Good:
        def event(self, kind, data):
            seen.append(kind)

    listener = Listener(None, [Bad(), Good()])
    event(listener, "warning", message="a")
    event(listener, "warning", message="b")
    assert seen == ["bad", "warning", "warning"]


def test_control_questions():
    asked = []
    listener = Listener(
        WorkflowCallbacks(should_continue=lambda: False, on_pause_check=lambda: asked.append(1))
    )
    assert not listener.should_continue()
    listener.pause()
    assert asked == [1]


def test_calls_are_posted_to_the_waiting_thread():
    poster = _loop.Poster()
    threads, answers = [], []
    callbacks = WorkflowCallbacks(
        on_progress=lambda m, d: threads.append(threading.current_thread()),
        should_continue=lambda: threads.append(threading.current_thread()) or False,
    )

    def helper():
        _loop.current_poster.set(poster)
        listener = Listener(callbacks)
        event(listener, "warning", message="m")
        answers.append(listener.should_continue())
        poster.finish()

    thread = threading.Thread(target=helper)
    thread.start()
    assert poster.serve()
    thread.join()
    assert threads == [threading.current_thread()] * 2
    assert answers == [False]


def test_log_has_no_text_of_prompts_answers_or_code(caplog):
    with caplog.at_level(logging.INFO, "cmbagent.run"):
        run_of_one_step(Listener(None, [LogSink()]))
    assert "call_finished run_id=r phase=control step=1 agent=engineer model=m seconds=1.0" in caplog.text
    assert "tokens=7 cost=0.5" in caplog.text
    for private in ("the task", "print()", "text", "content"):
        assert private not in caplog.text


def test_logging_is_left_to_the_host():
    package = logging.getLogger("cmbagent")
    assert package.level == logging.NOTSET
    assert any(isinstance(h, logging.NullHandler) for h in package.handlers)


def test_make_listener_adds_display_and_log():
    assert len(_events.make_listener(None, verbose=False)._sinks) == 1
    assert len(_events.make_listener(None, verbose=True)._sinks) == 2
