"""How workflows, results and contexts look in a notebook: HTML, and Mermaid for the graph of the phases."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cmbagent import _html
from cmbagent.approvals import words
from cmbagent.display import seconds_text

if TYPE_CHECKING:
    from cmbagent.approvals.request import ApprovalRequest
    from cmbagent.phases.base import PhaseContext, PhaseResult
    from cmbagent.phases.context import WorkflowContext
    from cmbagent.workflows.composer import WorkflowDefinition

# Settings that say something at a glance, in the order in which they are shown.
_SETTINGS = ("agent", "max_plan_steps", "n_plan_reviews", "checkpoint_type", "model", "max_rounds")
_FILES = 200


def workflow_html(workflow: WorkflowDefinition) -> str:
    """The phases of a workflow as a chain, and the settings of each."""
    phases = [each for each in workflow.phases if isinstance(each, Mapping)]
    boxes = [(_phase_title(each), _phase_note(each)) for each in phases]
    rows = [
        (str(number), _html.text(each.get("type")), _settings_html(each))
        for number, each in enumerate(phases, 1)
    ]
    return _html.block(
        f"Workflow: {workflow.name}",
        _html.line(_html.text(workflow.id), f"version {_html.text(workflow.version)}"),
        _html.paragraph(workflow.description),
        _html.chain(boxes),
        _html.details("Settings", _html.table(("", "phase", "settings"), rows)),
    )


def workflow_markdown(workflow: WorkflowDefinition) -> str:
    """A workflow as Markdown with a Mermaid graph of its phases."""
    phases = [each for each in workflow.phases if isinstance(each, Mapping)]
    lines = ["```mermaid", "flowchart LR"]
    for number, each in enumerate(phases, 1):
        note = _phase_note(each)
        label = _mermaid(_phase_title(each)) + (f"<br/>{_mermaid(note)}" if note else "")
        lines.append(f'    p{number}["{label}"]')
    lines += [f"    p{number} --> p{number + 1}" for number in range(1, len(phases))]
    lines.append("```")
    head = f"**{_markdown(workflow.name)}** ({_markdown(workflow.id)})"
    return "\n\n".join([head, *filter(None, [_markdown(workflow.description)]), "\n".join(lines)])


def result_html(result: PhaseResult) -> str:
    """How a phase ended: time, plan, steps, costs, files."""
    output = result.output_data if isinstance(result.output_data, Mapping) else {}
    shared = output.get("shared")
    shared = shared if isinstance(shared, Mapping) else {}
    steps = output.get("step_results")
    plan = _plan_in(shared.get("plan_steps"), output.get("final_plan"))
    if plan is None and isinstance(steps, list):
        # The plan that was carried out is an earlier phase's.
        plan = _given_plan(result.context)
    timing = result.timing if isinstance(result.timing, Mapping) else {}
    count = len(result.chat_history or [])
    root = result.context.work_dir
    return _html.block(
        f"Phase: {result.context.phase_id}",
        _html.line(
            _html.status(_word(result.status)),
            _seconds(timing.get("total")),
            f"{count} message{'' if count == 1 else 's'}" if count else "",
        ),
        _html.paragraph(result.error),
        _html.details("Plan and steps", _plan_html(plan, steps, output.get("step_summaries")), opened=True),
        _html.details("Costs", _costs_html({"": output})),
        _files_html(output.get("output_files"), root),
    )


def _given_plan(context: PhaseContext) -> Any:
    given = context.input_data if isinstance(context.input_data, Mapping) else {}
    shared = context.shared_state if isinstance(context.shared_state, Mapping) else {}
    return _plan_in(given.get("final_plan"), shared.get("plan_steps"))


def _plan_in(*places: Any) -> Any:
    # A user's values may be arrays, which are neither true nor false.
    return next((each for each in places if isinstance(each, list | str) and each), None)


def outcome_html(result: Mapping[str, Any]) -> str:
    """What a function that runs a workflow has made: status, plan, steps, costs, files."""
    ended = result.get("final_context")
    ended = ended if isinstance(ended, Mapping) else {}
    # The interactive functions give the whole context of the workflow.
    found = {**ended, **result}
    status, messages, root = _word(result.get("status")), result.get("chat_history"), found.get("work_dir")
    count = len(messages) if isinstance(messages, list) else 0
    timings = found.get("phase_timings")
    metadata = ended.get("metadata")
    return _html.block(
        f"Result of {found.get('workflow_id') or 'a run'}",
        _html.line(
            _html.status(status) if status else "",
            _seconds(timings.get("total") if isinstance(timings, Mapping) else None),
            f"{count} message{'' if count == 1 else 's'}" if count else "",
        ),
        _html.paragraph(result.get("error")),
        _html.details(
            "Plan and steps",
            _plan_html(found.get("plan"), found.get("step_results"), found.get("step_summaries")),
            opened=True,
        ),
        _html.details("Costs", _costs_html(metadata if isinstance(metadata, Mapping) else {"": found})),
        _files_html(found.get("output_files"), str(root)),
        _html.line(_html.text(f"Work directory: {root}")) if root else "",
        _html.line(_html.text(f"Items: {', '.join(map(str, result))}")),
    )


def context_html(context: WorkflowContext) -> str:
    """What a run has made: plan, steps, costs, times, files."""
    timings = context.phase_timings if isinstance(context.phase_timings, Mapping) else {}
    total = timings.get("total")
    rows = [(_html.text(name), _seconds(value)) for name, value in timings.items() if name != "total"]
    reached = f"step {context.current_step} of {context.total_steps}" if context.total_steps else ""
    metadata = context.metadata if isinstance(context.metadata, Mapping) else {}
    approvals = [
        (_html.text(each.get("phase_id")), _html.text(each.get("approval_status")),
         _html.text(each.get("user_feedback")))
        for each in context.approvals if isinstance(each, Mapping)
    ]  # fmt: skip
    return _html.block(
        f"Run of {context.workflow_id}",
        _html.line(_html.text(f"run {context.run_id}"), _html.text(reached), _seconds(total)),
        _html.paragraph(context.task),
        _html.details(
            "Plan and steps",
            _plan_html(context.plan, context.step_results, context.step_summaries),
            opened=True,
        ),
        _html.details("Decisions", _html.table(("phase", "decision", "feedback"), approvals)),
        _html.details("Costs", _costs_html(metadata)),
        _html.details("Times", _html.table(("phase", "time"), rows)),
        _files_html(context.output_files, context.work_dir),
        _html.line(_html.text(f"Work directory: {context.work_dir}")),
    )


def request_html(request: ApprovalRequest) -> str:
    """A question to a human: what to decide upon, what was spent, what counts as an answer."""
    titles = [each.get("title", each) if isinstance(each, Mapping) else each for each in words.ideas(request)]
    summary = request.context_snapshot.get("summary")
    return _html.block(
        f"Question: {request.checkpoint_type.replace('_', ' ')}",
        _html.line(_html.text(request.step_id), _html.text(f"id {request.id}")),
        _html.paragraph(words.message(request)),
        _html.details("Plan", _plan_html(request.plan, None, None), opened=True),
        _html.table(("", "idea"), [(str(n), _html.text(each)) for n, each in enumerate(titles, 1)]),
        _html.details("Summary", _html.told(summary)),
        _html.paragraph("\n".join(words.money(request))),
        _html.paragraph(f"Answers: {', '.join(request.options)}"),
    )


def _phase_title(phase: Mapping[str, Any]) -> str:
    return str(phase.get("type") or "?").replace("_", " ")


def _phase_note(phase: Mapping[str, Any]) -> str:
    config = phase.get("config")
    config = config if isinstance(config, Mapping) else {}
    if config.get("enabled") is False:
        return "switched off"
    shown = [
        f"{name.replace('_', ' ')}: {config[name]}" for name in _SETTINGS if config.get(name) is not None
    ]
    return ", ".join(shown[:2])


def _settings_html(phase: Mapping[str, Any]) -> str:
    config = phase.get("config")
    # `params` may hold keys.
    shown = config.items() if isinstance(config, Mapping) else ()
    return "<br>".join(
        f"{_html.text(name)}: {_html.text(value)}" for name, value in shown if name != "params"
    )


def _plan_html(plan: Any, results: Any, summaries: Any) -> str:
    if isinstance(plan, str):
        return _html.paragraph(plan)
    steps = [each for each in plan if isinstance(each, Mapping)] if isinstance(plan, list) else []
    ended = {
        each["step"]: each for each in results or () if isinstance(each, Mapping) and "step" in each
    } if isinstance(results, list) else {}  # fmt: skip
    texts = summaries if isinstance(summaries, list) else []
    rows = []
    for number in range(1, max(len(steps), *(n for n in ended if isinstance(n, int)), 0) + 1):
        step = steps[number - 1] if number <= len(steps) else {}
        result = ended.get(number, {})
        summary = result.get("summary") or (texts[number - 1] if number <= len(texts) else "")
        bullets = step.get("bullet_points")
        listed = "".join(f"<br>• {_html.text(b)}" for b in bullets) if isinstance(bullets, list) else ""
        rows.append(
            (
                str(number),
                _html.unbroken(step.get("sub_task_agent") or result.get("agent")),
                f"{_html.text(step.get('sub_task') or result.get('sub_task'))}{listed}",
                _html.status(_step_status(result)) if result else "",
                _seconds(result.get("execution_time")),
                _html.details("read", _html.told(summary)),
            )
        )
    return _html.table(("", "agent", "task", "status", "time", "summary"), rows)


def _step_status(result: Mapping[str, Any]) -> str:
    word = result.get("status")
    if word is None and "success" in result:
        word = "completed" if result["success"] else "failed"
    return _word(word)


def _word(status: Any) -> str:
    return str(getattr(status, "value", status) or "")


def _costs_html(outputs: Mapping[Any, Any]) -> str:
    rows: list[tuple[str, ...]] = []
    total = 0.0
    for part, row in (each for name, output in outputs.items() for each in _cost_rows(str(name), output)):
        cost = row.get("Cost ($)")
        total += cost if isinstance(cost, int | float) else 0.0
        names = (_html.text(value) for value in (part, row.get("Agent"), row.get("Model")))
        counts = (_tokens(row.get(f"{kind} Tokens")) for kind in ("Prompt", "Completion"))
        rows.append((*names, *counts, _dollars(cost)))
    if len(rows) > 1:
        rows.append(("total", "", "", "", "", _dollars(total)))
    return _html.table(("", "agent", "model", "tokens in", "tokens out", "cost"), rows)


def _cost_rows(phase: str, output: Any) -> list[tuple[str, Mapping[str, Any]]]:
    """The rows of a phase's cost reports, without their totals; a phase with steps has a report a step."""
    if not isinstance(output, Mapping):
        return []
    steps = output.get("step_results")
    parts = [
        (f"{phase} step {each.get('step')}".strip(), each.get("context"))
        for each in (steps if isinstance(steps, list) else ())
        if isinstance(each, Mapping)
    ]
    ends = [(phase, output.get(name)) for name in ("planning_context", "final_context", "result")]
    return _cost_tables(parts) or _cost_tables(ends)


