"""The state that flows through phases: users' values of any shape stay what they are.

The engine reads what it needs from a live `PhaseContext` and writes what it makes; all else is
the user's.
"""

import asyncio
import json
import math
import sys
from enum import Enum
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cmbagent.approvals import ApprovalResult, AutoApprovalManager
from cmbagent.phases import (
    ControlPhase,
    HITLCheckpointPhase,
    PhaseContext,
    PhaseResult,
    PhaseStatus,
    WorkflowContext,
)
from procs import done, executor, researcher
from scripted import STEPS, run, two_steps

# The same examples in every run; the limit is their number, not a clock.
SETTINGS = settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)

HANDLE = Path(__file__).open()  # noqa: SIM115 - open on purpose, as a user's file would be


class Kind(Enum):
    ONE = "one"


LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(2**63, 2**80),
    st.floats(),
    st.text(st.characters(codec=None), max_size=5),
    st.binary(max_size=4),
    st.sampled_from([HANDLE, Kind.ONE, Path("/a"), object(), print, Kind, range(3), 1j, frozenset({1})]),
    st.builds(lambda n: np.arange(n, dtype=float), st.integers(0, 4)),
    st.builds(lambda n: pd.DataFrame({"x": range(n)}), st.integers(0, 3)),
    st.builds(np.float64, st.floats()),
    st.builds(set),
)
KEYS = st.one_of(st.text(max_size=3), st.integers(), st.none(), st.tuples(st.integers()), st.just(b"k"))
# Among the names that built-in phases read, so that these meet values of the wrong kind.
NAMES = st.sampled_from(
    ["a", "b", "plan_steps", "final_plan", "planning_context", "ideas", "selected_idea", "current_step",
     "hitl_feedback", "all_hitl_feedback", "final_context", "execution_complete", "_private"]
)  # fmt: skip


@st.composite
def webs(draw):
    """A container of a few that hold one another, and themselves, in any way."""
    nodes = [draw(st.sampled_from([list, dict]))() for _ in range(draw(st.integers(1, 5)))]
    for node in nodes:
        for _ in range(draw(st.integers(0, 4))):
            item = draw(st.one_of(LEAVES, st.sampled_from(nodes)))
            if isinstance(node, list):
                node.append(item)
            else:
                node[draw(KEYS)] = item
    return nodes[0]


@st.composite
def towers(draw):
    """Containers so deep that recursion would end."""
    value, inside = draw(LEAVES), draw(st.sampled_from([lambda v: [v], lambda v: {"in": v}, lambda v: (v,)]))
    for _ in range(draw(st.sampled_from([90, 101, 3 * sys.getrecursionlimit()]))):
        value = inside(value)
    return value


def bomb(levels=80):
    """Little memory that stands for more values than any machine holds."""
    value = ["x", "y"]
    for _ in range(levels):
        value = [value, value]
    return value


def knot():
    """A dictionary that holds itself many times."""
    value = {}
    value.update(dict.fromkeys("abcdef", value))
    return value


VALUES = st.one_of(LEAVES, webs(), towers())
STATES = st.dictionaries(NAMES, VALUES, max_size=4)


def same(ours, theirs):
    return ours.keys() == theirs.keys() and all(ours[key] is theirs[key] for key in ours)


def execute(work_dir, *phases):
    ran = executor(work_dir, *phases, approval_manager=AutoApprovalManager("approve"))
    asyncio.run(ran.run())
    return ran


@given(output=STATES, shared=STATES)
@SETTINGS
def test_values_keep_their_identity_through_a_native_phase(tmp_path, output, shared):
    before = dict(output), dict(shared)
    contexts = []

    async def first(context):
        context.output_data = {**output, "shared": shared}
        contexts.append(context)

    async def last(context):
        contexts.append(context)

    ran = execute(tmp_path, first, HITLCheckpointPhase(), last)
    (first, last), native = contexts, ran.results[1].context
    assert native.input_data is first.output_data
    assert last.input_data is native.output_data
    assert same(before[0], {k: v for k, v in native.input_data.items() if k != "shared"})
    assert same(before[1], shared)
    # What the checkpoint shares lies over what was shared before it.
    given_on = {**before[1], **native.output_data["shared"]}
    assert same(given_on, {k: last.shared_state[k] for k in given_on})
    assert all(ran.context.shared_state[key] is value for key, value in given_on.items())


class Prepared(HITLCheckpointPhase):
    """A checkpoint whose user puts something out before it is asked."""

    async def execute(self, context):
        context.output_data.update(self.prepared)
        return await super().execute(context)


@given(output=STATES, shared=STATES)
@SETTINGS
def test_a_native_phase_adds_to_the_output_and_leaves_the_rest(tmp_path, output, shared):
    before = dict(shared)
    phase = Prepared()
    phase.prepared = {**output, "shared": shared}
    ran = execute(tmp_path, phase)
    out = ran.results[0].output_data
    assert out["approval_status"] == "approved"
    written = {"approval_status", "user_feedback", "modifications", "resolution", "shared"}
    assert same(output, {key: value for key, value in out.items() if key not in written})
    own = {"hitl_feedback", "all_hitl_feedback", "hitl_approved"}
    kept = {key: value for key, value in before.items() if key not in own}
    assert same(kept, {key: value for key, value in out["shared"].items() if key not in own})
    # The user's own dictionary is not written to.
    assert same(before, shared)


@given(plan=VALUES, context=VALUES)
@SETTINGS
def test_a_plan_of_any_kind_is_validated_or_refused_in_words(plan, context):
    made = PhaseContext(
        "w", "r", "p", "t", "/tmp", input_data={"final_plan": plan, "planning_context": context}
    )
    assert all(isinstance(message, str) for message in ControlPhase().validate_input(made))


