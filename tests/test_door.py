"""`context.run`: phases of users act through the same door as the built-in ones."""

import asyncio
import json
import threading
from dataclasses import dataclass
from pathlib import Path

import pytest

from cmbagent.callbacks import WorkflowCallbacks
from cmbagent.errors import ConfigurationError, LimitError
from cmbagent.phases import Phase, PhaseConfig, PhaseContext, PhaseRegistry, PhaseResult, PhaseStatus
from cmbagent.testing import Fault, ModelServer
from cmbagent.workflows import WorkflowDefinition, WorkflowExecutor

SCHEMA = {
    "type": "object",
    "properties": {"papers": {"type": "array", "items": {"type": "string"}}},
    "required": ["papers"],
}


@dataclass
class ReviewConfig(PhaseConfig):
    phase_type: str = "review"
    max_rounds: int = 3


class ReviewPhase(Phase):
    """Runs `work(context)`, which each test gives."""

    config_class = ReviewConfig
    work = None

    @property
    def phase_type(self):
        return "review"

    @property
    def display_name(self):
        return "Review"

    async def execute(self, context):
        context.output_data = {"found": await type(self).work(context)}
        return PhaseResult(status=PhaseStatus.COMPLETED, context=context)


@pytest.fixture
def perform(tmp_path):
    """Run the phase with some work and scripted models; gives what the work returned, and the executor."""
    PhaseRegistry.register_class("review", ReviewPhase)

    def run(work, script, *, config=None, **more):
        ReviewPhase.work = staticmethod(work)
        workflow = WorkflowDefinition(id="w", name="w", phases=[{"type": "review", "config": config or {}}])
        with ModelServer(script) as server, server.environment():
            executor = WorkflowExecutor(
                workflow, "t", tmp_path, api_keys=server.api_keys, verbose=False, **more
            )
            executor.server = server
            executor.run_sync()
        return executor.results[-1].context.output_data["found"], executor

    return run


def test_text_and_structured_answers(perform):
    async def work(context):
        text = await context.run.call("Say hi.", agent="reader", system="Be brief.")
        value = await context.run.call("List papers.", agent="reader", schema=SCHEMA)
        return text, value

    (text, value), executor = perform(work, {"reader": ["hi", {"papers": ["a"]}]})
    assert (text, value) == ("hi", {"papers": ["a"]})
    first = executor.server.calls[0]
    assert first.system.startswith("You are the reader agent. Be brief.")
    assert first.prompt == "Say hi."


def test_calls_cost_and_count(perform):
    heard = []

    class Callbacks:
        def on_agent_complete(self, agent, step, data):
            heard.append((agent, data["usage"]["prompt_tokens"] > 0))

    async def work(context):
        for _ in range(4):
            await context.run.call("again", agent="reader")

    with pytest.raises(LimitError, match=r"max_rounds=3"):
        perform(work, {"reader": ["a", "b", "c", "d"]}, callbacks=Callbacks())
    assert heard == [("reader", True)] * 3


def test_model_overrides_and_the_phase_s_own_choice(perform):
    async def work(context):
        await context.run.call("x", agent="reader", model="gpt-4o")
        await context.run.call("x", agent="writer", model="gpt-4o")

    config = {"model_overrides": {"reader": "gpt-4.1"}}
    _, executor = perform(work, {"reader": "a", "writer": "b"}, config=config)
    assert [call.model for call in executor.server.calls] == ["gpt-4.1", "gpt-4o"]


def test_a_call_that_is_given_up_ends_nothing_else(perform):
    async def work(context):
        try:
            async with asyncio.timeout(0.2):
                await context.run.call("x", agent="slow")
        except TimeoutError:
            return await context.run.call("y", agent="reader")

    found, _ = perform(work, {"slow": Fault.hang(30), "reader": "still here"})
    assert found == "still here"


