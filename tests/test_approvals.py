"""Approval managers: who is asked, what counts as an answer, how a plan is edited."""

import asyncio
import json
import os
import random
import sys
import textwrap
import threading
from types import SimpleNamespace

import pytest

from cmbagent import _loop, approvals
from cmbagent.approvals import (
    ApprovalRequest,
    ApprovalResult,
    AutoApprovalManager,
    ConsoleApprovalManager,
    QueueApprovalManager,
    choice,
    console,
    default_manager,
    editor,
    option_of,
    plan,
)
from cmbagent.errors import ConfigurationError
from cmbagent.workflows import WorkflowDefinition, WorkflowExecutor

STEPS = [
    {"sub_task": "Compute the spectrum", "sub_task_agent": "engineer", "bullet_points": ["use ell < 2000"]},
    {"sub_task": "Write it up", "sub_task_agent": "researcher", "bullet_points": []},
]
SPENT = {"calls": 4, "prompt_tokens": 1000, "completion_tokens": 200, "cost": 0.08, "unpriced_models": []}


def create(manager, options=("approve", "reject", "modify"), message="Go on?", **snapshot):
    return manager.create_approval_request(
        run_id="r",
        step_id="phase_1_hitl_checkpoint",
        checkpoint_type="after_planning",
        context_snapshot=snapshot,
        message=message,
        options=list(options),
    )


def request(options=("approve", "reject", "modify"), **snapshot):
    return ApprovalRequest("r", "s", "custom", snapshot, "Go on?", list(options))


def wait(manager, asked, timeout_seconds=30):
    return asyncio.run(manager.wait_for_approval_async(asked.id, timeout_seconds=timeout_seconds))


def answers(*lines):
    left = list(lines)
    return lambda prompt: left.pop(0)


def at_console(*lines, edit=None, options=("approve", "reject", "modify"), **snapshot):
    shown = []
    manager = ConsoleApprovalManager(answers(*lines), shown.append, edit)
    return wait(manager, create(manager, options, **snapshot)), "".join(shown)


def run_checkpoint(tmp_path, manager, plan=None, **config):
    built = WorkflowExecutor(
        WorkflowDefinition(id="w", name="W", phases=[{"type": "hitl_checkpoint", "config": config}]),
        "task",
        tmp_path,
        {},
        approval_manager=manager,
        initial_shared_state={"plan_steps": plan} if plan else None,
        verbose=False,
    )
    return built


# Answers


@pytest.mark.parametrize(
    ("word", "meant"),
    [
        ("approve", "approve"),
        (" Approved", "approve"),
        ("modified", "modify"),
        ("skipped", "skip"),
        ("retried", "retry"),
        (SimpleNamespace(value="rejected"), "reject"),
        ("yes", None),
        ("", None),
        (None, None),
    ],
)
def test_only_the_options_and_their_past_forms_are_answers(word, meant):
    options = ["approve", "reject", "modify", "skip", "retry"]
    if meant is None:
        with pytest.raises(ValueError, match="none of the options"):
            option_of(word, options)
    else:
        assert option_of(word, options) == meant


def test_accepting_an_answer():
    asked = request()
    assert asked.accept("approved", "  ") == ApprovalResult("approve")
    changed = asked.accept("modify", " shorter ", [{"task": "a", "agent": "Engineer", "bullets": "- x\n* y"}])
    step = {"sub_task": "a", "sub_task_agent": "engineer", "bullet_points": ["x", "y"]}
    assert changed == ApprovalResult("modify", "shorter", {"plan": [step]})
    assert asked.accept("modify", None, {"selected_idea": 1}).modifications == {"selected_idea": 1}


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"plan": []}, "no steps"),
        ({"plan": [{"sub_task": "a"}]}, "step 1 of the plan has no 'sub_task_agent'"),
        ({"plan": [{"sub_task": "a", "sub_task_agent": "plumber"}]}, "'plumber'"),
        ({"plan": ["a"]}, "must be a mapping"),
        ({"plan": [{"sub_task": "a", "agent": "engineer", "bullets": [1]}]}, "list of texts"),
        ({"plan": "{"}, "no JSON"),
        ("text", "must be a mapping"),
    ],
)
def test_changes_that_cannot_be_carried_out(changes, reason):
    with pytest.raises(ConfigurationError, match=reason):
        request().accept("modify", None, changes)


