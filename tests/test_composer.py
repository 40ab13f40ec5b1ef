import asyncio
import copy
import json
import threading
from types import SimpleNamespace
from typing import ClassVar

import pytest

from cmbagent.callbacks import WorkflowCallbacks
from cmbagent.phases import Phase, PhaseContext, PhaseRegistry, PhaseResult, PhaseStatus, WorkflowContext
from cmbagent.workflows import (
    DEEP_RESEARCH_WORKFLOW,
    SYSTEM_WORKFLOWS,
    WorkflowDefinition,
    WorkflowExecutor,
    get_workflow,
    list_workflows,
)
from cmbagent.workflows.composer import WorkflowExecutor as SameExecutor

STEPS = [{"sub_task": "a", "sub_task_agent": "engineer", "bullet_points": ["b"]}]


class Note(Phase):
    """Writes down what it was given; `script` may do more."""

    seen: ClassVar[list] = []
    script = None

    @property
    def phase_type(self):
        return "note"

    @property
    def display_name(self):
        return "Note"

    async def execute(self, context: PhaseContext) -> PhaseResult:
        await asyncio.sleep(0)
        type(self).seen.append(context)
        if self.script is not None:
            outcome = type(self).script(self, context)
            if isinstance(outcome, PhaseResult):
                return outcome
        context.output_data = {"from": context.phase_id, "shared": {context.phase_id: True}}
        chat = [{"name": "note", "role": "user", "content": context.phase_id}]
        return PhaseResult(PhaseStatus.COMPLETED, context, chat_history=chat, timing={"total": 1.0})


@pytest.fixture
def note():
    """The class of a fresh phase type `note`, which is forgotten afterwards."""
    before = {t: PhaseRegistry.get(t) for t in PhaseRegistry.list_all()}
    cls = type("FreshNote", (Note,), {"seen": []})
    PhaseRegistry.register_class("note", cls)
    yield cls
    PhaseRegistry.clear()
    for phase_type, each in before.items():
        PhaseRegistry.register_class(phase_type, each)


def executor(tmp_path, *phases, **kwargs):
    workflow = WorkflowDefinition(id="mine", name="Mine", phases=list(phases))
    return WorkflowExecutor(workflow, "the task", tmp_path / "out", {"OPENAI": "x"}, **kwargs)


def failing(error="x"):
    return lambda phase, context: PhaseResult(PhaseStatus.FAILED, context, error=error)


# Definitions


def test_definition_defaults():
    definition = WorkflowDefinition(id="a", name="b", phases=[{"type": "planning"}])
    assert (definition.description, definition.version, definition.is_system) == ("", 1, False)
    assert list(definition.to_dict()) == [
        "id", "name", "description", "phases", "version", "is_system", "created_by",
    ]  # fmt: skip
    assert WorkflowDefinition.from_dict(definition.to_dict()) == definition
    assert definition.to_dict()["phases"][0] is not definition.phases[0]
    with pytest.raises(KeyError):
        WorkflowDefinition.from_dict({"id": "a", "name": "b"})


def test_system_workflows():
    assert {k: [p["type"] for p in w.phases] for k, w in SYSTEM_WORKFLOWS.items()} == {
        "deep_research": ["planning", "control"],
        "deep_research_hitl": ["planning", "hitl_checkpoint", "control"],
        "deep_research_full_hitl": ["planning", "hitl_checkpoint", "control"],
        "one_shot": ["one_shot"],
        "one_shot_researcher": ["one_shot"],
        "idea_generation": ["idea_generation", "hitl_checkpoint"],
        "idea_to_execution": ["idea_generation", "hitl_checkpoint", "planning", "hitl_checkpoint", "control"],
        "interactive_planning": ["hitl_planning", "control"],
        "interactive_control": ["planning", "hitl_checkpoint", "hitl_control"],
        "full_interactive": ["hitl_planning", "hitl_control"],
        "error_recovery": ["planning", "hitl_control"],
        "progressive_review": ["planning", "hitl_control"],
        "smart_approval": ["planning", "hitl_checkpoint", "control"],
    }
    assert all(w.is_system and w.id == k for k, w in SYSTEM_WORKFLOWS.items())