def seen(value):
    """What the engine makes of a value."""
    context = PhaseContext("w", "r", "p", "t", "/tmp")

    async def look():
        return await context.run.observe("it", lambda: value)

    return asyncio.run(look())


PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=4),
    max_leaves=30,
)


@given(value=PLAIN)
@SETTINGS
def test_the_engine_sees_plain_values_as_they_are(value):
    got = seen(value)
    assert got == value
    # -0.0, 1 and True are told apart, too.
    assert json.dumps(got) == json.dumps(value)


@given(value=st.one_of(webs(), towers(), LEAVES))
@SETTINGS
def test_the_engine_sees_something_of_every_value(value):
    json.dumps(seen(value), allow_nan=False)


@pytest.mark.parametrize("make", [bomb, knot])
def test_containers_without_an_end_are_cut_short_and_passed_on(tmp_path, make):
    value = make()
    assert "$opaque" in json.dumps(seen(value))

    async def first(context):
        context.output_data = {"final_plan": value, "shared": {"plan_steps": value}}

    ran = execute(tmp_path, first, HITLCheckpointPhase())
    assert ran.context.shared_state["plan_steps"] is value


def test_what_json_cannot_say_is_named():
    values = [math.nan, 2**63, b"x", np.arange(2), pd.DataFrame(), Kind.ONE, {1: "a", "b": 2}, (1, 2)]
    opaque = [each.get("$opaque") if isinstance(each, dict) else each for each in seen(values)]
    assert opaque[:3] == ["float", "int", "bytes"]
    assert opaque[3] == "numpy.ndarray"
    assert opaque[4].endswith("DataFrame") and opaque[5].endswith("Kind")
    # Keys that are no text are left to their owner.
    assert seen({1: "a", "b": 2}) == {"b": 2}
    assert opaque[7] == [1, 2]


@given(output=STATES, shared=STATES)
@SETTINGS
def test_a_context_of_any_content_can_be_shown_and_told_as_json(output, shared):
    made = PhaseContext("w", "r", "p", "t", "/tmp", output_data={**output, "shared": shared})
    ended = PhaseResult(PhaseStatus.COMPLETED, made)
    whole = WorkflowContext("w", "r", "t", "/tmp", {})
    whole.update_from_phase_result(ended)
    assert whole.metadata["p"] is made.output_data
    assert json.loads(whole.to_json())["task"] == "t"
    for each in (whole, ended):
        assert len(repr(each)) < 3_000
        assert each._repr_html_().endswith("</div>")


def test_json_of_containers_without_an_end():
    whole = WorkflowContext("w", "r", "t", "/tmp", {}, shared_state={"bomb": bomb(), "knot": knot()})
    told = json.loads(whole.to_json())["shared_state"]
    assert told["knot"] == dict.fromkeys("abcdef", "…")
    assert "…" in json.dumps(told["bomb"], ensure_ascii=False)
    odd = WorkflowContext("w", "r", "t", "/tmp", {}, metadata={(1, 2): math.nan, b"k": {3}, 4: True})
    assert json.loads(odd.to_json())["metadata"] == {"(1, 2)": "nan", "b'k'": "{3}", "4": True}


# Arrays and tables


def test_arrays_and_tables_pass_through_phases_and_are_changed_in_place(tmp_path):
    array, table = np.zeros(3), pd.DataFrame({"ell": [2, 3], "cl": [0.5, 0.25]})
    seen = []

    async def makes(context):
        context.output_data = {"array": array, "shared": {"array": array, "table": table}}

    async def changes(context):
        seen.append(context.shared_state["array"])
        context.shared_state["array"] += 1
        context.shared_state["table"].loc[0, "cl"] = 9.0
        context.output_data["shared"] = {"view": context.shared_state["array"][1:]}
        return done(context)

    async def reads(context):
        seen.append(context.shared_state["array"])

    phases = [makes, HITLCheckpointPhase(), changes, researcher(), reads]
    ran = run(two_steps(), lambda api_keys: execute(tmp_path, *phases))
    assert all(each is array for each in seen)
    assert array.tolist() == [1, 1, 1]
    assert table.loc[0, "cl"] == 9.0
    shared = ran.context.shared_state
    assert shared["array"] is array and shared["table"] is table
    assert shared["view"].base is array
    assert ran.context.metadata["phase_0_do"]["array"] is array


def test_arrays_in_a_dictionary_that_native_phases_write_into(tmp_path):
    """Planning writes `shared` beside what a subclass shares."""
    from cmbagent.phases import PlanningPhase, PlanningPhaseConfig

    array = np.arange(3)

    class Measured(PlanningPhase):
        async def execute(self, context):
            context.output_data["shared"] = {"array": array}
            return await super().execute(context)

    phase = Measured(PlanningPhaseConfig(n_plan_reviews=0))
    ran = run(two_steps(), lambda api_keys: execute(tmp_path, phase))
    assert ran.context.shared_state["array"] is array
    assert len(ran.context.shared_state["plan_steps"]) == 2


def test_answers_with_arrays_do_not_break_the_question(tmp_path):
    changes = {"plan": STEPS, "mask": np.arange(2)}
    manager = AutoApprovalManager(lambda asked: ApprovalResult("modify", None, changes))
    ran = executor(tmp_path, HITLCheckpointPhase(), approval_manager=manager)
    asyncio.run(ran.run())
    assert ran.context.plan == STEPS
    assert ran.context.shared_state["user_modifications"]["mask"] == {"$opaque": "numpy.ndarray"}
