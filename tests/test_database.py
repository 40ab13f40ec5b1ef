"""Approval settings, and approvals by way of a web page, under the names of older programs."""

import asyncio
import copy
import json
import pickle
import threading

import pytest

from cmbagent.database import (
    DEFAULT_CONFIGS,
    ApprovalCheckpoint,
    ApprovalConfig,
    ApprovalMode,
    ApprovalResolution,
    CheckpointType,
    approval_types,
    get_approval_config,
)
from cmbagent.database.websocket_approval_manager import SimpleApprovalRequest, WebSocketApprovalManager
from cmbagent.errors import ConfigurationError
from cmbagent.workflows import WorkflowDefinition, WorkflowExecutor, _calls

STEPS = [{"sub_task": "a", "sub_task_agent": "engineer", "bullet_points": ["b"]}]


@pytest.fixture(autouse=True)
def no_question_is_left_behind():
    yield
    assert WebSocketApprovalManager.get_all_pending() == []
    assert WebSocketApprovalManager._requests == {}


def make(send=None):
    sent = []
    manager = WebSocketApprovalManager(send or (lambda kind, data: sent.append((kind, data))), "run")
    return manager, sent


def create(manager, **changes):
    asked = {
        "run_id": "r",
        "step_id": "phase_1_hitl_checkpoint",
        "checkpoint_type": "after_planning",
        "context_snapshot": {"plan": STEPS, "spent": {"calls": 2, "cost": 0.5}},
        "message": "Go on?",
        "options": ["approve", "reject", "modify"],
    }
    return manager.create_approval_request(**{**asked, **changes})


def wait(manager, asked, timeout_seconds=30):
    return asyncio.run(manager.wait_for_approval_async(asked.id, timeout_seconds=timeout_seconds))


# Settings


def test_words():
    assert [m.value for m in ApprovalMode] == [
        "none",
        "after_planning",
        "before_each_step",
        "on_error",
        "manual",
        "copilot",
        "custom",
    ]
    assert [r.value for r in ApprovalResolution] == [
        "approved",
        "rejected",
        "modified",
        "retry",
        "skip",
        "abort",
    ]
    assert CheckpointType.BEFORE_FILE_EDIT == "before_file_edit"
    assert len(CheckpointType) == 9
    assert approval_types.ApprovalConfig is ApprovalConfig


@pytest.mark.parametrize(
    ("name", "answers"),
    [
        ("autonomous", (False, False, False, False, False)),
        ("review_plan", (True, True, False, False, False)),
        ("step_by_step", (True, True, True, True, False)),
        ("error_recovery", (True, False, False, True, False)),
        ("copilot", (True, False, False, False, True)),
        ("no such name", (False, False, False, False, False)),
    ],
)
def test_configurations(name, answers):
    config = get_approval_config(name)
    assert answers == (
        config.is_enabled(),
        config.requires_approval_at_planning(),
        config.requires_approval_before_steps(),
        config.requires_approval_on_error(),
        config.requires_copilot_approvals(),
    )
    assert (config.timeout_seconds, config.default_on_timeout) == (None, "reject")
    assert get_approval_config() is DEFAULT_CONFIGS["autonomous"]


def test_conditions():
    always = ApprovalCheckpoint(CheckpointType.CUSTOM, "?")
    assert always.should_trigger({})
    assert always.options == ["approve", "reject", "modify"]
    late = ApprovalCheckpoint(CheckpointType.CUSTOM, "?", condition=lambda context: context["step"] > 2)
    assert not late.should_trigger({"step": 2})
    assert late.should_trigger({"step": 3})


def test_settings_without_effect_are_named():
    with pytest.warns(RuntimeWarning, match=r"auto_approve_patterns, mode='copilot' has no effect"):
        assert _calls.approval_phases(get_approval_config("copilot"), False) == ([], False, False)
    checkpoints, each_step, on_error = _calls.approval_phases(ApprovalConfig(ApprovalMode.ON_ERROR), False)
    assert (checkpoints, each_step, on_error) == ([], False, True)


# The web page


def test_the_event_says_what_is_asked():
    manager, sent = make()
    asked = create(
        manager,
        context_snapshot={
            "plan": STEPS,
            "estimate": {"calls": 1},
            "path": object(),
            "api_keys": {"OPENAI": "sk-x"},
        },
    )
    ((kind, data),) = sent
    assert kind == "approval_requested"
    assert data.keys() == {
        "approval_id",
        "step_id",
        "action",
        "description",
        "message",
        "options",
        "checkpoint_type",
        "context",
    }
    assert data["approval_id"] == asked.id
    assert data["action"] == data["checkpoint_type"] == "after_planning"
    assert data["description"] == data["message"] == "Go on?"
    assert data["context"]["plan"] == STEPS
    assert data["context"]["estimate"]["calls"] == 1
    assert "sk-x" not in json.dumps(data)
    WebSocketApprovalManager.resolve(asked.id, "approved")
    wait(manager, asked)


