"""Approvals by whoever sits at the terminal or the notebook."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import re
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from cmbagent import _loop
from cmbagent.approvals import plan as plans
from cmbagent.approvals import words
from cmbagent.approvals.editor import edit_in_editor, editor_command
from cmbagent.approvals.request import ApprovalRequest, ApprovalResult, option_of
from cmbagent.errors import ConfigurationError

_SLICE_SECONDS = 0.1
# One conversation at a time: two runs of a process share the terminal.
_TERMINAL = threading.Lock()


class ConsoleApprovalManager:
    """Asks at the terminal, or below the notebook cell that runs.

    A question shows the plan as a table, what has been spent and, for a plan, an estimate of what is to come.
    Only its options are answers; the beginning of one is enough. `modify` edits the plan: in the editor that
    `VISUAL` or `EDITOR` names, or line by line.

    Args:
        ask: reads a line after showing a prompt; `None` reads standard input. Given, it is called in a thread
            of its own.
        show: writes a text; `None` writes to standard output.
        edit: takes the plan as text and returns the edited text; `None` is as said above.

    Attributes:
        hold: makes a context that lasts as long as a conversation: whatever else draws on the terminal keeps
            off it meanwhile.
    """

    def __init__(
        self,
        ask: Callable[[str], str] | None = None,
        show: Callable[[str], Any] | None = None,
        edit: Callable[[str], str] | None = None,
    ) -> None:
        self._ask = ask
        self._show = show or _write
        self._edit = edit
        self.hold: Callable[[], contextlib.AbstractContextManager[None]] = contextlib.nullcontext
        self._requests: dict[str, ApprovalRequest] = {}

    def create_approval_request(
        self,
        *,
        run_id: str,
        step_id: str,
        checkpoint_type: str,
        context_snapshot: dict[str, Any],
        message: str,
        options: list[str],
    ) -> ApprovalRequest:
        """Put a question; it is asked once it is waited for. See `ApprovalRequest` for the arguments."""
        request = ApprovalRequest(run_id, step_id, checkpoint_type, context_snapshot, message, list(options))
        self._requests[request.id] = request
        return request

    async def wait_for_approval_async(
        self, request_id: str, timeout_seconds: float | None = None
    ) -> ApprovalResult:
        """Ask until one of the options is answered. The loop goes on meanwhile.

        Args:
            request_id: the `id` of the question.
            timeout_seconds: how long to wait; `None` waits for ever.

        Raises:
            ConfigurationError: no question has that id.
            TimeoutError: nobody answered in time.
            EOFError: standard input is closed.
        """
        request = self._take(request_id)
        loop = asyncio.get_running_loop()
        answered: asyncio.Future[ApprovalResult] = loop.create_future()
        over = threading.Event()
        poster, context = _loop.current_poster.get(), contextvars.copy_context()

        def settle(outcome: ApprovalResult | BaseException) -> None:
            if answered.done():
                return
            if isinstance(outcome, ApprovalResult):
                answered.set_result(outcome)
            else:
                answered.set_exception(outcome)

        def converse() -> ApprovalResult:
            return self._converse(request, over.is_set)

        def listen() -> None:
            outcome: ApprovalResult | BaseException
            try:
                said = context.run(_in_waiting_thread, poster, converse)
                outcome = said or EOFError("nobody waits for the run any more, so nobody can answer")
            except BaseException as problem:
                outcome = problem
            with contextlib.suppress(RuntimeError):  # the loop may have closed meanwhile
                loop.call_soon_threadsafe(settle, outcome)

        # A daemon: a thread that sits in `input` cannot be ended and must not keep the process alive.
        threading.Thread(target=listen, name="cmbagent-approval", daemon=True).start()
        try:
            async with asyncio.timeout(timeout_seconds):
                return await answered
        except TimeoutError:
            raise _late(timeout_seconds) from None
        finally:
            over.set()

    def wait_for_approval(self, request_id: str, timeout_seconds: float | None = None) -> ApprovalResult:
        """Ask as `wait_for_approval_async` does, in the calling thread."""
        request = self._take(request_id)
        end = None if timeout_seconds is None else time.monotonic() + timeout_seconds
        try:
            return self._converse(request, lambda: end is not None and time.monotonic() >= end)
        except _GivenUp:
            raise _late(timeout_seconds) from None

    def _take(self, request_id: str) -> ApprovalRequest:
        try:
            return self._requests.pop(request_id)
        except KeyError:
            raise ConfigurationError(
                f"expected the id of an open approval request, got {request_id!r}"
            ) from None

    def answer_unless(self, request: ApprovalRequest, given_up: Callable[[], bool]) -> ApprovalResult | None:
        """Ask a question that may be answered elsewhere, too.

        Args:
            request: the question.
            given_up: asked ten times a second whether nobody waits for the answer any more.

        Returns:
            The answer; `None` once `given_up` said so.

        Raises:
            EOFError: standard input is closed.
        """
        try:
            return self._converse(request, given_up)
        except _GivenUp:
            return None

    def _converse(self, request: ApprovalRequest, given_up: Callable[[], bool]) -> ApprovalResult:
        ask = self._ask or (lambda prompt: read_line(prompt, given_up))
        with _terminal(given_up), self.hold():
            self._show(describe(request))
            while True:
                word = self._choose(request, ask)
                changes = self._change(request, ask) if word == "modify" else None
                said = None
                # Beside approval, going on is a wish for more.
                if word != ("approve" if "approve" in request.options else "continue"):
                    said = ask("your words (empty for none) > ")
                try:
                    return request.accept(word, said, changes)
                except ConfigurationError as error:
                    self._show(f"{error}\n")

    def _choose(self, request: ApprovalRequest, ask: Callable[[str], str]) -> str:
        while True:
            said = ask(f"{' / '.join(request.options)} > ").strip().lower()
            fits = [each for each in request.options if said and each.lower().startswith(said)]
            if len(fits) == 1:
                return fits[0]
            try:
                return option_of(said, request.options)
            except ConfigurationError:
                self._show(f"Please answer with one of: {', '.join(request.options)}\n")

    def _change(self, request: ApprovalRequest, ask: Callable[[str], str]) -> dict[str, Any] | None:
        if request.plan:
            steps = self._change_plan(request.plan, ask)
            if steps == request.plan:
                self._show("The plan stays as it is.\n")
                return None
            self._show(f"The plan is now:\n{plans.table(steps, _width())}\n")
            return {"plan": steps}
        if ideas := words.ideas(request):
            return self._choose_idea(ideas, ask)
        return None

    def _change_plan(self, steps: plans.Steps, ask: Callable[[str], str]) -> plans.Steps:
        edit = self._edit
        # With lines read by the caller's function there is no terminal for an editor.
        if edit is None and self._ask is None and (command := editor_command()):
            edit = lambda text: edit_in_editor(text, command)  # noqa: E731
        if edit is None:
            return self._change_by_line(steps, ask)
        text = plans.to_text(steps)
        while True:
            try:
                text = edit(text)
                return plans.from_text(text) if text.strip() else steps
            except ConfigurationError as error:
                self._show(f"{error}\n")
            if ask("edit again? (yes / no: the plan stays as it is) > ").strip().lower().startswith("n"):
                return steps

    def _change_by_line(self, steps: plans.Steps, ask: Callable[[str], str]) -> plans.Steps:
        self._show(
            f"Change the plan line by line; an empty line ends.\n{plans.to_text(steps)}\n"
            "  2. engineer: new task   replaces the task of step 2, or adds a step at the end\n"
            "  - point                 adds a point to the step touched last\n"
            "  clear 2, delete 2       removes the points of step 2, or the step\n"
            "  [{...}]                 JSON replaces the whole plan\n"
        )
        edited, at = steps, len(steps) - 1
        while True:
            line = ask("plan > ")
            try:
                if not line.strip():
                    return plans.checked(edited)
                edited, at = plans.edit_line(edited, line, at)
            except ConfigurationError as error:
                self._show(f"{error}\n")

    def _choose_idea(self, ideas: list[Any], ask: Callable[[str], str]) -> dict[str, Any] | None:
        while True:
            said = ask(
                f"which idea, 1 to {len(ideas)}, or one in your own words (empty: as selected) > "
            ).strip()
            if not said:
                return None
            if not said.lstrip("-").isdigit():
                return {"selected_idea": said}
            if 1 <= int(said) <= len(ideas):
                return {"selected_idea": ideas[int(said) - 1]}
            self._show(f"Please answer with a number from 1 to {len(ideas)}.\n")


def describe(request: ApprovalRequest) -> str:
    """Return a question as text: message, plan or ideas, what was spent, what may come."""
    message = words.message(request)
    parts = [message]
    if request.plan:
        parts.append(plans.table(request.plan, _width()))
    parts += [f"  {number}. {_idea(idea)}" for number, idea in enumerate(words.ideas(request), 1)]
    selected = request.context_snapshot.get("selected_idea")
    if isinstance(selected, dict) and selected.get("title"):
        parts.append(f"Selected so far: {selected['title']}")
    for name in ("summary", "error"):
        text = request.context_snapshot.get(name)
        if isinstance(text, str) and text.strip() and text.strip() not in message:
            parts.append(f"{name.capitalize()}:\n{text.strip()}")
    return "\n" + _CONTROL.sub("", "\n".join([*parts, *words.money(request)])) + "\n"


def _idea(idea: Any) -> str:
    if not isinstance(idea, dict):
        return str(idea)
    text = f"{idea.get('title', '')}\n{idea.get('description') or ''}".strip()
    return text.replace("\n", "\n     ")


# What a model wrote may not steer the terminal.
_CONTROL = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]|[\x00-\x08\x0b-\x1f\x7f]")


def read_line(prompt: str, given_up: Callable[[], bool]) -> str:
    """Read a line from whoever sits there.

    At a terminal the reading ends when nobody waits for it any more: a reader left behind would take the
    next question's answer. Elsewhere (a notebook, Windows) `input` reads.

    Args:
        prompt: shown before.
        given_up: tells whether nobody waits any more.

    Raises:
        EOFError: the input has ended.
    """
    if given_up():
        raise _GivenUp
    if running_kernel() is not None or not _selectable():
        return input(prompt)
    import select

    _write(prompt)
    while not select.select([sys.stdin], [], [], _SLICE_SECONDS)[0]:
        if given_up():
            _write("\n")
            raise _GivenUp
    line = sys.stdin.readline()
    if not line:
        raise EOFError("standard input has ended, so nobody can answer")
    return line.rstrip("\n")


def running_kernel() -> Any:
    """Return the Jupyter kernel this process is, or `None`."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None and hasattr(ipython, "get_ipython") else None
    return getattr(shell, "kernel", None)


def _in_waiting_thread(
    poster: _loop.Poster | None, call: Callable[[], ApprovalResult]
) -> ApprovalResult | None:
    # A notebook takes input in the thread of its cell only. That thread waits for the run, or for a helper
    # that does.
    if poster is None:
        return call()
    return poster.ask(lambda: _in_waiting_thread(_loop.current_poster.get(), call), None)


class _GivenUp(Exception):
    """Nobody waits for the answer any more."""


@contextlib.contextmanager
def _terminal(given_up: Callable[[], bool]) -> Iterator[None]:
    while not _TERMINAL.acquire(timeout=_SLICE_SECONDS):
        if given_up():
            raise _GivenUp
    try:
        yield
    finally:
        _TERMINAL.release()


def _selectable() -> bool:
    try:
        return sys.platform != "win32" and sys.stdin.isatty()
    except (AttributeError, ValueError):
        return False


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def _width() -> int:
    return min(120, max(60, shutil.get_terminal_size((100, 24)).columns))


def _late(seconds: float | None) -> TimeoutError:
    return TimeoutError(f"nobody answered within {seconds} s")
