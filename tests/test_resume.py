"""Going on with runs that an error, a cancellation or a crash has ended."""

import asyncio
import datetime
import decimal
import enum
import math
import shutil
import uuid
from pathlib import Path
from typing import ClassVar

import pytest

import cmbagent
from cmbagent import deep_research, one_shot
from cmbagent.errors import ConfigurationError, JournalError, RunStoppedError
from cmbagent.phases import Phase, PhaseConfig, PhaseRegistry, PhaseResult, PhaseStatus
from cmbagent.store import Store
from cmbagent.testing import Fault, ModelServer, code, notes
from cmbagent.workflows import WorkflowDefinition, WorkflowExecutor
from procs import executor, wait_for
from scripted import run as run_function
from scripted import two_steps

KEYS = {"OPENAI": "sk-test"}


class Power(enum.Enum):
    DAY = "day"
    NIGHT = 2


class Flag(enum.StrEnum):
    UP = "up"


class Measured:
    """Says itself what is kept of it."""

    def __init__(self, value):
        self.value, self.handle = value, object()

    def to_journal(self):
        return {"value": self.value}

    @classmethod
    def from_journal(cls, kept):
        return cls(kept["value"])


class Step(Phase):
    """Awaits `work[name](context)`; the tests say what that is."""

    work: ClassVar = {}

    def __init__(self, config=None):
        super().__init__(config or PhaseConfig(phase_type=self.kind))

    @property
    def phase_type(self):
        return self.kind

    @property
    def display_name(self):
        return self.kind

    async def execute(self, context):
        context.output_data = dict(context.input_data or {})
        await self.work[self.kind](context)
        return PhaseResult(status=PhaseStatus.COMPLETED, context=context)


@pytest.fixture
def workflow():
    """Makes a workflow of phases that do what the given functions do."""

    def make(**work):
        phases = []
        for name, function in work.items():
            PhaseRegistry.register_class(name, type(f"Step{name}", (Step,), {"kind": name}))
            Step.work[name] = function
            phases.append({"type": name, "config": {}})
        return WorkflowDefinition(id="w", name="w", phases=phases)

    yield make
    Step.work.clear()


@pytest.fixture
def store(tmp_path_factory):
    return Store(tmp_path_factory.mktemp("store") / "store.db")


def begin(workflow, work_dir, store, **more):
    return WorkflowExecutor(
        workflow, "the task", str(work_dir), more.pop("api_keys", KEYS), verbose=False, store=store, **more
    )


def resume(run_id, store, **more):
    return WorkflowExecutor.resume(run_id, store, api_keys=KEYS, verbose=False, **more)


class Once:
    """Fails the first time, and does something every time before that."""

    def __init__(self, act=None, failure=None):
        self.times, self.act = 0, act
        self.failure = failure or RuntimeError("the power went out")

    async def __call__(self, context):
        self.times += 1
        if self.act is not None:
            await self.act(context)
        if self.times == 1:
            raise self.failure


def told(store, run_id, kind):
    return [data for name, data in store.events(run_id) if name == kind]


# --- finished phases are taken up as they were ---


def values():
    alias = ["shared"]
    loop = {"alias": alias, "again": alias}
    loop["self"] = loop
    return {
        "text": "é𝛼\ud800",
        "numbers": [1, -(2**70), 0.1 + 0.2, -0.0, math.inf, 3 + 4j, True, None],
        "containers": [
            (1, (2,)),
            {3},
            frozenset({4}),
            b"\xff",
            bytearray(b"x"),
            {5: "five", (6,): 7, None: 8},
        ],
        "times": [
            datetime.datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=datetime.UTC),
            datetime.date(2026, 1, 2),
            datetime.time(3, 4),
            datetime.timedelta(days=-1, microseconds=7),
        ],
        "others": [Path("/a/b"), decimal.Decimal("1.10"), uuid.UUID(int=5), Power.NIGHT, Flag.UP],
        "loop": loop,
        "$ref": {"$shared": {"0": 1}},
    }


