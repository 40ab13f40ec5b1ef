"""The API as the specification describes it: types, workflows, validation, runs, registry, executors.

Run with pytest, or as a script: `python tests/test_phases_api.py`.
"""

import asyncio
import re
import sys

import pytest

from cmbagent.phases import ControlPhase, OneShotPhase, PhaseRegistry, PhaseResult, PhaseStatus, PlanningPhase
from cmbagent.workflows import SYSTEM_WORKFLOWS, WorkflowDefinition, WorkflowExecutor, get_workflow
from rest import API, phase_types, server, start, until, workflow
from scripted import two_steps

DEEP_RESEARCH = {
    "id": "deep_research",
    "name": "Deep Research",
    "description": "Planning followed by multi-step execution",
    "num_phases": 2,
    "is_system": True,
}
MINE = {
    "name": "Mine",
    "description": "of my own",
    "phases": [
        {"type": "planning", "config": {"max_plan_steps": 5}},
        {"type": "hitl_checkpoint"},
        {"type": "control", "config": {"max_rounds": 150}},
    ],
}


@pytest.fixture
def client(tmp_path):
    with server(tmp_path) as client:
        yield client


async def nothing(context):
    return PhaseResult(PhaseStatus.COMPLETED, context)


# Phase types


def test_phase_types_are_listed(client):
    types = client.get(f"{API}/types").json()
    kinds = ["planning", "control", "one_shot", "hitl_checkpoint", "idea_generation"]
    assert [each["type"] for each in types][:5] == kinds
    assert all(each["display_name"] and isinstance(each["required_agents"], list) for each in types)
    assert all(each["description"] for each in types[:5])


def test_a_phase_type_is_described(client):
    found = client.get(f"{API}/types/planning").json()
    assert found["type"] == "planning" and "planner" in found["required_agents"]


def test_an_unknown_phase_type_is_not_found(client):
    answer = client.get(f"{API}/types/nope")
    assert answer.status_code == 404
    assert answer.json()["detail"].startswith("Phase type 'nope' not found. Available: ['planning'")
    answer = client.get(f"{API}/types/nope/config-schema")
    assert (answer.status_code, answer.json()["detail"]) == (404, "Phase type 'nope' not found")


def test_the_schema_of_settings_has_true_types(client):
    answer = client.get(f"{API}/types/hitl_checkpoint/config-schema").json()
    assert answer["phase_type"] == "hitl_checkpoint" and answer["schema"]["type"] == "object"
    fields = answer["schema"]["properties"]
    assert fields["options"]["type"] == "array" and fields["options"]["items"] == {"type": "string"}
    assert fields["options"]["default"] == ["approve", "reject", "modify"]
    assert "after_planning" in fields["checkpoint_type"]["enum"]
    assert (fields["timeout_seconds"]["type"], fields["timeout_seconds"]["default"]) == ("integer", 3600)
    fields = client.get(f"{API}/types/control/config-schema").json()["schema"]["properties"]
    assert fields["step_number"]["type"] == ["integer", "null"]
    assert fields["model_overrides"] == {
        **fields["model_overrides"], "type": "object", "additionalProperties": {"type": "string"}
    }  # fmt: skip
    assert fields["max_rounds"]["minimum"] == 1 and "model calls" in fields["max_rounds"]["description"]


# Workflows


def test_workflows_are_listed_those_of_the_package_first(client):
    mine = client.post(f"{API}/workflows", json=MINE).json()
    listed = client.get(f"{API}/workflows").json()
    assert DEEP_RESEARCH in listed
    assert [each["id"] for each in listed] == [*SYSTEM_WORKFLOWS, mine["id"]]
    only_custom = client.get(f"{API}/workflows", params={"include_system": False}).json()
    assert [(each["id"], each["num_phases"]) for each in only_custom] == [(mine["id"], 3)]


def test_a_workflow_of_the_package_is_shown(client):
    found = client.get(f"{API}/workflows/deep_research_hitl").json()
    assert [phase["type"] for phase in found["phases"]] == ["planning", "hitl_checkpoint", "control"]
    assert found["is_system"] is True and found["version"] == 1


