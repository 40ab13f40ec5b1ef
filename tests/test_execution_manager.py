"""The manager on which phases of users are built."""

import asyncio
import pickle
import threading

import pytest

from cmbagent.callbacks import StepStatus, WorkflowCallbacks
from cmbagent.errors import ConfigurationError, RunStoppedError
from cmbagent.phases import (
    Phase,
    PhaseContext,
    PhaseEventType,
    PhaseExecutionConfig,
    PhaseExecutionManager,
    PhaseRegistry,
    PhaseResult,
    PhaseStatus,
    WorkflowCancelledException,
    managed_phase_execution,
)
from cmbagent.workflows import WorkflowDefinition, WorkflowExecutor


class Survey(Phase):
    """A phase whose work is the function `work`."""

    work = staticmethod(lambda manager: manager.complete({"answer": 42}))

    @property
    def phase_type(self):
        return "survey"

    @property
    def display_name(self):
        return "Survey"

    async def execute(self, context: PhaseContext) -> PhaseResult:
        with PhaseExecutionManager(context, self) as manager:
            return type(self).work(manager)


class Managed(Survey):
    @managed_phase_execution
    async def execute(self, context: PhaseContext) -> PhaseResult:
        """Work."""
        return type(self).work(self._manager)


@pytest.fixture
def survey():
    """Register a class under `survey` for the time of a test."""
    before = {t: PhaseRegistry.get(t) for t in PhaseRegistry.list_all()}

    def register(base, work):
        cls = type("FreshSurvey", (base,), {"work": staticmethod(work)})
        PhaseRegistry.register_class("survey", cls)
        return cls

    yield register
    PhaseRegistry.clear()
    for phase_type, each in before.items():
        PhaseRegistry.register_class(phase_type, each)


def context(tmp_path, callbacks=None, **fields):
    return PhaseContext("w", "r", "phase_0_survey", "task", str(tmp_path), callbacks=callbacks, **fields)


def recorder():
    """Callbacks that write down what they hear."""
    heard = []

    def hook(name):
        return lambda *arguments: heard.append((name, *arguments))

    names = ("phase_change", "step_start", "step_complete", "step_failed", "workflow_failed")
    names += ("agent_message", "code_execution", "tool_call")
    return WorkflowCallbacks(**{f"on_{name}": hook(name) for name in names}), heard


def kinds(manager):
    return [event["type"] for event in manager.events]


def executor(tmp_path, callbacks=None):
    definition = WorkflowDefinition(id="w", name="W", phases=[{"type": "survey"}])
    return WorkflowExecutor(definition, "task", tmp_path, {}, callbacks=callbacks, verbose=False)


def test_event_types():
    assert PhaseEventType.PLAN_GENERATED.value == "plan_generated"
    assert PhaseEventType("custom") is PhaseEventType.CUSTOM
    assert PhaseExecutionConfig() == PhaseExecutionConfig(True, True, False, 300)


def test_a_phase_in_a_workflow(survey, tmp_path):
    survey(Survey, lambda manager: manager.complete({"answer": 42}, [{"name": "a", "content": "b"}]))
    built = executor(tmp_path)
    built.run_sync()
    (result,) = built.results
    assert result.context.output_data == {"answer": 42}
    assert result.chat_history == [{"name": "a", "content": "b"}]
    assert result.timing["total"] == result.timing["end"] - result.timing["start"] >= 0
    assert result.context.completed_at == result.timing["end"]


def test_nothing_is_told_twice(survey, tmp_path):
    survey(Survey, lambda manager: manager.fail("no data"))
    callbacks, heard = recorder()
    with pytest.raises(RuntimeError, match="Phase survey failed: no data"):
        executor(tmp_path, callbacks).run_sync()
    assert heard == [
        ("phase_change", "survey", 0),
        ("phase_change", "survey", None),
        ("workflow_failed", "Phase survey failed: no data", None),
    ]


def test_a_phase_on_its_own(tmp_path):
    callbacks, heard = recorder()
    result = asyncio.run(Survey().execute(context(tmp_path, callbacks)))
    assert (result.status, result.output_data) == (PhaseStatus.COMPLETED, {"answer": 42})
    assert heard == [("phase_change", "survey", None)]


def test_an_empty_output_leaves_what_is_there(tmp_path):
    given = context(tmp_path, output_data={"kept": 1})
    manager = PhaseExecutionManager(given, Survey())
    manager.start()
    assert manager.complete({}).output_data == {"kept": 1}
    assert manager.complete().output_data == {"kept": 1}


def test_failure(tmp_path):
    callbacks, heard = recorder()
    manager = PhaseExecutionManager(context(tmp_path, callbacks), Survey())
    manager.start()
    manager.start_step(2)
    result = manager.fail("broken", "where")
    assert (result.status, result.error) == (PhaseStatus.FAILED, "broken")
    assert result.timing.keys() == {"start", "end", "total"}
    assert heard[-1] == ("workflow_failed", "broken", 2)
    assert (manager.events[-1]["error"], manager.events[-1]["traceback"]) == ("broken", "where")