def test_a_finished_phase_is_taken_up_with_every_value_as_it_was(tmp_path, store, workflow):
    async def first(context):
        context.output_data.update(values(), nan=math.nan, measured=Measured(4.25))
        context.shared_state.update(kept=(1, 2), _private="not kept")

    seen = []

    async def look(context):
        seen.append((dict(context.input_data), dict(context.shared_state)))

    second = Once(look)
    ran = begin(workflow(first=first, second=second), tmp_path, store)
    with pytest.raises(RuntimeError, match="the power went out"):
        ran.run_sync()
    Step.work["first"] = None  # It is not executed again.
    again = resume(ran.context.run_id, store)
    again.run_sync()
    assert (again.outcome, second.times, len(seen)) == ("completed", 2, 2)
    output, shared = seen[1]
    assert math.isnan(output.pop("nan"))
    measured, before = output.pop("measured"), seen[0][0].pop("measured")
    assert type(measured) is Measured and measured.value == before.value and measured is not before
    loop = output["loop"]
    assert loop["self"] is loop and loop["alias"] is loop["again"]
    expected = values()
    del output["loop"], expected["loop"]
    assert output == expected
    assert str(output["numbers"][3]) == "-0.0"
    assert [type(v) for v in output["containers"]] == [tuple, set, frozenset, bytes, bytearray, dict]
    assert type(output["others"][4]) is Flag
    assert shared["kept"] == (1, 2)
    assert [data["lost"] for data in told(store, ran.context.run_id, "phase_restored")] == [[]]
    assert len(again.results) == 2


def test_what_could_not_be_kept_is_named_and_left_out(tmp_path, store, workflow):
    async def first(context):
        handle = Path("/dev/null").open()  # noqa: SIM115 - open on purpose, as a user's file would be
        context.output_data.update(a=1, handle=handle, deep={"list": [1, lambda: 2]})

    seen = []

    async def look(context):
        seen.append(context.input_data)

    ran = begin(workflow(first=first, second=Once(look)), tmp_path, store)
    with pytest.raises(RuntimeError):
        ran.run_sync()
    resume(ran.context.run_id, store).run_sync()
    assert "handle" in seen[0] and "handle" not in seen[1]
    assert seen[1]["deep"] == {"list": [1, None]} and seen[1]["a"] == 1
    ((lost,),) = [[data["lost"] for data in told(store, ran.context.run_id, "phase_restored")]]
    assert lost == ["output.handle (_io.TextIOWrapper)", "output.deep.list[1] (function)"]


def test_a_completed_run_gives_its_results_again(tmp_path, store, workflow):
    async def only(context):
        context.output_data["n"] = 1

    ran = begin(workflow(only=only), tmp_path, store)
    ran.run_sync()
    Step.work["only"] = None
    again = resume(ran.context.run_id, store)
    again.run_sync()
    assert again.outcome == "completed"
    assert again.results[0].context.output_data == {"n": 1}


# --- the phase that was under way ---


def test_effects_of_an_unfinished_phase_are_replayed(tmp_path, store, workflow):
    seen = []

    async def work(context):
        said = await context.run.call("Say hi.", agent="reader")
        ran = await context.run.execute("open('n', 'a').write('x'); print('ran')", filename="n.py")
        value = await context.run.observe("a number", lambda: len(seen))
        seen.append((said, ran["output"], value))

    with ModelServer({"reader": ["hi", "another"]}) as server, server.environment():
        ran = begin(workflow(work=Once(work)), tmp_path, store)
        with pytest.raises(RuntimeError):
            ran.run_sync()
        again = resume(ran.context.run_id, store)
        again.run_sync()
        server.assert_calls(["reader"])
    assert seen == [("hi", seen[0][1], 0)] * 2 and "ran" in seen[0][1]
    assert [path.read_text() for path in tmp_path.rglob("n")] == ["x"], "the script ran once"
    usage = store.run(ran.context.run_id).usage
    assert usage["calls"] == 1 and "unknown_calls" not in usage