def test_estimate_is_the_engines():
    estimate = {"calls": 9, "cost": 1.0, "basis": "b"}
    assert request(plan=STEPS, estimate=estimate).estimate == estimate
    assert request(plan=STEPS, spent=SPENT).estimate is None


# Plans as text


def test_a_plan_survives_being_text():
    rng = random.Random(7)
    pieces = ["a: b", "- c", "# d", "2. engineer: e", "", "  f", "[g]", "ℓ < 2000", "```python"]

    def text():
        return "x" + "\n".join(rng.choice(pieces) for _ in range(rng.randint(1, 4))).rstrip() + "y"

    for _ in range(300):
        steps = [
            {
                "sub_task": text(),
                "sub_task_agent": rng.choice(plan.AGENTS),
                "bullet_points": [text() for _ in range(rng.randint(0, 3))],
            }
            for _ in range(rng.randint(1, 4))
        ]
        assert plan.from_text(plan.to_text(steps)) == steps


def test_reading_a_plan():
    written = "# comment\n7) Idea Maker: think\n  * one\n\n1. engineer: do\n"
    steps = plan.from_text(written)
    assert [s["sub_task_agent"] for s in steps] == ["idea_maker", "engineer"]
    assert steps[0]["bullet_points"] == ["one"]
    assert plan.from_text(json.dumps({"sub_tasks": STEPS})) == STEPS
    with pytest.raises(ConfigurationError, match="line 2 of the plan"):
        plan.from_text("1. engineer: a\nwhat is this\n")
    with pytest.raises(ConfigurationError, match="line 1 of the plan"):
        plan.from_text("- a point of no step")


def test_editing_line_by_line():
    steps, at = plan.edit_line(STEPS, "- a point", 1)
    assert steps[1]["bullet_points"] == ["a point"]
    assert STEPS[1]["bullet_points"] == []
    steps, at = plan.edit_line(steps, "3. engineer: more", at)
    assert (len(steps), at) == (3, 2)
    steps, at = plan.edit_line(steps, "clear 1", at)
    assert steps[0]["bullet_points"] == []
    steps, at = plan.edit_line(steps, "delete 2", at)
    assert [s["sub_task"] for s in steps] == ["Compute the spectrum", "more"]
    assert plan.edit_line(steps, json.dumps(STEPS), at) == (STEPS, 0)
    for line in ("delete 3", "4. engineer: x", "2. plumber: x", "nonsense"):
        with pytest.raises(ConfigurationError):
            plan.edit_line(steps, line, at)


def test_table():
    text = plan.table([{**STEPS[0], "sub_task": "word " * 40}, STEPS[1]], 60)
    assert all(len(line) <= 60 for line in text.splitlines())
    assert "researcher │ Write it up" in text
    assert "- use ell < 2000" in text


# The console


def test_console_approves_by_the_beginning_of_a_word():
    result, _ = at_console("app")
    assert result == ApprovalResult("approve")


def test_console_takes_nothing_but_the_options():
    result, shown = at_console("perhaps", "", "re", "rej", "too long", options=("reject", "retry"))
    assert result == ApprovalResult("reject", "too long")
    assert shown.count("one of: reject, retry") == 3


@pytest.mark.parametrize(
    ("options", "lines", "words"),
    [
        (["approve", "continue", "abort"], ["continue", "Plot it."], "Plot it."),
        (["approve", "continue", "abort"], ["approve"], None),
        (["continue", "abort", "redo"], ["continue"], None),
        (["continue", "abort", "redo"], ["redo", "Use SI units."], "Use SI units."),
    ],
)
def test_console_asks_for_words_unless_the_answer_says_it_all(options, lines, words):
    result, _ = at_console(*lines, options=options)
    assert result == ApprovalResult(lines[0], words)


