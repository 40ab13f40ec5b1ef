"""Where a run stands while a human is asked, and what a resumed run shows."""

import io

import pytest

from cmbagent._notebook import NotebookDisplay, Progress
from cmbagent._stream import EventLog
from cmbagent.approvals import QueueApprovalManager
from cmbagent.display import Display
from procs import executor, wait_for


async def asks(context):
    context.output_data["said"] = await context.run.ask("Well?", ["approve", "reject"])


@pytest.mark.parametrize("where", ["queue", "store"])
def test_status_while_a_human_is_asked(tmp_path, store, where):
    manager = QueueApprovalManager()
    ran = executor(tmp_path, asks, approval_manager=manager)
    handle = ran.start()
    wait_for(lambda: handle.status()["status"] == "waiting_approval" and manager.pending())
    run = ran.context.run_id
    wait_for(lambda: store.run(run).status == "waiting_approval")
    (asked,) = store.questions(run)
    assert (asked["question"]["message"], asked["settled"], asked["answer"]) == ("Well?", False, None)
    if where == "queue":
        manager.answer(manager.pending()[0].id, "approve")
    else:
        store.answer(run, asked["id"], "approved", "Yes.")
    handle.result(timeout=20)
    assert ran.results[0].context.output_data["said"]["resolution"] == "approve"
    assert (ran.get_status()["status"], manager.pending()) == ("completed", [])
    (asked,) = store.questions(run)
    assert (asked["settled"], asked["answer"]["resolution"]) == (True, "approve")


@pytest.mark.parametrize(
    ("events", "status"),
    [
        (["run_started"], "running"),
        (["run_resumed"], "running"),
        (["run_started", "approval_requested"], "waiting_approval"),
        (["run_started", *["approval_requested"] * 2, "approval_received"], "waiting_approval"),
        (["run_started", "approval_requested", "approval_received"], "running"),
        (["run_started", "approval_requested", "phase_finished"], "running"),
        (["run_started", "approval_requested", "run_paused"], "paused"),
        (["run_resumed", ("effect_repeated", {"effect": "ask"})], "waiting_approval"),
        (["run_resumed", ("effect_repeated", {"effect": "call"})], "running"),
        (["run_started", ("run_finished", {"status": "paused"})], "paused"),
        (["run_started", ("run_finished", {"status": "waiting_approval"})], "waiting_approval"),
        (["run_started", ("run_finished", {"status": "interrupted"})], "interrupted"),
    ],
)
def test_status_by_events(events, status):
    log = EventLog()
    for number, event in enumerate(events, 1):
        kind, data = (event, {}) if isinstance(event, str) else event
        log.record(kind, {"seq": number, **data})
    assert log.status == status


def test_a_log_that_ends_without_its_last_event_has_failed():
    log = EventLog()
    log.record("run_started", {"seq": 1})
    log.close()
    assert log.status == "failed"


RESUMED = [
    ("run_resumed", {"workflow_name": "Mine", "phases": ["a", "b"], "run_id": "r", "work_dir": "/w"}),
    ("phase_restored", {"display_name": "First", "phase_index": 0, "lost": ["shared.fig\x1b[31m"]}),
    ("effect_repeated", {"effect": "execute", "changed": True}),
]


def test_terminal_says_what_was_taken_up():
    out = io.StringIO()
    display = Display(out)
    for kind, data in RESUMED:
        display.event(kind, data)
    assert out.getvalue() == (
        "Mine · a → b · run r\nWork directory: /w\nResumed: what is finished is not repeated\n"
        "\nFirst: taken up as it was\n  without what could not be kept: shared.fig\n"
        "  cut short before, now again: a script (it has changed since)\n"
    )


def test_notebook_says_what_was_taken_up():
    shown, out = [], io.StringIO()

    class Publisher:
        def publish(self, data, metadata, **how):
            shown.append(data["text/plain"])

    display = NotebookDisplay(Publisher(), out)
    for kind, data in RESUMED:
        display.event(kind, data)
    assert "First: taken up as it was" in out.getvalue()
    assert [line.rpartition(" · ")[0] for line in shown] == [
        "Mine · running · taking up what is finished",
        "Mine · running · First · taking up what is finished",
        "Mine · running · First · again: a script",
    ]
    progress = Progress()
    for kind, data in RESUMED:
        progress.event(kind, data)
    assert progress.fraction() == 0.5
