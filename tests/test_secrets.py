"""No key gets out: into a file, a log, an event, an exception, a pickle or a script's environment."""

import asyncio
import json
import logging
import pickle
import traceback

import pytest
from fastapi.testclient import TestClient

import cmbagent
from cmbagent import deep_research, one_shot
from cmbagent.approvals import AutoApprovalManager
from cmbagent.backend import Settings, create_app
from cmbagent.callbacks import WorkflowCallbacks
from cmbagent.phases import ControlPhaseConfig, PhaseContext, PlanningPhase, PlanningPhaseConfig
from cmbagent.store import Store
from cmbagent.testing import Fault, ModelServer, code, ideas, notes, plan, review
from cmbagent.workflows import SYSTEM_WORKFLOWS, WorkflowExecutor, get_workflow

KEYS = {
    "OPENAI": "sk-proj-MARKED-openai-4f3c2b1a0987",
    "GEMINI": "AIzaSyMARKED-gemini-4f3c2b1a0987",
    "ANTHROPIC": "sk-ant-MARKED-anthropic-4f3c2b1a0987",
    "MISTRAL": "MARKED-mistral-4f3c2b1a0987",
}
MARK = "MARKED"
MODELS = {
    "planner_model": "gemini-2.5-pro",
    "plan_reviewer_model": "o3-mini",
    "engineer_model": "claude-sonnet-4-5",
    "researcher_model": "gpt-4.1",
}
SPY = """
import os
from pathlib import Path
Path("data").mkdir(exist_ok=True)
Path("data/environment.txt").write_text("\\n".join(f"{k}={v}" for k, v in os.environ.items()))
print(sorted(os.environ))
try:
    print(Path("/proc/%d/environ" % os.getppid()).read_bytes())
except OSError as error:
    print(type(error).__name__)
"""
CRITIQUE = {"critiques": [{"title": "Look", "weaknesses": "too broad"}]}
HOOKS = [
    "planning_start", "planning_complete", "step_start", "step_complete", "step_failed", "workflow_start",
    "workflow_complete", "workflow_failed", "progress", "agent_start", "agent_complete", "cost_update",
    "agent_message", "code_execution", "tool_call", "phase_change",
]  # fmt: skip


def script(**changes):
    agents = {
        "planner": plan(("engineer", "look around"), ("researcher", "write")),
        "plan_reviewer": review("Name the units."),
        "engineer": code(SPY, filename="spy.py"),
        "researcher": notes("# Report"),
    }
    return {**agents, **changes}


@pytest.fixture
def watch(tmp_path, monkeypatch, caplog, capfd):
    """Everything a run says, to be searched afterwards."""
    for name, key in KEYS.items():
        monkeypatch.setenv(f"{name}_API_KEY", key)
    monkeypatch.setenv("GOOGLE_API_KEY", KEYS["GEMINI"])
    monkeypatch.setenv("HF_TOKEN", "MARKED-other-service")
    monkeypatch.setenv("CMBAGENT_DEBUG", "true")
    monkeypatch.setenv("RUST_LOG", "trace")
    caplog.set_level(logging.DEBUG)
    heard = []
    hooks = {f"on_{h}": lambda *a, h=h: heard.append(f"{h} {a!r}") for h in HOOKS}

    class Watch:
        callbacks = WorkflowCallbacks(**hooks)
        root = tmp_path

        def search(self, *values):
            """Look for keys in files, log, events, output and the values given."""
            said = capfd.readouterr()
            assert heard and caplog.records
            found = [e for e in heard if MARK in e]
            found += [r for r in caplog.records if MARK in r.getMessage() + repr(r.__dict__)]
            found += [line for line in (said.out + said.err).splitlines() if MARK in line]
            files = [f for f in tmp_path.rglob("*") if f.is_file()]
            assert files
            found += [f for f in files if MARK.encode() in f.read_bytes() or MARK in f.name]
            found += [v for v in values if MARK in repr(v) or MARK in str(v)]
            assert not found

    return Watch()


def check_keys_were_used(server):
    providers = {call.provider for call in server.calls}
    headers = [call.headers for call in server.calls]
    assert providers == {"openai", "anthropic", "gemini"}
    # The server masks them, so that they are not in its record either.
    assert all("***" in h.values() for h in headers)


def test_lesson_21_24_a_whole_run_through_three_providers(watch):
    server = ModelServer(script())
    with server, server.environment():
        result = deep_research(
            "t", work_dir=watch.root / "run", api_keys=KEYS, callbacks=watch.callbacks, verbose=True, **MODELS
        )
    check_keys_were_used(server)
    environment = (watch.root / "run" / "control" / "data" / "environment.txt").read_text()
    names = {line.partition("=")[0] for line in environment.splitlines()}
    assert "PATH" in names
    assert not {n for n in names if "KEY" in n or "TOKEN" in n or n.endswith("BASE_URL")}
    assert not [call for call in server.calls if MARK in call.system + call.prompt]
    watch.search(result, json.dumps(result))


@pytest.mark.parametrize("agent", ["engineer", "researcher"])
def test_one_shot(watch, agent):
    server = ModelServer(script())
    with server, server.environment():
        result = one_shot(
            "t", agent=agent, work_dir=watch.root / "run", callbacks=watch.callbacks, verbose=True,
            engineer_model="claude-sonnet-4-5", researcher_model="gemini-2.5-flash",
        )  # fmt: skip
    watch.search(result, json.dumps(result))