def test_console_shows_plan_spending_and_estimate():
    message = "The plan is ready.\n\n**Plan:**\n  Step 1: Compute the spectrum\n  Step 2: Write it up"
    manager = ConsoleApprovalManager(answers("a"), (shown := []).append)
    estimate = {"calls": 2, "cost": 0.04, "basis": "one call a step"}
    asked = create(manager, message=message, plan=STEPS, spent=SPENT, estimate=estimate)
    wait(manager, asked)
    text = "".join(shown)
    assert "engineer   │ Compute the spectrum" in text
    assert "Step 1:" not in text
    assert "Spent so far: 4 model calls, 1,000 + 200 tokens, $0.0800" in text
    assert "Still to come (estimate): about 2 model calls, $0.0400" in text


def test_console_lets_no_text_steer_the_terminal():
    _, shown = at_console("a", summary="found\x1b[2J it\x07")
    assert "Summary:\nfound it" in shown
    assert "\x1b" not in shown


def test_console_edits_the_plan():
    def edit(text):
        return text.replace("Write it up", "Write a paper")

    result, shown = at_console("modify", "a paper please", edit=edit, plan=STEPS)
    assert result.user_feedback == "a paper please"
    assert result.modifications == {"plan": [STEPS[0], {**STEPS[1], "sub_task": "Write a paper"}]}
    assert "Write a paper" in shown


def test_console_checks_the_edited_plan():
    texts = iter(["nonsense", "1. plumber: x", "2. engineer: good"])
    result, shown = at_console("m", "y", "yes", "", edit=lambda _: next(texts), plan=STEPS)
    assert result.modifications["plan"][0]["sub_task"] == "good"
    assert "line 1 of the plan" in shown
    assert "'plumber'" in shown
    kept, shown = at_console("m", "no", "as it is", edit=lambda _: "nonsense", plan=STEPS)
    assert kept == ApprovalResult("modify", "as it is")
    assert "stays as it is" in shown


def test_console_edits_line_by_line():
    result, shown = at_console(
        "m", "nonsense", "delete 1", "delete 1", "", "1. engineer: x", "", "", plan=STEPS
    )
    assert result.modifications == {
        "plan": [{"sub_task": "x", "sub_task_agent": "engineer", "bullet_points": []}]
    }
    assert "cannot be read" in shown
    assert "no steps" in shown


def test_console_chooses_an_idea():
    ideas = [{"title": "first"}, {"title": "second"}]
    result, shown = at_console("m", "3", "2", "", ideas=ideas)
    assert result.modifications == {"selected_idea": ideas[1]}
    assert "2. second" in shown
    assert at_console("m", "", "words", ideas=ideas)[0] == ApprovalResult("modify", "words")


def test_console_in_the_calling_thread():
    threads = []

    def ask(prompt):
        threads.append(threading.current_thread())
        return "approve"

    manager = ConsoleApprovalManager(ask, lambda text: None)
    assert manager.wait_for_approval(create(manager).id, 30).resolution == "approve"
    assert threads == [threading.current_thread()]


def test_console_closed_input():
    def closed(prompt):
        raise EOFError("closed")

    manager = ConsoleApprovalManager(closed, lambda text: None)
    with pytest.raises(EOFError, match="closed"):
        wait(manager, create(manager))


def test_console_unknown_request():
    with pytest.raises(ValueError, match="'zz'"):
        asyncio.run(ConsoleApprovalManager().wait_for_approval_async("zz", 1))


def test_console_asks_in_the_thread_that_waits(tmp_path):
    threads = []

    def ask(prompt):
        threads.append(threading.current_thread())
        return "approve"

    async def cell():
        run_checkpoint(tmp_path, ConsoleApprovalManager(ask, lambda text: None)).run_sync()

    asyncio.run(cell())
    assert threads == [threading.current_thread()]


def test_console_asks_in_the_outermost_thread_that_waits():
    threads = []

    def ask(prompt):
        threads.append(threading.current_thread())
        return "approve"

    async def inner():
        manager = ConsoleApprovalManager(ask, lambda text: None)
        return await manager.wait_for_approval_async(create(manager).id, 30)

    async def outer():
        return _loop.run_sync(inner, lambda: "inner")

    async def cell():
        return _loop.run_sync(outer, lambda: "outer")

    assert asyncio.run(cell()).resolution == "approve"
    assert threads == [threading.current_thread()]


