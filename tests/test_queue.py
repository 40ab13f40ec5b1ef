"""Questions of a queue answered by another process, as the documentation shows it."""

import subprocess
import sys
import threading
from multiprocessing.managers import BaseManager

from cmbagent.approvals import QueueApprovalManager
from procs import PATIENCE
from scripted import run, two_steps

ANSWERS = """
import sys, time
from multiprocessing.managers import BaseManager

class Desk(BaseManager):
    pass

Desk.register("approvals")
desk = Desk(address=sys.argv[1], authkey=b"secret")
desk.connect()
approvals = desk.approvals()
while not approvals.pending():
    time.sleep(0.01)
(asked,) = approvals.pending()
try:
    approvals.answer(asked.id, "perhaps")
except ValueError as error:
    print(error)
print(approvals.answer(asked.id, "modify", "only the first", {"plan": asked.plan[:1]}).resolution)
"""


class Desk(BaseManager):
    """What the other process connects to."""


def test_a_question_is_answered_by_another_process(tmp_path):
    from cmbagent.workflows import WorkflowExecutor, get_workflow

    manager = QueueApprovalManager()
    Desk.register("approvals", callable=lambda: manager)
    address = str(tmp_path / "desk")
    server = Desk(address=address, authkey=b"secret").get_server()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    command = [sys.executable, "-c", ANSWERS, address]
    other = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)

    def work(api_keys):
        ran = WorkflowExecutor(
            get_workflow("deep_research_hitl"), "t", tmp_path / "w", api_keys, approval_manager=manager
        )
        return ran.run_sync()

    try:
        context = run(two_steps(), work)
        told, _ = other.communicate(timeout=PATIENCE)
    finally:
        # The server stays: to end one is to end its process.
        other.kill()
    refused, resolution = told.splitlines()
    assert "'perhaps' is none of the options" in refused
    assert resolution == "modify"
    assert [step["sub_task"] for step in context.plan] == ["compute"]
    assert context.user_feedback == ["only the first"]
