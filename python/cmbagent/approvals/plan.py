"""Plans as text that a human edits, and back."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from cmbagent.errors import ConfigurationError

AGENTS = ("engineer", "researcher", "idea_maker", "idea_hater", "camb_context", "classy_context")
"""The agents a step may be given to."""

Steps = list[dict[str, Any]]

# The engine reads the same names.
_HOLDERS = ("sub_tasks", "steps", "plan", "final_plan")
_TITLES = ("sub_task", "subtask", "sub-task", "task", "title", "description")
_DOERS = ("sub_task_agent", "agent", "agent_in_charge", "agent in charge")
_BULLETS = ("bullet_points", "bullets", "instructions")

_STEP = re.compile(r"\s{0,4}(\d+)[.)]\s*([A-Za-z][\w -]*?)\s*:\s*(\S.*)")
_BULLET = re.compile(r"\s{0,4}[-*•]\s+(.*)")
_INDENT = " " * 5

FORM = "a step as `1. engineer: what to do`, below it its points as `   - point`"
"""How a plan is written, for messages."""


def checked(plan: Any) -> Steps:
    """Return a plan's steps with `sub_task`, `sub_task_agent` and `bullet_points`.

    Args:
        plan: a list of steps, a mapping that holds one under `sub_tasks`, or JSON of either.

    Raises:
        ConfigurationError: it has no step, or one lacks its task or names an agent that there is not.
    """
    if isinstance(plan, str):
        try:
            plan = json.loads(plan)
        except ValueError as error:
            raise ConfigurationError(f"the plan is no JSON: {error}") from error
    if isinstance(plan, Mapping):
        plan = next((plan[k] for k in _HOLDERS if isinstance(plan.get(k), (list, Mapping))), None)
        if isinstance(plan, Mapping):
            return checked(plan)
    if not isinstance(plan, (list, tuple)) or not plan:
        raise ConfigurationError(
            "the plan has no steps; expected a list of steps, each with sub_task, sub_task_agent and "
            "bullet_points"
        )
    return [_step(number, step) for number, step in enumerate(plan, 1)]


def _step(number: int, step: Any) -> dict[str, Any]:
    if not isinstance(step, Mapping):
        raise ConfigurationError(f"step {number} of the plan must be a mapping, not {type(step).__name__}")

    def text(names: tuple[str, ...]) -> str:
        found = (step[n] for n in names if isinstance(step.get(n), str) and step[n].strip())
        value = next(found, None)
        if value is None:
            raise ConfigurationError(f"step {number} of the plan has no {names[0]!r}")
        return str(value)

    title = text(_TITLES)
    agent = re.sub(r"[\s-]+", "_", text(_DOERS).strip().lower())
    if agent not in AGENTS:
        raise ConfigurationError(
            f"step {number} of the plan names the agent {agent!r}; there are {', '.join(AGENTS)}"
        )
    points = next((step[n] for n in _BULLETS if n in step), None) or []
    if isinstance(points, str):
        points = [m[1] if (m := _BULLET.fullmatch(line)) else line.strip() for line in points.splitlines()]
    if not isinstance(points, (list, tuple)) or not all(isinstance(p, str) for p in points):
        raise ConfigurationError(f"the bullet_points of step {number} must be a list of texts")
    return {"sub_task": title, "sub_task_agent": agent, "bullet_points": [p for p in points if p.strip()]}


def to_text(steps: Steps) -> str:
    """Return a plan as text that `from_text` reads back as it was."""
    lines: list[str] = []
    for number, step in enumerate(steps, 1):
        head, *more = step["sub_task"].strip().split("\n")
        lines += [f"{number}. {step['sub_task_agent']}: {head}", *(_INDENT + line for line in more)]
        for point in step.get("bullet_points") or []:
            head, *more = point.strip().split("\n")
            lines += [f"   - {head}", *(_INDENT + line for line in more)]
        lines.append("")
    return "\n".join(lines)


def from_text(text: str) -> Steps:
    """Read a plan that a human wrote: in the form of `to_text`, or as JSON.

    Args:
        text: the plan. Lines that start with `#` are left out; the numbers of the steps do not matter,
            only their order.

    Raises:
        ConfigurationError: a line cannot be read, or the plan cannot be carried out.
    """
    if text.lstrip().startswith(("[", "{")):
        return checked(text)
    steps: Steps = []
    blanks = 0
    for number, line in enumerate(text.splitlines(), 1):
        if line.startswith("#"):
            continue
        if not line.strip():
            blanks += 1
            continue
        if line.startswith(_INDENT) and steps:
            _extend(steps[-1], "\n" * (blanks + 1) + line[len(_INDENT) :])
        elif (match := _STEP.fullmatch(line)) is not None:
            steps.append({"sub_task": match[3], "sub_task_agent": match[2], "bullet_points": []})
        elif (match := _BULLET.fullmatch(line)) is not None and steps:
            steps[-1]["bullet_points"].append(match[1])
        else:
            raise ConfigurationError(f"line {number} of the plan cannot be read; expected {FORM}")
        blanks = 0
    return checked(steps)


def _extend(step: dict[str, Any], text: str) -> None:
    if step["bullet_points"]:
        step["bullet_points"][-1] += text
    else:
        step["sub_task"] += text


def edit_line(steps: Steps, line: str, at: int) -> tuple[Steps, int]:
    """Apply one line of an edit to a plan.

    Args:
        steps: the plan; it is not changed.
        line: `2. agent: task` replaces the task of step 2 or adds a step at the end, `- point` adds a point
            to the step touched last, `clear 2` removes the points of step 2, `delete 2` removes the step,
            JSON replaces the plan.
        at: the index of the step touched last.

    Returns:
        The new plan, not yet checked as a whole, and the index of the step touched.

    Raises:
        ConfigurationError: the line is none of these, or there is no such step.
    """
    if line.lstrip().startswith(("[", "{")):
        return checked(line), 0
    new = [{**step, "bullet_points": list(step["bullet_points"])} for step in steps]
    if (match := _BULLET.fullmatch(line)) is not None and new:
        new[at]["bullet_points"].append(match[1])
        return new, at
    if (match := re.fullmatch(r"\s*(clear|delete)\s+(\d+)\s*", line)) is not None:
        index = _index(match[2], len(new))
        if match[1] == "clear":
            new[index]["bullet_points"] = []
        else:
            del new[index]
        return new, max(0, min(index, len(new) - 1))
    if (match := _STEP.fullmatch(line)) is not None:
        index = _index(match[1], len(new) + 1)
        if index == len(new):
            new.append({"bullet_points": []})
        new[index].update(sub_task=match[3], sub_task_agent=match[2])
        new[index] = _step(index + 1, new[index])
        return new, index
    raise ConfigurationError(
        "the line cannot be read; expected `2. agent: task`, `- point`, `clear 2`, `delete 2` or JSON"
    )


def _index(number: str, count: int) -> int:
    if not 1 <= int(number) <= count:
        raise ConfigurationError(f"there is no step {number}: expected a number from 1 to {count}")
    return int(number) - 1


def table(steps: Steps, width: int = 100) -> str:
    """Return a plan as a table for a terminal.

    Args:
        steps: the plan.
        width: how wide the table may be, in columns.
    """
    import textwrap

    agents = max([len("Agent"), *(len(step["sub_task_agent"]) for step in steps)])
    room = max(20, width - agents - 10)
    rule = f"  {'─' * 3}┼{'─' * (agents + 2)}┼{'─' * (room + 1)}"
    lines = [f"  {'#':>2} │ {'Agent':<{agents}} │ Step"]
    for number, step in enumerate(steps, 1):
        cells = textwrap.wrap(step["sub_task"], room) or [""]
        for point in step.get("bullet_points") or []:
            cells += textwrap.wrap(point, room, initial_indent="- ", subsequent_indent="  ")
        lines.append(rule)
        for row, cell in enumerate(cells):
            first = (str(number), step["sub_task_agent"]) if row == 0 else ("", "")
            lines.append(f"  {first[0]:>2} │ {first[1]:<{agents}} │ {cell}")
    return "\n".join(lines)