def _cost_tables(parts: Iterable[tuple[str, Any]]) -> list[tuple[str, Mapping[str, Any]]]:
    rows = []
    for part, ended in parts:
        found = ended.get("cost_dataframe") if isinstance(ended, Mapping) else None
        if found is not None and hasattr(found, "to_dict"):  # a DataFrame
            found = found.to_dict("records")
        if isinstance(found, list):
            rows += [(part, row) for row in found if isinstance(row, Mapping) and row.get("Agent") != "Total"]
    return rows


def _dollars(cost: Any) -> str:
    return f"${cost:.4f}" if isinstance(cost, int | float) else "no price"


def _files_html(files: Any, root: str | os.PathLike[str]) -> str:
    if not isinstance(files, Iterable) or isinstance(files, str | Mapping):
        return ""
    paths = [Path(each) for each in files if isinstance(each, str | os.PathLike)]
    below = [str(path.relative_to(root)) if path.is_relative_to(root) else str(path) for path in paths]
    listed = "<br>".join(_html.text(name) for name in below[:_FILES])
    more = f"<br>{len(below) - _FILES} more" if len(below) > _FILES else ""
    return _html.thumbnails(paths) + _html.details(f"Files ({len(paths)})", listed + more)


def _seconds(value: Any) -> str:
    return _html.unbroken(seconds_text(float(value))) if isinstance(value, int | float) else ""


def _tokens(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else ""


def _mermaid(value: str) -> str:
    # Mermaid has entities of its own: `#quot;`, and numbers.
    return "".join(each if each.isalnum() or each in " _-.,:/" else f"#{ord(each)};" for each in value)


def _markdown(value: Any) -> str:
    return "".join(f"\\{each}" if each in "\\`*_[]<>#|!$~" else each for each in str(value or ""))
