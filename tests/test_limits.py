"""Limits: what a run may spend, and what it would."""

import asyncio
import dataclasses

import pytest
from typer.testing import CliRunner

import cmbagent
from cmbagent import _core
from cmbagent.approvals import AutoApprovalManager
from cmbagent.cli import app
from cmbagent.errors import (
    ConfigurationError,
    ContextLengthError,
    LimitError,
    OverLimitError,
    PhaseFailedError,
)
from cmbagent.phases import Phase, PhaseConfig, PhaseRegistry, PhaseResult, PhaseStatus
from cmbagent.testing import Fault, code
from cmbagent.workflows import WorkflowDefinition, WorkflowExecutor, get_workflow, one_shot
from scripted import two_steps

KEYS = {"OPENAI": "sk-test"}


def executor(work_dir, workflow="deep_research", **more):
    return WorkflowExecutor(get_workflow(workflow), "measure", work_dir, KEYS, verbose=False, **more)


def models_asked(server):
    return [call.agent for call in server.calls]


def test_a_run_stops_at_its_limit_and_goes_on_with_a_higher_one(tmp_path):
    with two_steps() as server, server.environment():
        first = executor(tmp_path, max_llm_calls=3)
        with pytest.raises(OverLimitError, match="the run has made its max_llm_calls=3") as raised:
            first.run_sync()
        assert isinstance(raised.value, LimitError)
        assert first.get_status()["status"] == "stopped"
        assert models_asked(server) == ["planner", "plan_reviewer", "planner"]
        with pytest.raises(OverLimitError):
            cmbagent.resume(first.context.run_id, api_keys=KEYS, verbose=False)
        context = cmbagent.resume(
            first.context.run_id, api_keys=KEYS, verbose=False, limits={"max_llm_calls": 9}
        )
    assert models_asked(server) == ["planner", "plan_reviewer", "planner", "engineer", "researcher"]
    assert context.phase_timings["total"] > 0


def test_the_functions_take_limits_and_resume_goes_on(tmp_path, serve):
    server = serve({"engineer": code("print(1)")})
    with pytest.raises(OverLimitError, match=r"max_cost=0\.000001"):
        one_shot("add", work_dir=tmp_path, api_keys=KEYS, verbose=False, limits={"max_cost": 1e-6})
    assert server.calls == []
    result = one_shot(
        "add", work_dir=tmp_path, api_keys=KEYS, verbose=False, limits={"max_cost": 1.0}, resume=True
    )
    assert result["status"] == "completed"
    assert len(server.calls) == 1


def test_the_answer_is_shortened_to_what_the_limit_leaves(tmp_path, serve):
    server = serve({"engineer": code("print(1)")})
    events = []
    run = executor(tmp_path, "one_shot", max_cost=0.05)

    async def listen():
        async for event in run.events():
            events.append(event)

    async def both():
        await asyncio.gather(listen(), run.run())

    asyncio.run(both())
    (limited,) = [data for kind, data in events if kind == "answer_limited"]
    assert 1_000 <= limited["max_output_tokens"] < limited["wanted"]
    (call,) = server.calls
    assert call.body["max_tokens"] == limited["max_output_tokens"]


def test_a_phase_has_limits_of_its_own(tmp_path, serve):
    server = serve({"engineer": code("print(1)")})
    phases = [{"type": "one_shot", "config": {"params": {"max_llm_calls": 0}}}]
    run = WorkflowExecutor(WorkflowDefinition("w", "w", phases=phases), "t", tmp_path, KEYS, verbose=False)
    with pytest.raises(OverLimitError, match="phase one_shot has made its max_llm_calls=0"):
        run.run_sync()
    assert server.calls == []


@dataclasses.dataclass
class OuterConfig(PhaseConfig):
    phase_type: str = "outer"


class Outer(Phase):
    """Runs a workflow of its own."""

    config_class = OuterConfig
    phase_type = "outer"
    display_name = "Outer"

    async def execute(self, context):
        inner = executor(f"{context.work_dir}/inner", "one_shot")
        await inner.run()
        return PhaseResult(status=PhaseStatus.COMPLETED, context=context)


def test_a_nested_run_counts_against_the_run_above(tmp_path, serve):
    server = serve({"engineer": code("print(1)")})
    PhaseRegistry.register_class("outer", Outer)
    workflow = WorkflowDefinition("w", "w", phases=[{"type": "outer"}, {"type": "outer"}])
    run = WorkflowExecutor(workflow, "t", tmp_path, KEYS, verbose=False, max_llm_calls=1)
    with pytest.raises(OverLimitError, match="the run has made its max_llm_calls=1"):
        run.run_sync()
    assert len(server.calls) == 1
    assert run.get_status()["status"] == "stopped"
    assert len(run.results) == 1


def test_a_human_may_raise_a_limit_and_a_rule_that_approves_does_not(tmp_path):
    settings = {"max_llm_calls": 2, "on_limit": "ask"}
    asked = []

    def policy(request):
        asked.append(request.message)
        return "raise"

    with two_steps() as server, server.environment():
        executor(tmp_path / "a", approval_manager=AutoApprovalManager(policy), options=settings).run_sync()
        assert len(server.calls) == 5
        assert len(asked) == 2 and "Raise max_llm_calls?" in asked[0]
        with pytest.raises(OverLimitError, match="max_llm_calls=2"):
            executor(
                tmp_path / "b", approval_manager=AutoApprovalManager("approve"), options=settings
            ).run_sync()