def test_an_exception_is_noted_and_goes_on(tmp_path):
    with pytest.raises(ZeroDivisionError), PhaseExecutionManager(context(tmp_path), Survey()) as manager:
        1 / 0
    assert kinds(manager) == ["phase_start", "phase_failed"]
    assert "ZeroDivisionError" in manager.events[-1]["traceback"]


def test_steps(tmp_path):
    callbacks, heard = recorder()
    manager = PhaseExecutionManager(context(tmp_path, callbacks), Survey())
    manager.start_step(1, "look")
    manager.complete_step(1, "found it", {"n": 1})
    manager.start_step(2)
    manager.fail_step(2, "lost it")
    assert [entry[0] for entry in heard] == [
        "phase_change",
        "step_start",
        "step_complete",
        "phase_change",
        "step_start",
        "step_failed",
    ]
    done, failed = heard[2][1], heard[5][1]
    assert heard[0] == ("phase_change", "survey", 1)
    assert (done.goal, done.status, done.summary, done.result) == (
        "look",
        StepStatus.COMPLETED,
        "found it",
        {"n": 1},
    )
    assert done.execution_time == done.completed_at - done.started_at
    assert (failed.goal, failed.status, failed.error) == ("Step 2", StepStatus.FAILED, "lost it")
    assert kinds(manager) == ["step_start", "step_complete", "step_start", "step_failed"]


def test_what_is_logged(tmp_path):
    callbacks, heard = recorder()
    manager = PhaseExecutionManager(context(tmp_path, callbacks), Survey())
    manager.log_event("found", {"n": 1, "type": "hidden", "step": 9})
    manager.log_event(PhaseEventType.PLAN_GENERATED, {"steps": 3})
    manager.log_agent_message("engineer", "assistant", "text")
    manager.log_code_execution("engineer", "print()", "python", "out")
    manager.log_tool_call("engineer", "search", {"q": 1})
    assert kinds(manager) == ["custom", "plan_generated", "agent_message", "code_execution", "tool_call"]
    first = manager.events[0]
    assert (first["custom_type"], first["n"], first["step"]) == ("found", 1, None)
    assert (first["phase_id"], first["phase_type"]) == ("phase_0_survey", "survey")
    assert heard == [
        ("agent_message", "engineer", "assistant", "text", {}),
        ("code_execution", "engineer", "print()", "python", "out"),
        ("tool_call", "engineer", "search", {"q": 1}, None),
    ]


def test_callbacks_may_be_left_out(tmp_path):
    callbacks, heard = recorder()
    manager = PhaseExecutionManager(
        context(tmp_path, callbacks), Survey(), PhaseExecutionConfig(enable_callbacks=False)
    )
    manager.start()
    manager.start_step(1)
    manager.fail("broken")
    assert heard == []


def test_callbacks_are_called_in_the_callers_thread(survey, tmp_path):
    threads = []

    def work(manager):
        manager.log_agent_message("a", "user", "b")
        manager.raise_if_cancelled()
        return manager.complete()

    def note(*_):
        threads.append(threading.current_thread())
        return True

    survey(Survey, work)
    callbacks = WorkflowCallbacks(on_agent_message=note, should_continue=note, on_pause_check=note)

    async def cell():
        executor(tmp_path, callbacks).run_sync()

    asyncio.run(cell())
    assert len(threads) >= 3
    assert set(threads) == {threading.current_thread()}


def test_cancelling(tmp_path):
    held = []
    callbacks = WorkflowCallbacks(should_continue=lambda: False, on_pause_check=lambda: held.append(1))
    manager = PhaseExecutionManager(context(tmp_path, callbacks), Survey())
    assert not manager.check_should_continue()
    assert (manager.is_cancelled, held) == (True, [1])
    with pytest.raises(WorkflowCancelledException, match=r"^Workflow cancelled by user$"):
        manager.raise_if_cancelled()
    assert issubclass(WorkflowCancelledException, RunStoppedError)
    unasked = PhaseExecutionConfig(enable_pause_check=False)
    manager = PhaseExecutionManager(context(tmp_path, callbacks), Survey(), unasked)
    manager.raise_if_cancelled()
    assert PhaseExecutionManager(context(tmp_path), Survey()).check_should_continue()


def test_checkpoints(tmp_path):
    manager = PhaseExecutionManager(context(tmp_path), Survey())
    manager.start_step(3)
    data = {"rows": [1, (2, 3)], "where": tmp_path, "open": threading.Lock(), "api_keys": {"OPENAI": "sk-x"}}
    path = manager.save_checkpoint("half", data)
    assert path == str(tmp_path / "checkpoints" / "survey_half.pkl")
    assert b"sk-x" not in (tmp_path / "checkpoints" / "survey_half.pkl").read_bytes()
    kept = manager.load_checkpoint("half")
    assert kept["data"] == {"rows": [1, (2, 3)], "where": tmp_path, "open": {"$opaque": "_thread.lock"}}
    assert (kept["phase_type"], kept["phase_id"], kept["step"]) == ("survey", "phase_0_survey", 3)
    assert manager.load_checkpoint("none") is None
    assert kinds(manager)[-1] == "checkpoint"
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["survey_half.pkl"]


