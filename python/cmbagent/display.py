"""What a run shows while it works: one short block of text an event.

In a terminal there are colours (unless ``NO_COLOR`` is set) and a status line while a model answers; in a
pipe or a log the same lines come as plain text, and a notebook adds progress and plots. Neither keys nor
prompts are shown.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import sys
import time
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from cmbagent._words import dollars

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

CODE_LINES = 12
"""Lines of a script that are shown before its path."""

OUTPUT_LINES = 400
"""Lines of a script's output that are shown as they come; of the rest only the end is shown."""

TAIL_LINES = 20
"""Lines from the end of an output that was too long to be shown: that is where results and errors stand."""

EFFECTS = {"call": "a model call", "execute": "a script", "ask": "a question", "observe": "a look around"}
"""What is done again in a resumed run, in words."""

# Directories of scripts and of what is kept about them; scripts were named when they started.
_BESIDE = ("codebase", "attempts", "logs")
_STATUS_SECONDS = 0.1
_TICK_SECONDS = 1.0
_CONTROL = re.compile(
    r"\x1b\[[0-9;?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)|[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]"
)
_FILENAME = re.compile(r"\A# filename:.*\n")
_STYLES = {"bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33", "cyan": "36"}


on_terminal: ContextVar[Callable[[], Display] | None] = ContextVar("on_terminal", default=None)
"""What makes the display of a run outside notebooks, where a program such as the command has its own."""


def make_display(verbose: bool | None = None) -> Display | None:
    """The display of a run, or ``None`` when nothing is to be shown.

    Args:
        verbose: ``False`` shows nothing; ``True`` shows everything; ``None`` shows everything unless the
            environment variable ``CMBAGENT_QUIET`` is set to something other than ``0``.
    """
    quiet = os.environ.get("CMBAGENT_QUIET", "") not in ("", "0")
    if verbose is False or (verbose is None and quiet):
        return None
    from cmbagent.approvals.console import running_kernel

    kernel = running_kernel()
    publisher = getattr(getattr(kernel, "shell", None), "display_pub", None)
    if publisher is None:
        own = on_terminal.get()
        return Display() if own is None else own()
    from cmbagent._notebook import NotebookDisplay

    return NotebookDisplay(publisher)


def seconds_text(seconds: float) -> str:
    """A duration for people: ``0.42 s``, ``12.3 s``, ``4 min 05 s``, ``2 h 03 min``."""
    if seconds < 10:
        return f"{seconds:.2f} s"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def usage_text(usage: dict[str, Any], *, name_unpriced: bool = True) -> str:
    """Tokens and dollars: ``1,234 + 567 tokens, $0.0123``.

    Args:
        usage: The ``usage`` of an event.
        name_unpriced: Name the models that have no price; their tokens are not in the dollars.
    """
    parts = [f"{usage.get('prompt_tokens', 0):,} + {usage.get('completion_tokens', 0):,} tokens"]
    unpriced = [str(each) for each in usage.get("unpriced_models") or []]
    cost = usage.get("cost")
    if cost is not None and (cost > 0 or not unpriced):
        parts.append(dollars(cost))
    if unpriced and name_unpriced:
        parts.append("unpriced: " + ", ".join(unpriced))
    return ", ".join(parts)


