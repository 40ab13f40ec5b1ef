"""Runs over REST: watched, asked, steered, taken up again."""

import asyncio
import json
import threading

import pytest

from cmbagent.backend import leftovers
from cmbagent.phases import PhaseResult, PhaseStatus
from cmbagent.store import Store
from procs import forever, found, sleeper, wait_for, wait_until_gone
from rest import API, frames, open_question, phase_types, server, start, status, until, workflow
from scripted import models, two_steps


@pytest.fixture
def client(tmp_path):
    with server(tmp_path) as client:
        yield client


async def nothing(context):
    return PhaseResult(PhaseStatus.COMPLETED, context)


async def broken(context):
    return PhaseResult(PhaseStatus.FAILED, context, error="no luck")


def held():
    """A phase's work that lasts until an event is set."""
    gate = threading.Event()

    async def work(context):
        while not gate.is_set():
            await asyncio.sleep(0.01)
        return PhaseResult(PhaseStatus.COMPLETED, context)

    return gate, work


# Watching


def test_a_run_is_seen_phase_by_phase_while_other_requests_are_answered(client):
    gate, work = held()
    with phase_types(nothing=nothing, held=work):
        run_id = start(client, workflow(client, "nothing", "held", "nothing"))
        state = wait_for(lambda: (s := status(client, run_id))["current_phase"] == 1 and s)
        assert state["status"] == "running" and state["completed_at"] is None
        assert [each["status"] for each in state["phase_results"]] == ["completed", "running"]
        assert state["phase_results"][1]["completed_at"] is None and state["resumable"] == "no"
        assert client.get(f"{API}/types").status_code == 200
        assert client.delete(f"{API}/runs/{run_id}").status_code == 409
        gate.set()
        state = until(client, run_id)
    assert (state["status"], state["current_phase"], len(state["phase_results"])) == ("completed", 2, 3)


def test_a_failed_phase_is_told_with_its_true_type_and_error(client):
    with phase_types(odd_type=broken, nothing=nothing):
        run_id = start(client, workflow(client, "odd_type", "nothing"))
        state = until(client, run_id)
    (phase,) = state["phase_results"]
    assert state["status"] == "failed" and state["error"] == "Phase odd_type failed: no luck"
    assert (phase["phase_type"], phase["status"], phase["error"]) == ("odd_type", "failed", "no luck")
    assert state["resumable"] == "yes"


def test_a_phase_that_refuses_its_input_is_told(client):
    run_id = start(client, workflow(client, "control"))
    state = until(client, run_id)
    (phase,) = state["phase_results"]
    assert (phase["phase_type"], phase["status"]) == ("control", "failed")
    assert "validation failed" in phase["error"]


def test_settings_of_a_run_show_in_its_phases(client):
    model = two_steps()
    with model, model.environment():
        overrides = {"planning": {"max_plan_steps": 2}, "1": {"max_n_attempts": 0}}
        run_id = start(
            client, "deep_research", {"X-OpenAI-Api-Key": "sk-0123456789"}, config_overrides=overrides
        )
        assert until(client, run_id)["status"] == "completed"
    planning, control = client.get(f"{API}/runs/{run_id}/phases").json()
    assert planning["config"]["max_plan_steps"] == 2 and control["config"]["max_n_attempts"] == 0
    assert planning["usage"]["calls"] == 3


async def raising(context):
    raise LookupError("nothing there")


def test_a_run_whose_first_phase_raises_at_once_has_begun(client):
    with phase_types(raising=raising):
        run_id = start(client, workflow(client, "raising"))
        state = until(client, run_id)
    assert (state["status"], state["phase_results"][0]["status"]) == ("failed", "failed")
    assert "nothing there" in state["error"]


# Asking


def asked(client, run_id):
    until(client, run_id, "waiting_approval")
    return wait_for(lambda: open_question(client, run_id))


