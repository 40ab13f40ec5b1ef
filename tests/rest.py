"""A server for tests, within this process, and what tests of it do again and again."""

import contextlib
from pathlib import Path

from fastapi.testclient import TestClient

from cmbagent.backend import Settings, create_app
from cmbagent.phases import Phase, PhaseRegistry
from procs import wait_for

API = "/api/phases"
ENDED = ("stopped", "cancelled", "failed", "completed")


@contextlib.contextmanager
def server(directory, **settings):
    """A client of a server whose store and root lie in `directory`."""
    root = Path(directory, "out")
    given = {"root": root, "hosts": ("testserver",), **settings}
    with TestClient(create_app(Path(directory, "store", "store.db"), Settings(**given))) as client:
        yield client


@contextlib.contextmanager
def phase_types(**works):
    """Phase types whose work is a coroutine function of the context."""
    before = {kind: PhaseRegistry.get(kind) for kind in PhaseRegistry.list_all()}

    def made(kind, work):
        class Made(Phase):
            """Do what a test wants."""

            phase_type = kind
            display_name = kind.title()

            async def execute(self, context):
                return await work(context)

        return Made

    for kind, work in works.items():
        PhaseRegistry.register_class(kind, made(kind, work))
    try:
        yield
    finally:
        PhaseRegistry.clear()
        for kind, cls in before.items():
            PhaseRegistry.register_class(kind, cls)


def workflow(client, *kinds, **configs):
    """The id of a new workflow of these phase types."""
    phases = [{"type": kind, "config": configs.get(kind, {})} for kind in kinds]
    answer = client.post(f"{API}/workflows", json={"name": "w", "description": "", "phases": phases})
    assert answer.status_code == 200, answer.text
    return answer.json()["id"]


def start(client, workflow_id, headers=None, **body):
    """The id of a new run."""
    body = {"task": "the task", **body}
    answer = client.post(f"{API}/workflows/{workflow_id}/run", json=body, headers=headers)
    assert answer.status_code == 200, answer.text
    return answer.json()["run_id"]


def status(client, run_id):
    answer = client.get(f"{API}/runs/{run_id}")
    assert answer.status_code == 200, answer.text
    return answer.json()


def until(client, run_id, *words):
    """The run's status once it is one of `words`, or has ended when there are none."""
    words = words or ENDED
    return wait_for(lambda: (state := status(client, run_id))["status"] in words and state)


def open_question(client, run_id):
    asked = client.get(f"{API}/runs/{run_id}/approvals").json()
    return next((each for each in asked if each["status"] == "open"), None)


def frames(lines):
    """The events of a stream: pairs of number and kind."""
    events, seq = [], None
    for line in lines:
        if line.startswith("id: "):
            seq = int(line[4:])
        elif line.startswith("event: "):
            events.append((seq, line[7:]))
    return events