@pytest.mark.parametrize("name", ["", "../up", "a/b", "a\\b", "a\0b"])
def test_checkpoints_stay_in_their_directory(tmp_path, name):
    manager = PhaseExecutionManager(context(tmp_path), Survey())
    with pytest.raises(ConfigurationError, match="part of a file's name"):
        manager.save_checkpoint(name, {})
    with pytest.raises(ConfigurationError, match="part of a file's name"):
        manager.load_checkpoint(name)


class Trap:
    def __reduce__(self):
        return (print, ("executed",))


def test_a_checkpoint_runs_no_code(tmp_path, capsys):
    (tmp_path / "checkpoints").mkdir()
    manager = PhaseExecutionManager(context(tmp_path), Survey())
    file = tmp_path / "checkpoints" / "survey_x.pkl"
    file.write_bytes(pickle.dumps({"data": Trap()}))
    with pytest.raises(ConfigurationError, match="could run code"):
        manager.load_checkpoint("x")
    assert capsys.readouterr().out == ""
    file.write_bytes(pickle.dumps([1]))
    with pytest.raises(ConfigurationError, match="no checkpoint"):
        manager.load_checkpoint("x")


def test_checkpoints_by_themselves(tmp_path, caplog):
    given = context(tmp_path, shared_state={"a": 1, "_hidden": 2}, output_data={"b": 2})
    config = PhaseExecutionConfig(auto_checkpoint=True, checkpoint_interval=0)
    manager = PhaseExecutionManager(given, Survey(), config)
    manager.complete_step(1)
    assert manager.load_checkpoint("auto")["data"] == {"output_data": {"b": 2}, "shared_state": {"a": 1}}
    rare = PhaseExecutionManager(
        context(tmp_path / "rare"), Survey(), PhaseExecutionConfig(auto_checkpoint=True)
    )
    rare.complete_step(1)
    assert rare.load_checkpoint("auto") is None
    (tmp_path / "file").write_text("")
    blocked = PhaseExecutionManager(context(tmp_path / "file"), Survey(), config)
    assert blocked.check_should_continue()
    assert "no checkpoint was written" in caplog.text


def test_kwargs_of_older_programs(tmp_path):
    given = context(tmp_path, shared_state={"_session_id": "s"})
    assert PhaseExecutionManager(given, Survey()).get_managed_cmbagent_kwargs() == {
        "managed_mode": True,
        "parent_session_id": "s",
        "parent_db_session": None,
    }


def test_decorated(survey, tmp_path):
    cls = survey(Managed, lambda manager: manager.complete({"answer": 1}))
    assert asyncio.run(cls().execute(context(tmp_path))).output_data == {"answer": 1}
    assert cls.execute.__doc__ == "Work."
    assert executor(tmp_path).run_sync().metadata["phase_0_survey"] == {"answer": 1}


@pytest.mark.parametrize(
    ("error", "text"),
    [(ValueError("wrong"), "wrong"), (KeyError(), "KeyError")],
)
def test_decorated_turns_exceptions_into_results(survey, tmp_path, error, text):
    def work(manager):
        raise error

    phase = survey(Managed, work)()
    result = asyncio.run(phase.execute(context(tmp_path)))
    assert (result.status, result.error) == (PhaseStatus.FAILED, text)
    assert type(error).__name__ in phase._manager.events[-1]["traceback"]


def test_decorated_and_cancelled(survey, tmp_path):
    def work(manager):
        manager.raise_if_cancelled()

    callbacks = WorkflowCallbacks(should_continue=lambda: False)
    result = asyncio.run(survey(Managed, work)().execute(context(tmp_path, callbacks)))
    assert (result.status, result.error) == (PhaseStatus.FAILED, "Workflow cancelled by user")


def test_decorated_lets_a_cancelled_task_end(survey, tmp_path):
    def work(manager):
        raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(survey(Managed, work)().execute(context(tmp_path)))


def test_a_phase_goes_on_after_a_stop_and_not_after_a_cancel(tmp_path):
    answers = []

    class Asking(Phase):
        phase_type = "asking"
        display_name = "Asking"

        async def execute(self, context):
            manager = PhaseExecutionManager(context, self)
            manager.start()
            answers.append(manager.check_should_continue())
            executor.stop()
            answers.append(manager.check_should_continue())
            executor.cancel()
            answers.append(manager.check_should_continue())
            return manager.complete(output_data={})

    PhaseRegistry.register_class("asking", Asking)
    workflow = WorkflowDefinition(id="w", name="w", phases=[{"type": "asking"}])
    executor = WorkflowExecutor(workflow, "t", tmp_path, api_keys={}, verbose=False)
    executor.run_sync()
    assert answers == [True, True, False]