def test_a_checkpoint_is_answered_with_an_edited_plan(client):
    model = two_steps()
    with model, model.environment():
        run_id = start(
            client, "deep_research_hitl", {"X-OpenAI-Api-Key": "sk-0123456789"}, hitl_enabled=False
        )
        question = asked(client, run_id)
        state = status(client, run_id)
        assert state["phase_results"][1]["status"] == "waiting_approval"
        assert (
            question["options"] == ["approve", "reject", "modify"] and len(question["context"]["plan"]) == 2
        )
        place = f"{API}/runs/{run_id}/approvals/{question['approval_id']}"
        assert client.get(place).json() == question
        answer = client.post(place, json={"resolution": "perhaps"})
        assert answer.status_code == 422 and "perhaps" in answer.json()["detail"]
        answer = client.post(
            place, json={"resolution": "modify", "modifications": {"plan": [{"sub_task": "x"}]}}
        )
        assert answer.status_code == 422
        edited = {"plan": [question["context"]["plan"][1]]}
        body = {"resolution": "modify", "user_feedback": "shorter", "modifications": edited}
        answer = client.post(place, json=body)
        assert answer.status_code == 200 and answer.json()["status"] == "answered"
        assert client.post(place, json=body).status_code == 409
        assert until(client, run_id)["status"] == "completed"
    assert [call.agent for call in model.calls][3:] == ["researcher"]
    assert client.get(f"{API}/runs/{run_id}/approvals/0.0").status_code == 404


def test_a_rejected_checkpoint_ends_the_run(client):
    model = models([("engineer", "compute")])
    with model, model.environment():
        run_id = start(client, "deep_research_hitl", {"X-OpenAI-Api-Key": "sk-0123456789"})
        place = f"{API}/runs/{run_id}/approvals/{asked(client, run_id)['approval_id']}"
        assert client.post(place, json={"resolution": "rejected"}).json()["resolution"] == "reject"
        state = until(client, run_id)
    assert state["status"] == "failed" and "Rejected by user" in state["error"]
    assert state["phase_results"][1]["phase_type"] == "hitl_checkpoint"


def test_hitl_enabled_asks_after_each_step(client):
    model = two_steps()
    with model, model.environment():
        run_id = start(client, "deep_research", {"X-OpenAI-Api-Key": "sk-0123456789"}, hitl_enabled=True)
        question = asked(client, run_id)
        assert question["checkpoint_type"] == "after_step"
        assert client.post(f"{API}/runs/{run_id}/stop").status_code == 200
        assert until(client, run_id)["status"] == "cancelled"


# Steering


def test_stop_ends_what_is_going_on_and_no_phase_follows(client):
    seen = []
    with phase_types(endless=forever(seen), nothing=nothing):
        run_id = start(client, workflow(client, "endless", "nothing"))
        wait_for(lambda: seen)
        answer = client.post(f"{API}/runs/{run_id}/stop")
        assert (answer.status_code, answer.json()) == (200, {"success": True, "message": "Stop requested"})
        again = client.post(f"{API}/runs/{run_id}/stop")
        assert again.status_code == 400 and again.json()["detail"].startswith("Cannot stop run with status '")
        state = until(client, run_id)
        assert state["status"] == "cancelled" and seen == ["sleeping", "cancelled"]
        assert [each["phase_type"] for each in state["phase_results"]] == ["endless"]
        again = client.post(f"{API}/runs/{run_id}/stop")
        assert again.json()["detail"] == "Cannot stop run with status 'cancelled'"


def test_stop_kills_the_script_that_runs(client):
    model = models([], engineer=sleeper())
    with model, model.environment():
        run_id = start(client, "one_shot", {"X-OpenAI-Api-Key": "sk-0123456789"})
        place = status(client, run_id)["work_dir"]
        pids = wait_for(lambda: found(place))
        client.post(f"{API}/runs/{run_id}/stop")
        assert until(client, run_id)["status"] == "cancelled"
    wait_until_gone(pids)


def test_stop_after_the_phase_lets_it_come_to_its_end(client):
    gate, work = held()
    with phase_types(held=work, nothing=nothing):
        run_id = start(client, workflow(client, "held", "nothing"))
        until(client, run_id, "running")
        assert client.post(f"{API}/runs/{run_id}/stop", params={"mode": "after_phase"}).status_code == 200
        assert status(client, run_id)["status"] == "stopping"

        def listed(word):
            answer = client.get(f"{API}/runs", params={"status": word})
            return [(each["run_id"], each["status"]) for each in answer.json()], answer.headers[
                "x-total-count"
            ]

        # The store says `running` still.
        assert listed("stopping") == ([(run_id, "stopping")], "1") and listed("running") == ([], "0")
        assert client.post(f"{API}/runs/{run_id}/stop", params={"mode": "after_phase"}).status_code == 400
        gate.set()
        state = until(client, run_id)
    assert state["status"] == "stopped"
    assert [each["status"] for each in state["phase_results"]] == ["completed"]