def test_a_workflow_is_made_changed_and_deleted(client):
    made = client.post(f"{API}/workflows", json={**MINE, "created_by": "me"}).json()
    assert re.fullmatch(r"custom_[0-9a-f]{8}", made["id"])
    assert (made["version"], made["is_system"], made["created_by"]) == (1, False, "me")
    assert made["phases"][1] == {"type": "hitl_checkpoint", "config": {}}
    place = f"{API}/workflows/{made['id']}"
    assert client.get(place).json() == made

    changed = client.put(place, json={**MINE, "name": "Ours"}).json()
    assert (changed["version"], changed["name"], changed["created_by"]) == (2, "Ours", "me")
    assert [each["version"] for each in client.get(f"{place}/versions").json()] == [2, 1]
    assert client.get(place, params={"version": 1}).json() == made

    deleted = client.delete(place).json()
    assert deleted == {"success": True, "message": f"Workflow '{made['id']}' deleted"}
    answer = client.get(place)
    assert (answer.status_code, answer.json()["detail"]) == (404, f"Workflow '{made['id']}' not found")
    assert client.put(place, json=MINE).status_code == client.delete(place).status_code == 404


def test_a_workflow_is_changed_only_at_the_version_that_is_meant(client):
    made = client.post(f"{API}/workflows", json=MINE)
    place, etag = f"{API}/workflows/{made.json()['id']}", made.headers["etag"]
    assert client.put(place, json=MINE, headers={"If-Match": etag}).headers["etag"] == '"2"'
    late = client.put(place, json=MINE, headers={"If-Match": etag})
    assert late.status_code == 412 and "version 2" in late.json()["detail"]
    assert client.delete(place, headers={"If-Match": etag}).status_code == 412
    assert client.delete(place, headers={"If-Match": '"2"'}).status_code == 200


def test_workflows_of_the_package_stay_as_they_are(client):
    answer = client.put(f"{API}/workflows/deep_research", json=MINE)
    assert (answer.status_code, answer.json()["detail"]) == (403, "Cannot modify system workflows")
    answer = client.delete(f"{API}/workflows/deep_research")
    assert (answer.status_code, answer.json()["detail"]) == (403, "Cannot delete system workflows")


def test_what_cannot_be_run_is_not_kept(client):
    def refused(phases, place=f"{API}/workflows", send=client.post):
        answer = send(place, json={"name": "n", "description": "d", "phases": phases})
        assert answer.status_code == 400, answer.text
        return answer.json()["detail"]

    assert refused([{"type": "zz"}]) == "Unknown phase type: zz"
    assert refused([]) == "Workflow must have at least one phase"
    assert "max_plan_stepz" in refused([{"type": "planning", "config": {"max_plan_stepz": 1}}])
    made = client.post(f"{API}/workflows", json=MINE).json()
    place = f"{API}/workflows/{made['id']}"
    assert refused([{"type": "zz"}], place, client.put) == "Unknown phase type: zz"
    assert client.get(place).json() == made
    assert client.post(f"{API}/workflows", json={"name": "n", "phases": []}).status_code == 422
    assert client.post(f"{API}/workflows", json={**MINE, "phasez": []}).status_code == 422


# Validation


def check(client, *phases):
    answer = client.post(f"{API}/workflows/validate", json={"phases": list(phases)})
    assert answer.status_code == 200
    return answer.json()


def test_a_sound_workflow_is_valid(client):
    assert check(client, *MINE["phases"]) == {"valid": True, "errors": [], "warnings": []}


def test_a_workflow_without_phases_is_not_valid(client):
    found = check(client)
    assert (found["valid"], found["errors"]) == (False, ["Workflow must have at least one phase"])


def test_execution_without_a_plan_is_warned_of(client):
    warning = "Control phase without planning phase - ensure plan is provided externally"
    assert check(client, {"type": "control"}) == {"valid": True, "errors": [], "warnings": [warning]}
    assert check(client, {"type": "control"}, {"type": "planning"})["warnings"] == [warning]
    assert check(client, {"type": "hitl_planning"}, {"type": "control"})["warnings"] == []