def test_humans_are_asked_through_the_workflow_s_manager(perform):
    asked = []

    class Manager:
        def create_approval_request(self, **request):
            asked.append(request)
            return type("Request", (), {"id": 7})

        async def wait_for_approval_async(self, request_id, timeout_seconds):
            answer = {"resolution": "Kept", "user_feedback": "fine", "modifications": None}
            return type("Answer", (), answer)

    async def work(context):
        return await context.run.ask("Keep it?", ["keep", "drop"], context={"n": 1})

    # "kept" is none of the options nor a regular form of one: it is asked again, then fails.
    with pytest.raises(ConfigurationError, match="none of the options"):
        perform(work, {}, approval_manager=Manager())
    assert len(asked) == 3
    assert asked[0]["step_id"] == "phase_0_review"
    assert asked[0]["context_snapshot"].pop("spent")["calls"] == 0
    assert asked[0]["context_snapshot"] == {"n": 1}


def test_without_a_manager_the_first_option_counts(perform):
    async def work(context):
        return await context.run.ask("Keep it?", ["keep", "drop"])

    found, _ = perform(work, {})
    assert found["resolution"] == "keep"
    assert found["no_hitl_manager"] is True


def test_observations_are_made_in_the_caller_s_thread(perform):
    import threading

    async def work(context):
        here = threading.get_ident()
        return await context.run.observe("thread", lambda: [threading.get_ident() == here, (1, 2)])

    found, _ = perform(work, {})
    assert found == [True, [1, 2]]


def test_a_phase_on_its_own_has_a_run_of_its_own(tmp_path):
    async def main(server):
        context = PhaseContext("w", "r-1", "alone", "t", str(tmp_path), api_keys=server.api_keys)
        assert context.run.run_id == "r-1"
        return await context.run.call("x", agent="reader")

    with ModelServer({"reader": "alone"}) as server, server.environment():
        assert asyncio.run(main(server)) == "alone"


def test_scripts_run_in_the_phase_s_directory(perform, tmp_path):
    async def work(context):
        good = await context.run.execute(
            """
            import os
            open("data/x.csv", "w").write("a\\n1\\n")
            print("key" if any("KEY" in name for name in os.environ) else "no key")
            """
        )
        bad = await context.run.execute("raise SystemExit(3)", filename="bad.py")
        broken = await context.run.execute("def f(:\n    pass")
        return good, bad, broken

    (good, bad, broken), _ = perform(work, {})
    assert (good["success"], good["output"].strip()) == (True, "no key")
    assert good["files"] == [str(tmp_path / "review/data/x.csv")]
    assert (bad["success"], bad["exit"]) == (False, "exit status 3")
    assert bad["file"] == str(tmp_path / "review/codebase/bad.py")
    assert not broken["success"] and "SyntaxError" in broken["output"]


def test_a_script_outside_the_directory_is_refused(perform):
    async def work(context):
        return await context.run.execute("print(1)", filename="../../outside.py")

    with pytest.raises(ConfigurationError, match="outside"):
        perform(work, {})


def test_reports_hold_what_was_spent_since_the_last(perform, tmp_path):
    heard = []

    async def work(context):
        run = context.run
        await run.call("One.", agent="reader")
        first = await run.report_costs(tmp_path / "cost")
        await run.call("Two.", agent="writer")
        second = await run.report_costs(tmp_path / "cost", stem="rest")
        times = await run.report_times(tmp_path, {"reading": 1.5, "writing": 2.0}, stem="times")
        return first, second, times

    callbacks = WorkflowCallbacks(on_cost_update=heard.append)
    (first, second, times), executor = perform(work, {"reader": "a", "writer": "b"}, callbacks=callbacks)
    assert [[row["Agent"] for row in each["rows"]] for each in (first, second)] == [
        ["reader", "Total"], ["writer", "Total"],
    ]  # fmt: skip
    assert json.loads(Path(first["path"]).read_text()) == first["rows"]
    assert Path(second["path"]).name.startswith("rest_") and Path(second["path"]) != Path(first["path"])
    assert json.loads(Path(times).read_text()) == {"reading": 1.5, "writing": 2.0, "total_time": 3.5}
    assert [cost["cost_json_path"] for cost in heard] == [first["path"], second["path"]]
    assert len(executor.server.calls) == 2


def test_long_looks_are_taken_in_another_thread(perform):
    async def work(context):
        here = await context.run.observe("this thread", threading.get_ident)
        there = await context.run.observe("another", threading.get_ident, thread=True)
        with pytest.raises(ZeroDivisionError):
            await context.run.observe("trouble", lambda: 1 / 0, thread=True)
        return here, there, threading.get_ident()

    (here, there, own), _ = perform(work, {})
    assert here == own != there