@pytest.fixture
def terminal(monkeypatch):
    """A terminal as standard input; returns what types into it."""
    pty = pytest.importorskip("pty")
    ours, theirs = pty.openpty()
    stdin = os.fdopen(theirs, "r")
    monkeypatch.setattr(sys, "stdin", stdin)
    yield lambda text: os.write(ours, text.encode())
    stdin.close()
    os.close(ours)


def test_terminal(terminal, capsys):
    terminal("rej\ntoo long\n")
    manager = ConsoleApprovalManager()
    assert wait(manager, create(manager)) == ApprovalResult("reject", "too long")
    assert "approve / reject / modify > " in capsys.readouterr().out


def test_terminal_reader_that_nobody_waits_for_takes_no_answer(terminal):
    manager = ConsoleApprovalManager()
    with pytest.raises(TimeoutError, match="nobody answered"):
        wait(manager, create(manager), 0.01)
    for thread in threading.enumerate():
        if thread.name == "cmbagent-approval":
            thread.join(10)
    terminal("approve\n")
    assert wait(manager, create(manager)).resolution == "approve"


def test_terminal_deadline_in_the_calling_thread(terminal):
    manager = ConsoleApprovalManager()
    with pytest.raises(TimeoutError):
        manager.wait_for_approval(create(manager).id, 0)


# The editor


def test_editor(tmp_path, monkeypatch):
    script = tmp_path / "edit.py"
    script.write_text(
        "import pathlib, sys\np = pathlib.Path(sys.argv[1])\n"
        "p.write_text(p.read_text().replace('Write it up', 'Write a paper'))\n"
    )
    command = [sys.executable, str(script)]
    assert editor.edit_in_editor(plan.to_text(STEPS), command) == plan.to_text(STEPS).replace(
        "Write it up", "Write a paper"
    )
    script.write_text("import pathlib, sys\npathlib.Path(sys.argv[1]).write_text('# nothing\\n')\n")
    assert editor.edit_in_editor("1. engineer: a", command) == ""
    script.write_text("raise SystemExit(3)\n")
    with pytest.raises(ConfigurationError, match="status 3"):
        editor.edit_in_editor("", command)
    with pytest.raises(ConfigurationError, match="cannot be started"):
        editor.edit_in_editor("", [str(tmp_path / "no-such-editor")])


def test_editor_needs_a_terminal(monkeypatch):
    monkeypatch.setenv("EDITOR", "code --wait")
    monkeypatch.delenv("VISUAL", raising=False)
    assert editor.editor_command() is None
    tty = SimpleNamespace(isatty=lambda: True)
    monkeypatch.setattr(sys, "stdin", tty)
    monkeypatch.setattr(sys, "stdout", tty)
    assert editor.editor_command() == ["code", "--wait"]
    monkeypatch.setenv("EDITOR", " ")
    assert editor.editor_command() is None


# The queue


def test_queue_answered_from_another_thread(tmp_path):
    manager = QueueApprovalManager(
        lambda asked: threading.Thread(
            target=manager.answer, args=(asked.id, "modified", "shorter", {"plan": STEPS[:1]})
        ).start()
    )
    context = run_checkpoint(tmp_path, manager, STEPS).run_sync()
    assert context.plan == STEPS[:1]
    assert context.user_feedback == ["shorter"]
    assert manager.pending() == []


def test_queue_answered_from_another_task(tmp_path):
    manager = QueueApprovalManager()

    async def main():
        run = asyncio.ensure_future(run_checkpoint(tmp_path, manager).run())
        while not manager.pending():
            await asyncio.sleep(0)
        (asked,) = manager.pending()
        with pytest.raises(ConfigurationError, match="stays open"):
            manager.answer(asked.id, "yes")
        assert manager.pending() == [asked]
        manager.answer(asked.id, "approve")
        return await run

    assert asyncio.run(main()).approvals[0]["approval_status"] == "approved"