def test_a_paused_run_goes_on_when_it_is_resumed(client):
    gate, work = held()
    with phase_types(held=work, nothing=nothing):
        run_id = start(client, workflow(client, "held", "nothing"))
        until(client, run_id, "running")
        assert client.post(f"{API}/runs/{run_id}/pause").status_code == 200
        gate.set()
        wait_for(lambda: status(client, run_id)["phase_results"][0]["status"] == "completed")
        assert status(client, run_id)["status"] == "paused"
        answer = client.post(f"{API}/runs/{run_id}/resume")
        assert (answer.status_code, answer.json()["message"]) == (200, "Workflow run resumed")
        assert until(client, run_id)["status"] == "completed"
    assert client.post(f"{API}/runs/{run_id}/pause").status_code == 400
    assert client.post(f"{API}/runs/{run_id}/resume").status_code == 400


# Taking up


def counted(counts, name, fail=0):
    """A phase's work that counts itself, and fails its first times."""

    async def work(context):
        counts.append(name)
        if counts.count(name) <= fail:
            return PhaseResult(PhaseStatus.FAILED, context, error="no luck")
        return PhaseResult(PhaseStatus.COMPLETED, context)

    return work


def test_a_failed_run_goes_on_where_it_failed(client):
    ran = []
    with phase_types(first=counted(ran, "first"), second=counted(ran, "second", fail=1)):
        run_id = start(client, workflow(client, "first", "second"))
        assert until(client, run_id)["status"] == "failed"
        assert client.post(f"{API}/runs/{run_id}/resume").status_code == 200
        state = until(client, run_id, "completed")
    assert ran == ["first", "second", "second"]
    assert [each["status"] for each in state["phase_results"]] == ["completed", "completed"]
    assert state["error"] is None


def test_phases_are_done_anew_from_the_one_that_is_named(client):
    ran = []
    names = ("first", "second", "third")
    with phase_types(**{name: counted(ran, name) for name in names}):
        run_id = start(client, workflow(client, *names))
        until(client, run_id)
        assert client.post(f"{API}/runs/{run_id}/retry", json={"from_phase": 1}).status_code == 200
        wait_for(lambda: len(ran) == 5)
        state = until(client, run_id)
        assert client.post(f"{API}/runs/{run_id}/retry", json={"from_phase": 3}).status_code == 400
    assert ran == ["first", "second", "third", "second", "third"]
    assert state["status"] == "completed"
    assert [each["status"] for each in state["phase_results"]] == ["completed"] * 3


def test_a_server_that_ends_leaves_its_runs_to_the_next(tmp_path):
    gate, work = held()
    ran = []
    with phase_types(first=counted(ran, "first"), held=work):
        with server(tmp_path) as client:
            kind = workflow(client, "first", "held")
            mine = start(client, kind)
            keyed = start(client, kind, {"X-OpenAI-Api-Key": "sk-0123456789"})
            for run_id in (mine, keyed):
                wait_for(lambda: status(client, run_id)["current_phase"] == 1)
        with server(tmp_path) as client:
            assert client.get(f"{API}/workflows", params={"include_system": False}).json()[0]["id"] == kind
            state = until(client, mine, "running")
            assert state["phase_results"][0]["status"] == "completed"
            state = status(client, keyed)
            assert (state["status"], state["resumable"]) == ("interrupted", "needs key")
            assert [each["status"] for each in state["phase_results"]] == ["completed", "paused"]
            answer = client.post(f"{API}/runs/{keyed}/resume")
            assert answer.status_code == 400 and "needs key" in answer.json()["detail"]
            answer = client.post(f"{API}/runs/{keyed}/resume", headers={"X-OpenAI-Api-Key": "sk-0123456789"})
            assert answer.status_code == 200
            gate.set()
            assert until(client, mine)["status"] == until(client, keyed)["status"] == "completed"
    assert ran == ["first", "first"]


def test_a_run_is_deleted_with_what_it_made(client, tmp_path):
    async def write(context):
        (tmp_path / "out" / context.run_id).mkdir(parents=True)
        (tmp_path / "out" / context.run_id / "a.txt").write_text("x")

        return PhaseResult(PhaseStatus.COMPLETED, context)

    with phase_types(write=write):
        kind = workflow(client, "write")
        one, other = start(client, kind), start(client, kind)
        for run_id in (one, other):
            assert until(client, run_id)["status"] == "completed"
    assert client.delete(f"{API}/runs/{one}").json()["success"] is True
    assert (tmp_path / "out" / one / "a.txt").exists()
    client.delete(f"{API}/runs/{other}", params={"files": True})
    assert not (tmp_path / "out" / other).exists()
    assert client.get(f"{API}/runs").json() == []


