"""Functions, nested runs, questions and results in the cells of a real Jupyter kernel."""

import pytest

from kernel import START, Kernel
from scripted import STEPS, two_steps

SETUP = f"""
from cmbagent import control, deep_research, one_shot, planning_and_control
from cmbagent import planning_and_control_context_carryover
from cmbagent.workflows import WorkflowExecutor, get_workflow
from cmbagent.workflows import hitl_error_recovery_workflow, hitl_interactive_workflow
from cmbagent.workflows import hitl_planning_only_workflow
keys = {{"OPENAI": "sk-test"}}
plan = {STEPS!r}
"""


@pytest.fixture(scope="module")
def kernel():
    made = Kernel()
    assert made.run(SETUP).error is None
    yield made
    made.close()


@pytest.fixture
def place(kernel, tmp_path):
    """A work directory, with the models' answers at hand in the kernel."""
    with two_steps() as server:
        kernel.serve(server)
        kernel.run(f"place = {str(tmp_path)!r}")
        yield tmp_path


FUNCTIONS = {
    "planning_and_control_context_carryover": "",
    "deep_research": "",
    "planning_and_control": "",
    "one_shot": "",
    "control": ", plan=plan",
    "hitl_interactive_workflow": ", approval_manager=manager",
    "hitl_planning_only_workflow": ", approval_manager=manager",
    "hitl_error_recovery_workflow": ", approval_manager=manager",
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_function_in_a_cell(kernel, place, name):
    cell = f"""
from cmbagent.approvals import AutoApprovalManager
manager = AutoApprovalManager("approve")
result = {name}("the task", work_dir=place, api_keys=keys{FUNCTIONS[name]})
result["phase_timings"]["total"] > 0, len(result["final_context"]) > 0
"""
    ended = kernel.run(cell)
    assert (ended.error, ended.value) == (None, "(True, True)")
    progress = [each for each in ended.displays if "display_id" in each.transient]
    assert "completed" in progress[-1].data["text/plain"]


def test_functions_in_threads_of_a_kernel(kernel, place):
    cell = """
from concurrent.futures import ThreadPoolExecutor
with ThreadPoolExecutor(3) as pool:
    calls = [pool.submit(one_shot, "t", work_dir=f"{place}/{n}", api_keys=keys) for n in range(3)]
[call.result()["status"] for call in calls]
"""
    ended = kernel.run(cell)
    assert (ended.error, ended.value) == (None, "['completed', 'completed', 'completed']")


@pytest.mark.parametrize("how", ["run_sync", "await"])
def test_a_function_within_a_phase_in_a_cell(kernel, place, how):
    cell = f"""
async def calls(context):
    context.output_data["inner"] = one_shot("t", work_dir=f"{{place}}/inner", api_keys=keys)["status"]

ran = executor(place, calls)
{START[how]}
ran.results[0].output_data["inner"]
"""
    ended = kernel.run(cell)
    assert (ended.error, ended.value) == (None, "'completed'")


# Questions


def answer(kernel, *words):
    """Answer the questions of a cell in their order; gives their prompts."""
    prompts = []
    for word in words:
        prompts.append(kernel.question())
        kernel.client.input(word)
    return prompts


def test_a_function_asks_in_its_cell_and_does_as_it_is_told(kernel, place):
    cell = 'deep_research("t", work_dir=place, api_keys=keys, hitl_after_planning=True)["plan"]'
    request = kernel.start(cell, attended=True)
    prompts = answer(kernel, "modify", "delete 2", "", "be brief")
    ended = kernel.end(request)
    assert ended.error is None
    assert prompts[0] == "approve / reject / modify > "
    assert "researcher │ write" in ended.text
    assert "Still to come (estimate): about 2 model calls, $" in ended.text
    assert "compute" in ended.value and "write" not in ended.value


@pytest.mark.parametrize("how", ["run_sync", "await"])
def test_stop_button_while_a_question_is_open(kernel, place, how):
    cell = f"""
ran = WorkflowExecutor(get_workflow("deep_research_hitl"), "t", place, keys)
{START[how]}
"""
    request = kernel.start(cell, attended=True)
    assert kernel.question() == "approve / reject / modify > "
    kernel.manager.interrupt_kernel()
    assert kernel.end(request).error == "KeyboardInterrupt"
    assert kernel.run("6 * 7").value == "42"
    # The plan that was paid for is there.
    assert (place / "planning" / "final_plan.json").exists()


def test_an_unattended_notebook_is_not_asked(kernel, place):
    cell = """
ran = WorkflowExecutor(get_workflow("deep_research_hitl"), "t", place, keys)
ran.run_sync()
ran.context.approvals[0]["approval_status"]
"""
    ended = kernel.run(cell)
    assert (ended.error, ended.value) == (None, "'auto_approved'")
    assert "no approval manager" in ended.text


# What a cell shows of an object


@pytest.mark.parametrize(
    ("expression", "words"),
    [
        ('get_workflow("deep_research")', ["Workflow: Deep Research", "planning", "→"]),
        (
            "ran.context",
            ["Run of deep_research", "Plan and steps", "compute", "plot_1.png", "data:image/png"],
        ),
        ("ran.results[0]", ["Phase: phase_0_planning", "completed", "compute"]),
        ("ran.results[1]", ["Phase: phase_1_control", "engineer", "compute", "data:image/png"]),
        ("deep_research('t', work_dir=place, api_keys=keys)", ["Result of", "completed", "compute", "Costs"]),
    ],
)
def test_rich_displays_reach_the_page(kernel, place, expression, words):
    cell = f"""
ran = WorkflowExecutor(get_workflow("deep_research"), "t", place, keys)
ran.run_sync()
{expression}
"""
    ended = kernel.run(cell)
    assert ended.error is None
    for word in words:
        assert word in ended.shown["text/html"]
    assert "sk-test" not in ended.shown["text/html"] + ended.shown["text/plain"]
    assert len(ended.shown["text/plain"]) < 2_000


def test_a_workflow_is_a_graph_where_the_page_draws_graphs(kernel):
    ended = kernel.run('get_workflow("deep_research_hitl")')
    graph = ended.shown["text/markdown"]
    assert "```mermaid\nflowchart LR" in graph and "p2 --> p3" in graph