def test_queue_answered_before_it_is_waited_for():
    manager = QueueApprovalManager()
    asked = create(manager)
    manager.answer(asked.id, "approve", "fine")
    assert manager.pending() == []
    with pytest.raises(ConfigurationError, match="has been answered: approve"):
        manager.answer(asked.id, "reject")
    assert wait(manager, asked) == ApprovalResult("approve", "fine")
    with pytest.raises(ValueError, match="is open"):
        manager.answer(asked.id, "reject")
    with pytest.raises(ValueError, match="is open"):
        wait(manager, asked)


def test_queue_unanswered():
    manager = QueueApprovalManager()
    for waiting in (wait, lambda m, asked, seconds: m.wait_for_approval(asked.id, seconds)):
        asked = create(manager)
        with pytest.raises(TimeoutError):
            waiting(manager, asked, 0.001)
        assert manager.pending() == []


def test_queue_blocking_wait():
    manager = QueueApprovalManager()
    asked = create(manager)
    threading.Timer(0, manager.answer, (asked.id, "reject")).start()
    assert manager.wait_for_approval(asked.id, 30).resolution == "reject"


def test_queue_whose_messenger_fails():
    def broken(asked):
        raise ConnectionError("no mail")

    manager = QueueApprovalManager(broken)
    with pytest.raises(ConnectionError):
        create(manager)
    assert manager.pending() == []


def test_a_cancelled_run_takes_its_question_back(tmp_path):
    manager = QueueApprovalManager()

    async def main():
        run = asyncio.ensure_future(run_checkpoint(tmp_path, manager).run())
        while not manager.pending():
            await asyncio.sleep(0)
        run.cancel()
        with pytest.raises(asyncio.CancelledError):
            await run

    asyncio.run(main())
    assert manager.pending() == []


def test_a_manager_that_fails_is_named(tmp_path):
    class Broken(QueueApprovalManager):
        async def wait_for_approval_async(self, request_id, timeout_seconds=None):
            raise EOFError

    with pytest.raises(RuntimeError, match="Approval error: EOFError"):
        run_checkpoint(tmp_path, Broken()).run_sync()


# By a rule


@pytest.mark.parametrize(
    ("policy", "options", "word"),
    [
        ("approve", ("approve", "reject"), "approve"),
        ("approve", ("continue", "redo", "skip", "abort"), "continue"),
        ("approve", ("retry", "skip", "abort"), "abort"),
        ("reject", ("approve", "reject"), "reject"),
        ("reject", ("continue", "redo", "skip", "abort"), "abort"),
        ("skip", ("retry", "skip", "abort"), "skip"),
        (lambda asked: asked.options[-1], ("a", "b"), "b"),
        (lambda asked: ApprovalResult("a"), ("a", "b"), "a"),
    ],
)
def test_auto(policy, options, word):
    manager = AutoApprovalManager(policy)
    asked = create(manager, options)
    assert wait(manager, asked).resolution == word
    assert manager.answered == [(asked, ApprovalResult(word))]


def test_auto_with_a_word_that_is_no_option(tmp_path):
    manager = AutoApprovalManager("maybe")
    with pytest.raises(ConfigurationError, match="'maybe'"):
        create(manager)
    with pytest.raises(RuntimeError, match="'maybe' is none of the options"):
        run_checkpoint(tmp_path, manager).run_sync()


# Which manager


@pytest.fixture
def someone(monkeypatch):
    """Someone sits at a terminal."""
    tty = SimpleNamespace(isatty=lambda: True, fileno=lambda: 0)
    monkeypatch.setattr(sys, "stdin", tty)
    monkeypatch.setattr(choice, "running_kernel", lambda: None)
    monkeypatch.setattr(os, "tcgetpgrp", lambda fd: os.getpgrp(), raising=False)
    for name in ("CI", "CMBAGENT_HITL"):
        monkeypatch.delenv(name, raising=False)

    def outside_pytest():
        # pytest sets these anew for each stage of a test.
        monkeypatch.setattr(sys, "stdout", tty)
        monkeypatch.delenv("PYTEST_CURRENT_TEST")

    tty.outside_pytest = outside_pytest
    return tty