def chain(error):
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


@pytest.mark.parametrize(
    ("agent", "provider"), [("planner", "GEMINI"), ("engineer", "ANTHROPIC"), ("researcher", "OPENAI")]
)
@pytest.mark.parametrize("status", [401, 400])
def test_a_failing_run(watch, agent, provider, status):
    """Providers quote the key they refuse."""
    words = f"Incorrect API key provided: {KEYS[provider]}. You can find yours at example.org"
    server = ModelServer(script(**{agent: Fault.status(status, words)}))
    with server, server.environment(), pytest.raises(cmbagent.CmbagentError) as caught:
        deep_research(
            "t", work_dir=watch.root / "run", api_keys=KEYS, callbacks=watch.callbacks, verbose=True, **MODELS
        )
    assert "Incorrect API key provided" in str(caught.value)
    assert "example.org" in str(caught.value)
    errors = list(chain(caught.value))
    notes_of = [getattr(e, "__notes__", []) for e in errors]
    watch.search(
        *errors, notes_of, [vars(e) for e in errors], "".join(traceback.format_exception(caught.value)),
        pickle.dumps(caught.value),
    )  # fmt: skip


def test_executors_contexts_and_configs_do_not_show_keys(watch):
    own = {"engineer": {"model": "claude-sonnet-4-5", "api_key": "MARKED-own-key"}}
    options = {"agent_llm_configs": own}
    executor = WorkflowExecutor(
        get_workflow("deep_research"), "t", watch.root / "run", KEYS, watch.callbacks, options=options
    )
    config = ControlPhaseConfig(params=dict(options))
    server = ModelServer(script())
    with server, server.environment():
        context = executor.run_sync()
    assert [call.agent for call in server.calls][-2:] == ["engineer", "researcher"]
    context.metadata["settings"] = options
    context.save(watch.root / "saved.pkl")
    del context.metadata["settings"]
    watch.search(
        executor, context, context.to_dict(), context.to_json(), executor.get_status(), executor.results,
        config, *executor.phases, *[p.config for p in executor.phases], context.to_phase_context("p"),
    )  # fmt: skip


def test_a_key_of_an_agents_own_that_is_refused(watch):
    own = {"researcher": {"model": "gpt-4.1", "api_key": "sk-MARKED-own-key-0123456789"}}
    executor = WorkflowExecutor(
        get_workflow("one_shot_researcher"), "t", watch.root / "run", KEYS, watch.callbacks,
        options={"agent_llm_configs": own},
    )  # fmt: skip
    words = "Incorrect API key provided: sk-MARKED-own-key-0123456789"
    server = ModelServer(script(researcher=Fault.status(401, words)))
    with server, server.environment(), pytest.raises(cmbagent.CmbagentError) as caught:
        executor.run_sync()
    assert "Incorrect API key provided" in str(caught.value)
    watch.search(*chain(caught.value), *executor.results, executor.get_status())


def test_a_phase_of_its_own(watch):
    context = PhaseContext("w", "r", "planning", "t", str(watch.root / "run"), api_keys=KEYS)
    context.callbacks = watch.callbacks
    phase = PlanningPhase(PlanningPhaseConfig(planner_model="gemini-2.5-pro"))
    server = ModelServer(script(plan_reviewer=Fault.status(403, f"no access for {KEYS['OPENAI']}")))
    with server, server.environment():
        result = asyncio.run(phase.execute(context))
    assert "no access for" in result.error
    watch.search(context, result, result.error, phase.config)


@pytest.mark.parametrize("workflow_id", list(SYSTEM_WORKFLOWS))
def test_every_workflow_its_record_its_tape_and_the_server_over_it(watch, workflow_id):
    """Whatever a run leaves, and whatever the server then says of it."""
    server = ModelServer(script(idea_maker=ideas(("Look", "Around.")), idea_hater=CRITIQUE))
    store = watch.root / "kept" / "store.db"
    work_dir = watch.root / "served" / "run"
    executor = WorkflowExecutor(
        get_workflow(workflow_id), "t", work_dir, KEYS, watch.callbacks, AutoApprovalManager(),
        verbose=True, store=store, record=watch.root / "tape.jsonl",
        options={"agent_llm_configs": {"researcher": {"api_key": KEYS["OPENAI"]}}},
    )  # fmt: skip
    with server, server.environment():
        context = executor.run_sync()
    run_id = executor.context.run_id
    kept = Store(store)
    said = [context, context.to_json(), kept.records(run_id), kept.run(run_id), kept.questions(run_id)]
    app = create_app(store, Settings(root=watch.root / "served", hosts=("testserver",)))
    with TestClient(app) as client:
        for path in ("", "/events", "/files", "/cost", "/chat", "/approvals"):
            answer = client.get(f"/api/phases/runs/{run_id}{path}", headers={"Accept": "application/json"})
            assert answer.status_code == 200, (path, answer.text)
            said.append(answer.text)
        for path in ("/api/phases/runs", "/api/phases/workflows", "/api/phases/types", "/metrics"):
            said.append(client.get(path).text)
    watch.search(*said)