def test_runs_within_a_phase_go_on_with_it(tmp_path, store, workflow):
    ids = []

    async def inner(context):
        context.output_data["said"] = await context.run.call("Say hi.", agent="reader")

    async def outer(context):
        for name in ("a", "b"):
            child = begin(inner_workflow, tmp_path / name, store)
            ids.append(child.context.run_id)
            await child.run()
            context.output_data[name] = child.results[-1].context.output_data["said"]

    made = workflow(inner=inner, outer=Once(outer))
    inner_workflow = WorkflowDefinition(id="i", name="i", phases=made.phases[:1])
    outer_workflow = WorkflowDefinition(id="o", name="o", phases=made.phases[1:])
    with ModelServer({"reader": ["one", "two", "three"]}) as server, server.environment():
        ran = begin(outer_workflow, tmp_path / "outer", store)
        with pytest.raises(RuntimeError):
            ran.run_sync()
        again = resume(ran.context.run_id, store)
        again.run_sync()
        assert len(server.calls) == 2
    assert ids[:2] == ids[2:] and len(set(ids)) == 2
    assert again.results[-1].context.output_data == {"a": "one", "b": "two"}
    rows = {info.id: info for info in store.runs()}
    assert len(rows) == 3
    assert {rows[child].parent for child in ids} == {ran.context.run_id}
    assert store.run(ran.context.run_id).usage["calls"] == 2


def cancelled_in_flight(executor, server):
    """Cancel a run while a call of a model hangs; what was sent is then unknown."""
    handle = executor.start()
    wait_for(lambda: server.calls)
    executor.cancel()
    with pytest.raises(RunStoppedError):
        handle.result(timeout=20)


def researcher_workflow(**params):
    config = {"agent": "researcher", "params": params}
    return WorkflowDefinition(id="r", name="r", phases=[{"type": "one_shot", "config": config}])


def test_a_call_cut_short_is_sent_again_and_counted_as_unknown(tmp_path, store):
    with ModelServer({"researcher": [Fault.hang(), notes("# T\n\nText.")]}) as server, server.environment():
        ran = begin(researcher_workflow(), tmp_path, store)
        cancelled_in_flight(ran, server)
        resume(ran.context.run_id, store).run_sync()
        assert len(server.calls) == 2
        assert server.calls[0].prompt == server.calls[1].prompt
    usage = store.run(ran.context.run_id).usage
    assert (usage["calls"], usage["unknown_calls"]) == (1, 1) and usage["unknown_cost"] > 0
    (repeated,) = told(store, ran.context.run_id, "effect_repeated")
    assert (repeated["effect"], repeated["changed"]) == ("call", False)


def test_a_template_that_changed_meanwhile_is_named_where_it_matters(tmp_path, store):
    template = tmp_path / "researcher.md"
    template.write_text("You are the researcher agent. Write.\n---user---\n{{ task }}\n")
    flow = researcher_workflow(prompts={"researcher": str(template)})
    # What does not fit its record is not helped by another try.
    flow.phases[0]["config"]["max_retries"] = 2
    answers = {"researcher": [Fault.hang(), notes("# T\n\nText.")]}
    with ModelServer(answers) as server, server.environment():
        ran = begin(flow, tmp_path / "work", store)
        cancelled_in_flight(ran, server)
        template.write_text("You are the researcher agent. Write better.\n---user---\n{{ task }}\n")
        with pytest.raises(JournalError, match=r"cut short in phase one_shot.*force=True"):
            resume(ran.context.run_id, store).run_sync()
        assert len(server.calls) == 1
        forced = resume(ran.context.run_id, store, force=True)
        forced.run_sync()
        assert forced.outcome == "completed" and "better" in server.calls[1].system
    assert told(store, ran.context.run_id, "effect_repeated")[-1]["changed"] is True