@pytest.mark.parametrize("workflow_id", list(SYSTEM_WORKFLOWS))
def test_every_system_workflow_can_be_built(workflow_id, tmp_path):
    built = WorkflowExecutor(get_workflow(workflow_id), "t", tmp_path / "o", {})
    assert [p.phase_type for p in built.phases] == [p["type"] for p in get_workflow(workflow_id).phases]
    assert not (tmp_path / "o").exists()


def test_system_workflow_settings(tmp_path):
    agents = {
        i: WorkflowExecutor(get_workflow(i), "t", tmp_path).phases[0].config.agent
        for i in ("one_shot", "one_shot_researcher")
    }
    assert agents == {"one_shot": "engineer", "one_shot_researcher": "researcher"}
    full = WorkflowExecutor(get_workflow("deep_research_full_hitl"), "t", tmp_path)
    assert full.phases[-1].config.hitl_after_each_step


def test_get_and_list():
    assert get_workflow("deep_research") is DEEP_RESEARCH_WORKFLOW
    with pytest.raises(ValueError, match=r"^Unknown workflow: nope\. Available: \['deep_research',"):
        get_workflow("nope")
    assert list_workflows()[0] == {
        "id": "deep_research",
        "name": "Deep Research",
        "description": "Planning followed by multi-step execution",
        "num_phases": 2,
        "is_system": True,
    }


# Construction


def test_construction(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    keys = {"OPENAI": "x"}
    built = SameExecutor(DEEP_RESEARCH_WORKFLOW, "t", "./output", keys, initial_shared_state={"a": 1})
    assert built.work_dir == str(tmp_path / "output")
    assert built.api_keys is keys
    assert isinstance(built.context, WorkflowContext)
    assert built.context.shared_state == {"a": 1}
    assert (built.results, built.skipped, built.current_phase_index) == ([], [], 0)
    assert SameExecutor(DEEP_RESEARCH_WORKFLOW, "t", "o").context.run_id != built.context.run_id


def test_keys_default_to_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "from-env")
    assert WorkflowExecutor(DEEP_RESEARCH_WORKFLOW, "t", tmp_path).api_keys["OPENAI"] == "from-env"


def test_one_text_is_no_keys_and_is_not_shown(tmp_path):
    with pytest.raises(TypeError, match="api_keys must be provider name → key") as raised:
        WorkflowExecutor(DEEP_RESEARCH_WORKFLOW, "t", tmp_path, "sk-secret")
    assert "sk-secret" not in str(raised.value)


def test_bad_definitions_fail_at_once(tmp_path):
    with pytest.raises(ValueError, match=r"^Unknown phase type: zz"):
        executor(tmp_path, {"type": "zz"})
    with pytest.raises(TypeError, match="unexpected keyword argument 'agents'"):
        executor(tmp_path, {"type": "control", "config": {"agents": []}})
    assert list(tmp_path.iterdir()) == []


def test_definition_is_not_shared_with_the_phases(tmp_path):
    definition = {"type": "hitl_checkpoint", "config": {"options": ["approve"], "params": {"a": [1]}}}
    before = copy.deepcopy(definition)
    built = executor(tmp_path, definition)
    built.phases[0].config.options.append("reject")
    built.phases[0].config.params["a"].append(2)
    assert definition == before


def test_status_before_the_run(tmp_path):
    built = WorkflowExecutor(DEEP_RESEARCH_WORKFLOW, "t", tmp_path)
    assert built.get_status() == {
        "workflow_id": "deep_research",
        "run_id": built.context.run_id,
        "current_phase": 0,
        "total_phases": 2,
        "phase_results": [],
    }


# Running


@pytest.mark.parametrize("how", ["run", "run_sync", "run_sync in a loop"])
def test_run(note, tmp_path, how):
    built = executor(tmp_path, {"type": "note"}, {"type": "note"})

    async def inside():
        return built.run_sync()

    context = {
        "run": lambda: asyncio.run(built.run()),
        "run_sync": built.run_sync,
        "run_sync in a loop": lambda: asyncio.run(inside()),
    }[how]()
    assert context is built.context
    first, second = note.seen
    assert (first.phase_id, second.phase_id) == ("phase_0_note", "phase_1_note")
    assert second.input_data is first.output_data
    assert second.shared_state["phase_0_note"] is True
    assert [m["content"] for r in built.results for m in r.chat_history] == ["phase_0_note", "phase_1_note"]
    assert context.phase_timings.keys() == {"phase_0_note", "phase_1_note", "total"}
    assert context.shared_state["phase_1_note"] is True
    assert built.get_status()["phase_results"] == [
        {"phase_id": f"phase_{i}_note", "phase_type": "note", "status": "completed", "error": None}
        for i in (0, 1)
    ]