def test_a_limit_of_nothing_is_not_raised_by_nothing(tmp_path, serve):
    serve({"engineer": code("print(1)")})
    settings = {"max_llm_calls": 0, "on_limit": "ask"}
    with pytest.raises(OverLimitError):
        executor(
            tmp_path, "one_shot", approval_manager=AutoApprovalManager(lambda _: "raise"), options=settings
        ).run_sync()


def test_limits_that_cannot_be_used_are_told_before_anything_runs(tmp_path):
    with pytest.raises(ConfigurationError, match="max_cost must be a number of dollars"):
        executor(tmp_path, max_cost="2")
    with pytest.raises(ConfigurationError, match="on_limit"):
        executor(tmp_path, options={"on_limit": "halt"})
    phases = [{"type": "one_shot", "config": {"params": {"max_tokens": -1}}}]
    with pytest.raises(ConfigurationError, match="max_tokens must be a whole number"):
        WorkflowExecutor(WorkflowDefinition("w", "w", phases=phases), "t", tmp_path, KEYS)
    with pytest.raises(ConfigurationError, match="Did you mean 'max_cost'"):
        one_shot("t", work_dir=tmp_path, limits={"max_costs": 1})
    with pytest.raises(ConfigurationError, match="rates"):
        _core.set_rates({"openai": {"concurrency": 0}})
    with pytest.raises(ConfigurationError, match="rates"):
        _core.set_rates({"openai": {"requests": 5}})


def test_a_fallback_answers_for_a_model_that_is_too_busy(tmp_path, serve):
    busy = Fault.status(429, "too many requests", headers={"retry-after": "9999"})
    server = serve({"engineer": lambda call: busy if call.body["model"] == "gpt-4.1" else code("print(1)")})
    result = one_shot(
        "add",
        engineer_model="gpt-4.1",
        work_dir=tmp_path,
        api_keys=KEYS,
        verbose=False,
        limits={"model_fallbacks": ["gpt-4o"]},
    )
    assert result["status"] == "completed"
    assert [call.body["model"] for call in server.calls] == ["gpt-4.1", "gpt-4o"]


def test_a_prompt_too_long_for_its_model_is_not_sent(tmp_path, serve):
    server = serve({"engineer": code("print(1)")})
    with pytest.raises(PhaseFailedError, match="gpt-4 reads 8192") as raised:
        one_shot("word " * 20_000, engineer_model="gpt-4", work_dir=tmp_path, api_keys=KEYS, verbose=False)
    assert isinstance(raised.value.__cause__, ContextLengthError)
    assert server.calls == []


def test_an_estimate_has_the_calls_that_a_run_makes_and_makes_none(tmp_path):
    with two_steps() as server, server.environment():
        phases = get_workflow("deep_research").phases
        definition = WorkflowDefinition(
            "w", "w", phases=[{**phases[0], "config": {"max_plan_steps": 2}}, phases[1]]
        )
        run = WorkflowExecutor(definition, "measure {{x}}", tmp_path / "w", KEYS, verbose=False, max_cost=9)
        estimate = run.estimate()
        assert server.calls == []
        assert not (tmp_path / "w").exists()
        run.run_sync()
    assert [call.agent for call in estimate.calls] == models_asked(server)
    sent = [call.body["messages"][-1]["content"] for call in server.calls]
    # Up to the first answer the prompts are the very ones.
    assert estimate.calls[0].prompt == sent[0]
    assert all("measure {{x}}" in call.prompt for call in estimate.calls)
    assert 0 < estimate.cost_low < estimate.cost_high
    (finished,) = [event.data for event in run._log._kept if event.kind == "run_finished"]
    assert finished["usage"]["cost"] <= estimate.cost_high
    assert "5 calls expected" in str(estimate)


def test_an_estimate_leaves_out_code_of_the_users_and_names_models_without_price(tmp_path):
    PhaseRegistry.register_class("outer", Outer)
    phases = [{"type": "outer"}, {"type": "one_shot", "config": {"engineer_model": "qwen3:30b"}}]
    run = WorkflowExecutor(WorkflowDefinition("w", "w", phases=phases), "t", tmp_path, KEYS)
    estimate = run.estimate()
    assert estimate.left_out == ["outer"]
    assert estimate.unpriced_models == ["qwen3:30b"]
    assert "no price" in str(estimate) and "Not rehearsed" in str(estimate)


def test_the_command_line_shows_an_estimate_without_a_key(tmp_path):
    arguments = ["run", "one_shot", "Plot sin(x).", "--work-dir", str(tmp_path / "w"), "--dry-run"]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    assert "Plot sin(x)." in done.output and "You are the engineer agent" in done.output
    assert "1 call expected; cost $" in done.output
    assert not (tmp_path / "w").exists()


def test_the_command_line_takes_limits(tmp_path, serve, monkeypatch):
    server = serve({"engineer": code("print(1)")})
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test")
    arguments = ["run", "one_shot", "Add.", "--work-dir", str(tmp_path), "--quiet", "--max-llm-calls", "0"]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 1
    assert "max_llm_calls=0" in done.output
    assert server.calls == []
