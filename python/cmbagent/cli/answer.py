"""`cmbagent approve`, `reject` and `answer`: answers to what a run asks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from cmbagent._words import one_line
from cmbagent.cli._app import AsJson, Debug, Target, UsageError, app
from cmbagent.cli._store import the_run, the_store
from cmbagent.cli._told import Told

if TYPE_CHECKING:
    from cmbagent.store import RunInfo

Question = Annotated[str | None, typer.Option(help="Which question, when more than one is open.")]
Feedback = Annotated[str | None, typer.Option(help="Words for the agents that follow.")]


@app.command()
def approve(
    run: Target,
    question: Question = None,
    feedback: Feedback = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Approve what a run asks about."""
    _answer(run, "approve", question, feedback, Told(debug, as_json))


@app.command()
def reject(
    run: Target,
    question: Question = None,
    feedback: Feedback = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Reject what a run asks about."""
    _answer(run, "reject", question, feedback, Told(debug, as_json))


@app.command()
def answer(
    run: Target,
    option: Annotated[str, typer.Argument(help="One of the question's options; `cmbagent show` has them.")],
    question: Question = None,
    feedback: Feedback = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Answer what a run asks with any of its options."""
    _answer(run, option, question, feedback, Told(debug, as_json))


def _answer(target: str, option: str, question: str | None, feedback: str | None, told: Told) -> None:
    with told:
        store = the_store()
        info = the_run(store, target)
        asked = _asked(info, store.questions(info.id), question)
        try:
            store.answer(info.id, asked["id"], option, feedback)
        except ValueError as error:
            raise UsageError(str(error)) from None
        then = "it goes on" if info.owner is not None else f"to go on: cmbagent resume {info.id}"
        found = {"run": info.id, "question": asked["id"], "answer": option, "running": info.owner is not None}
        told.say(found, f"Answered {option} to run {info.id}; {then}.")


def _asked(info: RunInfo, questions: list[dict[str, Any]], wanted: str | None) -> dict[str, Any]:
    pending = [each for each in questions if not each["settled"]]
    if wanted is not None:
        pending = [each for each in pending if each["id"] == wanted]
    if not pending:
        which = "no open question" if wanted is None else f"no open question {wanted!r}"
        raise UsageError(
            f"run {info.id} is {info.status} and has {which}; `cmbagent show {info.id}` lists them"
        )
    if len(pending) > 1:
        listed = "; ".join(f"{each['id']}: {one_line(each['question']['message'], 60)}" for each in pending)
        raise UsageError(f"run {info.id} has more than one open question, choose with --question: {listed}")
    return pending[0]