@pytest.mark.parametrize(
    ("kind", "config", "said"),
    [
        ("planning", {"max_plan_stepz": 1}, "max_plan_steps"),
        ("planning", {"max_plan_steps": "3"}, "max_plan_steps: expected integer, got text"),
        ("planning", {"max_plan_steps": 0}, "max_plan_steps: expected at least 1, got 0"),
        ("planning", {"enabled": 1}, "enabled: expected boolean, got 1"),
        ("planning", {"phase_type": "control"}, "phase_type: expected 'planning'"),
        (
            "planning",
            {"model_overrides": {"planner": 4}},
            "model_overrides: 'planner': expected string, got 4",
        ),
        ("hitl_checkpoint", {"options": ["a", 1]}, "options: item 2: expected string, got 1"),
        ("hitl_checkpoint", {"checkpoint_type": "x"}, "checkpoint_type: expected one of 'after_planning'"),
        ("planning", {"params": {"sandbox": "none"}}, "params: sandbox: expected one of 'strict'"),
        ("planning", {"params": {"on_limit": "cheaper"}}, "needs the name of a model in cheaper_model"),
        ("control", {"step_number": 1.5}, "step_number: expected integer or null, got 1.5"),
    ],
)
def test_settings_are_checked(client, kind, config, said):
    found = check(client, {"type": kind, "config": config})
    assert found["valid"] is False
    assert found["errors"][0].startswith(f"Phase 1 ({kind}): Invalid config - ")
    assert said in found["errors"][0]


def test_unknown_types_are_told_with_their_place(client):
    assert check(client, {"type": "planning"}, {"type": "zz"})["errors"] == [
        "Phase 2: Unknown phase type 'zz'"
    ]


# Runs


def test_a_run_is_started(client):
    with phase_types(nothing=nothing):
        kind = workflow(client, "nothing", "nothing")
        answer = client.post(f"{API}/workflows/{kind}/run", json={"task": "t", "work_dir": "here"})
        body = answer.json()
        assert answer.status_code == 200
        assert (body["workflow_id"], body["workflow_name"], body["num_phases"]) == (kind, "w", 2)
        assert (body["status"], body["message"]) == ("pending", "Workflow run started")
        state = until(client, body["run_id"])
    assert state["status"] == "completed" and state["work_dir"].endswith(f"/out/here/{body['run_id']}")
    assert (state["current_phase"], state["total_phases"]) == (1, 2)
    assert [each["phase_id"] for each in state["phase_results"]] == ["phase_0_nothing", "phase_1_nothing"]
    first = state["phase_results"][0]
    assert (first["phase_type"], first["display_name"], first["status"]) == (
        "nothing",
        "Nothing",
        "completed",
    )
    assert first["started_at"] <= first["completed_at"] and first["timing"]["total"] >= 0
    assert state["total_time"] >= 0


def test_deep_research_runs_from_the_task_to_the_report(client, serve):
    model = two_steps()
    with model, model.environment():
        run_id = start(client, "deep_research", {"X-OpenAI-Api-Key": "sk-of-this-run"})
        state = until(client, run_id)
    assert state["status"] == "completed", state["error"]
    assert [each["phase_type"] for each in state["phase_results"]] == ["planning", "control"]
    cost = client.get(f"{API}/runs/{run_id}/cost").json()
    assert cost["total"]["calls"] == len(model.calls) == sum(e["usage"]["calls"] for e in cost["agents"])
    chat = client.get(f"{API}/runs/{run_id}/chat").json()["messages"]
    assert any(each["name"] == "engineer_response_formatter" for each in chat)
    paths = [each["path"] for each in client.get(f"{API}/runs/{run_id}/files").json()["files"]]
    assert "planning/final_plan.json" in paths


def test_a_run_is_refused_without_task_or_workflow(client):
    assert client.post(f"{API}/workflows/deep_research/run", json={}).status_code == 422
    answer = client.post(f"{API}/workflows/nope/run", json={"task": "t"})
    assert (answer.status_code, answer.json()["detail"]) == (404, "Workflow 'nope' not found")


def test_an_unknown_run_is_not_found(client):
    for place in ("", "/phases", "/approvals", "/events", "/files", "/cost", "/chat"):
        answer = client.get(f"{API}/runs/nope{place}")
        assert (answer.status_code, answer.json()["detail"]) == (404, "Run 'nope' not found"), place
    for verb in ("stop", "pause", "resume"):
        assert client.post(f"{API}/runs/nope/{verb}").status_code == 404