def test_someone_at_a_terminal_is_asked(someone, monkeypatch, tmp_path):
    someone.outside_pytest()
    assert isinstance(default_manager(), ConsoleApprovalManager)
    assert isinstance(run_checkpoint(tmp_path, None).approval_manager, ConsoleApprovalManager)
    monkeypatch.setattr(os, "tcgetpgrp", lambda fd: -1)
    assert default_manager() is None


@pytest.mark.parametrize("variable", ["CI", "PYTEST_CURRENT_TEST"])
def test_unattended_processes_are_not_asked(someone, monkeypatch, variable):
    someone.outside_pytest()
    assert default_manager() is not None
    monkeypatch.setenv(variable, "1")
    assert default_manager() is None


def test_no_input_no_question(someone, monkeypatch):
    someone.outside_pytest()
    someone.isatty = lambda: False
    assert default_manager() is None
    monkeypatch.setattr(sys, "stdin", None)
    assert default_manager() is None


@pytest.mark.parametrize("attended", [True, False])
def test_notebooks(someone, monkeypatch, attended):
    someone.outside_pytest()
    someone.isatty = lambda: False
    monkeypatch.setattr(choice, "running_kernel", lambda: SimpleNamespace(_allow_stdin=attended))
    assert approvals.is_interactive() is attended


@pytest.mark.parametrize(
    ("word", "outcome"),
    [("approve", "approved"), ("REJECT", "Rejected by user")],
)
def test_the_environment_decides(monkeypatch, tmp_path, word, outcome):
    monkeypatch.setenv("CMBAGENT_HITL", word)
    built = run_checkpoint(tmp_path, None)
    if outcome == "approved":
        assert built.run_sync().approvals[0]["approval_status"] == outcome
    else:
        with pytest.raises(RuntimeError, match=outcome):
            built.run_sync()


def test_the_environment_decides_to_ask(monkeypatch):
    monkeypatch.setenv("CMBAGENT_HITL", "ask")
    assert isinstance(default_manager(), ConsoleApprovalManager)
    monkeypatch.setenv("CMBAGENT_HITL", "perhaps")
    with pytest.raises(ValueError, match="ask, queue, approve or reject"):
        default_manager()


# A real notebook kernel

CELL = """
from cmbagent.workflows import WorkflowDefinition, WorkflowExecutor
steps = [{"sub_task": "a", "sub_task_agent": "engineer", "bullet_points": []}]
executor = WorkflowExecutor(
    WorkflowDefinition(id="w", name="W", phases=[{"type": "hitl_checkpoint"}]),
    "task", "%s", {}, initial_shared_state={"plan_steps": steps}, verbose=False,
)
context = %s
print(context.approvals[0]["approval_status"], context.user_feedback, context.plan[0]["sub_task"])
"""


@pytest.mark.parametrize("call", ["executor.run_sync()", "await executor.run()"])
def test_notebook_console(tmp_path, monkeypatch, call):
    manager_module = pytest.importorskip("jupyter_client.manager")
    for name in ("CI", "PYTEST_CURRENT_TEST"):
        monkeypatch.delenv(name, raising=False)
    said = iter(["modify", "1. engineer: b", "", "be brief"])
    heard = []

    def output(message):
        heard.append(message["content"].get("text") or "\n".join(message["content"].get("traceback", [])))

    def stdin(message):
        heard.append(message["content"]["prompt"])
        client.input(next(said))

    manager, client = manager_module.start_new_kernel(kernel_name="python3")
    try:
        reply = client.execute_interactive(
            CELL % (tmp_path, call), allow_stdin=True, timeout=60, output_hook=output, stdin_hook=stdin
        )
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
    text = "".join(map(str, heard))
    assert reply["content"]["status"] == "ok", text
    assert "engineer │ a" in text
    assert textwrap.dedent(text).rstrip().endswith("modified ['be brief'] b")


def test_running_kernel_outside_of_notebooks():
    assert console.running_kernel() is None