def test_skipped_phase_leaves_a_hole(note, tmp_path):
    built = executor(
        tmp_path, {"type": "note"}, {"type": "note", "config": {"enabled": False}}, {"type": "note"}
    )
    built.run_sync()
    assert [r.context.phase_id for r in built.results] == ["phase_0_note", "phase_2_note"]
    assert note.seen[1].input_data is note.seen[0].output_data
    assert built.get_status()["skipped"] == [1]


def test_validation_error(tmp_path):
    built = executor(tmp_path, {"type": "control"})
    expected = (
        r"^Phase control validation failed: \['Plan is required for control phase \(run planning first\)'\]$"
    )
    with pytest.raises(ValueError, match=expected):
        built.run_sync()
    assert built.results == []


def test_failed_phase(note, tmp_path):
    note.script = failing("x")
    built = executor(tmp_path, {"type": "note"}, {"type": "note"})
    with pytest.raises(RuntimeError, match=r"^Phase note failed: x$"):
        built.run_sync()
    assert [r["status"] for r in built.get_status()["phase_results"]] == ["failed"]
    assert "total" not in built.context.phase_timings


def test_exception_of_a_phase_comes_as_it_is(note, tmp_path):
    error = KeyError("mine")

    def script(phase, context):
        raise error

    note.script = script
    with pytest.raises(KeyError) as caught:
        executor(tmp_path, {"type": "note"}).run_sync()
    assert caught.value is error


def test_retry(note, tmp_path):
    tries = []

    def script(phase, context):
        tries.append(1)
        return failing()(phase, context) if len(tries) == 1 else None

    note.script = script
    built = executor(tmp_path, {"type": "note", "config": {"max_retries": 1}})
    built.run_sync()
    assert len(tries) == 2
    assert built.results[-1].succeeded


def test_stop_from_within(note, tmp_path):
    built = executor(tmp_path, {"type": "note"}, {"type": "note"})
    note.script = lambda phase, context: built.stop()
    context = built.run_sync()
    assert context is built.context
    assert [r.context.phase_id for r in built.results] == ["phase_0_note"]


def test_stop_beforehand(note, tmp_path):
    built = executor(tmp_path, {"type": "note"})
    built.stop()
    assert list(built.run_sync().phase_timings) == ["total"]
    assert (built.results, note.seen) == ([], [])


def test_should_continue_cancels(note, tmp_path):
    built = executor(tmp_path, {"type": "note"}, callbacks=WorkflowCallbacks(should_continue=lambda: False))
    with pytest.raises(RuntimeError, match="cancelled by user"):
        built.run_sync()
    assert note.seen == []


def test_failing_hook_does_not_matter(note, tmp_path):
    calls = []

    def hook(*_):
        calls.append(1)
        raise ValueError

    phases = [{"type": "note"}] * 4
    built = executor(tmp_path, *phases, callbacks=WorkflowCallbacks(on_phase_change=hook))
    built.run_sync()
    assert len(built.results) == 4
    assert len(calls) == 5


def test_callbacks_run_in_the_callers_thread(note, tmp_path):
    threads = []
    callbacks = WorkflowCallbacks(on_phase_change=lambda *a: threads.append(threading.current_thread()))

    async def inside():
        executor(tmp_path, {"type": "note"}, callbacks=callbacks).run_sync()

    asyncio.run(inside())
    assert set(threads) == {threading.current_thread()}


def test_workflow_complete_hears_the_final_context(note, tmp_path):
    heard = []
    callbacks = WorkflowCallbacks(on_workflow_complete=lambda context, seconds: heard.append(context))

    def script(phase, context):
        context.output_data = {"final_context": {"a": 1}}
        return PhaseResult(PhaseStatus.COMPLETED, context)

    note.script = script
    executor(tmp_path, {"type": "note"}, callbacks=callbacks).run_sync()
    assert heard == [{"a": 1}]