def test_what_others_left_is_taken_up_unless_it_gets_nowhere(tmp_path, caplog, monkeypatch):
    gate, work = held()
    runs = {}
    with phase_types(held=work):
        with server(tmp_path) as client:
            kind = workflow(client, "held")
            for name, headers in (
                ("mine", None),
                ("stuck", None),
                ("keyed", {"X-OpenAI-Api-Key": "sk-0123456789"}),
            ):
                runs[name] = start(client, kind, headers)
        with server(tmp_path, resume=False) as client:
            hub = client.app.state.cmbagent
            # As if every server that took it up had been killed at once.
            events = hub.store.events
            lives = [("run_started", {}), *[("run_resumed", {})] * leftovers.MOST_LIVES]
            monkeypatch.setattr(
                Store, "events", lambda _, *asked: lives if asked == (runs["stuck"],) else events(*asked)
            )
            found = leftovers.Leftovers(hub.runs, 60.0)
            assert found.take_up() == [runs["mine"]]
            assert found.take_up() == []
            assert status(client, runs["keyed"])["resumable"] == "needs key"
            (line,) = [each.message for each in caplog.records if "could not be taken up" in each.message]
            assert runs["stuck"] in line and "taken up 5 times" in line
            gate.set()
            assert until(client, runs["mine"])["status"] == "completed"


# Listening


def test_events_come_once_each_and_go_on_after_the_last_known(client):
    with phase_types(nothing=nothing):
        run_id = start(client, workflow(client, "nothing", "nothing"))
        until(client, run_id)
    place = f"{API}/runs/{run_id}/events"

    def listen(**asked):
        with client.stream("GET", place, **asked) as stream:
            assert stream.status_code in (200, 204)
            return frames(stream.iter_lines())

    events = listen()
    kinds = [kind for _, kind in events]
    assert kinds[0] == "run_started" and kinds[-1] == "run_finished" and kinds.count("phase_finished") == 2
    assert [seq for seq, _ in events] == sorted({seq for seq, _ in events})
    middle = events[3][0]
    assert listen(headers={"Last-Event-ID": str(middle)}) == events[4:] == listen(params={"after": middle})
    ended = client.get(place, headers={"Last-Event-ID": str(events[-1][0])})
    assert (ended.status_code, ended.content) == (204, b"")
    assert client.get(place, headers={"Last-Event-ID": "x"}).status_code == 400


def test_events_come_by_websocket(client):
    with phase_types(nothing=nothing):
        run_id = start(client, workflow(client, "nothing"))
        kinds = []
        with client.websocket_connect(f"{API}/runs/{run_id}/events") as socket:
            while not kinds or kinds[-1] != "run_finished":
                event = json.loads(socket.receive_text())
                assert event["data"]["run_id"] == run_id
                kinds.append(event["kind"])
            assert socket.receive()["code"] == 1000
    assert kinds[0] == "run_started" and "phase_finished" in kinds


def test_chat_comes_by_page(client):
    model = two_steps()
    with model, model.environment():
        run_id = start(client, "deep_research", {"X-OpenAI-Api-Key": "sk-0123456789"})
        until(client, run_id)
    whole = client.get(f"{API}/runs/{run_id}/chat").json()
    assert whole["next_after"] is None
    after, pages = 0, []
    while after is not None:
        page = client.get(f"{API}/runs/{run_id}/chat", params={"after": after, "limit": 3}).json()
        pages += page["messages"]
        after = page["next_after"]
    assert pages == whole["messages"] and len(pages) > 3


def test_the_server_counts(client):
    with phase_types(nothing=nothing):
        until(client, start(client, workflow(client, "nothing")))
    client.get(f"{API}/runs/nope")
    lines = client.get("/metrics").text.splitlines()
    assert 'cmbagent_runs{status="completed"} 1' in lines and "cmbagent_runs_in_progress 0" in lines
    route = 'method="GET",route="/api/phases/runs/{run_id}",status="404"'
    assert f"cmbagent_http_requests_total{{{route}}} 1" in lines