def test_an_answer_before_anyone_waits():
    manager, _ = make()
    asked = create(manager)
    assert isinstance(asked, SimpleApprovalRequest)
    assert (asked.status, asked.modifications) == ("pending", {})
    assert WebSocketApprovalManager.has_pending(asked.id)
    assert WebSocketApprovalManager.get_all_pending() == [asked]
    assert WebSocketApprovalManager.resolve(asked.id, "approved", "fine")
    assert not WebSocketApprovalManager.has_pending(asked.id)
    assert not WebSocketApprovalManager.resolve(asked.id, "rejected")
    assert (asked.status, asked.resolution, asked.user_feedback) == ("approved", "approved", "fine")
    assert wait(manager, asked) is asked
    assert asked.resolution == "approved"
    assert not WebSocketApprovalManager.resolve(asked.id, "approved")


def test_a_wrong_word_leaves_the_question_open():
    manager, _ = make()
    asked = create(manager)
    with pytest.raises(ValueError, match="stays open"):
        WebSocketApprovalManager.resolve(asked.id, "yes")
    with pytest.raises(ValueError, match="no steps"):
        WebSocketApprovalManager.resolve(asked.id, "modified", None, '{"plan": []}')
    with pytest.raises(ValueError, match="no JSON"):
        WebSocketApprovalManager.resolve(asked.id, "modified", None, "{")
    assert (asked.status, asked.resolution) == ("pending", None)
    assert WebSocketApprovalManager.resolve_from_db(
        asked.id, ApprovalResolution.MODIFIED, None, {"plan": STEPS}
    )
    assert wait(manager, asked).modifications == {"plan": STEPS}
    assert asked.status == "modified"


def test_blocking_wait():
    manager, _ = make()
    asked = create(manager)
    threading.Timer(0, WebSocketApprovalManager.resolve, (asked.id, "reject")).start()
    assert manager.wait_for_approval(asked.id, timeout_seconds=30).resolution == "reject"


def test_nobody_answers():
    manager, _ = make()
    asked = create(manager)
    with pytest.raises(TimeoutError):
        wait(manager, asked, 0.001)
    assert asked.status == "expired"
    with pytest.raises(ValueError, match=f"Approval {asked.id} not found"):
        wait(manager, asked)
    with pytest.raises(ValueError, match="not found"):
        manager.wait_for_approval("zz")
    assert not WebSocketApprovalManager.resolve("zz", "approved")


def test_a_page_that_cannot_be_reached():
    def broken(kind, data):
        raise ConnectionError("closed")

    async def coroutine(kind, data):
        pass

    for send, reason in ((broken, "closed"), (coroutine, "plain function")):
        manager, _ = make(send)
        with pytest.raises(RuntimeError, match=reason):
            create(manager)


def test_a_pickled_manager_has_no_connection():
    manager, _ = make()
    manager.ws_send_event = lambda kind, data: None
    for twin in (pickle.loads(pickle.dumps(manager)), copy.deepcopy(manager)):
        assert twin.run_id == "run"
        with pytest.raises(RuntimeError, match="lost its connection"):
            create(twin)


def test_defaults():
    manager, _ = make()
    asked = create(manager, run_id="", options=None)
    assert (asked.run_id, asked.options) == ("run", ["approve", "reject", "modify"])
    WebSocketApprovalManager.resolve(asked.id, "approve")
    wait(manager, asked)
    with pytest.warns(RuntimeWarning, match="db_factory is not used"):
        WebSocketApprovalManager(print, "run", lambda: None)


@pytest.mark.parametrize(
    ("message", "word", "approved"),
    [
        ({"approved": True, "resolution": "rejected"}, "approved", True),
        ({"approved": False}, "rejected", False),
        ({"resolution": "modified", "modifications": json.dumps({"plan": STEPS})}, "modified", True),
        ({"resolution": "approve", "feedback": "fine"}, "approve", False),
        ({}, "rejected", False),
    ],
)
def test_messages_of_a_page(message, word, approved):
    manager, _ = make()
    asked = create(manager)
    reply = WebSocketApprovalManager.resolve_message({"approval_id": asked.id, **message})
    assert reply == {
        "approval_id": asked.id,
        "approved": approved,
        "resolution": word,
        "feedback": message.get("feedback"),
    }
    assert wait(manager, asked).resolution == word
    with pytest.raises(ConfigurationError, match="waits for an answer"):
        WebSocketApprovalManager.resolve_message({"approval_id": asked.id, **message})


def test_in_a_run(tmp_path):
    def page(kind, data):
        WebSocketApprovalManager.resolve(data["approval_id"], "modified", "shorter", {"plan": STEPS})

    built = WorkflowExecutor(
        WorkflowDefinition(id="w", name="W", phases=[{"type": "hitl_checkpoint"}]),
        "task",
        tmp_path,
        {},
        approval_manager=WebSocketApprovalManager(page, "run"),
        verbose=False,
    )
    context = built.run_sync()
    assert context.plan == STEPS
    assert context.approvals[0]["approval_status"] == "modified"