class Display:
    """Writes a run's events as text.

    Args:
        stream: Where to; ``None`` is ``sys.stdout`` as it is at each event, so that notebooks and
            redirections work.
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream
        self._root = ""
        self._partial = ""
        self._lines_shown = 0
        self._lines_hidden = 0
        self._streamed = 0
        self._status_at = 0.0
        self._status = False
        self._codes_shown: set[str] = set()
        self._files_shown: set[str] = set()
        self._reason = ""
        self._in_run = False
        self._held = ""
        self._doing = ""
        self._since = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def event(self, kind: str, data: dict[str, Any]) -> None:
        """Shows one event; kinds that have nothing to show are passed over.

        Args:
            kind: The kind of event, such as ``step_started``.
            data: Its fields, as ``docs/events.md`` lists them.
        """
        show = getattr(self, f"_on_{kind}", None)
        text = show(data) if show else None
        if self._held and kind not in ("phase_finished", "run_finished"):
            text = "\n".join(filter(None, (self._held, text)))
            self._held = ""
        if text:
            self._write(text + "\n")

    def hold(self) -> contextlib.AbstractContextManager[None]:
        """Leave the terminal to a conversation, for as long as the returned context lasts."""
        return contextlib.nullcontext()

    def close(self) -> None:
        """End what changes in place, such as a status line."""
        self._end()

    # --- writing ---

    def _out(self) -> TextIO:
        return self._stream if self._stream is not None else sys.stdout

    def _terminal(self) -> bool:
        try:
            return self._out().isatty() and os.environ.get("TERM") != "dumb"
        except (AttributeError, ValueError):
            return False

    def _style(self, text: str, *names: str) -> str:
        if not text or os.environ.get("NO_COLOR") or not self._terminal():
            return text
        return f"\x1b[{';'.join(_STYLES[name] for name in names)}m{text}\x1b[0m"

    def _write(self, text: str) -> None:
        out = self._out()
        if self._status:
            text = "\r\x1b[K" + text
            self._status = False
        try:
            out.write(text)
            out.flush()
        except UnicodeEncodeError:
            encoding = getattr(out, "encoding", None) or "ascii"
            out.write(text.encode(encoding, "replace").decode(encoding))
            out.flush()
        except (BrokenPipeError, ValueError):
            # Whoever read us has gone; the run goes on without an audience.
            self.event = self._nothing  # type: ignore[method-assign]

    def _nothing(self, kind: str, data: dict[str, Any]) -> None:
        pass

    def _show_status(self, text: str) -> None:
        """A line that the next write replaces; on terminals only, and not more often than the eye follows."""
        now = time.monotonic()
        if not self._terminal() or now - self._status_at < _STATUS_SECONDS:
            return
        self._status_at = now
        columns = shutil.get_terminal_size().columns
        self._write(self._style(_clean(text)[: columns - 1], "dim"))
        self._status = True

    def _begin(self, doing: str) -> None:
        """Something begins that may be silent for long: the status line counts the seconds."""
        self._doing, self._since = doing, time.monotonic()
        self._show_status(doing)
        self._schedule()

    def _end(self) -> None:
        self._doing = ""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _schedule(self) -> None:
        if self._timer is not None or not self._terminal():
            return
        import asyncio

        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            return
        self._timer = loop.call_later(_TICK_SECONDS, self._tick)

    def _tick(self) -> None:
        self._timer = None
        if self._doing:
            seconds = time.monotonic() - self._since
            lasted = f"{int(seconds)} s" if seconds < 60 else seconds_text(seconds)
            doing = f"    {self._partial}" if self._partial.strip() else self._doing
            self._show_status(f"{doing} · {lasted}")
            self._schedule()

    def _path(self, path: Any) -> str:
        """A path relative to the work directory where it lies below it."""
        text = str(path)
        if self._root:
            try:
                return str(Path(text).relative_to(self._root))
            except ValueError:
                return text
        return text

    # --- the run and its phases ---

    def _on_run_started(self, data: dict[str, Any]) -> str:
        self._root = str(data.get("work_dir") or "")
        self._in_run = True
        phases = " → ".join(data.get("phases") or [])
        head = self._style(str(data.get("workflow_name") or data.get("workflow_id") or "Run"), "bold")
        return f"{head} · {phases} · run {data.get('run_id', '')}\nWork directory: {self._root}"

    def _on_run_finished(self, data: dict[str, Any]) -> str:
        status = str(data.get("status", "")).replace("_", " ")
        usage = data.get("usage") or {}
        calls = usage.get("calls", 0)
        colour = "green" if status == "completed" else "red" if status == "failed" else "yellow"
        line = self._style(status.capitalize(), colour, "bold")
        line += f" in {seconds_text(data.get('seconds') or 0.0)}: "
        line += f"{calls} model call{'' if calls == 1 else 's'}, {usage_text(usage)}"
        error = _clean(str(data.get("error") or ""))
        if status == "cancelled" and error == "CancelledError":
            error = ""
        # That the phase failed, too, is no news when the run was told to end; else it need not be said again.
        head = self._held if status == "failed" else ""
        if error and not (head and self._reason and self._reason in error):
            line += "\n" + self._style(error, colour)
        self._held, self._in_run = "", False
        self._end()
        # A run that failed early may have made nothing.
        results = f"\nResults: {self._root}" if status == "completed" or Path(self._root).is_dir() else ""
        return f"{head}\n\n{line}{results}" if head else f"\n{line}{results}"

    def _on_run_resumed(self, data: dict[str, Any]) -> str:
        words = self._style("Resumed: what is finished is not repeated", "dim")
        return f"{self._on_run_started(data)}\n{words}"

    def _on_phase_restored(self, data: dict[str, Any]) -> str:
        text = self._style(f"\n{data.get('display_name') or data.get('phase')}: taken up as it was", "dim")
        lost = ", ".join(_clean(str(path)) for path in data.get("lost") or [])
        if lost:
            text += "\n" + self._style(f"  without what could not be kept: {lost}", "yellow")
        return text

    def _on_effect_repeated(self, data: dict[str, Any]) -> str:
        what = EFFECTS.get(str(data.get("effect")), str(data.get("effect")))
        text = f"  cut short before, now again: {what}"
        return self._style(text + (" (it has changed since)" if data.get("changed") else ""), "yellow")

    def _on_run_paused(self, data: dict[str, Any]) -> str:
        self._end()
        return self._style("  paused", "yellow")

    def _on_run_continued(self, data: dict[str, Any]) -> str:
        return self._style("  continued", "dim")

    def _on_phase_started(self, data: dict[str, Any]) -> str:
        return "\n" + self._style(f"{data.get('display_name') or data.get('phase')}", "bold", "cyan")

    def _on_phase_skipped(self, data: dict[str, Any]) -> str:
        return self._style(f"\n{data.get('display_name') or data.get('phase')}: skipped", "dim")

    def _on_phase_finished(self, data: dict[str, Any]) -> str | None:
        self._end()
        if data.get("status") in ("completed", "cancelled"):
            return None
        self._reason = _clean(str(data.get("error") or ""))
        text = f"{data.get('phase')} {data.get('status')}: {self._reason or 'no reason given'}"
        shown = self._style(text, "red" if data.get("status") == "failed" else "yellow")
        if not self._in_run:
            return shown
        # How the run ends decides whether this is worth a line.
        self._held = shown
        return None

    def _on_plan_ready(self, data: dict[str, Any]) -> str:
        lines = [f"  Plan, made in {seconds_text(data.get('seconds') or 0.0)}:"]
        for number, each in enumerate(data.get("steps") or [], 1):
            agent = self._style(str(each.get("sub_task_agent", "")), "cyan")
            lines.append(f"  {number}. {agent}: {_clean(str(each.get('sub_task', '')))}")
            lines += [f"       - {_clean(str(bullet))}" for bullet in each.get("bullet_points") or []]
        if data.get("path"):
            self._files_shown.add(str(data["path"]))
            lines.append(f"  → {self._path(data['path'])}")
        return "\n".join(lines)

    def _on_step_started(self, data: dict[str, Any]) -> str:
        head = self._style(f"Step {data.get('number')} of {data.get('total')}", "bold")
        agent = self._style(str(data.get("step_agent", "")), "cyan")
        return f"\n{head} · {agent} · {_clean(str(data.get('sub_task', '')))}"

    def _on_step_finished(self, data: dict[str, Any]) -> str:
        status = str(data.get("status", ""))
        new = [str(path) for path in data.get("files") or [] if str(path) not in self._files_shown]
        self._files_shown.update(new)
        new = [path for path in new if Path(path).parent.name not in _BESIDE]
        lines = [f"  → {self._path(path)}" for path in new]
        colour = {"completed": "green", "failed": "red"}.get(status, "yellow")
        end = f"  {self._style(status, colour)} in {seconds_text(data.get('seconds') or 0.0)}"
        if data.get("error"):
            end += ": " + _clean(str(data["error"]))
        return "\n".join([*lines, end])

    # --- models ---

    def _on_call_started(self, data: dict[str, Any]) -> None:
        self._streamed = 0
        self._begin(f"  {data.get('agent')} · {data.get('model')} · thinking …")

    def _on_call_text(self, data: dict[str, Any]) -> None:
        self._streamed += len(data.get("delta") or "")
        self._doing = f"  {data.get('agent')} · writing · {self._streamed:,} characters"
        self._show_status(self._doing)

    def _on_call_retry(self, data: dict[str, Any]) -> str:
        wait = seconds_text(data.get("wait_seconds") or 0.0)
        self._doing = f"  {data.get('agent')} · {data.get('model')} · trying again"
        text = f"  {data.get('agent')}: {_clean(str(data.get('reason')))}; trying again in {wait}"
        return self._style(text, "yellow")

    def _on_call_finished(self, data: dict[str, Any]) -> str:
        self._end()
        agent = self._style(str(data.get("agent", "")), "cyan")
        seconds = seconds_text(data.get("seconds") or 0.0)
        usage = usage_text(data.get("usage") or {}, name_unpriced=False)
        return f"  {agent} · " + self._style(f"{data.get('model')} · {seconds} · {usage}", "dim")

    # --- scripts ---

    def _on_script_started(self, data: dict[str, Any]) -> str:
        self._partial, self._lines_shown, self._lines_hidden = "", 0, 0
        file, code = str(data.get("file", "")), str(data.get("code") or "")
        self._doing, self._since = f"  running {self._path(file)}", time.monotonic()
        self._schedule()
        attempt, attempts = data.get("attempt") or 1, data.get("attempts") or 1
        limit = data.get("limit_seconds")
        notes = [f"try {attempt} of {attempts}"] if attempt > 1 else []
        notes.append(f"limit {seconds_text(limit)}" if limit else "no time limit")
        lines = [f"  running {self._style(self._path(file), 'bold')} ({', '.join(notes)})"]
        if code and code not in self._codes_shown:
            self._codes_shown.add(code)
            source = _clean(_FILENAME.sub("", code, count=1)).rstrip().split("\n")
            lines += [self._style(f"  │ {line}".rstrip(), "dim") for line in source[:CODE_LINES]]
            if len(source) > CODE_LINES:
                lines.append(
                    self._style(f"  │ … {len(source) - CODE_LINES} more lines in {self._path(file)}", "dim")
                )
        return "\n".join(lines)

    def _on_script_output(self, data: dict[str, Any]) -> str | None:
        *whole, self._partial = (
            (self._partial + str(data.get("text") or "")).replace("\r\n", "\n").split("\n")
        )
        # A progress bar rewrites its line with carriage returns; only its last state is worth showing.
        self._partial = self._partial[self._partial.rfind("\r", 0, -1) + 1 :][-10_000:]
        if not whole and self._partial:
            self._show_status(f"    {self._partial}")
        return self._output_lines(whole)

    def _output_lines(self, lines: list[str]) -> str | None:
        shown = lines[: max(0, OUTPUT_LINES - self._lines_shown)]
        self._lines_shown += len(shown)
        self._lines_hidden += len(lines) - len(shown)
        return "\n".join(self._output_line(line) for line in shown) if shown else None

    def _output_line(self, line: str) -> str:
        last_state = line.rstrip("\r").rsplit("\r", 1)[-1]
        return f"    {_clean(last_state)}".rstrip()

    def _on_script_finished(self, data: dict[str, Any]) -> str:
        self._end()
        rest = self._output_lines([self._partial]) if self._partial.strip() else None
        self._partial = ""
        lines = [rest] if rest else []
        if self._lines_hidden:
            # Chunks of a flood may be left out on the way here, so the lines are not counted.
            lines.append(f"    … all of the output is in {self._path(data.get('log_path'))}; it ends with:")
            last = str(data.get("output") or "").rstrip().split("\n")
            lines += [self._output_line(each) for each in last[-min(TAIL_LINES, self._lines_hidden) :]]
        return "\n".join([*lines, f"  {self._script_end(data)}"])

    def _script_end(self, data: dict[str, Any]) -> str:
        ok = bool(data.get("success"))
        end = f"{'ran' if ok else 'failed'} in {seconds_text(data.get('seconds') or 0.0)}"
        if not ok:
            end += f" ({data.get('exit')}); log: {self._path(data.get('log_path'))}"
        return self._style(end, "green" if ok else "red")

    # --- the rest ---

    def _on_file_written(self, data: dict[str, Any]) -> str | None:
        path = str(data.get("path", ""))
        if path in self._files_shown:
            return None
        self._files_shown.add(path)
        return f"  → {self._path(path)}"

    def _on_plots_judged(self, data: dict[str, Any]) -> str:
        lines = [f"  plots: {data['verdict']}" + (f", {data['reason']}" if data.get("reason") else "")]
        lines += [f"    {problem}" for problem in data.get("problems") or []]
        return "\n".join(map(_clean, lines))

    def _on_documentation_read(self, data: dict[str, Any]) -> str:
        return f"  documentation of {data['library']}: {data['source']}"

    def _on_approval_requested(self, data: dict[str, Any]) -> str:
        self._end()
        # The question itself is shown by the approval manager, to whoever is to answer it.
        kind = str(data.get("checkpoint_type") or "").replace("_", " ")
        return "\n" + self._style(f"Waiting for a decision: {_clean(kind)}", "yellow", "bold")

    def _on_approval_received(self, data: dict[str, Any]) -> str:
        return f"  decided: {self._style(str(data.get('resolution', '')), 'bold')}"

    def _on_set_aside(self, data: dict[str, Any]) -> str:
        what = "1 file" if data["files"] == 1 else f"{data['files']} files"
        return f"  {what} of the earlier run in this directory: set aside in {self._path(data['path'])}"

    def _on_sandbox(self, data: dict[str, Any]) -> str | None:
        # What else is not enforced stands in the event and in the report beside the scripts' logs.
        if any(what.startswith("writes outside") for what in data["enforced"]):
            return None
        return self._style("  scripts are not confined: docs/sandbox.md says what that means", "yellow")

    def _on_install_started(self, data: dict[str, Any]) -> str:
        return f"  installing {_clean(str(data['package']))} for this run"

    def _on_install_finished(self, data: dict[str, Any]) -> str | None:
        if data["success"]:
            return None
        return self._style(f"  {_clean(str(data['package']))} could not be installed", "yellow")

    def _on_templates_replaced(self, data: dict[str, Any]) -> str:
        replaced = (f"{agent} ({entry['path']})" for agent, entry in data["templates"].items())
        return f"  own prompt templates: {', '.join(replaced)}"

    def _on_warning(self, data: dict[str, Any]) -> str:
        told = self._style(f"  warning: {_clean(str(data.get('message', '')))}", "yellow")
        diff = _clean(str(data.get("diff") or ""))
        return "\n".join([told, *(self._style(f"    {line}", "dim") for line in diff.splitlines())])


def _clean(text: str) -> str:
    """Text without escape sequences and control characters: output may not steer the terminal."""
    return _CONTROL.sub("", text)
