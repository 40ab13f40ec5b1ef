"""What a question shows of money: what was spent, and for a plan an estimate of what is to come."""

from types import SimpleNamespace

import pytest

from cmbagent.approvals import AutoApprovalManager, ConsoleApprovalManager, QueueApprovalManager
from cmbagent.database.websocket_approval_manager import WebSocketApprovalManager
from cmbagent.workflows import WorkflowExecutor, get_workflow
from procs import executor as executor_of
from scripted import run, two_steps


class Own:
    """A manager of a user's own: it knows the snapshot only."""

    def create_approval_request(self, **asked):
        self.snapshot = asked["context_snapshot"]
        return SimpleNamespace(id="a")

    async def wait_for_approval_async(self, request_id, timeout_seconds):
        return SimpleNamespace(resolution="approve", user_feedback=None, modifications=None)


def checkpoint(tmp_path, manager, workflow="deep_research_hitl"):
    def work(api_keys):
        executor = WorkflowExecutor(
            get_workflow(workflow), "t", tmp_path, api_keys, approval_manager=manager, verbose=False
        )
        executor.run_sync()

    run(two_steps(), work)


def by_queue(tmp_path):
    seen = []
    manager = QueueApprovalManager(lambda asked: (seen.append(asked), manager.answer(asked.id, "approve")))
    checkpoint(tmp_path, manager)
    (asked,) = seen
    return asked.spent, asked.estimate


def by_websocket(tmp_path):
    sent = []
    manager = WebSocketApprovalManager(lambda kind, data: sent.append((kind, data)), "run")
    wait = manager.wait_for_approval_async

    async def answered(approval_id, timeout_seconds):
        WebSocketApprovalManager.resolve(approval_id, "approved")
        return await wait(approval_id, timeout_seconds)

    manager.wait_for_approval_async = answered
    checkpoint(tmp_path, manager)
    ((kind, data),) = sent
    assert kind == "approval_requested"
    return data["context"]["spent"], data["context"]["estimate"]


def by_own_manager(tmp_path):
    manager = Own()
    checkpoint(tmp_path, manager)
    return manager.snapshot["spent"], manager.snapshot["estimate"]


@pytest.mark.parametrize("ask", [by_queue, by_websocket, by_own_manager])
def test_a_plan_is_shown_with_what_was_spent_and_an_estimate(tmp_path, ask):
    spent, estimate = ask(tmp_path)
    assert spent["calls"] == 3 and spent["cost"] > 0
    assert estimate["calls"] == 2
    assert estimate["cost"] == pytest.approx(spent["cost"] / 3 * 2)
    assert "average of the 3 calls so far" in estimate["basis"]


def test_the_console_labels_the_estimate(tmp_path):
    shown = []
    checkpoint(tmp_path, ConsoleApprovalManager(lambda prompt: "approve", shown.append))
    text = "".join(shown)
    assert "Spent so far: 3 model calls, " in text
    assert "Still to come (estimate): about 2 model calls, $" in text
    assert "(one model call a step, more when a script fails; priced like the average" in text


def test_after_a_step_only_what_was_spent_is_shown(tmp_path):
    manager = AutoApprovalManager("approve")
    checkpoint(tmp_path, manager, "deep_research_full_hitl")
    asked = [request for request, _ in manager.answered]
    assert [request.checkpoint_type for request in asked] == ["after_planning", "after_step", "after_step"]
    assert [request.spent["calls"] for request in asked] == [3, 4, 5]
    assert [request.estimate is None for request in asked] == [False, True, True]


def test_a_question_of_a_users_phase_shows_what_was_spent(tmp_path):
    manager = AutoApprovalManager("approve")

    async def work(context):
        await context.run.call("Say hi.", agent="researcher")
        await context.run.ask("Go on?", ["approve", "reject"])
        await context.run.ask("Go on?", ["approve", "reject"], context={"spent": "mine", "plan": "b"})

    run(two_steps(), lambda api_keys: executor_of(tmp_path, work, approval_manager=manager).run_sync())
    first, second = (request.context_snapshot for request, _ in manager.answered)
    assert first["spent"]["calls"] == 1
    assert second == {"spent": "mine", "plan": "b"}