def test_what_differs_from_the_beginning_is_named(tmp_path, store, workflow):
    async def nothing(context):
        pass

    made = workflow(first=nothing, second=Once())
    ran = begin(made, tmp_path, store)
    with pytest.raises(RuntimeError):
        ran.run_sync()
    other = WorkflowDefinition(id="w", name="w", phases=made.phases[:1])
    with pytest.raises(JournalError, match=r"the phases \(first → second then, first now\).*force=True"):
        resume(ran.context.run_id, store, workflow=other).run_sync()
    slower = WorkflowDefinition(
        id="w", name="w", phases=[made.phases[0], {"type": "second", "config": {"max_retries": 2}}]
    )
    with pytest.raises(JournalError, match=r"max_retries of phase 1 \(second\)"):
        resume(ran.context.run_id, store, workflow=slower).run_sync()
    changed = resume(ran.context.run_id, store)
    changed.task = "another task"
    with pytest.raises(JournalError, match="the task differ"):
        changed.run_sync()
    forced = resume(ran.context.run_id, store, workflow=slower, force=True)
    forced.run_sync()
    assert forced.outcome == "completed"


def test_a_phase_in_the_place_of_another_is_refused_also_by_force(tmp_path, store, workflow):
    async def nothing(context):
        pass

    made = workflow(first=nothing, second=Once())
    ran = begin(made, tmp_path, store)
    with pytest.raises(RuntimeError):
        ran.run_sync()
    swapped = WorkflowDefinition(id="w", name="w", phases=made.phases[::-1])
    with pytest.raises(JournalError, match='"first" in place 0, where the workflow has "second"') as caught:
        resume(ran.context.run_id, store, workflow=swapped, force=True).run_sync()
    assert "with the workflow it was begun with" in str(caught.value)


def test_a_run_that_goes_on_here_is_not_taken_up_a_second_time(tmp_path, store, workflow):
    async def wait(context):
        with pytest.raises(JournalError, match=f"run {context.run_id} is being run by process"):
            await asyncio.to_thread(resume(context.run_id, store).run_sync)

    ran = begin(workflow(wait=wait), tmp_path, store)
    ran.run_sync()
    assert ran.outcome == "completed"


def test_a_failed_step_is_done_anew_and_the_ends_are_told_as_they_come(tmp_path, store):
    """Without `fail_softly` the phase fails with its step."""
    config = {"max_n_attempts": 0, "params": {"preloaded_plan": [
        {"sub_task": "a", "sub_task_agent": "engineer", "bullet_points": ["x"]},
        {"sub_task": "b", "sub_task_agent": "engineer", "bullet_points": ["y"]},
    ]}}  # fmt: skip
    flow = WorkflowDefinition(id="c", name="c", phases=[{"type": "control", "config": config}])
    good, bad = code("print('4.25 K')"), code("raise ValueError('no')")
    with ModelServer({"engineer": [good, bad, good]}) as server, server.environment():
        ran = begin(flow, tmp_path, store)
        with pytest.raises(RuntimeError, match="Step 2 failed"):
            ran.run_sync()
        again = resume(ran.context.run_id, store)
        again.run_sync()
        assert again.outcome == "completed" and len(server.calls) == 3
    ends = [data["status"] for data in told(store, ran.context.run_id, "step_finished")]
    assert ends == ["completed", "failed", "completed"]
    ends = [data["status"] for data in told(store, ran.context.run_id, "phase_finished")]
    assert ends == ["failed", "completed"]


def test_a_step_whose_call_failed_goes_on_there_and_its_end_is_told(tmp_path):
    server = two_steps(researcher=[Fault.status(400, "no"), notes("# Report\n\n4.25 K")])
    with server, server.environment():
        with pytest.raises(cmbagent.errors.CmbagentError):
            deep_research("t", work_dir=tmp_path, api_keys=KEYS)
        result = deep_research("t", work_dir=tmp_path, api_keys=KEYS, resume=True)
    ends = [(d["number"], d["status"]) for d in told(Store(), result["run_id"], "step_finished")]
    assert ends == [(1, "completed"), (2, "failed"), (2, "completed")]
    ends = [data["status"] for data in told(Store(), result["run_id"], "phase_finished")]
    assert ends == ["completed", "failed", "completed"]


# --- products that were moved or deleted ---