# Checkpoints


class Approvals:
    """An approval manager that answers as told."""

    def __init__(self, resolution="approve", feedback=None, modifications=None, error=None):
        self.answer = SimpleNamespace(
            resolution=resolution, user_feedback=feedback, modifications=modifications
        )
        self.error = error
        self.requests, self.waits = [], []

    def create_approval_request(self, **kwargs):
        self.requests.append(kwargs)
        return SimpleNamespace(id=len(self.requests))

    async def wait_for_approval_async(self, request_id, timeout_seconds):
        self.waits.append((request_id, timeout_seconds))
        if self.error:
            raise self.error
        return self.answer


def checkpoint(**config):
    return {"type": "hitl_checkpoint", "config": config}


def output_of(built):
    return built.results[-1].context.output_data


def test_checkpoint_without_manager(tmp_path):
    built = executor(tmp_path, checkpoint())
    built.run_sync()
    assert output_of(built)["approval_status"] == "auto_approved"
    assert output_of(built)["no_hitl_manager"] is True


def test_checkpoint_request(note, tmp_path):
    manager = Approvals()
    built = executor(tmp_path, {"type": "note"}, checkpoint(timeout_seconds=77), approval_manager=manager)
    built.run_sync()
    (request,) = manager.requests
    assert request.keys() == {
        "run_id",
        "step_id",
        "checkpoint_type",
        "context_snapshot",
        "message",
        "options",
    }
    assert request["step_id"] == "phase_1_hitl_checkpoint"
    assert (request["run_id"], request["checkpoint_type"]) == (built.context.run_id, "after_planning")
    assert manager.waits == [("1", 77)]
    assert output_of(built)["approval_status"] == "approved"


def test_checkpoint_rejected(tmp_path):
    built = executor(tmp_path, checkpoint(), approval_manager=Approvals("reject", "too long"))
    with pytest.raises(RuntimeError, match=r"^Phase hitl_checkpoint failed: Rejected by user$"):
        built.run_sync()
    assert output_of(built)["approval_status"] == "rejected"
    assert output_of(built)["user_feedback"] == "too long"


def test_checkpoint_modified(note, tmp_path):
    manager = Approvals("modify", "shorter", {"plan": STEPS})
    built = executor(tmp_path, checkpoint(), {"type": "note"}, approval_manager=manager)
    context = built.run_sync()
    assert context.plan == STEPS
    assert context.user_feedback == ["shorter"]
    assert context.approvals[0]["approval_status"] == "modified"
    assert note.seen[0].shared_state["plan_steps"] == STEPS


@pytest.mark.parametrize(
    ("default", "outcome"),
    [
        ("approve", "timeout_auto_approved"),
        ("reject", "Phase hitl_checkpoint failed: Approval timeout - defaulted to reject"),
    ],
)
def test_checkpoint_timeout(tmp_path, default, outcome):
    built = executor(
        tmp_path, checkpoint(default_on_timeout=default), approval_manager=Approvals(error=TimeoutError())
    )
    if default == "approve":
        built.run_sync()
        assert output_of(built)["approval_status"] == outcome
    else:
        with pytest.raises(RuntimeError) as caught:
            built.run_sync()
        assert str(caught.value) == outcome


def test_context_is_json(note, tmp_path):
    assert json.loads(executor(tmp_path, {"type": "note"}).run_sync().to_json())["workflow_id"] == "mine"


def test_a_mistyped_id_is_answered_with_the_nearest():
    with pytest.raises(ValueError, match=r"'smart_approval'\]\. Did you mean 'deep_research'\?$"):
        get_workflow("deep_reserch")


def test_an_id_in_place_of_a_workflow(tmp_path):
    with pytest.raises(TypeError, match="not a str; get_workflow"):
        WorkflowExecutor("deep_research", "t", tmp_path)


def test_what_a_notebook_shows_of_an_executor(tmp_path):
    text = repr(WorkflowExecutor(get_workflow("deep_research"), "t", tmp_path, {"OPENAI": "sk-secret"}))
    assert text.startswith("<WorkflowExecutor of 'deep_research' in ")
    assert text.endswith(": PlanningPhase → ControlPhase; 0 of 2 phases run>")
    assert "sk-secret" not in text
