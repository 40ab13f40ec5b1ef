"""What happened in a run, as a page of text."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cmbagent._words import local_time, one_line
from cmbagent.display import seconds_text, usage_text
from cmbagent.store import RunInfo

_WIDTH = 100
_FILES = 40
"""So many files are listed."""


def page(info: RunInfo, found: dict[str, Any]) -> Iterator[str]:
    """Write a run's timeline for people, a line each."""
    kind = "imported, " if info.about.get("imported") else ""
    yield f"Run {info.id} · {one_line(info.workflow_id, 60)} · {kind}{info.status}"
    yield f"Task: {one_line(info.task, 300)}"
    yield f"Work directory: {one_line(info.work_dir, 300)}"
    lives = len(found["lives"])
    resumed = f", resumed {lives - 1} time{'s' if lives != 2 else ''}" if lives > 1 else ""
    yield f"Begun {local_time(info.created)}, last change {local_time(info.updated)}{resumed}"
    if info.owner is not None:
        yield f"Run by process {info.owner['pid']} on {info.owner['host']}"
    if info.usage:
        calls = info.usage.get("calls", 0)
        spent = f"{calls} model call{'' if calls == 1 else 's'}, {usage_text(info.usage)}"
        yield f"Spent: {spent}{_unknown(info.usage)}"
    for phase in found["phases"]:
        yield ""
        taken = f", taken up {phase['restored']} times" if phase["restored"] > 1 else ", taken up"
        parts = [
            one_line(phase["name"] or phase["type"], 60),
            str(phase["status"]) + (taken if phase["restored"] else ""),
            "" if phase["seconds"] is None else seconds_text(phase["seconds"]),
            usage_text(phase["usage"]) if (phase["usage"] or {}).get("calls") else "",
        ]
        yield " · ".join(part for part in parts if part)
        for entry in phase["entries"]:
            yield from _entry(entry, info)
        if phase["error"]:
            yield f"  error: {one_line(phase['error'], 300)}"
    yield from _rest(info, found)


def _unknown(usage: dict[str, Any]) -> str:
    calls = usage.get("unknown_calls")
    if not calls:
        return ""
    cost = usage.get("unknown_cost")
    most = "" if cost is None else f", at most ${cost:.4f} more"
    return f"; {calls} cut short, of unknown outcome{most}"


def _entry(entry: dict[str, Any], info: RunInfo) -> Iterator[str]:
    seconds = "" if entry.get("seconds") is None else f" · {seconds_text(entry['seconds'])}"
    what = entry["what"]
    if what == "step":
        head = f"  Step {entry['number']} of {entry['total']} · {entry['step_agent']} · {entry['status']}"
        yield f"{head}{seconds} · {one_line(entry['sub_task'], _WIDTH)}"
        if entry["error"]:
            yield f"    error: {one_line(entry['error'], 300)}"
    elif what == "call":
        yield f"    {entry['agent']} · {entry['model']}{seconds} · {usage_text(entry['usage'] or {})}"
    elif what == "script":
        ok = "ran" if entry["success"] else f"failed ({one_line(entry['exit'], 60)})"
        yield f"    script {_path(entry['file'], info)} · {ok}{seconds}"
        if not entry["success"] and entry["log_path"]:
            yield f"      log: {_path(entry['log_path'], info)}"
    elif what == "answer":
        words = f": {one_line(entry['feedback'], _WIDTH)}" if entry["feedback"] else ""
        yield f"    decided: {entry['resolution']}{words}"
    elif what == "repeated":
        yield f"    cut short, then done again: {entry['effect']}"
    elif what == "warning":
        yield f"    warning: {one_line(entry['message'], 300)}"


def _rest(info: RunInfo, found: dict[str, Any]) -> Iterator[str]:
    if found["files"]:
        yield from ("", f"Files ({len(found['files'])}):")
        yield from (f"  {_path(path, info)}" for path in found["files"][:_FILES])
        if len(found["files"]) > _FILES:
            yield f"  … and {len(found['files']) - _FILES} more"
    if found["unfinished"]:
        yield from ("", "Running now:" if info.owner is not None else "Cut short:")
        for each in found["unfinished"]:
            agent = f" of {each['agent']} ({each['model']})" if each["agent"] else ""
            step = f", step {each['step']}" if each["step"] else ""
            yield f"  a {each['what']}{agent}{step}, since {local_time(each['at'])}"
    if found["error"] and info.status != "completed":
        yield from ("", f"Why it ended: {one_line(found['error'], 1000)}")
    for each in found["questions"]:
        question = each["question"]
        yield from ("", f"Asked {local_time(each['asked'])}: {one_line(question.get('message'), 300)}")
        yield f"  question {each['id']}, answers: {', '.join(question.get('options') or [])}"
        yield f"  To answer: cmbagent approve {info.id}, reject, or answer {info.id} OPTION"
    if info.resumable:
        yield from ("", f"To go on: cmbagent resume {info.id}")


def _path(path: Any, info: RunInfo) -> str:
    text = str(path)
    roots = (info.work_dir, str(info.about.get("exported_from") or ""))
    for root in roots:
        if root and Path(text).is_relative_to(root):
            text = str(Path(text).relative_to(root))
            break
    return one_line(text, 200)
