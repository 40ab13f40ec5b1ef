"""`cmbagent attach`: a run of another process, as if it went on here."""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING, Any

import typer

from cmbagent.cli._app import AsJson, Debug, Plain, Quiet, Target, app
from cmbagent.cli._screen import Screen
from cmbagent.cli._status import Exit, of_run
from cmbagent.cli._store import as_dict, the_run, the_store
from cmbagent.cli._told import Told

if TYPE_CHECKING:
    from cmbagent.display import Display
    from cmbagent.store import Store

LOOK_SECONDS = 0.2
"""How often the store is looked at."""


@app.command()
def attach(
    run: Target,
    plain: Plain = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Watch a run of any process from its begin to its end, and answer its questions.

    Ctrl-C leaves the run, which goes on; `cmbagent stop` or `cancel` ends it. The exit status is that of the
    run.
    """
    told = Told(debug, as_json)
    with told:
        store = the_store()
        info = the_run(store, run)
        told.about = lambda: as_dict(store.run(info.id))
        try:
            with Screen(quiet, plain, as_json).shown() as display:
                _follow(store, info.id, display, shown=not quiet, asking=not as_json)
        except (KeyboardInterrupt, EOFError):
            typer.echo(f"Left. The run goes on; to watch it again: cmbagent attach {info.id}", err=True)
            told.leave(Exit.INTERRUPTED)
        info = store.run(info.id)
        if info.resumable:
            typer.echo(f"Run {info.id} is {info.status}. To go on: cmbagent resume {info.id}", err=True)
        elif quiet and not as_json:
            typer.echo(f"Run {info.id} is {info.status}. Results: {info.work_dir}")
        told.leave(of_run(info.status))


def _follow(store: Store, run_id: str, display: Display, shown: bool, asking: bool) -> None:
    from cmbagent.approvals import is_interactive
    from cmbagent.cli._follow import Follower, is_over

    follower = Follower(store, run_id)
    asking = asking and is_interactive()
    # The past scrolls by at once.
    still = display.hold()
    told: set[str] = set()
    while True:
        # What a run said before it was over is read by then.
        over = is_over(store.run(run_id))
        with still:
            for kind, data in follower.look():
                if shown:
                    display.event(kind, data)
        if over:
            return
        still = contextlib.nullcontext()
        question = _open_question(store, run_id)
        if question is not None and asking:
            _ask(store, run_id, question, display)
        elif question is not None and question["id"] not in told:
            told.add(question["id"])
            how = f"cmbagent show {run_id} has the question, approve or reject answers"
            typer.echo(f"The run asks: {how}.", err=True)
        time.sleep(LOOK_SECONDS)


def _open_question(store: Store, run_id: str) -> dict[str, Any] | None:
    questions = store.questions(run_id)
    return next((each for each in questions if not each["settled"] and each["answer"] is None), None)


def _ask(store: Store, run_id: str, question: dict[str, Any], display: Display) -> None:
    """Ask here; the question may meanwhile be answered elsewhere, or its run end."""
    from cmbagent.approvals import ApprovalRequest, ConsoleApprovalManager
    from cmbagent.cli._follow import is_over
    from cmbagent.errors import JournalError

    manager = ConsoleApprovalManager()
    manager.hold = display.hold
    asked = question["question"]
    names = ("step_id", "checkpoint_type", "context_snapshot", "message", "options")
    request = ApprovalRequest(run_id, **{name: asked[name] for name in names})

    def given_up() -> bool:
        now = _open_question(store, run_id)
        return now is None or now["id"] != question["id"] or is_over(store.run(run_id))

    answer = manager.answer_unless(request, given_up)
    if answer is None:
        typer.echo("It was answered elsewhere, or its run has ended.", err=True)
        return
    try:
        store.answer(run_id, question["id"], answer.resolution, answer.user_feedback, answer.modifications)
    except JournalError as error:
        # Somebody was faster.
        typer.echo(f"note: {error}", err=True)