@pytest.mark.parametrize("what", ["plots", "plan", "chats", "everything"])
def test_moved_and_deleted_products_do_not_break_a_resume(tmp_path, what):
    """Denario moves plots elsewhere between runs."""
    broken = two_steps(researcher=[Fault.status(400, "no"), notes("# Report\n\n4.25 K")])
    whole = two_steps(researcher=notes("# Report\n\n4.25 K"))
    expected = run_function(whole, deep_research, "t", work_dir=tmp_path / "whole")
    place = tmp_path / "cut"
    with broken, broken.environment():
        with pytest.raises(cmbagent.errors.CmbagentError):
            deep_research("t", work_dir=place, api_keys=KEYS)
        if what == "plots":
            shutil.move(place / "control" / "data" / "plot_1.png", tmp_path / "plot.png")
        elif what == "plan":
            shutil.rmtree(place / "planning")
        elif what == "chats":
            shutil.rmtree(place / "control" / "chats")
        else:
            shutil.rmtree(place)
        result = deep_research("t", work_dir=place, api_keys=KEYS, resume=True)
        agents = broken.agents()
    assert agents[-2:] == ["researcher", "researcher"] and agents.count("engineer") == 1
    assert result["status"] == "completed"
    summary = "previous_steps_execution_summary"
    assert result["final_context"][summary] == expected["final_context"][summary]
    plain = [
        str(r["chat_history"]).replace(str(p), "PLACE")
        for r, p in ((result, place), (expected, tmp_path / "whole"))
    ]
    assert plain[0] == plain[1]


def test_a_plan_edited_after_the_crash_does_not_change_what_was_begun(tmp_path):
    """The plan is looked at once: later edits of its file belong to another run."""
    broken = two_steps(researcher=[Fault.status(400, "no"), notes("# Report\n\n4.25 K")])
    with broken, broken.environment():
        with pytest.raises(cmbagent.errors.CmbagentError):
            deep_research("t", work_dir=tmp_path, api_keys=KEYS)
        (tmp_path / "planning" / "final_plan.json").write_text('{"sub_tasks": []}')
        result = deep_research("t", work_dir=tmp_path, api_keys=KEYS, resume=True)
    assert result["status"] == "completed" and len(result["plan"]) == 2


# --- the functions ---


def test_functions_begin_anew_unless_they_are_told_to_resume(tmp_path):
    server = ModelServer({"engineer": code("print('ok')", filename="a.py")})
    with server, server.environment():
        first = one_shot("t", work_dir=tmp_path, api_keys=KEYS, agent="engineer", resume=True)
        same = one_shot("t", work_dir=tmp_path, api_keys=KEYS, agent="engineer", resume=True)
        other = one_shot("t", work_dir=tmp_path, api_keys=KEYS, agent="engineer")
        assert len(server.calls) == 2
    assert first["run_id"] == same["run_id"] != other["run_id"]
    assert same["chat_history"] == first["chat_history"]


def test_resume_of_a_directory_goes_on_with_its_newest_run(tmp_path):
    server = two_steps(researcher=[Fault.status(400, "no"), notes("# Report\n\n4.25 K")])
    with server, server.environment():
        with pytest.raises(cmbagent.errors.CmbagentError):
            deep_research("t", work_dir=tmp_path, api_keys=KEYS)
        context = cmbagent.resume(tmp_path, api_keys=KEYS, verbose=False)
        assert server.agents().count("engineer") == 1
    assert context.shared_state["execution_complete"] is True


def test_what_is_not_there_cannot_be_resumed(tmp_path, store):
    with pytest.raises(ConfigurationError, match="knows of no run in"):
        cmbagent.resume(tmp_path, store=store)
    with pytest.raises(ConfigurationError, match="has no run 'nowhere'"):
        cmbagent.resume("nowhere", store=store)


def test_a_run_in_memory_is_not_kept(tmp_path):
    async def nothing(context):
        pass

    ran = executor(tmp_path, nothing, store=":memory:")
    ran.run_sync()
    with pytest.raises(ConfigurationError, match="has no run"):
        resume(ran.context.run_id, None)
