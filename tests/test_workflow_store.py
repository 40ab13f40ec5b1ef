"""What the server keeps in the store, and how it reads it."""

import asyncio

import pytest

from cmbagent import _core
from cmbagent.errors import JournalError
from cmbagent.store import Store
from procs import Do, done, executor, wait_for


def test_versions_are_kept_and_late_writers_refused(tmp_path):
    store = _core.Store(str(tmp_path / "s.db"))
    assert store.keep_workflow("a", 0, "one") and store.keep_workflow("a", 1, "two")
    assert not store.keep_workflow("a", 1, "late")
    assert [(row["version"], row["body"]) for row in store.workflow_versions("a")] == [(2, "two"), (1, "one")]
    again = _core.Store(str(tmp_path / "s.db"))
    assert [row["body"] for row in again.workflows()] == ["two"]
    assert not again.drop_workflow("a", 1) and again.drop_workflow("a", 2)
    assert store.workflows() == store.workflow_versions("a") == []


def test_events_come_by_page_with_their_place(tmp_path):
    async def talk(context):
        await context.run.observe("text", lambda: "x" * 10_000)
        context.output_data = {"text": "y" * 10_000}
        return done(context)

    store = Store(tmp_path / "store" / "s.db")
    ran = executor(tmp_path / "out", Do(talk, "talk"), Do(talk, "talk"), store=store)
    ran.workflow.phases = [{"type": "talk"}, {"type": "talk"}]
    asyncio.run(ran.run())
    run_id = ran.context.run_id
    events = store.events(run_id)
    whole = [r["seq"] for r in store.records(run_id) if r["entry"]["entry"] == "event"]
    assert [data["seq"] for _, data in events] == whole
    pages, start = [], 1
    while page := store.events(run_id, start, 2):
        assert len(page) <= 2
        pages += page
        start = page[-1][1]["seq"] + 1
    assert pages == events
    places = [(data["phase"], data["phase_index"]) for kind, data in events if kind == "phase_finished"]
    assert places == [("talk", 0), ("talk", 1)]
    assert (events[0][0], events[0][1]["phase"], events[0][1]["agent"]) == ("run_started", "", "")


def test_a_run_that_was_deleted_is_not_begun_again(tmp_path):
    async def work(context):
        return done(context)

    store = Store(tmp_path / "store" / "s.db")
    ran = executor(tmp_path / "out", Do(work), store=store)
    asyncio.run(ran.run())
    ran._resuming = True
    wait_for(lambda: store.run(ran.context.run_id).owner is None)
    store.delete(ran.context.run_id)
    with pytest.raises(JournalError, match="no run"):
        asyncio.run(ran.run())
    assert store.runs() == []