def test_runs_are_listed_newest_first_filtered_and_by_page(client):
    with phase_types(nothing=nothing):
        one, other = workflow(client, "nothing"), workflow(client, "nothing")
        ids = [start(client, each) for each in (one, other, one)]
        for run_id in ids:
            until(client, run_id)
    listed = client.get(f"{API}/runs").json()
    assert [each["run_id"] for each in listed] == ids[::-1]
    assert all(each["status"] == "completed" and each["completed_at"] for each in listed)
    page = client.get(f"{API}/runs", params={"workflow_id": one, "limit": 1, "offset": 1})
    assert [each["run_id"] for each in page.json()] == ids[:1] and page.headers["x-total-count"] == "2"
    failed = client.get(f"{API}/runs", params={"status": "failed"})
    assert (failed.json(), failed.headers["x-total-count"]) == ([], "0")
    for wrong in ({"limit": 0}, {"limit": -1}, {"offset": -1}, {"status": "odd"}):
        assert client.get(f"{API}/runs", params=wrong).status_code == 422


def test_settings_of_one_run(client):
    with phase_types(nothing=nothing):
        kind = workflow(client, "nothing", "planning")
        answer = client.post(
            f"{API}/workflows/{kind}/run",
            json={
                "task": "t",
                "config_overrides": {"planning": {"max_plan_steps": 1}, "1": {"enabled": False}},
            },
        )
        state = until(client, answer.json()["run_id"])
        assert [each["status"] for each in state["phase_results"]] == ["completed", "skipped"]
        assert client.get(f"{API}/workflows/{kind}").json()["phases"][1]["config"] == {}
        for wrong in (
            {"control": {}},
            {"2": {}},
            {"planning": {"max_plan_steps": 0}},
            {"planning": {"x": 0}},
        ):
            answer = client.post(f"{API}/workflows/{kind}/run", json={"task": "t", "config_overrides": wrong})
            assert answer.status_code == 400, wrong


# Registry and executors


def test_the_registry_makes_phases():
    made = PhaseRegistry.create_from_dict({"type": "planning", "config": {"max_plan_steps": 7}})
    assert isinstance(made, PlanningPhase) and made.config.max_plan_steps == 7
    assert isinstance(PhaseRegistry.create("control"), ControlPhase)
    with pytest.raises(ValueError, match="zz"):
        PhaseRegistry.create("zz")


def test_the_registry_takes_a_phase_of_a_user(client):
    with phase_types(nothing=nothing):
        assert PhaseRegistry.is_registered("nothing")
        assert client.get(f"{API}/types/nothing").json()["display_name"] == "Nothing"
        assert client.get(f"{API}/types/nothing/config-schema").json()["schema"] == {}
    assert not PhaseRegistry.is_registered("nothing")


def test_an_executor_is_made(tmp_path):
    executor = WorkflowExecutor(get_workflow("one_shot"), "t", tmp_path, api_keys={})
    assert [type(phase) for phase in executor.phases] == [OneShotPhase]
    assert executor.get_status()["total_phases"] == 1


def test_an_executor_is_refused_for_what_cannot_be_run(tmp_path):
    with pytest.raises(ValueError, match="zz"):
        WorkflowExecutor(WorkflowDefinition("i", "n", phases=[{"type": "zz"}]), "t", tmp_path, api_keys={})
    with pytest.raises(TypeError, match="wrong"):
        phases = [{"type": "control", "config": {"wrong": 1}}]
        WorkflowExecutor(WorkflowDefinition("i", "n", phases=phases), "t", tmp_path, api_keys={})


def test_an_executor_runs_a_workflow(tmp_path):
    with phase_types(nothing=nothing):
        definition = WorkflowDefinition("i", "n", phases=[{"type": "nothing"}])
        executor = WorkflowExecutor(definition, "t", tmp_path, api_keys={})
        asyncio.run(executor.run())
    assert executor.get_status()["status"] == "completed"


if __name__ == "__main__":
    sys.exit(pytest.main([__file__, "-v"]))
