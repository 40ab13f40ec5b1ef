"""What notebooks show of questions and of the functions' results, and what pages do to a display."""

import numpy as np
import pytest

from cmbagent import _html
from cmbagent.approvals import ApprovalRequest
from cmbagent.workflows.results import RunResult
from test_notebook_display import EVIL, KEY, Page, context, result, with_plot

STEPS = [
    {"sub_task": "compute", "sub_task_agent": "engineer", "bullet_points": ["the spectrum"]},
    {"sub_task": "write", "sub_task_agent": "researcher", "bullet_points": []},
]


def request(**snapshot):
    message = "The plan is ready.\n\n**Plan:**\n  Step 1: compute\n  Step 2: write"
    return ApprovalRequest(
        "r", "phase_1_hitl_checkpoint", "after_planning", snapshot, message, ["approve", "modify"]
    )


def outcome(work_dir, /, **changes):
    whole = context(work_dir)
    found = {
        "chat_history": [{"name": "user", "content": "t"}],
        "final_context": whole.metadata["phase_1_control"]["final_context"],
        "status": "completed",
        "workflow_id": "deep_research",
        "phase_timings": {"total": 75.0},
        "plan": whole.plan,
        "step_results": whole.step_results,
        "output_files": whole.output_files,
        "work_dir": str(work_dir),
    }
    return RunResult(**{**found, **changes})


# --- results of the functions ---


def test_result_of_a_function_shows_what_came_of_the_run(tmp_path):
    shown = outcome(with_plot(tmp_path))
    page = Page(shown._repr_html_())
    for words in ("deep_research", "completed", "1 min 15 s", "compute", "the spectrum", "1,234", "$0.2500"):
        assert words in page.words
    assert len(page.images) == 1
    # All of it is there still, by name.
    assert "chat_history, final_context, status" in page.words


def test_result_of_a_function_that_failed_says_why(tmp_path):
    page = Page(outcome(tmp_path, status="failed", error=f"Step 1 failed: {EVIL}")._repr_html_())
    assert "failed" in page.words and EVIL in page.words
    assert "script" not in page.tags


def test_result_of_an_interactive_function_shows_its_context(tmp_path):
    whole = context(tmp_path)
    page = Page(RunResult(final_context=whole.to_dict(), work_dir=str(tmp_path))._repr_html_())
    for words in ("Result of", "compute", "1 min 15 s", "$0.2500"):
        assert words in page.words


def test_text_of_a_result_fits_a_cell_and_print_shows_all_of_it(tmp_path):
    formatters = pytest.importorskip("IPython.core.formatters")
    shown = outcome(tmp_path, chat_history=[{"name": "a", "content": "x" * 5000}])
    text = formatters.DisplayFormatter().format(shown)[0]["text/plain"]
    assert text.startswith("<completed: chat_history, final_context, status")
    assert len(text) < 300
    assert repr(shown) == repr(dict(shown))


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"final_context": None},
        {"plan": np.zeros(3), "step_results": np.zeros(3), "output_files": np.zeros(3)},
        {"phase_timings": None, "chat_history": None, "work_dir": None},
    ],
)
def test_odd_results_are_no_error(tmp_path, changes):
    assert Page(outcome(tmp_path, **changes)._repr_html_()).words
    assert "None" not in Page(RunResult()._repr_html_()).words


# --- questions ---


def test_question_shows_the_plan_and_the_money_and_how_to_answer():
    spent = {"calls": 3, "prompt_tokens": 1000, "completion_tokens": 200, "cost": 0.06}
    estimate = {"calls": 2, "cost": 0.04, "basis": "one call a step"}
    asked = request(plan=STEPS, spent=spent, estimate=estimate)
    page = Page(asked._repr_html_())
    for words in (
        "after planning",
        asked.id,
        "the spectrum",
        "Spent so far: 3 model calls, 1,000 + 200 tokens, $0.0600",
        "Still to come (estimate): about 2 model calls, $0.0400",
        "Answers: approve, modify",
    ):
        assert words in page.words
    assert "Step 1:" not in page.words


def test_question_about_ideas_or_a_step():
    page = Page(request(ideas=[{"title": "Lensing"}, "Noise"], summary="found\n  4.25 K")._repr_html_())
    for words in ("1", "Lensing", "2", "Noise", "found\n  4.25 K"):
        assert words in page.words
    assert Page(request(ideas=np.zeros(2), plan=EVIL)._repr_html_()).words


def test_text_of_a_question_fits_a_cell():
    text = repr(request(plan=STEPS * 100, spent={"calls": 3}))
    assert "context_snapshot=<2: 'plan', 'spent'>" in text
    assert len(text) < 500


# --- tables and pages ---


def test_phase_that_carried_a_plan_out_names_its_tasks(tmp_path):
    ended = result(tmp_path)
    del ended.context.output_data["shared"]
    ended.context.input_data = {"final_plan": STEPS}
    assert "compute" in Page(ended._repr_html_()).words
    ended.context.input_data = {}
    ended.context.shared_state = {"plan_steps": STEPS}
    assert "compute" in Page(ended._repr_html_()).words


def test_columns_without_content_are_left_out():
    page = Page(_html.table(("a", "b", "c"), [("1", "", "3"), ("", "", "4")]))
    assert page.words.split() == ["a", "c", "1", "3", "4"]
    assert page.tags.count("th") == 2 and page.tags.count("td") == 4


def test_the_page_sets_no_mathematics_in_a_display(tmp_path):
    """Between the dollars of two prices it would find a formula."""
    for shown in (context(tmp_path), result(tmp_path), outcome(tmp_path), request(plan=STEPS)):
        assert '<div class="cmbagent mathjax_ignore tex2jax_ignore">' in shown._repr_html_()


def test_the_page_does_not_move_the_text_of_tables():
    assert "text-align:left!important" in _html.whole("")


def test_no_key_is_shown_of_a_result(tmp_path):
    assert KEY not in outcome(tmp_path)._repr_html_()
